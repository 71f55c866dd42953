"""Finishes of objects on large canvases: seams, reflections, stitches, and the textures of their materials.

Each finish is painted over the finished object, in the coordinates of its painter in ``scenes``. It fades out towards
64 px and leaves the object's mask as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from protocols.world.brush import Brush
from protocols.world.canvas import BLACK, WHITE, Field, cut, f32, rgb, union

_RED_LAMP = rgb(200, 24, 24)
_AMBER = rgb(255, 196, 70)
_STEEL = rgb(120, 124, 132)
_STRAP_EDGE = rgb(66, 38, 18)
_THREAD = rgb(226, 200, 150)
# Half the width of a seam, in units of an object's scale: about a pixel at 512 px.
_SEAM = 0.012


def _ring(shape: Field, half_width: float) -> Field:
    """The outline of a shape, in world units."""
    return np.abs(shape) - f32(half_width)


def _seams(b: Brush, *lines: tuple[float, float, float, float], alpha: float = 0.5) -> None:
    """Thin dark lines from (ax, ay) to (bx, by)."""
    b.mark(union(*(b.stroke(*line, _SEAM) for line in lines)), BLACK, alpha)


def _reflection(b: Brush, pane: Field, x: float, y: float, size: float) -> None:
    """A bright slanted streak on a pane of glass around (x, y)."""
    streak = b.polygon(
        (x - 0.1 * size, y + size), (x + 0.5 * size, y + size), (x, y - size), (x - 0.6 * size, y - size)
    )
    b.mark(cut(streak, pane), WHITE, 0.45)


def _wheel_finish(b: Brush, x: float, r: float) -> None:
    for cx in (-x, x):
        b.grain(b.circle(cx, r, r), "rubber")
        b.mark(_ring(b.circle(cx, r, r * 0.72), 0.02 * b.s), _STEEL, 0.35)
        spokes = [
            b.stroke(cx - dx * r, r - dy * r, cx + dx * r, r + dy * r, 0.014)
            for dx, dy in ((0.42, 0.0), (0.21, 0.364), (0.21, -0.364))
        ]
        b.mark(union(*spokes), BLACK, 0.7)
        b.mark(b.circle(cx, r, r * 0.12), BLACK, 0.8)


def _car(b: Brush) -> None:
    body = b.box(0, 0.48, 1.0, 0.28, 0.14)
    b.grain(union(body, b.polygon((-0.50, 1.24), (0.42, 1.24), (0.74, 0.66), (-0.76, 0.66))), "paint")
    _seams(
        b,
        (-0.62, 0.68, -0.52, 0.40),
        (0.03, 1.18, 0.03, 0.30),
        (0.58, 0.68, 0.60, 0.52),
        (-0.36, 0.27, 0.36, 0.27),
    )
    _seams(b, (-0.94, 0.60, 0.94, 0.60), alpha=0.25)
    b.mark(b.stroke(-0.90, 0.66, 0.86, 0.66, 0.02), WHITE, 0.35)
    for x in (-0.12, 0.44):
        b.mark(b.stroke(x, 0.54, x + 0.10, 0.54, 0.018), BLACK, 0.7)
    b.mark(b.circle(-b.side * 0.93, 0.52, 0.07), _RED_LAMP, 0.9)
    b.mark(_ring(b.circle(b.side * 0.88, 0.52, 0.09), _SEAM * b.s), BLACK, 0.5)
    rear = b.polygon((-0.40, 1.12), (-0.02, 1.12), (-0.02, 0.70), (-0.58, 0.70))
    front = b.polygon((0.08, 1.12), (0.34, 1.12), (0.54, 0.70), (0.08, 0.70))
    for pane, x in ((rear, -0.24), (front, 0.24)):
        b.mark(_ring(pane, 0.016 * b.s), BLACK, 0.65)
        _reflection(b, pane, x, 0.9, 0.2)
    _wheel_finish(b, 0.56, 0.25)


def _bus(b: Brush) -> None:
    b.grain(b.box(0, 0.84, 1.0, 0.66, 0.14), "paint")
    _seams(b, *((x, 0.48, x, 0.24) for x in (-0.88, -0.24, 0.0, 0.24, 0.90)), alpha=0.35)
    _seams(b, (-0.96, 1.40, 0.96, 1.40), (-0.3, 0.25, 0.3, 0.25), alpha=0.4)
    for x in (-0.66, -0.20, 0.26):
        pane = b.box(x, 1.08, 0.18, 0.22, 0.04)
        b.mark(_ring(pane, 0.018 * b.s), BLACK, 0.75)
        b.mark(cut(b.box(x, 1.17, 0.18, 0.008), pane), BLACK, 0.5)
        _reflection(b, pane, x, 1.08, 0.2)
    door = b.box(0.72, 0.88, 0.17, 0.42, 0.04)
    b.mark(_ring(door, 0.018 * b.s), BLACK, 0.75)
    b.mark(b.box(0.72, 0.88, 0.010, 0.42), BLACK, 0.75)
    _reflection(b, door, 0.72, 1.05, 0.22)
    b.mark(b.box(-0.2, 1.445, 0.36, 0.036, 0.01), BLACK, 0.85)
    b.mark(b.box(-0.2, 1.445, 0.24, 0.014), _AMBER, 0.85)
    b.mark(b.circle(0.95, 0.38, 0.045), _AMBER, 0.9)
    b.mark(b.circle(-0.95, 0.38, 0.045), _RED_LAMP, 0.9)
    _wheel_finish(b, 0.56, 0.23)


def _boat(b: Brush) -> None:
    hull = b.polygon((-1.0, 0.52), (1.0, 0.52), (0.66, 0.0), (-0.66, 0.0))
    b.grain(hull, "wood")
    for y in (0.12, 0.25):
        b.mark(cut(b.stroke(-0.9, y, 0.9, y, _SEAM), hull), BLACK, 0.5)
    for x in (-0.42, 0.0, 0.42):
        b.mark(b.circle(x, 0.325, 0.045), WHITE, 0.9)
        b.mark(b.circle(x, 0.325, 0.026), BLACK, 0.9)
    s = b.side
    sail = ((s * 0.08, 1.72), (s * 0.80, 0.64), (s * 0.08, 0.64))
    jib = ((-s * 0.08, 1.50), (-s * 0.08, 0.64), (-s * 0.58, 0.64))
    for corners in (sail, jib):
        shape = b.polygon(*(corners if s > 0 else corners[::-1]))
        b.grain(shape, "cloth")
        for y in (0.84, 1.06, 1.28):
            b.mark(cut(b.stroke(-0.8, y, 0.8, y, _SEAM), shape), BLACK, 0.28)
        b.mark(_ring(shape + f32(0.03 * b.s), 0.008 * b.s), WHITE, 0.5)
    b.grain(b.stroke(0.0, 0.45, 0.0, 1.74, 0.05), "upright wood")


def _cup(b: Brush) -> None:
    body = b.polygon((-0.66, 1.38), (0.66, 1.38), (0.50, 0.0), (-0.50, 0.0))
    b.grain(union(body, b.ellipse(b.side * 0.62, 0.78, 0.40, 0.46)), "ceramic")
    shine = np.clip(1 - np.abs(b.stroke(-0.36, 1.10, -0.29, 0.22, 0.0)) / f32(0.11 * b.s), 0, 1)
    b.gloss(shine, 0.42)
    b.mark(cut(_ring(b.ellipse(0, 1.36, 0.67, 0.15), 0.014 * b.s), b.c.below(b.py(1.36))), BLACK, 0.3)
    b.mark(cut(b.box(0, 0.055, 0.6, 0.012), body), BLACK, 0.35)
    tea = b.ellipse(0, 1.36, 0.54, 0.10)
    b.mark(_ring(tea, _SEAM * b.s), BLACK, 0.4)
    b.mark(cut(b.ellipse(0.16, 1.38, 0.22, 0.025), tea), WHITE, 0.35)


def _bottle(b: Brush) -> None:
    label = b.box(0, 0.62, 0.50, 0.24)
    b.grain(label, "paper")
    b.mark(b.circle(-0.26, 0.63, 0.12), b.color, 0.9)
    for y, half in ((0.74, 0.24), (0.64, 0.20), (0.54, 0.24)):
        b.mark(b.stroke(0.20 - half / 2, y, 0.20 + half / 2, y, 0.018), _STEEL, 0.8)
    for y in (0.86, 0.38):
        b.mark(b.box(0, y, 0.5, 0.010), BLACK, 0.35)
    b.gloss(np.clip(1 - np.abs(b.stroke(-0.36, 1.12, -0.36, 0.10, 0.0)) / f32(0.08 * b.s), 0, 1), 0.45)
    b.gloss(np.clip(1 - np.abs(b.stroke(-0.08, 1.76, -0.08, 1.40, 0.0)) / f32(0.06 * b.s), 0, 1), 0.45)
    cap = b.box(0, 1.88, 0.21, 0.12, 0.04)
    for k in range(-3, 4):
        b.mark(cut(b.box(k * 0.06, 1.88, 0.008, 0.12), cap), BLACK, 0.4)
    b.mark(b.box(0, 1.755, 0.21, 0.012), BLACK, 0.5)


def _sports_ball(b: Brush) -> None:
    ball = b.circle(0, 0.92, 0.92)
    b.grain(ball, "leather")
    for k in (-1, 1):
        for edge in (0.79, 0.93):
            b.mark(cut(_ring(b.circle(k * 1.15, 0.92, edge), _SEAM * b.s), ball), BLACK, 0.35)
    for x in (-0.07, 0.07):
        b.mark(cut(b.box(x, 0.92, _SEAM, 0.92), ball), BLACK, 0.35)
    b.mark(_ring(ball + f32(0.02 * b.s), 0.02 * b.s), BLACK, 0.25)
    b.mark(b.circle(0.38, 0.36, 0.03), BLACK, 0.7)


def _kite(b: Brush) -> None:
    left = b.polygon((0.0, 2.0), (0.0, 0.56), (-0.80, 1.38))
    right = b.polygon((0.0, 2.0), (0.80, 1.38), (0.0, 0.56))
    for half in (left, right):
        b.grain(half, "cloth")
    whole = union(left, right)
    b.mark(_ring(whole + f32(0.045 * b.s), 0.010 * b.s), WHITE, 0.55)
    for x, y in ((-0.36, 1.62), (0.36, 1.62), (-0.34, 1.06), (0.34, 1.06)):
        b.mark(cut(b.circle(x, y, 0.07), whole), WHITE, 0.5)
    b.mark(union(*(b.circle(x, 1.38, 0.05) for x in (-0.72, 0.0, 0.72))), BLACK, 0.6)


def _surfboard(b: Brush) -> None:
    lean = b.side * 0.16
    board = b.ellipse(0, 1.0, 0.44, 1.0, lean)
    b.grain(board, "paint")
    b.mark(_ring(board + f32(0.04 * b.s), 0.014 * b.s), BLACK, 0.35)
    b.mark(cut(b.ellipse(0, 1.0, 0.012, 0.98, lean), board), BLACK, 0.45)
    for y in (0.36, 0.48):
        b.mark(cut(b.box(0, y, 0.7, _SEAM), board), BLACK, 0.4)
    shine = np.clip(1 - np.abs(b.ellipse(-0.20, 1.15, 0.05, 0.62, lean)) / f32(0.07 * b.s), 0, 1)
    b.gloss(shine, 0.4)
    b.mark(cut(b.ellipse(0, 0.14, 0.05, 0.09, lean), board), BLACK, 0.7)


def _umbrella(b: Brush) -> None:
    dome = cut(b.ellipse(0, 0.90, 1.0, 0.94), b.c.above(b.py(0.90)))
    b.grain(dome, "cloth")
    for width in (0.24, 0.76):
        b.mark(cut(_ring(b.ellipse(0, 0.90, width, 0.94), _SEAM * b.s), dome), BLACK, 0.35)
    b.mark(cut(_ring(b.ellipse(0, 0.90, 1.0, 0.94) + f32(0.03 * b.s), 0.012 * b.s), dome), WHITE, 0.3)
    b.grain(b.stroke(0, 0.10, 0, 1.0, 0.055), "upright wood")
    b.mark(b.stroke(0.0, 0.90, 0.0, 0.96, 0.07), _STEEL, 0.8)


def _suitcase(b: Brush) -> None:
    body = b.box(0, 0.72, 0.90, 0.66, 0.16)
    b.grain(body, "leather")
    b.mark(_ring(body + f32(0.06 * b.s), 0.010 * b.s), BLACK, 0.4)
    _seams(b, (-0.86, 0.92, 0.86, 0.92), alpha=0.6)
    for x in (-0.5, 0.5):
        strap = b.box(x, 0.72, 0.09, 0.66)
        b.grain(strap, "leather")
        for edge in (-0.068, 0.068):
            b.mark(b.box(x + edge, 0.72, 0.008, 0.64), _STRAP_EDGE, 0.9)
            thread = x + edge * 0.7
            stitches = [b.stroke(thread, y, thread, y + 0.06, 0.007) for y in np.arange(0.14, 1.3, 0.12)]
            b.mark(union(*stitches), _THREAD, 0.8)
        b.mark(_ring(b.box(x, 1.06, 0.10, 0.06, 0.02), 0.016 * b.s), _THREAD, 0.9)
    for x in (-0.80, 0.80):
        for y in (0.16, 1.28):
            b.mark(cut(b.circle(x, y, 0.14), body), _STRAP_EDGE, 0.6)
    b.mark(b.circle(0.0, 0.97, 0.025), BLACK, 0.8)
    b.mark(b.stroke(0.0, 0.97, 0.0, 0.92, 0.012), BLACK, 0.8)


FINISHES: Mapping[str, Callable[[Brush], None]] = {
    "car": _car,
    "bus": _bus,
    "boat": _boat,
    "cup": _cup,
    "bottle": _bottle,
    "sports ball": _sports_ball,
    "kite": _kite,
    "surfboard": _surfboard,
    "umbrella": _umbrella,
    "suitcase": _suitcase,
}
"""Category -> what its finish paints."""

"""The six backgrounds that faces and scenes share: a sky and a ground each, told apart at a glance."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from protocols.world.canvas import BLACK, UNITS, Canvas, Color, Field, cut, f32, frame, rgb, union, wave
from protocols.world.materials import relief, textured

BACKDROPS: tuple[str, ...] = ("meadow", "beach", "snow", "desert", "night", "room")

_SKY: dict[str, tuple[Color, Color]] = {
    "meadow": (rgb(92, 160, 236), rgb(196, 226, 248)),
    "beach": (rgb(70, 160, 236), rgb(206, 234, 248)),
    "snow": (rgb(150, 172, 200), rgb(214, 224, 236)),
    "desert": (rgb(236, 150, 84), rgb(252, 220, 150)),
    "night": (rgb(10, 14, 46), rgb(46, 50, 104)),
    "room": (rgb(226, 206, 172), rgb(214, 190, 156)),
}
_GROUND: dict[str, tuple[Color, Color]] = {
    "meadow": (rgb(104, 176, 76), rgb(58, 130, 46)),
    "beach": (rgb(244, 222, 168), rgb(226, 196, 134)),
    "snow": (rgb(248, 250, 254), rgb(220, 228, 240)),
    "desert": (rgb(222, 156, 84), rgb(170, 104, 52)),
    "night": (rgb(34, 56, 60), rgb(20, 36, 42)),
    "room": (rgb(152, 102, 62), rgb(122, 80, 48)),
}
_SEA = rgb(36, 132, 190)
_CLOUD = rgb(255, 255, 255)
_MOON = rgb(244, 240, 212)
_TRUNK = rgb(96, 66, 40)
_PINE = rgb(40, 84, 66)
_BUSH = rgb(44, 116, 44)
_FRAME = rgb(250, 246, 236)
_PANE = rgb(150, 204, 240)
_CACTUS = rgb(70, 128, 66)
_STARS = ((5, 6), (14, 16), (22, 5), (31, 12), (40, 4), (45, 18), (59, 24), (9, 26), (26, 22), (52, 30))
# Height in world units after which the stars repeat upwards.
_STAR_ROWS = 32.0


def paint_backdrop(canvas: Canvas, name: str, horizon: float, draws: tuple[float, ...], light: float) -> None:
    """Fill an unzoomed canvas. ``horizon``: its height in world units.

    ``draws``: at least 8 numbers in [-1, 1]. They belong to the geometry, so that two backgrounds of one image share
    their layout.
    """
    x, y = canvas.x, canvas.y
    _, upper, _, lower = frame(canvas.size)
    # Share of the way from the horizon to the lower edge, and from the upper edge to the horizon.
    down = np.clip((y - f32(horizon)) / f32(lower - horizon), 0, 1)[..., None]
    up = np.clip((y - f32(upper)) / f32(horizon - upper), 0, 1)[..., None]
    top, bottom = _SKY[name]
    near, far = _GROUND[name]
    sky: Field = top * (1 - up) + bottom * up
    ground: Field = near * (1 - down) + far * down
    broad = canvas.broad(int((draws[0] + 1) * 7.99))
    fine = canvas.fine(int((draws[1] + 1) * 7.99))
    edge: Field = f32(horizon) - y

    # Clouds.
    if name in ("meadow", "beach"):
        puffs = broad + relief(canvas, "cloud") if canvas.detail else broad
        cloud = np.clip(puffs * 3 - f32(0.25), 0, 1)[..., None] * f32(0.8)
        sky = sky + (_CLOUD - sky) * cloud
    # The ground: its texture, and the line where it meets the sky.
    if name == "meadow":
        ground = _receding(canvas, ground * (1 + f32(0.25) * fine[..., None]), "grass", down)
        edge = edge + wave(x * f32(0.021) + f32(draws[2])) * f32(2)
    elif name == "beach":
        shore = f32(horizon + 7 + draws[2]) + wave(x * f32(0.03) + f32(draws[3])) * f32(1.2) - y
        sea = np.clip(shore, 0, 1)[..., None]
        ground = _receding(canvas, ground * (1 + f32(0.10) * fine[..., None]), "sand", down)
        waves = _receding(canvas, _SEA * (1 + f32(0.25) * fine[..., None]), "water", down)
        ground = ground * (1 - sea) + waves * sea
        if canvas.detail:
            # Foam where the waves end.
            foam = np.clip(1 - np.abs(shore - f32(0.4) + relief(canvas, "water", 1.6)) / f32(0.5), 0, 1)
            ground = ground + (_CLOUD - ground) * (foam * f32(0.75 * canvas.strength))[..., None]
    elif name == "snow":
        ground = _receding(canvas, ground * (1 + f32(0.05) * fine[..., None]), "snow", down)
        edge = edge + wave(x * f32(0.018) + f32(draws[2])) * f32(1.5)
    elif name == "desert":
        ground = _receding(canvas, ground * (1 + f32(0.22) * broad[..., None]), "dune", down)
        edge = edge + wave(x * f32(0.016) + f32(draws[2])) * f32(3.5)
    elif name == "night":
        ground = _receding(canvas, ground * (1 + f32(0.25) * fine[..., None]), "grass", down)
    else:
        stripe = np.abs(x - np.floor(x / 8) * 8 - 4) < 0.75
        sky = sky * np.where(stripe, f32(0.92), f32(1))[..., None]
        depth = y - f32(horizon)
        boards = depth - np.floor(depth / 7) * 7 < 1.0
        ground = ground * np.where(boards, f32(0.84), f32(1))[..., None] * (1 + f32(0.10) * fine[..., None])
        if canvas.detail:
            sky = sky * (1 + relief(canvas, "plaster"))[..., None]
            ground = ground * (1 + relief(canvas, "wood"))[..., None]
            ground = ground * (1 - _joints(x, depth) * f32(0.3 * canvas.strength))[..., None]

    # The sky above the line, the ground below it.
    coverage = canvas.cover(edge)
    canvas.image = np.ascontiguousarray(sky + (ground - sky) * coverage[..., None])
    _decorate(canvas, name, horizon, draws, light)


def _receding(canvas: Canvas, ground: Field, material: str, down: Field) -> Field:
    """The ground with its texture: fine at the horizon (``down`` 0), coarse at the lower edge (1)."""
    if not canvas.detail:
        return ground
    far, near = relief(canvas, material, 0.6)[..., None], relief(canvas, material, 1.7)[..., None]
    out: Field = ground * (1 + far + (near - far) * down)
    return out


def _joints(x: Field, depth: Field) -> Field:
    """1 where a floor board ends, else 0: every 30 units, in each row of boards elsewhere."""
    row = np.floor(depth / 7)
    along = x + row * f32(13)
    joints: Field = (along - np.floor(along / 30) * 30 < f32(0.25)).astype(f32)
    return joints


def _decorate(canvas: Canvas, name: str, horizon: float, draws: tuple[float, ...], light: float) -> None:
    """One or two landmarks at the sides, where a face leaves them visible."""
    side = 1 if light >= 0 else -1
    left, upper, right, _ = frame(canvas.size)

    def disc(cx: float, cy: float, radius: float, color: Color, material: str = "") -> None:
        part = canvas.part(cx - radius, cy - radius, cx + radius, cy + radius)
        part.paint(part.circle(cx, cy, radius), color, textured(part, material) if material else 1.0)

    # Night: stars and a moon.
    if name == "night":
        for sx, sy in _stars(left, upper, right):
            if sy < horizon - 3:
                disc(sx + draws[3] * 2, sy, 0.75, _MOON)
        disc(32 + side * (22 + draws[4] * 2), 9, 4.6, _MOON, "moon")
    # Beach and desert: a sun, opposite the desert's cactus.
    elif name == "beach":
        disc(32 + side * (23 + draws[4] * 2), 8, 4.2, rgb(255, 226, 90))
    elif name == "desert":
        disc(32 + side * (22 + draws[4] * 2), 10, 4.6, rgb(252, 240, 190))
        cx = 32 - side * (26 + draws[5] * 2)
        part = canvas.part(cx - 6, horizon - 11, cx + 6, horizon + 5)
        arm = part.stroke(cx, horizon + 3, cx, horizon - 9, 1.5)
        branch = part.stroke(cx + side * 4, horizon - 5, cx + side * 4, horizon - 7, 1.1)
        elbow = part.stroke(cx, horizon - 3, cx + side * 4, horizon - 5, 1.0)
        cactus = union(arm, branch, elbow)
        part.paint(cactus, _CACTUS, textured(part, "upright wood"))
        for ridge in (-0.6, 0.0, 0.6):
            part.mark(cut(part.box(cx + ridge, horizon - 3, 0.10, 8), cactus), BLACK, alpha=0.35)
    # Snow: two firs with white tops.
    elif name == "snow":
        for k, offset in ((0, 26.0), (1, 20.0)):
            cx = 32 + side * (offset + draws[4 + k])
            tall = 15 - 4 * k
            part = canvas.part(cx - tall * 0.4, horizon + 1 - tall, cx + tall * 0.4, horizon + 3)
            tree = _spire(part, cx, horizon + 2 - tall, tall * 0.36, tall)
            part.paint(tree, _PINE, textured(part, "needles"))
            part.paint(cut(tree, _spire(part, cx, horizon + 2 - tall, tall * 0.16, tall * 0.42)), _CLOUD)
    # Meadow: a tree.
    elif name == "meadow":
        cx = 32 + side * (25 + draws[4] * 2)
        part = canvas.part(cx - 6, horizon - 17, cx + 6, horizon + 5)
        part.paint(part.stroke(cx, horizon + 3, cx, horizon - 6, 1.0), _TRUNK, textured(part, "upright wood"))
        leaves = textured(part, "leaves", 1 + part.fine(3) * f32(0.4))
        part.paint(part.circle(cx, horizon - 10, 5.4), _BUSH, leaves)
    # Room: a window with a cross of bars.
    else:
        cx = 32 + side * (23 + draws[4])
        part = canvas.part(cx - 7, 4 + draws[5], cx + 7, 20 + draws[5])
        part.paint(part.box(cx, 12 + draws[5], 6.2, 7.2), _FRAME)
        pane = part.box(cx, 12 + draws[5], 5.0, 6.0)
        part.paint(pane, _PANE)
        streaks = [part.stroke(cx + k - 2, 18 + draws[5], cx + k + 3, 6 + draws[5], 0.6) for k in (-2, 2)]
        part.mark(cut(union(*streaks), pane), _CLOUD, alpha=0.4)
        part.paint(part.box(cx, 12 + draws[5], 0.6, 6.0), _FRAME)
        part.paint(part.box(cx, 12 + draws[5], 5.0, 0.6), _FRAME)


def _stars(left: float, upper: float, right: float) -> Iterator[tuple[float, float]]:
    """The stars of the square, repeated to both sides and upwards as far as the image reaches."""
    for row in range(math.ceil(-upper / _STAR_ROWS) + 1):
        for column in range(math.floor(left / UNITS), math.ceil(right / UNITS)):
            for sx, sy in _STARS:
                yield sx + column * UNITS, sy - row * _STAR_ROWS


def _spire(canvas: Canvas, cx: float, top: float, half_width: float, height: float) -> Field:
    """A slim upright triangle."""
    return canvas.polygon((cx, top), (cx + half_width, top + height), (cx - half_width, top + height))

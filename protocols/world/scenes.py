"""Scenes: one to three large objects, in COCO's category names, on one of the six backgrounds.

As for faces, an object's geometry comes from its seed. Colour, category and background are attributes that
can be exchanged while everything else stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protocols.world.backdrops import BACKDROPS, paint_backdrop
from protocols.world.brush import Brush
from protocols.world.canvas import (
    BLACK,
    WHITE,
    Canvas,
    Color,
    Size,
    cut,
    f32,
    frame,
    merge,
    rgb,
    union,
)
from protocols.world.finishes import FINISHES

COLORS: dict[str, Color] = {
    "red": rgb(216, 40, 36),
    "orange": rgb(244, 136, 24),
    "yellow": rgb(246, 216, 44),
    "green": rgb(44, 160, 66),
    "blue": rgb(44, 88, 216),
    "purple": rgb(136, 60, 184),
    "pink": rgb(246, 132, 182),
}
_GLASS = rgb(182, 218, 242)
_METAL = rgb(190, 192, 198)
_WOOD = rgb(112, 70, 38)
_CREAM = rgb(250, 242, 222)
_TEA = rgb(84, 46, 24)
_LAMP = rgb(255, 240, 150)


@dataclass(frozen=True)
class Category:
    """A drawable COCO category: its supercategory and the box that its drawing fills, in units of its scale."""

    name: str
    supercategory: str
    half_width: float
    height: float
    floats: bool = False


CATEGORIES: dict[str, Category] = {
    c.name: c
    for c in (
        Category("car", "vehicle", 1.0, 1.24),
        Category("bus", "vehicle", 1.0, 1.50),
        Category("boat", "vehicle", 1.0, 1.80),
        Category("cup", "kitchen", 0.95, 1.50),
        Category("bottle", "kitchen", 0.52, 2.00),
        Category("sports ball", "sports", 0.92, 1.84),
        Category("kite", "sports", 0.80, 2.00, floats=True),
        Category("surfboard", "sports", 0.62, 2.00),
        Category("umbrella", "accessory", 1.0, 1.90),
        Category("suitcase", "accessory", 0.90, 1.74),
    )
}


TRIMMED: tuple[str, ...] = ("bus", "cup", "bottle", "kite", "surfboard", "suitcase")
"""The categories whose drawing has a trim that can take a colour."""


@dataclass(frozen=True)
class Object:
    """One object: its category and colour, and where it stands: ``x`` the middle, ``y`` the foot."""

    category: str
    color: str
    x: float
    y: float
    scale: float
    seed: int
    trim: str | None = None
    """Colour of its trim: stripes, label, straps, cross or rim. None: as its class has it, white or brown."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in world units."""
        c = CATEGORIES[self.category]
        half = c.half_width * self.scale
        return self.x - half, self.y - c.height * self.scale, self.x + half, self.y

    def as_category(self, name: str) -> Object:
        """Another kind of object in this one's place, standing on the same foot.

        As large as fits this one's box, once the box's shorter side is grown to 0.7 of its longer one (the
        room that a replacement's mask leaves): a bottle must not shrink the cup that replaces it to nothing.
        """
        old, new = CATEGORIES[self.category], CATEGORIES[name]
        width, height = 2 * old.half_width, old.height
        width, height = max(width, 0.7 * height), max(height, 0.7 * width)
        fit = min(width / (2 * new.half_width), height / new.height, 1.15)
        # The trim belonged to the old object.
        return replace(self, category=name, scale=self.scale * fit, trim=None)


@dataclass(frozen=True)
class Scene:
    seed: int
    backdrop: str
    objects: tuple[Object, ...]

    def with_claim(self, attribute: str, value: str, index: int = 0) -> Scene:
        """The same scene with one promise of an edit kept. Raises ValueError for what cannot be drawn."""
        if attribute == "background":
            return replace(self, backdrop=value)
        old = self.objects[index]
        if attribute == "color" and value in COLORS:
            new = replace(old, color=value)
        elif attribute == "category" and value in CATEGORIES:
            new = old.as_category(value)
        elif attribute == "trim" and value in COLORS and old.category in TRIMMED:
            new = replace(old, trim=value)
        else:
            raise ValueError(f"the mini world cannot draw {attribute}={value} in a scene")
        return replace(self, objects=(*self.objects[:index], new, *self.objects[index + 1 :]))


_SHADOWLESS = 46.0
_SCALES = {1: (15.0, 19.0), 2: (13.0, 15.5), 3: (10.5, 12.0)}


def sample_scene(seed: int, size: Size = 64) -> Scene:
    """A random scene without two objects of one category or touching each other. The same seed, the same scene.

    On every square canvas it is the same. On a wider or taller one, its objects are spread over all that the image
    shows.
    """
    left, _, right, lower = frame(size)
    rng = np.random.Generator(np.random.PCG64([seed, 3]))

    def u(low: float, high: float) -> float:
        return float(low + (high - low) * rng.random())

    wanted = int(rng.choice(3, p=(0.35, 0.45, 0.2))) + 1
    names = [str(n) for n in rng.permutation(list(CATEGORIES))]
    objects: list[Object] = []
    for name in names:
        if len(objects) == wanted:
            break
        category = CATEGORIES[name]
        for _ in range(12):
            scale = u(*_SCALES[wanted])
            half, height = category.half_width * scale, category.height * scale
            foot = u(height + 2, height + 10) if category.floats else u(50, lower - 4)
            candidate = Object(
                name,
                list(COLORS)[int(rng.integers(len(COLORS)))],
                u(left + half + 2, right - 2 - half),
                foot,
                scale,
                int(rng.integers(2**31)),
            )
            if all(_apart(candidate, other) for other in objects):
                objects.append(candidate)
                break
    objects.sort(key=lambda o: (not CATEGORIES[o.category].floats, o.y))
    return Scene(seed, BACKDROPS[int(rng.integers(len(BACKDROPS)))], tuple(objects))


def _apart(a: Object, b: Object) -> bool:
    """True where more than three units lie between the boxes of two objects, in x or in y."""
    gap = 3.0
    (l1, t1, r1, b1), (l2, t2, r2, b2) = a.box, b.box
    return r1 + gap < l2 or r2 + gap < l1 or b1 + gap < t2 or b2 + gap < t1


def render_scene(
    scene: Scene, size: Size = 64, detail: bool = False
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Draw a scene: the image, uint8 (height, width, 3), and one mask, bool (height, width), per object, in order.

    ``detail``: with textures and small marks, which fade out towards 64 px. Masks are the same without them.
    """
    rng = np.random.Generator(np.random.PCG64([scene.seed, 4]))
    draws = tuple(float(v) for v in rng.random(10) * 2 - 1)
    canvas = Canvas(size, detail=detail)
    light = draws[8] * 0.6
    paint_backdrop(canvas, scene.backdrop, 35 + draws[9] * 3, draws, light)
    for number, thing in enumerate(scene.objects, 1):
        _paint_object(canvas, thing, number, light, scene.backdrop == "night")
    return canvas.pixels(), [canvas.labels == k for k in range(1, len(scene.objects) + 1)]


# How far an object's drawing reaches beyond its box, in units of its scale: a cup's handle reaches farthest.
_OVERHANG = 0.15


def _paint_object(c: Canvas, thing: Object, label: int, light: float, dark: bool) -> None:
    if thing.y > _SHADOWLESS:  # in the air, nothing is there to catch a shadow
        x, rx, ry = thing.x - light * 3, thing.scale * 0.85, thing.scale * 0.16
        # The approximate distance of a flat ellipse grows slowly: 0.5 * 3 units of it lie within 6 units.
        ground = c.part(x - rx - 6, thing.y - ry - 6, x + rx + 6, thing.y + ry + 6)
        ground.blend(np.clip(f32(0.5) - ground.ellipse(x, thing.y, rx, ry) / 3, 0, 1), BLACK, alpha=0.35)
    left, top, right, bottom = thing.box
    margin = _OVERHANG * thing.scale
    part = c.part(left - margin, top - margin, right + margin, bottom + margin)
    color, trim = COLORS[thing.color], None if thing.trim is None else COLORS[thing.trim]
    brush = Brush(part, thing.x, thing.y, thing.scale, color, label, thing.seed, light, dark, trim)
    _PAINTERS[thing.category](brush)
    if c.detail:
        FINISHES[thing.category](brush)


def _wheels(b: Brush, x: float, r: float) -> None:
    for s in (-x, x):
        b.put(b.circle(s, r, r), BLACK, 1.0)
        b.put(b.circle(s, r, r * 0.45), _METAL, 1.0)


def _car(b: Brush) -> None:
    b.put(b.polygon((-0.50, 1.24), (0.42, 1.24), (0.74, 0.66), (-0.76, 0.66)), shade=b.slope * f32(0.92))
    b.put(b.polygon((-0.40, 1.12), (-0.02, 1.12), (-0.02, 0.70), (-0.58, 0.70)), _GLASS, 1.0)
    b.put(b.polygon((0.08, 1.12), (0.34, 1.12), (0.54, 0.70), (0.08, 0.70)), _GLASS, 1.0)
    b.put(b.box(0, 0.48, 1.0, 0.28, 0.14))
    _wheels(b, 0.56, 0.25)
    b.put(b.circle(b.side * 0.88, 0.52, 0.09), _LAMP, 1.0)


def _bus(b: Brush) -> None:
    b.put(b.box(0, 0.84, 1.0, 0.66, 0.14))
    for k in (-0.66, -0.20, 0.26):
        b.put(b.box(k, 1.08, 0.18, 0.22, 0.04), _GLASS, 1.0)
    b.put(b.box(0.72, 0.88, 0.17, 0.42, 0.04), _GLASS, 1.0)
    b.put(b.box(0, 0.56, 1.0, 0.06), b.trim_or(WHITE), 1.0)
    _wheels(b, 0.56, 0.23)


def _boat(b: Brush) -> None:
    b.put(b.stroke(0.0, 0.45, 0.0, 1.74, 0.05), _WOOD, 1.0)
    s = b.side
    sail = ((s * 0.08, 1.72), (s * 0.80, 0.64), (s * 0.08, 0.64))
    b.put(b.polygon(*(sail if s > 0 else sail[::-1])), shade=b.slope)
    jib = ((-s * 0.08, 1.50), (-s * 0.08, 0.64), (-s * 0.58, 0.64))
    b.put(b.polygon(*(jib if s > 0 else jib[::-1])), shade=b.slope * f32(0.88))
    b.put(b.polygon((-1.0, 0.52), (1.0, 0.52), (0.66, 0.0), (-0.66, 0.0)), shade=b.slope * f32(0.94))
    b.put(b.box(0, 0.45, 0.90, 0.06), WHITE, 1.0)


def _cup(b: Brush) -> None:
    handle = np.abs(b.ellipse(b.side * 0.62, 0.78, 0.28, 0.34)) - f32(0.10 * b.s)
    b.put(handle, shade=b.slope * f32(0.85))
    b.put(b.polygon((-0.66, 1.38), (0.66, 1.38), (0.50, 0.0), (-0.50, 0.0)))
    b.put(b.ellipse(0, 1.36, 0.67, 0.15), b.trim_or(b.color), 1.06)
    b.put(b.ellipse(0, 1.36, 0.54, 0.10), _TEA, 1.0)


def _bottle(b: Brush) -> None:
    body = b.box(0, 0.64, 0.50, 0.64, 0.16)
    neck = b.box(0, 1.48, 0.17, 0.34, 0.05)
    b.put(merge(body, neck, 0.35 * b.s))
    b.put(b.box(0, 1.88, 0.21, 0.12, 0.04), _CREAM, 1.0)
    b.put(b.box(0, 0.62, 0.50, 0.24), b.trim_or(WHITE), 1.0)
    b.c.glow(b.px(-0.25), b.py(1.0), 0.22 * b.s, 0.6)


def _sports_ball(b: Brush) -> None:
    r = 0.92
    light = b.c.ball_light(b.px(0), b.py(r), r * b.s, r * b.s, (b.light, -0.5), 0.66, 0.46)
    ball = b.circle(0, r, r)
    b.put(ball, shade=light)
    for k in (-1, 1):
        seam = np.abs(b.circle(k * 1.15, r, 0.86)) - f32(0.06 * b.s)
        b.put(cut(seam, ball), WHITE, light)
    b.put(cut(b.box(0, r, 0.06, r), ball), WHITE, light)
    b.c.glow(b.px(0.3 * (1 if b.light > 0 else -1)), b.py(1.4), 0.3 * b.s, 0.5)


def _kite(b: Brush) -> None:
    b.put(b.stroke(0.0, 0.62, b.side * 0.22, 0.30, 0.05), _CREAM, 1.0)
    b.put(b.stroke(b.side * 0.22, 0.30, 0.0, 0.04, 0.05), _CREAM, 1.0)
    left = b.polygon((0.0, 2.0), (0.0, 0.56), (-0.80, 1.38))
    right = b.polygon((0.0, 2.0), (0.80, 1.38), (0.0, 0.56))
    b.put(left, shade=1.05)
    b.put(right, shade=0.82)
    b.put(b.stroke(-0.74, 1.38, 0.74, 1.38, 0.045), b.trim_or(WHITE), 1.0)
    b.put(b.stroke(0.0, 0.64, 0.0, 1.94, 0.045), b.trim_or(WHITE), 1.0)


def _surfboard(b: Brush) -> None:
    lean = b.side * 0.16
    board = b.ellipse(0, 1.0, 0.44, 1.0, lean)
    b.put(board)
    b.put(cut(b.ellipse(0, 1.0, 0.10, 0.98, lean), board + f32(0.05 * b.s)), b.trim_or(WHITE), 1.0)
    b.put(cut(b.box(0, 0.42, 0.7, 0.07), board), b.trim_or(WHITE), 1.0)


def _umbrella(b: Brush) -> None:
    b.put(b.stroke(0, 0.10, 0, 1.0, 0.055), _WOOD, 1.0)
    hook = cut(np.abs(b.circle(0.13 * b.side, 0.16, 0.13)) - f32(0.05 * b.s), b.c.below(b.py(0.16)))
    b.put(hook, _WOOD, 1.0)
    dome = cut(b.ellipse(0, 0.90, 1.0, 0.94), b.c.above(b.py(0.90)))
    scallops = [b.ellipse(k, 0.90, 0.26, 0.15) for k in (-0.75, -0.25, 0.25, 0.75)]
    canopy = np.maximum(dome, -union(*scallops))
    b.put(canopy)
    b.put(cut(canopy, np.abs(b.ellipse(0, 0.90, 0.50, 0.94)) - f32(0.035 * b.s)), shade=b.slope * f32(0.66))
    b.put(b.circle(0, 1.85, 0.05), _WOOD, 1.0)


def _suitcase(b: Brush) -> None:
    b.put(np.abs(b.box(0, 1.46, 0.28, 0.22, 0.10)) - f32(0.07 * b.s), BLACK, 1.0)
    b.put(b.box(0, 0.72, 0.90, 0.66, 0.16))
    for k in (-0.5, 0.5):
        b.put(b.box(k, 0.72, 0.09, 0.66), b.trim_or(_WOOD), 1.0)
    b.put(b.box(0, 0.96, 0.14, 0.09, 0.03), _METAL, 1.0)
    for k in (-0.6, 0.6):
        b.put(b.circle(k, 0.07, 0.07), BLACK, 1.0)


_PAINTERS = {
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

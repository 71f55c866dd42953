"""The brush that paints the objects of scenes: shapes, marks and textures in an object's own coordinates."""

from __future__ import annotations

import numpy as np

from protocols.world.canvas import WHITE, Canvas, Color, Field, f32
from protocols.world.materials import relief


class Brush:
    """Paints one object: coordinates are in units of its scale, ``y`` upwards from its foot."""

    def __init__(
        self,
        canvas: Canvas,
        x: float,
        y: float,
        scale: float,
        color: Color,
        label: int,
        seed: int,
        light: float,
        dark: bool,
        trim: Color | None = None,
    ) -> None:
        """``x``, ``y``: the foot in world units. ``light``: where from, -1 left to 1 right. ``dark``: at night.

        ``trim``: the colour of stripes, labels, straps, crosses and rims. None: what each painter has for them.
        """
        rng = np.random.Generator(np.random.PCG64([seed, 5]))
        self.c, self.label, self.dark = canvas, label, dark
        self.x, self.y, self.s = x, y, scale
        self.color, self.trim = color, trim
        self.tilt = float(rng.random() * 2 - 1)
        self.side = 1 if self.tilt > 0 else -1
        self.light = light
        self.slope = (
            f32(1.0)
            + (canvas.x - f32(self.x)) * f32(light * 0.5 / self.s)
            - (canvas.y - f32(self.y - self.s)) * f32(0.20 / self.s)
        )

    def px(self, k: float) -> float:
        return self.x + k * self.s

    def py(self, k: float) -> float:
        """Height above the foot, in units of the scale."""
        return self.y - k * self.s

    def trim_or(self, default: Color) -> Color:
        """The colour of the trim, ``default`` unless the object has one of its own."""
        return default if self.trim is None else self.trim

    def put(self, shape: Field, color: Color | None = None, shade: Field | float | None = None) -> None:
        self.c.paint(
            shape,
            self.color if color is None else color,
            self.slope if shade is None else shade,
            label=self.label,
        )

    def mark(self, shape: Field, color: Color, alpha: float = 1.0, shade: Field | float = 1.0) -> None:
        """A small mark on the object, which only a canvas with detail shows. The object's mask stays as it is."""
        self.c.mark(shape, color, shade, alpha, on=self.label)

    def gloss(self, share: Field, alpha: float) -> None:
        """A soft highlight on the object alone, as :meth:`mark`. ``share``: (H, W) in [0, 1]."""
        if self.c.detail:
            self.c.blend(share * (self.c.labels == self.label), WHITE, alpha=alpha * self.c.strength)

    def grain(self, shape: Field, material: str) -> None:
        """A material's texture over what is painted in a shape, on the object alone."""
        share = self.c.cover(shape) * (self.c.labels == self.label)
        self.c.image *= 1 + (relief(self.c, material) * share)[..., None]

    def box(self, x: float, y: float, w: float, h: float, r: float = 0.0) -> Field:
        s = self.s
        return self.c.box(self.px(x), self.py(y), w * s, h * s, r * s)

    def circle(self, x: float, y: float, r: float) -> Field:
        return self.c.circle(self.px(x), self.py(y), r * self.s)

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Field:
        return self.c.ellipse(self.px(x), self.py(y), rx * self.s, ry * self.s, angle)

    def stroke(self, ax: float, ay: float, bx: float, by: float, r: float) -> Field:
        return self.c.stroke(self.px(ax), self.py(ay), self.px(bx), self.py(by), r * self.s)

    def polygon(self, *points: tuple[float, float]) -> Field:
        """Convex, clockwise on the screen. Mirrored shapes must be given in the mirrored order."""
        return self.c.polygon(*((self.px(x), self.py(y)) for x, y in points))

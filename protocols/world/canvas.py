"""Drawing with signed distances: the few shapes, lights and textures that the mini world is made of.

A shape is a float32 array (H, W) of signed distances in world units (the picture is 64 units wide,
whatever its size in pixels): negative inside, positive outside. Painting turns a distance into
coverage analytically, which is what anti-aliases every edge.

Pixels are the same on every machine: only +, -, *, /, sqrt, min, max, floor and rounding touch arrays
(IEEE 754 rounds those correctly everywhere), and angles go through :func:`turn`, which rounds.
Distance formulas follow Inigo Quilez, "2D distance functions".
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UNITS = 64.0
"""Width and height of the world."""

Field: TypeAlias = NDArray[Any]
"""float32 (H, W), or (H, W, 3) for colours; numpy's own stubs lose the dtype on the way through ufuncs."""
Color: TypeAlias = NDArray[Any]
f32 = np.float32


def rgb(red: int, green: int, blue: int) -> Color:
    """A colour as float32 (3,) in [0, 1] from its 8-bit values."""
    return np.array([red, green, blue], f32) / f32(255)


def turn(angle: float) -> tuple[float, float]:
    """Cosine and sine of an angle in radians, rounded so that every C library gives the same."""
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def wave(phase: Field) -> Field:
    """A smooth wave of period 1 and range [-1, 1] (two parabolas; close to a sine, exact everywhere)."""
    t = phase - np.floor(phase)
    u: Field = t * 2 - 1
    out: Field = u * (np.abs(u) - 1) * 4
    return out


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """World coordinates (x, y) of the pixel centres, each float32 (size, size), read-only."""
    step = UNITS / size
    axis = ((np.arange(size, dtype=np.float64) + 0.5) * step).astype(f32)
    x = np.ascontiguousarray(np.broadcast_to(axis, (size, size)))
    y = np.ascontiguousarray(np.broadcast_to(axis[:, None], (size, size)))
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


@lru_cache(maxsize=8)
def textures(size: int) -> tuple[Field, Field]:
    """Sixteen broad and sixteen finer smooth noises, float32 (16, size, size) in about [-0.5, 0.5].

    Low frequencies only: per-pixel noise would be the most expensive thing in the picture to compress
    and would teach a small autoencoder nothing.
    """
    rng = np.random.Generator(np.random.PCG64(7))

    def noise(cells: int) -> Field:
        small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        big = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), f32)
        return big / f32(255) - f32(0.5)

    return np.stack([noise(6) for _ in range(16)]), np.stack([noise(9) for _ in range(16)])


class Canvas:
    """A picture being painted: colours, and which part each pixel belongs to.

    ``image``: float32 (size, size, 3), about [0, 1]. ``labels``: uint8 (size, size), 0 = background.
    ``x``, ``y``: the coordinates that shapes are drawn in; a zoom moves them, not the shapes.
    """

    def __init__(self, size: int, zoom: float = 1.0, center: tuple[float, float] = (32.0, 32.0)) -> None:
        x, y = grid(size)
        self.size = size
        self.x, self.y = x, y
        if zoom != 1.0 or center != (32.0, 32.0):
            self.x = (x - f32(32)) / f32(zoom) + f32(center[0])
            self.y = (y - f32(32)) / f32(zoom) + f32(center[1])
        self._sharpness = f32(zoom * size / UNITS)
        self.broad, self.fine = textures(size)
        self.image: Field = np.zeros((size, size, 3), f32)
        self.labels = np.zeros((size, size), np.uint8)

    def cover(self, distance: Field) -> Field:
        """Share of each pixel that a shape covers, in [0, 1]."""
        share: Field = np.clip(f32(0.5) - distance * self._sharpness, f32(0), f32(1))
        return share

    def paint(
        self,
        distance: Field,
        color: Color,
        shade: Field | float = 1.0,
        alpha: float = 1.0,
        label: int | None = None,
    ) -> NDArray[np.bool_] | None:
        """Lay a shape over the picture; returns the pixels it owns if it has a label."""
        return self.blend(self.cover(distance), color, shade, alpha, label)

    def blend(
        self,
        coverage: Field,
        color: Color,
        shade: Field | float = 1.0,
        alpha: float = 1.0,
        label: int | None = None,
    ) -> NDArray[np.bool_] | None:
        """As :meth:`paint`, from a coverage that is already known. Works on the rows it touches only."""
        touched = np.flatnonzero(coverage.max(axis=1))
        if touched.size == 0:
            return np.zeros(coverage.shape, bool) if label is not None else None
        rows = slice(int(touched[0]), int(touched[-1]) + 1)
        share = coverage[rows] if alpha == 1.0 else coverage[rows] * f32(alpha)
        paint = color * shade[rows, :, None] if isinstance(shade, np.ndarray) else color * f32(shade)
        target = self.image[rows]
        target += (paint - target) * share[:, :, None]
        if label is None:
            return None
        owned = coverage > 0.5
        self.labels[owned] = label
        return owned

    # ---- shapes: signed distances in world units

    def circle(self, cx: float, cy: float, radius: float) -> Field:
        dx, dy = self.x - f32(cx), self.y - f32(cy)
        return np.sqrt(dx * dx + dy * dy) - f32(radius)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> Field:
        u, v = self._local(cx, cy, angle)
        u, v = u / f32(rx), v / f32(ry)
        k0 = np.sqrt(u * u + v * v) + f32(1e-4)
        u, v = u / f32(rx), v / f32(ry)
        return k0 * (k0 - 1) / (np.sqrt(u * u + v * v) + f32(1e-4))

    def box(
        self, cx: float, cy: float, half_w: float, half_h: float, round_: float = 0.0, angle: float = 0.0
    ) -> Field:
        u, v = self._local(cx, cy, angle)
        qx, qy = np.abs(u) - f32(half_w - round_), np.abs(v) - f32(half_h - round_)
        ox, oy = np.maximum(qx, 0), np.maximum(qy, 0)
        out: Field = np.sqrt(ox * ox + oy * oy) + np.minimum(np.maximum(qx, qy), 0) - f32(round_)
        return out

    def stroke(self, ax: float, ay: float, bx: float, by: float, radius: float) -> Field:
        """A round-ended line from a to b."""
        px: Field = self.x - f32(ax)
        py: Field = self.y - f32(ay)
        dx, dy = f32(bx - ax), f32(by - ay)
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + f32(1e-6)), 0, 1)
        px, py = px - dx * along, py - dy * along
        out: Field = np.sqrt(px * px + py * py) - f32(radius)
        return out

    def polygon(self, *points: tuple[float, float]) -> Field:
        """A convex polygon, its corners clockwise as seen on the screen."""
        distance: Field | None = None
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            ex, ey = bx - ax, by - ay
            length = math.sqrt(ex * ex + ey * ey) + 1e-6
            side = (self.x - f32(ax)) * f32(ey / length) - (self.y - f32(ay)) * f32(ex / length)
            distance = side if distance is None else np.maximum(distance, side)
        assert distance is not None
        return distance

    def above(self, y: float) -> Field:
        """The half plane above a horizontal line (y grows downwards)."""
        return self.y - f32(y)

    def below(self, y: float) -> Field:
        return f32(y) - self.y

    def _local(self, cx: float, cy: float, angle: float) -> tuple[Field, Field]:
        u, v = self.x - f32(cx), self.y - f32(cy)
        if angle:
            c, s = turn(angle)
            u, v = f32(c) * u + f32(s) * v, f32(c) * v - f32(s) * u
        return u, v

    # ---- light

    def ball_light(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        light: tuple[float, float],
        ambient: float = 0.62,
        diffuse: float = 0.5,
    ) -> Field:
        """Lambert shading of an ellipsoid lit from ``light`` (x, y) and from the front."""
        u, v = (self.x - f32(cx)) / f32(rx), (self.y - f32(cy)) / f32(ry)
        z = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
        facing = u * f32(light[0]) + v * f32(light[1]) + z * f32(0.75)
        out: Field = f32(ambient) + f32(diffuse) * np.clip(facing, 0, 1)
        return out

    def glow(self, cx: float, cy: float, radius: float, alpha: float, color: Color | None = None) -> None:
        """A soft round highlight."""
        spot = np.clip(1 - self.circle(cx, cy, 0.0) / f32(radius), 0, 1)
        self.blend(spot, WHITE if color is None else color, alpha=alpha)

    def pixels(self) -> NDArray[np.uint8]:
        """The finished picture, uint8 (size, size, 3)."""
        return (np.clip(self.image, 0, 1) * f32(255) + f32(0.5)).astype(np.uint8)


def union(*shapes: Field) -> Field:
    out = shapes[0]
    for shape in shapes[1:]:
        out = np.minimum(out, shape)
    return out


def cut(shape: Field, *keepers: Field) -> Field:
    """What lies inside the shape and inside every keeper."""
    out = shape
    for keeper in keepers:
        out = np.maximum(out, keeper)
    return out


def merge(a: Field, b: Field, softness: float) -> Field:
    """Union with a rounded seam (polynomial smooth minimum)."""
    h: Field = np.clip(f32(0.5) + f32(0.5) * (b - a) / f32(softness), 0, 1)
    out: Field = b * (1 - h) + a * h - f32(softness) * h * (1 - h)
    return out


WHITE = rgb(252, 252, 250)
BLACK = rgb(24, 22, 26)

"""Drawing with signed distances: the few shapes, lights and textures that the mini world is made of.

A shape is a float32 array (H, W) of signed distances in world units: negative inside, positive outside. Painting turns
a distance into coverage analytically, which anti-aliases every edge.

The shorter side of an image is 64 units, whatever its size in pixels. A wider or taller image is not stretched: it
shows more of the world, on both sides of the square [0, 64] x [0, 64], which stays in the middle.

Pixels are the same on every machine: only +, -, *, /, sqrt, min, max, floor and rounding touch arrays
(IEEE 754 rounds those correctly everywhere), and angles go through :func:`turn`, which rounds.
Distance formulas follow Inigo Quilez, "2D distance functions".
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UNITS = 64.0
"""The shorter side of an image in world units."""

Size: TypeAlias = int | tuple[int, int]
"""Pixels: the side of a square, or (width, height)."""

Field: TypeAlias = NDArray[Any]
"""float32 (H, W), or (H, W, 3) for colours. numpy's own stubs lose the dtype on the way through ufuncs."""
Color: TypeAlias = NDArray[Any]
f32 = np.float32


def rgb(red: int, green: int, blue: int) -> Color:
    """A colour as float32 (3,) in [0, 1] from its 8-bit values."""
    return np.array([red, green, blue], f32) / f32(255)


def turn(angle: float) -> tuple[float, float]:
    """Cosine and sine of an angle in radians, rounded so that every C library gives the same."""
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def wave(phase: Field) -> Field:
    """A smooth wave of period 1 and range [-1, 1] (two parabolas: close to a sine, and exact everywhere)."""
    t = phase - np.floor(phase)
    u: Field = t * 2 - 1
    out: Field = u * (np.abs(u) - 1) * 4
    return out


def width_height(size: Size) -> tuple[int, int]:
    """(width, height) in pixels."""
    return (size, size) if isinstance(size, int) else size


def frame(size: Size) -> tuple[float, float, float, float]:
    """The part of the world that an image of this size shows: left, top, right, bottom in world units."""
    width, height = width_height(size)
    step = UNITS / min(width, height)
    half_width, half_height = width * step / 2, height * step / 2
    middle = UNITS / 2
    return middle - half_width, middle - half_height, middle + half_width, middle + half_height


@lru_cache(maxsize=8)
def grid(size: tuple[int, int]) -> tuple[Field, Field]:
    """World coordinates (x, y) of the pixel centres of (width, height), each float32 (height, width), read-only."""
    width, height = size
    step = UNITS / min(size)
    left, top, _, _ = frame(size)
    # float64 until the end, so that the square of 64 units has the same coordinates on every canvas.
    across = ((np.arange(width, dtype=np.float64) + 0.5) * step + left).astype(f32)
    down = ((np.arange(height, dtype=np.float64) + 0.5) * step + top).astype(f32)
    x = np.ascontiguousarray(np.broadcast_to(across, (height, width)))
    y = np.ascontiguousarray(np.broadcast_to(down[:, None], (height, width)))
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


@lru_cache(maxsize=1)
def _noise_tables() -> tuple[tuple[Image.Image, ...], tuple[Image.Image, ...]]:
    """The sixteen broad (6 x 6 cells) and the sixteen finer (9 x 9) tables that :func:`texture` enlarges."""
    rng = np.random.Generator(np.random.PCG64(7))

    def table(cells: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))

    return tuple(table(6) for _ in range(16)), tuple(table(9) for _ in range(16))


# At 64 px all 32 textures stay. At 1024 px an image needs about five, of 4 MB each.
@lru_cache(maxsize=48)
def texture(size: tuple[int, int], broad: bool, index: int) -> Field:
    """A smooth noise, float32 (height, width) in about [-0.5, 0.5], read-only. ``index``: 0 to 15.

    Low frequencies only: per-pixel noise would be the most expensive thing in the image to compress
    and would teach a small autoencoder nothing.
    """
    width, height = size
    side = min(size)
    small = _noise_tables()[0 if broad else 1][index]
    # Pillow resamples 8-bit images in integers: the same on every machine.
    square = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), f32) / f32(255) - f32(0.5)
    # Mirrored beyond the square, which leaves no seam.
    before = (height - side) // 2, (width - side) // 2
    after = height - side - before[0], width - side - before[1]
    out = np.pad(square, tuple(zip(before, after, strict=True)), mode="symmetric")
    out.setflags(write=False)
    return out


class Canvas:
    """An image being painted: colours, and which part each pixel belongs to.

    ``image``: float32 (height, width, 3), about [0, 1]. ``labels``: uint8 (height, width), 0 = background.
    ``x``, ``y``: the coordinates that shapes are drawn in. A zoom moves them, not the shapes.
    """

    def __init__(
        self,
        size: Size,
        zoom: float = 1.0,
        center: tuple[float, float] = (32.0, 32.0),
        detail: bool = False,
    ) -> None:
        """``detail``: painters add the textures and small marks that fade out towards 64 px."""
        self.size = width, height = width_height(size)
        self.zoom, self.center = zoom, center
        # 0 up to 64 px, all from 128 px on.
        self.strength = min(max(min(self.size) / UNITS - 1, 0.0), 1.0) if detail else 0.0
        self.detail = self.strength > 0
        x, y = grid(self.size)
        self.x, self.y = x, y
        if zoom != 1.0 or center != (32.0, 32.0):
            self.x = (x - f32(32)) / f32(zoom) + f32(center[0])
            self.y = (y - f32(32)) / f32(zoom) + f32(center[1])
        self._sharpness = f32(zoom * min(self.size) / UNITS)
        # Where this canvas lies in the whole image: all of it, unless it is a part.
        self.window = slice(0, height), slice(0, width)
        self.image: Field = np.zeros((height, width, 3), f32)
        self.labels = np.zeros((height, width), np.uint8)

    def part(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """The canvas inside a box (world units, a pixel of margin added), as views: painting on it paints here.

        Shapes that lie in the box cost only its pixels, and get the same values as on the whole canvas.
        """
        margin = 1.0 / float(self._sharpness)
        columns = _span(self.x[0], left - margin, right + margin)
        rows = _span(self.y[:, 0], top - margin, bottom + margin)
        out = copy.copy(self)
        out.x, out.y = self.x[rows, columns], self.y[rows, columns]
        out.image, out.labels = self.image[rows, columns], self.labels[rows, columns]
        out.window = _inside(self.window[0], rows), _inside(self.window[1], columns)
        return out

    def broad(self, index: int) -> Field:
        """One of sixteen smooth noises of about six blobs a side, float32 (height, width) in about [-0.5, 0.5]."""
        return texture(self.size, True, index)[self.window]

    def fine(self, index: int) -> Field:
        """One of sixteen smooth noises of about nine blobs a side, as :meth:`broad`."""
        return texture(self.size, False, index)[self.window]

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
        """Paints a shape over the image. Returns the pixels that it owns if it has a label."""
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
        touched = np.flatnonzero(coverage.any(axis=1))
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

    def mark(
        self, distance: Field, color: Color, shade: Field | float = 1.0, alpha: float = 1.0, on: int = 0
    ) -> None:
        """As :meth:`paint`, on pixels labelled ``on`` alone, and only on a canvas with detail."""
        if self.detail:
            self.blend(self.cover(distance) * (self.labels == on), color, shade, alpha * self.strength)

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

    def glow(self, cx: float, cy: float, radius: float, alpha: float) -> None:
        """A soft round white highlight."""
        spot = np.clip(1 - self.circle(cx, cy, 0.0) / f32(radius), 0, 1)
        self.blend(spot, WHITE, alpha=alpha)

    def pixels(self) -> NDArray[np.uint8]:
        """The finished image, uint8 (height, width, 3)."""
        return (np.clip(self.image, 0, 1) * f32(255) + f32(0.5)).astype(np.uint8)


def _span(axis: Field, low: float, high: float) -> slice:
    """The indices of an ascending axis whose values lie in [low, high]."""
    return slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high, side="right")))


def _inside(outer: slice, inner: slice) -> slice:
    """A slice of a slice."""
    return slice(outer.start + inner.start, outer.start + inner.stop)


def union(*shapes: Field) -> Field:
    out = shapes[0]
    for shape in shapes[1:]:
        out = np.minimum(out, shape)
    return out


def cut(shape: Field, *keepers: Field) -> Field:
    """The intersection of the shape with every keeper."""
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

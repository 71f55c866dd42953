"""Fine textures of materials for large canvases: grain, weave, blades, strands.

A texture is a sum of layers, each a smooth noise on a lattice of cells in world units. A layer fades out where its
cells come near the size of a pixel, so that no texture turns into noise per pixel, and all textures are off on a canvas
of 64 px. As everywhere in this package, only operations that IEEE 754 rounds alike on every machine touch arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
from numpy.typing import NDArray

from protocols.world.canvas import UNITS, Canvas, Field, f32, wave


@dataclass(frozen=True)
class Layer:
    """One noise: the size of its cells in world units, and its amplitude as a share of the colour."""

    width: float
    height: float
    amplitude: float
    woven: bool = False
    """Threads in place of noise: a checkerboard of soft cells."""


MATERIALS: Mapping[str, tuple[Layer, ...]] = {
    "cloud": (Layer(5, 2.4, 0.30), Layer(2.2, 1.1, 0.20), Layer(1.0, 0.55, 0.12), Layer(0.45, 0.28, 0.06)),
    "grass": (Layer(0.30, 1.3, 0.34), Layer(0.7, 2.2, 0.22), Layer(3.0, 2.0, 0.16)),
    "sand": (Layer(0.22, 0.22, 0.10), Layer(0.6, 0.5, 0.08), Layer(5.0, 0.9, 0.08)),
    "snow": (Layer(0.25, 0.25, 0.03), Layer(1.2, 0.8, 0.03), Layer(6.0, 1.6, 0.06)),
    "dune": (Layer(0.25, 0.25, 0.07), Layer(7.0, 0.7, 0.16), Layer(3.0, 0.4, 0.08)),
    "water": (Layer(2.6, 0.40, 0.30), Layer(1.0, 0.22, 0.18)),
    "wood": (Layer(7.0, 0.34, 0.22), Layer(2.4, 0.16, 0.12), Layer(0.5, 0.12, 0.06)),
    "upright wood": (Layer(0.34, 7.0, 0.22), Layer(0.16, 2.4, 0.12)),
    "plaster": (Layer(0.30, 0.30, 0.03), Layer(0.9, 0.9, 0.04), Layer(3.5, 3.5, 0.04)),
    "leaves": (Layer(0.45, 0.40, 0.34), Layer(1.1, 0.9, 0.30)),
    "needles": (Layer(0.30, 0.60, 0.34), Layer(1.0, 0.5, 0.22)),
    "moon": (Layer(0.5, 0.5, 0.06), Layer(1.5, 1.4, 0.18)),
    "skin": (Layer(0.22, 0.22, 0.035), Layer(0.55, 0.6, 0.04), Layer(2.0, 2.4, 0.04)),
    "hair": (Layer(0.20, 4.5, 0.26), Layer(0.45, 7.0, 0.24), Layer(1.3, 6.0, 0.16)),
    "curls": (Layer(0.35, 0.30, 0.30), Layer(0.9, 0.8, 0.34)),
    "whiskers": (Layer(0.16, 0.7, 0.34), Layer(0.5, 0.9, 0.18)),
    "cloth": (Layer(0.30, 0.30, 0.10, woven=True), Layer(1.6, 1.4, 0.05), Layer(5.0, 7.0, 0.10)),
    "knit": (Layer(0.45, 0.40, 0.26, woven=True), Layer(2.0, 1.0, 0.08)),
    "leather": (Layer(0.22, 0.22, 0.12), Layer(0.6, 0.5, 0.10)),
    "paint": (Layer(0.16, 0.16, 0.03), Layer(6.0, 1.6, 0.09)),
    "rubber": (Layer(0.20, 0.20, 0.30), Layer(0.5, 0.5, 0.20)),
    "glass": (Layer(4.0, 1.6, 0.12),),
    "ceramic": (Layer(0.35, 0.35, 0.025), Layer(3.0, 5.0, 0.06)),
    "paper": (Layer(0.20, 0.20, 0.03), Layer(2.0, 2.0, 0.03)),
}

# Cells of a lattice's table. It repeats after so many, which no image is wide enough to show at small cells.
_TABLE = 256


@overload
def textured(canvas: Canvas, material: str, shade: Field, scale: float = 1.0) -> Field: ...
@overload
def textured(canvas: Canvas, material: str, shade: float = 1.0, scale: float = 1.0) -> Field | float: ...
def textured(canvas: Canvas, material: str, shade: Field | float = 1.0, scale: float = 1.0) -> Field | float:
    """``shade`` times a material's texture, about 1. ``shade`` itself on a canvas without detail.

    ``scale`` enlarges the cells.
    """
    return shade if not canvas.detail else relief(canvas, material, scale) * shade + shade


def relief(canvas: Canvas, material: str, scale: float = 1.0) -> Field:
    """A material's texture about 0, float32 (height, width) of the canvas: shares of a colour to add."""
    whole = _relief(canvas.size, canvas.zoom, canvas.center, material, scale, canvas.strength)
    return whole[canvas.window]


# At 1024 px each is 4 MB, and an image needs at most a dozen.
@lru_cache(maxsize=32)
def _relief(
    size: tuple[int, int],
    zoom: float,
    center: tuple[float, float],
    material: str,
    scale: float,
    strength: float,
) -> Field:
    whole = Canvas(size, zoom, center)
    across, down = whole.x[0], whole.y[:, 0]
    pixels = min(size) / UNITS * zoom
    out = np.zeros(whole.labels.shape, f32)
    for number, layer in enumerate(MATERIALS[material]):
        width, height = layer.width * scale, layer.height * scale
        # Nothing where a cell is one pixel, all from three pixels on.
        visible = min(max((min(width, height) * pixels - 1) / 2, 0.0), 1.0)
        if visible > 0:
            cells = _weave if layer.woven else _noise
            values = cells(across / f32(width), down / f32(height), number)
            out += values * f32(layer.amplitude * visible * strength)
    out.setflags(write=False)
    return out


@lru_cache(maxsize=8)
def _table(number: int) -> Field:
    rng = np.random.Generator(np.random.PCG64([11, number]))
    values = rng.integers(0, 256, (_TABLE, _TABLE), dtype=np.uint8)
    out: Field = values.astype(f32) / f32(127.5) - f32(1)
    return out


def _noise(across: Field, down: Field, number: int) -> Field:
    """Value noise in [-1, 1], float32 (H, W), from the coordinates of its columns and rows in cells."""
    table = _table(number)
    rows = _between(down, lambda index: table[index], axis=0)
    return _between(across, lambda index: np.take(rows, index, axis=1), axis=1)


def _between(position: Field, lattice: Callable[[NDArray[np.int64]], Field], axis: int) -> Field:
    """The lattice's lines at these positions, blended smoothly between one line and the next."""
    floor = np.floor(position)
    t = position - floor
    # Smoothstep: no crease at the lines.
    t = t * t * (3 - 2 * t)
    t = t[:, None] if axis == 0 else t[None]
    index = floor.astype(np.int64) % _TABLE
    one, next_one = lattice(index), lattice((index + 1) % _TABLE)
    out: Field = one + (next_one - one) * t
    return out


def _weave(across: Field, down: Field, number: int) -> Field:
    """Threads over and under each other, in [-1, 1]."""
    del number
    return wave(across / 2)[None] * wave(down / 2)[:, None]

"""Arrangements of objects for levels 2 and 3: rows, stacks, one object behind another.

Level 1 (``sample_scene``) never shows two objects of a class. Here they may repeat, and their places are known by
construction, so that a prompt can speak of them. Lengths are world units: the shorter side of an image is 64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocols.world.backdrops import BACKDROPS
from protocols.world.canvas import UNITS
from protocols.world.scenes import CATEGORIES, COLORS, Object, Scene

# From the objects to the sides of the image, and between two objects. Masks grow by 1.5, so they stay apart.
_MARGIN, _GAP = 2.0, 4.0
# Heights at which things stand on the ground. As in ``sample_scene``.
_FEET = (50.0, 60.0)


def draw_colors(rng: np.random.Generator, count: int) -> list[str]:
    """``count`` different colours."""
    return [str(name) for name in rng.permutation(list(COLORS))[:count]]


def draw_category(rng: np.random.Generator, among: Sequence[str] = tuple(CATEGORIES)) -> str:
    return among[int(rng.integers(len(among)))]


def draw_categories(
    rng: np.random.Generator, count: int, among: Sequence[str] = tuple(CATEGORIES)
) -> list[str]:
    """``count`` different classes."""
    return [str(name) for name in rng.permutation(list(among))[:count]]


def scene_of(rng: np.random.Generator, seed: int, objects: Sequence[Object]) -> Scene:
    """The objects before a random background. Later objects are painted over earlier ones."""
    return Scene(seed, BACKDROPS[int(rng.integers(len(BACKDROPS)))], tuple(objects))


def row(
    rng: np.random.Generator,
    names: Sequence[str],
    colors: Sequence[str],
    scales: tuple[float, float],
    feet: tuple[float, float] = _FEET,
) -> list[Object]:
    """Objects side by side, from left to right, of one scale: one of ``scales``, or less where the row is full.

    Kites fly. Everything else stands at a height of ``feet``.
    """
    widths = [2 * CATEGORIES[name].half_width for name in names]
    scale, lefts = _spread(rng, widths, scales)
    objects = []
    for name, color, left, width in zip(names, colors, lefts, widths, strict=True):
        height = CATEGORIES[name].height * scale
        foot = _uniform(rng, height + 2, height + 10) if CATEGORIES[name].floats else _uniform(rng, *feet)
        objects.append(Object(name, color, left + scale * width / 2, foot, scale, _object_seed(rng)))
    return objects


def stack(
    rng: np.random.Generator, names: Sequence[str], colors: Sequence[str], scales: tuple[float, float]
) -> list[Object]:
    """Objects one below the other, from top to bottom, of one scale, each anywhere between left and right."""
    heights = [CATEGORIES[name].height for name in names]
    scale, tops = _spread(rng, heights, scales)
    objects = []
    for name, color, top, height in zip(names, colors, tops, heights, strict=True):
        half = CATEGORIES[name].half_width * scale
        x = _uniform(rng, half + _MARGIN, UNITS - _MARGIN - half)
        objects.append(Object(name, color, x, top + scale * height, scale, _object_seed(rng)))
    return objects


def behind(rng: np.random.Generator, names: Sequence[str], colors: Sequence[str]) -> list[Object]:
    """Two objects: a large one, and a smaller one that stands before a side of it."""
    back, front = (CATEGORIES[name] for name in names)
    scale, near = _uniform(rng, 14, 17), _uniform(rng, 9.5, 12)
    reach = front.half_width * near
    x = _uniform(rng, back.half_width * scale + _MARGIN, UNITS - _MARGIN - back.half_width * scale)
    side = 1 if rng.random() < 0.5 else -1
    # The middle of the front object lies between 0.3 and 1 half width from that of the back one.
    beside = x + side * _uniform(rng, 0.3, 1.0) * back.half_width * scale
    beside = min(max(beside, reach + _MARGIN), UNITS - _MARGIN - reach)
    return [
        Object(names[0], colors[0], x, _uniform(rng, 50, 54), scale, _object_seed(rng)),
        Object(names[1], colors[1], beside, _uniform(rng, 57, 61), near, _object_seed(rng)),
    ]


def _spread(
    rng: np.random.Generator, lengths: Sequence[float], scales: tuple[float, float]
) -> tuple[float, list[float]]:
    """A common scale, and where each of the lengths (in units of the scale) begins along a side of the image."""
    room = UNITS - 2 * _MARGIN - _GAP * (len(lengths) - 1)
    scale = min(_uniform(rng, *scales), room / sum(lengths))
    # The rest of the room is cut at random places, so that every spacing is equally likely.
    cuts = np.sort(rng.random(len(lengths))) * (room - scale * sum(lengths))
    starts, used = [], _MARGIN
    for cut, length in zip(cuts, lengths, strict=True):
        starts.append(used + float(cut))
        used += scale * length + _GAP
    return scale, starts


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low + (high - low) * rng.random())


def _object_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))

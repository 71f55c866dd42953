"""The name of the colour that most of an object shows: a palette vote in a perceptual space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from protocols.prompts import COLORS

# Name -> sRGB in diffuse light, in the sun, in the shade, and of usual materials. One anchor for each name would call a
# shaded red brown.
_ANCHORS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((220, 40, 40), (150, 20, 25), (255, 70, 60), (190, 60, 60)),
    "orange": ((240, 140, 30), (255, 165, 60), (215, 110, 20), (250, 120, 40)),
    "yellow": ((245, 220, 50), (255, 240, 120), (200, 175, 30), (235, 200, 80)),
    "green": ((50, 160, 70), (20, 90, 40), (110, 200, 110), (110, 130, 50), (150, 210, 60)),
    "blue": ((50, 90, 210), (20, 40, 120), (110, 170, 240), (40, 130, 190), (90, 110, 160)),
    "purple": ((135, 65, 180), (80, 35, 110), (170, 120, 210)),
    "pink": ((245, 135, 180), (255, 190, 205), (225, 80, 150), (200, 110, 145)),
    "white": ((250, 250, 250), (225, 225, 225), (235, 230, 220), (222, 228, 235)),
    "black": ((12, 12, 12), (38, 38, 40), (28, 30, 36), (36, 30, 28)),
    "gray": ((128, 128, 128), (90, 90, 92), (170, 170, 172), (118, 124, 134), (140, 134, 126)),
    "brown": ((122, 76, 42), (85, 50, 25), (160, 110, 70), (60, 38, 26), (150, 125, 95)),
}

# The winner must have this share of the votes and this many times the votes of the second. An object of two colours has
# no name, and no edit that claims one.
MIN_SHARE = 0.35
MIN_LEAD = 1.3
# Shade changes lightness more than hue, so lightness counts less in the distance.
_LIGHTNESS_WEIGHT = 0.6
# Chroma in OKLab below which a pixel has no hue to vote with.
_MIN_CHROMA = 0.06
# More pixels cost time and do not change the vote: shares are accurate to about 1 % at 2048.
_MAX_PIXELS = 2048


def _oklab(srgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (N, 3) sRGB -> float32 (N, 3) OKLab: L in [0, 1], a and b about [-0.4, 0.4].

    The matrices are those of Ottosson, "A perceptual color space for image processing" (2020), from linear sRGB.
    """
    v = srgb.astype(np.float32) / 255
    # The inverse of sRGB's transfer function (IEC 61966-2-1).
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ],
        np.float32,
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ],
        np.float32,
    )
    lab: NDArray[np.float32] = np.cbrt(linear @ to_lms.T) @ to_lab.T
    return lab.astype(np.float32)


@lru_cache(maxsize=16)
def _palette(names: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """(anchors (M, 3) in OKLab with weighted lightness, index into ``names`` of each)."""
    owners = [i for i, name in enumerate(names) for _ in _ANCHORS[name]]
    anchors = np.array([anchor for name in names for anchor in _ANCHORS[name]], np.uint8)
    lab = _oklab(anchors)
    lab[:, 0] *= _LIGHTNESS_WEIGHT
    return lab, np.array(owners)


def dominant_color(pixels: NDArray[np.uint8], names: Sequence[str] = COLORS) -> str | None:
    """The name that most pixels are nearest to. None where no name leads clearly.

    ``pixels``: uint8 (N, 3) sRGB. ``names`` limits the answer: where it has no white, gray or black, pixels without
    hue (windows, tyres) do not vote.
    """
    if len(pixels) == 0:
        return None
    # Every k-th pixel in reading order, and not a random sample: the answer is part of a case's digest.
    lab = _oklab(pixels[:: -(-len(pixels) // _MAX_PIXELS)])
    if not {"white", "gray", "black"} & set(names):
        lab = lab[np.hypot(lab[:, 1], lab[:, 2]) > _MIN_CHROMA]
        if len(lab) == 0:
            return None
    lab[:, 0] *= _LIGHTNESS_WEIGHT
    anchors, owners = _palette(tuple(names))
    # |p - a|^2 = |p|^2 - 2 p.a + |a|^2: one matrix product in place of an (N, M, 3) array.
    distance = (lab**2).sum(1)[:, None] - 2 * lab @ anchors.T + (anchors**2).sum(1)[None]
    votes = np.bincount(owners[distance.argmin(axis=1)], minlength=len(names))
    # Stable: of equal votes the name that stands first in ``names`` wins on every machine.
    order = np.argsort(-votes, kind="stable")
    first = int(votes[order[0]])
    second = int(votes[order[1]]) if len(names) > 1 else 0
    if first < MIN_SHARE * len(lab) or first < MIN_LEAD * second:
        return None
    return names[int(order[0])]

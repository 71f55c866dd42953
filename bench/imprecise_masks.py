"""Imprecise masks: exact regions changed as a hurried user might have painted them.

Training with mask dropout (PromptEditDiff, section 2.F) and the protocols with sloppy masks share these changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# grow, shrink: a round dilation or erosion by 1 pixel up to ``reach`` of the side. box: every region becomes its
# bounding box, grown. blob: an ellipse of up to ``blob`` of the side is added at the region's edge. drop: a rectangle
# of up to a third of the region's bounding box is removed.
KINDS: tuple[str, ...] = ("grow", "shrink", "box", "blob", "drop")


def imprecise(
    regions: NDArray[np.bool_],
    kind: str,
    rng: np.random.Generator,
    reach: float = 0.06,
    blob: float = 0.3,
    least: float = 0.5,
) -> NDArray[np.bool_]:
    """The regions of one image, bool (R, H, W), changed as ``KINDS`` says. Empty regions stay empty.

    ``reach`` and ``blob`` are shares of the image's longer side. ``least`` is the smallest share of a region that
    remains: a change that leaves less is weakened or omitted. A region never grows into another one.
    Raises ValueError for an unknown kind.
    """
    out = regions.copy()
    side = max(regions.shape[1:])
    # One radius for all regions of the image.
    radius = max(1, int(rng.integers(1, max(2, round(reach * side) + 1))))
    for r, region in enumerate(regions):
        if not region.any():
            continue
        neighbours = np.delete(regions, r, axis=0).any(0) & ~region
        # Weaker and weaker, until enough of the region remains.
        for strength in range(radius, 0, -1):
            changed = _changed(region, kind, strength, max(2, round(blob * side)), rng) & ~neighbours
            if np.count_nonzero(changed) >= least * np.count_nonzero(region):
                out[r] = changed
                break
    return out


def _changed(
    region: NDArray[np.bool_], kind: str, radius: int, blob: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """One region, bool (H, W), changed as ``KINDS`` says."""
    height, width = region.shape
    if kind == "grow":
        return _grown(region, radius)
    if kind == "shrink":
        return ~_grown(~region, radius)
    # Bounding box, end exclusive.
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    if kind == "box":
        out = np.zeros_like(region)
        out[max(0, top - radius) : bottom + radius, max(0, left - radius) : right + radius] = True
        return out
    if kind == "blob":
        # An ellipse around a random pixel of the edge.
        edge = region & _grown(~region, 1)
        pixels = np.argwhere(edge if edge.any() else region)
        y, x = pixels[int(rng.integers(len(pixels)))]
        a, b = (1 + float(v) * blob / 2 for v in rng.random(2))
        down, along = np.ogrid[0:height, 0:width]
        ellipse: NDArray[np.bool_] = ((down - y) / a) ** 2 + ((along - x) / b) ** 2 <= 1
        return region | ellipse
    if kind == "drop":
        # A rectangle within the bounding box.
        tall = int(rng.integers(1, max(2, (bottom - top) // 3 + 1)))
        wide = int(rng.integers(1, max(2, (right - left) // 3 + 1)))
        y = int(rng.integers(top, max(top + 1, bottom - tall + 1)))
        x = int(rng.integers(left, max(left + 1, right - wide + 1)))
        out = region.copy()
        out[y : y + tall, x : x + wide] = False
        return out
    raise ValueError(f"unknown change of a mask: {kind!r}. The kinds are {', '.join(KINDS)}")


def _grown(region: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The region, bool (H, W), and every pixel within ``radius`` of it."""
    # Diamonds and squares in turn give an octagon, which is close to a disc.
    from scipy.ndimage import binary_dilation, generate_binary_structure

    out = region
    for step in range(radius):
        out = binary_dilation(out, generate_binary_structure(2, 1 + step % 2))
    return out

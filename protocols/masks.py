"""Mask geometry in plain numpy.

Masks are ``bool`` arrays of shape (H, W), True = edit. Lengths are pixels and may be fractions. Dilation and erosion
run on the mask's bounding box alone. At 64 px that is several times faster than the distance transform of
``bench.images``, and a training needs hundreds of thousands of cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

# An edit below this share of the canvas cannot be seen: 8 pixels of 64 x 64.
MIN_EDIT_SHARE = 0.002
# Below this share of kept pixels, leakage cannot be measured.
MIN_KEEP_SHARE = 0.02
# Two regions of a multi-object edit may share at most this part of the smaller one. Where they share more, one edit
# would overwrite the other, and neither could be checked alone.
MAX_OVERLAP = 0.2


def bounds(mask: Mask) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom), right and bottom exclusive. None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def dilate(mask: Mask, radius: float) -> Mask:
    """True within the Euclidean distance ``radius`` of a True pixel's centre."""
    box = bounds(mask)
    reach = int(radius)
    if box is None or reach < 1:
        return mask.copy()
    left, top, right, bottom = box
    mask_height, mask_width = bottom - top, right - left
    height, width = mask_height + 2 * reach, mask_width + 2 * reach

    # Running sums along the rows, (mask_height, width + 2 * reach + 1). A row of the disc of half width h touches the
    # mask at x where the sums at x + h + 1 and x - h differ. The columns before and behind the mask stand for outside.
    sums = np.zeros((mask_height, width + 2 * reach + 1), np.int32)
    first = 2 * reach + 1
    np.cumsum(mask[top:bottom, left:right], axis=1, out=sums[:, first : first + mask_width])
    sums[:, first + mask_width :] = sums[:, first + mask_width - 1 : first + mask_width]

    # One comparison for each row of the disc, which is symmetric above and below its centre.
    grown = np.zeros((height, width), bool)
    for row in range(reach + 1):
        half = int((radius * radius - row * row) ** 0.5)
        wide = (
            sums[:, reach + half + 1 : reach + half + 1 + width]
            > sums[:, reach - half : reach - half + width]
        )
        grown[reach - row : reach - row + mask_height] |= wide
        if row:
            grown[reach + row : reach + row + mask_height] |= wide

    # Back into the image, without what lies beyond its edges.
    result = np.zeros_like(mask)
    y0, x0 = top - reach, left - reach
    ya, xa = max(y0, 0), max(x0, 0)
    yb, xb = min(y0 + height, mask.shape[0]), min(x0 + width, mask.shape[1])
    result[ya:yb, xa:xb] = grown[ya - y0 : yb - y0, xa - x0 : xb - x0]
    return result


def erode(mask: Mask, radius: float) -> Mask:
    """False within the distance ``radius`` of a False pixel's centre. The image's edge erodes nothing."""
    return ~dilate(~mask, radius)


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pixel centres: x of shape (1, W), y of shape (H, 1)."""
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    return x, y


def rounded_box(shape: tuple[int, int], box: tuple[float, float, float, float], radius: float) -> Mask:
    """Bool (H, W) of a filled box (left, top, right, bottom) with rounded corners, in pixels.

    ``shape``: (H, W). The box may reach beyond the image. A ``radius`` over half of a side is reduced to that.
    """
    left, top, right, bottom = box
    radius = max(0.0, min(radius, (right - left) / 2, (bottom - top) / 2))
    x, y = _grid(*shape)
    # Distances from the box without its rim of ``radius``: that rim alone decides at the corners.
    dx = np.maximum(np.maximum(left + radius - x, x - (right - radius)), 0)
    dy = np.maximum(np.maximum(top + radius - y, y - (bottom - radius)), 0)
    if radius == 0:
        return np.asarray((dx <= 0) & (dy <= 0))
    return np.asarray(dx * dx + dy * dy <= radius * radius)


def square_crop(width: int, height: int, spans: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest square in an image that shows most of the spans.

    ``spans``: (low, high) along the longer side, high exclusive. Among equals it is the most central square.
    """
    side = min(width, height)
    slack = max(width, height) - side
    # The visible share is piecewise linear in the start. It is largest where a span touches an edge of the crop.
    # The third start centres a span.
    starts = {slack // 2}
    for low, high in spans:
        starts |= {min(max(start, 0), slack) for start in (low, high - side, (low + high - side) // 2)}

    def visible(start: int) -> float:
        return sum(max(0, min(high, start + side) - max(low, start)) / (high - low) for low, high in spans)

    # Rounded, because sums that differ in the last bits alone must be ties on every machine.
    start = min(starts, key=lambda start: (-round(visible(start), 6), abs(start - slack // 2), start))
    return (start, 0, start + side, side) if width > height else (0, start, side, start + side)


def union(masks: Iterable[Mask], shape: tuple[int, int]) -> Mask:
    """Bool (H, W). All False for no masks. ``shape``: (H, W)."""
    result = np.zeros(shape, bool)
    for mask in masks:
        result |= mask
    return result


def apart(masks: Sequence[Mask]) -> bool:
    """True where no two of the regions share more than ``MAX_OVERLAP`` of the smaller one."""
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            smaller = min(np.count_nonzero(one), np.count_nonzero(other))
            if np.count_nonzero(one & other) > MAX_OVERLAP * smaller:
                return False
    return True


def usable(mask: Mask) -> bool:
    """True where the mask is large enough to edit and leaves enough to measure leakage on."""
    share = np.count_nonzero(mask) / mask.size
    return bool(MIN_EDIT_SHARE <= share <= 1 - MIN_KEEP_SHARE)

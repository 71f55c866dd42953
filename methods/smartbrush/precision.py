"""Masks of different precision (paper): from the object's silhouette to its bounding box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Standard deviations of the blurs of precisions 1, 2 and 3, in pixels of an image of ``SIDE``.
SIGMAS = (1.0, 2.0, 4.0)
SIDE = 64
# The precisions are 0 (exact), 1 to 3 (blurred) and this one.
BOX = len(SIGMAS) + 1
# Number of precisions.
PRECISIONS = BOX + 1
# A threshold of Phi(-1) moves a straight edge outwards by one standard deviation of the blur. At one half, as for a
# plain blur, the mask would not grow, and thin parts of the object would lie outside.
THRESHOLD = 0.1587
# Masks that fill this share of their bounding box are taken for boxes, also where their corners are round. A disc fills
# 0.785 of its box.
BOX_FILL = 0.8
# Precision of all other masks: an outline drawn by hand.
DRAWN = 2


def at_precision(mask: NDArray[np.bool_], precision: int, margin: int = 0) -> NDArray[np.bool_]:
    """The mask of an object, bool (H, W), made as imprecise as ``precision`` (0 to ``BOX``) says.

    The result contains the object. ``margin`` grows a bounding box by so many pixels on each side. An empty mask stays
    empty. Raises ValueError for an unknown precision.
    """
    if not 0 <= precision <= BOX:
        raise ValueError(f"precision {precision}: expected 0 to {BOX}")
    if precision == 0 or not mask.any():
        return mask.copy()
    if precision == BOX:
        top, bottom, left, right = _bounds(mask)
        out = np.zeros_like(mask)
        out[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
        return out
    from scipy.ndimage import gaussian_filter

    sigma = SIGMAS[precision - 1] * max(mask.shape) / SIDE
    blurred = gaussian_filter(mask.astype(np.float32), sigma, mode="nearest")
    grown: NDArray[np.bool_] = mask | (blurred > THRESHOLD)
    return grown


def guess(mask: NDArray[np.bool_]) -> int:
    """The precision that a mask, bool (H, W), seems to have: ``BOX`` or ``DRAWN``.

    Raises ValueError for an empty mask.
    """
    if not mask.any():
        raise ValueError("an empty mask has no precision")
    top, bottom, left, right = _bounds(mask)
    fill = np.count_nonzero(mask) / ((bottom - top) * (right - left))
    return BOX if fill >= BOX_FILL else DRAWN


def changed_inside(
    source: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The object of an edit: the pixels inside ``mask`` that the edit changes, with holes filled, bool (H, W).

    ``source`` and ``truth`` are uint8 (H, W, 3). A pixel counts as changed where a channel differs by more than 8
    levels. An edit that changes nothing has its whole mask.
    """
    from scipy.ndimage import binary_fill_holes

    difference = np.abs(source.astype(np.int16) - truth).max(-1)
    # Outlines and shadows inside an object may keep their colour.
    changed: NDArray[np.bool_] = binary_fill_holes((difference > 8) & mask) & mask
    return changed if changed.any() else mask.copy()


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a mask that is not empty. Bottom and right are exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1

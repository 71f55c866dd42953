"""Masks on the coarser grid of a network: latent samples, or the pixels of a smaller image.

A network that works at 1/8 of the resolution gets a mask as one value per cell of 8 x 8 pixels. All masks here are
bool (H, W) with True = edit, and H and W are multiples of ``factor``, the side of a cell in pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How a mask that does not align with the grid is brought onto it: :func:`rescue_thin` or :func:`cover_cells`.
MaskCells = Literal["rescue", "cover"]


def on_grid(mask: NDArray[np.bool_], factor: int, cells: MaskCells) -> NDArray[np.bool_]:
    """The mask at full size as a pipeline should sample it. bool (H, W) -> bool (H, W)."""
    return cover_cells(mask, factor) if cells == "cover" else rescue_thin(mask, factor)


def rescue_thin(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """The mask, with whole cells added where it would otherwise vanish. bool (H, W) -> bool (H, W).

    diffusers' pipelines take the first pixel of each cell. A part without such a pixel would not be edited at all: a
    band 7 pixels wide (an earring, a thin moustache) can miss all of them. Here a cell with mask pixels is filled
    where neither its own first pixel nor that of any of its eight neighbours is in the mask. A mask wide enough to be
    sampled comes back unchanged, so that its results are the published pipeline's.
    """
    # [::factor] is where torch's nearest-neighbour interpolation samples.
    missed = _missed(_touched(mask, factor), mask[::factor, ::factor])
    rescued: NDArray[np.bool_] = mask | _enlarge(missed, factor)
    return rescued


def cover_cells(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """The mask, with every cell that it touches filled whole (max-pooling). bool (H, W) -> bool (H, W).

    No part of the edit region is lost at its edges. Up to ``factor - 1`` pixels around it become editable.
    """
    return _enlarge(_touched(mask, factor), factor)


def latent_mask(mask: NDArray[np.bool_], factor: int, cells: MaskCells) -> NDArray[np.bool_]:
    """The mask with one value per cell. bool (H, W) -> bool (H / factor, W / factor).

    ``rescue`` takes the middle pixel of each cell, as Pillow's nearest neighbour and the published scripts do, and
    adds the cells of parts that this misses. ``cover`` takes every cell that the mask touches.
    """
    touched = _touched(mask, factor)
    if cells == "cover":
        return touched
    # Pillow samples at (i + 0.5) * factor, rounded down, which is factor // 2 for even factors.
    sampled = mask[factor // 2 :: factor, factor // 2 :: factor]
    on_cells: NDArray[np.bool_] = sampled | _missed(touched, sampled)
    return on_cells


def _touched(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Cells with at least one mask pixel: bool (H / factor, W / factor)."""
    height, width = mask.shape
    blocks = mask.reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.any(axis=(1, 3)), dtype=np.bool_)


def _missed(touched: NDArray[np.bool_], sampled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Touched cells without a sampled cell among themselves and their eight neighbours. bool, one a cell."""
    # Imported here: finding out that weights are missing must stay quick.
    from scipy.ndimage import binary_dilation

    # A touched cell beside a sampled one is the edge of a part that is edited anyway.
    near = binary_dilation(sampled, structure=np.ones((3, 3), dtype=np.bool_))
    missed: NDArray[np.bool_] = touched & ~near
    return missed


def _enlarge(cells: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Each cell as ``factor`` x ``factor`` pixels."""
    return cells.repeat(factor, axis=0).repeat(factor, axis=1)

"""Two fills without learning, which a generator must beat, and measures of seam and detail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def mean_fill(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The hole in the mean colour of the rest. uint8 (H, W, 3), bool (H, W) => uint8 (H, W, 3)."""
    out = image.copy()
    out[hole] = np.round(image[~hole].mean(axis=0)) if (~hole).any() else 128
    return out


def diffusion_fill(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The hole filled as heat would spread into it from its border. Shapes as in :func:`mean_fill`.

    Each pixel of the hole is the mean of its neighbours: Laplace's equation, solved exactly, with the other pixels as
    boundary and no flow through the image's frame. Gray where the hole is the whole image.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import spsolve

    unknown = np.flatnonzero(hole)  # int (N,)
    out = image.copy()
    if not unknown.size:
        return out
    if hole.all():
        out[:] = 128
        return out

    # Pixel -> its equation, -1 for a pixel of the boundary.
    height, width = hole.shape
    # Pixels are numbered row by row: y * width + x.
    equation = np.full(hole.size, -1)
    equation[unknown] = np.arange(unknown.size)
    values = image.reshape(-1, 3).astype(np.float64)

    # degree * pixel - sum(neighbours in the hole) = sum(neighbours on the boundary), for each of the four sides.
    rows, columns, entries = [], [], []
    right = np.zeros((unknown.size, 3))
    degree = np.zeros(unknown.size)
    y, x = np.divmod(unknown, width)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        row = np.flatnonzero(inside)
        neighbour = (y[row] + dy) * width + x[row] + dx
        # Pixels at the frame have fewer neighbours, so no heat flows out of the image (Neumann's condition).
        degree[row] += 1
        free = equation[neighbour] >= 0
        rows.append(row[free])
        columns.append(equation[neighbour[free]])
        entries.append(np.full(int(free.sum()), -1.0))
        np.add.at(right, row[~free], values[neighbour[~free]])
    diagonal = np.arange(unknown.size)
    matrix = csr_array(
        (
            np.concatenate([*entries, degree]),
            (np.concatenate([*rows, diagonal]), np.concatenate([*columns, diagonal])),
        ),
        shape=(unknown.size, unknown.size),
    ).tocsc()

    # Every part of a hole that is not the whole image touches the boundary, so the matrix has an inverse.
    filled = np.asarray(spsolve(matrix, right)).reshape(-1, 3)
    out.reshape(-1, 3)[unknown] = np.clip(np.round(filled), 0, 255).astype(np.uint8)
    return out


def seam(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> tuple[float, int]:
    """(sum of the steps, their number) over the pairs of neighbours that the hole's border separates.

    uint8 (H, W, 3), bool (H, W). A step is the mean absolute difference of the three channels, in levels. Sums, so
    that many images pool before they are divided.
    """
    return _steps(image, hole, lambda first, second: first != second)


def detail(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> tuple[float, int]:
    """As :func:`seam`, over the pairs of neighbours that both lie in the hole. Blurring lowers it."""
    return _steps(image, hole, lambda first, second: first & second)


def _steps(
    image: NDArray[np.uint8],
    hole: NDArray[np.bool_],
    chosen: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]],
) -> tuple[float, int]:
    """(sum of the steps, their number) over the pairs that ``chosen`` takes from both pixels' values of ``hole``."""
    levels = image.astype(np.float64)
    total, count = 0.0, 0
    # Vertical pairs, then horizontal ones.
    for pixels, inside in ((levels, hole), (levels.swapaxes(0, 1), hole.T)):
        step = np.abs(np.diff(pixels, axis=0)).mean(axis=2)
        pairs = chosen(inside[:-1], inside[1:])
        total += float(step[pairs].sum())
        count += int(pairs.sum())
    return total, count

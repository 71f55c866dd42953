"""What a generator of fills must beat, and how a seam shows: fills without any learning, and the step at the border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_fill(picture: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The hole in the mean colour of the rest: uint8 (H, W, 3), bool (H, W) => uint8 (H, W, 3)."""
    out = picture.copy()
    out[hole] = np.round(picture[~hole].mean(axis=0)) if (~hole).any() else 128
    return out


def diffusion_fill(picture: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The hole as heat would fill it from its border: each of its pixels is the mean of its neighbours.

    Solves Laplace's equation exactly, with the known pixels as boundary and no flow through the picture's frame;
    gray where nothing is known. Shapes as in :func:`mean_fill`.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import spsolve

    unknown = np.flatnonzero(hole)
    out = picture.copy()
    if not unknown.size:
        return out
    if hole.all():
        out[:] = 128
        return out
    height, width = hole.shape
    place = np.full(hole.size, -1)
    place[unknown] = np.arange(unknown.size)
    known = picture.reshape(-1, 3).astype(np.float64)
    rows, columns, values = [], [], []
    right = np.zeros((unknown.size, 3))
    degree = np.zeros(unknown.size)
    y, x = np.divmod(unknown, width)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        me = np.flatnonzero(inside)
        other = (y[me] + dy) * width + x[me] + dx
        degree[me] += 1
        free = place[other] >= 0
        rows.append(me[free])
        columns.append(place[other[free]])
        values.append(np.full(int(free.sum()), -1.0))
        np.add.at(right, me[~free], known[other[~free]])
    rows.append(np.arange(unknown.size))
    columns.append(np.arange(unknown.size))
    values.append(degree)
    matrix = csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(unknown.size, unknown.size),
    ).tocsc()
    # Every part of a hole that is not the whole picture touches a known pixel, so the matrix has an inverse.
    filled = np.asarray(spsolve(matrix, right)).reshape(-1, 3)
    out.reshape(-1, 3)[unknown] = np.clip(np.round(filled), 0, 255).astype(np.uint8)
    return out


def seam(picture: NDArray[np.uint8], hole: NDArray[np.bool_]) -> tuple[float, int]:
    """Sum of |difference| over the pairs of neighbours that the hole's border separates, and how many there are.

    uint8 (H, W, 3), bool (H, W); the difference of a pair is the mean of its three channels', in levels. Sums, so
    that many pictures pool before they are divided.
    """
    levels = picture.astype(np.float64)
    total, count = 0.0, 0
    for axis in (0, 1):
        step = np.abs(np.diff(levels, axis=axis)).mean(axis=2)
        across = np.diff(hole, axis=axis)
        total += float(step[across].sum())
        count += int(across.sum())
    return total, count


def detail(picture: NDArray[np.uint8], hole: NDArray[np.bool_]) -> tuple[float, int]:
    """As :func:`seam`, over the pairs of neighbours that both lie in the hole: what blurring takes away."""
    levels = picture.astype(np.float64)
    total, count = 0.0, 0
    for axis in (0, 1):
        step = np.abs(np.diff(levels, axis=axis)).mean(axis=2)
        first = np.take(hole, np.arange(hole.shape[axis] - 1), axis=axis)
        second = np.take(hole, np.arange(1, hole.shape[axis]), axis=axis)
        both = first & second
        total += float(step[both].sum())
        count += int(both.sum())
    return total, count

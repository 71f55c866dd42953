"""Distances between two sets of feature rows, in float64: Fréchet distance, KID and CMMD.

``tests/bench/metrics/test_distances.py`` compares them with clean-fid, scipy and plain loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.metrics.types import MetricError

FloatND = NDArray[np.float64]
Rows = NDArray[np.floating]
"""Feature rows ``(N, D)``, one per image."""

# Kernel width and factor of CMMD (Jayasumana et al. 2024).
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
# Images per set up to which whole kernel matrices are kept in memory (512 MB each).
KERNEL_LIMIT = 8192
# Rows of a kernel matrix in memory at once.
BLOCK_ROWS = 2048


# -- Fréchet ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A mean ``(D,)`` and a factor ``(R, D)`` of the covariance, ``S = F.T @ F``, with R as small as possible."""

    mean: FloatND
    factor: FloatND

    @cached_property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.square(self.factor).sum())

    @classmethod
    def of_rows(cls, rows: Rows) -> Gaussian:
        """Fits feature rows ``(N, D)``. Raises :class:`MetricError` for fewer than two."""
        x = np.asarray(rows, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise MetricError("a Fréchet distance needs at least two images on either side.")
        # (D,)
        mean = x.mean(axis=0)
        # The centred rows are a factor of the unbiased covariance.
        factor = (x - mean) / np.sqrt(len(x) - 1)
        if len(x) > x.shape[1]:
            # R of a QR decomposition has D rows and the same product. Squaring would lose precision.
            factor = np.linalg.qr(factor, mode="r")
        return cls(mean, factor)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Fréchet distance |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau 1982)."""
    # With S1 = F.T F and S2 = G.T G, the trace of (S1 S2)^(1/2) is the sum of the singular values of F G.T: no matrix
    # square root, nothing complex, and little work where there are fewer images than dimensions.
    # (R1, D) @ (D, R2).
    cross = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    # Rounding may leave a tiny negative distance of equal sets.
    step = a.mean - b.mean
    return float(max(0.0, step @ step + a.trace + b.trace - 2 * cross))


# -- kernels ------------------------------------------------------------------------------------


def polynomial_kernel(x: Rows, y: Rows) -> FloatND:
    """``(N, M)`` of ``(N, D)`` and ``(M, D)``: (x.y / D + 1)^3 (Binkowski et al. 2018, section 3)."""
    kernel: FloatND = (np.asarray(x, np.float64) @ np.asarray(y, np.float64).T / x.shape[1] + 1) ** 3
    return kernel


def gaussian_kernel(x: FloatND, y: FloatND) -> FloatND:
    """``(N, M)`` of ``(N, D)`` and ``(M, D)``: exp(-|x - y|^2 / (2 sigma^2))."""
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y. Rounding may make it slightly negative.
    distance = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2 * x @ y.T
    kernel: FloatND = np.exp(-distance.clip(0) / (2 * CMMD_SIGMA**2))
    return kernel


def mmd2_unbiased(kxx: FloatND, kyy: FloatND, kxy: FloatND) -> float:
    """Unbiased squared MMD of kernel matrices (Gretton et al. 2012, eq. 3). It may be below zero."""
    n, m = kxy.shape
    # Means over pairs of different rows: the diagonal is left out.
    within_x = (kxx.sum() - np.trace(kxx)) / (n * (n - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * kxy.mean())


def kid(
    edited: Rows, reference: Rows, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Kernel inception distance: the mean unbiased MMD^2 over random subsets, drawn as clean-fid draws them.

    After ``numpy.random.seed(seed)``, ``cleanfid.fid.kernel_distance(reference, edited)`` draws the same
    subsets. Rows are ``(N, D)``. Raises :class:`MetricError` for fewer than two on either side.
    """
    x, y = np.asarray(edited, np.float64), np.asarray(reference, np.float64)
    size = min(len(x), len(y), subset_size)
    if size < 2:
        raise MetricError("a kernel distance needs at least two images on either side.")
    # The legacy generator, because clean-fid draws with it.
    draw = np.random.RandomState(seed)

    # One product per pair of images instead of one per subset, where that fits in memory.
    whole = max(len(x), len(y)) <= KERNEL_LIMIT
    kxx, kyy, kxy = (
        (polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)) if whole else (None,) * 3
    )
    # Each subset draws edited rows first, then real ones, without repeats.
    total = 0.0
    for _ in range(subsets):
        i = draw.choice(len(x), size, replace=False)
        j = draw.choice(len(y), size, replace=False)
        if kxx is not None and kyy is not None and kxy is not None:
            total += mmd2_unbiased(kxx[np.ix_(i, i)], kyy[np.ix_(j, j)], kxy[np.ix_(i, j)])
        else:
            a, b = x[i], y[j]
            total += mmd2_unbiased(polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b))
    return total / subsets


def cmmd(edited: Rows, reference: Rows) -> float:
    """CLIP maximum mean discrepancy (Jayasumana et al. 2024).

    1000 times the biased MMD^2 of unit features under a Gaussian kernel with sigma 10. Rows are ``(N, D)``. Raises
    :class:`MetricError` for an empty side.
    """
    x, y = np.asarray(edited, np.float64), np.asarray(reference, np.float64)
    if not len(x) or not len(y):
        raise MetricError("CMMD needs at least one image on either side.")
    # Biased: rows are paired with themselves too (Gretton et al. 2012, eq. 5).
    return CMMD_SCALE * (_mean_gaussian(x, x) + _mean_gaussian(y, y) - 2 * _mean_gaussian(x, y))


def _mean_gaussian(x: FloatND, y: FloatND) -> float:
    """Mean of the Gaussian kernel over all pairs."""
    total = sum(float(gaussian_kernel(x[block], y).sum()) for block in row_blocks(len(x)))
    return total / (len(x) * len(y))


def row_blocks(count: int) -> list[slice]:
    """Slices of at most ``BLOCK_ROWS`` rows, so that no whole kernel matrix is in memory."""
    return [slice(start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS)]

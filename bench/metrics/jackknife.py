"""Intervals of distances between sets, by a jackknife.

Groups of source images with their edits are left out in turn, and so are groups of real images. The two variances are
added. :func:`distance_interval` says for which quantity the interval holds. :class:`FrechetWithout` and
:class:`KernelSums` compute distances without some rows much faster than from all remaining rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metrics.distances import FloatND, Gaussian, Rows, row_blocks

LeaveOut = Callable[[NDArray[np.intp]], float]
"""A function from row indices to the distance, up to a constant, without these rows."""

Kernel = Callable[[FloatND, FloatND], FloatND]
"""A function from ``(N, D)`` and ``(M, D)`` to ``(N, M)``."""


def leave_out_groups(clusters: Sequence[str], limit: int, *, seed: int = 0) -> list[NDArray[np.intp]]:
    """Row indices in at most ``limit`` groups of whole clusters, of sizes as equal as possible.

    ``clusters`` names the cluster of each row. The clusters that share a group are drawn at random.
    """
    # Large clusters first, in random order among those of one size.
    _, owner, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    # The same number of clusters in each: 33 clusters under a limit of 32 make 17 groups, not 31 of 1 and 1 of 2.
    # Ceiling divisions.
    per_group = -(-len(sizes) // limit)
    count = -(-len(sizes) // per_group)
    # Assigned in turn: groups differ by at most one cluster, and large clusters are spread over the groups.
    group = np.empty(len(sizes), dtype=np.intp)
    group[order] = np.arange(len(sizes)) % count
    return [np.flatnonzero(group[owner] == index) for index in range(count)]


def jackknife_variance(without: LeaveOut, groups: Sequence[NDArray[np.intp]]) -> float:
    """Variance of a distance, by leaving out one group of rows at a time (Kott 2001, delete-a-group jackknife).

    It is no bootstrap, because repeated rows bias a distance between distributions and its variance.

    The jackknife overestimates the variance of a statistic that is not linear in the rows (Efron and Stein 1981): at
    small n, and between nearly equal distributions. ``tests/perf/set_intervals.py`` prints by how much.
    """
    n, count = sum(len(group) for group in groups), len(groups)
    # (groups,) changes of the distance, each without one group.
    whole = without(np.zeros(0, dtype=np.intp))
    change = np.array([without(group) - whole for group in groups])
    # A biased distance rises as rows are left out. This rise, in proportion to the remaining rows, is not random and
    # is subtracted. For groups of equal size it is the mean change.
    proportion = np.array([len(group) / (n - len(group)) for group in groups])
    scatter = change - proportion * (change.sum() / proportion.sum())
    # Kott 2001: v = (G - 1) / G * sum of squared deviations.
    return float((count - 1) / count * (scatter @ scatter))


def distance_interval(value: float, variances: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """95 % interval of a distance: ``value`` +- Student's t times its standard error, clipped at 0.

    ``variances``: ``(variance, degrees of freedom of that estimate)`` that each of the independent sets adds.

    The interval is for the expected value at this n, not for infinitely many images. A Fréchet distance and a biased
    MMD^2 fall as n rises, and the interval does not include this bias. Compare only rows of the same n.

    A distance is never negative, so both ends of the interval are at least 0. The exception is an unbiased estimate
    of an MMD^2 that is negative itself: then ``low`` is that value, and ``high`` is at least 0.
    """
    from scipy.special import stdtrit

    total = sum(variance for variance, _ in variances)
    # Sets of copies of one image have no variance and an interval of width 0.
    half = 0.0
    if total > 0:
        # Degrees of freedom of a sum of variances (Welch 1947, Satterthwaite 1946).
        degrees = total**2 / sum(variance**2 / free for variance, free in variances)
        half = float(stdtrit(degrees, 0.975) * np.sqrt(total))
    return max(value - half, min(value, 0.0)), max(value + half, 0.0)


class FrechetWithout:
    """Fréchet distances of a set of rows from one Gaussian, without some of the rows.

    The distance needs only sums of the rows and their products with the other side. Both are computed once. Each
    distance then costs the eigenvalues of one small matrix.
    """

    def __init__(self, rows: Rows, other: Gaussian) -> None:
        """``rows``: ``(N, D)``. At least two must be left each time."""
        x = np.asarray(rows, dtype=np.float64)
        mean = x.mean(axis=0)
        # Centred, because the subtractions below would lose precision on large values.
        self.rows = x - mean
        self.other = other
        self.step = mean - other.mean
        self.squares = np.square(self.rows).sum(axis=1)  # (N,)
        self.cross = self.rows @ other.factor.T  # (N, R): F G.T of frechet(), up to a factor
        # Products of the smaller side, (N, N) or (R, R). Both have the same eigenvalues but for zeros.
        self.few = len(x) <= self.cross.shape[1]
        self.products = self.cross @ self.cross.T if self.few else self.cross.T @ self.cross

    def __call__(self, left_out: NDArray[np.intp]) -> float:
        # Mean and trace of the rest. The centred rows sum to 0, so the rest sums to minus what is left out.
        n = len(self.rows) - len(left_out)
        mean = -self.rows[left_out].sum(axis=0) / n
        trace = (self.squares.sum() - self.squares[left_out].sum() - n * (mean @ mean)) / (n - 1)

        # The rest's products with the other side, centred anew.
        if self.few:
            # Double centring of the (n, n) products.
            rest = np.delete(np.arange(len(self.rows)), left_out)
            product = self.products[np.ix_(rest, rest)]
            towards = product.mean(axis=0)
            product = product - towards[:, None] - towards + towards.mean()
        else:
            # (R, R): subtract the removed rows' products and the correction of the mean.
            removed = self.cross[left_out]
            total = removed.sum(axis=0)
            product = self.products - removed.T @ removed - np.outer(total, total) / n

        # Singular values of F G.T are the roots of the eigenvalues of its product with itself.
        # clip: eigenvalues of a positive semidefinite matrix may be slightly negative by rounding.
        singular = np.sqrt(np.linalg.eigvalsh(product / (n - 1)).clip(0)).sum()
        step = self.step + mean
        return float(max(0.0, step @ step + trace + self.other.trace - 2 * singular))


@dataclass(frozen=True, eq=False)
class KernelSums:
    """Sums of a kernel over the rows of one set, from which those without some rows follow quickly."""

    kernel: Kernel
    rows: FloatND
    """``(N, D)``"""
    sums: FloatND
    """``(N,)``: sum of the kernel of each row with every row, itself included."""
    own: FloatND
    """``(N,)``: kernel of each row with itself."""

    @classmethod
    def of_rows(cls, kernel: Kernel, rows: Rows) -> KernelSums:
        """Sums the kernel over rows ``(N, D)``."""
        x = np.asarray(rows, dtype=np.float64)
        sums, own = np.empty(len(x)), np.empty(len(x))
        for block in row_blocks(len(x)):
            # (block, N)
            part = kernel(x[block], x)
            sums[block] = part.sum(axis=1)
            own[block] = np.diagonal(part[:, block])
        return cls(kernel, x, sums, own)

    def mmd2_without(self, towards: FloatND, *, unbiased: bool) -> LeaveOut:
        """The squared MMD without some rows, less the constant that the other set alone adds.

        ``towards``: ``(N,)``, the mean kernel of each row with the other set. ``unbiased`` pairs no row with itself.
        """

        def distance(left_out: NDArray[np.intp]) -> float:
            n = len(self.rows) - len(left_out)
            removed = self.rows[left_out]
            # All pairs less those with a removed row. Pairs of two removed rows are subtracted twice and added back.
            within = self.sums.sum() - 2 * self.sums[left_out].sum() + self.kernel(removed, removed).sum()
            # A biased estimate pairs rows with themselves.
            pairs = n * n
            if unbiased:
                within -= self.own.sum() - self.own[left_out].sum()
                pairs -= n
            return float(within / pairs - 2 * (towards.sum() - towards[left_out].sum()) / n)

        return distance


def mean_kernels(kernel: Kernel, x: FloatND, y: FloatND) -> tuple[FloatND, FloatND]:
    """``(N,)`` and ``(M,)``: the mean kernel of each row of either set with the other set."""
    of_x, of_y = np.empty(len(x)), np.zeros(len(y))
    for block in row_blocks(len(x)):
        # (block, M)
        part = kernel(x[block], y)
        of_x[block] = part.mean(axis=1)
        of_y += part.sum(axis=0)
    return of_x, of_y / len(x)

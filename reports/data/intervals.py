"""Means with intervals, for all columns of a table at once.

One set of resamples serves every method and metric of a protocol, so a table costs a matrix product instead of one
bootstrap per cell. Intervals are those of ``bench.stats``, clustered on the source image. A metric declares whether
its values are yes-or-no outcomes, whose mean is a share.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError
from bench.stats import LEAST_CLUSTERS, mean_ends, share_difference_ends, share_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    BoolND = NDArray[np.bool_]
    IndexND = NDArray[np.intp]


class StatisticsError(BenchError):
    """A statistic that cannot be computed. The message names the remedy."""


@dataclass(frozen=True, eq=False)
class Means:
    """Means of K columns, as arrays ``(K,)``. NaN where there is no value or no interval."""

    value: FloatND
    low: FloatND
    high: FloatND
    # Number of values.
    n: IndexND
    # Number of source images that have a value.
    clusters: IndexND


def cluster_sums(values: FloatND, cluster: IndexND) -> tuple[FloatND, FloatND]:
    """Sums and numbers of values of each cluster, both ``(C, K)``, from ``(U, K)`` with NaN and ``(U,)``."""
    # Units sorted by cluster, so that one reduction adds up each run of equal clusters.
    # A stable sort: values are added in the order of the units, so the sums do not depend on the sort's algorithm.
    order = np.argsort(cluster, kind="stable")
    _, starts = np.unique(cluster[order], return_index=True)
    in_order = values[order]
    present = ~np.isnan(in_order)
    sums = np.add.reduceat(np.where(present, in_order, 0.0), starts, axis=0)
    return sums, np.add.reduceat(present.astype(np.float64), starts, axis=0)


def number_clusters(cluster: IndexND) -> IndexND:
    """The same clusters, numbered from 0 in order of first appearance, so that their names change no result."""
    # np.unique numbers the clusters by their names. Their first units give the order of appearance.
    _, first, inverse = np.unique(cluster, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.intp)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse.ravel()]


def plain_means(values: FloatND, cluster: IndexND) -> tuple[Means, FloatND, FloatND]:
    """Means without intervals, with the sums and numbers ``(C, K)`` of :func:`cluster_sums`."""
    columns = values.shape[1]
    nothing = np.full(columns, np.nan)
    if not len(values) or not columns:
        zeros = np.zeros(columns, np.intp)
        return Means(nothing, nothing, nothing, zeros, zeros), np.zeros((0, columns)), np.zeros((0, columns))
    # Without renumbering, which clusters a seed draws would depend on how the caller numbers them.
    sums, sizes = cluster_sums(values, number_clusters(cluster))
    # (K,): a column without values has n = 0 and the mean NaN.
    n = sizes.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A sum over all values, not a sum of cluster sums, which would round differently.
        value = np.where(n > 0, np.nansum(values, axis=0) / n, np.nan)
    return Means(value, nothing, nothing, n.astype(np.intp), (sizes > 0).sum(axis=0)), sums, sizes


def bootstrap_means(values: FloatND, cluster: IndexND, *, draws: int = 2000, seed: int = 0) -> Means:
    """The mean of each column of ``(U, K)`` with its 95 % interval, from the studentised bootstrap over clusters.

    NaN is no value. A column with values in fewer than ``bench.stats.LEAST_CLUSTERS`` clusters has no interval. The
    interval of a constant is its value. See ``bench.stats.mean_ends``.
    """
    # U units in C clusters; mean_ends resamples clusters, each with its sum and its size.
    plain, sums, sizes = plain_means(values, cluster)
    low, high = mean_ends(sums, sizes, draws=draws, seed=seed)
    # A constant is shown as it is, without the rounding errors of its mean.
    valued = np.flatnonzero(plain.n)
    lowest, constant = np.full(len(plain.n), np.nan), plain.n > 0
    if len(valued):
        lowest[valued] = np.nanmin(values[:, valued], axis=0)
        constant[valued] = lowest[valued] == np.nanmax(values[:, valued], axis=0)
    value = np.where(constant, lowest, plain.value)
    # A few source images say nothing of how others would score, also where all their edits score the same.
    constant &= plain.clusters >= LEAST_CLUSTERS
    return Means(
        value, np.where(constant, value, low), np.where(constant, value, high), plain.n, plain.clusters
    )


def shares(values: FloatND, cluster: IndexND) -> Means:
    """The share of yes in each column of ``(U, K)`` of 0 and 1, with its 95 % interval. NaN is no value.

    See ``bench.stats.share_ends``. Raises :class:`StatisticsError` for values outside [0, 1].
    """
    plain, sums, sizes = plain_means(values, cluster)
    try:
        low, high = share_ends(sums, sizes)
    except ValueError as error:
        raise StatisticsError(f"{error} Score the run again, or correct the unit of the metric.") from error
    return Means(plain.value, low, high, plain.n, plain.clusters)


def summarise(
    values: FloatND, cluster: IndexND, outcome: BoolND, *, draws: int = 2000, seed: int = 0
) -> Means:
    """:func:`shares` of the columns with ``outcome`` ``(K,)``, :func:`bootstrap_means` of the others."""
    means = bootstrap_means(values[:, ~outcome], cluster, draws=draws, seed=seed)
    return _interleaved(outcome, shares(values[:, outcome], cluster), means)


def differences(
    a: FloatND, b: FloatND, cluster: IndexND, outcome: BoolND, *, draws: int = 2000, seed: int = 0
) -> Means:
    """The mean of ``a - b`` for each column of ``(U, K)``, over the units that have both, with its 95 % interval.

    Columns with ``outcome`` ``(K,)`` are paired shares (``bench.stats.share_difference_ends``). The others have the
    interval of :func:`bootstrap_means` of the differences.
    """
    gap = a - b
    # Paired shares: only units with both outcomes count.
    # NaN on one side makes the difference NaN, and removes the unit from both sides.
    yes_a, yes_b = (np.where(np.isnan(gap), np.nan, side)[:, outcome] for side in (a, b))
    plain, sums_a, sizes = plain_means(yes_a, cluster)
    _, sums_b, _ = plain_means(yes_b, cluster)
    low, high = share_difference_ends(sums_a, sums_b, sizes)
    value = plain_means(gap[:, outcome], cluster)[0].value
    means = bootstrap_means(gap[:, ~outcome], cluster, draws=draws, seed=seed)
    return _interleaved(outcome, Means(value, low, high, plain.n, plain.clusters), means)


def _interleaved(is_first: BoolND, first: Means, second: Means) -> Means:
    """Columns of ``first`` where ``is_first`` is True, of ``second`` elsewhere, each in order."""
    # The inverse of the permutation that puts the first kind of columns before the second.
    place = np.argsort(np.concatenate([np.flatnonzero(is_first), np.flatnonzero(~is_first)]))
    return Means(
        *(
            np.concatenate([getattr(first, field.name), getattr(second, field.name)])[place]
            for field in fields(Means)
        )
    )

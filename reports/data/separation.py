"""Tests which methods of a column are separable from its best method."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL
from bench.stats import max_t
from reports.data.intervals import cluster_sums, number_clusters
from reports.data.metrics import is_success
from reports.data.scores import ProtocolScores, RunScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    IndexND = NDArray[np.intp]

# Two methods are separable where the adjusted p-value is smaller.
ALPHA = 0.05
# Sign flips of a test.
FLIPS = 10_000

# (protocol, metric, category) -> method's title -> adjusted p-value of its difference from the best method.
Separation = Mapping[tuple[str, str, str], Mapping[str, float]]


def separations(
    scores: RunScores, higher_is_better: Mapping[str, bool], *, seed: int = 0
) -> dict[tuple[str, str, str], dict[str, float]]:
    """Adjusted p-values of the differences from the best method, for every column of the tables.

    Controls take no part. The best method is chosen from the same data, so all pairs of methods of one column are
    tested as one family (``bench.stats.max_t``). Categories are tested for metrics of success alone, which have
    tables per category.
    """
    p_values: dict[tuple[str, str, str], dict[str, float]] = {}
    for protocol_scores in scores.protocols.values():
        # A single method has no other method to be compared with.
        if len(protocol_scores.contenders) < 2:
            continue
        # Metrics without a direction have no best method.
        tested = [name for name in higher_is_better if name in protocol_scores.metrics]
        for category in (ALL, *protocol_scores.categories):
            metrics = [name for name in tested if category == ALL or is_success(name)]
            if metrics and len(protocol_scores.units(category)):
                directions = {name: higher_is_better[name] for name in metrics}
                p_values.update(_of_category(protocol_scores, category, directions, seed))
    return p_values


def _of_category(
    scores: ProtocolScores, category: str, higher_is_better: Mapping[str, bool], seed: int
) -> Iterator[tuple[tuple[str, str, str], dict[str, float]]]:
    metrics, units, rivals = list(higher_is_better), scores.units(category), scores.contenders
    columns = np.array([scores.metrics.index(name) for name in metrics], dtype=np.intp)
    values = scores.values[np.ix_(units, rivals, columns)]  # (U, rivals, metrics), NaN: no value

    # The best method of each metric, by its mean.
    n = (~np.isnan(values)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nansum(values, axis=0) / n
    # Turned so that the largest mean is the best. A method without values is never the best.
    sign = np.array([1.0 if higher_is_better[name] else -1.0 for name in metrics])
    best = np.where(n > 0, means * sign, -np.inf).argmax(axis=0)

    # One family of pairs per metric. All families share their flips.
    families = [pair_sums(values[:, :, k], scores.cluster[units]) for k in range(len(metrics))]
    draws = flips_for(len(families[0][1]))
    adjusted = max_t([sums for _, sums in families], draws=draws, seed=seed)
    titles = [scores.titles[index] for index in rivals]
    for k, metric in enumerate(metrics):
        p_values = {
            # Of each pair with the best method, the other one.
            titles[j if i == best[k] else i]: float(p)
            for (i, j), p in zip(families[k][0], adjusted[k], strict=True)
            if best[k] in (i, j)
        }
        yield (scores.protocol, metric, category), p_values


def pair_sums(values: FloatND, cluster: IndexND) -> tuple[list[tuple[int, int]], FloatND]:
    """The pairs of methods of ``(U, M)`` that share units, and the sums ``(C, P)`` of their differences."""
    # (P, 2) columns of the two methods of each pair.
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    # reshape: without a pair the array would have one dimension, and could not be unpacked.
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    sums, sizes = cluster_sums(values[:, first] - values[:, second], number_clusters(cluster))
    shared = np.flatnonzero(sizes.sum(axis=0) > 0)
    return [pairs[index] for index in shared], sums[:, shared]


def flips_for(clusters: int) -> int:
    """Number of sign flips: fewer for more than 5,000 clusters, whose sums are nearly normal anyway."""
    # A test costs flips * clusters * pairs.
    return FLIPS if clusters <= 5000 else 2000

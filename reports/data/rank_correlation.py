"""Spearman's rank correlation of many pairs of columns, with cluster bootstrap intervals.

No resample is built. The ranks of a sample with repeats follow from the weights of its values, so each draw costs one
pass over values that were sorted once. ``scipy.stats.spearmanr`` on each resample gives the same and is slower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.data.intervals import number_clusters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    IndexND = NDArray[np.intp]

# Value, low, high, n, clusters. Low and high are NaN where there is no interval.
Correlation = tuple[float, float, float, int, int]

# Weights of one bootstrap. More edits get fewer draws, but never fewer than ``_FEWEST_DRAWS``.
_WEIGHTS = 4_000_000
_FEWEST_DRAWS, _MOST_DRAWS = 200, 1000
# Draws that are ranked at once. Their weights stay in the processor's cache.
_BLOCK = 16


def spearman(
    x: FloatND, y: FloatND, cluster: IndexND, *, seed: int = 0
) -> dict[tuple[int, int], Correlation]:
    """Rank correlation of every column of ``(N, K)`` with every column of ``(N, T)``. NaN is no value.

    Pairs of columns with fewer than three values or with a constant side are left out. Intervals are those of the
    percentile bootstrap over clusters.
    """
    # Pairs of columns with the same missing values are ranked together. Mostly no value is missing.
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for k in range(x.shape[1]):
        for t in range(y.shape[1]):
            complete = ~np.isnan(x[:, k]) & ~np.isnan(y[:, t])
            # The bytes of the mask are a key that can be hashed.
            groups.setdefault(complete.tobytes(), []).append((k, t))
    correlations: dict[tuple[int, int], Correlation] = {}
    for key, pairs in groups.items():
        complete = np.frombuffer(key, dtype=bool)
        correlations.update(_complete_pairs(x[complete], y[complete], cluster[complete], pairs, seed))
    return {pair: correlations[pair] for pair in sorted(correlations)}


def _complete_pairs(
    x: FloatND, y: FloatND, cluster: IndexND, pairs: Sequence[tuple[int, int]], seed: int
) -> dict[tuple[int, int], Correlation]:
    n = len(x)
    pairs = [(k, t) for k, t in pairs if n >= 3 and np.ptp(x[:, k]) > 0 and np.ptp(y[:, t]) > 0]
    if not pairs:
        return {}
    # Every column is sorted once, whatever the number of its pairs and of the draws.
    columns = {("x", k): SortedColumn.of(x[:, k]) for k, _ in pairs}
    columns |= {("y", t): SortedColumn.of(y[:, t]) for _, t in pairs}
    owner = number_clusters(cluster)
    count = int(owner.max()) + 1
    # The sample itself: every weight is 1.
    value = weighted_spearman(columns, pairs, np.ones((1, n)))[0]
    if count < 2:
        return {pair: (float(v), math.nan, math.nan, n, count) for pair, v in zip(pairs, value, strict=True)}

    # Bootstrap: each draw gives every cluster a multinomial weight.
    # The cost is draws times edits. More edits need fewer draws, since their intervals are narrow.
    draws = int(min(_MOST_DRAWS, max(_FEWEST_DRAWS, _WEIGHTS // n)))
    generator = np.random.default_rng(seed)
    # Drawing C clusters with replacement is the same as drawing how often each one occurs.
    even = np.full(count, 1 / count)
    blocks = [_BLOCK] * (draws // _BLOCK) + [draws % _BLOCK] * (draws % _BLOCK > 0)
    samples = np.concatenate(
        [
            weighted_spearman(
                columns, pairs, generator.multinomial(count, even, size=rows)[:, owner].astype(np.float64)
            )
            for rows in blocks
        ]
    )  # (draws, pairs)

    # A draw with a constant side has no correlation. With too few others there is no interval.
    correlations: dict[tuple[int, int], Correlation] = {}
    for index, pair in enumerate(pairs):
        finite = samples[np.isfinite(samples[:, index]), index]
        low, high = np.quantile(finite, [0.025, 0.975]) if 2 * len(finite) >= draws else (math.nan, math.nan)
        correlations[pair] = (float(value[index]), float(low), float(high), n, count)
    return correlations


@dataclass(frozen=True, eq=False)
class SortedColumn:
    """The order of a column's N values."""

    # ``(N,)``: indices that sort the values.
    order: IndexND
    # Position in that order at which each distinct value begins.
    starts: IndexND
    # ``(N,)``: number of the distinct value that each value has.
    group: IndexND

    @classmethod
    def of(cls, values: FloatND) -> SortedColumn:
        # Equal values have one number, and so share their rank.
        distinct, group = np.unique(values, return_inverse=True)
        order = np.argsort(group, kind="stable")
        return cls(order, np.searchsorted(group[order], np.arange(len(distinct))), group)

    def ranks(self, weights: FloatND) -> FloatND:
        """``(B, N)`` mean ranks, minus their mean, of samples in which value i occurs ``weights[b, i]`` times."""
        # Equal values share the mean of their ranks: those before them, plus half of their number.
        counts = weights.take(self.order, axis=1)
        # Mostly no two values are equal. Then there is nothing to add up.
        if len(self.starts) < len(self.order):
            counts = np.add.reduceat(counts, self.starts, axis=1)
        middle = np.cumsum(counts, axis=1)
        total = middle[:, -1:].copy()
        middle -= (counts - 1) / 2
        # The ranks 1 to n always have the mean (n + 1) / 2.
        middle -= (total + 1) / 2
        return middle.take(self.group, axis=1)


def weighted_spearman(
    columns: Mapping[tuple[str, int], SortedColumn], pairs: Sequence[tuple[int, int]], weights: FloatND
) -> FloatND:
    """``(B, pairs)``: Pearson's correlation of the ranks of each weighted sample. ``weights``: ``(B, N)``."""
    ranks = {key: column.ranks(weights) for key, column in columns.items()}
    # One side carries the weights, so that each product below needs them once.
    weighted = {key: weights * values for key, values in ranks.items() if key[0] == "y"}
    spread = {key: np.sqrt(np.einsum("bi,bi,bi->b", weights, v, v)) for key, v in ranks.items()}
    # r = sum w x y / sqrt(sum w x^2 * sum w y^2), with centred ranks x and y.
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(
            [
                np.einsum("bi,bi->b", ranks["x", k], weighted["y", t]) / (spread["x", k] * spread["y", t])
                for k, t in pairs
            ],
            axis=1,
        )

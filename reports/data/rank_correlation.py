"""Spearman's rank correlation of many columns with verdicts of yes or no, with cluster bootstrap intervals.

No resample is built. The ranks of a sample with repeats follow from the weights of its values, so each draw costs one
running sum over values that were sorted once. ``scipy.stats.spearmanr`` on each resample gives the same and is slower.

With a verdict of n1 yes and n0 no, T = n0 + n1 weights, and m_i the middle of value i's place in the order,

    r = T / 2 * (sum_{i: yes} w_i m_i - n1 T / 2) / sqrt(n0 n1 T / 4 * (T^3 - sum_g c_g^3) / 12),

where c_g are the weights of the groups of equal values (Kendall 1970, chapter 3, for ties on both sides). Without
equal values, m_i is the running sum of the weights up to i, less w_i / 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.stats import resamples
from reports.data.intervals import number_clusters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    IntND = NDArray[np.int32]
    IndexND = NDArray[np.intp]

# Value, low, high, n, clusters. Low and high are NaN where there is no interval.
Correlation = tuple[float, float, float, int, int]

# Weights of one bootstrap. More edits get fewer draws, but never fewer than ``_FEWEST_DRAWS``.
_WEIGHTS = 4_000_000
_FEWEST_DRAWS, _MOST_DRAWS = 200, 1000
# Weights that are ranked at once, which stay in the processor's cache.
_BLOCK = 1 << 16


def spearman(
    x: FloatND, verdicts: FloatND, cluster: IndexND, *, seed: int = 0
) -> dict[tuple[int, int], Correlation]:
    """Rank correlation of every column of ``x`` ``(N, K)`` with every column of ``verdicts`` ``(N, T)``.

    NaN is no value. A verdict is yes above 0.5. Pairs of columns with fewer than three values or with a constant side
    are left out. Intervals are those of the percentile bootstrap over clusters.
    """
    # Pairs of columns with the same missing values are ranked together. Mostly no value is missing.
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for k in range(x.shape[1]):
        for t in range(verdicts.shape[1]):
            complete = ~np.isnan(x[:, k]) & ~np.isnan(verdicts[:, t])
            # The bytes of the mask are a key that can be hashed.
            groups.setdefault(complete.tobytes(), []).append((k, t))
    correlations: dict[tuple[int, int], Correlation] = {}
    for key, pairs in groups.items():
        complete = np.frombuffer(key, dtype=bool)
        correlations.update(
            _complete_pairs(x[complete], verdicts[complete] > 0.5, cluster[complete], pairs, seed)
        )
    return {pair: correlations[pair] for pair in sorted(correlations)}


def _complete_pairs(
    x: FloatND,
    verdicts: NDArray[np.bool_],
    cluster: IndexND,
    pairs: Sequence[tuple[int, int]],
    seed: int,
) -> dict[tuple[int, int], Correlation]:
    n = len(x)
    pairs = [(k, t) for k, t in pairs if n >= 3 and np.ptp(x[:, k]) > 0 and 0 < verdicts[:, t].sum() < n]
    if not pairs:
        return {}
    # Every column is sorted once, whatever the number of its pairs and of the draws.
    owner = number_clusters(cluster)
    count = int(owner.max()) + 1
    columns = {k: SortedColumn.of(x[:, k], verdicts, owner) for k, _ in pairs}

    # The sample itself: every weight is 1.
    value = weighted_spearman(columns, pairs, np.ones((1, count), np.int32))[0]
    if count < 2:
        return {pair: (float(v), math.nan, math.nan, n, count) for pair, v in zip(pairs, value, strict=True)}

    # Bootstrap: each draw gives every cluster a multinomial weight.
    # The cost is draws times edits. More edits need fewer draws, since their intervals are narrow.
    draws = int(min(_MOST_DRAWS, max(_FEWEST_DRAWS, _WEIGHTS // n)))
    blocks = resamples(count, draws, seed, rows=max(1, _BLOCK // n))
    samples = np.concatenate([weighted_spearman(columns, pairs, block) for block in blocks])

    # A draw with a constant side has no correlation. With too few others there is no interval.
    correlations: dict[tuple[int, int], Correlation] = {}
    for index, pair in enumerate(pairs):
        finite = samples[np.isfinite(samples[:, index]), index]
        low, high = np.quantile(finite, [0.025, 0.975]) if 2 * len(finite) >= draws else (math.nan, math.nan)
        correlations[pair] = (float(value[index]), float(low), float(high), n, count)
    return correlations


@dataclass(frozen=True, eq=False)
class SortedColumn:
    """N values in ascending order."""

    # ``(N,)``: cluster of each value.
    owner: IndexND
    # ``(N, T)``: verdicts, 0 or 1.
    verdicts: FloatND
    # ``(G,)``: position of the last one of each group of equal values.
    ends: IndexND
    # ``(N,)``: number of the group of each value.
    group: IndexND
    # ``(C,)``: number of values of each cluster, and ``(C, T)``: number of those whose verdict is yes.
    sizes: IndexND
    yes: FloatND

    @classmethod
    def of(cls, values: FloatND, verdicts: NDArray[np.bool_], owner: IndexND) -> SortedColumn:
        """``values`` ``(N,)``, ``verdicts`` ``(N, T)``, ``owner`` ``(N,)``: cluster numbers from 0."""
        order = np.argsort(values, kind="stable")
        in_order = values[order]
        is_last = np.append(in_order[1:] != in_order[:-1], True)
        group = np.append(0, np.cumsum(is_last)[:-1])
        sizes = np.bincount(owner)
        yes = np.zeros((len(sizes), verdicts.shape[1]))
        # `np.add.at` adds for every value. Plain indexing would add once per cluster.
        np.add.at(yes, owner, verdicts)
        return cls(
            owner[order],
            verdicts[order].astype(np.float64),
            np.flatnonzero(is_last),
            group,
            sizes,
            yes,
        )

    def correlations(self, weights: IntND) -> FloatND:
        """``(B, T)``: with each verdict, in samples in which cluster c occurs ``weights[b, c]`` times."""
        # All sums below are exact: of integers, halves and quarters.
        # Running sums of integers are several times faster than those of floats.
        in_order = weights.take(self.owner, axis=1)  # (B, N)
        upto = np.cumsum(in_order, axis=1, dtype=np.int32)
        total = upto[:, -1:].astype(np.float64)
        occurs = weights.astype(np.float64)
        yes = occurs @ self.yes  # n1, (B, T)
        # The middle of each group's place in the order. Mostly no two values are equal.
        if len(self.ends) == len(self.group):
            cubes = occurs**3 @ self.sizes
            # sum_{i: yes} w_i m_i. No product of a weight and a running sum is larger than N times the largest weight
            # squared: mostly 32 bits are enough.
            fits = len(self.owner) * int(weights.max(initial=0)) ** 2 < 2**31
            products = np.multiply(upto, in_order, dtype=np.int32 if fits else np.int64)
            ranked = products.astype(np.float64) @ self.verdicts - occurs**2 @ self.yes / 2
        else:
            upto = upto.take(self.ends, axis=1)
            counts = np.diff(upto, axis=1, prepend=0).astype(np.float64)
            cubes = np.einsum("bi,bi,bi->b", counts, counts, counts)
            middle = (upto - counts / 2).take(self.group, axis=1)
            ranked = (middle * in_order) @ self.verdicts
        # The equation of the module's docstring.
        above = ranked - yes * total / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = yes * (total - yes) * total / 4 * (total**3 - cubes[:, None]) / 12
            result: FloatND = total / 2 * above / np.sqrt(spread)
        return result


def weighted_spearman(
    columns: Mapping[int, SortedColumn], pairs: Sequence[tuple[int, int]], weights: IntND
) -> FloatND:
    """``(B, pairs)``: rank correlations of samples in which cluster c occurs ``weights[b, c]`` times."""
    correlations = {k: column.correlations(weights) for k, column in columns.items()}
    return np.stack([correlations[k][:, t] for k, t in pairs], axis=1)

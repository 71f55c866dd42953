"""Statistics of scores: intervals, paired tests, corrections, rank correlation. Pure functions of arrays.

Scores of cases that share a source image are not independent, so whatever resamples here resamples whole
clusters (source images). Everything random takes a seed and is a pure function of it. None among values is
the caller's to drop and to count: these functions refuse what is not finite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK = 1 << 22
"""Numbers of one block of resampling weights: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; ``low`` and ``high`` are None where no interval can be had."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Values."""
    clusters: int

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals share a point; an absent interval is the point itself."""
        low, high = (self.value if end is None else end for end in (self.low, self.high))
        other_low, other_high = (other.value if end is None else end for end in (other.low, other.high))
        return low <= other_high and other_low <= high


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean with its percentile interval, from resampling clusters with replacement.

    A resample is a multinomial count per cluster; its mean is that of all values of the clusters drawn.
    ``clusters`` default to one per value. With one cluster there is no interval. Raises ValueError for no
    values or for values that are not finite.
    """
    x, owner, count = _clustered(values, clusters)
    sums, sizes = np.bincount(owner, x, count), np.bincount(owner, minlength=count).astype(np.float64)
    mean = float(x.mean())
    if count < 2:
        return Interval(mean, None, None, len(x), count)
    means = np.concatenate([(weights @ sums) / (weights @ sizes) for weights in _weights(count, draws, seed)])
    low, high = _percentiles(means, level)
    return Interval(mean, low, high, len(x), count)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[Hashable],
    *,
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Any statistic of a selection of values (given by index, with repeats), with its percentile interval.

    Draws on which the statistic is not finite are left out; where that is more than half, there is no
    interval.
    """
    owner, count = _codes(clusters)
    everything = np.arange(len(owner))
    value = float(statistic(everything))
    members = [np.flatnonzero(owner == cluster) for cluster in range(count)]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws if count > 1 else 0):
        drawn = generator.integers(count, size=count)
        found.append(float(statistic(np.concatenate([members[cluster] for cluster in drawn]))))
    finite = np.array([v for v in found if math.isfinite(v)])
    if count < 2 or 2 * len(finite) < draws:
        return Interval(value, None, None, len(owner), count)
    low, high = _percentiles(finite, level)
    return Interval(value, low, high, len(owner), count)


@dataclass(frozen=True)
class PairedTest:
    """The mean of ``a - b`` over the same cases, and how surprising it is if neither is better."""

    difference: float
    p: float
    """Two-sided."""
    n: int
    clusters: int
    exact: bool
    """Whether every sign flip was tried."""


def paired_permutation(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Sign-flip test of paired scores: within a cluster, all differences change sign together.

    Statistic: the absolute mean difference. All 2^C flips where those are at most ``draws``, else ``draws``
    random ones, of which the observed one counts as one more (Phipson and Smyth 2010), so that p is never 0.
    """
    x, y = _finite(a), _finite(b)
    if len(x) != len(y):
        raise ValueError(f"paired scores differ in number: {len(x)} and {len(y)}.")
    difference, owner, count = _clustered(x - y, clusters)
    sums = np.bincount(owner, difference, count)
    observed = abs(sums.sum())
    # Flips that tie with the observed one must count, whatever order they were added in.
    bound = observed - 1e-12 * max(1e-300, np.abs(sums).sum())
    exact = count < 63 and 2**count <= draws
    if exact:
        flips = np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
        p = float((np.abs(flips @ sums) >= bound).mean())
    else:
        generator = np.random.default_rng(seed)
        beyond = 0
        for rows in _blocks(count, draws):
            signs = generator.integers(0, 2, size=(rows, count), dtype=np.int8) * 2.0 - 1.0
            beyond += int((np.abs(signs @ sums) >= bound).sum())
        p = (beyond + 1) / (draws + 1)
    return PairedTest(float(difference.mean()), p, len(difference), count, exact)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given; controls the family-wise error."""
    p = _finite(p_values, empty=True)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p-values lie between 0 and 1.")
    order = np.argsort(p, kind="stable")
    steps = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps * p[order]))
    return adjusted


def wilson(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """A share with Wilson's score interval (Wilson 1927): right near 0 and 1, for independent trials.

    Halves are allowed: a tie may count as half a success. The interval is then a little too wide.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At the ends the formula is exact; rounding is not.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high, n, n)


Rank = Literal["spearman", "kendall"]


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    kind: Rank = "spearman",
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Spearman's rho, or Kendall's tau-b, with its bootstrap interval. Ties get their mean rank.

    The value is NaN where one side is constant.
    """
    a, b = _finite(x), _finite(y)
    if len(a) != len(b):
        raise ValueError(f"values to correlate differ in number: {len(a)} and {len(b)}.")
    measure = spearman if kind == "spearman" else kendall
    return bootstrap(
        lambda chosen: measure(a[chosen], b[chosen]),
        clusters if clusters is not None else range(len(a)),
        draws=draws,
        level=level,
        seed=seed,
    )


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of the ranks; NaN where one side is constant."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Tau-b (Kendall 1945), which corrects for ties; NaN where one side is constant. Quadratic in n."""
    a, b = _finite(x), _finite(y)
    upper = np.triu_indices(len(a), 1)
    first = np.sign(a[:, None] - a)[upper]
    second = np.sign(b[:, None] - b)[upper]
    scale = math.sqrt(float(np.abs(first).sum()) * float(np.abs(second).sum()))
    return float(first @ second) / scale if scale > 0 else math.nan


def ranks(x: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    values = _finite(x)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return shared


def _finite(values: ArrayLike, *, empty: bool = False) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or (not empty and not len(x)):
        raise ValueError(f"expected a row of at least one value, got shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError("values must be finite: drop and count what could not be computed first.")
    return x


def _codes(clusters: Sequence[Hashable]) -> tuple[NDArray[np.intp], int]:
    """Clusters numbered in order of first appearance, so that their names do not touch the result."""
    seen: dict[Hashable, int] = {}
    owner = np.array([seen.setdefault(cluster, len(seen)) for cluster in clusters], dtype=np.intp)
    return owner, len(seen)


def _clustered(
    values: ArrayLike, clusters: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.intp], int]:
    x = _finite(values)
    owner, count = _codes(clusters if clusters is not None else range(len(x)))
    if len(owner) != len(x):
        raise ValueError(f"{len(x)} values with {len(owner)} clusters.")
    return x, owner, count


def _blocks(width: int, draws: int) -> list[int]:
    rows = max(1, min(draws, _BLOCK // max(1, width)))
    return [min(rows, draws - start) for start in range(0, draws, rows)]


def _weights(count: int, draws: int, seed: int) -> list[NDArray[np.float64]]:
    """Multinomial counts ``(rows, count)`` of resampled clusters, in blocks."""
    generator = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    return [
        generator.multinomial(count, even, size=rows).astype(np.float64) for rows in _blocks(count, draws)
    ]


def _percentiles(found: NDArray[np.float64], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level}.")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

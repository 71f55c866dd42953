"""Statistics of scores: intervals, paired tests, corrections, rank correlation. Pure functions of arrays.

Scores of cases that share a source image are not independent, so every interval and test here takes whole
clusters (source images) as its unit. Everything random takes a seed and is a pure function of it. None among
values is the caller's to drop and to count: these functions refuse what is not finite.

========================= ========================== ==================================================
estimate                  one row of values          all columns of a table at once, from cluster sums
========================= ========================== ==================================================
mean                      ``bootstrap_mean``         ``mean_ends``: studentised bootstrap
share of yes              ``share``                  ``share_ends``: Wilson, design effect of clusters
difference of two shares  ``share_difference``       ``share_difference_ends``: Newcombe, paired
all pairs of methods      --                         ``max_t``: step-down max-T over sign flips
========================= ========================== ==================================================

``tests/perf/coverage.py`` simulates how often the intervals hold the truth and the tests err.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_BLOCK = 1 << 22
"""Numbers of one block of resampling weights: 32 MB."""
_WIDEST = 3.0
"""A studentised quantile is at most so many times Student's: resamples of few distinct values have next to no
spread, so that dividing by it has no bound."""


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
    """The mean with its studentised bootstrap interval, from resampling clusters with replacement.

    ``clusters`` default to one per value. With one cluster there is no interval; that of equal values is
    their value. See :func:`mean_ends`. Raises ValueError for no values or for values that are not finite.
    """
    x, owner, count = _clustered(values, clusters)
    if count > 1 and np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]), len(x), count)
    sums, sizes = _sums(x, owner, count)
    low, high = mean_ends(sums, sizes, draws=draws, level=level, seed=seed)
    return _interval(float(x.mean()), low, high, len(x), count)


def mean_ends(
    sums: Floats, sizes: Floats, *, draws: int = 2_000, level: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats]:
    """Bootstrap-t intervals of K means: low and high ``(K,)``; NaN for fewer than two clusters.

    ``sums``, ``sizes``: ``(C, K)``, sum and number of the values of each cluster. A mean is the ratio of their
    totals, with the linearised standard error

        se^2 = C / (C - 1) * sum_c (s_c - mean * m_c)^2 / n^2.

    Each resample (a multinomial count per cluster) gives t = (its mean - mean) / its se, and the interval is
    mean - t_high * se to mean - t_low * se (Efron and Tibshirani 1993, section 12.5), each t at least Student's
    and at most three times that. Means of skewed values from few clusters need this: the percentile interval
    is too narrow and ends too early on the long side. Where no cluster's sum is negative, neither is the
    interval; where none is positive, likewise.
    """
    count, columns = sums.shape
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    # Moments per cluster.
    owners = (sizes > 0).sum(axis=0)
    ranged = np.flatnonzero(owners > 1)
    if not len(ranged):
        return low, high
    sums, sizes, owners = sums[:, ranged], sizes[:, ranged], owners[ranged]
    mean = sums.sum(axis=0) / sizes.sum(axis=0)
    centred = sums - mean * sizes
    squares = centred**2
    correction = owners / (owners - 1)
    error = np.sqrt(correction * squares.sum(axis=0)) / sizes.sum(axis=0)
    even = bool((sizes == sizes[0]).all())
    # Studentised resamples, block by block.
    blocks = []
    for weights in _weights(count, draws, seed):
        if even:
            # Every resample has C * m values: one product serves two of the sums.
            total, shift_sum = count * sizes[0], weights @ centred
            spread = weights @ squares - shift_sum**2 / count
        else:
            total, shift_sum = weights @ sizes, weights @ centred
            with np.errstate(invalid="ignore", divide="ignore"):
                shift = shift_sum / total
            spread = weights @ squares - 2 * shift * (weights @ (centred * sizes))
            spread += shift**2 * (weights @ sizes**2)
        # What rounding leaves of a spread of 0 is no spread.
        spread[spread < 1e-12 * squares.sum(axis=0)] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            # A resample without a value, or with mean and spread unchanged at 0, has t = 0.
            blocks.append(np.nan_to_num(shift_sum / np.sqrt(correction * spread), nan=0.0))
    # The interval.
    student = _student(level, owners - 1)
    # Infinite where a resample has no spread: cut off first, for quantiles cannot interpolate there.
    studentised = np.clip(np.concatenate(blocks), -_WIDEST * student, _WIDEST * student)
    lowest, highest = np.quantile(studentised, _tails(level), axis=0)
    lowest, highest = np.minimum(lowest, -student), np.maximum(highest, student)
    low[ranged], high[ranged] = mean - highest * error, mean - lowest * error
    # Distances stay distances: an end does not change sign where no cluster does.
    low[ranged] = np.where((sums >= 0).all(axis=0), np.maximum(0.0, low[ranged]), low[ranged])
    high[ranged] = np.where((sums <= 0).all(axis=0), np.minimum(0.0, high[ranged]), high[ranged])
    return low, high


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
    exact = tries_every_flip(count, draws)
    beyond = sum(int((np.abs(signs @ sums) >= bound).sum()) for signs in sign_flips(count, draws, seed))
    p = beyond / 2**count if exact else (beyond + 1) / (draws + 1)
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
    """A share with Wilson's score interval (Wilson 1927), for independent trials; :func:`share` for others.

    Halves are allowed: a tie may count as half a success. The interval is then a little too wide.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    low, high = _score_ends(np.array([successes / n]), np.array([float(n)]), np.array([z]))
    return Interval(successes / n, float(low[0]), float(high[0]), n, n)


def _score_ends(share: Floats, n: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Both solutions p of (share - p)^2 = z^2 p (1 - p) / n; at 0 and 1 exact, where rounding is not."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.where(share <= 0, 0.0, centre - half), np.where(share >= 1, 1.0, centre + half)


def share(values: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = 0.95) -> Interval:
    """The share of yes among values of 0 and 1 (0.5: a tie), with :func:`share_ends`' interval.

    ``clusters`` default to one per value. With one cluster of several values there is no interval. Raises
    ValueError for no values or for values outside [0, 1].
    """
    x, owner, count = _clustered(values, clusters)
    low, high = share_ends(*_sums(x, owner, count), level=level)
    return _interval(float(x.mean()), low, high, len(x), count)


def share_ends(sums: Floats, sizes: Floats, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's intervals of K shares of clustered trials: low and high ``(K,)``, never of width 0.

    ``sums``, ``sizes``: ``(C, K)``, successes and trials of each cluster. n trials count as n / deff
    independent ones (:func:`design_effects`), and Student's quantile with C - 1 degrees of freedom stands for
    the normal one. NaN where one cluster holds several trials: nothing tells how others would differ.

    For one or two successes Wilson's lower end is too high (its coverage falls to 0.84). As in Brown, Cai and
    DasGupta (2001, section 4.1.1), but with the binomial in place of its Poisson limit, it is at most the p at
    which as many successes or more have the probability 1 - level. The upper end likewise, for failures. For
    independent trials the coverage of 95 % intervals is then at least 0.93 for every p from .02 to .98 and
    every n from 8 to 400 (computed, not simulated).

    Raises ValueError for sums outside [0, sizes].
    """
    return _share_parts(sums, sizes, level)[1:]


def _share_parts(sums: Floats, sizes: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """Effective trials, low and high, each ``(K,)``."""
    from scipy.special import betaincinv

    if (sums < 0).any() or (sums > sizes).any():
        raise ValueError("values of a share must lie between 0 (no) and 1 (yes).")
    owners, largest, n = (sizes > 0).sum(axis=0), sizes.max(axis=0, initial=0.0), sizes.sum(axis=0)
    usable = (n > 0) & ((owners > 1) | (largest <= 1))
    effective, low, high = (np.full(sums.shape[1], np.nan) for _ in range(3))
    if not usable.any():
        return effective, low, high
    sums, sizes, n = sums[:, usable], sizes[:, usable], n[usable]
    trials = n / design_effects(sums, sizes)
    z = _student(level, np.maximum(1, owners[usable] - 1))
    value = sums.sum(axis=0) / n
    lowest, highest = _score_ends(value, trials, z)
    yes, no = value * trials, (1 - value) * trials
    # Exact one-sided limits, where there is a success (a failure) to have one.
    with np.errstate(invalid="ignore"):
        lowest = np.where(yes > 0, np.minimum(lowest, betaincinv(yes, no + 1, 1 - level)), lowest)
        highest = np.where(no > 0, np.maximum(highest, 1 - betaincinv(no, yes + 1, 1 - level)), highest)
    effective[usable], low[usable], high[usable] = trials, lowest, highest
    return effective, low, high


def design_effects(sums: Floats, sizes: Floats) -> Floats:
    """By how much clusters multiply the variance of K shares, ``(K,)``, each at least 1.

    ``sums``, ``sizes``: ``(C, K)``, successes and trials of each cluster. The raw effect is the linearised
    variance of the ratio over that of as many independent trials,

        d = C / (C - 1) * sum_c (s_c - p m_c)^2 / n^2  /  (p (1 - p) / (n - 1)),      at least 1.

    With k trials of the rarer outcome, d says little where k is small: a single failure always looks like
    d = 1. So d is averaged with that of one more rare trial whose whole cluster went with it, which is the
    mean cluster size m = sum_c m_c^2 / n, and k counts at least 1: deff = (k d + m) / (k + 1). Hence all successes
    have the effect of one failure, and their lower end is never below that of one failure. The effect is at
    most m, that of clusters which succeed or fail whole.
    """
    n, owners = sizes.sum(axis=0), (sizes > 0).sum(axis=0)
    value = sums.sum(axis=0) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = owners / (owners - 1) * ((sums - value * sizes) ** 2).sum(axis=0) / n**2
        raw = variance * (n - 1) / (value * (1 - value))
    raw = np.where(np.isfinite(raw), np.maximum(1.0, raw), 1.0)
    rare = np.maximum(1.0, n * np.minimum(value, 1 - value))
    whole = (sizes**2).sum(axis=0) / n
    effect: Floats = np.minimum(whole, (rare * raw + whole) / (rare + 1))
    return effect


def share_difference(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> Interval:
    """Share of yes in ``a`` less that in ``b``, of the same cases, with its interval.

    See :func:`share_difference_ends`. Raises ValueError as :func:`share` does, and for rows of unlike length.
    """
    x, y = _finite(a), _finite(b)
    if len(x) != len(y):
        raise ValueError(f"paired scores differ in number: {len(x)} and {len(y)}.")
    x, owner, count = _clustered(x, clusters)
    of_a, sizes = _sums(x, owner, count)
    of_b, _ = _sums(y, owner, count)
    low, high = share_difference_ends(of_a, of_b, sizes, level=level)
    return _interval(float((x - y).mean()), low, high, len(x), count)


def share_difference_ends(
    a: Floats, b: Floats, sizes: Floats, *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Hybrid-score intervals of K differences of paired shares: low and high ``(K,)``, never of width 0.

    ``a``, ``b``, ``sizes``: ``(C, K)``, successes of both and trials of each cluster. Newcombe (1998, method
    10), for clusters as in Yang, Sun and Hardin (2012): with both shares' :func:`share_ends` l and u,

        low  = d - sqrt((p_a - l_a)^2 - 2 r (p_a - l_a) (u_b - p_b) + (u_b - p_b)^2),
        high = d + sqrt((u_a - p_a)^2 - 2 r (u_a - p_a) (p_b - l_b) + (p_b - l_b)^2).

    r is the correlation of the two shares over the clusters, a positive one lowered by Newcombe's correction
    for continuity; it is 0 where a share is 0 or 1. NaN where :func:`share_ends` is.
    """
    trials_a, low_a, high_a = _share_parts(a, sizes, level)
    trials_b, low_b, high_b = _share_parts(b, sizes, level)
    n, owners = sizes.sum(axis=0), (sizes > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share_a, share_b = a.sum(axis=0) / n, b.sum(axis=0) / n
        # Covariance of the two shares, linearised as in the design effect.
        centred_a, centred_b = a - share_a * sizes, b - share_b * sizes
        scale = owners / (owners - 1) / n**2
        covariance = scale * (centred_a * centred_b).sum(axis=0)
        spread = scale * np.sqrt((centred_a**2).sum(axis=0) * (centred_b**2).sum(axis=0))
        # Newcombe lowers e h - f g, which is n^3 times the covariance, by n / 2.
        continuity = 1 / (2 * np.minimum(trials_a, trials_b) ** 2)
        lowered = np.where(covariance > 0, np.maximum(0.0, covariance - continuity), covariance)
        r = np.where(spread > 0, lowered / spread, 0.0)
        down_a, up_a, down_b, up_b = share_a - low_a, high_a - share_a, share_b - low_b, high_b - share_b
        low = share_a - share_b - np.sqrt(down_a**2 - 2 * r * down_a * up_b + up_b**2)
        high = share_a - share_b + np.sqrt(up_a**2 - 2 * r * up_a * down_b + down_b**2)
    return low, high


def max_t(families: Sequence[Floats], *, draws: int = 10_000, seed: int = 0) -> list[Floats]:
    """Adjusted p of the differences of each family: step-down max-T over sign flips (Westfall and Young 1993).

    ``families``: one array ``(C, P)`` each, the sum of each of P paired differences over each of C clusters; an
    array ``(P,)`` is returned for each. The families share their flips and nothing else. The statistic of a
    difference is |sum_c s_c| / sqrt(sum_c s_c^2), whose denominator no flip changes. All differences of a cluster
    change sign together, which keeps their correlation. From the largest statistic down, p is the share of
    flips in which the largest of this and all smaller ones is as large. The chance of any false claim in a
    family is at most the level, whichever pair is looked at afterwards: the best method may be chosen from the
    same data. Raises ValueError for families of unlike numbers of clusters.
    """
    counts = {len(sums) for sums in families}
    if len(counts) > 1:
        raise ValueError(f"families of one test differ in clusters: {sorted(counts)}.")
    if not families:
        return []
    count = counts.pop()
    # Differences from the largest statistic down, scaled so that their signed sum is the statistic.
    orders, scaled, bounds = [], [], []
    for sums in families:
        scale = np.sqrt((sums**2).sum(axis=0))
        unit = sums / np.where(scale > 0, scale, 1.0)
        observed = np.abs(unit.sum(axis=0))
        orders.append(np.argsort(-observed, kind="stable"))
        scaled.append(unit[:, orders[-1]])
        # Flips that tie with the observed one must count, whatever order they were added in.
        bounds.append(observed[orders[-1]] - 1e-9)
    # Flips whose largest statistic, of each difference and all after it, reaches the observed one.
    extra = 0 if tries_every_flip(count, draws) else 1
    beyond, total = [np.full(len(bound), extra) for bound in bounds], extra
    for signs in sign_flips(count, draws, seed):
        total += len(signs)
        for k, unit in enumerate(scaled):
            statistics = np.abs(signs @ unit)
            largest = np.maximum.accumulate(statistics[:, ::-1], axis=1)[:, ::-1]
            beyond[k] += (largest >= bounds[k]).sum(axis=0)
    adjusted = [np.empty(len(bound)) for bound in bounds]
    for p, order, reached in zip(adjusted, orders, beyond, strict=True):
        p[order] = np.maximum.accumulate(reached / total)
    return adjusted


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


def _weights(count: int, draws: int, seed: int) -> Iterator[Floats]:
    """Multinomial counts ``(rows, count)`` of resampled clusters, in blocks."""
    generator = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    for rows in _blocks(count, draws):
        yield generator.multinomial(count, even, size=rows).astype(np.float64)


def tries_every_flip(count: int, draws: int) -> bool:
    """Whether all 2^C sign flips are tried, which are then at most ``draws``."""
    return count < 63 and 2**count <= draws


def sign_flips(count: int, draws: int, seed: int) -> Iterator[Floats]:
    """Sign flips ``(rows, count)`` of -1 and 1, in blocks: all of them, or ``draws`` random ones."""
    if tries_every_flip(count, draws):
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        yield (2 * bits - 1).astype(np.float64)
        return
    generator = np.random.default_rng(seed)
    for rows in _blocks(count, draws):
        bits = generator.integers(0, 2, size=(rows, count), dtype=np.int8)
        yield (2 * bits - 1).astype(np.float64)


def _sums(x: Floats, owner: NDArray[np.intp], count: int) -> tuple[Floats, Floats]:
    """Sums and numbers ``(C, 1)`` of the values of each cluster."""
    sums: Floats = np.bincount(owner, x, count)[:, None].astype(np.float64)
    return sums, np.bincount(owner, minlength=count)[:, None].astype(np.float64)


def _interval(value: float, low: Floats, high: Floats, n: int, clusters: int) -> Interval:
    """The interval of one column; NaN ends are None."""
    ends = [None if math.isnan(end[0]) else float(end[0]) for end in (low, high)]
    return Interval(value, ends[0], ends[1], n, clusters)


def _student(level: float, freedom: NDArray[np.intp]) -> Floats:
    """Student's two-sided quantile for each number of degrees of freedom."""
    from scipy.special import stdtrit

    quantile: Floats = stdtrit(freedom.astype(np.float64), (1 + level) / 2)
    return quantile


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level}.")
    return (1 - level) / 2, (1 + level) / 2


def _percentiles(found: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(found, _tails(level))
    return float(low), float(high)

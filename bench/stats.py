"""Statistics of scores: intervals, tests and corrections, as pure functions of arrays.

Scores of cases that share a source image are not independent. Every interval and test here therefore takes whole
clusters (source images) as its unit. Functions whose names end in ``_ends`` compute the intervals of all columns of
a table at once, from the sums and sizes of clusters:

========================= ==================================================================
estimate                  method
========================= ==================================================================
mean                      ``mean_ends``: studentised bootstrap
share of yes              ``share_ends``: Wilson, with the clusters' design effect
difference of two shares  ``share_difference_ends``: Newcombe, paired
all pairs of methods      ``max_t``: step-down max-T over sign flips
========================= ==================================================================

Everything random takes a seed and is a pure function of it. Callers drop and count missing values first.
``tests/perf/coverage.py`` simulates how often the intervals hold the true value and how often the tests err.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]

# Numbers in one block of resampling weights: 32 MB.
_BLOCK = 1 << 22
# A studentised quantile is at most this many times Student's. Resamples of few distinct values have almost no spread,
# and dividing by it gives values without a bound.
_WIDEST = 3.0
LEAST_CLUSTERS = 6
"""Fewest clusters with an interval of a mean.

With fewer, no sign-flip test can reject at 5 %: its p-value is at least 2^(1 - C), which is 0.0625 for five clusters.
Resamples then have few distinct values and often no spread, so that the ends of a studentised interval show the bound
on its quantiles and not the data: of three normal values they are three times as far apart as Student's, 15 standard
deviations. ``tests/perf/coverage.py`` prints this for 3 to 8 clusters."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval. ``low`` and ``high`` are None where there is no interval."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Number of values."""
    clusters: int


# -- means --------------------------------------------------------------------------------------


def mean_ends(
    sums: Floats,
    sizes: Floats,
    *,
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
    least: int = LEAST_CLUSTERS,
) -> tuple[Floats, Floats]:
    """Bootstrap-t intervals of K means: low and high ``(K,)``. NaN for fewer than ``least`` clusters, at least 2.

    ``sums``, ``sizes``: ``(C, K)``, sum and number of the values of each cluster. A mean is the ratio of their
    totals, with the linearised standard error

        se^2 = C / (C - 1) * sum_c (s_c - mean * m_c)^2 / n^2.

    Each resample (a multinomial count per cluster) gives t = (its mean - mean) / its se. The interval is
    mean - t_high * se to mean - t_low * se (Efron and Tibshirani 1993, section 12.5). Each t is at least Student's
    and at most three times that. Means of skewed values from few clusters need this: the percentile interval
    is too narrow and ends too early on the long side. Where no cluster's sum is negative, both ends are at least 0.
    Where none is positive, both ends are at most 0.
    """
    count, columns = sums.shape
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)

    # Moments per cluster, of the columns with enough clusters.
    owners = (sizes > 0).sum(axis=0)  # (K,) clusters with values
    usable = np.flatnonzero(owners >= max(2, least))
    if not len(usable):
        return low, high
    sums, sizes, owners = sums[:, usable], sizes[:, usable], owners[usable]
    mean = sums.sum(axis=0) / sizes.sum(axis=0)
    # Linearised ratio: s_c - mean * m_c.
    centred = sums - mean * sizes  # (C, K)
    squares = centred**2
    correction = owners / (owners - 1)
    error = np.sqrt(correction * squares.sum(axis=0)) / sizes.sum(axis=0)
    equal_sizes = bool((sizes == sizes[0]).all())

    # Studentised resamples, block by block.
    blocks = []
    for counts in resamples(count, draws, seed, rows=_rows_at_once(count)):
        weights = counts.astype(np.float64)
        if equal_sizes:
            # Every resample has C * m values: one product serves two of the sums.
            total, shift_sum = count * sizes[0], weights @ centred
            spread = weights @ squares - shift_sum**2 / count
        else:
            # sum_c w_c (centred_c - shift * m_c)^2, multiplied out.
            total, shift_sum = weights @ sizes, weights @ centred
            with np.errstate(invalid="ignore", divide="ignore"):
                shift = shift_sum / total
            spread = weights @ squares - 2 * shift * (weights @ (centred * sizes))
            spread += shift**2 * (weights @ sizes**2)
        # Rounding leaves a little of a spread of 0.
        spread[spread < 1e-12 * squares.sum(axis=0)] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            # A resample without a value, or with mean and spread unchanged at 0, has t = 0.
            blocks.append(np.nan_to_num(shift_sum / np.sqrt(correction * spread), nan=0.0))

    # The interval. t is infinite where a resample has no spread: clip before quantiles interpolate.
    student = _student(level, owners - 1)
    studentised = np.clip(np.concatenate(blocks), -_WIDEST * student, _WIDEST * student)
    lowest, highest = np.quantile(studentised, _tails(level), axis=0)
    lowest, highest = np.minimum(lowest, -student), np.maximum(highest, student)
    low[usable], high[usable] = mean - highest * error, mean - lowest * error
    # Values of one sign, such as distances, have an interval of that sign.
    low[usable] = np.where((sums >= 0).all(axis=0), np.maximum(0.0, low[usable]), low[usable])
    high[usable] = np.where((sums <= 0).all(axis=0), np.minimum(0.0, high[usable]), high[usable])
    return low, high


def resamples(count: int, draws: int, seed: int, *, rows: int) -> Iterator[Counts]:
    """How often each of ``count`` clusters occurs in each of ``draws`` resamples, ``(at most rows, count)`` at a time.

    The resamples depend on the first three arguments alone. A report takes them many times, so small ones are
    remembered.
    """
    if count * draws <= _BLOCK:
        whole = _remembered_resamples(count, draws, seed)
        yield from (whole[start : start + rows] for start in range(0, draws, rows))
        return
    generator = np.random.default_rng(seed)
    for start in range(0, draws, rows):
        yield _multinomial(generator, count, min(rows, draws - start))


@lru_cache(maxsize=6)
def _remembered_resamples(count: int, draws: int, seed: int) -> Counts:
    counts = _multinomial(np.random.default_rng(seed), count, draws)
    # All callers share the array.
    counts.flags.writeable = False
    return counts


def _multinomial(generator: np.random.Generator, count: int, rows: int) -> Counts:
    # Drawing C clusters with replacement is the same as drawing how often each one occurs.
    return generator.multinomial(count, np.full(count, 1 / count), size=rows).astype(np.int32)


# -- shares -------------------------------------------------------------------------------------


def wilson(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """A share of independent trials with Wilson's score interval (Wilson 1927). See :func:`share` for clustered ones.

    Halves are allowed, which scipy's ``proportion_ci`` refuses: a tie may count as half a success. The interval is
    then a little too wide. Raises ValueError for an impossible number of successes.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    low, high = _score_ends(np.array([successes / n]), np.array([float(n)]), np.array([z]))
    return Interval(successes / n, float(low[0]), float(high[0]), n, n)


def _score_ends(share: Floats, n: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Both solutions p of (share - p)^2 = z^2 p (1 - p) / n. Exact at 0 and 1, where rounding is not."""
    # Wilson (1927): centre and half width of the interval.
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.where(share <= 0, 0.0, centre - half), np.where(share >= 1, 1.0, centre + half)


def share(values: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """The share of yes among values of 0 and 1 (0.5: a tie), with the interval of :func:`share_ends`.

    ``clusters`` names the cluster of each value. One cluster of several values has no interval. Raises ValueError
    for no values, values outside [0, 1] and values that are not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"expected a row of at least one value, all finite, got shape {x.shape}.")
    # Clusters numbered by first appearance, so that their names do not touch the result.
    codes: dict[Hashable, int] = {}
    owner = np.array([codes.setdefault(cluster, len(codes)) for cluster in clusters], dtype=np.intp)
    if len(owner) != len(x):
        raise ValueError(f"{len(x)} values with {len(owner)} clusters.")
    sums, sizes = (
        np.bincount(owner, weights)[:, None].astype(np.float64) for weights in (x, np.ones_like(x))
    )
    ends = [None if math.isnan(end[0]) else float(end[0]) for end in share_ends(sums, sizes, level=level)]
    return Interval(float(x.mean()), ends[0], ends[1], len(x), len(codes))


def share_ends(sums: Floats, sizes: Floats, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's intervals of K shares of clustered trials: low and high ``(K,)``, never of width 0.

    ``sums``, ``sizes``: ``(C, K)``, successes and trials of each cluster. n trials count as n / deff
    independent ones (:func:`design_effects`), and Student's quantile with C - 1 degrees of freedom stands for
    the normal one. NaN where a single cluster has several trials: the spread between clusters is then unknown.

    For one or two successes Wilson's lower end is too high: its coverage falls to 0.84. As in Brown, Cai and
    DasGupta (2001, section 4.1.1), but with the binomial in place of its Poisson limit, the end is at most the p at
    which as many successes or more have the probability 1 - level. The same holds for the upper end and failures.
    For independent trials the coverage of 95 % intervals is then at least 0.93 for every p from .02 to .98 and
    every n from 8 to 400 (computed, not simulated).

    Raises ValueError for sums outside [0, sizes].
    """
    return _share_parts(sums, sizes, level)[1:]


def _share_parts(sums: Floats, sizes: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """Effective trials, low and high, each ``(K,)``."""
    from scipy.special import betaincinv

    if (sums < 0).any() or (sums > sizes).any():
        raise ValueError("values of a share must lie between 0 (no) and 1 (yes).")

    # Columns with an interval: independent trials, or several clusters.
    owners, largest, n = (sizes > 0).sum(axis=0), sizes.max(axis=0, initial=0.0), sizes.sum(axis=0)
    usable = (n > 0) & ((owners > 1) | (largest <= 1))
    effective, low, high = (np.full(sums.shape[1], np.nan) for _ in range(3))
    if not usable.any():
        return effective, low, high
    sums, sizes, n = sums[:, usable], sizes[:, usable], n[usable]

    # Wilson's ends for the effective number of trials.
    trials = n / design_effects(sums, sizes)
    z = _student(level, np.maximum(1, owners[usable] - 1))
    value = sums.sum(axis=0) / n
    lowest, highest = _score_ends(value, trials, z)

    # Exact one-sided limits (Clopper-Pearson), where there is a success or a failure to have one.
    yes, no = value * trials, (1 - value) * trials
    with np.errstate(invalid="ignore"):
        lowest = np.where(yes > 0, np.minimum(lowest, betaincinv(yes, no + 1, 1 - level)), lowest)
        highest = np.where(no > 0, np.maximum(highest, 1 - betaincinv(no, yes + 1, 1 - level)), highest)
    effective[usable], low[usable], high[usable] = trials, lowest, highest
    return effective, low, high


def design_effects(sums: Floats, sizes: Floats) -> Floats:
    """Factors by which clusters multiply the variance of K shares, ``(K,)``, each at least 1.

    ``sums``, ``sizes``: ``(C, K)``, successes and trials of each cluster. The raw effect is the linearised
    variance of the ratio over that of as many independent trials,

        d = C / (C - 1) * sum_c (s_c - p m_c)^2 / n^2  /  (p (1 - p) / (n - 1)),      at least 1.

    With k trials of the rarer outcome, d is unreliable where k is small: a single failure always gives d = 1. So d is
    averaged with the effect of one additional rare trial whose whole cluster has the rare outcome. That effect is the
    mean cluster size m = sum_c m_c^2 / n. With k at least 1: deff = (k d + m) / (k + 1). Hence all successes have the
    effect of one failure, and their lower end is never below that of one failure. The effect is at most m, which is
    the effect where every cluster either succeeds or fails as a whole.
    """
    n, owners = sizes.sum(axis=0), (sizes > 0).sum(axis=0)
    value = sums.sum(axis=0) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        # The equation of the docstring.
        variance = owners / (owners - 1) * ((sums - value * sizes) ** 2).sum(axis=0) / n**2
        raw = variance * (n - 1) / (value * (1 - value))
    raw = np.where(np.isfinite(raw), np.maximum(1.0, raw), 1.0)  # d
    rare = np.maximum(1.0, n * np.minimum(value, 1 - value))  # k
    whole = (sizes**2).sum(axis=0) / n  # m
    effect: Floats = np.minimum(whole, (rare * raw + whole) / (rare + 1))
    return effect


def share_difference_ends(
    a: Floats, b: Floats, sizes: Floats, *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Hybrid-score intervals of K differences of paired shares: low and high ``(K,)``, never of width 0.

    ``a``, ``b``, ``sizes``: ``(C, K)``, successes of both and trials of each cluster. Newcombe (1998, method
    10), for clusters as in Yang, Sun and Hardin (2012): with both shares' :func:`share_ends` l and u,

        low  = d - sqrt((p_a - l_a)^2 - 2 r (p_a - l_a) (u_b - p_b) + (u_b - p_b)^2),
        high = d + sqrt((u_a - p_a)^2 - 2 r (u_a - p_a) (p_b - l_b) + (p_b - l_b)^2).

    r is the correlation of the two shares over the clusters. A positive one is lowered by Newcombe's correction
    for continuity. r is 0 where a share is 0 or 1. NaN where :func:`share_ends` is.
    """
    trials_a, low_a, high_a = _share_parts(a, sizes, level)
    trials_b, low_b, high_b = _share_parts(b, sizes, level)
    n, owners = sizes.sum(axis=0), (sizes > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Covariance of the two shares, linearised as in the design effect.
        share_a, share_b = a.sum(axis=0) / n, b.sum(axis=0) / n
        centred_a, centred_b = a - share_a * sizes, b - share_b * sizes
        scale = owners / (owners - 1) / n**2
        covariance = scale * (centred_a * centred_b).sum(axis=0)
        spread = scale * np.sqrt((centred_a**2).sum(axis=0) * (centred_b**2).sum(axis=0))

        # Newcombe lowers e h - f g, which is n^3 times the covariance, by n / 2.
        continuity = 1 / (2 * np.minimum(trials_a, trials_b) ** 2)
        lowered = np.where(covariance > 0, np.maximum(0.0, covariance - continuity), covariance)
        r = np.where(spread > 0, lowered / spread, 0.0)

        # The two equations of the docstring.
        down_a, up_a, down_b, up_b = share_a - low_a, high_a - share_a, share_b - low_b, high_b - share_b
        low = share_a - share_b - np.sqrt(down_a**2 - 2 * r * down_a * up_b + up_b**2)
        high = share_a - share_b + np.sqrt(up_a**2 - 2 * r * up_a * down_b + down_b**2)
    return low, high


# -- tests --------------------------------------------------------------------------------------


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given. Controls the family-wise error.

    Raises ValueError for values outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values lie between 0 and 1.")
    # The i-th smallest of m, counted from 0, times m - i, never below the one before it.
    order = np.argsort(p, kind="stable")
    steps = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps * p[order]))
    return adjusted


def max_t(families: Sequence[Floats], *, draws: int = 10_000, seed: int = 0) -> list[Floats]:
    """Adjusted p-values of the differences of each family: step-down max-T over sign flips (Westfall and Young 1993).

    ``families``: one array ``(C, P)`` each, the sum of each of P paired differences over each of C clusters. Returns
    an array ``(P,)`` for each. The families share their flips and nothing else. The statistic of a
    difference is |sum_c s_c| / sqrt(sum_c s_c^2), whose denominator no flip changes. All differences of a cluster
    change sign together, which keeps their correlation. From the largest statistic down, p is the share of
    flips in which the largest of this and all smaller ones is as large. The chance of any false finding in a
    family is at most the level, whichever pair is looked at afterwards: the best method may be chosen from the
    same data. Raises ValueError for families with different numbers of clusters.
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
        # (P,): the statistic's denominator, which no flip changes.
        scale = np.sqrt((sums**2).sum(axis=0))
        unit = sums / np.where(scale > 0, scale, 1.0)
        observed = np.abs(unit.sum(axis=0))
        orders.append(np.argsort(-observed, kind="stable"))
        scaled.append(unit[:, orders[-1]])
        # Flips that tie with the observed one must count, whatever order they were added in.
        bounds.append(observed[orders[-1]] - 1e-9)

    # Flips whose largest statistic, of each difference and all after it, reaches the observed one. Among random
    # flips the observed one counts as one more, so that p is never 0 (Phipson and Smyth 2010).
    extra = 0 if tries_every_flip(count, draws) else 1
    beyond, total = [np.full(len(bound), extra) for bound in bounds], extra
    # One product for all families, whose columns follow one another: (C, sum of all P).
    together = np.concatenate(scaled, axis=1)
    ends = np.cumsum([len(bound) for bound in bounds])[:-1]
    rows = _rows_at_once(together.shape[1])
    for signs in sign_flips(count, draws, seed):
        total += len(signs)
        for start in range(0, len(signs), rows):
            statistics = np.abs(signs[start : start + rows] @ together)
            for k, of_family in enumerate(np.split(statistics, ends, axis=1)):
                largest = np.maximum.accumulate(of_family[:, ::-1], axis=1)[:, ::-1]  # (flips, P)
                beyond[k] += (largest >= bounds[k]).sum(axis=0)

    # Step-down: an adjusted p is never below that of a larger statistic.
    adjusted = [np.empty(len(bound)) for bound in bounds]
    for p, order, reached in zip(adjusted, orders, beyond, strict=True):
        p[order] = np.maximum.accumulate(reached / total)
    return adjusted


def tries_every_flip(count: int, draws: int) -> bool:
    """True where :func:`sign_flips` gives all 2^count flips, because there are at most ``draws`` of them."""
    return count < 63 and 2**count <= draws


def sign_flips(count: int, draws: int, seed: int) -> Iterator[Floats]:
    """Sign flips ``(rows, count)`` of -1 and 1, in blocks: all of them, or ``draws`` random ones."""
    if tries_every_flip(count, draws):
        # All binary numbers of `count` digits.
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        yield (2 * bits - 1).astype(np.float64)
        return
    generator = np.random.default_rng(seed)
    rows = _rows_at_once(count)
    for start in range(0, draws, rows):
        bits = generator.integers(0, 2, size=(min(rows, draws - start), count), dtype=np.int8)
        yield (2 * bits - 1).astype(np.float64)


# -- helpers ------------------------------------------------------------------------------------


def _rows_at_once(width: int) -> int:
    """Number of rows of a block of at most ``_BLOCK`` numbers, one at least."""
    return max(1, _BLOCK // max(1, width))


def _student(level: float, freedom: NDArray[np.intp]) -> Floats:
    """Student's two-sided quantile for each number of degrees of freedom."""
    from scipy.special import stdtrit

    quantile: Floats = stdtrit(freedom.astype(np.float64), (1 + level) / 2)
    return quantile


def _tails(level: float) -> tuple[float, float]:
    """The two probabilities that cut off ``1 - level`` in equal parts."""
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level}.")
    return (1 - level) / 2, (1 + level) / 2

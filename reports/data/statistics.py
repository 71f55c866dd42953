"""Statistics of whole tables at once: what ``bench.stats`` says of one row of values, for all columns together.

One set of resamples (and one set of sign flips) serves every method and metric of a protocol, so that a table
costs a matrix product instead of one bootstrap per cell. Whether a metric is a share of yes-or-no outcomes is
what the metric declares (``tables.outcomes``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.edit import CATEGORIES
from bench.errors import BenchError
from bench.stats import (
    holm,
    max_t,
    mean_ends,
    share_difference_ends,
    share_ends,
    sign_flips,
    tries_every_flip,
)
from reports.data.scores import ALL, ProtocolScores, RunScores

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    BoolND = NDArray[np.bool_]
    IndexND = NDArray[np.intp]

LEVEL = 0.95
ALPHA = 0.05
_MANY_CLUSTERS = 5000
"""Above this many clusters 2,000 flips are drawn instead of 10,000."""

_TRIES = 999
"""Sign flips of the power note, which is rounded to whole points."""

COMPARISON_COLUMNS: tuple[str, ...] = (
    "protocol",
    "category",
    "metric",
    "method",
    "baseline",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "cohens_d",
    "superiority",
    "n",
    "clusters",
    "exact",
    "remark",
)


class StatisticsError(BenchError):
    """A comparison that cannot be made. The message names the remedy."""


@dataclass(frozen=True, eq=False)
class Means:
    """Of K columns: arrays ``(K,)``; NaN where there is no value or no interval."""

    value: FloatND
    low: FloatND
    high: FloatND
    n: IndexND
    clusters: IndexND


def cluster_sums(values: FloatND, cluster: IndexND) -> tuple[FloatND, FloatND]:
    """``(U, K)`` with NaN, ``(U,)`` -> sums and counts ``(C, K)`` of the values that are there, per cluster."""
    order = np.argsort(cluster, kind="stable")
    _, starts = np.unique(cluster[order], return_index=True)
    sorted_values = values[order]
    there = ~np.isnan(sorted_values)
    sums = np.add.reduceat(np.where(there, sorted_values, 0.0), starts, axis=0)
    return sums, np.add.reduceat(there.astype(np.float64), starts, axis=0)


def first_seen(cluster: IndexND) -> IndexND:
    """The same clusters, numbered from 0 in order of first appearance: their names do not touch a result."""
    _, first, inverse = np.unique(cluster, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.intp)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse.ravel()]


def bootstrap_means(
    values: FloatND, cluster: IndexND, *, draws: int = 2000, level: float = LEVEL, seed: int = 0
) -> Means:
    """The mean of each column of ``(U, K)`` with its studentised interval, clusters resampled together.

    NaN is no value. A column with values in fewer than two clusters has no interval; that of a constant is
    its value. See ``bench.stats.mean_ends``.
    """
    plain, sums, sizes = _plain_means(values, cluster)
    low, high = mean_ends(sums, sizes, draws=draws, level=level, seed=seed)
    # A constant is shown as it is, not as the sum of its rounding errors.
    some = np.flatnonzero(plain.n)
    lowest, same = np.full(len(plain.n), np.nan), plain.n > 0
    if len(some):
        lowest[some] = np.nanmin(values[:, some], axis=0)
        same[some] = lowest[some] == np.nanmax(values[:, some], axis=0)
    value = np.where(same, lowest, plain.value)
    same &= plain.clusters > 1
    return Means(value, np.where(same, value, low), np.where(same, value, high), plain.n, plain.clusters)


def shares(values: FloatND, cluster: IndexND, *, level: float = LEVEL) -> Means:
    """The share of yes in each column of ``(U, K)`` of 0 and 1, with its interval; NaN is no value.

    See ``bench.stats.share_ends``. Raises :class:`StatisticsError` for values outside [0, 1].
    """
    plain, sums, sizes = _plain_means(values, cluster)
    try:
        low, high = share_ends(sums, sizes, level=level)
    except ValueError as error:
        raise StatisticsError(f"{error} Score the run again, or correct the unit of the metric.") from error
    return Means(plain.value, low, high, plain.n, plain.clusters)


def summarise(
    values: FloatND, cluster: IndexND, outcome: BoolND, *, draws: int = 2000, seed: int = 0
) -> Means:
    """:func:`shares` of the columns with ``outcome`` ``(K,)``, :func:`bootstrap_means` of the others."""
    means = bootstrap_means(values[:, ~outcome], cluster, draws=draws, seed=seed)
    return _side_by_side(outcome, shares(values[:, outcome], cluster), means)


def differences(
    a: FloatND, b: FloatND, cluster: IndexND, outcome: BoolND, *, draws: int = 2000, seed: int = 0
) -> Means:
    """The mean of ``a - b``, column by column of ``(U, K)``, of the units that have both, with its interval.

    Columns with ``outcome`` ``(K,)`` are shares of paired 0 and 1 (``bench.stats.share_difference_ends``);
    the others' intervals are :func:`bootstrap_means` of the differences.
    """
    gap = a - b
    yes_a, yes_b = (np.where(np.isnan(gap), np.nan, side)[:, outcome] for side in (a, b))
    plain, sums_a, sizes = _plain_means(yes_a, cluster)
    _, sums_b, _ = _plain_means(yes_b, cluster)
    low, high = share_difference_ends(sums_a, sums_b, sizes)
    value = _plain_means(gap[:, outcome], cluster)[0].value
    means = bootstrap_means(gap[:, ~outcome], cluster, draws=draws, seed=seed)
    return _side_by_side(outcome, Means(value, low, high, plain.n, plain.clusters), means)


def _plain_means(values: FloatND, cluster: IndexND) -> tuple[Means, FloatND, FloatND]:
    """Means without intervals; sums and counts ``(C, K)``."""
    columns = values.shape[1]
    nothing = np.full(columns, np.nan)
    if not len(values) or not columns:
        zeros = np.zeros(columns, np.intp)
        return Means(nothing, nothing, nothing, zeros, zeros), np.zeros((0, columns)), np.zeros((0, columns))
    sums, sizes = cluster_sums(values, first_seen(cluster))
    n = sizes.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Plain means, not sums of sums: the last digit is that of the mean of the values.
        value = np.where(n > 0, np.nansum(values, axis=0) / n, np.nan)
    return Means(value, nothing, nothing, n.astype(np.intp), (sizes > 0).sum(axis=0)), sums, sizes


def _side_by_side(first: BoolND, one: Means, other: Means) -> Means:
    """Columns of ``one`` where ``first`` is True, of ``other`` elsewhere, in order."""
    place = np.argsort(np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)]))

    def both(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(one, name), getattr(other, name)])[place]

    return Means(both("value"), both("low"), both("high"), both("n"), both("clusters"))


# --- paired tests --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Paired:
    """Of K columns of paired differences: arrays ``(K,)``."""

    difference: FloatND
    p: FloatND
    """Two-sided; NaN where no pair is complete."""
    n: IndexND
    clusters: IndexND
    exact: bool


def paired_tests(differences: FloatND, cluster: IndexND, *, draws: int = 10_000, seed: int = 0) -> Paired:
    """A sign-flip test for every column of ``(U, K)``; NaN is no pair.

    All columns share their flips. Exact where all 2^C flips are at most ``draws``.
    """
    columns = differences.shape[1]
    if not len(differences):
        nothing = np.full(columns, np.nan)
        zeros = np.zeros(columns, np.intp)
        return Paired(nothing, nothing, zeros, zeros, False)
    sums, sizes = cluster_sums(differences, first_seen(cluster))
    count = len(sums)
    n = sizes.sum(axis=0)
    observed = np.abs(sums.sum(axis=0))
    # Flips that tie with the observed one must count, whatever order they were added in.
    bound = observed - 1e-12 * np.maximum(1e-300, np.abs(sums).sum(axis=0))
    exact = tries_every_flip(count, draws)
    beyond = np.zeros(columns)
    for signs in sign_flips(count, draws, seed):
        beyond += (np.abs(signs @ sums) >= bound).sum(axis=0)
    beyond = beyond / 2**count if exact else (beyond + 1) / (draws + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = sums.sum(axis=0) / n
    p = np.where(n > 0, beyond, np.nan)
    return Paired(difference, p, n.astype(np.intp), (sizes > 0).sum(axis=0), exact)


Separation = Mapping[tuple[str, str, str], Mapping[str, float]]
"""(protocol, metric, category) -> method's title -> adjusted p of its difference from the best method."""


def separations(
    scores: RunScores,
    higher: Mapping[str, bool],
    metrics: Sequence[str],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Separation:
    """Of every column of the tables: whether the best method is told apart from the others.

    ``higher``: metric -> whether more is better. Controls take no part. The best is chosen from the same data,
    so all pairs of methods of one column are tested as one family (``bench.stats.max_t``). Categories are
    tested for metrics of success alone, which have tables per category.
    """
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for protocol, of_protocol in scores.protocols.items():
        known = [name for name in metrics if name in of_protocol.metrics and name in higher]
        rivals = of_protocol.contenders
        if len(rivals) < 2:
            continue
        for category in (ALL, *CATEGORIES):
            asked = known if category == ALL else [name for name in known if name.startswith("success_")]
            units = of_protocol.units(category)
            if not len(units) or not asked:
                continue
            columns = np.array([of_protocol.metrics.index(name) for name in asked], dtype=np.intp)
            values = of_protocol.values[np.ix_(units, rivals, columns)]
            found.update(
                _separation(protocol, category, asked, values, of_protocol, units, higher, draws, seed)
            )
    return found


def _separation(
    protocol: str,
    category: str,
    metrics: Sequence[str],
    values: FloatND,
    of_protocol: ProtocolScores,
    units: IndexND,
    higher: Mapping[str, bool],
    draws: int,
    seed: int,
) -> Iterator[tuple[tuple[str, str, str], dict[str, float]]]:
    """``values``: ``(U, rivals, metrics)``."""
    n = (~np.isnan(values)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nansum(values, axis=0) / n
    towards = np.array([1.0 if higher[name] else -1.0 for name in metrics])
    best = np.where(n > 0, means * towards, -np.inf).argmax(axis=0)
    titles = [of_protocol.titles[index] for index in of_protocol.contenders]
    families = [pair_sums(values[:, :, k], of_protocol.cluster[units]) for k in range(len(metrics))]
    draws = _fewer(draws, len(families[0][1]))
    adjusted = max_t([sums for _, sums in families], draws=draws, seed=seed)
    for k, metric in enumerate(metrics):
        found = {}
        for (i, j), q in zip(families[k][0], adjusted[k], strict=True):
            if best[k] in (i, j):
                found[titles[j if i == best[k] else i]] = float(q)
        yield (protocol, metric, category), found


def pair_sums(values: FloatND, cluster: IndexND) -> tuple[list[tuple[int, int]], FloatND]:
    """Of ``(U, M)``: the pairs of methods that share units, and their differences summed per cluster ``(C, P)``."""
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    sums, sizes = cluster_sums(values[:, first] - values[:, second], first_seen(cluster))
    there = np.flatnonzero(sizes.sum(axis=0) > 0)
    return [pairs[index] for index in there], sums[:, there]


def _fewer(draws: int, clusters: int) -> int:
    """Flips to draw: fewer of very many clusters, whose sums are near normal anyway."""
    return min(draws, 2000) if clusters > _MANY_CLUSTERS else draws


# --- against a named method ----------------------------------------------------------------------------


def compare(
    scores: RunScores,
    baseline: str,
    *,
    outcomes: Container[str] = (),
    metrics: Sequence[str] | None = None,
    draws: int = 10_000,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every method against ``baseline`` (title, name or digest), per protocol, category and metric.

    ``outcomes``: the metrics whose values are 0 or 1, as ``reports.tables.table.outcomes`` finds them.

    Columns ``COMPARISON_COLUMNS``: the mean paired difference (method - baseline) with its interval clustered
    on the source image (:func:`differences`); the sign-flip test's p, and Holm's over the methods of the same
    protocol, category and metric; Cohen's d of the paired differences (mean over standard deviation); the
    probability of superiority (share of pairs in which the method's value is higher, ties half); and a remark
    where n is too small for any claim. Values of sets (Fréchet distance and its kin) are compared where both
    have an interval: their difference with the interval of independent errors, which is conservative, and no p.

    Raises :class:`StatisticsError` for a baseline that is not in the run.
    """
    import pandas as pd

    digest = _find_method(scores, baseline)
    rows: list[tuple[object, ...]] = []
    for of_protocol in scores.protocols.values():
        position = of_protocol.methods.index(digest)
        others = np.array([i for i in range(len(of_protocol.methods)) if i != position], dtype=np.intp)
        names = [m for m in of_protocol.metrics if metrics is None or m in metrics]
        columns = np.array([of_protocol.metrics.index(name) for name in names], dtype=np.intp)
        for category in (ALL, *CATEGORIES):
            units = of_protocol.units(category)
            if not len(units) or not len(others) or not len(columns):
                continue
            own = of_protocol.values[np.ix_(units, others, columns)]
            base = of_protocol.values[np.ix_(units, np.array([position]), columns)]
            shares = np.array([name in outcomes for name in names])
            rows += _comparisons(
                of_protocol, category, names, own, base, shares, units, others, digest, draws, resamples, seed
            )
    rows += _set_comparisons(scores, digest, metrics)
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _find_method(scores: RunScores, name: str) -> str:
    found = [d for d, title in scores.titles.items() if name in (title, d)]
    if len(found) != 1:
        known = ", ".join(scores.titles.values())
        raise StatisticsError(f"--baseline {name}: no method of this run. It has: {known}.")
    return found[0]


def _comparisons(
    of_protocol: ProtocolScores,
    category: str,
    metrics: Sequence[str],
    own: FloatND,
    base: FloatND,
    outcome: BoolND,
    units: IndexND,
    others: IndexND,
    baseline: str,
    draws: int,
    resamples: int,
    seed: int,
) -> Iterator[tuple[object, ...]]:
    """``own``: ``(U, others, metrics)``; ``base``: ``(U, 1, metrics)``; ``outcome``: ``(metrics,)``."""
    cluster = of_protocol.cluster[units]
    shape = own.shape[1:]
    a, b = (side.reshape(len(units), -1) for side in (own, np.broadcast_to(base, own.shape)))
    flat = a - b
    draws = _fewer(draws, len(np.unique(cluster)))
    tests = paired_tests(flat, cluster, draws=draws, seed=seed)
    means = differences(a, b, cluster, np.tile(outcome, shape[0]), draws=resamples, seed=seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.nansum((flat - tests.difference) ** 2, axis=0) / (tests.n - 1))
        d = np.where(spread > 0, tests.difference / spread, np.nan)
        above = ((flat > 0).sum(axis=0) + 0.5 * (flat == 0).sum(axis=0)) / tests.n
    parts = {
        name: array.reshape(shape)
        for name, array in (
            ("difference", tests.difference), ("p", tests.p), ("n", tests.n), ("clusters", tests.clusters),
            ("low", means.low), ("high", means.high), ("d", d), ("above", above),
        )
    }  # fmt: skip
    title = of_protocol.titles[of_protocol.methods.index(baseline)]
    for k, metric in enumerate(metrics):
        there = [i for i in range(len(others)) if parts["n"][i, k] > 0]
        adjusted = holm([parts["p"][i, k] for i in there])
        for i, q in zip(there, adjusted, strict=True):
            clusters = int(parts["clusters"][i, k])
            yield (
                of_protocol.protocol,
                category,
                metric,
                of_protocol.titles[others[i]],
                title,
                *(float(parts[name][i, k]) for name in ("difference", "low", "high", "p")),
                float(q),
                float(parts["d"][i, k]),
                float(parts["above"][i, k]),
                int(parts["n"][i, k]),
                clusters,
                tests.exact,
                too_few(clusters, len(there)),
            )


def _set_comparisons(
    scores: RunScores, baseline: str, metrics: Sequence[str] | None
) -> Iterator[tuple[object, ...]]:
    rows = {
        (row["protocol"], row["category"], row["metric"], row["method"]): row
        for row in scores.sets.to_dict(orient="records")
        if metrics is None or row["metric"] in metrics
    }
    for (protocol, category, metric, method), row in rows.items():
        base = rows.get((protocol, category, metric, baseline))
        if method == baseline or base is None or method not in scores.titles:
            continue
        difference = row["value"] - base["value"]
        # Upper halves: lower ends are cut at 0.
        half = math.hypot(row["high"] - row["value"], base["high"] - base["value"])
        if math.isnan(difference):
            continue
        remark = "unpaired, no test" if not math.isnan(half) else "no interval was stored, no test"
        yield (
            *(protocol, category, metric, scores.titles[method], scores.titles[baseline]),
            *(difference, difference - half, difference + half),
            *(math.nan, math.nan, math.nan, math.nan),
            *(int(row["n"]), 0, False, remark),
        )


def too_few(clusters: int, family: int) -> str:
    """Why this many source images can show nothing, or the empty string.

    A sign-flip test of C clusters has no p below 2^(1 - C); Holm's first step multiplies it by the family.
    """
    least = min(1.0, family * 2.0 ** (1 - clusters))
    if clusters < 1 or least > ALPHA:
        return f"{clusters} source images are too few: no difference whatever could have p < {ALPHA:g}"
    return ""


def detectable_differences(
    scores: RunScores, outcomes: Container[str], *, seed: int = 0
) -> dict[tuple[str, str], float | None]:
    """(protocol, metric) -> :func:`detectable` over all categories, of the metrics of success."""
    return {
        (name, metric): detectable(
            of_protocol.metric(metric)[:, of_protocol.contenders], of_protocol.cluster, seed=seed
        )
        for name, of_protocol in scores.protocols.items()
        for metric in of_protocol.metrics
        if metric.startswith("success_") and metric in outcomes and len(of_protocol.contenders) > 1
    }


def detectable(
    values: FloatND, cluster: IndexND, *, power: float = 0.8, studies: int = 500, seed: int = 0
) -> float | None:
    """The least difference of success from the best that the test of the tables finds with ``power``.

    ``values``: ``(U, M)`` of 0 and 1; ``cluster``: ``(U,)``. Simulated from the run: of the methods that are
    not separated from the best, the one that disagrees with it most is taken. A simulated study draws source
    images with replacement, swaps the two methods on half of them, so that neither is better, and then turns
    a share of the second one's successes into failures. It is tested as the tables are (``bench.stats.max_t``),
    together with the other unseparated pairs of the run. None where every method is separated, where no two
    can be compared, or where not even the loss of all successes would be found.
    """
    # Pairs that the test does not separate; of those with the best method, the one that disagrees most.
    pairs, sums = pair_sums(values, cluster)
    best = int(np.nan_to_num(_plain_means(values, cluster)[0].value, nan=-1.0).argmax())
    tied = max_t([sums], draws=_TRIES, seed=seed)[0] >= ALPHA
    rivals = [index for index in np.flatnonzero(tied) if best in pairs[index]]
    if not rivals:
        return None
    spread = (sums**2).sum(axis=0)
    chosen = max(rivals, key=lambda index: spread[index])
    rival = next(m for m in pairs[chosen] if m != best)
    # Their outcomes per source image: both succeed, the first alone, the second alone.
    yes, other = values[:, best], values[:, rival]
    outcome = np.stack([yes * other, yes * (1 - other), (1 - yes) * other, yes + other], axis=1)
    counted, sizes = cluster_sums(outcome, first_seen(cluster))
    both, first, second, successes = counted.T
    count = len(both)
    # The largest statistic of the other pairs, flip by flip.
    signs = np.concatenate(list(sign_flips(count, _TRIES, seed)))
    tied[chosen] = False
    rest = (sums / np.sqrt(np.where(spread > 0, spread, 1.0)))[:, tied]
    family = np.abs(signs @ rest).max(axis=1, initial=0.0)
    extra = 0 if tries_every_flip(count, _TRIES) else 1

    def chance(lost: float) -> float:
        """Share of the studies that find the difference, where so much of the successes is lost."""
        generator = np.random.default_rng(seed)
        drawn = generator.integers(count, size=(studies, count))
        swapped = generator.random(drawn.shape) < 0.5
        one, two = first[drawn], second[drawn]
        alone, rivals_alone = np.where(swapped, two, one), np.where(swapped, one, two)
        more = generator.binomial((both[drawn] + rivals_alone).astype(np.int64), lost)
        gaps = alone - rivals_alone + more
        size = np.sqrt((gaps**2).sum(axis=1))
        unit = gaps / np.where(size > 0, size, 1.0)[:, None]
        flipped = np.maximum(np.abs(unit @ signs.T), family)
        beyond = (flipped >= np.abs(unit.sum(axis=1))[:, None] - 1e-9).sum(axis=1)
        return float(((beyond + extra) / (len(signs) + extra) < ALPHA).mean())

    # The least loss that is found often enough, by halving.
    if chance(1.0) < power:
        return None
    low, high = 0.0, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle) >= power else (middle, high)
    return float(high * successes.sum() / (2 * sizes[:, 0].sum()))

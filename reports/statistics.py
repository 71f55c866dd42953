"""Statistics of whole tables at once: what ``bench.stats`` says of one row of values, for all columns together.

One set of resamples (and one set of sign flips) serves every method and metric of a protocol, so that a table
costs a matrix product instead of one bootstrap per cell. For a column without missing values the results are
those of ``bench.stats.bootstrap_mean`` and ``bench.stats.paired_permutation`` with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import CATEGORIES
from bench.stats import holm, wilson
from reports.scores import ALL, ProtocolScores, RunScores

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    IndexND = NDArray[np.intp]

LEVEL = 0.95
ALPHA = 0.05
_BLOCK = 1 << 22
_MANY_CLUSTERS = 5000
"""Above this many clusters 2,000 flips are drawn instead of 10,000."""

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


class StatisticsError(ValueError):
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
    """The mean of each column of ``(U, K)`` with its percentile interval, clusters resampled together.

    NaN is no value. A column with values in fewer than two clusters has no interval; that of a constant is
    its value.
    """
    columns = values.shape[1]
    nothing = np.full(columns, np.nan)
    if not len(values) or not columns:
        return Means(nothing, nothing, nothing, np.zeros(columns, np.intp), np.zeros(columns, np.intp))
    sums, sizes = cluster_sums(values, first_seen(cluster))
    n = sizes.sum(axis=0)
    owners = (sizes > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(n > 0, sums.sum(axis=0) / n, np.nan)
        # Plain means, not sums of sums: the last digit is that of the mean of the values.
        value = np.where(n > 0, np.nansum(values, axis=0) / n, value)
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    ranged = np.flatnonzero(owners > 1)
    if len(ranged):
        resampled = np.concatenate(
            [
                _ratio(weights, sums[:, ranged], sizes[:, ranged])
                for weights in _weights(len(sums), draws, seed)
            ]
        )
        ends = [(1 - level) / 2, (1 + level) / 2]
        whole = ~np.isnan(resampled).any(axis=0)
        for chosen, quantile in ((whole, np.quantile), (~whole, np.nanquantile)):
            if chosen.any():
                low[ranged[chosen]], high[ranged[chosen]] = quantile(resampled[:, chosen], ends, axis=0)
        lowest = np.nanmin(values[:, ranged], axis=0)
        same = lowest == np.nanmax(values[:, ranged], axis=0)
        at = ranged[same]
        value[at] = low[at] = high[at] = lowest[same]
    return Means(value, low, high, n.astype(np.intp), owners)


def with_wilson(means: Means, binary: NDArray[np.bool_]) -> Means:
    """Replaces the intervals of shares of 0 and of 1, which no resample widens, by Wilson's over the clusters.

    ``binary``: ``(K,)``, whether a column's values are 0 or 1 by their nature.
    """
    low, high = means.low.copy(), means.high.copy()
    for k in np.flatnonzero(binary & (means.clusters > 1) & np.isin(means.value, (0.0, 1.0))):
        count = int(means.clusters[k])
        share = wilson(count if means.value[k] else 0, count, level=LEVEL)
        low[k], high[k] = share.low, share.high
    return Means(means.value, low, high, means.n, means.clusters)


def _ratio(weights: FloatND, sums: FloatND, sizes: FloatND) -> FloatND:
    """Means ``(draws, K)`` of resamples; NaN for one that drew no value."""
    # Nearly all columns have the same counts: their denominator is computed once.
    kinds, kind = np.unique(sizes, axis=1, return_inverse=True)
    below = (weights @ kinds)[:, kind.ravel()]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: FloatND = np.where(below > 0, (weights @ sums) / below, np.nan)
    return found


def _weights(count: int, draws: int, seed: int) -> Iterator[FloatND]:
    """Multinomial counts ``(rows, count)`` of resampled clusters, drawn as ``bench.stats`` draws them."""
    generator = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    for rows in _blocks(count, draws):
        yield generator.multinomial(count, even, size=rows).astype(np.float64)


def _blocks(width: int, draws: int) -> list[int]:
    rows = max(1, min(draws, _BLOCK // max(1, width)))
    return [min(rows, draws - start) for start in range(0, draws, rows)]


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
    """The sign-flip test of ``bench.stats.paired_permutation`` for every column of ``(U, K)``; NaN is no pair.

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
    exact = count < 63 and 2**count <= draws
    beyond = np.zeros(columns)
    if exact:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        beyond = (np.abs((bits * 2.0 - 1.0) @ sums) >= bound).mean(axis=0)
    else:
        generator = np.random.default_rng(seed)
        for rows in _blocks(count, draws):
            signs = generator.integers(0, 2, size=(rows, count), dtype=np.int8) * 2.0 - 1.0
            beyond += (np.abs(signs @ sums) >= bound).sum(axis=0)
        beyond = (beyond + 1) / (draws + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = sums.sum(axis=0) / n
    p = np.where(n > 0, beyond, np.nan)
    return Paired(difference, p, n.astype(np.intp), (sizes > 0).sum(axis=0), exact)


Separation = Mapping[tuple[str, str, str], Mapping[str, float]]
"""(protocol, metric, category) -> method's title -> Holm-adjusted p of its difference from the best method."""


def separations(
    scores: RunScores,
    higher: Mapping[str, bool],
    metrics: Sequence[str],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Separation:
    """Of every column of the tables: whether the best method is told apart from the others.

    ``higher``: metric -> whether more is better. Controls take no part. The others of one column are one
    family for Holm's correction. Categories are tested for metrics of success alone, which have tables per
    category.
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
    ranked = np.where(n > 0, means * towards, -np.inf)
    best = ranked.argmax(axis=0)
    reference = np.take_along_axis(values, best[None, None, :], axis=1)
    differences = values - reference
    cluster = of_protocol.cluster[units]
    many = len(np.unique(cluster)) > _MANY_CLUSTERS
    flat = differences.reshape(len(units), -1)
    p = paired_tests(flat, cluster, draws=min(draws, 2000) if many else draws, seed=seed).p
    p = p.reshape(differences.shape[1:])
    titles = [of_protocol.titles[index] for index in of_protocol.contenders]
    for k, metric in enumerate(metrics):
        others = [i for i in range(len(titles)) if i != best[k] and not math.isnan(p[i, k])]
        adjusted = holm([p[i, k] for i in others])
        yield (
            (protocol, metric, category),
            {titles[i]: float(q) for i, q in zip(others, adjusted, strict=True)},
        )


# --- against a named method ----------------------------------------------------------------------------


def compare(
    scores: RunScores,
    baseline: str,
    *,
    metrics: Sequence[str] | None = None,
    draws: int = 10_000,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every method against ``baseline`` (title, name or digest), per protocol, category and metric.

    Columns ``COMPARISON_COLUMNS``: the mean paired difference (method - baseline) with its bootstrap interval
    clustered on the source image; the sign-flip test's p, and Holm's over the methods of the same protocol,
    category and metric; Cohen's d of the paired differences (mean over standard deviation); the probability
    of superiority (share of pairs in which the method's value is higher, ties half); and a remark where n is
    too small for any claim. Values of sets (Fréchet distance and its kin) are compared where both have an
    interval: their difference with the interval of independent errors, which is conservative, and no p.

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
            rows += _comparisons(
                of_protocol, category, names, own - base, units, others, digest, draws, resamples, seed
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
    differences: FloatND,
    units: IndexND,
    others: IndexND,
    baseline: str,
    draws: int,
    resamples: int,
    seed: int,
) -> Iterator[tuple[object, ...]]:
    cluster = of_protocol.cluster[units]
    flat = differences.reshape(len(units), -1)
    shape = differences.shape[1:]
    many = len(np.unique(cluster)) > _MANY_CLUSTERS
    tests = paired_tests(flat, cluster, draws=min(draws, 2000) if many else draws, seed=seed)
    means = bootstrap_means(flat, cluster, draws=resamples, seed=seed)
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
        remark = "unpaired interval, no test" if not math.isnan(half) else "no interval was stored, no test"
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


def detectable(low: float, high: float, *, power: float = 0.8, level: float = LEVEL) -> float:
    """The least difference that a two-sided test at 5 % finds with ``power``, from a difference's interval."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    error = (high - low) / 2 / z
    return error * (NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(power))

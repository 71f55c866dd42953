"""Does the metric measure? Each automatic metric against the truth judge and against people.

* Rank correlation (Spearman) over single edits between a metric and a verdict: the truth judge's, or the truth
  judge's success. Signs are turned so that more is better: a metric that measures what it should is positive,
  whatever its direction.
* Agreement of the success rules that need no truth with the one that has it: accuracy, Cohen's kappa, and
  both error rates.
* Metrics against people's votes, as the study's analysis has them (``bench.study.votes.correlation``): how often
  a metric prefers the edit that was preferred, and rank correlations over votes and over methods.

Intervals: 95 %, clustered on the source image: of shares Wilson's with the clusters' design effect, of correlations and
kappa the percentile bootstrap's. Those of votes resample raters and sources. Controls take no part:
an untouched image and the ideal result would make any metric look good.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import CATEGORIES
from reports.data.intervals import number_clusters, shares
from reports.data.preference import SIMULATED, StudyResults
from reports.data.scores import ALL, ProtocolScores, RunScores
from reports.tables.table import HEADINGS, Cell, Column, Row, Table, finite, slug

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    IndexND = NDArray[np.intp]

TRUTHS: Mapping[str, str] = {
    "judge_truth": "the truth judge",
    "success_truth": "success by the truth",
}
VOTES = "votes"
RULES = ("success_clip", "success_mini_clip", "judge_clip", "judge_mini_clip")
AGREEMENT = ("accuracy", "kappa", "missed", "false alarms", "truth says yes", "rule says yes")

VALIDITY_COLUMNS: tuple[str, ...] = (
    "protocol",
    "category",
    "metric",
    "against",
    "measure",
    "value",
    "low",
    "high",
    "n",
    "clusters",
)

PASTED = "_pasted"
_WORK = 4_000_000
"""Weighted values of one bootstrap: more edits get fewer draws, but never fewer than ``_LEAST``."""
_LEAST, _MOST = 200, 1000
_ROWS = 16
"""Draws ranked at once: their weights stay in the processor's cache."""


def validity(
    scores: RunScores, higher: Mapping[str, bool], study: StudyResults | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """Every correlation and agreement of a run; columns ``VALIDITY_COLUMNS``.

    ``higher``: metric -> whether more is better. ``study``: its correlations are taken as they are; they name no
    number of clusters, since two things are resampled.
    """
    import pandas as pd

    rows: list[tuple[object, ...]] = []
    for of_protocol in scores.protocols.values():
        truths = {name: of_protocol.metric(name) for name in TRUTHS if name in of_protocol.metrics}
        for category in (ALL, *CATEGORIES):
            units = of_protocol.units(category)
            if len(units):
                rows += _correlations(of_protocol, category, units, truths, higher, seed)
                rows += _agreements(of_protocol, category, units, seed)
    if study is not None:
        rows += _of_study(scores, study, higher)
    frame = pd.DataFrame(rows, columns=list(VALIDITY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64", "clusters": "Int64"})


def _correlations(
    of_protocol: ProtocolScores,
    category: str,
    units: IndexND,
    truths: Mapping[str, FloatND],
    higher: Mapping[str, bool],
    seed: int,
) -> Iterator[tuple[object, ...]]:
    place = np.ix_(units, of_protocol.contenders)
    cluster = np.repeat(of_protocol.cluster[units], len(of_protocol.contenders))
    metrics = [
        name
        for name in of_protocol.metrics
        if name in higher and name not in TRUTHS and not name.endswith(PASTED)
    ]
    if not metrics or not truths:
        return
    x = np.stack([of_protocol.metric(m)[place].ravel() * (1 if higher[m] else -1) for m in metrics], axis=1)
    y = np.stack([truth[place].ravel() for truth in truths.values()], axis=1)
    found = spearman(x, y, cluster, seed=seed)
    for (k, t), values in found.items():
        yield (of_protocol.protocol, category, metrics[k], list(truths)[t], "spearman", *values)


Correlation = tuple[float, float, float, int, int]
"""Value, low, high, n, clusters."""


def spearman(
    x: FloatND, y: FloatND, cluster: IndexND, *, seed: int = 0
) -> dict[tuple[int, int], Correlation]:
    """Rank correlation of every column of ``(N, K)`` with every one of ``(N, T)``; NaN is no value.

    Left out are pairs of columns with fewer than three values or a constant side. Intervals are percentile
    bootstrap's over clusters. No resample is built: the ranks of a sample with repeats follow from the
    weights alone, so that a draw costs one pass over values that were sorted once.
    """
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for k in range(x.shape[1]):
        for t in range(y.shape[1]):
            there = ~np.isnan(x[:, k]) & ~np.isnan(y[:, t])
            groups.setdefault(there.tobytes(), []).append((k, t))
    found: dict[tuple[int, int], Correlation] = {}
    for key, wanted in groups.items():
        # Nearly always every value is there, and all columns are ranked together.
        there = np.frombuffer(key, dtype=bool)
        found.update(_spearman(x[there], y[there], cluster[there], wanted, seed))
    return {pair: found[pair] for pair in sorted(found)}


def _spearman(
    x: FloatND, y: FloatND, cluster: IndexND, pairs: Sequence[tuple[int, int]], seed: int
) -> dict[tuple[int, int], Correlation]:
    n = len(x)
    if n < 3:
        return {}
    pairs = [(k, t) for k, t in pairs if np.ptp(x[:, k]) > 0 and np.ptp(y[:, t]) > 0]
    if not pairs:
        return {}
    columns = {("x", k): _Sorted.of(x[:, k]) for k, _ in pairs}
    columns |= {("y", t): _Sorted.of(y[:, t]) for _, t in pairs}
    owner = number_clusters(cluster)
    count = int(owner.max()) + 1
    value = _weighted_spearman(columns, pairs, np.ones((1, n)))[0]
    if count < 2:
        return {pair: (float(v), math.nan, math.nan, n, count) for pair, v in zip(pairs, value, strict=True)}
    draws = int(min(_MOST, max(_LEAST, _WORK // n)))
    generator = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    every = np.concatenate(
        [
            _weighted_spearman(
                columns, pairs, generator.multinomial(count, even, size=rows)[:, owner].astype(np.float64)
            )
            for rows in [_ROWS] * (draws // _ROWS) + [draws % _ROWS] * (draws % _ROWS > 0)
        ]
    )
    result: dict[tuple[int, int], Correlation] = {}
    for index, pair in enumerate(pairs):
        drawn = every[np.isfinite(every[:, index]), index]
        low, high = np.quantile(drawn, [0.025, 0.975]) if 2 * len(drawn) >= draws else (math.nan, math.nan)
        result[pair] = (float(value[index]), float(low), float(high), n, count)
    return result


@dataclass(frozen=True, eq=False)
class _Sorted:
    """A column's order, found once."""

    order: IndexND
    starts: IndexND
    """Where each distinct value begins in that order."""
    group: IndexND
    """Of each value, which distinct one it is."""

    @classmethod
    def of(cls, values: FloatND) -> _Sorted:
        distinct, group = np.unique(values, return_inverse=True)
        order = np.argsort(group, kind="stable")
        return cls(order, np.searchsorted(group[order], np.arange(len(distinct))), group)

    def ranks(self, weights: FloatND) -> FloatND:
        """``(B, N)`` mid-ranks, less their mean, of samples in which value i stands ``weights[b, i]`` times."""
        group = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        middle = np.cumsum(group, axis=1)
        total = middle[:, -1:].copy()
        middle -= (group - 1) / 2
        # Mid-ranks always have the mean (n + 1) / 2.
        middle -= (total + 1) / 2
        found: FloatND = middle[:, self.group]
        return found


def _weighted_spearman(
    columns: Mapping[tuple[str, int], _Sorted], pairs: Sequence[tuple[int, int]], weights: FloatND
) -> FloatND:
    """``(B, pairs)``: Pearson's correlation of the mid-ranks of each weighted sample."""
    ranks = {key: column.ranks(weights) for key, column in columns.items()}
    weighted = {key: weights * values for key, values in ranks.items() if key[0] == "y"}
    spread = {key: np.sqrt(np.einsum("bi,bi,bi->b", weights, v, v)) for key, v in ranks.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(
            [
                np.einsum("bi,bi->b", ranks["x", k], weighted["y", t]) / (spread["x", k] * spread["y", t])
                for k, t in pairs
            ],
            axis=1,
        )


def _agreements(
    of_protocol: ProtocolScores, category: str, units: IndexND, seed: int
) -> Iterator[tuple[object, ...]]:
    place = np.ix_(units, of_protocol.contenders)
    cluster = np.repeat(of_protocol.cluster[units], len(of_protocol.contenders))
    for rule in RULES:
        truth = rule.partition("_")[0] + "_truth"
        if rule not in of_protocol.metrics or truth not in of_protocol.metrics:
            continue
        said, is_so = (of_protocol.metric(name)[place].ravel() for name in (rule, truth))
        there = ~np.isnan(said) & ~np.isnan(is_so)
        if not there.any():
            continue
        for measure, *found in agreement(said[there] > 0.5, is_so[there] > 0.5, cluster[there], seed=seed):
            yield (of_protocol.protocol, category, rule, truth, measure, *found)


def agreement(
    said: NDArray[np.bool_], is_so: NDArray[np.bool_], cluster: IndexND, *, draws: int = 2000, seed: int = 0
) -> Iterator[tuple[str, float, float, float, int, int]]:
    """Of a rule with the truth: (measure, value, low, high, n, clusters), in the order of ``AGREEMENT``.

    ``missed``: share of the truth's successes that the rule denies; ``false alarms``: share of the truth's
    failures that it calls successes. kappa: Cohen 1960. NaN where the share is of nothing.
    """
    owner = number_clusters(cluster)
    count = int(owner.max()) + 1
    counts = np.zeros((count, 4))
    np.add.at(counts, (owner, 2 * is_so.astype(int) + said), 1.0)
    value = _measures(counts.sum(axis=0, keepdims=True))[0]
    # Shares of all edits, of the truth's successes, of its failures; kappa's place is filled below.
    same, none = said == is_so, np.full(len(said), np.nan)
    parts = (same, none, np.where(is_so, ~said, none), np.where(is_so, none, said), is_so, said)
    found = shares(np.stack(parts, axis=1).astype(np.float64), cluster)
    low, high = found.low.copy(), found.high.copy()
    if count > 1:
        weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
        kappa = AGREEMENT.index("kappa")
        drawn = _measures(weights @ counts)[:, kappa]
        finite = drawn[np.isfinite(drawn)]
        if 2 * len(finite) >= draws:
            low[kappa], high[kappa] = np.quantile(finite, [0.025, 0.975])
    for k, measure in enumerate(AGREEMENT):
        yield measure, float(value[k]), float(low[k]), float(high[k]), len(said), count


def _measures(counts: FloatND) -> FloatND:
    """``(B, 4)`` counts of (truth no, rule no), (no, yes), (yes, no), (yes, yes) -> ``(B, 6)``."""
    neither, alarm, missed, both = counts.T
    n = counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = (neither + both) / n
        truth_yes, rule_yes = (missed + both) / n, (alarm + both) / n
        chance = truth_yes * rule_yes + (1 - truth_yes) * (1 - rule_yes)
        kappa = (accuracy - chance) / (1 - chance)
        return np.stack(
            [accuracy, kappa, missed / (missed + both), alarm / (alarm + neither), truth_yes, rule_yes],
            axis=1,
        )


def _of_study(
    scores: RunScores, results: StudyResults, higher: Mapping[str, bool]
) -> Iterator[tuple[object, ...]]:
    """The study's own correlations of this run's metrics with the votes."""
    against = VOTES if not results.simulated else SIMULATED + VOTES
    for row in results.correlation.to_dict(orient="records"):
        in_report = row["protocol"] in scores.protocols and row["category"] in (ALL, *CATEGORIES)
        if in_report and row["metric"] in higher:
            place = (row["protocol"], row["category"], row["metric"], against, row["measure"])
            yield (*place, row["value"], row["low"], row["high"], int(row["n"]), None)


# --- as tables -------------------------------------------------------------------------------------------


def validity_tables(frame: pd.DataFrame) -> list[Table]:
    """Metrics by category: one table per protocol and verdict, one of the rules' agreement per protocol."""
    tables = []
    for protocol in dict.fromkeys(frame["protocol"]):
        mine = frame[frame["protocol"] == protocol]
        for (against, measure), title in (
            *(((name, "spearman"), f"rank correlation with {what}") for name, what in TRUTHS.items()),
            *(
                ((mark + VOTES, measure), f"{what}{of}")
                for mark, of in (("", ""), (SIMULATED, " of SIMULATED RATERS, not people"))
                for measure, what in (
                    ("agreement", "share of votes with which the metric agrees"),
                    ("spearman", "rank correlation with the votes"),
                )
            ),
        ):
            part = mine[(mine["against"] == against) & (mine["measure"] == measure)]
            if len(part):
                columns = [(c.replace("_", "-"), c) for c in (ALL, *CATEGORIES)]
                tables.append(
                    _table(
                        part, "category", columns, f"{protocol}: {title}", f"{against}-{measure}", protocol
                    )
                )
        part = mine[mine["measure"].isin(AGREEMENT) & (mine["category"] == ALL)]
        if len(part):
            title = f"{protocol}: success without the truth against success by the truth"
            tables.append(_table(part, "measure", [(m, m) for m in AGREEMENT], title, "agreement", protocol))
    return tables


def _table(
    part: pd.DataFrame, by: str, columns: Sequence[tuple[str, str]], title: str, stem: str, protocol: str
) -> Table:
    found = {(row["metric"], row[by]): row for row in part.to_dict(orient="records")}
    metrics = list(dict.fromkeys(part["metric"]))
    if by == "category":
        metrics.sort(key=lambda metric: -abs(found[metric, ALL]["value"]) if (metric, ALL) in found else 0.0)
    shown = [pair for pair in columns if any((metric, pair[1]) in found for metric in metrics)]
    rows = []
    for metric in metrics:
        cells = []
        for _, key in shown:
            row = found.get((metric, key))
            if row is None:
                cells.append(Cell(None))
            else:
                cells.append(
                    Cell(finite(row["value"]), finite(row["low"]), finite(row["high"]), int(row["n"]))
                )
        rows.append(Row(HEADINGS.get(metric, metric), False, tuple(cells), max(c.n for c in cells), 0))
    on_intervals = (
        "Intervals of what is compared with votes: bootstrap that resamples raters and source images."
        if VOTES in stem
        else "Intervals of agreement are clustered on the source image (shares: Wilson's with the clusters' design "
        "effect; correlations and kappa: bootstrap)."
    )
    notes = [] if VOTES in stem else ["Agreement of metrics is measured without controls."]
    if "spearman" in stem:
        notes.append(
            "Signs are turned so that more is better: positive is agreement, whatever a metric's direction."
        )
    return Table(
        f"validity-{slug(stem)}-{slug(protocol)}",
        title,
        tuple(Column(heading, key, protocol=protocol, decimals=2) for heading, key in shown),
        tuple(rows),
        tuple(notes),
        (on_intervals,),
        rows_are="metric",
        counts=("n",),
    )

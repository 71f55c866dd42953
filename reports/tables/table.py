"""From the records of a run to tables: the tidy summary, the main table, success per category.

Three steps, each a pure function: :func:`summary` (records -> means with intervals, tidy),
:func:`main_tables` and its sisters (summary -> :class:`Table`, where best and ties are decided),
``reports.tables.render`` (table -> terminal, Markdown, CSV, LaTeX). :func:`write_tables` runs all three.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from bench.edit import CATEGORIES
from bench.errors import BenchError
from bench.metrics.types import OUTCOME
from reports.data.scores import ALL as ALL
from reports.data.scores import PEAK_MEMORY as PEAK_MEMORY
from reports.data.scores import SECONDS as SECONDS
from reports.data.scores import control_titles as control_titles
from reports.data.scores import method_titles as method_titles

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.store import RunStore
    from reports.data.scores import RunScores
    from reports.data.separation import Separation

SUMMARY_COLUMNS: tuple[str, ...] = (
    "protocol",
    "category",
    "method",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "failed",
)

MARK_NOTES = ("Bold: the best method of the column.", "Underlined: the second best method of the column.")
"""A terminal has signs of its own for the first, and none for the second."""

HEADINGS: Mapping[str, str] = {
    "success_truth": "success (truth)",
    "success_clip": "success (CLIP)",
    "success_mini_clip": "success (mini CLIP)",
    "leak_lpips": "leak LPIPS",
    "leak_lpips_undiluted": "leak LPIPS, undiluted",
    "leak_lpips_vgg": "leak LPIPS-VGG",
    "leak_psnr": "leak PSNR",
    "leak_ssim": "leak SSIM",
    "leak_mse": "leak MSE",
    "leak_changed": "leak changed",
    "leak_area": "leak area",
    "leak_lpips_edge": "LPIPS at edge",
    "leak_lpips_near": "LPIPS near",
    "leak_lpips_mid": "LPIPS mid",
    "leak_lpips_far": "LPIPS far",
    "clip_target": "CLIP target",
    "clip_region": "CLIP region",
    "clip_directional": "CLIP direction",
    "mini_clip_target": "mini CLIP target",
    "mini_clip_region": "mini CLIP region",
    "mini_clip_directional": "mini CLIP direction",
    "fid": "FID",
    "kid": "KID",
    "cmmd": "CMMD",
    "vgg16_frechet": "VGG16 Fréchet",
    "vgg16_kid": "VGG16 KID",
    "mini_clip_cmmd": "mini CLIP CMMD",
    "judge_truth": "judge (truth)",
    "judge_clip": "judge (CLIP)",
    "judge_mini_clip": "judge (mini CLIP)",
    "edit_change": "change inside",
    "edit_area": "area inside",
    "truth_lpips": "LPIPS to reference",
    "truth_rmse": "RMSE to reference",
    "truth_ssim": "SSIM to reference",
    SECONDS: "s / edit",
    PEAK_MEMORY: "memory GiB",
    "preference": "preferred",
    "preference_votes": "votes",
    "simulated_preference": "preferred (SIMULATED RATERS)",
    "simulated_preference_votes": "votes (SIMULATED RATERS)",
}
"""What a column is called. A metric that is not here is called by its own name."""

MAIN_METRICS: tuple[str, ...] = (
    "success_truth",
    "success_clip",
    "success_mini_clip",
    "leak_lpips",
    "leak_psnr",
    "leak_area",
    "clip_target",
    "clip_region",
    "clip_directional",
    "mini_clip_target",
    "mini_clip_region",
    "mini_clip_directional",
    "fid",
    "vgg16_frechet",
    "kid",
    "vgg16_kid",
    "cmmd",
    "mini_clip_cmmd",
)
"""The columns of the main table, in order, as far as the run has them."""

SMALL_SET = 2048
"""Below this many images a Fréchet distance is biased upwards enough to be remarked on."""


INTERVAL_NOTES: Mapping[str, str] = {
    "brackets": "Below each value: its 95 % interval.",
    "plus-minus": "±: from the value to either end of its 95 % interval; + and - where they are not equally far.",
    "none": "",
}
"""What a table says of its intervals, by the style that shows them."""

MEAN_INTERVAL_NOTE = (
    "Intervals are clustered on the source image (shares of successes: Wilson's with the clusters' design "
    "effect; other means: studentised bootstrap)."
)
SET_INTERVAL_NOTE = (
    "Intervals of Fréchet, KID and CMMD: by jackknife instead, over source images and real images, "
    "about the value expected at this n."
)


class ReportError(BenchError):
    """A run that cannot be reported on. The message names the remedy."""


class MetricFacts(Protocol):
    """What a table needs to know of a metric; ``bench.metrics`` hands out values of this shape."""

    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool | None: ...
    @property
    def summary(self) -> str: ...


@dataclass(frozen=True)
class Column:
    """One metric in a table. ``metric`` and ``category`` say which rows of the summary it shows."""

    heading: str
    metric: str
    category: str = ALL
    higher_is_better: bool | None = None
    percent: bool = False
    """Values are shares, shown times 100."""
    decimals: int = 3
    protocol: str = ""
    """Where a table spans several protocols: whose values these are."""
    group: str = ""
    """The heading above this one and its neighbours of the same group."""
    reported: bool = False
    """What a paper reported, not what was measured: never marked, never compared."""

    @property
    def arrow(self) -> str:
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def sign(self) -> str:
        """``% ↑``: the unit, where it is one, and the direction."""
        return " ".join(part for part in ("%" if self.percent else "", self.arrow) if part)

    @property
    def title(self) -> str:
        return f"{self.heading} {self.sign}".strip()


@dataclass(frozen=True)
class Cell:
    """One value with its 95 % interval. ``value`` is None where nothing could be computed."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    best: bool = False
    tie: bool = False
    """Not best, but its interval overlaps the best one's."""
    second: bool = False
    """The best value but one."""
    dagger: bool = False
    """Not separable from the best: its p, adjusted for all pairs of methods, is not below .05."""


@dataclass(frozen=True)
class Row:
    method: str
    control: bool
    cells: tuple[Cell, ...]
    n: int
    """The largest n of the row's cells."""
    failed: int
    display: str = ""
    """Printed by LaTeX instead of ``method``; ``cite``: BibTeX keys that it cites after it."""
    cite: str = ""
    group: str = ""
    """The heading above the row and its neighbours in printed tables; controls have one of their own."""

    def counted(self, names: Iterable[str]) -> list[int]:
        """Of ``n`` and ``failed`` those that are named."""
        return [{"n": self.n, "failed": self.failed}[name] for name in names]


@dataclass(frozen=True)
class Table:
    """A table, decided: what is where and what is marked. Methods first, controls after them."""

    name: str
    """Stem of its files, and its LaTeX label."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    interval_notes: tuple[str, ...] = field(default=())
    """How the intervals were computed."""
    intervals: bool = True
    """Whether intervals are shown; CSV has them in any case."""
    provenance: tuple[str, ...] = field(default=())
    """Data, weights, seed and versions."""
    caption: str = ""
    """Said even in a short LaTeX caption, besides title, n and marks."""
    rows_are: str = "method"
    """The heading above the rows' names."""
    counts: tuple[str, ...] = ("n", "failed")
    """Which counts of a row are shown at its end."""

    def column_n(self, index: int) -> int | None:
        """The n that all values of a column share, where it is not that of their rows."""
        counts = {row.cells[index].n for row in self.rows if row.cells[index].n}
        same = all(row.cells[index].n in (0, row.n) for row in self.rows)
        return None if same or len(counts) != 1 else counts.pop()

    def cell_n(self, row: Row, index: int) -> int | None:
        """The n of a value, where neither its row nor its column says it."""
        n = row.cells[index].n
        return None if n in (0, row.n) or self.column_n(index) is not None else n


# --- summary -----------------------------------------------------------------------------------------


def summary(
    store: RunStore,
    facts: Mapping[str, MetricFacts],
    *,
    resamples: int = 2000,
    seed: int = 0,
    scores: RunScores | None = None,
) -> pd.DataFrame:
    """The tidy summary of a run: one row per protocol, category (or ``all``), method and metric.

    Columns ``protocol, category, method, metric, value, low, high, n, failed``: the mean over the edits
    that have a value, its 95 % interval clustered on the source image, how many values entered, and how many
    of the planned edits failed or are missing. The interval is that of a share for the metrics that ``facts``
    declare to be outcomes (:func:`outcomes`), else a studentised bootstrap's. Metrics of sets (Fréchet distance
    and its kin) come with the interval they were stored with, or none. ``scores``: where they have been loaded
    already. Raises ``statistics.StatisticsError`` for an outcome whose values are not 0 or 1.
    """
    import numpy as np
    import pandas as pd

    from reports.data.intervals import summarise
    from reports.data.scores import load

    scores = scores or load(store)
    rows: list[tuple[object, ...]] = []
    for protocol, of_protocol in scores.protocols.items():
        shape = of_protocol.values.shape[1:]
        declared = outcomes(of_protocol.metrics, facts)
        outcome = np.tile([name in declared for name in of_protocol.metrics], shape[0]).astype(bool)
        parts: dict[str, tuple[NDArray[np.bool_], list[NDArray[Any]]]] = {}
        for category in (ALL, *CATEGORIES):
            units = of_protocol.units(category)
            flat = of_protocol.values[units].reshape(len(units), shape[0] * shape[1])
            means = summarise(flat, of_protocol.cluster[units], outcome, draws=resamples, seed=seed)
            figures = (means.value, means.low, means.high, means.n)
            recorded = np.asarray(of_protocol.recorded[units].any(axis=0))
            parts[category] = recorded, [array.reshape(shape) for array in figures]
        sets = scores.sets[scores.sets["protocol"] == protocol]
        for m, (digest, title) in enumerate(zip(of_protocol.methods, of_protocol.titles, strict=True)):
            failed = scores.failed[protocol][digest]
            for k, metric in enumerate(of_protocol.metrics):
                for category, (recorded, arrays) in parts.items():
                    if recorded[m, k]:
                        value, low, high, n = (array[m, k] for array in arrays)
                        mean = (float(value), float(low), float(high), int(n))
                        rows.append((protocol, category, title, metric, *mean, failed[category]))
            for record in sets[sets["method"] == digest].to_dict(orient="records"):
                category = record["category"]
                rows.append(
                    (
                        *(protocol, category, title, record["metric"]),
                        *(finite(record[key]) for key in ("value", "low", "high")),
                        *(record["n"], failed.get(category, 0)),
                    )
                )
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})


def cost_summary(scores: RunScores, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Rows of :func:`summary` for what an edit cost: mean seconds (with interval), most memory in GiB.

    Seconds are the wall time of a batch divided by its edits, on the machine that made them.
    """
    import pandas as pd

    from reports.data.intervals import bootstrap_means

    rows: list[tuple[object, ...]] = []
    for protocol, seconds in scores.seconds.items():
        of_protocol = scores.protocols[protocol]
        means = bootstrap_means(seconds, of_protocol.cluster, draws=resamples, seed=seed)
        for m, (digest, title) in enumerate(zip(of_protocol.methods, of_protocol.titles, strict=True)):
            failed = scores.failed[protocol][digest][ALL]
            n = int(means.n[m])
            if n:
                ends = (float(means.value[m]), float(means.low[m]), float(means.high[m]))
                rows.append((protocol, ALL, title, SECONDS, *ends, n, failed))
            peak = scores.peak_memory[protocol].get(digest)
            if peak is not None:
                rows.append((protocol, ALL, title, PEAK_MEMORY, peak / 2**30, None, None, n, failed))
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})


# --- layout ------------------------------------------------------------------------------------------


def main_tables(
    frame: pd.DataFrame,
    facts: Mapping[str, MetricFacts],
    controls: Container[str] = (),
    separations: Separation | None = None,
    decimals: int | None = None,
    chosen: pd.DataFrame | None = None,
) -> list[Table]:
    """The main table of each protocol: the headline metrics over all categories.

    ``chosen``: rows of the summary, of the metrics that are shown instead, in their order.
    """
    some = frame if chosen is None else chosen
    made = [
        _table(
            some,
            protocol,
            name=f"main-{slug(protocol)}",
            title=f"{protocol}: all categories",
            picks=[
                (heading(metric) + (", pasted" if metric.endswith("_pasted") else ""), metric, ALL)
                for metric in (_headline(frame, protocol) if chosen is None else _in_order(chosen["metric"]))
            ],
            facts=facts,
            controls=controls,
            separations=separations,
            decimals=decimals,
        )
        for protocol in _in_order(frame["protocol"])
    ]
    return [table for table in made if table.columns]


def _headline(frame: pd.DataFrame, protocol: str) -> list[str]:
    """The main table's metrics: the known ones, then a plug-in's; where that is none, all there are."""
    there = _in_order(frame.loc[frame["protocol"] == protocol, "metric"])
    raw = [metric for metric in there if not metric.endswith("_pasted")]
    known = [metric for metric in MAIN_METRICS if metric in raw]
    return known + [metric for metric in raw if metric not in HEADINGS] or raw


def success_tables(
    frame: pd.DataFrame,
    facts: Mapping[str, MetricFacts],
    controls: Container[str] = (),
    separations: Separation | None = None,
    decimals: int | None = None,
) -> list[Table]:
    """Success per category, one table per protocol and judge."""
    tables = []
    for protocol in _in_order(frame["protocol"]):
        for metric in _in_order(frame.loc[frame["protocol"] == protocol, "metric"]):
            if not metric.startswith("success_"):
                continue
            picks = [(category.replace("_", "-"), metric, category) for category in (*CATEGORIES, ALL)]
            pasted = ", pasted" if metric.endswith("_pasted") else ""
            tables.append(
                _table(
                    frame,
                    protocol,
                    name=f"{slug(metric)}-{slug(protocol)}",
                    title=f"{protocol}: {heading(metric)}{pasted} per category",
                    picks=picks,
                    facts=facts,
                    controls=controls,
                    separations=separations,
                    decimals=decimals,
                )
            )
    return tables


def detail_tables(
    frame: pd.DataFrame,
    facts: Mapping[str, MetricFacts],
    controls: Container[str] = (),
    separations: Separation | None = None,
    decimals: int | None = None,
) -> list[Table]:
    """Every metric that the main table leaves out, in tables of one family each, per protocol."""
    tables = []
    for protocol in _in_order(frame["protocol"]):
        names = _in_order(frame.loc[frame["protocol"] == protocol, "metric"])
        headline = _headline(frame, protocol)
        rest = sorted((m for m in names if m not in headline), key=_detail_order)
        families = {
            "leakage": [m for m in rest if m.startswith("leak_") and not m.endswith("_pasted")],
            "reference": [m for m in rest if m.startswith("truth_")],
            "pasted": [m for m in rest if m.endswith("_pasted")],
        }
        taken = {m for group in families.values() for m in group}
        families["other"] = [m for m in rest if m not in taken and not m.startswith("success_")]
        titles = {
            "leakage": "leakage in detail",
            "reference": "distance to the reference inside the mask",
            "pasted": "after pasting the edit back into its source",
            "other": "other metrics",
        }
        for family, metrics in families.items():
            if metrics:
                tables.append(
                    _table(
                        frame,
                        protocol,
                        name=f"{family}-{slug(protocol)}",
                        title=f"{protocol}: {titles[family]}",
                        picks=[(heading(metric), metric, ALL) for metric in metrics],
                        facts=facts,
                        controls=controls,
                        separations=separations,
                        decimals=decimals,
                    )
                )
    return tables


@dataclass(frozen=True)
class Pick:
    """One column to be made: which rows of the summary it shows, and under which heading."""

    heading: str
    metric: str
    category: str = ALL
    protocol: str = ""
    group: str = ""


def _table(
    frame: pd.DataFrame,
    protocol: str,
    *,
    name: str,
    title: str,
    picks: Sequence[tuple[str, str, str]],
    facts: Mapping[str, MetricFacts],
    controls: Container[str],
    separations: Separation | None = None,
    decimals: int | None = None,
) -> Table:
    """``picks`` are (heading, metric, category) of one protocol."""
    chosen = [Pick(heading, metric, category, protocol) for heading, metric, category in picks]
    return tabulate(
        frame,
        name=name,
        title=title,
        picks=chosen,
        facts=facts,
        controls=controls,
        separations=separations,
        decimals=decimals,
    )


def tabulate(
    frame: pd.DataFrame,
    *,
    name: str,
    title: str,
    picks: Sequence[Pick],
    facts: Mapping[str, MetricFacts],
    controls: Container[str],
    separations: Separation | None = None,
    decimals: int | None = None,
    methods: Sequence[str] | None = None,
) -> Table:
    """A table of these columns; those without a row in the summary are left out.

    ``methods``: titles of the rows, in order; all of the picked protocols', controls last, if not given. With
    ``separations``, what is not told apart from the best has a dagger; without, what overlaps is a tie.
    """
    frame = frame[frame["protocol"].isin({pick.protocol for pick in picks})]
    found = {
        (record["protocol"], record["method"], record["metric"], record["category"]): record
        for record in frame.to_dict(orient="records")
    }
    present = {(protocol, metric, category) for protocol, _, metric, category in found}
    picks = [pick for pick in picks if (pick.protocol, pick.metric, pick.category) in present]
    if methods is None:
        methods = sorted(_in_order(frame["method"]), key=lambda method: method in controls)
    columns, cells = [], []
    for pick in picks:
        records = [found.get((pick.protocol, method, pick.metric, pick.category)) for method in methods]
        column = replace(
            _column(pick.heading, pick.metric, pick.category, facts, records),
            protocol=pick.protocol,
            group=pick.group,
        )
        columns.append(column if decimals is None else replace(column, decimals=decimals))
        tests = (separations or {}).get((pick.protocol, pick.metric, pick.category))
        cells.append(
            mark(
                [_cell(record) for record in records],
                [method in controls for method in methods],
                column.higher_is_better,
                None if tests is None else [tests.get(method) for method in methods],
            )
        )
    rows = []
    for i, method in enumerate(methods):
        of_method = frame[(frame["method"] == method) & (frame["category"] == ALL)]
        failed = of_method.groupby("protocol")["failed"].max().sum()
        row = tuple(column_cells[i] for column_cells in cells)
        n = max((cell.n for cell in row), default=0)
        rows.append(Row(method, method in controls, row, n, int(failed)))
    notes, interval_notes = tuple(_notes(columns, rows)), tuple(_interval_notes(columns, rows))
    return Table(name, title, tuple(columns), tuple(rows), notes, interval_notes)


def _column(
    heading: str,
    metric: str,
    category: str,
    facts: Mapping[str, MetricFacts],
    records: Iterable[Mapping[str, object] | None],
) -> Column:
    known = facts_of(metric, facts) or OWN_FACTS.get(metric)
    percent = known is not None and known.unit in _SHARES
    unit = known.unit if known is not None else ""
    present = [record for record in records if record is not None]
    values = [finite(record["value"]) for record in present]
    ends = [finite(record[key]) for record in present for key in ("low", "high")]
    return Column(
        heading,
        metric,
        category,
        known.higher_is_better if known is not None else None,
        percent,
        # Where every value is 0, the ends of the intervals are all that has digits.
        _decimals(_largest(values) or _largest(ends), unit, percent),
    )


def _largest(values: Iterable[float | None]) -> float:
    return max((abs(value) for value in values if value is not None), default=0.0)


@dataclass(frozen=True)
class OwnFacts:
    """Of a value that the reports compute themselves."""

    unit: str
    higher_is_better: bool | None
    summary: str


OWN_FACTS: Mapping[str, OwnFacts] = {
    SECONDS: OwnFacts("s", False, "mean wall time of an edit, in the batches that it was made in"),
    PEAK_MEMORY: OwnFacts("GiB", False, "most memory on the accelerator, where it can tell"),
    "preference": OwnFacts(
        "share", True, "share of an edit's comparisons that people decided for it, ties half"
    ),
    "preference_votes": OwnFacts("share", True, "share of all votes that a method got, a tie half for each"),
    "simulated_preference": OwnFacts("share", True, "as preference, of simulated raters, not people"),
    "simulated_preference_votes": OwnFacts(
        "share", True, "as preference_votes, of simulated raters, not people"
    ),
}

_SHARES = frozenset({"share", "fraction", "rate", OUTCOME, "%"})
"""Units of values in [0, 1] that read better as per cent."""


def facts_of(metric: str, facts: Mapping[str, MetricFacts]) -> MetricFacts | None:
    """What is declared of a metric; of one scored on the pasted edit, what is declared of the metric itself."""
    return facts.get(metric) or facts.get(metric.removesuffix("_pasted"))


def outcomes(metrics: Iterable[str], facts: Mapping[str, MetricFacts]) -> frozenset[str]:
    """Those of the metrics that declare the unit ``0/1``: their mean is a share of edits."""
    named = ((metric, facts_of(metric, facts)) for metric in metrics)
    return frozenset(metric for metric, known in named if known is not None and known.unit == OUTCOME)


def _decimals(largest: float, unit: str, percent: bool) -> int:
    """How many decimals a column shows, from its largest value: about four digits, one for decibels."""
    if percent:
        return 1 if largest >= 0.1 or not largest else 2 if largest >= 0.01 else 3
    if unit == "dB" or largest >= 10:
        return 1
    if 0 < largest < 0.001:
        # No value has digits here: each is shown with its own (``render.number``).
        return 0
    return 4 if 0 < largest < 0.1 else 3


def _cell(record: Mapping[str, object] | None) -> Cell:
    if record is None:
        return Cell(None)
    value, low, high = (finite(record[key]) for key in ("value", "low", "high"))
    return Cell(value, low, high, int(str(record["n"])))


def mark(
    cells: Sequence[Cell],
    controls: Sequence[bool],
    higher: bool | None,
    tests: Sequence[float | None] | None = None,
) -> list[Cell]:
    """The best value of the methods, the second, and those that are not told apart from the best.

    ``tests``: adjusted p of each method against the best; without them, those whose interval overlaps the
    best one's are ties. Controls are never marked. With fewer than two methods to compare there is no
    best, nor where all have
    the same value.
    """
    marked = list(cells)
    rivals = [
        (i, cell.value)
        for i, (cell, control) in enumerate(zip(cells, controls, strict=True))
        if not control and cell.value is not None
    ]
    if higher is None or len(rivals) < 2:
        return marked
    ranked = sorted({value for _, value in rivals}, reverse=higher)
    if len(ranked) < 2:
        return marked
    top = ranked[0]
    best = [i for i, value in rivals if value == top]
    for i, value in rivals:
        cell = cells[i]
        p = None if tests is None else tests[i]
        marked[i] = replace(
            cell,
            best=value == top,
            second=len(best) == 1 and value == ranked[1],
            tie=tests is None and value != top and any(_overlap(cell, cells[b]) for b in best),
            dagger=value != top and p is not None and p >= 0.05,
        )
    return marked


def _overlap(a: Cell, b: Cell) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _interval_notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterable[str]:
    ranged = {
        _of_sets(column.metric)
        for row in rows
        for cell, column in zip(row.cells, columns, strict=True)
        if cell.low is not None
    }
    if ranged:
        yield MEAN_INTERVAL_NOTE
    if True in ranged:
        yield SET_INTERVAL_NOTE


def _of_sets(metric: str) -> bool:
    """Whether the metric has one value per set of edits."""
    return metric.removesuffix("_pasted").endswith(("fid", "frechet", "kid", "cmmd"))


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterable[str]:
    # One sentence per mark, so that none is printed twice for several tables.
    if any(cell.best for row in rows for cell in row.cells):
        yield MARK_NOTES[0]
    if any(cell.second for row in rows for cell in row.cells):
        yield MARK_NOTES[1]
    if any(cell.tie for row in rows for cell in row.cells):
        yield "≈: its interval overlaps the best one's."
    if any(cell.dagger for row in rows for cell in row.cells):
        yield (
            "†: not separable from the best (paired permutation test over source images, p ≥ .05 after "
            "max-T correction for all pairs of methods of the column)."
        )
    if any(row.control for row in rows):
        yield "Controls (ceiling and noise floor) stand apart and are never best."
    if any(column.metric.startswith("truth_") for column in columns):
        yield (
            "Distance to the reference: several answers can be right. Read it beside copy_input, which did nothing."
        )
    small = [
        cell.n
        for row in rows
        for cell, column in zip(row.cells, columns, strict=True)
        if column.metric.removesuffix("_pasted").endswith(("fid", "frechet")) and 0 < cell.n < SMALL_SET
    ]
    if small:
        yield (
            f"Fréchet distances from {min(small)} images are biased upwards: "
            "compare them only within this table, between rows of the same n."
        )
    if any(row.failed for row in rows):
        yield "Failed or missing edits are counted, not scored: values are means over the n that exist."


def slug(name: str) -> str:
    """``name`` as part of a file name or LaTeX label: letters, digits and single hyphens."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())
    return "-".join(part for part in kept.split("-") if part) or "x"


def heading(metric: str) -> str:
    """What a column of the metric is called."""
    return HEADINGS.get(metric) or HEADINGS.get(metric.removesuffix("_pasted"), metric)


def _detail_order(metric: str) -> tuple[int, str]:
    base = metric.removesuffix("_pasted")
    names = list(HEADINGS)
    return (names.index(base) if base in HEADINGS else len(names), metric)


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def finite(value: object) -> float | None:
    """As a float, or None for None and for what is not finite."""
    if value is None:
        return None
    number = float(str(value))
    return number if math.isfinite(number) else None


# --- all of them -------------------------------------------------------------------------------------


def build(
    frame: pd.DataFrame,
    facts: Mapping[str, MetricFacts],
    controls: Container[str] = (),
    separations: Separation | None = None,
    decimals: int | None = None,
    chosen: pd.DataFrame | None = None,
) -> list[Table]:
    """All tables of a summary, the main ones first. Raises :class:`ReportError` where there is no score.

    ``controls``: the titles of the methods that are yardsticks. ``separations``: from
    ``reports.data.statistics``; without them, ties are overlapping intervals. ``chosen``: see :func:`main_tables`.
    """
    if frame.empty:
        raise ReportError("the run has no scores yet. Score it first: run_bench.py score RUN")
    return [
        *main_tables(frame, facts, controls, separations, decimals, chosen),
        *success_tables(frame, facts, controls, separations, decimals),
        *detail_tables(frame, facts, controls, separations, decimals),
    ]


def write_tables(store: RunStore, facts: Mapping[str, MetricFacts]) -> tuple[pd.DataFrame, list[Table]]:
    """The tables alone of ``reports.build.write_report``, which see: no statistics, no figures."""
    from reports.build import make, write_tables

    made = make(store, facts)
    write_tables(store, facts, made)
    return made.frame, list(made.tables)

"""From the records of a run to tables: the tidy summary, the main table, success per category.

Three steps, each a pure function: :func:`summary` (records -> means with intervals, tidy),
:func:`main_tables` and its sisters (summary -> :class:`Table`, where best and ties are decided),
``reports.render`` (table -> terminal, Markdown, CSV, LaTeX). :func:`write_tables` runs all three.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bench.edit import CATEGORIES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bench.store import RunStore

ALL = "all"
"""The category of a row that is over all categories."""

CONTROLS: tuple[str, ...] = (
    "oracle",
    "copy_input",
    "jpeg",
    "resize_round_trip",
    "autoencoder_round_trip",
)
"""Methods that are yardsticks: the ceiling and the noise floor. They are shown apart and are never "best"."""

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

HEADINGS: Mapping[str, str] = {
    "success_truth": "success (truth)",
    "success_clip": "success (CLIP)",
    "success_mini_clip": "success (mini CLIP)",
    "leak_lpips": "leak LPIPS",
    "leak_lpips_vgg": "leak LPIPS-VGG",
    "leak_psnr": "leak PSNR",
    "leak_ssim": "leak SSIM",
    "leak_mse": "leak MSE",
    "leak_changed": "leak changed",
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
}
"""What a column is called. A metric that is not here is called by its own name."""

MAIN_METRICS: tuple[str, ...] = (
    "success_truth",
    "success_clip",
    "success_mini_clip",
    "leak_lpips",
    "leak_psnr",
    "leak_changed",
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


class ReportError(ValueError):
    """A run that cannot be reported on. The message names the remedy."""


class MetricFacts(Protocol):
    """What a table needs to know of a metric; ``bench.metrics`` hands out values of this shape."""

    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
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


@dataclass(frozen=True)
class Row:
    method: str
    control: bool
    cells: tuple[Cell, ...]
    n: int
    """The largest n of the row's cells."""
    failed: int


@dataclass(frozen=True)
class Table:
    """A table, decided: what is where and what is marked. Methods first, controls after them."""

    name: str
    """Stem of its files, and its LaTeX label."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


# --- summary -----------------------------------------------------------------------------------------


def summary(store: RunStore, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The tidy summary of a run: one row per protocol, category (or ``all``), method and metric.

    Columns ``protocol, category, method, metric, value, low, high, n, failed``: the mean over the edits
    that have a value, its 95 % percentile interval from a bootstrap clustered on the source image, how many
    values entered, and how many of the planned edits failed or are missing. Metrics of sets (Fréchet
    distance and its kin) come with the interval they were stored with, or none.
    """
    import pandas as pd

    titles = method_titles(store)
    scores = store.scores()
    sets = store.set_scores()
    rows: list[tuple[object, ...]] = []
    for protocol in store.protocols():
        cases = {row["id"]: (row["category"], row["source_id"]) for row in store.cases(protocol).rows}
        failed = _failed(store, protocol, cases)
        of_protocol = scores[(scores["protocol"] == protocol) & scores["case"].isin(list(cases))]
        of_protocol = of_protocol[of_protocol["value"].notna() | of_protocol["reason"].notna()]
        places = of_protocol["case"].map(cases)
        of_protocol = of_protocol.assign(
            category=[place[0] for place in places], cluster=[place[1] for place in places]
        )
        for digest, title in titles.items():
            mine = of_protocol[of_protocol["method"] == digest]
            for metric, values in mine.groupby("metric", sort=False):
                for category in (ALL, *CATEGORIES):
                    part = values if category == ALL else values[values["category"] == category]
                    if len(part):
                        mean = _mean_interval(
                            part["value"].to_numpy(), part["cluster"].tolist(), resamples, seed
                        )
                        rows.append((protocol, category, title, metric, *mean, failed[digest][category]))
            of_sets = sets[(sets["protocol"] == protocol) & (sets["method"] == digest)]
            for record in of_sets.to_dict(orient="records"):
                category = record["category"]
                rows.append(
                    (
                        *(protocol, category, title, record["metric"]),
                        *(_finite(record[key]) for key in ("value", "low", "high")),
                        *(record["n"], failed[digest].get(category, 0)),
                    )
                )
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})


def method_titles(store: RunStore) -> dict[str, str]:
    """Digest -> what the tables call the method; the digest is added where two would be called the same."""
    methods = store.methods
    shared = Counter(spec.title for spec in methods.values())
    return {
        digest: spec.title if shared[spec.title] == 1 else f"{spec.title} ({digest[:6]})"
        for digest, spec in methods.items()
    }


def _mean_interval(
    values: NDArray[np.float64], clusters: Sequence[str], resamples: int, seed: int
) -> tuple[float | None, float | None, float | None, int]:
    """Value, low, high, n of what is a number among ``values``."""
    from bench.stats import bootstrap_mean

    there = [(value, owner) for value, owner in zip(values, clusters, strict=True) if not math.isnan(value)]
    if not there:
        return None, None, None, 0
    numbers, owners = zip(*there, strict=True)
    if min(numbers) == max(numbers):
        # Every resample has this mean; a control's rows are full of such.
        low = high = numbers[0] if len(set(owners)) > 1 else None
        return numbers[0], low, high, len(numbers)
    mean = bootstrap_mean(numbers, owners, draws=resamples, seed=seed)
    return mean.value, mean.low, mean.high, mean.n


def control_titles(store: RunStore) -> frozenset[str]:
    """What the tables call the run's controls, whatever label a suite gave them."""
    titles = method_titles(store)
    return frozenset(titles[digest] for digest, spec in store.methods.items() if spec.name in CONTROLS)


def _failed(store: RunStore, protocol: str, cases: Mapping[str, tuple[str, str]]) -> dict[str, Counter[str]]:
    """Method digest -> category (or ``all``) -> planned edits of which no image exists."""
    made: dict[str, set[str]] = {digest: set() for digest in store.methods}
    for record in store.edits():
        if record.key.protocol == protocol and record.error is None and record.key.method in made:
            made[record.key.method].add(record.key.case)
    missing: dict[str, Counter[str]] = {}
    for digest, there in made.items():
        categories = [category for case, (category, _) in cases.items() if case not in there]
        missing[digest] = Counter({ALL: len(categories), **Counter(categories)})
    return missing


# --- layout ------------------------------------------------------------------------------------------


def main_tables(
    frame: pd.DataFrame, facts: Mapping[str, MetricFacts], controls: Container[str] = CONTROLS
) -> list[Table]:
    """The main table of each protocol: the headline metrics over all categories."""
    return [
        _table(
            frame,
            protocol,
            name=f"main-{slug(protocol)}",
            title=f"{protocol}: all categories",
            picks=[(_heading(metric), metric, ALL) for metric in _headline(frame, protocol)],
            facts=facts,
            controls=controls,
        )
        for protocol in _in_order(frame["protocol"])
    ]


def _headline(frame: pd.DataFrame, protocol: str) -> list[str]:
    """The main table's metrics: the known ones, then a plug-in's; where that is none, all there are."""
    there = _in_order(frame.loc[frame["protocol"] == protocol, "metric"])
    raw = [metric for metric in there if not metric.endswith("_pasted")]
    known = [metric for metric in MAIN_METRICS if metric in raw]
    return known + [metric for metric in raw if metric not in HEADINGS] or raw


def success_tables(
    frame: pd.DataFrame, facts: Mapping[str, MetricFacts], controls: Container[str] = CONTROLS
) -> list[Table]:
    """Success per category, one table per protocol and judge."""
    tables = []
    for protocol in _in_order(frame["protocol"]):
        for metric in _in_order(frame.loc[frame["protocol"] == protocol, "metric"]):
            if not metric.startswith("success_"):
                continue
            picks = [(category.replace("_", "-"), metric, category) for category in (*CATEGORIES, ALL)]
            tables.append(
                _table(
                    frame,
                    protocol,
                    name=f"{slug(metric)}-{slug(protocol)}",
                    title=f"{protocol}: {HEADINGS.get(metric, metric)} per category",
                    picks=picks,
                    facts=facts,
                    controls=controls,
                )
            )
    return tables


def detail_tables(
    frame: pd.DataFrame, facts: Mapping[str, MetricFacts], controls: Container[str] = CONTROLS
) -> list[Table]:
    """Every metric that the main table leaves out, in tables of one family each, per protocol."""
    tables = []
    for protocol in _in_order(frame["protocol"]):
        names = _in_order(frame.loc[frame["protocol"] == protocol, "metric"])
        headline = _headline(frame, protocol)
        rest = sorted((m for m in names if m not in headline), key=_detail_order)
        families = {
            "leakage": [m for m in rest if m.startswith("leak_") and not m.endswith("_pasted")],
            "pasted": [m for m in rest if m.endswith("_pasted")],
        }
        taken = {m for group in families.values() for m in group}
        families["other"] = [m for m in rest if m not in taken and not m.startswith("success_")]
        titles = {
            "leakage": "leakage in detail",
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
                        picks=[(_heading(metric), metric, ALL) for metric in metrics],
                        facts=facts,
                        controls=controls,
                    )
                )
    return tables


def _table(
    frame: pd.DataFrame,
    protocol: str,
    *,
    name: str,
    title: str,
    picks: Sequence[tuple[str, str, str]],
    facts: Mapping[str, MetricFacts],
    controls: Container[str],
) -> Table:
    """``picks`` are (heading, metric, category); those without a row in the summary are left out."""
    frame = frame[frame["protocol"] == protocol]
    found = {
        (record["method"], record["metric"], record["category"]): record
        for record in frame.to_dict(orient="records")
    }
    present = {(metric, category) for _, metric, category in found}
    picks = [pick for pick in picks if pick[1:] in present]
    methods = sorted(_in_order(frame["method"]), key=lambda method: method in controls)
    columns = tuple(
        _column(heading, metric, category, facts, [found.get((m, metric, category)) for m in methods])
        for heading, metric, category in picks
    )
    cells = [
        _mark(
            [_cell(found.get((method, column.metric, column.category))) for method in methods],
            [method in controls for method in methods],
            column.higher_is_better,
        )
        for column in columns
    ]
    rows = []
    for i, method in enumerate(methods):
        of_method = frame[frame["method"] == method]
        failed = of_method.loc[of_method["category"] == ALL, "failed"]
        row = tuple(column_cells[i] for column_cells in cells)
        rows.append(
            Row(
                method,
                method in controls,
                row,
                max((cell.n for cell in row), default=0),
                int(failed.max()) if len(failed) else 0,
            )
        )
    return Table(name, title, columns, tuple(rows), tuple(_notes(columns, rows)))


def _column(
    heading: str,
    metric: str,
    category: str,
    facts: Mapping[str, MetricFacts],
    records: Iterable[Mapping[str, object] | None],
) -> Column:
    known = facts.get(metric) or facts.get(metric.removesuffix("_pasted"))
    percent = known is not None and known.unit in _SHARES
    scale = 100.0 if percent else 1.0
    values = [_finite(record["value"]) for record in records if record is not None]
    largest = max((abs(value) * scale for value in values if value is not None), default=1.0)
    return Column(
        heading,
        metric,
        category,
        known.higher_is_better if known is not None else None,
        percent,
        _decimals(largest, known.unit if known is not None else ""),
    )


_SHARES = frozenset({"share", "fraction", "rate", "0/1", "0 or 1", "%"})
"""Units of values in [0, 1] that read better as per cent."""


def _decimals(largest: float, unit: str) -> int:
    """How many decimals a column shows, from its largest value: about four digits, one for decibels."""
    if unit == "dB":
        return 1
    for bound, decimals in ((100.0, 1), (10.0, 1), (1.0, 3)):
        if largest >= bound:
            return decimals
    return 4 if largest < 0.1 else 3


def _cell(record: Mapping[str, object] | None) -> Cell:
    if record is None:
        return Cell(None)
    value, low, high = (_finite(record[key]) for key in ("value", "low", "high"))
    return Cell(value, low, high, int(str(record["n"])))


def _mark(cells: Sequence[Cell], controls: Sequence[bool], higher: bool | None) -> list[Cell]:
    """The best value of the methods, and those whose interval overlaps its interval.

    Controls are never marked. With fewer than two methods to compare there is no best.
    """
    marked = list(cells)
    rivals = [
        (i, cell.value)
        for i, (cell, control) in enumerate(zip(cells, controls, strict=True))
        if not control and cell.value is not None
    ]
    if higher is None or len(rivals) < 2:
        return marked
    top = (max if higher else min)(value for _, value in rivals)
    best = [i for i, value in rivals if value == top]
    for i, value in rivals:
        cell = cells[i]
        overlaps = any(_overlap(cell, cells[b]) for b in best)
        marked[i] = Cell(
            cell.value, cell.low, cell.high, cell.n, best=value == top, tie=value != top and overlaps
        )
    return marked


def _overlap(a: Cell, b: Cell) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterable[str]:
    if any(cell.low is not None for row in rows for cell in row.cells):
        yield "Below each value: its 95 % interval (bootstrap, clustered on the source image)."
    if any(cell.best for row in rows for cell in row.cells):
        yield "Bold: the best method of the column; ≈: its interval overlaps the best one's."
    if any(row.control for row in rows):
        yield "Controls (ceiling and noise floor) stand apart and are never best."
    small = [
        cell.n
        for row in rows
        for cell, column in zip(row.cells, columns, strict=True)
        if "frechet" in column.metric or column.metric == "fid"
        if cell.n and cell.n < SMALL_SET
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


def _heading(metric: str) -> str:
    return HEADINGS.get(metric) or HEADINGS.get(metric.removesuffix("_pasted"), metric)


def _detail_order(metric: str) -> tuple[int, str]:
    base = metric.removesuffix("_pasted")
    names = list(HEADINGS)
    return (names.index(base) if base in HEADINGS else len(names), metric)


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _finite(value: object) -> float | None:
    if value is None:
        return None
    number = float(str(value))
    return number if math.isfinite(number) else None


# --- writing -----------------------------------------------------------------------------------------


def build(
    frame: pd.DataFrame, facts: Mapping[str, MetricFacts], controls: Container[str] = CONTROLS
) -> list[Table]:
    """All tables of a summary, the main ones first. Raises :class:`ReportError` where there is no score.

    ``controls``: the titles of the methods that are yardsticks.
    """
    if frame.empty:
        raise ReportError("the run has no scores yet. Score it first: run_bench.py score RUN")
    return [
        *main_tables(frame, facts, controls),
        *success_tables(frame, facts, controls),
        *detail_tables(frame, facts, controls),
    ]


def write_tables(store: RunStore, facts: Mapping[str, MetricFacts]) -> tuple[pd.DataFrame, list[Table]]:
    """Writes ``report/`` of a run: ``summary.csv``, ``tables.md``, ``tables.tex`` and one CSV per table.

    Returns the summary and the tables. Raises :class:`ReportError` where nothing is scored, and
    ``bench.store.StoreError`` where the folder cannot be written.
    """
    from reports import render

    frame = summary(store)
    tables = build(frame, facts, control_titles(store))
    legend = [
        f"- **{_heading(metric)}** (`{metric}`{', ' + facts[metric].unit if facts[metric].unit else ''}): "
        f"{facts[metric].summary}"
        for metric in dict.fromkeys(column.metric for table in tables for column in table.columns)
        if metric in facts
    ]
    texts = {
        "summary.csv": frame.to_csv(index=False, lineterminator="\n"),
        "tables.md": "\n".join(
            [
                f"# {store.path.name}",
                "",
                *map(render.markdown, tables),
                *(f"{note}  " for note in render.notes(tables)),
                "",
                "## Metrics",
                "",
                *legend,
                "",
            ]
        ),
        "tables.tex": render.LATEX_HEAD + "\n".join(map(render.latex, tables)),
        **{f"{table.name}.csv": render.csv_text(table) for table in tables},
    }
    for name, text in texts.items():
        store.write_file(f"report/{name}", text.encode(), f"report/{name}")
    return frame, tables

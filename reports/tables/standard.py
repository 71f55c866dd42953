"""The tables that every run has: main, success per category, details, and published metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.edit import ALL
from bench.tables.table import Table, slug
from reports.data.metrics import (
    HEADINGS,
    MAIN_METRICS,
    display_order,
    full_heading,
    heading,
    is_composited,
    is_success,
)
from reports.data.report_data import ReportData, ReportError
from reports.data.scores import RunScores
from reports.data.seeds import seed_spread
from reports.tables.published import published_picks, published_tables
from reports.tables.tabulate import Pick, tabulate, with_note


def standard_tables(data: ReportData) -> list[Table]:
    """All tables of a summary, the main ones first. Raises :class:`ReportError` where there is no score."""
    if data.frame.empty:
        raise ReportError(
            "the run has no scores yet. Score it first: `python run_bench.py score RUN` names what the metrics lack."
        )
    return [*main_tables(data), *success_tables(data), *detail_tables(data), *published_tables(data)]


def main_tables(data: ReportData, columns: Sequence[str] = ()) -> list[Table]:
    """The main table of each protocol, over all categories.

    ``columns``: its metrics, in order. Empty: the headline metrics.
    """
    tables = [
        tabulate(
            data,
            f"main-{slug(protocol)}",
            f"{protocol}: all categories",
            [
                Pick(full_heading(metric), metric, ALL, protocol)
                for metric in columns or _headline(data, protocol)
            ],
        )
        for protocol in data.protocols()
    ]
    return [table for table in tables if table.columns]


def _headline(data: ReportData, protocol: str) -> list[str]:
    """The main metrics, then those of plug-ins. All plain metrics where the run has neither."""
    plain = [metric for metric in data.names(protocol) if not is_composited(metric)]
    main = [metric for metric in MAIN_METRICS if metric in plain]
    # `or` binds weaker than `+`: `plain` counts only where both lists are empty.
    return main + [metric for metric in plain if metric not in HEADINGS] or plain


def success_tables(data: ReportData) -> list[Table]:
    """Success per category: one table per protocol and judge."""
    tables = []
    for protocol in data.protocols():
        categories = [*data.categories(protocol), ALL]
        for metric in data.names(protocol):
            if is_success(metric):
                picks = [
                    Pick(category.replace("_", "-"), metric, category, protocol) for category in categories
                ]
                name, title = (
                    f"{slug(metric)}-{slug(protocol)}",
                    f"{protocol}: {full_heading(metric)} per category",
                )
                tables.append(with_note(tabulate(data, name, title, picks), *_ceiling_note(data, protocol)))
    return tables


def _ceiling_note(data: ReportData, protocol: str) -> list[str]:
    """The bounds of blind methods, where the protocol declares some."""
    bounds = data.ceilings.get(protocol, {})
    texts = [
        f"{category.replace('_', '-')} {100 * bounds[category]:.1f} %"
        for category in data.categories(protocol)
        if category in bounds
    ]
    if not texts:
        return []
    return [
        "Ceilings of methods that see neither the regions nor the source inside the mask, and guess: "
        f"{', '.join(texts)}."
    ]


def short_table(main: Sequence[Table]) -> Table:
    """The README's table: success of each method per protocol, and the area that it repainted outside in the last one.

    ``main``: finished main tables, see :func:`main_tables`. Controls are left out, marks and intervals stay.
    """
    # A main table's title is "PROTOCOL: all categories": the part before the colon is the protocol.
    picks = [
        (table, index, f"{wording} {table.title.partition(':')[0]}")
        for metric, wording, tables in (
            ("success_truth", "success,", main),
            ("leak_area", "repainted outside,", main[-1:]),
        )
        for table in tables
        for index, column in enumerate(table.columns)
        if column.metric == metric
    ]
    # By label: the tables of two protocols need not have their rows in the same order.
    rows = {table.name: {row.label: row for row in table.rows} for table, _, _ in picks}
    return Table(
        name="short",
        title="",
        columns=tuple(replace(table.columns[i], heading=title, decimals=0) for table, i, title in picks),
        rows=tuple(
            replace(row, cells=tuple(rows[table.name][row.label].cells[i] for table, i, _ in picks), group="")
            for row in main[0].rows
            if not row.control
        ),
        counts=(),
    )


# Name of a detail table -> its title, in order.
FAMILY_TITLES = {
    "leakage": "leakage in detail",
    "reference": "distance to the reference inside the mask",
    "pasted": "composited edits: the edit pasted back into its source",
    "other": "other metrics",
}


def _family(metric: str) -> str:
    if is_composited(metric):
        return "pasted"
    if metric.startswith("leak_"):
        return "leakage"
    if metric.startswith("truth_"):
        return "reference"
    # Success has tables per category.
    return "" if is_success(metric) else "other"


def detail_tables(data: ReportData) -> list[Table]:
    """Every metric that the main table leaves out, per protocol in one table per family."""
    tables = []
    for protocol in data.protocols():
        headline = _headline(data, protocol)
        rest = sorted((m for m in data.names(protocol) if m not in headline), key=display_order)
        for family, title in FAMILY_TITLES.items():
            picks = [Pick(heading(m), m, ALL, protocol) for m in rest if _family(m) == family]
            if picks:
                tables.append(tabulate(data, f"{family}-{slug(protocol)}", f"{protocol}: {title}", picks))
    return tables


def spread_tables(data: ReportData, scores: RunScores, seeds: Sequence[int]) -> list[Table]:
    """How far the mean of each main and each published metric differs between seeds.

    Up to two tables per protocol: published metrics never stand beside this suite's.
    """
    # A spread is neither good nor bad, so no row is marked.
    plain = {name: replace(info, higher_is_better=None) for name, info in data.metrics.items()}
    spread = replace(data.with_frame(seed_spread(scores)), metrics=plain, separations=None)
    note = (
        f"Standard deviation of the mean over all cases between {len(seeds)} seeds. n is the number of seeds."
    )
    tables = []
    for protocol in spread.protocols():
        ours = [Pick(full_heading(metric), metric, ALL, protocol) for metric in _headline(data, protocol)]
        title = f"{protocol}: spread between seeds"
        tables += [
            tabulate(spread, f"seeds-{slug(protocol)}", title, ours),
            tabulate(
                spread,
                f"seeds-published-{slug(protocol)}",
                f"{title}, as published benchmarks compute it",
                published_picks(data, protocol),
            ),
        ]
    return [with_note(table, note) for table in tables if table.columns]

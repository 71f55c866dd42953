"""The suite's own table of each protocol: realism, alignment, leakage, success and cost, with a mean rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.edit import ALL
from bench.metrics.types import raw_name
from bench.tables.style import Style
from bench.tables.table import Cell, Column, Table, mark, slug
from reports.data.metrics import FRECHET, SUCCESS, full_heading, is_composited
from reports.data.preference import EVERYWHERE
from reports.data.report_data import ReportData
from reports.data.scores import PEAK_MEMORY, SECONDS
from reports.tables.tabulate import Pick, tabulate, with_note

if TYPE_CHECKING:
    import pandas as pd

# Groups of the table. A column shows the first of its metrics that the run has.
# An empty heading stands for the metric's own heading.
SUITE: Sequence[tuple[str, Sequence[tuple[tuple[str, ...], str]]]] = (
    (
        "realism",
        (
            (FRECHET, ""),
            (("kid", "vgg16_kid"), ""),
            (("cmmd", "mini_clip_cmmd"), ""),
        ),
    ),
    (
        "alignment",
        (
            (("clip_target", "mini_clip_target"), ""),
            (("clip_region", "mini_clip_region"), ""),
            (("clip_directional", "mini_clip_directional"), ""),
        ),
    ),
    (
        "leakage",
        (
            (("leak_lpips", "leak_lpips_vgg"), "LPIPS raw"),
            (("leak_lpips_pasted",), "LPIPS composited"),
            (("leak_psnr",), "PSNR raw"),
            (("leak_area",), "area raw"),
        ),
    ),
    (
        "success",
        (
            (SUCCESS, "raw"),
            (("success_truth_pasted", "success_clip_pasted", "success_mini_clip_pasted"), "composited"),
        ),
    ),
    ("cost", (((SECONDS,), ""), ((PEAK_MEMORY,), ""))),
)

COMPOSITED_LEAK = "leak_lpips_pasted"
MEAN_RANK = "mean_rank"


def with_composited_leakage(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the leakage of composited edits, which is 0 by construction wherever raw leakage was measured."""
    import pandas as pd

    # Outside the mask a composited edit is its source, pixel by pixel.
    raw = frame[frame["metric"] == "leak_lpips"]
    zero = raw.assign(metric=COMPOSITED_LEAK, value=0.0, low=0.0, high=0.0)
    return pd.concat([frame, zero], ignore_index=True) if len(zero) else frame


def suite_tables(data: ReportData, style: Style) -> list[Table]:
    """The suite's table of each protocol, with the style's columns where it names any."""
    tables = []
    for protocol in data.protocols():
        # The pooled votes have tables of the paper's shapes alone.
        if protocol == EVERYWHERE:
            continue
        picks = [Pick(full_heading(metric), metric, ALL, protocol) for metric in style.columns]
        table = tabulate(
            data,
            f"suite-{slug(protocol)}",
            f"{protocol}: realism, alignment, leakage, success and cost",
            picks or _picks(data, protocol),
        )
        # A note says that this 0 was not measured.
        if any(column.metric == COMPOSITED_LEAK for column in table.columns):
            table = with_note(
                table,
                "Composited: the edit is pasted back into its source, so that its leakage is 0 by construction.",
            )
        if table.columns:
            # The user's choice of columns could influence a mean rank, so there is none.
            tables.append(table if style.columns else with_mean_rank(table))
    return tables


def _picks(data: ReportData, protocol: str) -> list[Pick]:
    return [
        Pick(heading or full_heading(metric), metric, ALL, protocol, _group(group, metric))
        for group, columns in SUITE
        for names, heading in columns
        for metric in [data.first(protocol, names)]
        if metric
    ]


def _group(group: str, metric: str) -> str:
    """The heading of a group. That of success names the judge, once for its columns."""
    if group != "success":
        return group
    judge = raw_name(metric).removeprefix("success_").replace("_", " ").replace("clip", "CLIP")
    return f"success ({judge})"


def with_mean_rank(table: Table) -> Table:
    """The table with each method's mean rank over its columns, where there are at least two methods and two columns.

    Equal values share the mean of their ranks. Controls have no rank.
    """
    import pandas as pd

    # Ranked columns have a direction and a value of every method. Cost and composited edits are not ranked.
    methods = [row for row in table.rows if not row.control]
    ranks = []
    for i, column in enumerate(table.columns):
        values = [row.cells[i].value for row in methods]
        ranks_methods = column.metric not in (SECONDS, PEAK_MEMORY) and not is_composited(column.metric)
        if column.higher_is_better is not None and ranks_methods and None not in values:
            sign = -1 if column.higher_is_better else 1
            ranks.append(pd.Series([sign * value for value in values if value is not None]).rank().tolist())
    if len(methods) < 2 or len(ranks) < 2:
        return table

    # One more column: the mean over the ranking columns, per method.
    # Ranks of methods only. Rows of controls are passed over below, in the same order.
    means = iter([float(sum(of_method) / len(ranks)) for of_method in zip(*ranks, strict=True)])
    cells = [Cell(None) if row.control else Cell(next(means)) for row in table.rows]
    marked = mark(cells, [row.control for row in table.rows], higher_is_better=False)
    column = Column(
        "mean rank",
        MEAN_RANK,
        higher_is_better=False,
        decimals=1,
        protocol=table.columns[0].protocol,
        group="overall",
    )
    rows = [replace(row, cells=(*row.cells, cell)) for row, cell in zip(table.rows, marked, strict=True)]
    return with_note(
        replace(table, columns=(*table.columns, column), rows=tuple(rows)),
        f"Mean rank: over the {len(ranks)} columns that have a direction and a value of every method, without cost "
        "and composited edits; equal values share a rank.",
    )

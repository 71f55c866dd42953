"""The methods of a run against its baseline, as one table per protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.edit import ALL
from bench.metrics.types import MetricInfo
from bench.tables.numbers import finite
from bench.tables.table import Cell, Column, Row, Table, slug
from reports.data.metrics import heading, metric_info

if TYPE_CHECKING:
    import pandas as pd

    from reports.data.scores import RunScores

# Metrics of the tables. ``comparisons.csv`` has all.
# Holm's correction is per metric, so that leaving metrics out changes no p-value.
COMPARED = (
    "success_truth",
    "success_clip",
    "success_mini_clip",
    "leak_lpips",
    "clip_region",
    "clip_directional",
    "mini_clip_region",
    "mini_clip_directional",
    "fid",
    "vgg16_frechet",
)

NOTE = (
    "Differences are paired by case; p: two-sided sign-flip test, Holm's correction over the methods of a "
    "metric; d: mean over standard deviation of the differences; P(higher): share of cases with the higher "
    "value, ties half."
)
INTERVAL_NOTE = (
    "Intervals of differences are clustered on the source image (of shares: Newcombe's; of other means: "
    "studentised bootstrap; of sets: as of independent errors)."
)


def comparison_tables(
    comparisons: pd.DataFrame, scores: RunScores, metrics: Mapping[str, MetricInfo]
) -> list[Table]:
    """Per protocol: every method that is no control against the baseline, metric by metric."""
    tables = []
    for protocol in scores.protocols:
        # Rows: metric by metric, over all categories.
        part = comparisons[
            (comparisons["protocol"] == protocol)
            & (comparisons["category"] == ALL)
            & ~comparisons["method"].isin(scores.controls)
        ]
        rows = [
            _row(record, metrics)
            for metric in COMPARED
            for record in part[part["metric"] == metric].to_dict(orient="records")
        ]
        if not rows:
            continue

        # Columns: the difference with its interval, and three measures of it.
        # `compare` takes one baseline for the whole frame.
        baseline = part["baseline"].iloc[0]
        columns = (
            Column(f"difference from {baseline}", "difference", protocol=protocol, decimals=3),
            Column("Holm's p", "p_holm", protocol=protocol, decimals=4),
            Column("Cohen's d", "cohens_d", protocol=protocol, decimals=2),
            Column("P(higher)", "superiority", protocol=protocol, decimals=2),
        )
        # Each once, although every row of a small category has the same.
        remarks = dict.fromkeys(f"{remark[0].upper()}{remark[1:]}." for remark in part["remark"] if remark)
        tables.append(
            Table(
                f"comparison-{slug(protocol)}",
                f"{protocol}: against {baseline}",
                columns,
                tuple(rows),
                (NOTE, *remarks),
                (INTERVAL_NOTE,),
                rows_are="metric: method",
                counts=("n",),
            )
        )
    return tables


def _row(record: Mapping[str, Any], metrics: Mapping[str, MetricInfo]) -> Row:
    info = metric_info(record["metric"], metrics)
    # Rows are metrics of both directions, so a heading over the column could not say which sign is good.
    arrow = {True: " ↑", False: " ↓", None: ""}[info.higher_is_better if info else None]
    n = int(record["n"])
    difference, low, high = (finite(record[key]) for key in ("difference", "low", "high"))
    # Unpaired sets have no test. JSON and LaTeX have no NaN, so `finite` makes it None.
    tests = (Cell(finite(record[key]), n=n) for key in ("p_holm", "cohens_d", "superiority"))
    label = f"{heading(record['metric'])}{arrow}: {record['method']}"
    return Row(label, False, (Cell(difference, low, high, n), *tests), n, 0)

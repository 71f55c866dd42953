"""Bounds on what the failures of a judge could change: one table per protocol and column of a judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.edit import ALL
from bench.metrics.types import MetricInfo, ReasonCode
from bench.tables.numbers import finite
from bench.tables.table import Cell, Column, Row, Table, slug
from reports.data.metrics import full_heading, metric_info
from reports.data.report_data import ReportData
from reports.tables.tabulate import MEAN_INTERVAL_NOTE, with_note

if TYPE_CHECKING:
    import pandas as pd


def judge_tables(
    data: ReportData, stored: pd.DataFrame, titles: Mapping[str, str], judges: Mapping[str, str]
) -> list[Table]:
    """One table per protocol and judged column. Empty where no judge has scored the run.

    ``stored``: ``RunStore.scores``. ``titles``: method digest -> name in the tables. ``judges``: version of the scores
    -> a sentence about their judge.
    """
    tables = []
    for protocol in data.protocols():
        for metric in [*data.names(protocol), *data.published(protocol)]:
            info = metric_info(metric, data.metrics)
            if info is None or not info.judged:
                continue
            rows = stored[(stored["protocol"] == protocol) & (stored["metric"] == metric)]
            table = _table(data, rows, titles, protocol, metric, info)
            versions = rows.loc[rows["value"].notna(), "metric_version"].unique()
            tables.append(with_note(table, *(judges[one] for one in versions if one in judges)))
    return tables


def _table(
    data: ReportData,
    scores: pd.DataFrame,
    titles: Mapping[str, str],
    protocol: str,
    metric: str,
    info: MetricInfo,
) -> Table:
    # A judge's unit is its scale, such as 0..10.
    lowest, highest = (float(end) for end in info.unit.split(".."))
    columns = [
        ("mean", metric, True),
        ("mean of categories", f"{metric}_macro", True),
        (f"failures as {lowest:g}", f"{metric}_failures_lowest", None),
        (f"failures as {highest:g}", f"{metric}_failures_highest", None),
        ("failed replies", f"{metric}_failed_replies", None),
    ]
    frame = data.frame[(data.frame["protocol"] == protocol) & (data.frame["metric"] == metric)]
    means = {(row["method"], row["category"]): row for row in frame.to_dict("records")}
    rows = []
    for digest, title in titles.items():
        of_method = scores[scores["method"] == digest]
        if (title, ALL) not in means:
            continue
        # Failures of the judge, not of the method: cases without what the rubric needs do not count.
        values = of_method["value"].dropna()
        codes = [ReasonCode.of(reason) for reason in of_method.loc[of_method["value"].isna(), "reason"]]
        failed = sum(code in (ReasonCode.JUDGE, ReasonCode.ERROR) for code in codes)
        total, n = float(values.sum()), len(values)
        bounds = [(total + failed * end) / (n + failed) if n + failed else None for end in (lowest, highest)]
        # The benchmarks' own summary: every type of edit counts alike.
        by_category = [
            row["value"]
            for (method, category), row in means.items()
            if method == title and category != ALL and not math.isnan(row["value"])
        ]
        row = means[title, ALL]
        cells = (
            Cell(finite(row["value"]), finite(row["low"]), finite(row["high"]), n),
            Cell(sum(by_category) / len(by_category) if by_category else None, n=n),
            *(Cell(bound, n=n + failed) for bound in bounds),
            Cell(float(failed), n=n + failed),
        )
        rows.append(Row(title, title in data.controls, cells, n, int(row["failed"])))
    return Table(
        f"judge-{slug(metric)}-{slug(protocol)}",
        f"{protocol}: {full_heading(metric)}, and what failed replies could change",
        tuple(
            Column(
                heading,
                key,
                higher_is_better=info.higher_is_better if directed else None,
                decimals=0 if key.endswith("_failed_replies") else 2,
                protocol=protocol,
            )
            for heading, key, directed in columns
        ),
        # Controls last, as in every table.
        tuple(sorted(rows, key=lambda row: row.control)),
        (
            "A reply that was refused, cut off, out of range or could not be read is no score and enters no mean. The "
            "true mean lies between the two bounds, in which every such reply counts as the end of the scale.",
        ),
        (MEAN_INTERVAL_NOTE,),
    )

"""Tables of judges: bounds on what failures could change, per protocol and column, and what the scores are worth."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL
from bench.metrics.types import MetricInfo, ReasonCode
from bench.tables.numbers import finite
from bench.tables.table import Cell, Column, Row, Table, slug
from reports.data.judge_validity import ITSELF
from reports.data.metrics import full_heading, metric_info, value_range
from reports.data.preference import SIMULATED
from reports.data.report_data import ReportData
from reports.data.validity import VOTES
from reports.tables.tabulate import MEAN_INTERVAL_NOTE, with_note

if TYPE_CHECKING:
    import pandas as pd


def judge_tables(
    data: ReportData, stored: pd.DataFrame, titles: Mapping[str, str], judges: Mapping[str, str]
) -> list[Table]:
    """Per protocol a table of all judged columns, and one of each with its bounds. Empty where nothing was judged.

    ``stored``: ``RunStore.scores``. ``titles``: method digest -> name in the tables. ``judges``: version of the scores
    -> a sentence about their judge.
    """
    tables = []
    for protocol in data.protocols():
        judged = {
            metric: info
            for metric in [*data.names(protocol), *data.published(protocol)]
            if (info := metric_info(metric, data.metrics)) is not None and info.judged
        }
        of_protocol = stored[(stored["protocol"] == protocol) & stored["metric"].isin(judged)]
        of_metrics = [
            (_table(data, rows, titles, protocol, metric, info), rows)
            for metric, info in judged.items()
            for rows in [of_protocol[of_protocol["metric"] == metric]]
        ]
        if of_metrics:
            whole = _whole(data, of_protocol, titles, protocol, judged)
            for table, rows in [(whole, of_protocol), *of_metrics]:
                versions = rows.loc[rows["value"].notna(), "metric_version"].unique()
                tables.append(with_note(table, *(judges[one] for one in versions if one in judges)))
    return tables


def _whole(
    data: ReportData,
    scores: pd.DataFrame,
    titles: Mapping[str, str],
    protocol: str,
    judged: Mapping[str, MetricInfo],
) -> Table:
    """The means of all judged columns, and how many edits have no score because a judge failed."""
    # One row per method: a mean for each judged column, then the number of failures.
    frame = data.frame[(data.frame["protocol"] == protocol) & (data.frame["category"] == ALL)]
    means = {(row["method"], row["metric"]): row for row in frame.to_dict("records")}
    rows = []
    for digest, title in titles.items():
        of_title = [means.get((title, metric)) for metric in judged]
        scored = [row for row in of_title if row is not None]
        if not scored:
            continue
        # Failures are counted in edits: one that two judges refuse is one. So are the edits that were judged.
        of_method = scores[scores["method"] == digest]
        lacking = of_method[of_method["value"].isna()]
        is_failure = [_is_failure(reason) for reason in lacking["reason"]]
        failed = _edits(lacking[is_failure])
        judged_edits = _edits(of_method.drop(index=lacking[~np.array(is_failure, bool)].index))
        n = max(int(row["n"]) for row in scored)
        cells = (
            *(
                Cell(None)
                if row is None
                else Cell(finite(row["value"]), finite(row["low"]), finite(row["high"]), int(row["n"]))
                for row in of_title
            ),
            Cell(float(failed), n=judged_edits),
        )
        rows.append(Row(title, title in data.controls, cells, n, max(int(row["failed"]) for row in scored)))
    # Their columns.
    columns = [
        Column(
            full_heading(metric),
            metric,
            higher_is_better=info.higher_is_better,
            decimals=2,
            protocol=protocol,
        )
        for metric, info in judged.items()
    ]
    return Table(
        f"judges-{slug(protocol)}",
        f"{protocol}: scores of judges",
        (*columns, Column("failed replies", "failed_replies", decimals=0, protocol=protocol)),
        tuple(sorted(rows, key=lambda row: row.control)),
        (
            "failed replies: edits of which a reply was refused, cut off, out of range or unreadable. They enter no "
            "mean.",
        ),
        (MEAN_INTERVAL_NOTE,),
    )


def _edits(scores: pd.DataFrame) -> int:
    """Number of edits of one method that some scores are of."""
    return len(scores.drop_duplicates(["case", "seed"]))


def _is_failure(reason: str | None) -> bool:
    """True where the judge failed. A failed edit or a case without what the rubric needs does not count."""
    return ReasonCode.of(reason) in (ReasonCode.JUDGE, ReasonCode.ERROR)


def _table(
    data: ReportData,
    scores: pd.DataFrame,
    titles: Mapping[str, str],
    protocol: str,
    metric: str,
    info: MetricInfo,
) -> Table:
    # A judge's unit is its scale, such as 0..10.
    lowest, highest = value_range(metric, data.metrics)
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
        failed = sum(map(_is_failure, of_method.loc[of_method["value"].isna(), "reason"]))
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


# (against, measure) of ``reports.data.judge_validity`` -> heading. Those of votes are the study's own.
_VALIDITY: Mapping[tuple[str, str], str] = {
    (ITSELF, "oracle"): "oracle",
    (ITSELF, "copy_input"): "copy_input",
    (ITSELF, "noise"): "noise (jpeg)",
    (ITSELF, "retest"): "retest deviation",
    ("judge_truth", "pair accuracy"): "pairs as ground truth",
    ("judge_truth", "pair kendall"): "tau-b with ground truth",
    ("truth_lpips", "pair accuracy"): "pairs as LPIPS to ground truth",
    ("truth_lpips", "pair kendall"): "tau-b with LPIPS to ground truth",
    (VOTES, "agreement"): "pairs as votes",
    (VOTES, "kendall"): "tau-b with votes",
    (SIMULATED + VOTES, "agreement"): "pairs as SIMULATED RATERS",
    (SIMULATED + VOTES, "kendall"): "tau-b with SIMULATED RATERS",
    (ITSELF, "length"): "length of the request",
    (ITSELF, "first"): "first image wins",
    (ITSELF, "flips"): "flips",
}


_VALIDITY_NOTES = (
    "oracle is the ground truth and copy_input the unchanged image: means in points of the scale. noise: mean absolute "
    "difference between jpeg and copy_input. retest: standard deviation between passes.",
    "pairs: share of the pairs of edits of one case that are ordered alike, where 0.5 is a coin. tau-b: over the same "
    "pairs, ties included. Both without controls.",
    "length of the request: rank correlation of the scores of oracle and copy_input with a request of many words. "
    "first image wins, flips: of judges that compare two edits. 0.5 and 0 are without a bias.",
    "The attribute classifier as a judge (server world) reads with the network of the judge with ground truth: "
    "their agreement says nothing about judges.",
)


def judge_validity_tables(
    frame: pd.DataFrame, judged: Collection[str], sentences: Sequence[str]
) -> list[Table]:
    """One table per protocol with a row per judged column and per judge of pairs. Empty without a judge.

    ``frame``: ``reports.data.validity.validity``. ``judged``: the metrics that judges scored. ``sentences``: which
    judges they are.
    """
    # Judges of pairs are no metrics of the run. Their positions are measured.
    pairwise = set(frame.loc[frame["against"] == ITSELF, "metric"])
    of_judges = frame[frame["metric"].isin({*judged, *pairwise})]
    of_judges = of_judges[of_judges["category"] == ALL]
    tables = []
    for protocol in dict.fromkeys(of_judges["protocol"]):
        rows = of_judges[of_judges["protocol"] == protocol].to_dict("records")
        values = {(row["metric"], row["against"], row["measure"]): row for row in rows}
        measured = {(row["against"], row["measure"]) for row in rows}
        shown = [place for place in _VALIDITY if place in measured]
        if not shown:
            continue
        cells = {
            metric: tuple(
                Cell(None)
                if (row := values.get((metric, *place))) is None
                else Cell(finite(row["value"]), finite(row["low"]), finite(row["high"]), int(row["n"]))
                for place in shown
            )
            for metric in dict.fromkeys(row["metric"] for row in rows)
        }
        table = Table(
            f"validity-judges-{slug(protocol)}",
            f"{protocol}: what the scores of judges are worth",
            tuple(
                Column(
                    _VALIDITY[place],
                    f"{place[0]}_{place[1].replace(' ', '_')}",
                    protocol=protocol,
                    decimals=2,
                )
                for place in shown
            ),
            tuple(
                Row(full_heading(metric), False, of_metric, max(cell.n for cell in of_metric), 0)
                for metric, of_metric in cells.items()
            ),
            _VALIDITY_NOTES,
            ("Intervals are clustered on the source image; those of votes resample raters too.",),
            rows_are="metric",
            counts=("n",),
        )
        tables.append(with_note(table, *dict.fromkeys(sentences)))
    return tables

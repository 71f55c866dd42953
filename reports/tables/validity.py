"""Tables of the validity of the metrics: metrics by category, and agreement of the success rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.edit import ALL, CATEGORIES
from bench.tables.numbers import finite
from bench.tables.table import Cell, Column, Row, Table, slug
from reports.data.judge_validity import ORDERS
from reports.data.metrics import HEADINGS
from reports.data.preference import SIMULATED
from reports.data.validity import AGREEMENT, GROUND_TRUTHS, VOTES

if TYPE_CHECKING:
    import pandas as pd


def _verdicts() -> Iterator[tuple[str, str, str]]:
    """(against, measure, title) of each table by category."""
    for name, what in GROUND_TRUTHS.items():
        yield name, "spearman", f"rank correlation with {what}"
    for name, what in ORDERS.items():
        yield name, "pair accuracy", f"share of pairs of edits that a judge orders as {what}"
        yield name, "pair kendall", f"tau-b of judges with {what}, over pairs of edits of one case"
    for prefix, suffix in (("", ""), (SIMULATED, " of SIMULATED RATERS, not people")):
        yield prefix + VOTES, "agreement", f"share of votes with which the metric agrees{suffix}"
        yield prefix + VOTES, "spearman", f"rank correlation with the votes{suffix}"


def validity_tables(frame: pd.DataFrame) -> list[Table]:
    """Metrics by category, one table per protocol and verdict, and the rules' agreement, one table per protocol."""
    tables = []
    by_category = [(category.replace("_", "-"), category) for category in (ALL, *CATEGORIES)]
    for protocol in dict.fromkeys(frame["protocol"]):
        of_protocol = frame[frame["protocol"] == protocol]
        for against, measure, title in _verdicts():
            part = of_protocol[(of_protocol["against"] == against) & (of_protocol["measure"] == measure)]
            if len(part):
                name = f"{against}-{measure}"
                tables.append(_table(part, "category", by_category, f"{protocol}: {title}", name, protocol))
        part = of_protocol[of_protocol["measure"].isin(AGREEMENT) & (of_protocol["category"] == ALL)]
        if len(part):
            title = f"{protocol}: success without the truth against success by the truth"
            measures = [(measure, measure) for measure in AGREEMENT]
            tables.append(_table(part, "measure", measures, title, "agreement", protocol))
    return tables


def _table(
    part: pd.DataFrame, by: str, columns: Sequence[tuple[str, str]], title: str, name: str, protocol: str
) -> Table:
    """A row per metric. ``by``: name of the frame's column that has the keys of ``columns`` (heading, key)."""
    values = {(row["metric"], row[by]): row for row in part.to_dict(orient="records")}
    metrics = list(dict.fromkeys(part["metric"]))
    if by == "category":
        # The most informative metric first, whatever its sign.
        metrics.sort(
            key=lambda metric: -abs(values[metric, ALL]["value"]) if (metric, ALL) in values else 0.0
        )
    columns = [column for column in columns if any((metric, column[1]) in values for metric in metrics)]
    rows = []
    for metric in metrics:
        of_metric = [values.get((metric, key)) for _, key in columns]
        cells = tuple(
            Cell(None)
            if row is None
            else Cell(finite(row["value"]), finite(row["low"]), finite(row["high"]), int(row["n"]))
            for row in of_metric
        )
        # The largest n of the row: cells by category have fewer edits each.
        rows.append(Row(HEADINGS.get(metric, metric), False, cells, max(cell.n for cell in cells), 0))
    notes, interval_note = _notes(name)
    return Table(
        f"validity-{slug(name)}-{slug(protocol)}",
        title,
        # Two decimals: the intervals of correlations are wider than a hundredth. No direction, so nothing is marked
        # best.
        tuple(Column(heading, key, protocol=protocol, decimals=2) for heading, key in columns),
        tuple(rows),
        notes,
        (interval_note,),
        rows_are="metric",
        counts=("n",),
    )


def _notes(name: str) -> tuple[tuple[str, ...], str]:
    """Notes of a table, and the note on its intervals."""
    if VOTES in name:
        notes = []
        interval_note = (
            "Intervals of what is compared with votes: bootstrap that resamples raters and source images."
        )
    else:
        notes = ["Agreement of metrics is measured without controls."]
        interval_note = (
            "Intervals of agreement are clustered on the source image (shares: Wilson's with the clusters' design "
            "effect; correlations and kappa: bootstrap)."
        )
    if "spearman" in name:
        notes.append(
            "Signs are turned so that more is better: positive is agreement, whatever a metric's direction."
        )
    return tuple(notes), interval_note

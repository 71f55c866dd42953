"""One table from the tidy summary: cells, marks, decimals and notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.edit import ALL
from bench.metrics.types import OUTCOME
from bench.tables.numbers import finite
from bench.tables.table import MARK_NOTES, Cell, Column, Row, Table, mark
from reports.data.metrics import is_frechet, is_set_distance, metric_info
from reports.data.report_data import ReportData

# Below this many images a Fréchet distance is biased upwards enough for a note.
# 2,048 is the number of Inception's features: fewer images leave their covariance singular.
SMALL_SET = 2048

MEAN_INTERVAL_NOTE = (
    "Intervals are clustered on the source image (shares of successes: Wilson's with the clusters' design "
    "effect; other means: studentised bootstrap)."
)
SET_INTERVAL_NOTE = (
    "Intervals of Fréchet, KID and CMMD: by jackknife instead, over source images and real images, "
    "about the value expected at this n."
)

# Units of values in [0, 1] that read better as per cent. A value whose unit is % already is per cent.
_SHARES = frozenset({"share", "fraction", "rate", OUTCOME})


@dataclass(frozen=True)
class Pick:
    """Selects the rows of the summary that a column shows, and its heading."""

    heading: str
    metric: str
    category: str = ALL
    protocol: str = ""
    group: str = ""


def tabulate(
    data: ReportData,
    name: str,
    title: str,
    picks: Sequence[Pick],
    methods: Sequence[str] | None = None,
) -> Table:
    """A table of the picked columns. Columns without a row in the summary are left out.

    ``methods``: titles of the rows, in order. None: all methods of the picked protocols, controls last.
    """
    # The summary's rows by place, and the picks that have any.
    frame = data.frame[data.frame["protocol"].isin({pick.protocol for pick in picks})]
    # A dictionary: a selection from the frame would read all of its rows for each cell.
    records = {
        (record["protocol"], record["method"], record["metric"], record["category"]): record
        for record in frame.to_dict(orient="records")
    }
    available = {(protocol, metric, category) for protocol, _, metric, category in records}
    picks = [pick for pick in picks if (pick.protocol, pick.metric, pick.category) in available]
    if methods is None:
        methods = sorted(dict.fromkeys(frame["method"]), key=lambda method: method in data.controls)
    # Controls get no marks: copying the input is always best in leakage, and the oracle in everything.
    controls = [method in data.controls for method in methods]

    # Columns, each with its marks.
    columns, cells = [], []
    for pick in picks:
        of_column = [records.get((pick.protocol, method, pick.metric, pick.category)) for method in methods]
        column = _column(pick, data, of_column)
        columns.append(column)
        tests = (data.separations or {}).get((pick.protocol, pick.metric, pick.category))
        p_values = None if tests is None else [tests.get(method) for method in methods]
        cells.append(mark(list(map(_cell, of_column)), controls, column.higher_is_better, p_values))

    # Rows, each with its largest n and the failures of all protocols.
    rows = []
    for i, method in enumerate(methods):
        # All metrics of a protocol repeat the same number of failures: `max` within a protocol, the sum over
        # protocols.
        of_method = frame[(frame["method"] == method) & (frame["category"] == ALL)]
        failed = of_method.groupby("protocol")["failed"].max().sum()
        row = tuple(column_cells[i] for column_cells in cells)
        n = max((cell.n for cell in row), default=0)
        rows.append(Row(method, controls[i], row, n, int(failed)))
    notes, interval_notes = tuple(_notes(columns, rows)), tuple(_interval_notes(columns, rows))
    return Table(name, title, tuple(columns), tuple(rows), notes, interval_notes)


def _column(pick: Pick, data: ReportData, records: Iterable[Mapping[str, object] | None]) -> Column:
    info = metric_info(pick.metric, data.metrics)
    # A metric that nobody declares, such as a removed plug-in's, has neither unit nor direction.
    percent = info is not None and info.unit in _SHARES
    present = [record for record in records if record is not None]
    values = [finite(record["value"]) for record in present]
    ends = [finite(record[key]) for record in present for key in ("low", "high")]
    # Where every value is 0, only the ends of the intervals have digits.
    largest = _largest(values) or _largest(ends)
    decimals = _decimals(largest, info.unit if info is not None else "", percent)
    return Column(
        pick.heading,
        pick.metric,
        pick.category,
        info.higher_is_better if info is not None else None,
        percent,
        decimals if data.decimals is None else data.decimals,
        pick.protocol,
        pick.group,
    )


def _largest(values: Iterable[float | None]) -> float:
    return max((abs(value) for value in values if value is not None), default=0.0)


def _decimals(largest: float, unit: str, percent: bool) -> int:
    """Decimals of a column with this largest value: about four digits, one decimal for decibels."""
    if percent:
        return 1 if largest >= 0.1 or not largest else 2 if largest >= 0.01 else 3
    if unit == "dB" or largest >= 10:
        return 1
    if 0 < largest < 0.001:
        # No decimals suffice: each value is shown with its own digits (``bench.tables.numbers.number``).
        return 0
    return 4 if 0 < largest < 0.1 else 3


def _cell(record: Mapping[str, object] | None) -> Cell:
    if record is None:
        return Cell(None)
    value, low, high = (finite(record[key]) for key in ("value", "low", "high"))
    return Cell(value, low, high, int(str(record["n"])))


def _interval_notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    # False: a mean has an interval. True: a distance between sets has one.
    # A note on intervals is for tables that show at least one.
    ranged = {
        is_set_distance(column.metric)
        for row in rows
        for cell, column in zip(row.cells, columns, strict=True)
        if cell.low is not None
    }
    if ranged:
        yield MEAN_INTERVAL_NOTE
    if True in ranged:
        yield SET_INTERVAL_NOTE


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """Notes on how to read the table. One sentence per mark, so that several tables share their notes."""
    cells = [cell for row in rows for cell in row.cells]
    # Marks.
    if any(cell.best for cell in cells):
        yield MARK_NOTES[0]
    if any(cell.second for cell in cells):
        yield MARK_NOTES[1]
    if any(cell.tie for cell in cells):
        yield "≈: its interval overlaps the best one's."
    if any(cell.dagger for cell in cells):
        yield (
            "†: not separable from the best (paired permutation test over source images, p ≥ .05 after "
            "max-T correction for all pairs of methods of the column)."
        )
    if any(row.control for row in rows):
        yield "Controls (ceiling and noise floor) stand apart and are never best."

    # Cautions.
    if any(column.metric.startswith("truth_") for column in columns):
        yield (
            "Distance to the reference: several answers can be right. Compare with copy_input, which changes nothing."
        )
    small = [
        cell.n
        for row in rows
        for cell, column in zip(row.cells, columns, strict=True)
        if is_frechet(column.metric) and cell.value is not None and cell.n < SMALL_SET
    ]
    if small:
        yield (
            f"Fréchet distances from {min(small)} images are biased upwards: "
            "compare them only within this table, between rows of the same n."
        )
    if any(row.failed for row in rows):
        yield "Failed or missing edits are counted, not scored: values are means over the n that exist."


def with_note(table: Table, *notes: str) -> Table:
    return replace(table, notes=(*table.notes, *notes))

"""The first screen of the page: what the main table of each protocol says, in sentences and six columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.tables.numbers import cell_text, interval
from bench.tables.table import Cell, Column, Table
from reports.data.metrics import FRECHET, SUCCESS
from reports.figures.charts import ALIGNMENT, LEAK

# The columns of the first screen: of each family the first metric that the table has.
HEADLINE: Sequence[Sequence[str]] = (
    SUCCESS,
    LEAK,
    ("leak_psnr",),
    ALIGNMENT,
    ("clip_directional", "mini_clip_directional"),
    FRECHET,
)


def overview(table: Table) -> dict[str, Any]:
    """``verdict`` (sentences), ``columns`` (six metrics) and ``plot`` (metrics of its axes, or None)."""
    metrics = [column.metric for column in table.columns]
    picked = [_first(metrics, family) for family in HEADLINE]
    columns = [metric for metric in picked if metric]
    # A run with metrics of its own shows them instead.
    columns += [metric for metric in metrics if metric not in columns][: len(HEADLINE) - len(columns)]
    leak, alignment = _first(metrics, LEAK), _first(metrics, ALIGNMENT)
    # A sentence for each of the three questions that the suite asks: done, without damage, as the text says.
    judged = [_first(metrics, family) for family in (SUCCESS, LEAK, ALIGNMENT)]
    return {
        "table": table.name,
        "verdict": [
            *(sentence(table, metrics.index(metric)) for metric in judged if metric),
            *table.too_small,
        ],
        "columns": columns,
        "plot": [leak, alignment] if leak and alignment else None,
    }


def sentence(table: Table, index: int) -> str:
    """A sentence with the best method of one column, its interval and n, and the methods not separable from it."""
    column = table.columns[index]
    rows = [(row.label.replace("_", " "), row.cells[index]) for row in table.rows if not row.control]
    rows = [(name, cell) for name, cell in rows if cell.value is not None]
    best = [(name, cell) for name, cell in rows if cell.best]
    heading = f"{column.heading[0].upper()}{column.heading[1:]}"
    if not best:
        only = f": {rows[0][0]}, {_value(rows[0][1], column)}" if len(rows) == 1 else ""
        return f"{heading}: no comparison, since fewer than two methods have a value{only}."
    # A column without a direction marks no best, so `None` does not come here.
    extreme = "lowest" if column.higher_is_better is False else "highest"
    cell = best[0][1]
    text = f"{heading}: {_listed([name for name, _ in best])} {'has' if len(best) == 1 else 'have'} the {extreme}, "
    text += f"{_value(cell, column)}, n = {cell.n}."
    it = "it" if len(best) == 1 else "them"
    # A dagger is the result of a test. Overlapping intervals are marked only where no test was made.
    close = [name for name, other in rows if other.dagger or other.tie]
    if close:
        dagger = any(other.dagger for _, other in rows)
        how = f"Not separable from {it}" if dagger else "Intervals that overlap the best one's"
        return f"{text} {how}: {_listed(close)}."
    return text if len(best) == len(rows) else f"{text} Every other method is separable from {it}."


def _value(cell: Cell, column: Column) -> str:
    """``96.9 % (88.7-99.5)``."""
    span = interval(cell, column)
    unit = " %" if column.percent else ""
    return f"{cell_text(cell, column)}{unit}" + (f" ({span})" if span else "")


def _first(metrics: Sequence[str], family: Sequence[str]) -> str:
    return next((metric for metric in family if metric in metrics), "")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

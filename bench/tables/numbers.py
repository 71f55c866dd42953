"""Values and intervals as text, the same on a terminal, in Markdown, HTML and LaTeX."""

from __future__ import annotations

import math

from bench.tables.table import Cell, Column

# Stands for a value that could not be computed.
MISSING = "–"
TIE = "≈"
DAGGER = "†"

# Values nearer to 0 than this are rounding errors of a float32 sum.
NOTHING = 1e-8


def finite(value: object) -> float | None:
    """``value`` as a float. None for None, NaN and infinity."""
    if value is None:
        return None
    converted = float(str(value))
    return converted if math.isfinite(converted) else None


def number(value: float | None, column: Column) -> str:
    """``value`` as the column shows it. A value that is not 0 is never shown as 0: it gets two significant digits."""
    if value is None:
        return MISSING
    # The usual case: the column's decimals show something, or the value is 0.
    text = _rounded(value, column)
    if text.strip("0.") or abs(value) < NOTHING:
        return text
    # Else two significant digits, with an exponent below 0.001.
    value *= 100 if column.percent else 1
    if abs(value) >= 0.001:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def cell_text(cell: Cell, column: Column) -> str:
    """The cell's own text, else its value as a number."""
    return cell.text or number(cell.value, column)


def _rounded(value: float, column: Column) -> str:
    text = f"{value * (100 if column.percent else 1):.{column.decimals}f}"
    # "-0.000" is printed as "0.000".
    return text if text.strip("-0.") else text.lstrip("-")


def halves(cell: Cell, column: Column) -> tuple[str, str]:
    """Distances from the value up and down to the ends of its interval. Empty where the interval has no width."""
    if cell.value is None or cell.low is None or cell.high is None or cell.low == cell.high:
        return "", ""
    up, down = cell.high - cell.value, cell.value - cell.low
    # An interval narrower than the last decimal gets significant digits, so that it is not shown as 0.
    show = number if not _rounded(cell.high - cell.low, column).strip("0.") else _rounded
    return show(up, column), show(down, column)


def ends(cell: Cell, column: Column) -> tuple[str, str]:
    """Low and high end, finer than the column's decimals where both ends would be 0 or the value is finer."""
    if cell.low is None or cell.high is None:
        return "", ""
    low, high = _rounded(cell.low, column), _rounded(cell.high, column)
    fine = not (low + high).strip("0.") or number(cell.value, column) != _rounded(cell.value or 0.0, column)
    return (number(cell.low, column), number(cell.high, column)) if fine else (low, high)


def interval(cell: Cell, column: Column) -> str:
    """``0.71–0.83``, or the cell's own span. Empty where there is no interval or it is a single point."""
    if cell.span or cell.low == cell.high:
        return cell.span
    low, high = ends(cell, column)
    # A minus or an exponent beside the dash would be misread.
    dash = " – " if low.startswith("-") or "e" in low + high else "–"
    return f"{low}{dash}{high}" if low else ""

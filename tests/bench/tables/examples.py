"""Two tables that the tests of all forms share."""

from __future__ import annotations

from bench.tables.table import Cell, Column, Row, Table

COLUMNS = (
    Column("success", "success_truth", higher_is_better=True, percent=True, decimals=1),
    Column("leak LPIPS", "leak_lpips", higher_is_better=False, decimals=3),
)
TABLE = Table(
    "main-x",
    "x & y: all_categories 100 %",
    COLUMNS,
    (
        Row("a_b", False, (Cell(0.5, 0.25, 0.75, 9, best=True), Cell(0.2, 0.1, 0.3, 9, tie=True)), 9, 0),
        Row("c|d", False, (Cell(None), Cell(0.15, 0.1, 0.2, 8, best=True)), 8, 1),
        Row("copy_input", True, (Cell(0.0, 0.0, 0.0, 9), Cell(-1e-9, None, None, 9)), 9, 0),
    ),
    ("A note with 95 % & an_underscore.",),
)
MSE = Column("leak MSE", "leak_mse", higher_is_better=False, decimals=4)

# Of eight edits, leak LPIPS has a value for two of the first method's, for five of the second's; leak MSE for two
# of either.
COUNTED = Table(
    "counted",
    "counted",
    (COLUMNS[0], COLUMNS[1], MSE),
    (
        Row("A", False, (Cell(0.5, n=8), Cell(0.2, n=2), Cell(0.02, n=2)), 8, 0),
        Row("B", False, (Cell(0.5, n=8), Cell(0.3, n=5), Cell(None)), 8, 0),
        Row("C", False, (Cell(0.5, n=8), Cell(0.3, n=8), Cell(0.03, n=2)), 8, 0),
    ),
)

# Cells that are no plain numbers: counts below a share, an interval with one end, a word.
WORDS = Table(
    "wins",
    "How often the row's method was preferred",
    (
        Column("a_b", "share", percent=True, decimals=1),
        Column("strength", "strength", higher_is_better=True, decimals=2),
        Column("separable", "separable"),
    ),
    (
        Row("a_b", False, (Cell(None), Cell(0.5, best=True, span="0.40 or more"), Cell(None)), 0, 0),
        Row("c", False, (Cell(0.25, span="3/1/8"), Cell(-0.5, -0.7, -0.3), Cell(None, text="no")), 0, 0),
    ),
    caption="12 votes of 4 raters.",
    counts=(),
)

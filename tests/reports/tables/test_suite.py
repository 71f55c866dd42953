"""The mean rank of the suite's table."""

from __future__ import annotations

from bench.tables.table import Cell, Column, Row, Table
from reports.data.scores import SECONDS
from reports.tables.suite import with_mean_rank

COLUMNS = (
    Column("success", "success_truth", higher_is_better=True, protocol="p"),
    Column("leak", "leak_lpips", higher_is_better=False, protocol="p"),
    Column("change", "edit_change", higher_is_better=None, protocol="p"),
    Column("pasted", "success_truth_pasted", higher_is_better=True, protocol="p"),
    Column("seconds", SECONDS, higher_is_better=False, protocol="p"),
)


def table(*rows: tuple[str, tuple[float | None, ...]]) -> Table:
    table_rows = [
        Row(name, name == "oracle", tuple(Cell(v, n=4) for v in values), 4, 0) for name, values in rows
    ]
    return Table("suite-p", "p", COLUMNS, tuple(table_rows))


def test_the_mean_rank_is_over_columns_that_have_a_direction() -> None:
    ranked = with_mean_rank(
        table(
            ("a", (0.9, 0.2, 0.0, 0.0, 9.0)),
            ("b", (0.5, 0.2, 0.5, 0.5, 5.0)),
            ("c", (0.5, 0.1, 0.9, 0.9, 1.0)),
            ("oracle", (1.0, 0.0, 0.0, 1.0, 0.0)),
        )
    )
    assert ranked.columns[-1].metric == "mean_rank"
    # Success ranks a, then b and c; leakage c, then a and b.
    assert [row.cells[-1].value for row in ranked.rows] == [1.75, 2.5, 1.75, None]
    assert [row.cells[-1].best for row in ranked.rows] == [True, False, True, False]
    assert ranked.notes[-1].startswith("Mean rank: over the 2 columns")


def test_a_column_without_a_value_of_every_method_ranks_nobody() -> None:
    lacking = table(("a", (0.9, None, 0.0, 0.0, 9.0)), ("b", (0.5, 0.2, 0.5, 0.5, 5.0)))
    assert with_mean_rank(lacking) == lacking
    alone = table(("a", (0.9, 0.1, 0.0, 0.0, 9.0)), ("oracle", (1.0, 0.0, 0.0, 1.0, 0.0)))
    assert with_mean_rank(alone) == alone

"""The sentences of the first screen: what is best, by how much, and what cannot be told from it."""

from __future__ import annotations

from bench.tables.table import Cell, Column, Row, Table
from reports.page.overview import overview, sentence

SUCCESS = Column("success (truth)", "success_truth", higher_is_better=True, percent=True, decimals=1)
LEAK = Column("leak LPIPS", "leak_lpips", higher_is_better=False, decimals=3)


def table(*cells: tuple[str, Cell, Cell], too_small: tuple[str, ...] = ()) -> Table:
    rows = tuple(Row(name, name == "oracle", (one, two), one.n, 0) for name, one, two in cells)
    notes = (*too_small, "Another note.")
    return Table("main-x", "x: all categories", (SUCCESS, LEAK), rows, notes, too_small=too_small)


TWO = table(
    ("a_b", Cell(0.9, 0.8, 0.95, 64, best=True), Cell(0.2, 0.1, 0.3, 64)),
    ("c", Cell(0.85, 0.7, 0.9, 64, second=True, dagger=True), Cell(0.0, 0.0, 0.0, 64, best=True)),
    ("d", Cell(0.1, 0.0, 0.2, 64), Cell(0.0, 0.0, 0.0, 64, best=True)),
    ("oracle", Cell(1.0, 0.9, 1.0, 64), Cell(0.0, 0.0, 0.0, 64)),
    too_small=("Two source images are too few for a claim.",),
)


def test_the_best_is_named_with_interval_n_and_what_is_not_separable() -> None:
    assert sentence(TWO, 0) == (
        "Success (truth): a b has the highest, 90.0 % (80.0\u201395.0), n = 64. Not separable from it: c."
    )


def test_equal_methods_share_the_best_place_and_controls_have_none() -> None:
    assert sentence(TWO, 1) == (
        "Leak LPIPS: c and d have the lowest, 0.000, n = 64. Every other method is separable from them."
    )


def test_overlap_is_not_called_a_test() -> None:
    tie = table(
        ("a", Cell(0.9, 0.8, 1.0, 9, best=True), Cell(None)),
        ("b", Cell(0.8, 0.7, 0.9, 9, tie=True), Cell(None)),
    )
    assert sentence(tie, 0).endswith("n = 9. Intervals that overlap the best one's: b.")
    assert sentence(tie, 1) == "Leak LPIPS: no comparison, since fewer than two methods have a value."


def test_one_method_is_no_comparison() -> None:
    one = table(("a", Cell(0.5, 0.4, 0.6, 9), Cell(0.1)))
    assert "fewer than two methods have a value: a, 50.0 %" in sentence(one, 0)


def test_the_first_screen_has_at_most_six_columns_and_warns_of_small_n() -> None:
    screen = overview(TWO)
    assert screen["columns"] == ["success_truth", "leak_lpips"]
    assert screen["plot"] is None
    assert screen["verdict"][-1] == "Two source images are too few for a claim."
    assert len(screen["verdict"]) == 3
    names = [f"own_{k}" for k in range(9)]
    own = Table("main-x", "x", tuple(Column(n, n) for n in names), ())
    assert overview(own)["columns"] == names[:6]

"""Marks of the best, the second and what is not separable."""

from __future__ import annotations

from bench.tables.table import Cell, mark


def marks(cells: list[Cell], controls: list[bool], higher: bool | None) -> list[str]:
    marked = mark(cells, controls, higher)
    return ["best" if cell.best else "tie" if cell.tie else "" for cell in marked]


def cell(value: float | None, half: float | None = None) -> Cell:
    if value is None or half is None:
        return Cell(value)
    return Cell(value, value - half, value + half)


def test_the_best_is_highest_or_lowest_by_the_metric() -> None:
    cells = [cell(0.1, 0.01), cell(0.5, 0.01), cell(0.9, 0.01)]
    assert marks(cells, [False] * 3, True) == ["", "", "best"]
    assert marks(cells, [False] * 3, False) == ["best", "", ""]
    assert marks(cells, [False] * 3, None) == ["", "", ""]


def test_overlapping_intervals_are_ties_with_the_best_only() -> None:
    cells = [cell(0.5, 0.1), cell(0.65, 0.1), cell(0.8, 0.06)]
    assert marks(cells, [False] * 3, True) == ["", "tie", "best"]


def test_intervals_that_touch_overlap() -> None:
    assert marks([Cell(0.4, 0.3, 0.5), Cell(0.6, 0.5, 0.7)], [False] * 2, True) == ["tie", "best"]


def test_controls_are_never_best_nor_ties_whatever_their_value() -> None:
    cells = [cell(0.2, 0.3), cell(0.3, 0.01), cell(0.9, 0.01), cell(0.31, 0.01)]
    assert marks(cells, [False, False, True, True], True) == ["tie", "best", "", ""]


def test_one_method_alone_is_not_best() -> None:
    assert marks([cell(0.2, 0.1), cell(0.9, 0.1)], [False, True], True) == ["", ""]
    assert marks([cell(0.2, 0.1), cell(None)], [False, False], True) == ["", ""]


def test_equal_values_are_both_best() -> None:
    assert marks([cell(0.2), cell(0.2), cell(0.1)], [False] * 3, True) == ["best", "best", ""]


def test_where_all_are_equal_none_is_best() -> None:
    assert marks([cell(0.0), cell(0.0)], [False] * 2, False) == ["", ""]


def test_the_second_is_the_best_but_one_of_the_methods() -> None:
    marked = mark([cell(0.1), cell(0.3), cell(0.2), cell(0.25)], [False, False, False, True], True)
    assert [c.second for c in marked] == [False, False, True, False]
    shared = mark([cell(0.3), cell(0.3), cell(0.2)], [False] * 3, True)
    assert not any(c.second for c in shared)


def test_a_test_replaces_the_overlap() -> None:
    cells = [cell(0.5, 0.2), cell(0.6, 0.2), cell(0.7, 0.2)]
    marked = mark(cells, [False] * 3, True, [0.2, 0.01, None])
    assert [(c.dagger, c.tie) for c in marked] == [(True, False), (False, False), (False, False)]


def test_without_intervals_there_are_no_ties() -> None:
    assert marks([cell(0.2), cell(0.21)], [False] * 2, True) == ["", "best"]

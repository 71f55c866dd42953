"""Values and intervals as text."""

from __future__ import annotations

import pytest

from bench.tables import numbers
from bench.tables.table import Cell
from tests.bench.tables.examples import COLUMNS, MSE


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "50.0"), (None, "–"), (0.0, "0.0"), (-1e-9, "0.0"), (-0.5, "-50.0"), (1.0, "100.0")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert numbers.number(value, COLUMNS[0]) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.1e-5, "1.1e-5"),
        (-4.04e-5, "-4.0e-5"),
        (0.0203, "0.0203"),
        (0.0, "0.0000"),
        # The rounding of a sum in float32 is nothing.
        (3e-9, "0.0000"),
        (-3e-9, "0.0000"),
    ],
)
def test_what_is_not_zero_is_not_shown_as_zero(value: float, text: str) -> None:
    assert numbers.number(value, MSE) == text


def test_a_share_below_the_last_decimal_has_its_own() -> None:
    assert numbers.number(0.0003, COLUMNS[0]) == "0.03"
    assert numbers.number(0.000003, COLUMNS[0]) == "3.0e-4"


def test_ends_of_intervals_are_as_fine_as_the_value() -> None:
    assert numbers.interval(Cell(1.1e-5, 0.9e-5, 1.3e-5), MSE) == "9.0e-6 – 1.3e-5"
    assert numbers.interval(Cell(0.0, 0.0, 2e-5), MSE) == "0.0000 – 2.0e-5"
    assert numbers.interval(Cell(0.02, 0.0, 0.03), MSE) == "0.0000–0.0300"
    assert numbers.interval(Cell(0.02, 1e-5, 0.03), MSE) == "0.0000–0.0300"


def test_halves_are_those_of_both_sides() -> None:
    assert numbers.halves(Cell(0.0, 0.0, 0.063), COLUMNS[0]) == ("6.3", "0.0")
    assert numbers.halves(Cell(0.5, 0.25, 0.75), COLUMNS[0]) == ("25.0", "25.0")
    assert numbers.halves(Cell(0.5, 0.5, 0.5), COLUMNS[0]) == ("", "")


def test_intervals() -> None:
    assert numbers.interval(Cell(0.5, 0.25, 0.75), COLUMNS[0]) == "25.0–75.0"
    assert numbers.interval(Cell(0.5, -0.25, 0.75), COLUMNS[0]) == "-25.0 – 75.0"
    assert numbers.interval(Cell(0.5), COLUMNS[0]) == ""

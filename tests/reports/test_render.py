"""One table in four forms."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from reports import render
from reports.style import Style
from reports.tables import Cell, Column, Row, Table

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


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "50.0"), (None, "–"), (0.0, "0.0"), (-1e-9, "0.0"), (-0.5, "-50.0"), (1.0, "100.0")],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert render.number(value, COLUMNS[0]) == shown


def test_intervals() -> None:
    assert render.interval(Cell(0.5, 0.25, 0.75), COLUMNS[0]) == "25.0–75.0"
    assert render.interval(Cell(0.5, -0.25, 0.75), COLUMNS[0]) == "-25.0 – 75.0"
    assert render.interval(Cell(0.5), COLUMNS[0]) == ""


def test_markdown_marks_and_escapes() -> None:
    lines = render.markdown(TABLE).splitlines()
    assert lines[2] == "| method | success % ↑ | leak LPIPS ↓ | n | failed |"
    assert lines[4] == (
        r"| a\_b | **50.0**<br><sub>25.0–75.0</sub> | ≈ 0.200<br><sub>0.100–0.300</sub> | 9 | 0 |"
    )
    assert lines[5] == r"| c\|d | – | **0.150**<br><sub>0.100–0.200</sub> | 8 | 1 |"
    assert lines[6] == "| *controls* |  |  |  |  |"
    # As many cells in every line: an unescaped bar in a name would add one.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:8]} == {6}


def test_csv_is_exact() -> None:
    rows = list(csv.DictReader(io.StringIO(render.csv_text(TABLE))))
    assert [row["method"] for row in rows] == ["a_b", "c|d", "copy_input"]
    assert [row["control"] for row in rows] == ["0", "0", "1"]
    assert float(rows[0]["success_truth_low"]) == 0.25
    assert rows[1]["success_truth"] == ""
    assert float(rows[2]["leak_lpips"]) == -1e-9
    assert rows[1]["failed"] == "1"


def test_marks_of_second_and_dagger() -> None:
    cells = (Cell(0.5, 0.25, 0.75, 9, second=True, dagger=True),)
    table = Table("t", "t", COLUMNS[:1], (Row("a", False, cells, 9, 0),))
    assert "<u>50.0</u>†<br>" in render.markdown(table)
    assert "<u>50.0</u><sup>†</sup><br>" in render.html(table)


def test_intervals_follow_the_style() -> None:
    assert "**50.0** <sub>±25.0</sub>" in render.markdown(TABLE, Style(intervals="plus-minus"))
    assert "**50.0** |" in render.markdown(TABLE, Style(intervals="none"))


def test_html_is_well_formed_and_escaped() -> None:
    from xml.etree import ElementTree

    table = replace(
        TABLE, title="<script>x & y</script>", columns=(replace(COLUMNS[0], group="g"), COLUMNS[1])
    )
    root = ElementTree.fromstring(render.html(table).replace("<br>", "<br/>"))
    rows = root.findall(".//tbody/tr")
    assert [len(row) for row in rows] == [5, 5, 1, 5]
    assert [row.get("class") for row in rows] == [None, None, "heading", "control"]
    assert rows[2][0].text == "controls"
    assert [cell.get("colspan") for cell in root.findall(".//thead/tr[1]/th")] == [None, "1", "1", None, None]
    assert root.find(".//caption").text == "<script>x & y</script>"  # type: ignore[union-attr]
    assert "<script>" not in render.html_page("<script>", [table])


def test_rows_that_are_no_methods_have_their_own_heading_and_counts() -> None:
    table = replace(TABLE, rows_are="metric", counts=("n",))
    assert render.markdown(table).splitlines()[2] == "| metric | success % ↑ | leak LPIPS ↓ | n |"


def terminal(width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for part in render.terminal([TABLE], width):
        console.print(part)
    return console.export_text()


def test_terminal_shows_everything_within_its_width() -> None:
    text = terminal(100)
    for shown in ("a_b", "c|d", "copy_input", "50.0", "25.0–75.0", "≈ 0.200", "failed", "% ↑", "↓"):
        assert shown in text
    assert "(1 of" not in text


def test_a_narrow_terminal_gets_several_tables_and_loses_nothing() -> None:
    text = terminal(40)
    assert "(1 of 2)" in text
    assert "(2 of 2)" in text
    assert "25.0–75.0" in text
    assert "0.100–0.300" in text
    assert text.count("failed") == 2


def test_notes_are_given_once() -> None:
    assert render.notes([TABLE, TABLE]) == list(TABLE.notes)

"""A table as Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

from bench.tables import markup
from bench.tables.style import Style
from bench.tables.table import Cell, Row, Table, notes
from tests.bench.tables.examples import COLUMNS, COUNTED, TABLE, WORDS
from tests.bench.tables.test_terminal import shown_on_terminal


def test_markdown_marks_and_escapes() -> None:
    lines = markup.markdown(TABLE).splitlines()
    assert lines[2] == "| method | success % ↑ | leak LPIPS ↓ | n | failed |"
    assert lines[4] == (
        r"| a\_b | **50.0**<br><sub>25.0–75.0</sub> | ≈ 0.200<br><sub>0.100–0.300</sub> | 9 | 0 |"
    )
    assert lines[5] == r"| c\|d | – | **0.150**<br><sub>0.100–0.200</sub> | 8 | 1 |"
    assert lines[6] == "| *controls* |  |  |  |  |"
    # As many cells in every line: an unescaped bar in a name would add one.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:8]} == {6}


def test_csv_is_exact() -> None:
    rows = list(csv.DictReader(io.StringIO(markup.csv_text(TABLE))))
    assert [row["method"] for row in rows] == ["a_b", "c|d", "copy_input"]
    assert [row["control"] for row in rows] == ["0", "0", "1"]
    assert float(rows[0]["success_truth_low"]) == 0.25
    assert rows[1]["success_truth"] == ""
    assert float(rows[2]["leak_lpips"]) == -1e-9
    assert rows[1]["failed"] == "1"


def test_marks_of_second_and_dagger() -> None:
    cells = (Cell(0.5, 0.25, 0.75, 9, second=True, dagger=True),)
    table = Table("t", "t", COLUMNS[:1], (Row("a", False, cells, 9, 0),))
    assert "<u>50.0</u>†<br>" in markup.markdown(table)
    assert "<u>50.0</u><sup>†</sup><br>" in markup.html(table)


def test_intervals_follow_the_style() -> None:
    assert "**50.0** <sub>±25.0</sub>" in markup.markdown(TABLE, Style(intervals="plus-minus"))
    lopsided = replace(TABLE, rows=(Row("a", False, (Cell(0.0, 0.0, 0.063, 9), Cell(0.2)), 9, 0),))
    assert "| 0.0 <sub>+6.3 -0.0</sub> |" in markup.markdown(lopsided, Style(intervals="plus-minus"))
    assert "**50.0** |" in markup.markdown(TABLE, Style(intervals="none"))


def test_what_shows_no_intervals_shows_none_anywhere() -> None:
    table = replace(TABLE, intervals=False)
    assert "25.0" not in markup.markdown(table) + markup.html(table) + shown_on_terminal(100, table)
    assert "0.25" in markup.csv_text(table)


def test_notes_on_intervals_follow_the_style_and_come_first() -> None:
    table = replace(TABLE, interval_notes=("Intervals are clustered.",))
    assert notes([table, table]) == [
        "Below each value: its 95 % interval.",
        "Intervals are clustered.",
        *TABLE.notes,
    ]
    assert notes([table], Style(intervals="plus-minus"))[0].startswith("±")
    assert notes([table], Style(intervals="none")) == list(TABLE.notes)
    assert notes([replace(table, level=0.9)])[0] == "Below each value: its 90 % interval."


def test_n_is_shown_where_it_is_another_than_the_rows() -> None:
    assert [COUNTED.column_n(i) for i in range(3)] == [None, None, 2]
    assert [COUNTED.cell_n(row, 1) for row in COUNTED.rows] == [2, 5, None]
    lines = markup.markdown(COUNTED).splitlines()
    assert lines[2] == "| method | success % ↑ | leak LPIPS ↓ | leak MSE ↓ (n=2) | n | failed |"
    assert lines[4] == "| A | 50.0 | 0.200<br><sub>n=2</sub> | 0.0200 | 8 | 0 |"
    assert lines[6] == "| C | 50.0 | 0.300 | 0.0300 | 8 | 0 |"
    page = markup.html(COUNTED)
    assert "<th>leak MSE ↓<br><sub>n=2</sub></th>" in page
    assert "<td>0.300<br><sub>n=5</sub></td>" in page
    assert re.findall(r"n=\d", shown_on_terminal(100, COUNTED)) == ["n=2", "n=2", "n=5"]
    rows = list(csv.DictReader(io.StringIO(markup.csv_text(COUNTED))))
    assert [row["leak_lpips_n"] for row in rows] == ["2", "5", "8"]
    assert [row["leak_mse_n"] for row in rows] == ["2", "0", "2"]


def test_rows_stand_under_the_headings_of_their_groups() -> None:
    a, b, control = TABLE.rows
    mixed = (
        replace(a, group="mask-based"),
        replace(b, group="mask-free"),
        replace(a, label="z", group="mask-based"),
    )
    lines = markup.markdown(replace(TABLE, rows=(*mixed, control))).splitlines()[4:]
    assert [line.split(" |")[0] for line in lines] == [
        "| *mask-based*", r"| a\_b", "| z", "| *mask-free*", r"| c\|d", "| *controls*", r"| copy\_input",
    ]  # fmt: skip
    # One group alone needs no heading.
    assert "mask-based" not in markup.markdown(replace(TABLE, rows=(mixed[0], mixed[2], control)))


def test_html_is_well_formed_and_escaped() -> None:
    from xml.etree import ElementTree

    table = replace(
        TABLE, title="<script>x & y</script>", columns=(replace(COLUMNS[0], group="g"), COLUMNS[1])
    )
    root = ElementTree.fromstring(markup.html(table).replace("<br>", "<br/>"))
    rows = root.findall(".//tbody/tr")
    assert [len(row) for row in rows] == [5, 5, 1, 5]
    assert [row.get("class") for row in rows] == [None, None, "heading", "control"]
    assert rows[2][0].text == "controls"
    assert [cell.get("colspan") for cell in root.findall(".//thead/tr[1]/th")] == [None, "1", "1", None, None]
    assert root.find(".//caption").text == "<script>x & y</script>"  # type: ignore[union-attr]
    assert "<script>" not in markup.html_page("<script>", [table])


def test_rows_that_are_no_methods_have_their_own_heading_and_counts() -> None:
    table = replace(TABLE, rows_are="metric", counts=("n",))
    assert markup.markdown(table).splitlines()[2] == "| metric | success % ↑ | leak LPIPS ↓ | n |"


def test_notes_are_given_once() -> None:
    assert notes([TABLE, TABLE]) == list(TABLE.notes)


def test_texts_and_spans_stand_instead_of_numbers_and_intervals() -> None:
    lines = markup.markdown(WORDS).splitlines()
    assert lines[2] == r"| method | a\_b % | strength ↑ | separable |"
    assert lines[4] == r"| a\_b | – | **0.50**<br><sub>0.40 or more</sub> | – |"
    assert lines[5] == "| c | 25.0<br><sub>3/1/8</sub> | -0.50<br><sub>-0.70 – -0.30</sub> | no |"
    page = shown_on_terminal(100, WORDS)
    for part in ("3/1/8", "0.40 or more", "no"):
        assert part in page
    assert "n = 0" not in page

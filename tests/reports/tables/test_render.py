"""One table in four forms."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from reports.tables import render
from reports.tables.style import Style
from reports.tables.table import HEADINGS, Cell, Column, Row, Table

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


MSE = Column("leak MSE", "leak_mse", higher_is_better=False, decimals=4)


@pytest.mark.parametrize(
    ("value", "shown"),
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
def test_what_is_not_zero_is_not_shown_as_zero(value: float, shown: str) -> None:
    assert render.number(value, MSE) == shown


def test_a_share_below_the_last_decimal_has_its_own() -> None:
    assert render.number(0.0003, COLUMNS[0]) == "0.03"
    assert render.number(0.000003, COLUMNS[0]) == "3.0e-4"


def test_ends_of_intervals_are_as_fine_as_the_value() -> None:
    assert render.interval(Cell(1.1e-5, 0.9e-5, 1.3e-5), MSE) == "9.0e-6 – 1.3e-5"
    assert render.interval(Cell(0.0, 0.0, 2e-5), MSE) == "0.0000 – 2.0e-5"
    assert render.interval(Cell(0.02, 0.0, 0.03), MSE) == "0.0000–0.0300"
    assert render.interval(Cell(0.02, 1e-5, 0.03), MSE) == "0.0000–0.0300"


def test_halves_are_those_of_both_sides() -> None:
    assert render.halves(Cell(0.0, 0.0, 0.063), COLUMNS[0]) == ("6.3", "0.0")
    assert render.halves(Cell(0.5, 0.25, 0.75), COLUMNS[0]) == ("25.0", "25.0")
    assert render.halves(Cell(0.5, 0.5, 0.5), COLUMNS[0]) == ("", "")


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
    lopsided = replace(TABLE, rows=(Row("a", False, (Cell(0.0, 0.0, 0.063, 9), Cell(0.2)), 9, 0),))
    assert "| 0.0 <sub>+6.3 -0.0</sub> |" in render.markdown(lopsided, Style(intervals="plus-minus"))
    assert "**50.0** |" in render.markdown(TABLE, Style(intervals="none"))


def test_what_shows_no_intervals_shows_none_anywhere() -> None:
    table = replace(TABLE, intervals=False)
    assert "25.0" not in render.markdown(table) + render.html(table) + terminal(100, table)
    assert "0.25" in render.csv_text(table)


def test_notes_on_intervals_follow_the_style_and_come_first() -> None:
    table = replace(TABLE, interval_notes=("Intervals are clustered.",))
    assert render.notes([table, table]) == [
        "Below each value: its 95 % interval.",
        "Intervals are clustered.",
        *TABLE.notes,
    ]
    assert render.notes([table], Style(intervals="plus-minus"))[0].startswith("±")
    assert render.notes([table], Style(intervals="none")) == list(TABLE.notes)


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


def test_n_is_shown_where_it_is_another_than_the_rows() -> None:
    assert [COUNTED.column_n(i) for i in range(3)] == [None, None, 2]
    assert [COUNTED.cell_n(row, 1) for row in COUNTED.rows] == [2, 5, None]
    lines = render.markdown(COUNTED).splitlines()
    assert lines[2] == "| method | success % ↑ | leak LPIPS ↓ | leak MSE ↓ (n=2) | n | failed |"
    assert lines[4] == "| A | 50.0 | 0.200<br><sub>n=2</sub> | 0.0200 | 8 | 0 |"
    assert lines[6] == "| C | 50.0 | 0.300 | 0.0300 | 8 | 0 |"
    page = render.html(COUNTED)
    assert "<th>leak MSE ↓<br><sub>n=2</sub></th>" in page
    assert "<td>0.300<br><sub>n=5</sub></td>" in page
    assert re.findall(r"n=\d", terminal(100, COUNTED)) == ["n=2", "n=2", "n=5"]
    rows = list(csv.DictReader(io.StringIO(render.csv_text(COUNTED))))
    assert [row["leak_lpips_n"] for row in rows] == ["2", "5", "8"]
    assert [row["leak_mse_n"] for row in rows] == ["2", "0", "2"]


def test_rows_stand_under_the_headings_of_their_groups() -> None:
    a, b, control = TABLE.rows
    mixed = (
        replace(a, group="mask-based"),
        replace(b, group="mask-free"),
        replace(a, method="z", group="mask-based"),
    )
    lines = render.markdown(replace(TABLE, rows=(*mixed, control))).splitlines()[4:]
    assert [line.split(" |")[0] for line in lines] == [
        "| *mask-based*", r"| a\_b", "| z", "| *mask-free*", r"| c\|d", "| *controls*", r"| copy\_input",
    ]  # fmt: skip
    # One group alone needs no heading.
    assert "mask-based" not in render.markdown(replace(TABLE, rows=(mixed[0], mixed[2], control)))


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


def terminal(width: int, table: Table = TABLE) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for part in render.terminal([table], width):
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


def test_the_best_is_marked_where_there_is_no_bold() -> None:
    lines = terminal(100).splitlines()
    assert "50.0*" in next(line for line in lines if line.startswith("a_b"))
    assert "0.150*" in next(line for line in lines if line.startswith("c|d"))
    assert "*: the best method of the column, bold elsewhere." in lines


def wide(name: str = "prompt_edit_diff_no_cross_attention", *, failed: int = 0) -> Table:
    metrics = (
        *("success_truth", "success_mini_clip", "leak_lpips", "leak_psnr", "mini_clip_target"),
        *("mini_clip_directional", "vgg16_frechet"),
    )
    columns = tuple(Column(HEADINGS[metric], metric, decimals=1) for metric in metrics)
    cells = tuple(Cell(58.9, 30.9, 100.0, 8) for _ in metrics)
    return Table("main-x", "x", columns, (Row(name, False, cells, 8, failed),))


def test_a_narrowed_table_has_five_main_columns_in_their_order_at_80_characters() -> None:
    table = render.narrowed(wide(), 80)
    assert [column.metric for column in table.columns] == [
        *("success_truth", "leak_lpips", "leak_psnr", "mini_clip_target", "vgg16_frechet"),
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    for part in render.terminal([table], 80):
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "(1 of" not in text
    assert "x, n = 8" in text
    # The long name takes the line of the intervals too.
    first = next(i for i, line in enumerate(text.splitlines()) if line.startswith("prompt_edit_diff_ "))
    assert text.splitlines()[first + 1].startswith("no_cross_attention ")


def test_a_narrowed_table_gives_up_columns_rather_than_width() -> None:
    narrow = render.narrowed(wide(failed=3), 60)
    assert [column.metric for column in narrow.columns] == ["success_truth", "leak_lpips"]
    assert narrow.rows[0].failed == 3
    assert len(narrow.rows[0].cells) == 2


def test_notes_are_given_once() -> None:
    assert render.notes([TABLE, TABLE]) == list(TABLE.notes)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("sd_inpainting", ["sd_inpainting"]),
        ("blended_latent_diffusion", ["blended_latent_", "diffusion"]),
        ("autoencoder_round_trip", ["autoencoder_round_", "trip"]),
        ("x" * 20, ["x" * 19, "x"]),
    ],
)
def test_a_long_name_breaks_after_an_underscore(name: str, lines: list[str]) -> None:
    assert render._broken(name, render.NAME_WIDTH).split("\n") == lines

"""A table on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.tables import terminal
from bench.tables.table import Cell, Column, Row, Table
from reports.data.metrics import HEADINGS, TERMINAL_METRICS
from tests.bench.tables.examples import TABLE


def shown_on_terminal(width: int, table: Table = TABLE) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for part in terminal.terminal([table], width):
        console.print(part)
    return console.export_text()


def test_terminal_shows_everything_within_its_width() -> None:
    text = shown_on_terminal(100)
    for part in ("a_b", "c|d", "copy_input", "50.0", "25.0–75.0", "≈ 0.200", "failed", "% ↑", "↓"):
        assert part in text
    assert "(1 of" not in text


def test_a_narrow_terminal_gets_several_tables_and_loses_nothing() -> None:
    text = shown_on_terminal(40)
    assert "(1 of 2)" in text
    assert "(2 of 2)" in text
    assert "25.0–75.0" in text
    assert "0.100–0.300" in text
    assert text.count("failed") == 2


def test_the_best_is_marked_where_there_is_no_bold() -> None:
    lines = shown_on_terminal(100).splitlines()
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
    table = terminal.narrowed(wide(), 80, TERMINAL_METRICS)
    assert [column.metric for column in table.columns] == [
        *("success_truth", "leak_lpips", "leak_psnr", "mini_clip_target", "vgg16_frechet"),
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    for part in terminal.terminal([table], 80):
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "(1 of" not in text
    assert "x, n = 8" in text
    # The long name takes the line of the intervals too.
    first = next(i for i, line in enumerate(text.splitlines()) if line.startswith("prompt_edit_diff_ "))
    assert text.splitlines()[first + 1].startswith("no_cross_attention ")


def test_columns_that_are_preferred_twice_come_once() -> None:
    table = terminal.narrowed(wide(), 80, [("mini_clip_directional",), ("leak_lpips",), *TERMINAL_METRICS])
    assert [column.metric for column in table.columns] == [
        *("success_truth", "leak_lpips", "leak_psnr", "mini_clip_target", "mini_clip_directional"),
    ]


def test_a_narrowed_table_gives_up_columns_rather_than_width() -> None:
    narrow = terminal.narrowed(wide(failed=3), 60, TERMINAL_METRICS)
    assert [column.metric for column in narrow.columns] == ["success_truth", "leak_lpips"]
    assert narrow.rows[0].failed == 3
    assert len(narrow.rows[0].cells) == 2


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
    assert terminal._broken(name, terminal.NAME_WIDTH).split("\n") == lines

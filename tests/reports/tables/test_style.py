"""The look of the tables: its columns, and how a report's record stores it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import pytest

from bench.tables.style import Style, StyleError
from reports.tables.style import parse_columns, style_of_record


def test_columns_are_names_with_commas_between() -> None:
    assert parse_columns(" a , b,") == ("a", "b")
    assert parse_columns("") == ()
    with pytest.raises(StyleError, match="--columns: a is named twice"):
        parse_columns("a,b,a")


def test_a_column_that_the_run_has_not_is_refused() -> None:
    with pytest.raises(StyleError, match="Did you mean 'leak_lpips'"):
        Style(columns=("leak_lpip",)).check_columns(["leak_lpips", "fid"])
    Style(columns=("fid",)).check_columns(["leak_lpips", "fid"])


CHOSEN = Style(("success_truth", "leak_lpips"), 3, "plus-minus", "one-column", "full")


@pytest.mark.parametrize(
    ("stored", "style"),
    [
        ("", Style()),
        (" ; decimals = 2 ; intervals=plus-minus; ", Style(decimals=2, intervals="plus-minus")),
        (
            "columns=success_truth,leak_lpips;decimals=3;intervals=plus-minus;layout=one-column;captions=full",
            CHOSEN,
        ),
        (json.loads(json.dumps(asdict(CHOSEN))), CHOSEN),
    ],
)
def test_a_record_of_this_and_of_earlier_versions_is_read(stored: object, style: Style) -> None:
    assert style_of_record(stored) == style  # type: ignore[arg-type]


def test_report_has_an_option_for_every_choice() -> None:
    from typer.main import get_command

    from run_bench import app

    report = get_command(app).commands["report"]  # type: ignore[attr-defined]
    assert {field.name for field in fields(Style)} <= {option.name for option in report.params}

"""The --style line: what it takes, and how it refuses."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from bench.tables.style import Style, StyleError
from reports.tables import style


def test_the_example_is_read() -> None:
    expected = Style(("success_truth", "leak_lpips"), 3, "brackets", "two-column")
    assert style.parse(style.EXAMPLE) == expected
    assert style.parse(" ; decimals = 2 ; intervals=plus-minus; ") == Style(
        decimals=2, intervals="plus-minus"
    )
    assert style.parse("") == Style()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colums=a", "Did you mean columns"),
        ("decimals", "no key=value"),
        ("decimals=", "no value"),
        ("decimals=two", "whole number from 0 to 8"),
        ("decimals=-1", "whole number"),
        ("decimals=9", "whole number"),
        ("decimals=²", "whole number"),
        ("decimals=1;decimals=2", "given twice"),
        ("intervals=bracket", "Did you mean brackets"),
        ("layout=three-column", "one-column or two-column"),
        ("columns=a,b,a", "a is named twice"),
        ("columns=,", "names no metric"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(StyleError, match=says) as caught:
        style.parse(text)
    assert "--style" in str(caught.value)


def test_a_column_that_the_run_has_not_is_refused() -> None:
    with pytest.raises(StyleError, match="Did you mean 'leak_lpips'"):
        Style(columns=("leak_lpip",)).check_columns(["leak_lpips", "fid"])
    Style(columns=("fid",)).check_columns(["leak_lpips", "fid"])


def test_the_help_names_what_the_parser_takes() -> None:
    from typer.main import get_command

    from run_bench import app

    report = get_command(app).commands["report"]  # type: ignore[attr-defined]
    (told,) = (option.help for option in report.params if option.name == "style")
    for key in ("intervals", "layout", "captions"):
        (choices,) = re.findall(rf"{key}=([a-z|-]+)", told)
        assert [
            getattr(style.parse(f"{key}={choice}"), key) for choice in choices.split("|")
        ] == choices.split("|")
    assert set(re.findall(r"(\w+)=", told)) == {field.name for field in fields(Style)}

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bench.cli.console import plain_value, print_json, print_rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.52344, "0.523"),
        (4023.4, "4023"),
        (7, "7"),
        (True, "True"),
        ([1, None, 0.25], "1, –, 0.25"),
        ([], "none"),
        ({"attribute": 3, "pose": 1}, "attribute 3, pose 1"),
        ({}, "none"),
    ],
)
def test_values_in_words(value: object, text: str) -> None:
    assert plain_value(value) == text


def test_rows_on_a_pipe_are_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"rater_id": "a [red]b", "last": "x " * 200}, {"rater_id": "c", "last": None}])
    head, _, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["rater", "id", "last"]
    assert first.split() == ["a", "[red]b", *["x"] * 200]
    assert second.split() == ["c", "–"]


def test_json_has_null_for_what_is_no_number_and_text_for_times(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"mean": float("nan"), "at": [datetime(2026, 1, 2, tzinfo=UTC)]})
    assert json.loads(capsys.readouterr().out) == {"mean": None, "at": ["2026-01-02 00:00:00+00:00"]}

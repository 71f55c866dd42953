"""Scores of whole sets."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, dataclass, replace
from typing import Any

import pandas as pd
import pytest

from bench.store import SET_COLUMNS, RunStore, SetScore, StoreError
from tests.bench.store.records import SPEC


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "it is no list of set scores"),
        (["fid"], "row 1 is no set score"),
        ([{}], "row 1 is no set score"),
        ([{"value": "1.0"}], "row 1 is no set score"),
        ([{"n": 1.5}], "row 1 is no set score"),
        ([{"category": None}], "row 1 is no set score"),
    ],
)
def test_set_scores_of_another_shape_are_one_error(store: RunStore, rows: Any, message: str) -> None:
    store.append_set_scores([SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 12.5, 100)])
    path = store.path / "scores" / "set.json"
    (good,) = json.loads(path.read_text())
    changed = [{**good, **row} if isinstance(row, dict) and row else row for row in rows]
    path.write_text(json.dumps(changed if isinstance(rows, list) else rows))
    with pytest.raises(StoreError) as caught:
        store.set_scores()
    assert f"set.json: cannot be read ({message})" in str(caught.value)


@dataclass(frozen=True)
class Detailed(SetScore):
    weights: str = ""


def test_set_scores_keep_what_subclasses_add(store: RunStore) -> None:
    plain = SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 12.5, 100)
    store.append_set_scores([plain, Detailed(*astuple(replace(plain, metric="kid")), weights="abc")])
    frame = store.set_scores()
    assert list(frame.columns) == [*SET_COLUMNS, "weights"]
    assert frame.set_index("metric").loc["kid", "weights"] == "abc"
    assert pd.isna(frame.set_index("metric").loc["fid", "weights"])


def test_set_scores(store: RunStore) -> None:
    assert list(store.set_scores().columns) == list(SET_COLUMNS)
    # Two categories, one of them without a value.
    first = SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 12.5, 100, low=12.0, high=13.0)
    store.append_set_scores([first, replace(first, category="attribute", value=math.nan, n=3)])
    # The last value of a key replaces the first.
    store.append_set_scores([replace(first, value=11.0)])
    frame = RunStore.open(store.path).set_scores().set_index("category")
    assert len(frame) == 2
    assert frame.loc["all", ["value", "low", "high", "n"]].tolist() == [11.0, 12.0, 13.0, 100]
    assert math.isnan(frame.loc["attribute", "value"])
    assert frame.loc["attribute", "reason"] == "the metric gave nan"
    # The file is strict JSON, which has no NaN.
    json.loads((store.path / "scores" / "set.json").read_text(), parse_constant=lambda name: 1 / 0)

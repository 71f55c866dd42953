"""Per-image scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.edit import ScoreRecord
from bench.store import SCORE_COLUMNS, RunStore, StoreError
from tests.bench.store.records import key


def test_scores_come_back_typed_and_the_last_one_counts(store: RunStore) -> None:
    assert list(store.scores().columns) == list(SCORE_COLUMNS)
    store.append_scores(
        [
            ScoreRecord(key(), "leak_psnr", "1", 30.0),
            ScoreRecord(key(), "leak_ssim", "1", None, "no valid pixel"),
            ScoreRecord(key("case-001"), "leak_psnr", "1", 31.0),
        ]
    )
    # The same scores again, of one case, with other values and without reasons.
    frame = store.scores()
    frame = frame[frame["case"] == "case-000"].assign(value=[29.0, 0.5], reason=None)
    store.append_scores(frame)
    # The last value of a key counts, and types do not depend on values.
    scores = RunStore.open(store.path).scores()
    assert list(scores.columns) == list(SCORE_COLUMNS)
    assert scores["value"].dtype == np.float64
    assert scores["seed"].dtype == np.int64
    values = {(row.case, row.metric): (row.value, row.reason) for row in scores.itertuples()}
    assert len(scores) == 3
    assert values["case-000", "leak_psnr"][0] == 29.0
    assert values["case-000", "leak_ssim"][0] == 0.5
    assert pd.isna(values["case-000", "leak_ssim"][1])
    assert values["case-001", "leak_psnr"][0] == 31.0


def test_a_missing_value_keeps_its_reason_and_nan_gets_one(store: RunStore) -> None:
    store.append_scores(
        [
            ScoreRecord(key(), "a", "1", None, "why"),
            ScoreRecord(key(), "b", "1", math.nan),
            ScoreRecord(key(), "c", "1", 1.0),
        ]
    )
    scores = store.scores().set_index("metric")
    assert scores.loc["a", "reason"] == "why"
    assert scores.loc["b", "reason"] == "the metric gave NaN"
    assert pd.isna(scores.loc["c", "reason"])
    assert scores["value"].isna().tolist() == [True, True, False]


def test_scores_without_a_column_are_refused(store: RunStore) -> None:
    with pytest.raises(StoreError, match="scores without reason"):
        store.append_scores(pd.DataFrame(columns=list(SCORE_COLUMNS[:-1])))


def test_many_appends_are_merged_into_few_files_and_lose_nothing(store: RunStore) -> None:
    for i in range(150):
        store.append_scores([ScoreRecord(key(f"case-{i % 100:03d}"), "m", "1", float(i))])
    assert len(list((store.path / "scores").iterdir())) <= 64
    values = store.scores().set_index("case")["value"]
    assert len(values) == 100
    assert values.to_dict() == {f"case-{i % 100:03d}": float(i) for i in range(50, 150)}


def test_merging_that_is_interrupted_loses_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(64):
        store.append_scores([ScoreRecord(key(), "m", "1", float(i))])

    # The kill comes after the merged file was written and before the first old one is deleted.
    def killed(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.append_scores([ScoreRecord(key(), "m", "1", 99.0)])
    monkeypatch.undo()
    assert store.scores()["value"].tolist() == [99.0]
    store.append_scores([ScoreRecord(key(), "m", "1", 100.0)])
    assert store.scores()["value"].tolist() == [100.0]


def test_a_broken_score_file_is_named(store: RunStore) -> None:
    store.append_scores([ScoreRecord(key(), "m", "1", 1.0)])
    (store.path / "scores" / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"part-000001\.parquet: cannot be read"):
        store.scores()

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.edit import ScoreRecord
from bench.store import RunStore
from bench.study import StudyError
from bench.study.design import Design
from bench.study.results import join_votes, run_scores
from bench.study.store import StudyStore
from bench.study.votes.correlation import read_scores
from tests.bench.study.runs import answer_all


def test_files_of_votes_are_joined_once_and_contradictions_refused(store: StudyStore, design: Design) -> None:
    store.create("taste", design)
    answer_all(store, store.register("taste").rater)
    one = store.votes("taste")
    answer_all(store, store.register("taste").rater)
    both = store.votes("taste")
    joined = join_votes([("a", one), ("b", both)])
    pd.testing.assert_frame_equal(joined, both)
    changed = both.copy()
    changed.loc[3, "answer"] = "tie"
    with pytest.raises(StudyError, match="a and b hold different answers"):
        join_votes([("a", one), ("b", changed)])


def test_a_runs_scores_name_methods_by_title_and_say_which_way_is_better(
    tmp_path: Path, run_folder: Path
) -> None:
    copy = Path(shutil.copytree(run_folder, tmp_path / "copy"))
    with RunStore.open(copy) as store:
        records = store.edits()
        title = store.methods[records[0].key.method].title
        key = records[0].key
        store.append_scores(
            [
                ScoreRecord(key, "leak_mse", "1", 0.25),
                ScoreRecord(key, "leak_psnr_pasted", "1", 30.0),
                ScoreRecord(key, "clip_target", "1", None, "no weights"),
            ]
        )
    with RunStore.open(copy) as store:
        store.leave_out({key.protocol: ["clip_target"]})
        assert set(run_scores(store)["metric"]) == {"leak_mse", "leak_psnr_pasted"}
    frame = run_scores(copy)
    assert set(frame["method"]) == {title}
    assert dict(zip(frame["metric"], frame["higher_is_better"], strict=True)) == {
        "leak_mse": False,
        "leak_psnr_pasted": True,
        "clip_target": True,
    }
    values = read_scores(frame)
    assert values.directed
    first_case = dict(zip(values.metrics, values.values[0], strict=True))
    assert first_case["leak_mse"] == -0.25
    assert first_case["leak_psnr_pasted"] == 30.0
    assert first_case["clip_target"] != first_case["clip_target"]

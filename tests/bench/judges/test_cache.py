"""Replies that runs share: the same judge is asked about the same images once, whatever the run folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.judges.options import JudgeOptions, judge_problems
from bench.judges.pairwise import judge_pairs, planned_pairs
from bench.judges.pointwise import judge_run, missing_calls
from bench.store import RunStore
from tests.bench.endpoints.fake_server import FakeApi, error
from tests.bench.fakes import make_case
from tests.bench.judges.chats import chat, judge, scores
from tests.bench.judges.test_pointwise import KILLED, lines
from tests.bench.judges.test_rubrics import vie_folder
from tests.bench.scored import OTHER, SPEC, add_edits, by_case, replace_edit, scored_run

COUNT = 4


@contextmanager
def run(path: Path, count: int = COUNT, **request: Any) -> Iterator[RunStore]:
    with scored_run(path, [make_case(i, **request) for i in range(count)]) as store:
        yield store


def cached(folder: Path) -> list[Path]:
    return [path for path in (folder / "shared-cache" / "judges").glob("??/*") if len(path.name) == 64]


def test_another_run_of_the_same_edits_makes_no_call_and_has_the_same_scores(
    api: FakeApi, tmp_path: Path
) -> None:
    with run(tmp_path / "one") as store:
        judge_run(store, judge(passes=2))
        first = by_case(store, "judge_follow")
    with run(tmp_path / "two") as store:
        assert missing_calls(store, judge(passes=2)) == 0
        summary = judge_run(store, judge(passes=2))
        assert (summary.calls, summary.stored, summary.shared) == (0, 0, 2 * COUNT)
        assert by_case(store, "judge_follow") == first
        # Its own log is complete: it can be scored and checked without the cache.
        assert len(lines(store.path)) == 2 * COUNT
        assert all(row["shared"] for row in lines(store.path))
        again = judge_run(store, judge(passes=2))
        assert (again.calls, again.stored, again.shared) == (0, 2 * COUNT, 0)
        # What another run has paid for is not paid for here.
        (description,) = (store.path / "judge").glob("*.json")
        assert json.loads(description.read_text())["spent"]["calls"] == 0
    assert len(api.forms) == 2 * COUNT


def test_whatever_changes_the_question_is_asked(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "one") as store:
        judge_run(store, judge())
    changes = ({"model": "other"}, {"codec": "jpeg"}, {"temperature": 0.5}, {"longest_side": 16}, {"seed": 1})
    for index, change in enumerate(changes):
        with run(tmp_path / f"changed-{index}") as store:
            assert missing_calls(store, judge(**change)) == COUNT
    # Another edit of one case, and another request of all.
    with run(tmp_path / "edited") as store:
        replace_edit(store, "case-001", 7)
        assert missing_calls(store, judge()) == 1
    with run(tmp_path / "asked", instruction="add a table") as store:
        assert missing_calls(store, judge()) == COUNT
    # A pass more is a call more. Options that change no question are none.
    with run(tmp_path / "two") as store:
        assert missing_calls(store, judge(passes=2, timeout=9.0, label="b")) == COUNT


def test_official_prompts_in_another_folder_are_the_same_question(api: FakeApi, tmp_path: Path) -> None:
    folders = [tmp_path / "prompts", tmp_path / "copy"]
    for folder in folders:
        folder.mkdir()
        vie_folder(folder)
    api.default = lambda form: scores(4, 5)
    with run(tmp_path / "one") as store:
        judge_run(store, judge(rubric="viescore", prompts=str(folders[0])))
    with run(tmp_path / "two") as store:
        assert judge_run(store, judge(rubric="viescore", prompts=str(folders[1]))).calls == 0


def test_a_refusal_is_shared_and_a_failed_transport_is_not(api: FakeApi, tmp_path: Path) -> None:
    api.answers = [chat("I'm sorry, I can't help."), error(503, "busy")]
    with run(tmp_path / "one") as store:
        judge_run(store, judge(concurrency=1))
    with run(tmp_path / "two") as store:
        assert judge_run(store, judge()).calls == 1
        values = list(by_case(store, "judge_follow").values())
        assert sum(isinstance(value, str) and value.startswith("judge: refused") for value in values) == 1


def test_a_damaged_file_is_asked_again_and_mended(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "one") as store:
        judge_run(store, judge())
    for path, damage in zip(
        cached(tmp_path), (b"", b"{", b"[1]", b'{"text": 3, "problem": ""}'), strict=True
    ):
        path.write_bytes(damage)
    with run(tmp_path / "two") as store:
        assert judge_run(store, judge()).calls == COUNT
    with run(tmp_path / "three") as store:
        assert judge_run(store, judge()).calls == 0


def test_pairs_are_shared_too(api: FakeApi, tmp_path: Path) -> None:
    api.default = lambda form: chat('{"winner": "A"}')
    titles = {SPEC.digest: "A method", OTHER.digest: "another"}
    votes = []
    for name in ("one", "two"):
        with run(tmp_path / name) as store:
            add_edits(store, [make_case(i) for i in range(COUNT)], OTHER)
            assert planned_pairs(store, judge(rubric="pairs")).calls == (2 * COUNT if name == "one" else 0)
            frame, summary = judge_pairs(store, judge(rubric="pairs"), titles)
            votes.append(frame.drop(columns="server_time"))
            assert (summary.calls, summary.shared) == ((2 * COUNT, 0) if name == "one" else (0, 2 * COUNT))
    assert votes[0].equals(votes[1])


def test_a_kill_loses_no_reply_for_another_run(api: FakeApi, tmp_path: Path) -> None:
    count = 16
    with run(tmp_path / "one", count):
        pass
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "one")])
    while process.poll() is None and len(cached(tmp_path)) < 3:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = len(cached(tmp_path))
    with run(tmp_path / "two", count) as store:
        summary = judge_run(store, judge())
        assert summary.shared >= stored
        assert summary.calls + summary.shared == count
        assert len(by_case(store, "judge_follow")) == count


def test_another_cache_shares_nothing_and_a_folder_that_cannot_be_written_is_one_problem(
    api: FakeApi, tmp_path: Path
) -> None:
    with run(tmp_path / "one") as store:
        judge_run(store, judge())
    with run(tmp_path / "two") as store:
        assert missing_calls(store, judge(cache=str(tmp_path / "own"))) == COUNT
    (tmp_path / "file").write_text("")
    options = JudgeOptions(rubric="masked-edit", model="m", cache=str(tmp_path / "file" / "below"))
    (problem,) = judge_problems(options)
    assert "cannot be written" in problem

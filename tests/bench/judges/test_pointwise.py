"""Judging a run: what is asked, what is stored, and that a failure is never a number."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.judges.options import JudgeError
from bench.judges.pointwise import judge_run, missing_calls, planned_calls, replaced_scores
from bench.judges.replies import ReplyLog
from bench.store import RunStore
from bench.store.errors import StoreError
from tests.bench.endpoints.fake_server import Answer, FakeApi, error
from tests.bench.fakes import make_case
from tests.bench.judges.chats import chat, images_of, judge, scores, text_of
from tests.bench.judges.test_rubrics import vie_folder
from tests.bench.scored import OTHER, SPEC, by_case, replace_edit, scored_run

COUNT = 4


@contextmanager
def run(path: Path, **request: Any) -> Iterator[RunStore]:
    with scored_run(path, [make_case(i, **request) for i in range(COUNT)]) as store:
        yield store


def lines(path: Path) -> list[dict[str, Any]]:
    (file,) = (path / "judge").glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_edit_is_asked_about_once_and_every_axis_is_a_column(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        summary = judge_run(store, judge())
        assert (summary.calls, summary.stored, len(api.forms)) == (COUNT, 0, COUNT)
        follow, keep = by_case(store, "judge_follow"), by_case(store, "judge_keep")
        assert set(by_case(store, "judge_real").values()) == {5.0}
    assert len(follow) == COUNT
    assert all(follow[case] + keep[case] == 10 for case in follow)
    # The original, the edit, and the mask, white where the edit was asked for.
    case = make_case(0)
    form = next(form for form in api.forms if np.array_equal(images_of(form)[0], case.request.source))
    source, edited, mask = (np.asarray(image.convert("RGB")) for image in images_of(form))
    assert source.shape == edited.shape == mask.shape
    assert set(np.unique(mask)) == {0, 255}
    assert "The request: add a chair" in text_of(form)


def test_a_second_run_makes_no_call_and_stores_nothing(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        judge_run(store, judge())
        before = sorted(path.name for path in (store.path / "scores").iterdir()), lines(store.path)
        summary = judge_run(store, judge(timeout=9.0, requests_per_minute=1e8, concurrency=2))
        assert (summary.calls, summary.stored) == (0, COUNT)
        assert (sorted(path.name for path in (store.path / "scores").iterdir()), lines(store.path)) == before
    assert len(api.forms) == COUNT


def test_a_reply_is_stored_with_all_that_it_needs(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        shown = judge()
        judge_run(store, shown)
        row = lines(store.path)[0]
        description = json.loads((store.path / f"judge/{shown.digest}.json").read_text())
        assert row["edit"] in {record.sha256 for record in store.edits()}
    assert (row["status"], row["model"], row["pass"], row["question"]) == (200, "judge-2025-04-14", 0, "edit")
    assert json.loads(row["text"])["score"] == row["scores"]
    assert row["usage"]["prompt_tokens"] == 100
    assert description["options"]["codec"] == "png"
    assert description["columns"] == ["judge_follow", "judge_keep", "judge_real"]
    assert "key" not in json.dumps(description).lower()


def test_other_edits_and_other_questions_are_asked_and_equal_edits_share_a_reply(
    api: FakeApi, tmp_path: Path
) -> None:
    with run(tmp_path / "run") as store:
        judge_run(store, judge())
        # A second method that made the same images.
        records = [record for record in store.edits() if record.key.method == SPEC.digest]
        twins = [replace(r, key=replace(r.key, method=OTHER.digest)) for r in records]
        store.append_edits(twins)
        judge_run(store, judge())
        assert len(api.forms) == COUNT
        assert by_case(store, "judge_follow", OTHER) == by_case(store, "judge_follow")
        # An edit that was made again.
        replace_edit(store, "case-001", 7)
        judge_run(store, judge())
        assert len(api.forms) == COUNT + 1
        # Another model, codec or temperature. The twin's file is the one that was made again, so it is not judged.
        for changes in ({"model": "other"}, {"codec": "jpeg"}, {"temperature": 0.5}, {"longest_side": 16}):
            before = len(api.forms)
            judge_run(store, judge(**changes))
            assert len(api.forms) == before + COUNT
        # More passes ask only those that are new.
        before = len(api.forms)
        judge_run(store, judge(passes=2))
        assert len(api.forms) == before + COUNT


FAILURES: list[tuple[Answer, str]] = [
    (chat("I'm sorry, I can't help."), "judge: refused: "),
    (chat("", refusal="no"), "judge: refused: no"),
    (chat('{"score": [8, 9'), "judge: unparsable: "),
    (scores(8, 9, 11), "judge: out of range: 11, on a scale from 0 to 10"),
    (scores(8, 9, 7, finish="length"), "judge: truncated: "),
    (error(400, "blocked", "content_filter"), "judge: refused: "),
    (error(503, "busy"), "error: transport: "),
    (error(400, "bad parameter"), "error: rejected: "),
]


@pytest.mark.parametrize(("answer", "reason"), FAILURES)
def test_a_failure_is_no_number_and_has_its_reason(
    api: FakeApi, tmp_path: Path, answer: Answer, reason: str
) -> None:
    with run(tmp_path / "run") as store:
        api.answers = [answer]
        summary = judge_run(store, judge(concurrency=1))
        values = list(by_case(store, "judge_follow").values())
        (failed,) = [value for value in values if isinstance(value, str)]
        assert failed.startswith(reason)
        assert sum(summary.failures.values()) == 1
        assert any("They are no numbers" in line for line in summary.remarks())
        # What the transport lost is asked again. What the judge answered is its answer.
        again = judge_run(store, judge())
        assert again.calls == reason.startswith("error")
        numbers = [value for value in by_case(store, "judge_follow").values() if not isinstance(value, str)]
        assert len(numbers) == COUNT - (not reason.startswith("error"))


def test_viescore_reproduces_the_formulas_of_a_reply_file(api: FakeApi, tmp_path: Path) -> None:
    """SC and PQ fail by themselves, O needs both."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    vie_folder(folder)

    def answer(form: Any) -> Answer:
        value = sum(images_of(form)[-1].convert("RGB").tobytes()) % 9 + 1
        if len(images_of(form)) == 1:
            return scores(value, 9) if value % 2 else chat("I cannot rate this.")
        return scores(value, value - 1)

    api.default = answer
    with run(tmp_path / "run") as store:
        summary = judge_run(store, judge(rubric="viescore", prompts=str(folder)))
        assert summary.calls == 2 * COUNT
        sc, pq, overall = (by_case(store, name) for name in ("vie_sc", "vie_pq", "vie_o"))
        # By hand, from the file of replies.
        by_edit: dict[tuple[str, str], Any] = {
            (row["case"], row["question"]): row.get("scores") for row in lines(store.path)
        }
    for case in sc:
        assert sc[case] == min(by_edit[case, "SC"])
        quality = by_edit[case, "PQ"]
        if quality is None:
            assert pq[case] == overall[case]
            assert str(pq[case]).startswith("judge: refused: I cannot rate this")
        else:
            assert pq[case] == min(quality)
            assert overall[case] == math.sqrt(min(by_edit[case, "SC"]) * min(quality))


def test_passes_are_averaged_and_their_spread_is_the_retest_deviation(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        api.default = lambda form: scores(form.json["seed"], 5, 10 - form.json["seed"])
        summary = judge_run(store, judge(passes=3, seed=4))
        assert set(by_case(store, "judge_follow").values()) == {5.0}
        assert summary.retest == {"judge_follow": 1.0, "judge_keep": 0.0, "judge_real": 1.0}
        # One failed pass of three: a mean over the others would be another quantity.
        replace_edit(store, "case-000", 3)
        api.answers = [scores(8, 8, 8), chat("no"), scores(8, 8, 8)]
        judge_run(store, judge(passes=3, seed=4, concurrency=1))
        assert by_case(store, "judge_follow")["case-000"].startswith("judge: unparsable: no")


def test_the_version_has_the_model_that_answered(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        api.answers = [scores(1, 1, 1, model="judge-2025-08-01")]
        summary = judge_run(store, judge(concurrency=1))
        frame = store.scores()
        assert frame[frame["metric"] == "judge_follow"]["metric_version"].nunique() == 2
        assert summary.served == {"judge-2025-08-01": 1, "judge-2025-04-14": COUNT - 1}
        assert any("several models" in line for line in summary.remarks())


def test_a_label_keeps_two_judges_apart(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        judge_run(store, judge())
        judge_run(store, judge(model="other", label="other"))
        assert set(store.scores()["metric"]) >= {"judge_follow", "judge_follow@other"}


def test_a_case_without_a_mask_is_not_asked_about(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run", mask=None, regions=()) as store:
        judge_run(store, judge())
        assert set(by_case(store, "judge_keep").values()) == {"the case has no mask"}
    assert api.forms == []


def test_a_ceiling_stops_and_the_next_run_goes_on(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        summary = judge_run(store, judge(price_per_call=1.0, max_cost=2.5, concurrency=1))
        assert summary.calls == len(api.forms) == 2
        assert "max_cost 2.5 is reached" in summary.stopped
        assert len(by_case(store, "judge_follow")) == 2
        assert not judge_run(store, judge()).stopped
        assert len(by_case(store, "judge_follow")) == COUNT
    assert len(api.forms) == COUNT


@pytest.mark.parametrize("answer", [error(401, "wrong key"), error(404, "no such model")])
def test_no_access_is_one_error_after_one_call(api: FakeApi, tmp_path: Path, answer: Answer) -> None:
    with run(tmp_path / "run") as store:
        api.answers = [answer] * 9
        with pytest.raises(JudgeError, match=r"judge masked-edit: .*(wrong key|no such model)"):
            judge_run(store, judge(concurrency=1))
        assert len(api.forms) == 1
        assert by_case(store, "judge_follow") == {}


def test_requests_of_a_wrong_form_end_the_calls(api: FakeApi, tmp_path: Path) -> None:
    with scored_run(tmp_path / "run", [make_case(i) for i in range(8)]) as store:
        api.answers = [error(400, "max_tokens is not supported")] * 99
        with pytest.raises(
            JudgeError, match=r"5 requests in a row were rejected.*max_tokens is not supported"
        ):
            judge_run(store, judge(concurrency=1))
        assert len(api.forms) < 8


def test_the_estimate_counts_what_is_not_answered(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        assert missing_calls(store, judge(passes=2)) == 2 * COUNT
        judge_run(store, judge())
        assert missing_calls(store, judge(passes=2)) == COUNT
    assert str(planned_calls(judge(passes=2, price_per_call=0.01, requests_per_minute=60.0), 100)) == (
        "200 calls, at least 3.3 minutes, cost 2.00"
    )
    assert planned_calls(judge(), 10, missing=4).calls == 14
    assert "set price_per_call" in str(planned_calls(judge(), 1))


KILLED = """
import sys
from pathlib import Path
from bench.judges.pointwise import judge_run
from bench.store import RunStore
from tests.bench.judges.chats import judge
with RunStore.open(Path(sys.argv[1])) as store:
    judge_run(store, judge(concurrency=3))
"""


def test_a_judge_that_is_killed_loses_no_reply_and_repeats_none(api: FakeApi, tmp_path: Path) -> None:
    count = 24
    with scored_run(tmp_path / "run", [make_case(i) for i in range(count)]):
        pass

    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "run")])
    # Killed in the middle: as soon as some replies are on disk.
    while not list((tmp_path / "run" / "judge").glob("*.jsonl")) or len(lines(tmp_path / "run")) < 3:
        if process.poll() is not None:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    answered = len(lines(tmp_path / "run"))
    calls = len(api.forms)
    with RunStore.open(tmp_path / "run") as store:
        summary = judge_run(store, judge())
        rows = lines(store.path)
        # One that died between the cache and the log is taken from the cache.
        assert summary.calls + summary.shared == count - answered
        assert len(rows) == len({row["case"] for row in rows}) == count
        assert len(by_case(store, "judge_follow")) == count
    # A call whose reply was under way when the process died is made again, and no other.
    assert calls - answered <= 3


def test_a_judge_without_a_label_tells_whose_scores_it_replaces(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        other = judge(model="other")
        assert replaced_scores(store, other) == []
        judge_run(store, judge())
        # The same judge goes on, also with more passes, and a label keeps two judges apart.
        for same in (judge(), judge(passes=2), judge(model="other", label="second")):
            assert replaced_scores(store, same) == []
        (warning,) = replaced_scores(store, other)
        assert f"by judge-2025 (judge/{judge().digest}.json), which these replace" in warning
        assert "-o label=" in warning
        # The scores of the second count now: it is the first that would replace them.
        judge_run(store, other)
        assert replaced_scores(store, other) == []
        assert len(replaced_scores(store, judge())) == 1
        # Judging again with a label keeps both, without a call.
        before = len(api.forms)
        judge_run(store, judge(model="other", label="second"))
        judge_run(store, judge())
        assert len(api.forms) == before
        frame = store.scores()
        versions = frame.groupby("metric")["metric_version"].unique()
        assert [judge().version("judge-2025-04-14")] == list(versions["judge_follow"])
        assert [other.version("judge-2025-04-14")] == list(versions["judge_follow@second"])


@pytest.mark.parametrize("kind", ["rejected", "transport", "refused"])
def test_a_problem_of_an_earlier_version_is_read(api: FakeApi, tmp_path: Path, kind: str) -> None:
    """Logs had a problem as one text, ``kind: detail``."""
    answers = {"rejected": error(400, "a: b"), "transport": error(503, "a: b")}
    with run(tmp_path / "run") as store:
        api.answers = [answers.get(kind, error(400, "a: b", "content_filter"))]
        judge_run(store, judge(concurrency=1))
        reasons = by_case(store, "judge_follow")
        (file,) = (store.path / "judge").glob("*.jsonl")
        rows = lines(store.path)
        (failed,) = [row for row in rows if "problem" in row]
        assert failed["problem"]["kind"] == kind
        failed["problem"] = f"{kind}: {failed['problem']['detail']}"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        replies = ReplyLog(store, judge().digest).answered().values()
        (problem,) = [reply.problem for reply in replies if reply.problem is not None]
        assert problem.kind == kind
        assert any(str(value).endswith(f"{kind}: {problem.detail}") for value in reasons.values())
        # A kind that does not exist is a broken line.
        failed["problem"] = "lost: somewhere"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(StoreError, match="unknown problem 'lost: somewhere'"):
            ReplyLog(store, judge().digest)

"""``judge edits``, and the judges of a suite: what they ask, print and store."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.store import RunStore
from tests.bench.endpoints.fake_server import FakeApi
from tests.bench.judges.chats import chat, scores
from tests.bench.judges.conftest import api as api
from tests.command_line import run

JUDGED = """
name: judged
limit: 2
protocols: [dots]
methods: [copy_input, oracle]
metrics: [leak_mse]
judges:
  - {rubric: masked-edit, model: m, requests_per_minute: 1.0e+9, retries: 0, concurrency: 1, price_per_call: 0.01}
"""
PLUGIN = ("--plugin", "cli_plugin")


@pytest.fixture
def suite(place: Path, api: FakeApi) -> Path:
    (place / "judged.yaml").write_text(JUDGED)
    api.default = lambda form: scores(4, 10, 9)
    return place


def test_a_suite_with_a_judge_has_its_columns_and_a_second_run_asks_nothing(
    suite: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    # One refusal, of the first edit.
    api.answers = [chat("I'm sorry, I can't help.")]
    assert run("run", "judged.yaml", *PLUGIN, "--device", "cpu") == 0
    assert "judge masked-edit: 8 replies, 0 there already" in capsys.readouterr().out
    report = suite / "runs" / "judged" / "report"
    rows = {
        row["method"]: row for row in csv.DictReader((report / "tables/judge-judge-follow-dots.csv").open())
    }
    refused = next(row for row in rows.values() if row["judge_follow_failed_replies"] == "1.0")
    # Three answers of 4 and a refusal: it is in no mean, and the bounds take it as 0 and as 10.
    assert (refused["judge_follow"], refused["judge_follow_n"]) == ("4.0", "3")
    assert float(refused["judge_follow_failures_lowest"]) == 3.0
    assert float(refused["judge_follow_failures_highest"]) == 5.5
    assert sum(float(row["judge_follow_failed_replies"]) for row in rows.values()) == 1
    text = (report / "tables" / "tables.md").read_text()
    assert "what failed replies could change" in text
    assert (
        "Judge: judge-2025-04-14 by the rubric masked-edit, one pass, images as PNG at most 1024 px" in text
    )
    assert run("run", "judged.yaml", *PLUGIN, "--device", "cpu") == 0
    assert "judge masked-edit: 0 replies, 8 there already" in capsys.readouterr().out
    assert len(api.forms) == 8


def test_the_plan_has_the_calls_and_their_cost(
    suite: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "judged.yaml", *PLUGIN, "--dry-run") == 0
    assert "judge masked-edit by m: 8 calls, at least 0.0 minutes, cost 0.08" in capsys.readouterr().out
    assert api.forms == []


def test_a_run_is_judged_later_and_again_with_another_model(
    suite: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    (suite / "plain.yaml").write_text(JUDGED[: JUDGED.index("judges:")].replace("judged", "plain"))
    assert run("run", "plain.yaml", *PLUGIN, "--device", "cpu") == 0
    options = ("--rubric", "masked-edit", "--model", "m", "-o", "requests_per_minute=1.0e+9")
    assert run("judge", "edits", "runs/plain", *options, "--dry-run") == 0
    assert "8 calls" in capsys.readouterr().out
    assert run("judge", "edits", "runs/plain", *options) == 0
    # Another judge of the same columns would replace the scores. The user is told before the first call.
    capsys.readouterr()
    assert run("judge", "edits", "runs/plain", *options, "-o", "temperature=1", "--dry-run") == 0
    output = capsys.readouterr()
    assert "the run has scores of the same columns by m" in output.out + output.err
    assert run("judge", "edits", "runs/plain", *options, "-o", "label=again", "-o", "temperature=1") == 0
    assert len(api.forms) == 16
    assert run("report", "runs/plain") == 0
    assert (suite / "runs/plain/report/tables/judge-judge-follow-again-dots.csv").exists()
    capsys.readouterr()
    assert run("verify", "runs/plain", *PLUGIN) == 0
    assert "scores of judges" in capsys.readouterr().out
    # A reply that was changed by hand gives another score than the one that is stored.
    replies = next((suite / "runs/plain/judge").glob("*.jsonl"))
    replies.write_text(replies.read_text().replace("[4, 10, 9]}", "[5, 10, 9]}", 1))
    assert run("verify", "runs/plain", *PLUGIN) == 1
    assert "4.0 is stored, the replies in judge/" in capsys.readouterr().out


def test_failed_replies_are_counted_in_edits_whatever_the_number_of_judges(suite: Path, api: FakeApi) -> None:
    judges = JUDGED.replace("judged", "two") + (
        "  - {rubric: masked-edit, model: m, label: second, temperature: 1, requests_per_minute: 1.0e+9, "
        "concurrency: 1}\n"
    )
    (suite / "two.yaml").write_text(judges)
    # Eight edits, four of each method. The first judge refuses two, the second one of them.
    no, yes = chat("I'm sorry, I can't help."), scores(4, 10, 9)
    api.answers = [no, no, *[yes] * 6, no]
    assert run("run", "two.yaml", *PLUGIN, "--device", "cpu") == 0
    file = suite / "runs" / "two" / "report" / "tables" / "judges-dots.csv"
    rows = list(csv.DictReader(file.open()))
    assert sum(float(row["failed_replies"]) for row in rows) == 2
    assert {row["failed_replies_n"] for row in rows} == {"4"}


def test_pairs_are_written_as_votes_of_a_model(
    suite: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.default = lambda form: chat('{"winner": "A"}')
    (suite / "plain.yaml").write_text(JUDGED[: JUDGED.index("judges:")].replace("judged", "plain"))
    assert run("edit", "plain.yaml", *PLUGIN, "--device", "cpu") == 0
    options = ("--model", "m", "-o", "requests_per_minute=1.0e+9")
    assert run("judge", "pairs", "runs/plain", *options, "--dry-run") == 0
    assert "judge pairs by m: 8 calls" in capsys.readouterr().out
    assert run("judge", "pairs", "runs/plain", *options) == 0
    output = capsys.readouterr().out
    assert "flip rate 100.0 %" in output
    assert "votes: runs/plain/judge/votes.csv" in output
    # The votes of another judge are replaced, and its user is told before the first call.
    other = ("judge", "pairs", "runs/plain", "--model", "m2", "-o", "requests_per_minute=1.0e+9", "--dry-run")
    assert run(*other) == 0
    printed = capsys.readouterr()
    assert "votes.csv has votes of another judge, which these replace" in printed.out + printed.err
    assert run(*other, "--out", "other.csv") == 0
    assert run("judge", "pairs", "runs/plain", *options) == 0
    printed = capsys.readouterr()
    assert "another judge" not in printed.out + printed.err
    calls = len(api.forms)
    assert run("judge", "pairs", "runs/plain", "--model", "m2", "--out", "votes.txt") == 2
    assert len(api.forms) == calls
    votes = list(csv.DictReader((suite / "runs/plain/judge/votes.csv").open()))
    assert {(row["answer"], row["rater_kind"]) for row in votes} == {("tie", "model")}
    assert run("judge", "edits", "runs/plain", "--rubric", "pairs", *options) == 2
    assert "compares two edits: use judge pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rubric", "masked-edit"), "--rubric needs --model"),
        (("--model", "m"), "need --rubric"),
        ((), "its suite has no judges"),
        (("--rubric", "mask", "--model", "m"), "unknown rubric 'mask'"),
        (("--rubric", "viescore", "--model", "m"), "Set prompts to the folder"),
        (("--rubric", "masked-edit", "--model", "m", "-o", "passes=0"), "passes 0: expected more than 0"),
        (("--rubric", "masked-edit", "--model", "m", "-o", "pass=2"), "unknown option 'pass'"),
        (("--rubric", "masked-edit", "--model", "m", "-o", "base_url=http://a"), "a suite names a server"),
        (("--rubric", "masked-edit", "--model", "m", "-o", "server=nobody"), "PROMPTEDITBENCH_NOBODY_URL"),
        (("--rubric", "masked-edit", "--model", "m", "-o", "server=world"), "no protocol shows it"),
    ],
)
def test_what_cannot_be_judged_is_one_error(
    place: Path, api: FakeApi, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    RunStore.open(place / "runs" / "empty", create=True).close()
    assert run("judge", "edits", "runs/empty", *arguments) == 2
    assert message in capsys.readouterr().err
    assert api.forms == []


def test_a_judge_that_cannot_be_asked_is_told_before_any_edit(
    suite: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PROMPTEDITBENCH_JUDGE_URL")
    assert run("run", "judged.yaml", *PLUGIN, "--device", "cpu") == 2
    assert "PROMPTEDITBENCH_JUDGE_URL is not set" in capsys.readouterr().err
    assert not (suite / "runs" / "judged").exists()


def test_another_run_folder_asks_nothing_and_prints_what_it_would_cost(
    suite: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = "price_per_million_input: 2, price_per_million_output: 8"
    (suite / "judged.yaml").write_text(JUDGED.replace("price_per_call: 0.01", prices))
    assert run("run", "judged.yaml", *PLUGIN, "--device", "cpu", "--out", "runs/one") == 0
    output = capsys.readouterr().out
    # Estimated before the first call, and counted after the last: 100 and 10 tokens a reply.
    assert "judge masked-edit by m: 8 calls, at least 0.0 minutes, cost 0.0" in output
    assert "by rule, with replies of max_tokens: an upper estimate" in output
    assert "8 replies, 0 there already; 800 input and 80 output tokens, cost 0.00224" in output
    # The terminal has the judges' table.
    assert "dots: scores of judges" in output
    assert "judge_follow" in output
    assert run("run", "judged.yaml", *PLUGIN, "--device", "cpu", "--out", "runs/two") == 0
    output = capsys.readouterr().out
    assert "judge masked-edit by m: 0 calls" in output
    assert "judge masked-edit: 0 replies, 0 there already, 8 from the cache" in output
    assert len(api.forms) == 8
    tables = [
        (suite / "runs" / name / "report/tables/judges-dots.csv").read_text() for name in ("one", "two")
    ]
    assert tables[0] == tables[1]
    assert "failed_replies" in tables[0]

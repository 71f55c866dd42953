"""Pairs: both orders are asked, a verdict that flips is a tie, and no failure is a vote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.judges.options import JudgeError
from bench.judges.pairwise import judge_pairs, planned_pairs
from bench.judges.pointwise import judge_run
from bench.judges.reading import Unread, read_scores
from bench.store import RunStore
from bench.study.exchange import export_votes, import_votes
from bench.study.votes.analysis import analyse
from tests.bench.endpoints.fake_server import Answer, FakeApi, Form, error
from tests.bench.fakes import make_case
from tests.bench.judges.chats import chat, images_of, judge
from tests.bench.scored import OTHER, SPEC, add_edits, scored_run

COUNT = 3
TITLES = {SPEC.digest: "A method", OTHER.digest: "another"}


@contextmanager
def run(path: Path) -> Iterator[RunStore]:
    cases = [make_case(i) for i in range(COUNT)]
    with scored_run(path, cases) as store:
        add_edits(store, cases, OTHER)
        yield store


def winner(name: str) -> Answer:
    return chat(json.dumps({"reasoning": "x", "winner": name}))


def pairs(**options: Any) -> Any:
    return judge(rubric="pairs", **options)


def positions_of(votes: pd.DataFrame) -> pd.DataFrame:
    """How often each position won, by ``study analyse`` of all votes."""
    positions = analyse(votes, rater_kind="model", resamples=20).positions
    return positions[positions["raters"] == "all"]


def brighter(form: Form) -> Answer:
    _, first, second = (sum(image.convert("L").tobytes()) for image in images_of(form))
    return winner("A" if first > second else "B")


def test_both_orders_are_asked_and_the_winner_of_both_wins(api: FakeApi, tmp_path: Path) -> None:
    api.default = brighter
    with run(tmp_path / "run") as store:
        assert planned_pairs(store, pairs()).calls == 2 * COUNT
        votes, summary = judge_pairs(store, pairs(), TITLES)
        assert (summary.calls, summary.pairs, summary.flips, len(api.forms)) == (
            2 * COUNT,
            COUNT,
            0,
            2 * COUNT,
        )
        assert summary.stored == 0
        assert summary.first / summary.decided == 0.5
        # By hand: the brighter edit of each case.
        light = {
            (record.key.case, record.key.method): sum(store.image(record).convert("L").tobytes())
            for record in store.edits()
        }
        for vote in votes.to_dict("records"):
            best = max(TITLES, key=lambda method, vote=vote: light[vote["case"], method])  # type: ignore[misc]
            assert vote["answer"] == TITLES[best]
        assert set(votes["rater_kind"]) == {"model"}
        assert all(
            both == json.dumps([best] * 2)
            for both, best in zip(votes["both_orders"], votes["answer"], strict=True)
        )
        assert positions_of(votes)["share"].tolist() == [0.5, 0.5]
        assert set(votes["rater"]) == {"judge-2025-04-14"}
        # A second run asks nothing and gives the same votes.
        again, summary = judge_pairs(store, pairs(), TITLES)
        assert (summary.calls, planned_pairs(store, pairs()).calls) == (0, 0)
        assert next(summary.lines()) == f"0 replies, {2 * COUNT} there already"
        assert again.drop(columns="server_time").equals(votes.drop(columns="server_time"))


def test_a_judge_that_always_names_the_first_gives_ties_alone(api: FakeApi, tmp_path: Path) -> None:
    api.default = lambda form: winner("A")
    with run(tmp_path / "run") as store:
        votes, summary = judge_pairs(store, pairs(), TITLES)
    assert set(votes["answer"]) == {"tie"}
    assert summary.flips == summary.pairs == COUNT
    assert any("flip rate 100.0 %" in line for line in summary.lines())
    assert any("shown first won 100.0 %" in line for line in summary.lines())
    # The votes hold the bias, though all of them are ties.
    positions = positions_of(votes)
    assert positions["share"].tolist() == [1, 0]
    assert positions["n"].tolist() == [2 * COUNT] * 2


def test_a_tie_in_one_order_is_a_tie_and_no_flip(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        api.answers = [winner("A"), winner("tie")] * COUNT
        votes, summary = judge_pairs(store, pairs(concurrency=1), TITLES)
    assert set(votes["answer"]) == {"tie"}
    assert (summary.flips, summary.decided) == (0, COUNT)


@pytest.mark.parametrize(
    "answer", [chat("I can't compare these."), chat("", refusal="no"), winner("C"), error(503)]
)
def test_a_failure_is_no_vote(api: FakeApi, tmp_path: Path, answer: Answer) -> None:
    api.default = brighter
    with run(tmp_path / "run") as store:
        api.answers = [answer]
        votes, summary = judge_pairs(store, pairs(concurrency=1), TITLES)
    assert len(votes) == summary.pairs == COUNT - 1
    assert sum(summary.failures.values()) == 1


def test_equal_images_are_a_tie_without_a_call(api: FakeApi, tmp_path: Path) -> None:
    with scored_run(tmp_path / "run", [make_case(0)]) as store:
        (record,) = store.edits()
        store.append_edits([replace(record, key=replace(record.key, method=OTHER.digest))])
        votes, summary = judge_pairs(store, pairs(), TITLES)
    assert votes["answer"].tolist() == ["tie"]
    assert (summary.identical, api.forms) == (1, [])


def test_votes_are_read_and_analysed_as_those_of_models(api: FakeApi, tmp_path: Path) -> None:
    api.default = brighter
    with run(tmp_path / "run") as store:
        votes, _ = judge_pairs(store, pairs(), TITLES)
    export_votes(votes, tmp_path / "votes.csv")
    read = import_votes(tmp_path / "votes.csv")
    shares = analyse(read, rater_kind="model", resamples=100).shares
    everything = shares[
        (shares["category"] == "all") & (shares["raters"] == "all") & (shares["protocol"] == "all")
    ]
    wins = everything[everything["question"] == "all"].set_index("method")["share"]
    assert wins["A method"] == pytest.approx((votes["answer"] == "A method").mean())


def test_no_access_is_one_error(api: FakeApi, tmp_path: Path) -> None:
    with run(tmp_path / "run") as store:
        api.answers = [error(401, "wrong key")] * 9
        with pytest.raises(JudgeError, match="wrong key"):
            judge_pairs(store, pairs(concurrency=1), TITLES)
        with pytest.raises(JudgeError, match="rubric pairs compares two edits: use judge pairs"):
            judge_run(store, pairs())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"winner": "A"}', 0.0),
        ('{"winner": "Image B", "reasoning": "x"}', 1.0),
        ('```json\n{"winner": "edit a"}\n```', 0.0),
        ('{"winner": "Tie"}', 0.5),
        ("{'winner': 'b'}", 1.0),
        ('{"winner": "neither"}', None),
        ('{"winner": "A"} or {"winner": "B"}', None),
        ("A", None),
        ('{"score": "A"}', None),
    ],
)
def test_a_verdict_is_read_or_is_none(text: str, value: float | None) -> None:
    result = read_scores(text, "winner", ("winner",), (0, 1))
    assert (None if isinstance(result, Unread) else result) == (None if value is None else [value])

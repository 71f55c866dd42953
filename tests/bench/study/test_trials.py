"""Handing out trials, storing votes, and the end of a session."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from bench.study import security
from bench.study.design import Design
from bench.study.interface import (
    NotFinished,
    StudyClosed,
    StudyFull,
    UnknownRater,
    VoteRefused,
    Withdrawn,
)
from bench.study.store import StudyStore
from bench.study.votes.frame import check_votes
from tests.bench.study.runs import OPEN, HandClock, answer_all, begin, on_sheet


def voted(store: StudyStore, rater: str) -> list[str]:
    votes = store.votes("taste")
    secret = store._load("taste").secret
    return [
        security.opaque(secret, "trial", name, size=12) for name in votes["trial"][votes["rater"] == rater]
    ]


def test_a_rater_sees_the_schedule_and_every_trial_of_the_design_is_answered(
    taste: StudyStore, design: Design
) -> None:
    raters = [begin(taste) for _ in range(6)]
    # Every rater sees the roles of their schedule, and counts from 1 to 12.
    for number, rater in enumerate(raters):
        trials = answer_all(taste, rater)
        roles = [on_sheet(taste, rater, trial.id).role for trial in trials]
        assert tuple(roles) == design.schedule(number)
        assert [trial.number for trial in trials[1:]] == list(range(1, 13))
        assert (trials[0].practice, trials[0].total, trials[1].total) == (True, 1, 12)
    votes = check_votes(taste.votes("taste"))
    # Together the raters answer every trial of the design once.
    expected = {trial.id for trial in design.trials if trial.role == "trial"}
    assert sorted(votes["trial"][votes["role"] == "trial"]) == sorted(expected)
    # Each rater repeats own trials, other way round, and sees own attention checks.
    answered = set(zip(votes["rater"], votes["trial"], strict=True))
    again = votes[votes["role"] == "repeat"]
    assert all((row.rater, row.repeat_of) in answered for row in again.itertuples())
    assert Counter(again["rater"]) == dict.fromkeys(raters, 2)
    status = taste.status("taste")
    assert (status.planned, status.answered, status.finished, status.active) == (48, 48, 6, 0)


def test_what_a_screen_gets_is_blind(taste: StudyStore, design: Design) -> None:
    rater = begin(taste)
    names = {*design.methods, *design.method_digests.values()}
    for trial in [taste.next_trial(rater), *answer_all(taste, rater)]:
        text = " ".join(map(str, asdict(trial).values()))
        assert not any(digest in text for digest in design.method_digests.values())
        assert not any(name == value for name in names for value in asdict(trial).values())
        # The id is neither the design's nor made of anything but the secret.
        assert trial.id not in design.trial_by_id
    again = StudyStore.open(Path(taste.name).with_name("again.db"))
    again.create("taste", design, OPEN)
    other_ids = {again.next_trial(again.enter("taste").rater).id}
    assert not other_ids & {row.id for row in answer_all(taste, begin(taste))}
    again.close()


def test_the_open_trial_stays_until_it_is_answered(taste: StudyStore) -> None:
    rater = begin(taste)
    first = taste.next_trial(rater)
    assert taste.next_trial(rater) == first
    assert taste.vote(rater, first.id, 1, 900).new
    assert taste.next_trial(rater) != first


def test_the_first_answer_stays(taste: StudyStore) -> None:
    rater = begin(taste)
    answer_all(taste, rater)
    frame = taste.votes("taste")
    # Being shown a trial stores no vote.
    trial = taste.next_trial(begin(taste))
    other = taste.votes("taste")
    assert trial is not None
    pd.testing.assert_frame_equal(frame, other)
    again = begin(taste)
    trial = taste.next_trial(again)
    # The second answer differs, and changes nothing.
    first = taste.vote(again, trial.id, 0, 800, details={"zoomed": True})
    second = taste.vote(again, trial.id, "tie", 1)
    assert (first.new, second.new, second.answer) == (True, False, 0)
    row = taste.votes("taste").iloc[-1]
    assert (row["answer"], row["reaction_ms"]) == (row["candidates"][0], 800)
    assert len(taste.votes("taste")) == len(frame) + 1


def test_practice_says_what_was_right_and_nothing_else_does(taste: StudyStore) -> None:
    rater = begin(taste)
    trial = taste.next_trial(rater)
    right = on_sheet(taste, rater, trial.id)
    position = right.candidates.index(right.expected)
    assert taste.vote(rater, trial.id, position, 500).correct is True
    assert taste.vote(rater, trial.id, 1 - position, 500).correct is True  # of the answer that is stored
    assert all(taste.vote(rater, t.id, 0, 5).correct is None for t in answer_all(taste, rater))


def test_a_void_trial_is_taken_back_and_another_drawn(taste: StudyStore) -> None:
    rater = begin(taste)
    void: frozenset[str] = frozenset()
    answered_roles: list[str] = []
    # Of each kind of trial the first that comes is void.
    roles: set[str] = set()
    while (trial := taste.next_trial(rater, void)) is not None:
        role = on_sheet(taste, rater, trial.id).role
        if role not in roles:
            roles.add(role)
            void |= {trial.id}
            continue
        assert trial.id not in void
        answered_roles.append(role)
        assert taste.vote(rater, trial.id, 0, 900).new
    # There is one practice trial, the void one; for the others there was another.
    assert roles == {"practice", "trial", "attention", "repeat"}
    assert Counter(answered_roles) == {"trial": 8, "attention": 2, "repeat": 2}
    assert taste.progress(rater).state == "finished"


def test_a_void_trial_is_nobodys_and_comes_back_with_its_files(taste: StudyStore) -> None:
    first, second = begin(taste), begin(taste)
    practice = taste.next_trial(first)
    assert practice is not None
    taste.vote(first, practice.id, 0, 900)
    trial = taste.next_trial(first)
    assert trial is not None
    # It is void now: its rater gets another one, and nobody else gets it.
    void = frozenset({trial.id})
    assert taste.next_trial(first, void) != trial
    assert taste.status("taste").reserved == 1
    assert trial.id not in {one.id for one in answer_all(taste, second)}
    name = on_sheet(taste, first, trial.id).id
    assert name not in set(taste.votes("taste")["trial"])
    # Without `void` it comes back.
    while (one := taste.next_trial(first)) is not None:
        taste.vote(first, one.id, 0, 900)
    assert name in set(taste.votes("taste")["trial"])


def test_what_comes_next_is_known_before_the_answer(taste: StudyStore) -> None:
    rater = begin(taste)
    foreseen = None
    answers = 0
    while (trial := taste.next_trial(rater)) is not None:
        # The trial is the one that was foreseen.
        if foreseen is not None:
            assert foreseen[0] == trial.id
            assert foreseen[1].trial == on_sheet(taste, rater, trial.id)
        # Looking ahead holds nothing.
        holds = taste.status("taste").reserved
        foreseen = taste.upcoming(rater)
        assert taste.status("taste").reserved == holds
        if foreseen is not None:
            # Looked ahead is not shown.
            with pytest.raises(VoteRefused):
                taste.vote(rater, foreseen[0], 0, 900)
        taste.vote(rater, trial.id, 0, 900)
        answers += 1
        # While the answer to a practice trial is read, too.
        if foreseen is not None:
            again = taste.upcoming(rater)
            assert again is not None
            assert again[0] == foreseen[0]
    assert foreseen is None
    assert taste.upcoming(rater) is None
    assert answers == 13


def test_two_tabs_show_one_trial_and_store_one_vote(taste: StudyStore) -> None:
    rater = begin(taste)
    for _ in range(13):
        outcomes: list[tuple[str, bool, object]] = []
        barrier = threading.Barrier(2)

        def tab(answer: int, outcomes=outcomes, barrier=barrier) -> None:  # type: ignore[no-untyped-def]
            barrier.wait()
            trial = taste.next_trial(rater)
            if trial is None:  # the other tab gave the last answer
                return
            stored = taste.vote(rater, trial.id, answer, 700)
            outcomes.append((trial.id, stored.new, stored.answer))

        # Both tabs ask and answer at the same moment, with different answers.
        tabs = [threading.Thread(target=tab, args=(answer,)) for answer in (0, 1)]
        for thread in tabs:
            thread.start()
        for thread in tabs:
            thread.join()
        # The slower tab may have come when the faster had voted: then it got, and answered, the next.
        by_trial = Counter(trial for trial, new, _ in outcomes if new)
        assert all(count == 1 for count in by_trial.values())
        for trial in {trial for trial, *_ in outcomes}:
            assert len({answer for other, _, answer in outcomes if other == trial}) == 1
        if taste.next_trial(rater) is None:
            break
    # In the end every trial has one vote.
    answer_all(taste, rater)
    votes = taste.votes("taste")
    assert not votes.duplicated(["rater", "trial"]).any()
    assert len(votes) == 13


@pytest.mark.parametrize("answer", [2, -1, True, "A", "Tie", None, 0.0])
def test_an_answer_that_is_none_is_refused(taste: StudyStore, answer) -> None:
    rater = begin(taste)
    trial = taste.next_trial(rater)
    with pytest.raises(VoteRefused, match="expected a position"):
        taste.vote(rater, trial.id, answer, 500)
    assert len(taste.votes("taste")) == 0


def test_only_what_was_shown_can_be_voted_on(taste: StudyStore) -> None:
    rater, other = begin(taste), begin(taste)
    trial = taste.next_trial(rater)
    unseen = security.opaque(taste._load("taste").secret, "trial", "t00040", size=12)
    for who, what in ((other, unseen), (rater, unseen), (rater, "x"), (rater, "t00000")):
        with pytest.raises(VoteRefused, match="was not shown"):
            taste.vote(who, what, 0, 500)
    with pytest.raises(UnknownRater):
        taste.vote("nobody", trial.id, 0, 500)
    with pytest.raises(UnknownRater):
        taste.next_trial("nobody")


@pytest.mark.parametrize(
    "details", [{"X": 1}, {"a": [1]}, {"a": "x" * 201}, {"a": float("nan")}, {f"a{i}": i for i in range(21)}]
)
def test_details_are_small_and_plain(taste: StudyStore, details: dict) -> None:
    rater = begin(taste)
    with pytest.raises(VoteRefused, match="details"):
        taste.vote(rater, taste.next_trial(rater).id, 0, 500, details=details)


def test_without_ties_a_tie_is_no_answer(tmp_path: Path, design: Design) -> None:
    with StudyStore.open(tmp_path / "s.db") as store:
        store.create("strict", replace(design, options=replace(design.options, ties=False)))
        rater = store.register("strict").rater
        trial = store.next_trial(rater)
        assert trial.tie is False
        with pytest.raises(VoteRefused):
            store.vote(rater, trial.id, "tie", 500)


def test_what_a_rater_leaves_goes_to_a_later_one_and_nothing_is_wasted(
    taste: StudyStore, design: Design, clock: HandClock
) -> None:
    leaver = begin(taste)
    for _ in range(4):
        taste.vote(leaver, taste.next_trial(leaver).id, 0, 500)
    # One rater leaves with a trial open, and five others do all of their sheets.
    left_open = taste.next_trial(leaver)
    for _ in range(5):
        answer_all(taste, begin(taste))
    assert taste.status("taste").answered == 40 + sum(
        on_sheet(taste, leaver, row).role == "trial" for row in voted(taste, leaver)
    )
    # Until the lease has run out, there is no room for another rater.
    with pytest.raises(StudyFull):
        begin(taste)
    clock.forward(601)
    answer_all(taste, begin(taste))
    assert taste.status("taste").answered == 48
    # The rater who left comes back: the trial that was open has gone to someone else; the late vote counts.
    assert on_sheet(taste, leaver, left_open.id).role == "trial"
    assert taste.vote(leaver, left_open.id, 1, 500).new
    assert taste.next_trial(leaver) is None
    assert taste.progress(leaver).state == "finished"
    votes = check_votes(taste.votes("taste"))
    # The trial that was left has two votes.
    twice = votes[votes.duplicated("trial", keep=False) & (votes["role"] == "trial")]
    assert set(twice["rater"]) >= {leaver}
    assert len(twice) == 2


def test_a_rater_who_comes_back_goes_on_where_they_were(taste: StudyStore, clock: HandClock) -> None:
    rater = begin(taste)
    for _ in range(5):
        taste.vote(rater, taste.next_trial(rater).id, 0, 500)
    session = taste._session(taste._load("taste"), rater).session
    before = taste.next_trial(rater)
    clock.forward(30 * 86400)
    assert taste.resume(session).rater == rater
    assert taste.next_trial(rater) == before
    assert taste.progress(rater).done == 4
    answer_all(taste, rater)
    assert taste.progress(rater).done == 12


def test_a_rater_whose_sheet_was_used_up_fills_up_elsewhere_without_meeting_a_unit_twice(
    taste: StudyStore, clock: HandClock
) -> None:
    first = begin(taste)
    # A rater pauses after two answers, and another takes over the sheet.
    taste.vote(first, taste.next_trial(first).id, 0, 500)
    taste.vote(first, taste.next_trial(first).id, 0, 500)
    clock.forward(601)
    for _ in range(6):
        rater = begin(taste)
        if rater != first:
            taste.next_trial(rater)
    clock.forward(300)
    answer_all(taste, first)
    votes = taste.votes("taste")
    # A unit is a case with its candidates, whatever their order.
    own = votes[(votes["rater"] == first) & (votes["role"] == "trial")]
    units = [
        (case, tuple(sorted(candidates)))
        for case, candidates in zip(own["case"], own["candidates"], strict=True)
    ]
    assert len(units) == len(set(units))


@pytest.mark.parametrize("jump", [-86400.0, -3600.0, -5.0, 5.0, 3600.0, 86400.0 * 365])
def test_a_clock_that_is_set_loses_nothing_and_blocks_nothing(
    taste: StudyStore, design: Design, clock: HandClock, jump: float
) -> None:
    raters = [begin(taste) for _ in range(6)]
    for rater in raters:
        for _ in range(3):
            taste.vote(rater, taste.next_trial(rater).id, 0, 500)
        taste.next_trial(rater)
    # The clock is set while all trials are open.
    clock.forward(jump)
    for rater in raters:
        answer_all(taste, rater)
    votes = check_votes(taste.votes("taste"))
    # Every trial is answered, and none twice by one rater.
    assert not votes.duplicated(["rater", "trial"]).any()
    assert set(votes["trial"][votes["role"] == "trial"]) == {
        trial.id for trial in design.trials if trial.role == "trial"
    }
    assert taste.status("taste").answered == 48
    assert (votes["reaction_ms"] >= 0).all()


@pytest.mark.parametrize("measured", [None, -3, 10**9, float("nan")])
def test_a_reaction_time_that_no_clock_gives_is_measured_by_the_server(
    taste: StudyStore, clock: HandClock, measured
) -> None:
    rater = begin(taste)
    trial = taste.next_trial(rater)
    clock.forward(2.5)
    taste.vote(rater, trial.id, 0, measured)
    assert taste.votes("taste")["reaction_ms"].tolist() == [2500]


def test_a_vote_under_way_does_not_outlive_a_withdrawal(
    taste: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rater = begin(taste)
    trial = taste.next_trial(rater)
    issued = taste._issued

    def withdrawn_meanwhile(*arguments: object) -> object:
        row = issued(*arguments)
        monkeypatch.undo()
        taste.withdraw(rater)
        return row

    # The rater withdraws after the trial was read and before the vote is stored.
    monkeypatch.setattr(taste, "_issued", withdrawn_meanwhile)
    with pytest.raises(Withdrawn):
        taste.vote(rater, trial.id, 0, 500)
    assert len(taste.votes("taste")) == 0


def test_a_closed_study_takes_answers_under_way_and_no_more(taste: StudyStore) -> None:
    rater = begin(taste)
    trial = taste.next_trial(rater)
    token = taste.invite("taste")[0]
    taste.close_study("taste")
    with pytest.raises(StudyClosed):
        taste.redeem(token)
    with pytest.raises(StudyClosed):
        begin(taste)
    assert taste.vote(rater, trial.id, 0, 500).new
    with pytest.raises(StudyClosed):
        taste.next_trial(rater)
    assert taste.status("taste").closed


def test_progress_goes_through_its_states(taste: StudyStore) -> None:
    rater = taste.enter("taste").rater
    assert taste.progress(rater).state == "consent"
    taste.consent(rater)
    assert taste.progress(rater).state == "practice"
    taste.vote(rater, taste.next_trial(rater).id, 0, 500)
    assert taste.progress(rater).state == "trials"
    answer_all(taste, rater)
    assert asdict(taste.progress(rater)) == {
        "done": 12, "total": 12, "practice_done": 1, "practice_total": 1, "state": "finished",
    }  # fmt: skip


def test_the_completion_code_comes_at_the_end_and_is_the_raters_own(taste: StudyStore) -> None:
    one, two = begin(taste), begin(taste)
    with pytest.raises(NotFinished):
        taste.completion(one)
    answer_all(taste, one)
    answer_all(taste, two)
    codes = {taste.completion(one).code, taste.completion(two).code}
    assert len(codes) == 2
    assert taste.completion(one) == taste.completion(one)
    code = taste.completion(one).code
    assert [record.rater for record in taste.find_raters("taste", code.lower() + " ")] == [one]
    assert taste.find_raters("taste", "AAAAAAAAAA") == []


def test_the_return_url_is_filled_in_and_quoted(memory: Path, design: Design) -> None:
    with StudyStore.open(memory / "s.db") as store:
        store.create(
            "taste", design,
            replace(OPEN, completion_code="C 1", return_url="https://x.example/?cc={code}&pid={rater}"),
        )  # fmt: skip
        rater = begin(store, "a&b=ü")
        answer_all(store, rater)
        done = store.completion(rater)
        assert done.code == "C 1"
        assert done.url == "https://x.example/?cc=C%201&pid=a%26b%3D%C3%BC"


def test_a_rater_midway_gets_a_code_when_the_study_closes(taste: StudyStore) -> None:
    midway, late = begin(taste), begin(taste)
    taste.vote(midway, taste.next_trial(midway).id, 0, 500)
    with pytest.raises(NotFinished):
        taste.completion(midway)
    taste.close_study("taste")
    code = taste.completion(midway).code
    assert [record.rater for record in taste.find_raters("taste", code)] == [midway]
    with pytest.raises(NotFinished):
        taste.completion(late)  # never answered anything

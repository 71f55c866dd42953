"""Answers that a rater takes back: a second row supersedes the first, and nothing is overwritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from bench.study.build import build
from bench.study.design import DesignOptions
from bench.study.interface import VoteRefused, Withdrawn
from bench.study.store import StudyStore
from bench.study.types import BOTH_BAD
from bench.study.votes.analysis import analyse
from tests.bench.study.runs import OPEN, begin


@pytest.fixture
def bad_store(store: StudyStore, run_folder: Path) -> StudyStore:
    """A store with the study `taste`, in which both edits may be called bad."""
    options = DesignOptions(raters=2, trials=5, repeats=1, attention=1, practice=1, both_bad=True)
    store.create("taste", build([run_folder], options), OPEN)
    return store


def stored_rows(store: StudyStore) -> tuple[list[str], list[str]]:
    """The answers in the tables of votes and of corrections, in the order of storing."""

    def answers(table: str) -> list[str]:
        query = text(f"SELECT answer FROM {table} ORDER BY id")
        return [row.answer for row in store._db.read(lambda c: c.execute(query).all())]

    return answers("votes"), answers("corrections")


def test_a_correction_supersedes_the_last_answer_and_keeps_it(bad_store: StudyStore) -> None:
    rater = begin(bad_store)
    practice = bad_store.next_trial(rater)
    assert practice is not None
    bad_store.vote(rater, practice.id, 0, 1000)
    # Practice tells the right answer, so it cannot be corrected.
    assert bad_store.last_answered(rater) is None
    first = bad_store.next_trial(rater)
    assert first is not None
    assert (first.tie, first.both_bad) == (True, True)
    bad_store.vote(rater, first.id, 0, 1000)
    following = bad_store.next_trial(rater)
    assert following is not None

    # The trial comes back as it was, with the answer that counts.
    answered = bad_store.last_answered(rater)
    assert answered is not None
    assert answered.trial == first
    assert answered.answer == 0
    assert bad_store.correct(rater, first.id, "both bad", 500).new
    # The same once more stores nothing, as a browser may send twice.
    assert not bad_store.correct(rater, first.id, "both bad", 500).new
    assert bad_store.correct(rater, first.id, 1, 300).answer == 1
    title = bad_store.unblinded(rater, first.id).trial.candidates
    assert stored_rows(bad_store)[1] == [BOTH_BAD, title[1]]
    assert stored_rows(bad_store)[0][-1] == title[0]
    # The open trial stays open, and the vote counts once.
    assert bad_store.next_trial(rater) == following
    votes = bad_store.votes("taste")
    row = votes[votes["role"] != "practice"].iloc[0]
    assert len(votes) == 2
    assert (row["answer"], row["first_answer"], row["reaction_ms"]) == (title[1], title[0], 1800)
    assert votes["first_answer"].isna().tolist() == [True, False]


def test_an_answer_after_the_time_limit_is_stored_and_counted(store: StudyStore, run_folder: Path) -> None:
    options = DesignOptions(raters=2, trials=4, repeats=0, attention=0, practice=0)
    store.create("taste", build([run_folder], options), replace(OPEN, trial_seconds=5))
    rater = begin(store)
    # In time, late, late and then changed in time, in time and then changed late.
    looks = ((False, None), (True, None), (True, False), (False, True))
    for first, second in looks:
        trial = store.next_trial(rater)
        assert trial is not None
        store.vote(rater, trial.id, 0, 6000, details={"over": first})
        if second is not None and len(store.votes("taste")) < 4:
            store.correct(rater, trial.id, 1, 1000, details={"over": second})
    votes = store.votes("taste")
    # The last answer of a rater who has finished cannot be changed.
    assert votes["over_time"].tolist() == [False, True, False, False]
    counts = analyse(votes, resamples=20).counts.set_index("raters")["n_over_time"]
    assert counts["all"] == 1


def test_without_a_time_limit_no_answer_is_late_or_in_time(bad_store: StudyStore) -> None:
    rater = begin(bad_store)
    for _ in range(2):
        trial = bad_store.next_trial(rater)
        assert trial is not None
        bad_store.vote(rater, trial.id, 0, 1000, details={"over": True})
    votes = bad_store.votes("taste")
    assert votes["over_time"].tolist() == [None, None]
    assert analyse(votes, resamples=20).counts["n_over_time"].isna().all()


def test_only_the_last_answer_can_be_corrected(bad_store: StudyStore) -> None:
    rater = begin(bad_store)
    trials = []
    while (trial := bad_store.next_trial(rater)) is not None:
        if len(trials) == 3:
            # The second trial is no longer the last one, and the open one has no answer.
            for other in (trials[1], trial):
                with pytest.raises(VoteRefused, match="not the last one"):
                    bad_store.correct(rater, other.id, 1)
        bad_store.vote(rater, trial.id, 0, 1000)
        trials.append(trial)
    # The end of the study is the end of corrections.
    assert bad_store.last_answered(rater) is None
    with pytest.raises(VoteRefused, match="not the last one"):
        bad_store.correct(rater, trials[-1].id, 1)
    assert stored_rows(bad_store)[1] == []


def test_an_answer_that_a_study_does_not_offer_is_refused(taste: StudyStore) -> None:
    rater = begin(taste)
    trial = taste.next_trial(rater)
    assert trial is not None
    assert not trial.both_bad
    with pytest.raises(VoteRefused, match="where the study allows it"):
        taste.vote(rater, trial.id, "both bad")


def test_a_withdrawal_deletes_corrections_too(bad_store: StudyStore) -> None:
    rater = begin(bad_store)
    for _ in range(2):
        trial = bad_store.next_trial(rater)
        assert trial is not None
        bad_store.vote(rater, trial.id, 0, 1000)
    bad_store.correct(rater, trial.id, 1)
    assert bad_store.withdraw(rater) == 2
    assert stored_rows(bad_store) == ([], [])
    with pytest.raises(Withdrawn):
        bad_store.correct(rater, trial.id, 0)


def test_a_design_without_the_option_keeps_its_digest(run_folder: Path) -> None:
    options = DesignOptions(raters=2, trials=5, repeats=1, attention=1, practice=1)
    design = build([run_folder], options)
    assert "both_bad" not in design._body()["options"]
    assert build([run_folder], replace(options, both_bad=True)).digest != design.digest

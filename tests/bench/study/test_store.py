"""Figures and votes for the administrator and the analysis, and withdrawal."""

from __future__ import annotations

import pytest

from bench.study import StudyError
from bench.study.design import Design
from bench.study.interface import (
    UnknownRater,
    Withdrawn,
)
from bench.study.store import StudyStore
from bench.study.votes.frame import COLUMNS, OPTIONAL, check_votes
from tests.bench.study.conftest import Postgres
from tests.bench.study.runs import OPEN, PROLIFIC, HandClock, answer_all, begin, on_sheet


def check_withdrawal(store: StudyStore) -> None:
    """After a withdrawal nothing of the rater is left, others get the trials, and the link is not valid."""
    entry = store.enter("taste", "5f3c", PROLIFIC)
    store.consent(entry.rater)
    own = answer_all(store, entry.rater)
    other = begin(store)
    kept_trials = answer_all(store, other)
    # Two raters have answered. One of them withdraws, twice.
    before = store.status("taste")
    assert store.withdraw(entry.rater) == len(own)
    assert store.withdraw(entry.rater) == 0
    # No vote, no figure and no name of the rater is left.
    votes = store.votes("taste")
    assert set(votes["rater"]) == {other}
    assert len(votes) == len(kept_trials)
    status = store.status("taste")
    assert (status.raters, status.withdrawn, status.finished) == (before.raters - 1, 1, before.finished - 1)
    assert (status.votes, status.answered) == (len(kept_trials), before.answered / 2)
    assert [entry.rater for entry in store.quality("taste")] == [other]
    record = store.raters("taste")[0]
    assert (record.state, record.external, record.recruited, record.answers) == ("withdrawn", None, {}, 0)
    assert store.find_raters("taste", "5f3c") == []
    # No call takes the rater any more.
    for work in (
        lambda: store.resume(entry.session),
        lambda: store.next_trial(entry.rater),
        lambda: store.vote(entry.rater, own[0].id, 0, 500),
        lambda: store.completion(entry.rater),
    ):
        with pytest.raises(Withdrawn):
            work()
    # Six sheets: the withdrawn rater's goes to another, and every trial is answered once.
    for _ in range(5):
        answer_all(store, begin(store))
    assert store.status("taste").answered == 48
    with pytest.raises(UnknownRater):
        store.withdraw("nobody")


def test_a_recruited_rater_can_be_found_by_what_the_service_and_the_study_call_them(
    taste: StudyStore, clock: HandClock
) -> None:
    for _ in range(2):
        begin(taste)
    entry = taste.enter("taste", "5f3c", PROLIFIC)
    taste.consent(entry.rater)
    for _ in range(3):
        taste.vote(entry.rater, taste.next_trial(entry.rater).id, 0, 500)
    record = taste.raters("taste")[2]
    assert (record.rater, record.number, record.external, record.recruited) == (
        entry.rater,
        2,
        "5f3c",
        PROLIFIC,
    )
    assert (record.state, record.answers, record.total) == ("trials", 2, 12)
    for who in ("5f3c", "71bb", record.code, entry.rater, entry.rater[:8], entry.session,
                f"https://study.example.org/?session={entry.session}"):  # fmt: skip
        assert taste.find_raters("taste", who) == [record]
    for who in ("", "5f3", entry.rater[:7], "x" * 300, "session=", "\x00"):
        assert taste.find_raters("taste", who) == []
    assert taste.quality("taste")[2].external == "5f3c"
    # Who comes again has a new session at the service.
    again = {**PROLIFIC, "SESSION_ID": "82cc"}
    assert taste.enter("taste", "5f3c", again).rater == entry.rater
    assert taste.raters("taste")[2].recruited == again
    with pytest.raises(StudyError, match="STUDY_ID has more than 255"):
        taste.enter("taste", "new", {**PROLIFIC, "STUDY_ID": "x" * 256})


def test_a_rater_who_withdraws_leaves_nothing_behind(taste: StudyStore) -> None:
    check_withdrawal(taste)


def test_a_rater_who_withdraws_leaves_nothing_behind_on_postgresql(
    postgres: Postgres, design: Design
) -> None:
    with StudyStore.open(postgres.database("withdraw")) as store:
        store.create("taste", design, OPEN)
        check_withdrawal(store)


def test_votes_have_the_columns_of_the_analysis(taste: StudyStore, design: Design) -> None:
    empty = taste.votes("taste")
    assert tuple(empty.columns) == (*COLUMNS, *OPTIONAL)
    answer_all(taste, begin(taste), "tie")
    votes = taste.votes()
    check_votes(votes)
    row = votes[votes["role"] == "trial"].iloc[0]
    trial = design.trial_by_id[row["trial"]]
    # The design says what the trial was.
    case = design.case_by_key[trial.case]
    assert (row["study"], row["protocol"], row["case"]) == ("taste", "fakes", case.case)
    assert (row["source"], row["category"]) == (case.source_id, case.category)
    assert (row["candidates"], row["answer"], row["question"]) == (trial.candidates, "tie", "overall")
    assert (row["repeat_of"], row["expected"], row["rater_kind"]) == (None, None, "human")
    assert str(votes["server_time"].dtype) == "datetime64[us, UTC]"
    with pytest.raises(StudyError, match="human"):
        taste.votes("taste", "everyone")


def test_quality_says_what_was_done(taste: StudyStore) -> None:
    careless, careful = begin(taste), begin(taste)
    answer_all(taste, careless, 0)
    taste.consent(careful)
    while (trial := taste.next_trial(careful)) is not None:
        content = on_sheet(taste, careful, trial.id)
        right = content.candidates.index(content.expected or min(content.candidates))
        taste.vote(careful, trial.id, right, 200 if content.role == "attention" else 3000)
    one, two = taste.quality("taste")
    # Always the left: no two answers to a swapped pair agree, and half of the checks fail.
    assert (one.rater, one.votes, one.repeats_same, one.repeats, one.first_share) == (careless, 12, 0, 2, 1.0)
    assert one.attention_failed == 1
    assert (two.attention_failed, two.attention, two.repeats_same, two.repeats) == (0, 2, 2, 2)
    assert two.median_ms == 3000
    assert two.fast_share == pytest.approx(2 / 12)
    assert two.tie_share == 0.0

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from bench.study import StudyError, security
from bench.study.database import Clock, DatabaseError
from bench.study.design import Design
from bench.study.interface import (
    NotFinished,
    StudyClosed,
    StudyFull,
    UnknownRater,
    UnknownStudy,
    VoteRefused,
    Withdrawn,
)
from bench.study.settings import StudySettings
from bench.study.store import StudyStore
from bench.study.votes.frame import COLUMNS, OPTIONAL, check_votes
from tests.bench.study.conftest import Postgres
from tests.bench.study.runs import answer_all

OPEN = StudySettings(open_registration=True, lease_seconds=600)
TEXT = "<script>alert('x')</script> & \"quotes\" 👩‍🎨🏳️‍🌈 שלום عالم \u202e‮ " + "ä" * 2000


class Hand(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def taste(memory: Path, design: Design, clock: Hand):
    """A store whose clock is set by hand, with a study that anyone may enter."""
    with StudyStore.open(memory / "studies.db", clock=clock) as store:
        store.create("taste", design, OPEN)
        yield store


def begin(store: StudyStore, external: str = "") -> str:
    rater = store.enter("taste", external).rater
    store.consent(rater)
    return rater


def on_sheet(store: StudyStore, rater: str, trial: str):
    return store.unblinded(rater, trial).trial


# --- studies ----------------------------------------------------------------------------------------------


def test_a_study_is_what_was_created(taste: StudyStore, design: Design) -> None:
    study = taste.study("taste")
    assert (study.design, study.settings) == (design, OPEN)
    assert taste.studies() == ["taste"]
    with pytest.raises(StudyError, match="already"):
        taste.create("taste", design)
    with pytest.raises(StudyError, match="cannot become a file name"):
        taste.create("../taste", design)
    with pytest.raises(UnknownStudy, match="Did you mean 'taste'"):
        taste.study("tast")


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database, and long enough to be seen as none " * 50)
    with pytest.raises(DatabaseError, match="something else"):
        StudyStore.open(tmp_path / "x.db")
    with pytest.raises(DatabaseError, match="Create a study first"):
        StudyStore.open(tmp_path / "missing.db", create=False)
    with pytest.raises(DatabaseError, match="is a folder"):
        StudyStore.open(tmp_path)
    for url in ("mysql://x/y", "nonsense://x", "sqlite://", "postgresql://u:secret@[x"):
        with pytest.raises(DatabaseError) as caught:
            StudyStore.open(url, patience=0.1)
        assert "secret" not in str(caught.value)


def test_nobody_else_reads_the_database(tmp_path: Path, design: Design) -> None:
    path = tmp_path / "studies.db"
    before = os.umask(0)
    try:
        with StudyStore.open(path) as store:
            store.create("taste", design)
            files = sorted(tmp_path.iterdir())
            # The side files hold the same pages.
            assert {file.name for file in files} == {"studies.db", "studies.db-shm", "studies.db-wal"}
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    finally:
        os.umask(before)
    # A file of before is closed to others; what its owner gave to the group stays.
    path.chmod(0o664)
    StudyStore.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o660


def test_a_server_that_is_not_there_is_said_so_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as caught:
        StudyStore.open(f"postgresql://u:secret@/x?host={tmp_path}", patience=0.1)
    assert "secret" not in str(caught.value)
    assert "has not answered" in str(caught.value)


# --- coming in --------------------------------------------------------------------------------------------


def test_an_invitation_is_good_for_one_rater(taste: StudyStore) -> None:
    first, second = taste.invite("taste", 2)
    entry = taste.redeem(first)
    with pytest.raises(security.TokenUsed, match="used already"):
        taste.redeem(first)
    # In the browser that took it up, the link goes on.
    assert taste.redeem(first, session=entry.session).rater == entry.rater
    assert taste.resume(entry.session).rater == entry.rater
    other = taste.redeem(second)
    assert other.rater != entry.rater
    with pytest.raises(security.TokenUsed):
        taste.redeem(first, session=other.session)
    status = taste.status("taste")
    assert (status.invitations, status.taken_up, status.raters) == (2, 2, 2)


def test_forged_expired_and_foreign_tokens_are_refused(
    taste: StudyStore, clock: Hand, design: Design
) -> None:
    taste.create("other", design)
    token, entry = taste.invite("taste", days=1)[0], taste.register("taste")
    body, mac = token.split(".")
    for wrong in (f"{body}.{mac[:-2]}AA", f"{body}A.{mac}", entry.session, "x", ""):
        with pytest.raises(security.TokenForged):
            taste.redeem(wrong)
    with pytest.raises(security.TokenForged):
        taste.resume(token)
    # Signed by the study, but never given out by it.
    secret = taste._load("taste").secret
    with pytest.raises(security.TokenForged, match="does not know"):
        taste.redeem(security.sign(secret, "invitation", "taste", "made-up"))
    # A session of one study names a rater of another: signed with the other's secret it does not verify.
    theirs = taste._load("other").secret
    with pytest.raises(security.TokenForged):
        taste.resume(security.sign(theirs, "session", "taste", entry.rater))
    clock.forward(86400 + 61)
    with pytest.raises(security.TokenExpired):
        taste.redeem(token)


def test_an_invitation_can_be_looked_at_without_taking_it_up(taste: StudyStore) -> None:
    token = taste.invite("taste")[0]
    taste.check_invitation(token)
    assert taste.status("taste").taken_up == 0
    taste.redeem(token)
    with pytest.raises(security.TokenUsed):
        taste.check_invitation(token)
    with pytest.raises(security.TokenForged):
        taste.check_invitation(token[:-2] + "AA")


def test_a_look_at_an_invitation_knows_whom_a_recruiting_service_sent(taste: StudyStore) -> None:
    first, second, third = taste.invite("taste", 3)
    rater = taste.redeem(first, external="p-1").rater
    # Who comes back goes on; who takes part already is not asked again; nobody else gets in.
    taste.check_invitation(first, external="p-1")
    assert taste.redeem(first, external="p-1").rater == rater
    for token, external in ((first, ""), (first, "p-2"), (second, "p-1")):
        with pytest.raises(security.TokenUsed):
            taste.check_invitation(token, external=external)
        with pytest.raises(security.TokenUsed):
            taste.redeem(token, external=external)
    taste.check_invitation(second, external="p-2")
    with pytest.raises(StudyError, match="255 characters"):
        taste.check_invitation(third, external="p-3", recruited={"STUDY_ID": "s" * 256})
    taste.withdraw(rater)
    for external in ("", "p-1"):
        with pytest.raises(Withdrawn):
            taste.check_invitation(first, external=external)
        with pytest.raises(Withdrawn):
            taste.redeem(first, external=external)
    assert taste.status("taste").taken_up == 1


def test_one_invitation_taken_up_twice_at_once_makes_one_rater(taste: StudyStore) -> None:
    token = taste.invite("taste")[0]
    outcomes: list[object] = []
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        try:
            outcomes.append(taste.redeem(token).rater)
        except security.TokenUsed:
            outcomes.append(None)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcome is None for outcome in outcomes) == {True: 7, False: 1}
    assert taste.status("taste").raters == 1


def test_open_registration_goes_on_under_the_services_name(taste: StudyStore, design: Design) -> None:
    first = taste.enter("taste", "5f3c-prolific")
    assert taste.enter("taste", "5f3c-prolific").rater == first.rater
    assert taste.enter("taste", "other").rater != first.rater
    assert taste.enter("taste").rater != taste.enter("taste").rater
    taste.create("invited", design)
    with pytest.raises(StudyClosed, match="invited"):
        taste.enter("invited")


def test_no_more_raters_than_sheets_until_one_leaves(taste: StudyStore, clock: Hand) -> None:
    for _ in range(6):
        begin(taste)
    token = taste.invite("taste")[0]
    with pytest.raises(StudyFull):
        taste.redeem(token)
    clock.forward(601)
    taste.redeem(token)  # the invitation stayed good


# --- trials -----------------------------------------------------------------------------------------------


def test_a_rater_sees_the_schedule_and_every_trial_of_the_design_is_answered(
    taste: StudyStore, design: Design
) -> None:
    raters = [begin(taste) for _ in range(6)]
    for number, rater in enumerate(raters):
        seen = answer_all(taste, rater)
        roles = [on_sheet(taste, rater, trial.id).role for trial in seen]
        assert tuple(roles) == design.schedule(number)
        assert [trial.number for trial in seen[1:]] == list(range(1, 13))
        assert (seen[0].practice, seen[0].total, seen[1].total) == (True, 1, 12)
    votes = check_votes(taste.votes("taste"))
    wanted = {trial.id for trial in design.trials if trial.role == "trial"}
    assert sorted(votes["trial"][votes["role"] == "trial"]) == sorted(wanted)
    # Each rater repeats own trials, other way round, and sees own attention checks.
    answered = set(zip(votes["rater"], votes["trial"], strict=True))
    again = votes[votes["role"] == "repeat"]
    assert all((row.rater, row.repeat_of) in answered for row in again.itertuples())
    assert Counter(again["rater"]) == dict.fromkeys(raters, 2)
    status = taste.status("taste")
    assert (status.wanted, status.answered, status.finished, status.active) == (48, 48, 6, 0)


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
    theirs = {again.next_trial(again.enter("taste").rater).id}
    assert not theirs & {row.id for row in answer_all(taste, begin(taste))}
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
    trial = taste.next_trial(begin(taste))
    other = taste.votes("taste")
    assert trial is not None
    pd.testing.assert_frame_equal(frame, other)
    again = begin(taste)
    shown = taste.next_trial(again)
    first = taste.vote(again, shown.id, 0, 800, details={"zoomed": True})
    second = taste.vote(again, shown.id, "tie", 1)
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
    seen: list[str] = []
    # Of each kind of trial the first that comes is void.
    roles: set[str] = set()
    while (trial := taste.next_trial(rater, void)) is not None:
        role = on_sheet(taste, rater, trial.id).role
        if role not in roles:
            roles.add(role)
            void |= {trial.id}
            continue
        assert trial.id not in void
        seen.append(role)
        assert taste.vote(rater, trial.id, 0, 900).new
    # There is one practice trial, the void one; for the others there was another.
    assert roles == {"practice", "trial", "attention", "repeat"}
    assert Counter(seen) == {"trial": 8, "attention": 2, "repeat": 2}
    assert taste.progress(rater).state == "finished"


def test_a_void_trial_is_nobodys_and_comes_back_with_its_files(taste: StudyStore) -> None:
    first, second = begin(taste), begin(taste)
    practice = taste.next_trial(first)
    assert practice is not None
    taste.vote(first, practice.id, 0, 900)
    trial = taste.next_trial(first)
    assert trial is not None
    void = frozenset({trial.id})
    assert taste.next_trial(first, void) != trial
    assert taste.status("taste").held == 1
    assert trial.id not in {one.id for one in answer_all(taste, second)}
    name = on_sheet(taste, first, trial.id).id
    assert name not in set(taste.votes("taste")["trial"])
    while (one := taste.next_trial(first)) is not None:
        taste.vote(first, one.id, 0, 900)
    assert name in set(taste.votes("taste")["trial"])


def test_what_comes_next_is_known_before_the_answer(taste: StudyStore) -> None:
    rater = begin(taste)
    foreseen = None
    seen = 0
    while (trial := taste.next_trial(rater)) is not None:
        if foreseen is not None:
            assert foreseen[0] == trial.id
            assert foreseen[1].trial == on_sheet(taste, rater, trial.id)
        held = taste.status("taste").held
        foreseen = taste.upcoming(rater)
        assert taste.status("taste").held == held
        if foreseen is not None:
            # Looked ahead is not shown.
            with pytest.raises(VoteRefused):
                taste.vote(rater, foreseen[0], 0, 900)
        taste.vote(rater, trial.id, 0, 900)
        seen += 1
        # While the answer to a practice trial is read, too.
        if foreseen is not None:
            again = taste.upcoming(rater)
            assert again is not None
            assert again[0] == foreseen[0]
    assert foreseen is None
    assert taste.upcoming(rater) is None
    assert seen == 13


def test_two_tabs_show_one_trial_and_store_one_vote(taste: StudyStore) -> None:
    rater = begin(taste)
    for _ in range(13):
        found: list[object] = []
        barrier = threading.Barrier(2)

        def tab(answer: int, found: list[object] = found, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            trial = taste.next_trial(rater)
            if trial is None:  # the other tab gave the last answer
                return
            stored = taste.vote(rater, trial.id, answer, 700)
            found.append((trial.id, stored.new, stored.answer))

        tabs = [threading.Thread(target=tab, args=(answer,)) for answer in (0, 1)]
        for thread in tabs:
            thread.start()
        for thread in tabs:
            thread.join()
        # The slower tab may have come when the faster had voted: then it got, and answered, the next.
        by_trial = Counter(trial for trial, new, _ in found if new)
        assert all(count == 1 for count in by_trial.values())
        for trial in {trial for trial, *_ in found}:
            assert len({answer for of, _, answer in found if of == trial}) == 1
        if taste.next_trial(rater) is None:
            break
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
    mine, other = begin(taste), begin(taste)
    trial = taste.next_trial(mine)
    later = taste._load("taste")
    unseen = security.opaque(later.secret, "trial", "t00040", size=12)
    for who, what in ((other, unseen), (mine, unseen), (mine, "x"), (mine, "t00000")):
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


# --- leases, leaving and the clock ------------------------------------------------------------------------


def test_what_a_rater_leaves_goes_to_a_later_one_and_nothing_is_wasted(
    taste: StudyStore, design: Design, clock: Hand
) -> None:
    leaver = begin(taste)
    for _ in range(4):
        taste.vote(leaver, taste.next_trial(leaver).id, 0, 500)
    held = taste.next_trial(leaver)
    for _ in range(5):
        answer_all(taste, begin(taste))
    assert taste.status("taste").answered == 40 + sum(
        on_sheet(taste, leaver, row).role == "trial" for row in voted(taste, leaver)
    )
    with pytest.raises(StudyFull):
        begin(taste)
    clock.forward(601)
    answer_all(taste, begin(taste))
    assert taste.status("taste").answered == 48
    # The rater who left comes back: the trial that was open has gone to someone else; the late vote counts.
    assert on_sheet(taste, leaver, held.id).role == "trial"
    assert taste.vote(leaver, held.id, 1, 500).new
    assert taste.next_trial(leaver) is None
    assert taste.progress(leaver).state == "finished"
    votes = check_votes(taste.votes("taste"))
    twice = votes[votes.duplicated("trial", keep=False) & (votes["role"] == "trial")]
    assert set(twice["rater"]) >= {leaver}
    assert len(twice) == 2


def voted(store: StudyStore, rater: str) -> list[str]:
    votes = store.votes("taste")
    secret = store._load("taste").secret
    return [
        security.opaque(secret, "trial", name, size=12) for name in votes["trial"][votes["rater"] == rater]
    ]


def test_a_rater_who_comes_back_goes_on_where_they_were(taste: StudyStore, clock: Hand) -> None:
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
    taste: StudyStore, clock: Hand
) -> None:
    first = begin(taste)
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
    mine = votes[(votes["rater"] == first) & (votes["role"] == "trial")]
    units = [
        (case, tuple(sorted(shown))) for case, shown in zip(mine["case"], mine["candidates"], strict=True)
    ]
    assert len(units) == len(set(units))


@pytest.mark.parametrize("jump", [-86400.0, -3600.0, -5.0, 5.0, 3600.0, 86400.0 * 365])
def test_a_clock_that_is_set_loses_nothing_and_blocks_nothing(
    taste: StudyStore, design: Design, clock: Hand, jump: float
) -> None:
    raters = [begin(taste) for _ in range(6)]
    for rater in raters:
        for _ in range(3):
            taste.vote(rater, taste.next_trial(rater).id, 0, 500)
        taste.next_trial(rater)
    clock.forward(jump)
    for rater in raters:
        answer_all(taste, rater)
    votes = check_votes(taste.votes("taste"))
    assert not votes.duplicated(["rater", "trial"]).any()
    assert set(votes["trial"][votes["role"] == "trial"]) == {
        trial.id for trial in design.trials if trial.role == "trial"
    }
    assert taste.status("taste").answered == 48
    assert (votes["reaction_ms"] >= 0).all()


@pytest.mark.parametrize("measured", [None, -3, 10**9, float("nan")])
def test_a_reaction_time_that_no_clock_gives_is_measured_by_the_server(
    taste: StudyStore, clock: Hand, measured
) -> None:
    rater = begin(taste)
    trial = taste.next_trial(rater)
    clock.forward(2.5)
    taste.vote(rater, trial.id, 0, measured)
    assert taste.votes("taste")["reaction_ms"].tolist() == [2500]


def test_setting_the_clock_does_not_move_the_processs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert timedelta() <= clock.now() - before < timedelta(seconds=5)


# --- the end ----------------------------------------------------------------------------------------------


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


PROLIFIC = {"PROLIFIC_PID": "5f3c", "STUDY_ID": "60aa", "SESSION_ID": "71bb"}


def test_a_recruited_rater_can_be_found_by_what_the_service_and_the_study_call_them(
    taste: StudyStore, clock: Hand
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


def test_an_invitation_keeps_what_the_service_said_and_takes_its_rater_back(taste: StudyStore) -> None:
    first, second, third = taste.invite("taste", 3)
    entry = taste.redeem(first, external="5f3c", recruited=PROLIFIC)
    assert taste.raters("taste")[0].recruited == PROLIFIC
    # Without the cookie: the link and the service's name together say who it is; either alone does not.
    assert taste.redeem(first, external="5f3c", recruited=PROLIFIC).rater == entry.rater
    with pytest.raises(security.TokenUsed):
        taste.redeem(first, external="other")
    with pytest.raises(security.TokenUsed):
        taste.redeem(first)
    # One person, two invitations: the second stays good for someone else.
    with pytest.raises(security.TokenUsed, match="take part in this study already"):
        taste.redeem(second, external="5f3c", recruited=PROLIFIC)
    assert taste.redeem(second).rater != entry.rater
    # Raters whom no service named are not all one person.
    assert taste.redeem(third).rater != entry.rater
    with pytest.raises(security.TokenUsed):
        taste.redeem(third, external="")


def test_a_session_ends_when_it_is_not_used(taste: StudyStore, clock: Hand) -> None:
    entry = taste.enter("taste")
    taste.consent(entry.rater)
    clock.forward(89 * 86400)
    assert taste.resume(entry.session).rater == entry.rater
    taste.vote(entry.rater, taste.next_trial(entry.rater).id, 0, 500)
    clock.forward(89 * 86400)
    assert taste.resume(entry.session).session == entry.session
    clock.forward(2 * 86400)
    with pytest.raises(security.TokenExpired, match="not used for 90 days"):
        taste.resume(entry.session)


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


def check_withdrawal(store: StudyStore) -> None:
    """A rater withdraws: nothing of theirs is left, others get the trials, and their link is good no more."""
    entry = store.enter("taste", "5f3c", PROLIFIC)
    store.consent(entry.rater)
    mine = answer_all(store, entry.rater)
    other = begin(store)
    theirs = answer_all(store, other)
    before = store.status("taste")
    assert store.withdraw(entry.rater) == len(mine)
    assert store.withdraw(entry.rater) == 0
    votes = store.votes("taste")
    assert set(votes["rater"]) == {other}
    assert len(votes) == len(theirs)
    status = store.status("taste")
    assert (status.raters, status.withdrawn, status.finished) == (before.raters - 1, 1, before.finished - 1)
    assert (status.votes, status.answered) == (len(theirs), before.answered / 2)
    assert [entry.rater for entry in store.quality("taste")] == [other]
    record = store.raters("taste")[0]
    assert (record.state, record.external, record.recruited, record.answers) == ("withdrawn", None, {}, 0)
    assert store.find_raters("taste", "5f3c") == []
    for work in (
        lambda: store.resume(entry.session),
        lambda: store.next_trial(entry.rater),
        lambda: store.vote(entry.rater, mine[0].id, 0, 500),
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


def test_a_rater_who_withdraws_leaves_nothing_behind(taste: StudyStore) -> None:
    check_withdrawal(taste)


def test_a_rater_who_withdraws_leaves_nothing_behind_on_postgresql(
    postgres: Postgres, design: Design
) -> None:
    with StudyStore.open(postgres.database("withdraw")) as store:
        store.create("taste", design, OPEN)
        check_withdrawal(store)


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

    monkeypatch.setattr(taste, "_issued", withdrawn_meanwhile)
    with pytest.raises(Withdrawn):
        taste.vote(rater, trial.id, 0, 500)
    assert len(taste.votes("taste")) == 0


def test_a_study_knows_where_it_was_served(taste: StudyStore) -> None:
    assert taste.address("taste") is None
    taste.set_address("taste", "http://localhost:8600")
    assert taste.address("taste") == "http://localhost:8600"
    with pytest.raises(StudyError, match="255"):
        taste.set_address("taste", "http://" + "x" * 255)


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


# --- reading ----------------------------------------------------------------------------------------------


def test_votes_have_the_columns_of_the_analysis(taste: StudyStore, design: Design) -> None:
    empty = taste.votes("taste")
    assert tuple(empty.columns) == (*COLUMNS, *OPTIONAL)
    answer_all(taste, begin(taste), "tie")
    votes = taste.votes()
    check_votes(votes)
    row = votes[votes["role"] == "trial"].iloc[0]
    trial = design.trial_by_id[row["trial"]]
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
        known = on_sheet(taste, careful, trial.id)
        right = known.candidates.index(known.expected or min(known.candidates))
        taste.vote(careful, trial.id, right, 200 if known.role == "attention" else 3000)
    one, two = taste.quality("taste")
    # Always the left: no two answers to a swapped pair agree, and half of the checks fail.
    assert (one.rater, one.votes, one.repeats_same, one.repeats, one.first_share) == (careless, 12, 0, 2, 1.0)
    assert one.attention_failed == 1
    assert (two.attention_failed, two.attention, two.repeats_same, two.repeats) == (0, 2, 2, 2)
    assert two.median_ms == 3000
    assert two.fast_share == pytest.approx(2 / 12)
    assert two.tie_share == 0.0


def test_texts_of_every_kind_go_through(tmp_path: Path, design: Design) -> None:
    cases = tuple(
        replace(c, target_prompt=TEXT, source_prompt="\u0000x"[1:], instruction=TEXT[:300])
        for c in design.cases
    )
    wild = replace(design, cases=cases)
    with StudyStore.open(tmp_path / "ünïcode ‮.db") as store:
        store.create("taste", wild, StudySettings(title=TEXT[:500], consent=TEXT, open_registration=True))
    with StudyStore.open(tmp_path / "ünïcode ‮.db", create=False) as store:
        assert store.study("taste").settings.consent == TEXT
        entry = store.enter("taste", TEXT[:255])
        assert store.enter("taste", TEXT[:255]).rater == entry.rater
        trial = store.next_trial(entry.rater)
        assert (trial.target_prompt, trial.instruction) == (TEXT, TEXT[:300])
        with pytest.raises(StudyError, match="255"):
            store.enter("taste", TEXT)


def test_texts_of_every_kind_go_through_postgresql(postgres: Postgres, design: Design) -> None:
    wild = replace(design, cases=tuple(replace(c, target_prompt=TEXT) for c in design.cases))
    with StudyStore.open(postgres.database("texts")) as store:
        store.create("taste", wild, StudySettings(consent=TEXT, open_registration=True))
        entry = store.enter("taste", TEXT[:255])
        assert store.enter("taste", TEXT[:255]).rater == entry.rater
        assert store.next_trial(entry.rater).target_prompt == TEXT
        assert store.vote(
            entry.rater, store.next_trial(entry.rater).id, "tie", details={"agent": TEXT[:200]}
        ).new
        status = store.status("taste")
        assert (status.raters, status.active, status.votes) == (1, 1, 1)
        votes = check_votes(store.votes("taste"))
        assert abs(votes["server_time"].iloc[0] - pd.Timestamp.now("UTC")) < pd.Timedelta(minutes=5)

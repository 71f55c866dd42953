"""Invitations, open registration and sessions."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from bench.study import StudyError, security
from bench.study.design import Design
from bench.study.interface import (
    StudyClosed,
    StudyFull,
    Withdrawn,
)
from bench.study.store import StudyStore
from tests.bench.study.runs import PROLIFIC, HandClock, begin


def test_an_invitation_is_good_for_one_rater(taste: StudyStore) -> None:
    # Each of two links makes one rater.
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
    taste: StudyStore, clock: HandClock, design: Design
) -> None:
    taste.create("other", design)
    token, entry = taste.invite("taste", days=1)[0], taste.register("taste")
    # Altered tokens, and tokens for another purpose.
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
    other_secret = taste._load("other").secret
    with pytest.raises(security.TokenForged):
        taste.resume(security.sign(other_secret, "session", "taste", entry.rater))
    # A day and a minute later the invitation has ended.
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
    # Another person may still use the second invitation.
    taste.check_invitation(second, external="p-2")
    with pytest.raises(StudyError, match="255 characters"):
        taste.check_invitation(third, external="p-3", recruited={"STUDY_ID": "s" * 256})
    # After a withdrawal the link leads nowhere, whoever opens it.
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

    # Eight browsers open the link at the same moment.
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


def test_no_more_raters_than_sheets_until_one_leaves(taste: StudyStore, clock: HandClock) -> None:
    for _ in range(6):
        begin(taste)
    token = taste.invite("taste")[0]
    with pytest.raises(StudyFull):
        taste.redeem(token)
    clock.forward(601)
    taste.redeem(token)  # the invitation stayed good


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


def test_a_session_ends_when_it_is_not_used(taste: StudyStore, clock: HandClock) -> None:
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

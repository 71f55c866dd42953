"""What the store gives and takes: values and errors. What a rater's screen gets is blind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bench.study import StudyError
from bench.study.design import Design
from bench.study.settings import StudySettings
from bench.study.types import Trial

VOTE_COLUMNS: tuple[str, ...] = (
    "study",
    "rater",
    "trial",
    "question",
    "protocol",
    "case",
    "source",
    "category",
    "kind",
    "candidates",
    "answer",
    "role",
    "repeat_of",
    "expected",
    "reaction_ms",
    "server_time",
    "rater_kind",
    "exclusion",
)
"""Of :meth:`StudyStore.votes`. ``kind`` is the trial's, ``pair`` or ``best``; ``candidates`` is a tuple of
titles in the order shown; ``answer`` is one of them or ``tie``; ``trial`` is the design's id; ``expected`` is
an attention check's right answer; ``rater_kind`` is ``human`` or ``simulated``; ``exclusion`` is the study's
exclusion rule, as JSON."""

RECRUITERS: Mapping[str, tuple[str, ...]] = {
    "PROLIFIC_PID": ("STUDY_ID", "SESSION_ID"),
    "workerId": ("hitId", "assignmentId"),
    "participant": (),
}
"""The parameter of a link in which a recruiting service says who comes -> its other parameters that are stored."""

SESSION_DAYS = 90
"""How long a rater's personal link and cookie are good after the last answer."""

Answer = int | Literal["tie"]
State = Literal["consent", "practice", "trials", "finished"]


class UnknownStudy(StudyError):
    """A name that no study in the store has."""


class UnknownRater(StudyError):
    """A rater that no study in the store has, or one of another study."""

    public = "We do not know you here. Open your link again."


class Withdrawn(UnknownRater):
    """A rater who has withdrawn: nothing is shown to them or taken from them any more."""

    public = "You have withdrawn from this study. Your answers have been deleted."


class StudyFull(StudyError):
    """No trial is open for another rater at the moment."""

    public = "All places in this study are taken at the moment. Thank you for your interest."


class StudyClosed(StudyError):
    """The study takes no raters, or hands out no trials, any more."""

    public = "This study has ended. Thank you for your interest."


class VoteRefused(StudyError):
    """A vote that cannot be meant: a trial that was not shown to the rater, or an answer it does not have."""

    public = "This answer does not belong to a question that you were asked. Reload the page."


class NotFinished(StudyError):
    """The completion code was asked for too early."""

    public = "There are questions left. Answer them first."


@dataclass(frozen=True)
class Study:
    """A stored study."""

    name: str
    design: Design
    settings: StudySettings
    created_at: datetime


@dataclass(frozen=True)
class Entry:
    """A rater who may begin or go on."""

    rater: str
    """Opaque; identifies the rater to every other call. For the server: the browser keeps the session."""
    session: str
    """Signed: the browser gives it to :meth:`StudyStore.resume`, as a cookie or in the rater's own link."""
    study: str


@dataclass(frozen=True)
class OpenTrial:
    """What a screen shows of a trial. Blind."""

    id: str
    """Opaque."""
    kind: str
    """``pair`` or ``best``."""
    practice: bool
    question: str
    """The question's text; ``hint`` says what to look at."""
    hint: str
    source_prompt: str
    target_prompt: str
    instruction: str
    candidates: int
    """How many; an answer is a position from 0, in the order of ``Pictures.bundle(...).candidates``."""
    tie: bool
    """Whether ``"tie"`` is an answer."""
    number: int
    """From 1, of ``total``; practice trials are counted by themselves."""
    total: int


@dataclass(frozen=True)
class Stored:
    """What became of a vote. The answer that is stored is the first that was given."""

    new: bool
    """False where the trial had been answered already; nothing was changed then."""
    answer: Answer
    """The stored one."""
    correct: bool | None = None
    """Of practice trials only: whether it is the right one."""


@dataclass(frozen=True)
class Progress:
    """How far a rater is."""

    done: int
    total: int
    practice_done: int
    practice_total: int
    state: State


@dataclass(frozen=True)
class Completion:
    code: str
    url: str | None


@dataclass(frozen=True)
class RaterRecord:
    """One rater, for the administrator who pays or removes them. It may name a person: it is never exported."""

    rater: str
    number: int
    """From 0, in order of arrival."""
    external: str | None
    """The recruiting service's id of the rater."""
    recruited: Mapping[str, str]
    """All that the service put into the link, by parameter."""
    state: Literal["consent", "practice", "trials", "finished", "withdrawn"]
    answers: int
    """Without practice."""
    total: int
    code: str
    """The completion code: what the rater sees at the end, or when the study closes before it."""
    created_at: datetime
    consented_at: datetime | None
    seen_at: datetime
    finished_at: datetime | None
    withdrawn_at: datetime | None


@dataclass(frozen=True)
class Shown:
    """A trial with what is behind it. For the server alone: it tells who made what."""

    study: Study
    trial: Trial
    secret: str


@dataclass(frozen=True)
class StudyStatus:
    """Counts of one study; of people unless asked for simulated raters."""

    wanted: int
    """Trials of the design, each wanting one vote."""
    answered: int
    """Of these, answered."""
    held: int
    """Of these, being looked at now."""
    raters: int
    active: int
    """Raters seen within the lease, and not finished."""
    finished: int
    votes: int
    """All, with repeats, attention checks and practice."""
    invitations: int
    taken_up: int
    simulated_votes: int
    withdrawn: int
    """Raters who have withdrawn; no other figure counts them."""
    closed: bool

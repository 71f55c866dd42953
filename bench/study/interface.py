"""Values and errors of the study store. Values for a rater's page are blind: they reveal nothing of the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

from bench.study import StudyError
from bench.study.design import Design
from bench.study.scales import Scale
from bench.study.settings import StudySettings
from bench.study.types import Trial
from bench.study.words import Words

# Parameter of a recruiting service's link that identifies the rater -> further parameters that are stored.
RECRUITERS: Mapping[str, tuple[str, ...]] = {
    "PROLIFIC_PID": ("STUDY_ID", "SESSION_ID"),
    "workerId": ("hitId", "assignmentId", "turkSubmitTo"),
    "participant": (),
}

# Days after the last answer for which a rater's personal link and cookie are valid.
SESSION_DAYS = 90

# A position from 0, one of `types.NO_PREFERENCE`, or for ratings a position on each scale.
Answer = int | Literal["tie", "both bad"] | tuple[int, ...]
# How a rater's part ended before the last trial.
SCREENED_OUT, FAILED_CHECKS, TIMED_OUT = "screened out", "failed checks", "timed out"
State = Literal[
    "consent", "screener", "practice", "trials", "finished", "screened out", "failed checks", "timed out"
]


class UnknownStudy(StudyError):
    """No study in the store has this name."""


class UnknownRater(StudyError):
    """No study in the store has this rater, or it is a rater of another study."""


class Withdrawn(UnknownRater):
    """A rater who has withdrawn. They get no more pages, and no more data are stored about them."""


class StudyFull(StudyError):
    """No trial is open for another rater at the moment."""


class StudyClosed(StudyError):
    """The study takes no more raters, or hands out no more trials."""


class VoteRefused(StudyError):
    """A vote on a trial that was not shown to the rater, or an answer that the trial does not have."""


class NotFinished(StudyError):
    """The completion code was asked for before the last trial."""


class TookPart(StudyError):
    """A rater of an earlier wave of the study."""


@dataclass(frozen=True)
class Study:
    """A stored study."""

    name: str
    design: Design
    settings: StudySettings
    created_at: datetime

    @property
    def words(self) -> Words:
        """The words of the raters' pages."""
        return self.settings.word_book

    def text(self, name: str) -> str:
        """The study's ``title``, ``consent``, ``instructions`` or ``thanks``, or else that of the language."""
        own = getattr(self.settings, name)
        if own is not None:
            return str(own)
        # A study of ratings alone compares nothing.
        rates = self.design.options.kinds == ("rate",) and name != "thanks"
        return self.words(f"rate.{name}" if rates else name)


@dataclass(frozen=True)
class LoadedStudy:
    """A study with its row id and its secret, which stay on the server."""

    id: int
    study: Study
    secret: str

    @property
    def lease(self) -> timedelta:
        """Time for which a trial is reserved for a rater."""
        return timedelta(seconds=self.study.settings.lease_seconds)


@dataclass(frozen=True)
class RaterSession:
    """A rater who may begin or go on."""

    # Opaque id of the rater for all other calls. It stays on the server: the browser keeps `session`.
    rater: str
    # Signed token for :meth:`StudyStore.resume`, kept by the browser in a cookie and in the rater's own link.
    session: str


@dataclass(frozen=True)
class OpenTrial:
    """A trial as a screen shows it. Blind."""

    # Opaque.
    id: str
    # `pair`, `best` or `rate`.
    kind: str
    practice: bool
    # Text of the question. `hint` says what to look at.
    question: str
    hint: str
    source_prompt: str
    target_prompt: str
    instruction: str
    # Number of candidates. An answer is a position from 0, in the order in which they are shown.
    candidates: int
    # True where `"tie"` is an answer, and where `"both bad"` is.
    tie: bool
    both_bad: bool
    # The scales of ratings. Empty for other kinds.
    scales: tuple[Scale, ...]
    # From 1 to `total`. Practice trials are counted by themselves.
    number: int
    total: int


@dataclass(frozen=True)
class StoredVote:
    """The vote that is stored for a trial: the first one."""

    # False where the trial had been answered before. Nothing was changed then.
    new: bool
    # The stored answer.
    answer: Answer
    # True where the answer to a practice trial is right. None for other trials.
    correct: bool | None = None


@dataclass(frozen=True)
class AnsweredTrial:
    """The trial that a rater answered last, with the answer that counts at present."""

    trial: OpenTrial
    answer: Answer


@dataclass(frozen=True)
class RaterProgress:
    """Numbers of trials that a rater has answered and will be asked."""

    done: int
    total: int
    practice_done: int
    practice_total: int
    state: State


@dataclass(frozen=True)
class Submission:
    """The form that ends a worker's task at Mechanical Turk."""

    url: str
    # Name -> value of its fields.
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Completion:
    """The completion code, and the way back to the recruiting service where there is one."""

    # None for a rater whose part ended early where the study has no code for that.
    code: str | None
    url: str | None
    # SCREENED_OUT, FAILED_CHECKS or TIMED_OUT. None for a rater who came to the end, or to the study's.
    ended: str | None = None
    # For a worker of Mechanical Turk who gets a code, instead of `url`.
    submission: Submission | None = None


@dataclass(frozen=True)
class RaterRecord:
    """One rater, for the administrator who pays or removes them. It may identify a person and is never exported."""

    rater: str
    # From 0, in order of arrival.
    number: int
    # The recruiting service's id of the rater.
    external: str | None
    # All parameters that the service put into the link.
    recruited: Mapping[str, str]
    state: State | Literal["withdrawn"]
    # Without practice.
    answers: int
    total: int
    # Code that the rater sees at the end, or when the study closes before it. None where there is none.
    code: str | None
    created_at: datetime
    consented_at: datetime | None
    seen_at: datetime
    finished_at: datetime | None
    withdrawn_at: datetime | None


@dataclass(frozen=True)
class UnblindedTrial:
    """A trial with its methods. For the server alone."""

    study: Study
    trial: Trial
    secret: str


@dataclass(frozen=True)
class StudyStatus:
    """Counts of one study, of people or of simulated raters."""

    # Trials of the design. Each needs one vote.
    planned: int
    # Trials of the design that have a vote.
    answered: int
    # Trials of the design without a vote that are reserved for a rater now.
    reserved: int
    raters: int
    # Raters who were seen within the lease and have not finished.
    active: int
    finished: int
    # Raters who were screened out, failed checks or ran out of time.
    ended_early: int
    # All votes, with repeats, attention checks and practice.
    votes: int
    invitations: int
    taken_up: int
    simulated_votes: int
    # Raters who have withdrawn. No other figure counts them.
    withdrawn: int
    closed: bool

    def to_dict(self) -> dict[str, int]:
        """The counts by the names that ``study status --json`` prints."""
        # Programs read these two names, which are older than those of the attributes.
        older_names = {"planned": "wanted", "reserved": "held"}
        return {older_names.get(name, name): count for name, count in asdict(self).items()}

"""The study's store, the only access to its database. Threads share one, and every process opens its own.

A screen calls, in this order::

    store = StudyStore.open("runs/studies.db")  # or postgresql://user@host/name
    session = store.redeem(token)               # or enter(study), or resume(session)
    store.consent(session.rater)
    store.screen(session.rater, choices)        # where the study has a screener
    while (trial := store.next_trial(session.rater)) is not None:
        prepared = images.prepare(session.rater, trial.id)  # bench.study.images.ImageServer(store)
        store.vote(session.rater, trial.id, answer, reaction_ms)
    store.completion(session.rater)

All values that these calls return are blind: they contain no name, no digest and no order of the methods.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, exists, func, null, select, update

from bench.study import StudyError, queries
from bench.study.corrections import Corrections
from bench.study.database import SLACK, within
from bench.study.interface import LoadedStudy, RaterRecord, StudyStatus, UnknownRater
from bench.study.models import (
    HUMAN,
    RATER_KINDS,
    SIMULATED,
    CorrectionRow,
    HoldRow,
    InvitationRow,
    IssueRow,
    RaterRow,
    StudyRow,
    TrialRow,
    VoteRow,
)
from bench.study.registration import Registration
from bench.study.scales import from_text
from bench.study.screening import Screening, code_of, fails_checks
from bench.study.studies import Row
from bench.study.trials import own_code, state_of
from bench.study.votes.frame import COLUMNS, OPTIONAL
from bench.study.votes.quality import RaterQuality, quality

if TYPE_CHECKING:
    import pandas as pd


class StudyStore(Registration, Screening, Corrections):
    """Open one with :meth:`open`. The calls here are for the administrator and the analysis."""

    # Raters

    def raters(self, study: str, kind: str = HUMAN) -> list[RaterRecord]:
        """Every rater of one study, in order of arrival, also those who have withdrawn."""
        loaded = self._load(study)
        settings = loaded.study.settings

        # Raters, their votes by role, and who failed the checks.
        def work(connection: Connection) -> tuple[Sequence[Row], Sequence[Row], set[int]]:
            raters = connection.execute(
                select(RaterRow)
                .where(RaterRow.study_id == loaded.id, RaterRow.kind == kind)
                .order_by(RaterRow.number)
            ).all()
            counts = connection.execute(
                select(VoteRow.rater_id, TrialRow.role, func.count().label("votes"))
                .join(TrialRow, TrialRow.id == VoteRow.trial_id)
                .where(VoteRow.study_id == loaded.id, VoteRow.kind == kind)
                .group_by(VoteRow.rater_id, TrialRow.role)
            ).all()
            failed = set()
            if settings.failed_check_code is not None:
                failed = {row.id for row in raters if fails_checks(connection, loaded, row.id)}
            return raters, counts, failed

        # All queries see one state of the database.
        rows, counts, failed = self._db.read(work, snapshot=True)
        # Row id of the rater -> role -> votes.
        votes: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for count in counts:
            votes[count.rater_id][count.role] = count.votes
        return [
            RaterRecord(
                rater=row.public,
                number=row.number,
                external=row.external,
                recruited=row.recruited or {},
                state="withdrawn" if row.withdrawn_at else state_of(row, votes[row.id], loaded.study),
                answers=votes[row.id].total() - votes[row.id]["practice"],
                total=loaded.study.design.options.trials,
                code=code_of(
                    settings, own_code(loaded.secret, row.public), row.ended, failed=row.id in failed
                ),
                created_at=row.created_at,
                consented_at=row.consented_at,
                seen_at=row.seen_at,
                finished_at=row.finished_at,
                withdrawn_at=row.withdrawn_at,
            )
            for row in rows
        ]

    def find_raters(self, study: str, who: str) -> list[RaterRecord]:
        """The people whom ``who`` may identify.

        ``who``: a rater's id or at least its first 8 characters, an id that a recruiting service put into the link, a
        completion code of the rater's own, or a personal link.
        """
        loaded = self._load(study)
        # People copy ids with spaces around them.
        text = who.strip()
        # From a whole personal link, take the session alone.
        session_rater = self._session_rater(text.rpartition("session=")[2].partition("&")[0], loaded)

        def matches(record: RaterRecord) -> bool:
            return (
                record.rater in (text, session_rater)
                or (len(text) >= 8 and record.rater.startswith(text))
                or text in (record.external, *record.recruited.values())
                # In constant time: the code is worth money.
                or hmac.compare_digest(own_code(loaded.secret, record.rater).encode(), text.upper().encode())
            )

        return [record for record in self.raters(study) if text and matches(record)]

    def withdraw(self, rater: str) -> int:
        """Deletes a rater's votes and the recruiting service's ids of them. Returns the number of votes deleted.

        Other raters get the trials. The rater's link is no longer valid. May be repeated.
        """

        def work(connection: Connection) -> int:
            row = connection.execute(
                select(RaterRow.id).where(RaterRow.public == rater).with_for_update()
            ).one_or_none()
            if row is None:
                raise UnknownRater(f"{self.name}: there is no rater {rater[:40]!r}.")
            # First, because a trigger refuses to delete votes of a rater who has not withdrawn.
            connection.execute(
                update(RaterRow)
                .where(RaterRow.id == row.id, RaterRow.withdrawn_at.is_(None))
                .values(withdrawn_at=self._db.now(connection))
            )
            # Delete everything that could identify the person.
            connection.execute(
                update(RaterRow)
                .where(RaterRow.id == row.id)
                .values(external=None, recruited=null(), screening=null(), sheet=None)
            )
            connection.execute(delete(HoldRow).where(HoldRow.rater_id == row.id))
            connection.execute(delete(IssueRow).where(IssueRow.rater_id == row.id))
            own_votes = select(VoteRow.id).where(VoteRow.rater_id == row.id)
            connection.execute(delete(CorrectionRow).where(CorrectionRow.vote_id.in_(own_votes)))
            return int(connection.execute(delete(VoteRow).where(VoteRow.rater_id == row.id)).rowcount)

        return self._db.write(work)

    def quality(self, study: str, kind: str = HUMAN) -> list[RaterQuality]:
        """Figures on each rater's answers, in order of arrival. Without raters who have withdrawn."""
        loaded = self._load(study)

        def work(connection: Connection) -> tuple[Sequence[Row], list[StoredAnswer]]:
            raters = connection.execute(
                select(RaterRow.id, RaterRow.public, RaterRow.number, RaterRow.external, RaterRow.finished_at)
                .where(RaterRow.study_id == loaded.id, RaterRow.kind == kind, RaterRow.withdrawn_at.is_(None))
                .order_by(RaterRow.number)
            ).all()
            return raters, _answers(connection, [loaded.id], kind)

        # Row id of the rater -> votes in the order of storing.
        raters, votes = self._db.read(work, snapshot=True)
        by_rater: defaultdict[int, list[StoredAnswer]] = defaultdict(list)
        for vote in votes:
            by_rater[vote.rater_id].append(vote)
        return [quality(loaded.study.design, rater, by_rater[rater.id]) for rater in raters]

    # Votes

    def votes(self, study: str | None = None, kind: str = HUMAN) -> pd.DataFrame:
        """Every vote of one study (None: of all studies), in the order in which they were stored.

        Columns: those of :mod:`bench.study.votes.frame`. ``kind``: ``human`` or ``simulated`` raters, never both in one
        frame. ``server_time`` is aware UTC.
        """
        from bench.study.votes.exclusion import Exclusion

        if kind not in RATER_KINDS:
            raise StudyError(f"votes of kind {kind!r}: expected one of {', '.join(RATER_KINDS)}.")
        # The studies, and the exclusion rule of each.
        names = self.studies() if study is None else [study]
        loaded = {entry.id: entry for entry in map(self._load, names)}
        rules = {
            row_id: Exclusion(**entry.study.settings.exclusion).to_json() for row_id, entry in loaded.items()
        }
        # The database has who answered what. The design adds what the trial was.
        rows = self._db.read(lambda c: _answers(c, list(loaded), kind), snapshot=True)
        return _vote_frame(
            [
                record
                for row in rows
                for record in _vote_records(loaded[row.study_id], row, kind, rules[row.study_id])
            ]
        )

    def status(self, study: str, kind: str = HUMAN) -> StudyStatus:
        """Counts of a study at this moment."""
        loaded = self._load(study)
        return self._db.read(lambda c: self._status(c, loaded, kind), snapshot=True)

    def _status(self, connection: Connection, loaded: LoadedStudy, kind: str) -> StudyStatus:
        now = self._db.now(connection)

        def count(table: type[Any], *where: ColumnElement[bool]) -> int:
            query = select(func.count()).select_from(table).where(*where)
            return int(connection.execute(query, {"kind": kind}).scalar_one())

        # Conditions on trials, invitations and votes of this study.
        trials = (TrialRow.study_id == loaded.id, TrialRow.role == "trial")
        is_held = exists().where(
            HoldRow.trial_id == TrialRow.id,
            HoldRow.kind == kind,
            HoldRow.until > now,
            HoldRow.until <= now + loaded.lease + SLACK,
        )
        invitations = InvitationRow.study_id == loaded.id
        votes = VoteRow.study_id == loaded.id

        # Raters who have withdrawn are counted by themselves.
        everyone = connection.execute(
            select(RaterRow.seen_at, RaterRow.finished_at, RaterRow.withdrawn_at, RaterRow.ended).where(
                RaterRow.study_id == loaded.id, RaterRow.kind == kind
            )
        ).all()
        raters = [row for row in everyone if row.withdrawn_at is None]
        unfinished = [row for row in raters if row.finished_at is None]
        ended = [row for row in raters if row.ended is not None]
        closed_at: datetime | None = connection.execute(
            select(StudyRow.closed_at).where(StudyRow.id == loaded.id)
        ).scalar_one()
        return StudyStatus(
            planned=loaded.study.design.options.votes,
            answered=count(TrialRow, *trials, queries.answered()),
            reserved=count(TrialRow, *trials, ~queries.answered(), is_held),
            raters=len(raters),
            active=sum(within(row.seen_at, now, loaded.lease) for row in unfinished),
            finished=len(raters) - len(unfinished) - len(ended),
            ended_early=len(ended),
            votes=count(VoteRow, votes, VoteRow.kind == kind),
            invitations=count(InvitationRow, invitations),
            taken_up=count(InvitationRow, invitations, InvitationRow.rater_id.is_not(None)),
            simulated_votes=count(VoteRow, votes, VoteRow.kind == SIMULATED),
            withdrawn=len(everyone) - len(raters),
            closed=closed_at is not None,
        )


class StoredAnswer(NamedTuple):
    """The answer to one trial that counts: the vote, or its latest correction."""

    study_id: int
    # Row id and public id of the rater.
    rater_id: int
    rater: str
    # Trial.id of the design.
    name: str
    answer: str
    # Milliseconds of all looks at the trial together.
    reaction_ms: int
    server_time: datetime
    # The vote that a correction supersedes. None without a correction.
    first_answer: str | None
    # See `models.IssueRow`.
    probability: float | None
    # Whether the pictures were covered, because the time for them was over.
    over_time: bool


def _answers(connection: Connection, studies: Sequence[int], kind: str) -> list[StoredAnswer]:
    """The answers that count in some studies, in the order of the votes."""
    values = {"studies": list(studies), "kind": kind}
    # Row id of the vote -> its corrections, the latest last.
    corrections: defaultdict[int, list[Row]] = defaultdict(list)
    for row in connection.execute(queries.ALL_CORRECTIONS, values):
        corrections[row.vote_id].append(row)
    answers = []
    for vote in connection.execute(queries.ALL_VOTES, values):
        later = corrections.get(vote.id, [])
        latest = later[-1] if later else vote
        answers.append(
            StoredAnswer(
                vote.study_id,
                vote.rater_id,
                vote.rater,
                vote.name,
                latest.answer,
                vote.reaction_ms + sum(row.reaction_ms for row in later),
                latest.server_time,
                vote.answer if later else None,
                vote.probability,
                bool((latest.details or {}).get("over")),
            )
        )
    return answers


def _vote_records(loaded: LoadedStudy, row: StoredAnswer, kind: str, exclusion: str) -> list[dict[str, Any]]:
    """One vote by column, or one row per scale of a rating. The design says what the trial was."""
    study = loaded.study
    trial = study.design.trial_by_id[row.name]
    case = study.design.case_by_key[trial.case]
    record = {
        "study": study.name,
        "rater": row.rater,
        "trial": trial.id,
        "question": trial.question,
        "protocol": case.protocol,
        "case": case.case,
        "source": case.source_id,
        "category": case.category,
        "kind": trial.kind,
        "candidates": trial.candidates,
        "answer": row.answer,
        "role": trial.role,
        "repeat_of": trial.repeat_of,
        # The analysis uses attention checks only: practice tells the right answer.
        "expected": trial.expected if trial.role == "attention" else None,
        "reaction_ms": row.reaction_ms,
        "server_time": row.server_time,
        "rater_kind": kind,
        "exclusion": exclusion,
        "first_answer": row.first_answer,
        "scale": None,
        "probability": row.probability,
        "over_time": None if study.settings.trial_seconds is None else row.over_time,
    }
    if trial.kind != "rate":
        return [record]
    ratings = from_text(row.answer)
    first = None if row.first_answer is None else from_text(row.first_answer)
    return [
        {
            **record,
            "question": scale.name,
            "answer": f"{ratings[scale.name]:g}",
            "first_answer": None if first is None else f"{first[scale.name]:g}",
            "scale": json.dumps(scale.values),
        }
        for scale in study.design.options.scales
    ]


def _vote_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    # The columns in the order of `votes.frame`.
    frame = pd.DataFrame.from_records(records, columns=[*COLUMNS, *OPTIONAL])
    # An empty frame has no types of its own.
    frame["reaction_ms"] = frame["reaction_ms"].astype("int64")
    frame["server_time"] = pd.to_datetime(frame["server_time"], utc=True)
    for column in ("repeat_of", "expected", "first_answer", "scale", "probability", "over_time"):
        # pandas turns an absent text into NaN.
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    return frame

"""Handing out trials and taking votes: what happens between a rater and the database, trial by trial."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection, func, select

from bench.study import queries
from bench.study.database import SLACK, Database, within
from bench.study.design import Design
from bench.study.interface import (
    Answer,
    OpenTrial,
    Shown,
    Stored,
    Study,
    StudyClosed,
    StudyFull,
    UnknownRater,
    VoteRefused,
    Withdrawn,
)
from bench.study.models import RaterRow, TrialRow
from bench.study.types import QUESTIONS, TIE, Role

MAX_REACTION = 24 * 3600 * 1000
"""Milliseconds; a browser that measures more, or less than 0, had its clock set: the server's measure counts."""

Row: TypeAlias = Any
"""A row of a query; its attributes are the query's columns."""
Void: TypeAlias = frozenset[str]
"""``OpenTrial.id`` of trials that cannot be shown at the moment: a file of theirs was changed."""


@dataclass(frozen=True)
class Loaded:
    """A study with what only the server knows of it."""

    id: int
    study: Study
    secret: str

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.study.settings.lease_seconds)


class Load(Protocol):
    """Gives a study by its name. Whoever holds a connection passes it, and does not wait for a second one."""

    def __call__(self, name: str, connection: Connection | None = None) -> Loaded: ...


class Moment:
    """``now`` and what follows from it, as the parameters of ``queries``."""

    def __init__(self, now: datetime, lease: timedelta) -> None:
        self.now, self.lease = now, lease
        self.times = {
            "now": now,
            "until": now + lease,
            "since": now - lease,
            "ahead": now + SLACK,
            "horizon": now + lease + SLACK,
        }


class Handout:
    """The part of ``store.StudyStore`` that works trial by trial. All state is in the database."""

    def __init__(self, database: Database, load: Load) -> None:
        self._db = database
        self._load = load
        self._writes = queries.Writes(is_sqlite=database.is_sqlite)

    def rater(self, connection: Connection, rater: str, *, lock: bool = False) -> Row:
        """Raises :class:`UnknownRater`, and its kind :class:`Withdrawn`.

        ``lock``: of two transactions about one rater, the second waits.
        """
        query = queries.RATER_LOCKED if lock else queries.RATER
        found = connection.execute(query, {"rater": rater}).one_or_none()
        if found is None:
            raise UnknownRater(f"{self._db.name}: there is no rater {rater[:40]!r}.")
        if found.withdrawn_at is not None:
            raise Withdrawn(f"{self._db.name}: rater {rater[:40]!r} has withdrawn.")
        return found

    def done(self, connection: Connection, rater_id: int) -> Counter[str]:
        """The rater's votes by role."""
        found: Counter[str] = Counter()
        for row in connection.execute(queries.DONE, {"me": rater_id}):
            found[row.role] = row.votes
        return found

    def free_sheet(self, connection: Connection, loaded: Loaded, kind: str, now: datetime) -> int | None:
        """An untouched sheet; else the fullest of those that were left behind; else none."""
        open_trials = connection.execute(
            select(TrialRow.sheet, func.count())
            .where(TrialRow.study_id == loaded.id, TrialRow.role == "trial", ~queries.answered())
            .group_by(TrialRow.sheet),
            {"kind": kind},
        ).all()
        raters = connection.execute(
            select(RaterRow.sheet, RaterRow.seen_at).where(
                RaterRow.study_id == loaded.id, RaterRow.kind == kind, RaterRow.finished_at.is_(None)
            )
        )
        owned = {row.sheet for row in raters if within(row.seen_at, now, loaded.lease)}
        free = [(-count, sheet) for sheet, count in open_trials if sheet is not None and sheet not in owned]
        return min(free)[1] if free else None

    # The next trial

    def still_open(self, connection: Connection, rater: str, void: Void = frozenset()) -> OpenTrial | None:
        """The trial that the rater has open, where nothing needs writing down."""
        me = self.rater(connection, rater)
        row = connection.execute(queries.OPEN_ISSUE, {"me": me.id}).one_or_none()
        if row is None or row.public in void:
            return None
        now = self._db.now(connection)
        lease = self._load(me.study, connection).lease
        if row.role == "trial":
            until = connection.execute(
                queries.HELD_UNTIL, {"trial": row.id, "kind": me.kind, "me": me.id}
            ).scalar_one_or_none()
            if until is None or not now + lease / 2 < until <= now + lease + SLACK:
                return None
        elif not within(me.seen_at, now, lease / 2):
            return None
        return self._shown(connection, me, row)

    def draw(self, connection: Connection, rater: str, void: Void = frozenset()) -> OpenTrial | None:
        """The open trial, its hold prolonged, or a new one. Raises StudyClosed, StudyFull, UnknownRater.

        None of ``void`` is drawn: an open trial that is among them is taken back.
        """
        # Locked: of two tabs, one draws and the other finds what was drawn.
        me = self.rater(connection, rater, lock=True)
        if me.finished_at is not None:
            return None
        moment = Moment(self._db.now(connection), self._load(me.study, connection).lease)
        mine = {"me": me.id, "now": moment.now}
        connection.execute(queries.SEEN, mine)
        row = connection.execute(queries.OPEN_ISSUE, mine).one_or_none()
        if row is not None:
            shows = row.public not in void
            if shows and (row.role != "trial" or self._keep(connection, me, row.id, moment)):
                return self._shown(connection, me, row)
            connection.execute(queries.RELEASE, {"me": me.id, "trial": row.id})
            if not shows:
                # For whoever comes once its files are back.
                connection.execute(queries.UNHOLD, {"me": me.id, "trial": row.id, "kind": me.kind})
        if me.closed_at is not None:
            raise StudyClosed(f"study {me.study} is closed.")
        row = self._next(connection, me, moment, void)
        if row is None:
            done = self.done(connection, me.id)
            if sum(done.values()) == done["practice"]:
                # Whoever came too late to be asked anything has not finished anything either.
                raise StudyFull(f"study {me.study}: every open trial is with another rater.")
            connection.execute(queries.FINISHED, mine)
            return None
        number = connection.execute(queries.ISSUES, mine).scalar_one()
        connection.execute(self._writes.issue, {**mine, "trial": row.id, "number": number})
        return self._shown(connection, me, row)

    def _keep(self, connection: Connection, me: Row, trial: int, moment: Moment) -> bool:
        """Whether the rater can go on with a trial that has been open for a while."""
        which = {"trial": trial, "kind": me.kind}
        if connection.execute(queries.ANSWERED, which).scalar_one():
            return False
        return self._hold(connection, me, trial, moment)

    def _hold(self, connection: Connection, me: Row, trial: int, moment: Moment) -> bool:
        values = {"trial": trial, "kind": me.kind, "me": me.id, **moment.times}
        return connection.execute(self._writes.hold, values).scalar_one_or_none() is not None

    def upcoming(self, connection: Connection, rater: str, void: Void = frozenset()) -> Row | None:
        """See ``StudyStore.upcoming``. Writes nothing and holds nothing: another rater may get it first."""
        me = self.rater(connection, rater)
        if me.finished_at is not None or me.closed_at is not None:
            return None
        moment = Moment(self._db.now(connection), self._load(me.study, connection).lease)
        row = connection.execute(queries.OPEN_ISSUE, {"me": me.id}).one_or_none()
        if row is None:
            return self._next(connection, me, moment, void, hold=False)
        return self._next(connection, me, moment, void | {row.public}, hold=False, answered=row.role)

    def _next(
        self,
        connection: Connection,
        me: Row,
        moment: Moment,
        void: Void,
        *,
        hold: bool = True,
        answered: Role | None = None,
    ) -> Row | None:
        """The next trial by the rater's schedule, held where it is one that others could get.

        Without ``hold``, a look ahead; ``answered`` is the role of the open trial, taken as answered.
        """
        design = self._load(me.study, connection).study.design
        done = self.done(connection, me.id)
        if answered is not None:
            done[answered] += 1
        skipped: set[Role] = set()
        for role in design.schedule(me.number):
            if done[role] > 0:
                done[role] -= 1
                continue
            if role in skipped:
                continue
            if role == "trial":
                # None: all are answered or with others, and the rater is done.
                return self._open_trial(connection, me, moment, void, hold=hold)
            values = {"me": me.id, "study": me.study_id, "role": role, "void": list(void)}
            found = (
                self._repeat(connection, values) if role == "repeat" else self._check(connection, me, values)
            )
            if found is not None:
                return found
            skipped.add(role)
        return None

    def _open_trial(
        self, connection: Connection, me: Row, moment: Moment, void: Void, *, hold: bool
    ) -> Row | None:
        values = {
            "me": me.id,
            "study": me.study_id,
            "kind": me.kind,
            "sheet": me.sheet,
            "void": list(void),
            **moment.times,
        }
        for query in (queries.OWN_SHEET, queries.OTHER_SHEETS):
            # Someone else may take it between looking and holding; then the next look does not see it.
            while (row := connection.execute(query, values).one_or_none()) is not None:
                if not hold or self._hold(connection, me, row.id, moment):
                    return row
        return None

    def _repeat(self, connection: Connection, values: Mapping[str, Any]) -> Row | None:
        return connection.execute(queries.REPEAT, values).one_or_none()

    def _check(self, connection: Connection, me: Row, values: Mapping[str, Any]) -> Row | None:
        """The rater's next practice trial or attention check; each rater begins at another of the latter."""
        rows = connection.execute(queries.CHECKS, values).all()
        if not rows or values["role"] == "practice":
            return rows[0] if rows else None
        attention = self._load(me.study, connection).study.design.options.attention
        return min(rows, key=lambda row: (row.position - me.number * attention) % (4 * attention))

    def _shown(self, connection: Connection, me: Row, row: Row) -> OpenTrial:
        design: Design = self._load(me.study, connection).study.design
        done = self.done(connection, me.id)
        practice = row.role == "practice"
        practised = done["practice"]
        question = QUESTIONS[row.question]
        case = design.case_by_key[row.case_key]
        return OpenTrial(
            id=row.public,
            kind=row.kind,
            practice=practice,
            question=question.text(row.kind),
            hint=question.hint,
            source_prompt=case.source_prompt,
            target_prompt=case.target_prompt,
            instruction=case.instruction,
            candidates=len(row.candidates),
            tie=row.kind == "pair" and design.options.ties,
            number=1 + (practised if practice else sum(done.values()) - practised),
            total=design.options.practice if practice else design.options.trials,
        )

    # Votes

    def vote(
        self,
        rater: str,
        trial: str,
        answer: Answer,
        reaction_ms: int | None,
        details: Mapping[str, Any] | None,
    ) -> Stored:
        """See ``StudyStore.vote``."""
        kept = _details(details)
        # What is read here never changes once it is there, so reading it needs no lock.
        row = self._db.read(lambda c: self._issued(c, rater, trial))
        title = self._title(row, answer)
        measured = None if reaction_ms is None or not 0 <= reaction_ms <= MAX_REACTION else round(reaction_ms)

        def work(connection: Connection) -> bool:
            now = self._db.now(connection)
            waited = round((now - row.issued_at).total_seconds() * 1000)
            values = {
                "study": row.study_id,
                "me": row.rater_id,
                "trial": row.trial_id,
                "kind": row.rater_kind,
                "answer": title,
                "reaction": min(max(waited, 0), MAX_REACTION) if measured is None else measured,
                "now": now,
                "details": kept,
            }
            # First: it locks the rater, so that a withdrawal comes before the vote or waits for it.
            if not connection.execute(queries.SEEN, {"me": row.rater_id, "now": now}).rowcount:
                raise Withdrawn(f"{self._db.name}: rater {rater[:40]!r} has withdrawn.")
            return connection.execute(self._writes.vote, values).scalar_one_or_none() is not None

        new = row.answer is None and self._db.write(work)
        if not new:
            title = row.answer or self._db.read(lambda c: self._issued(c, rater, trial).answer)
        stored: Answer = "tie" if title == TIE else list(row.candidates).index(title)
        return Stored(new, stored, title == row.expected if row.role == "practice" else None)

    def shown(self, rater: str, trial: str) -> Shown:
        """See ``StudyStore.shown``."""
        row = self._db.read(lambda c: self._issued(c, rater, trial))
        loaded = self._load(row.study)
        return Shown(loaded.study, loaded.study.design.trial_by_id[row.name], loaded.secret)

    def _issued(self, connection: Connection, rater: str, trial: str) -> Row:
        """A trial that was shown to a rater, with the answer to it where there is one."""
        row = connection.execute(queries.ISSUED, {"rater": rater, "public": trial}).one_or_none()
        if row is None:
            self.rater(connection, rater)
            raise VoteRefused(
                f"{self._db.name}: trial {str(trial)[:40]!r} was not shown to rater {rater[:40]!r}."
            )
        return row

    def _title(self, row: Row, answer: Answer) -> str:
        if answer == TIE:
            if row.kind == "pair" and self._load(row.study).study.design.options.ties:
                return TIE
        elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(row.candidates):
            return str(row.candidates[answer])
        tie = " or 'tie'" if row.kind == "pair" else ""
        raise VoteRefused(
            f"answer {str(answer)[:40]!r}: expected a position from 0 to {len(row.candidates) - 1}{tie}."
        )


def _details(details: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Raises :class:`VoteRefused` for what is not a small mapping of plain values."""
    if not details:
        return None

    def plain(key: object, value: object) -> bool:
        if not isinstance(key, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", key):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (value is None or isinstance(value, (bool, int, float, str))) and (
            len(str(value)) <= 200 and "\x00" not in str(value)
        )

    if len(details) > 20 or not all(plain(key, value) for key, value in details.items()):
        raise VoteRefused("details: expected at most 20 short plain values under names such as zoomed.")
    return dict(details)

"""Handing out trials and storing votes.

Each sheet of the design belongs to one rater, who works through it. A trial is held for the rater who is shown it, for
``lease_seconds``. When a hold ends, other raters can get the trial: a new rater as part of a whole sheet, or a rater
whose own sheet has been used up. A vote on a trial that has gone to somebody else in the meantime still counts.

``next_trial`` and ``vote`` may be called any number of times, also from two tabs. They give the same trial until it is
answered, and the first answer stays.

Times are those of the database server. For SQLite they are those of this process, and setting the system's clock does
not change them. If a clock still jumps, holds end early or late by less than their length, and no stored vote changes.
"""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, cast
from urllib.parse import quote

from sqlalchemy import Connection

from bench.study import mturk, queries, security
from bench.study.answers import is_expected, shown_answer, stored_text
from bench.study.database import SLACK, within
from bench.study.interface import (
    Answer,
    Completion,
    LoadedStudy,
    NotFinished,
    OpenTrial,
    RaterProgress,
    State,
    StoredVote,
    Study,
    StudyClosed,
    StudyFull,
    UnblindedTrial,
    VoteRefused,
    Withdrawn,
)
from bench.study.pairing import Drawn, Pairing
from bench.study.screening import code_of, early_end, fails_checks, is_overdue
from bench.study.studies import Row
from bench.study.types import Role

# Milliseconds. A larger or negative time means that the browser's clock was set. Then the server's time counts.
MAX_REACTION = 24 * 3600 * 1000

# `OpenTrial.id` of trials that cannot be shown at the moment, because a file of theirs was changed.
Void: TypeAlias = frozenset[str]


class Moment:
    """The current time and the times that follow from it, as parameters of ``queries``."""

    def __init__(self, now: datetime, lease: timedelta) -> None:
        self.now = now
        self.times = {
            "now": now,
            # A hold that is taken now ends at `until`. A rater seen after `since` is still at work.
            "until": now + lease,
            "since": now - lease,
            # Later times than these were written by a wrong clock: when a rater was seen, when a hold ends.
            "ahead": now + SLACK,
            "horizon": now + lease + SLACK,
        }


class TrialHandout(Pairing):
    """The part of the store that works trial by trial. All of its state is in the database."""

    def next_trial(self, rater: str, void: Void = frozenset()) -> OpenTrial | None:
        """The rater's open trial, or the next one. None when the rater has finished.

        Trials in ``void`` are replaced by others. A rater has finished early where all trials left are void or with
        other raters. Raises :class:`UnknownRater`, :class:`StudyClosed`, and :class:`StudyFull` where not even a first
        trial is left.
        """
        # SQLite has one writer, which a rater who only looks again should not need. Other databases lock one row, and a
        # second transaction costs more than the lock.
        trial = None
        if self._db.is_sqlite:
            trial = self._db.read(lambda c: self._still_open(c, rater, void))
        if trial is None:
            # Not durable: a lost trial is drawn again, and a vote on it takes it to the disk.
            trial = self._db.write(lambda c: self._draw(c, rater, void), durable=False)
        return trial

    def upcoming(self, rater: str, void: Void = frozenset()) -> tuple[str, UnblindedTrial] | None:
        """The id and content of the trial that will most likely follow the open one, to prepare its images.

        For the server alone. Nothing is drawn or held, so another trial may follow all the same.
        """
        found = self._db.read(lambda c: self._peek(c, rater, void))
        if found is None:
            return None
        row, study = found
        return row.public, self._unblinded(self._load(study), row.name)

    def vote(
        self,
        rater: str,
        trial: str,
        answer: Answer,
        reaction_ms: int | None = None,
        *,
        details: Mapping[str, str | int | float | bool | None] | None = None,
    ) -> StoredVote:
        """Stores the answer to a trial that was shown to the rater. It is on disk when this returns.

        ``answer``: a position from 0 in the order shown, ``"tie"`` or ``"both bad"``. ``reaction_ms``: the browser's
        measurement in milliseconds. If it is missing or impossible, the time since the trial was handed out counts.
        ``details``: a small mapping of plain values. May be repeated: the first answer stays, and is returned.

        Raises :class:`VoteRefused`, :class:`UnknownRater`, and ``DatabaseError`` if the answer could not be stored.
        After a ``DatabaseError``, call again.
        """
        # Check all arguments before anything is written.
        stored_details = checked_details(details)
        # The columns read here never change once they are written, so this needs no lock.
        row = self._db.read(lambda c: self._issued(c, rater, trial))
        options = self._load(row.study).study.design.options
        title = stored_text(row.kind, row.candidates, options, answer)
        measured = None
        if reaction_ms is not None and 0 <= reaction_ms <= MAX_REACTION:
            measured = round(reaction_ms)

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
                "details": stored_details,
            }
            # This update locks the rater: a withdrawal comes before the vote, or waits for it.
            if not connection.execute(queries.SEEN, {"me": row.rater_id, "now": now}).rowcount:
                raise Withdrawn(f"{self.name}: rater {rater[:40]!r} has withdrawn.")
            return connection.execute(self._writes.vote, values).scalar_one_or_none() is not None

        # An answer that came first, also in the moment since the read above, stays.
        new = row.answer is None and self._db.write(work)
        if not new:
            title = row.answer or self._db.read(lambda c: self._issued(c, rater, trial).answer)
        stored = shown_answer(row.kind, row.candidates, options, title)
        right = is_expected(row.kind, options, title, row.expected)
        return StoredVote(new, stored, right if row.role == "practice" else None)

    def unblinded(self, rater: str, trial: str) -> UnblindedTrial:
        """A trial that was shown to the rater, with its methods. For the server and for simulations, never a browser.

        Raises :class:`VoteRefused` for another trial.
        """
        row = self._db.read(lambda c: self._issued(c, rater, trial))
        return self._unblinded(self._load(row.study), row.name)

    def progress(self, rater: str) -> RaterProgress:
        """The numbers of trials that the rater has answered and will be asked. Raises :class:`UnknownRater`."""
        row, votes = self._db.read(lambda c: self._rater_and_votes(c, rater))
        study = self._load(row.study).study
        options = study.design.options
        return RaterProgress(
            done=votes.total() - votes["practice"],
            total=options.trials,
            practice_done=votes["practice"],
            practice_total=options.practice,
            state=state_of(row, votes, study),
        )

    def completion(self, rater: str) -> Completion:
        """The code that proves that the rater took part, to the end or until the study was closed.

        Raises :class:`NotFinished` for a rater who has trials left in an open study, or who never answered one.
        """

        def work(connection: Connection) -> tuple[Row, Counter[str], bool, dict[str, str]]:
            row, votes = self._rater_and_votes(connection, rater)
            loaded = self._load(row.study, connection)
            has_code = loaded.study.settings.failed_check_code is not None
            failed = has_code and fails_checks(connection, loaded, row.id)
            return row, votes, failed, connection.scalar(queries.RECRUITED, {"me": row.id}) or {}

        row, votes, failed, recruited = self._db.read(work)
        # Closing a study ends it for all who have answered anything.
        if row.finished_at is None and (row.closed_at is None or not votes.total()):
            raise NotFinished(f"rater {rater}: has trials left.")
        loaded = self._load(row.study)
        settings = loaded.study.settings
        code = code_of(settings, own_code(loaded.secret, rater), row.ended, failed=failed)
        submission = None if code is None else mturk.submission(recruited, code)
        url = None
        if submission is None and settings.return_url is not None and code is not None:
            # Quoted, as both values may hold any character.
            url = settings.return_url.format(
                code=quote(code, safe=""), rater=quote(row.external or "", safe="")
            )
        return Completion(code, url, row.ended, submission)

    # The open trial

    def _still_open(self, connection: Connection, rater: str, void: Void) -> OpenTrial | None:
        """The rater's open trial, if it can be shown again without writing anything."""
        me = self._rater(connection, rater)
        row = connection.execute(queries.OPEN_ISSUE, {"me": me.id}).one_or_none()
        if row is None or row.public in void:
            return None
        now = self._db.now(connection)
        loaded = self._load(me.study, connection)
        if is_overdue(loaded.study.settings, me, now):
            return None
        lease = loaded.lease
        # In the second half of its lease, a hold has to be prolonged, and so has the rater's `seen_at`.
        if row.role == "trial":
            held_until = connection.execute(
                queries.HELD_UNTIL, {"trial": row.id, "kind": me.kind, "me": me.id}
            ).scalar_one_or_none()
            if held_until is None or not now + lease / 2 < held_until <= now + lease + SLACK:
                return None
        elif not within(me.seen_at, now, lease / 2):
            return None
        return self._open_trial(connection, me, row)

    def _draw(self, connection: Connection, rater: str, void: Void) -> OpenTrial | None:
        """The open trial with its hold prolonged, or a new trial. None when the rater has finished.

        An open trial in ``void`` is taken back. Raises StudyClosed, StudyFull and UnknownRater.
        """
        # Locked: of two tabs, one draws a trial and the other gets the same one.
        me = self._rater(connection, rater, lock=True)
        if me.finished_at is not None:
            return None
        loaded = self._load(me.study, connection)
        moment = Moment(self._db.now(connection), loaded.lease)
        my_values = {"me": me.id, "now": moment.now}
        connection.execute(queries.SEEN, my_values)
        if (why := early_end(connection, loaded, me, moment.now)) is not None:
            connection.execute(queries.ENDED, {**my_values, "why": why})
            return None

        # Go on with the open trial, or take it back.
        row = connection.execute(queries.OPEN_ISSUE, my_values).one_or_none()
        if row is not None:
            can_show = row.public not in void
            if can_show and (row.role != "trial" or self._prolong(connection, me, row.id, moment)):
                return self._open_trial(connection, me, row)
            connection.execute(queries.RELEASE, {"me": me.id, "trial": row.id})
            if not can_show:
                # Other raters may get it once its files are back.
                connection.execute(queries.UNHOLD, {"me": me.id, "trial": row.id, "kind": me.kind})
        if me.closed_at is not None:
            raise StudyClosed(f"study {me.study} is closed.")

        # Draw the next one.
        drawn = self._next(connection, me, moment, void)
        if drawn is None:
            votes = self._votes_by_role(connection, me.id)
            if votes.total() == votes["practice"]:
                # A rater who came too late for a first trial has not finished the study.
                raise StudyFull(f"study {me.study}: every open trial is with another rater.")
            connection.execute(queries.FINISHED, my_values)
            return None
        issue = {"trial": drawn.row.id, "probability": drawn.probability}
        connection.execute(self._writes.issue, {**my_values, **issue})
        return self._open_trial(connection, me, drawn.row, drawn.votes)

    def _prolong(self, connection: Connection, me: Row, trial: int, moment: Moment) -> bool:
        """Prolongs the hold of an open trial. False where another rater has answered or holds it."""
        if connection.execute(queries.ANSWERED, {"trial": trial, "kind": me.kind}).scalar_one():
            return False
        return self._hold(connection, me, trial, moment)

    def _hold(self, connection: Connection, me: Row, trial: int, moment: Moment) -> bool:
        values = {"trial": trial, "kind": me.kind, "me": me.id, **moment.times}
        return connection.execute(self._writes.hold, values).scalar_one_or_none() is not None

    # The next trial

    def _peek(self, connection: Connection, rater: str, void: Void) -> tuple[Row, str] | None:
        """The next trial after the open one, and the study's name. Writes and holds nothing."""
        me = self._rater(connection, rater)
        if me.finished_at is not None or me.closed_at is not None:
            return None
        moment = Moment(self._db.now(connection), self._load(me.study, connection).lease)
        row = connection.execute(queries.OPEN_ISSUE, {"me": me.id}).one_or_none()
        # The open trial counts as answered, and is not drawn again.
        if row is None:
            drawn = self._next(connection, me, moment, void, hold=False)
        else:
            drawn = self._next(connection, me, moment, void | {row.public}, hold=False, answered=row.role)
        return None if drawn is None else (drawn.row, str(me.study))

    def _next(
        self,
        connection: Connection,
        me: Row,
        moment: Moment,
        void: Void,
        *,
        hold: bool = True,
        answered: Role | None = None,
    ) -> Drawn | None:
        """The next trial of the rater's schedule. A trial that other raters could get is held, unless not ``hold``.

        ``answered``: role of the open trial, which counts as answered.
        """
        design = self._load(me.study, connection).study.design
        before = self._votes_by_role(connection, me.id)
        votes = before.copy()
        if answered is not None:
            votes[answered] += 1
        done = votes["trial"]
        used_up: set[Role] = set()
        for role in design.schedule(me.number):
            # Skip the part of the schedule that the rater has answered.
            if votes[role] > 0:
                votes[role] -= 1
                continue
            if role in used_up:
                continue
            if role == "trial":
                # Without an open trial, the rater has finished: all are answered or with other raters.
                drawn = self._next_on_sheets(connection, me, moment, void, hold=hold, done=done)
                return None if drawn is None else replace(drawn, votes=before)
            row = self._next_extra(connection, me, role, void)
            if row is not None:
                return Drawn(row, votes=before)
            used_up.add(role)
        return None

    def _next_on_sheets(
        self, connection: Connection, me: Row, moment: Moment, void: Void, *, hold: bool, done: int
    ) -> Drawn | None:
        """The next open trial on the rater's own sheet, then on others. Or one by the rule of an adaptive study.

        ``done``: number of the rater's trials so far.
        """
        values = {
            "me": me.id,
            "study": me.study_id,
            "kind": me.kind,
            "sheet": me.sheet,
            "void": list(void),
            **moment.times,
        }
        loaded = self._load(me.study, connection)
        while loaded.study.design.options.adaptive:
            drawn = self._draw_pair(connection, loaded, me, values, done)
            if drawn is None or not hold or self._hold(connection, me, drawn.row.id, moment):
                return drawn
        for query in (queries.OWN_SHEET, queries.OTHER_SHEETS):
            # Another rater may take the trial between the query and the hold. The next query then leaves it out.
            while (row := connection.execute(query, values).one_or_none()) is not None:
                if not hold or self._hold(connection, me, row.id, moment):
                    return Drawn(row)
        return None

    def _next_extra(self, connection: Connection, me: Row, role: Role, void: Void) -> Row | None:
        """The rater's next repeat, practice trial or attention check."""
        values = {"me": me.id, "study": me.study_id, "role": role, "void": list(void)}
        if role == "repeat":
            return connection.execute(queries.REPEAT, values).one_or_none()
        rows = connection.execute(queries.CHECKS, values).all()
        if not rows or role == "practice":
            return rows[0] if rows else None
        # Each rater begins at another attention check. There are four times as many as a rater gets.
        count = self._load(me.study, connection).study.design.options.attention
        return min(rows, key=lambda row: (row.position - me.number * count) % (4 * count))

    # Values

    def _open_trial(
        self, connection: Connection, me: Row, row: Row, votes: Counter[str] | None = None
    ) -> OpenTrial:
        """A trial as a screen shows it, with its number among the rater's trials.

        ``votes``: the rater's votes by role, where the caller has counted them.
        """
        # Practice trials are counted separately.
        design = self._load(me.study, connection).study.design
        votes = self._votes_by_role(connection, me.id) if votes is None else votes
        practice = row.role == "practice"
        practised = votes["practice"]
        case = design.case_by_key[row.case_key]
        words = self._load(me.study, connection).study.words
        hint = "hint" if row.kind == "rate" or case.mask is not None else "hint_without_outline"
        return OpenTrial(
            id=row.public,
            kind=row.kind,
            practice=practice,
            question=words(f"question.{row.question}.{row.kind}"),
            hint=words(f"question.{row.question}.{hint}"),
            source_prompt=case.source_prompt,
            target_prompt=case.target_prompt,
            instruction=case.instruction,
            candidates=len(row.candidates),
            tie=row.kind == "pair" and design.options.ties,
            both_bad=row.kind == "pair" and design.options.both_bad,
            scales=tuple(map(words.scale, design.options.scales)) if row.kind == "rate" else (),
            number=1 + (practised if practice else votes.total() - practised),
            total=design.options.practice if practice else design.options.trials,
        )

    def _unblinded(self, loaded: LoadedStudy, name: str) -> UnblindedTrial:
        return UnblindedTrial(loaded.study, loaded.study.design.trial_by_id[name], loaded.secret)

    def _rater_and_votes(self, connection: Connection, rater: str) -> tuple[Row, Counter[str]]:
        row = self._rater(connection, rater)
        return row, self._votes_by_role(connection, row.id)

    def _issued(self, connection: Connection, rater: str, trial: str) -> Row:
        """A trial that was shown to the rater, with its answer. Raises :class:`VoteRefused` for another trial."""
        row = connection.execute(queries.ISSUED, {"rater": rater, "public": trial}).one_or_none()
        if row is None:
            # An unknown rater has an error of its own.
            self._rater(connection, rater)
            raise VoteRefused(
                f"{self.name}: trial {str(trial)[:40]!r} was not shown to rater {rater[:40]!r}."
            )
        return row


def state_of(rater: Row, votes: Counter[str], study: Study) -> State:
    """The rater's place in the study. ``votes``: number by role."""
    if rater.finished_at is not None:
        return cast("State", rater.ended or "finished")
    if rater.consented_at is None:
        return "consent"
    # Raters who voted before anyone asked need no screener.
    if study.settings.screener and rater.screening is None:
        return "screener"
    return "practice" if votes["practice"] < study.design.options.practice else "trials"


def own_code(secret: str, rater: str) -> str:
    """Ten letters and digits that only the study can make. Base32 has neither 0 nor 1."""
    digest = bytes.fromhex(security.opaque(secret, "completion", rater))
    # 50 bits: nobody guesses a code, and people can still type it.
    return base64.b32encode(digest)[:10].decode()


def checked_details(details: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The details of an answer. Raises :class:`VoteRefused` unless they are at most 20 short plain values."""
    if not details:
        return None

    # The details come from a browser, through an app that already filters them.
    def plain(key: object, value: object) -> bool:
        if not isinstance(key, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", key):
            return False
        # JSON has no NaN and no infinity.
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (value is None or isinstance(value, (bool, int, float, str))) and (
            len(str(value)) <= 200 and "\x00" not in str(value)
        )

    if len(details) > 20 or not all(plain(key, value) for key, value in details.items()):
        raise VoteRefused("details: expected at most 20 short plain values under names such as zoomed.")
    return dict(details)

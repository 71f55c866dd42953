"""Taking back the last answer. Nothing is overwritten: a correction is a row of its own that supersedes the vote.

A rater can correct the answer that they stored last, until they have answered the next trial or have finished. Practice
has no corrections, because it tells the right answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy import Connection

from bench.study import queries
from bench.study.answers import shown_answer, stored_text
from bench.study.interface import Answer, AnsweredTrial, StoredVote, VoteRefused, Withdrawn
from bench.study.studies import Row
from bench.study.trials import MAX_REACTION, TrialHandout, checked_details


class Corrections(TrialHandout):
    """The part of the store that corrects answers."""

    def last_answered(self, rater: str) -> AnsweredTrial | None:
        """The trial whose answer the rater may correct. None where there is none.

        Raises :class:`UnknownRater`.
        """

        def work(connection: Connection) -> AnsweredTrial | None:
            me = self._rater(connection, rater)
            row = _correctable(connection, me.id)
            if row is None:
                return None
            shown = self._open_trial(connection, me, row)
            # The trial is among the votes that `number` counts.
            shown = replace(shown, number=shown.number - 1)
            options = self._load(me.study, connection).study.design.options
            text = _current(connection, row)[1]
            return AnsweredTrial(shown, shown_answer(row.kind, row.candidates, options, text))

        return self._db.read(work)

    def correct(
        self,
        rater: str,
        trial: str,
        answer: Answer,
        reaction_ms: int | None = None,
        *,
        details: Mapping[str, str | int | float | bool | None] | None = None,
    ) -> StoredVote:
        """Stores another answer to the trial that the rater answered last. It is on disk when this returns.

        Arguments: see :meth:`TrialHandout.vote`. The answer that counts already is not stored again. Raises
        :class:`VoteRefused` where the rater has answered another trial since or has finished, :class:`UnknownRater`,
        and ``DatabaseError``.
        """
        stored_details = checked_details(details)
        issued = self._db.read(lambda c: self._issued(c, rater, trial))
        options = self._load(issued.study).study.design.options
        title = stored_text(issued.kind, issued.candidates, options, answer)
        measured = 0 if reaction_ms is None else min(max(round(reaction_ms), 0), MAX_REACTION)

        def work(connection: Connection) -> bool:
            now = self._db.now(connection)
            # This update locks the rater, so the last vote stays the last one.
            if not connection.execute(queries.SEEN, {"me": issued.rater_id, "now": now}).rowcount:
                raise Withdrawn(f"{self.name}: rater {rater[:40]!r} has withdrawn.")
            row = _correctable(connection, issued.rater_id)
            if row is None or row.public != trial:
                raise VoteRefused(
                    f"{self.name}: trial {trial[:40]!r} is not the last one that rater {rater[:40]!r} answered.",
                    word="TooLate",
                )
            number, counted = _current(connection, row)
            if counted == title:
                return False
            connection.execute(
                self._writes.correction,
                {
                    "vote": row.vote_id,
                    "number": number + 1,
                    "answer": title,
                    "reaction": measured,
                    "now": now,
                    "details": stored_details,
                },
            )
            return True

        return StoredVote(self._db.write(work), answer)


def _correctable(connection: Connection, rater_id: int) -> Row | None:
    """The rater's latest vote with its trial. None where it cannot be corrected."""
    row = connection.execute(queries.LAST_VOTE, {"me": rater_id}).one_or_none()
    return None if row is None or row.role == "practice" or row.finished_at is not None else row


def _current(connection: Connection, row: Row) -> tuple[int, str]:
    """Number of the vote's latest correction (0: none), and the answer that counts."""
    latest = connection.execute(queries.CORRECTIONS, {"vote": row.vote_id}).first()
    return (0, str(row.answer)) if latest is None else (int(latest.number), str(latest.answer))

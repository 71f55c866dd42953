"""How a rater's part ends before the last trial: screened out, too many failed checks, no time left.

Such a rater has ``ended`` beside ``finished_at``. Their open trials go to other raters, and they get another code or
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from bench.study import queries
from bench.study.answers import is_expected
from bench.study.interface import FAILED_CHECKS, SCREENED_OUT, TIMED_OUT, LoadedStudy, VoteRefused
from bench.study.models import CorrectionRow, RaterRow, TrialRow, VoteRow
from bench.study.settings import StudySettings
from bench.study.studies import Row, StudyCatalog


class Screening(StudyCatalog):
    """The part of the store that asks the questions before the study."""

    def screen(self, rater: str, choices: Sequence[int]) -> bool:
        """Stores a rater's answers to the screener, as positions among the options. The first time counts.

        Returns False where the rater is screened out. Raises :class:`VoteRefused` for answers that the screener does
        not have, and ``UnknownRater``.
        """
        # The rater's row names the study.
        questions = self._load(self._db.read(lambda c: self._rater(c, rater)).study).study.settings.screener
        if len(choices) != len(questions) or any(
            not 0 <= choice < len(entry.options) for choice, entry in zip(choices, questions, strict=False)
        ):
            raise VoteRefused(f"{self.name}: {list(choices)[:20]} are no answers to the screener.")
        answers = [entry.options[choice] for choice, entry in zip(choices, questions, strict=True)]
        wanted = all(
            not entry.accept or answer in entry.accept
            for answer, entry in zip(answers, questions, strict=True)
        )

        def work(connection: Connection) -> bool:
            me = self._rater(connection, rater, lock=True)
            if me.screening is not None:
                return bool(me.ended != SCREENED_OUT)
            connection.execute(
                update(RaterRow)
                .where(RaterRow.id == me.id, RaterRow.withdrawn_at.is_(None))
                .values(screening=answers)
            )
            if not wanted:
                now = self._db.now(connection)
                connection.execute(queries.ENDED, {"me": me.id, "now": now, "why": SCREENED_OUT})
            return wanted

        return self._db.write(work)


def is_overdue(settings: StudySettings, rater: Row, now: datetime) -> bool:
    """True where the time since the rater's consent is longer than the study allows."""
    limit = settings.time_limit_minutes
    return (
        limit is not None
        and rater.consented_at is not None
        and now - rater.consented_at > timedelta(minutes=limit)
    )


def early_end(connection: Connection, loaded: LoadedStudy, rater: Row, now: datetime) -> str | None:
    """Why the rater gets no further trial: TIMED_OUT, FAILED_CHECKS or None."""
    settings = loaded.study.settings
    if is_overdue(settings, rater, now):
        return TIMED_OUT
    if settings.stop_at_failed_checks and fails_checks(connection, loaded, rater.id):
        return FAILED_CHECKS
    return None


def fails_checks(connection: Connection, loaded: LoadedStudy, rater_id: int) -> bool:
    """True where the rater has failed more attention checks than the study's exclusion rule allows."""
    from bench.study.votes.exclusion import Exclusion

    allowed = Exclusion(**loaded.study.settings.exclusion).max_attention_failures
    return allowed is not None and failed_checks(connection, loaded, rater_id) > allowed


def failed_checks(connection: Connection, loaded: LoadedStudy, rater_id: int) -> int:
    """Number of the attention checks that the rater has failed so far. Corrected answers count as corrected."""
    checks = connection.execute(
        select(VoteRow.id, VoteRow.answer, TrialRow.kind, TrialRow.expected)
        .join(TrialRow, TrialRow.id == VoteRow.trial_id)
        .where(VoteRow.rater_id == rater_id, TrialRow.role == "attention")
    ).all()
    corrections: dict[int, str] = {
        row.vote_id: row.answer
        for row in connection.execute(
            select(CorrectionRow.vote_id, CorrectionRow.answer)
            .where(CorrectionRow.vote_id.in_([check.id for check in checks]))
            .order_by(CorrectionRow.number)
        )
    }
    options = loaded.study.design.options
    return sum(
        not is_expected(check.kind, options, corrections.get(check.id, check.answer), check.expected)
        for check in checks
    )


def code_of(settings: StudySettings, own: str, ended: str | None, *, failed: bool) -> str | None:
    """The code that a rater gets at the end. ``own``: the rater's own code. ``failed``: too many checks failed."""
    if ended == SCREENED_OUT:
        return settings.screen_out_code
    if ended == TIMED_OUT:
        return None
    if failed and settings.failed_check_code is not None:
        return settings.failed_check_code
    # A rater whose part was ended has not completed the study.
    return None if ended else settings.completion_code or own


def shared_codes(settings: StudySettings) -> set[Any]:
    """Codes that do not identify one rater."""
    return {code for code in settings.codes if code is not None}

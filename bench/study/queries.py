"""The statements that run for every trial and every vote. They are built once: building takes longer than running.

Parameters: ``me`` (row id of the rater), ``study``, ``kind`` (of the rater), ``trial``, ``sheet`` and ``role``, the
times of :class:`bench.study.trials.Moment`, and ``void``, the public ids of trials that cannot be shown at the moment.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, aliased

from bench.study.models import CorrectionRow, HoldRow, IssueRow, RaterRow, StudyRow, TrialRow, VoteRow

# Columns of a trial that is handed out.
TRIAL: tuple[InstrumentedAttribute[Any], ...] = (
    TrialRow.id,
    TrialRow.name,
    TrialRow.public,
    TrialRow.role,
    TrialRow.kind,
    TrialRow.question,
    TrialRow.case_key,
    TrialRow.candidates,
    TrialRow.position,
)

me: BindParameter[Any] = bindparam("me")
study: BindParameter[Any] = bindparam("study")
kind: BindParameter[Any] = bindparam("kind")
trial: BindParameter[Any] = bindparam("trial")
sheet: BindParameter[Any] = bindparam("sheet")
role: BindParameter[Any] = bindparam("role")
now: BindParameter[Any] = bindparam("now")
until: BindParameter[Any] = bindparam("until")
since: BindParameter[Any] = bindparam("since")
ahead: BindParameter[Any] = bindparam("ahead")
horizon: BindParameter[Any] = bindparam("horizon")
void: BindParameter[Any] = bindparam("void", expanding=True)


# --- conditions on the trial of the enclosing query -------------------------------------------------------


def answered() -> ColumnElement[bool]:
    """True where a rater of the kind has answered the trial."""
    vote = aliased(VoteRow)
    return exists().where(vote.trial_id == TrialRow.id, vote.kind == kind)


def _held_by_another() -> ColumnElement[bool]:
    """True where another rater of the kind than ``me`` holds the trial."""
    hold = aliased(HoldRow)
    return exists().where(
        hold.trial_id == TrialRow.id,
        hold.kind == kind,
        hold.rater_id != me,
        hold.until > now,
        # A hold beyond the horizon was written by a clock that was wrong.
        hold.until <= horizon,
    )


def _issued_to_me() -> ColumnElement[bool]:
    issue = aliased(IssueRow)
    return exists().where(issue.rater_id == me, issue.trial_id == TrialRow.id)


def _open_to_me() -> tuple[ColumnElement[bool], ...]:
    own_vote, same = aliased(VoteRow), aliased(TrialRow)
    return (
        TrialRow.study_id == study,
        TrialRow.role == "trial",
        TrialRow.public.not_in(void),
        ~answered(),
        ~_held_by_another(),
        # On a sheet that another rater began, a comparison may be one that this rater has judged.
        ~exists().where(
            own_vote.rater_id == me,
            own_vote.trial_id == same.id,
            same.unit == TrialRow.unit,
            same.role == "trial",
        ),
    )


def _left_behind() -> ColumnElement[bool]:
    """True where no rater but ``me`` is at work on the trial's sheet."""
    owner = aliased(RaterRow)
    return ~exists().where(
        owner.study_id == study,
        owner.kind == kind,
        owner.sheet == TrialRow.sheet,
        owner.id != me,
        # At work: not finished, and seen within the lease, by a clock that can be right.
        owner.finished_at.is_(None),
        owner.seen_at > since,
        owner.seen_at <= ahead,
    )


def _sheet_begun() -> ColumnElement[bool]:
    owner = aliased(RaterRow)
    return exists().where(owner.study_id == study, owner.kind == kind, owner.sheet == TrialRow.sheet)


# --- the rater --------------------------------------------------------------------------------------------

RATER = (
    select(
        RaterRow.id,
        RaterRow.study_id,
        RaterRow.kind,
        RaterRow.number,
        RaterRow.sheet,
        RaterRow.external,
        RaterRow.seen_at,
        RaterRow.consented_at,
        RaterRow.finished_at,
        RaterRow.withdrawn_at,
        RaterRow.screening,
        RaterRow.ended,
        StudyRow.name.label("study"),
        StudyRow.closed_at,
    )
    .join(StudyRow, StudyRow.id == RaterRow.study_id)
    .where(RaterRow.public == bindparam("rater"))
)
# The parameters of the recruiting service's link.
RECRUITED = select(RaterRow.recruited).where(RaterRow.id == me)
# The second of two transactions about one rater waits for the first.
RATER_LOCKED = RATER.with_for_update(of=RaterRow)

# `seen_at` tells whether a rater is still at work. Updates no row where the rater has withdrawn in the meantime.
SEEN = update(RaterRow).where(RaterRow.id == me, RaterRow.withdrawn_at.is_(None)).values(seen_at=now)
FINISHED = update(RaterRow).where(RaterRow.id == me).values(finished_at=now)
ENDED = (
    update(RaterRow)
    .where(RaterRow.id == me, RaterRow.finished_at.is_(None))
    .values(finished_at=now, ended=bindparam("why"))
)

VOTES_BY_ROLE = (
    select(TrialRow.role, func.count().label("votes"))
    .join(VoteRow, VoteRow.trial_id == TrialRow.id)
    .where(VoteRow.rater_id == me)
    .group_by(TrialRow.role)
)

# --- the rater's open trial -------------------------------------------------------------------------------

# The trial that the rater was shown and has not answered.
OPEN_ISSUE = (
    select(*TRIAL)
    .join(IssueRow, IssueRow.trial_id == TrialRow.id)
    .where(
        IssueRow.rater_id == me,
        IssueRow.released.is_(False),
        ~exists().where(VoteRow.rater_id == me, VoteRow.trial_id == TrialRow.id),
    )
    # The latest one, if an earlier one was taken back and is open again.
    .order_by(IssueRow.number.desc())
    .limit(1)
)
RELEASE = update(IssueRow).where(IssueRow.rater_id == me, IssueRow.trial_id == trial).values(released=True)
HELD_UNTIL = select(HoldRow.until).where(
    HoldRow.trial_id == trial, HoldRow.kind == kind, HoldRow.rater_id == me
)
UNHOLD = delete(HoldRow).where(HoldRow.trial_id == trial, HoldRow.kind == kind, HoldRow.rater_id == me)
ANSWERED = select(exists().where(VoteRow.trial_id == trial, VoteRow.kind == kind))

# A trial that was shown to a rater, with the rater's answer where there is one.
ISSUED = (
    select(
        RaterRow.id.label("rater_id"),
        RaterRow.kind.label("rater_kind"),
        RaterRow.study_id,
        TrialRow.id.label("trial_id"),
        TrialRow.name,
        TrialRow.kind,
        TrialRow.role,
        TrialRow.candidates,
        TrialRow.expected,
        IssueRow.issued_at,
        VoteRow.answer,
        StudyRow.name.label("study"),
    )
    .join(StudyRow, StudyRow.id == RaterRow.study_id)
    .join(IssueRow, IssueRow.rater_id == RaterRow.id)
    .join(TrialRow, TrialRow.id == IssueRow.trial_id)
    .join(VoteRow, and_(VoteRow.rater_id == RaterRow.id, VoteRow.trial_id == TrialRow.id), isouter=True)
    .where(RaterRow.public == bindparam("rater"), TrialRow.public == bindparam("public"))
)

# The rater's latest vote with its trial.
LAST_VOTE = (
    select(
        *TRIAL,
        VoteRow.id.label("vote_id"),
        VoteRow.answer,
        StudyRow.name.label("study"),
        RaterRow.finished_at,
    )
    .join(VoteRow, VoteRow.trial_id == TrialRow.id)
    .join(RaterRow, RaterRow.id == VoteRow.rater_id)
    .join(StudyRow, StudyRow.id == VoteRow.study_id)
    .where(VoteRow.rater_id == me)
    .order_by(VoteRow.id.desc())
    .limit(1)
)
# The corrections of a vote, the latest first.
CORRECTIONS = (
    select(CorrectionRow.number, CorrectionRow.answer)
    .where(CorrectionRow.vote_id == bindparam("vote"))
    .order_by(CorrectionRow.number.desc())
)
# All corrections in some studies by a kind of raters. Of one vote, the latest comes last.
ALL_CORRECTIONS = (
    select(
        CorrectionRow.vote_id,
        CorrectionRow.answer,
        CorrectionRow.reaction_ms,
        CorrectionRow.server_time,
        CorrectionRow.details,
    )
    .join(VoteRow, VoteRow.id == CorrectionRow.vote_id)
    .where(VoteRow.study_id.in_(bindparam("studies", expanding=True)), VoteRow.kind == kind)
    .order_by(CorrectionRow.vote_id, CorrectionRow.number)
)

# All votes in some studies by a kind of raters, in the order of storing.
ALL_VOTES = (
    select(
        VoteRow.id,
        VoteRow.study_id,
        VoteRow.rater_id,
        RaterRow.public.label("rater"),
        TrialRow.name,
        VoteRow.answer,
        VoteRow.reaction_ms,
        VoteRow.server_time,
        VoteRow.details,
        IssueRow.probability,
    )
    .join(RaterRow, RaterRow.id == VoteRow.rater_id)
    .join(TrialRow, TrialRow.id == VoteRow.trial_id)
    .join(
        IssueRow,
        and_(IssueRow.rater_id == VoteRow.rater_id, IssueRow.trial_id == VoteRow.trial_id),
        isouter=True,
    )
    .where(VoteRow.study_id.in_(bindparam("studies", expanding=True)), VoteRow.kind == kind)
    .order_by(VoteRow.id)
)

# --- the next trial ---------------------------------------------------------------------------------------

OWN_SHEET: Select[Any] = (
    select(*TRIAL).where(*_open_to_me(), TrialRow.sheet == sheet).order_by(TrialRow.position).limit(1)
)
# Sheets that other raters left come before sheets that nobody has begun.
OTHER_SHEETS: Select[Any] = (
    select(*TRIAL)
    .where(*_open_to_me(), _left_behind())
    .order_by(case((_sheet_begun(), 0), else_=1), TrialRow.sheet, TrialRow.position)
    .limit(1)
)
# All open trials of an adaptive study on one question, and one of them.
OPEN_POOL = (
    select(TrialRow.id, TrialRow.name)
    .where(*_open_to_me(), TrialRow.question == bindparam("question"))
    .order_by(TrialRow.id)
)
TRIAL_BY_ID = select(*TRIAL).where(TrialRow.id == trial)
# The answers to the trials of a question, without corrections: they are too few to move a draw.
ANSWERS_TO_PAIRS = (
    select(TrialRow.name, VoteRow.answer)
    .join(TrialRow, TrialRow.id == VoteRow.trial_id)
    .where(
        VoteRow.study_id == study,
        VoteRow.kind == kind,
        TrialRow.role == "trial",
        TrialRow.question == bindparam("question"),
    )
)
# Attention or practice trials that the rater has not been shown.
CHECKS = (
    select(*TRIAL)
    .where(TrialRow.study_id == study, TrialRow.role == role, TrialRow.public.not_in(void), ~_issued_to_me())
    .order_by(TrialRow.position)
)


def _repeat() -> Select[Any]:
    vote, first = aliased(VoteRow), aliased(TrialRow)
    # Starts from the rater's few votes, so that every step uses an index.
    return (
        select(*TRIAL)
        .select_from(vote)
        .join(first, and_(first.id == vote.trial_id, first.role == "trial"))
        .join(
            TrialRow,
            # A repeat has the sheet and the position of its trial.
            and_(
                TrialRow.study_id == first.study_id,
                TrialRow.role == "repeat",
                TrialRow.sheet == first.sheet,
                TrialRow.position == first.position,
            ),
        )
        .where(vote.rater_id == me, TrialRow.public.not_in(void), ~_issued_to_me())
        # The oldest first.
        .order_by(vote.id)
        .limit(1)
    )


# The repeat of the rater's oldest trial that has not been repeated.
REPEAT = _repeat()


# --- what differs between databases -----------------------------------------------------------------------


class Writes:
    """Insertions that resolve conflicts. SQLAlchemy builds them for each database in another way.

    Each is a single statement, so that of two raters at once only one succeeds.
    """

    def __init__(self, *, is_sqlite: bool) -> None:
        self.insert: Any = sqlite.insert if is_sqlite else postgresql.insert
        # Takes or prolongs a hold. Returns no row where another rater has it.
        self.hold = (
            self.insert(HoldRow)
            .values(trial_id=trial, kind=kind, rater_id=me, until=until)
            .on_conflict_do_update(
                index_elements=["trial_id", "kind"],
                set_={"rater_id": me, "until": until},
                where=or_(HoldRow.rater_id == me, HoldRow.until <= now, HoldRow.until > horizon),
            )
            .returning(HoldRow.trial_id)
        )
        self.issue = (
            self.insert(IssueRow)
            .values(
                rater_id=me,
                trial_id=trial,
                # The rater's row is locked, so no other trial is issued in the meantime.
                number=select(func.count()).where(IssueRow.rater_id == me).scalar_subquery(),
                issued_at=now,
                released=False,
                probability=bindparam("probability"),
            )
            .on_conflict_do_update(
                index_elements=["rater_id", "trial_id"],
                set_={"released": False, "issued_at": now, "probability": bindparam("probability")},
            )
        )
        # Adds nothing where an earlier attempt has stored the same number.
        self.correction = (
            self.insert(CorrectionRow)
            .values(
                vote_id=bindparam("vote"),
                number=bindparam("number"),
                answer=bindparam("answer"),
                reaction_ms=bindparam("reaction"),
                server_time=now,
                details=bindparam("details"),
            )
            .on_conflict_do_nothing(index_elements=["vote_id", "number"])
        )
        # Changes nothing and returns no row where the rater has answered the trial before.
        self.vote = (
            self.insert(VoteRow)
            .values(
                study_id=study,
                rater_id=me,
                trial_id=trial,
                kind=kind,
                answer=bindparam("answer"),
                reaction_ms=bindparam("reaction"),
                server_time=now,
                details=bindparam("details"),
            )
            .on_conflict_do_nothing(index_elements=["rater_id", "trial_id"])
            .returning(VoteRow.id)
        )

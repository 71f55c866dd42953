"""The tables of the study database.

Votes are insert-only. A unique constraint allows one vote per rater and trial. A rater who takes an answer back adds a
row to ``corrections``, which supersedes the vote. A trigger (see ``migrations``) refuses every UPDATE and DELETE of a
vote or a correction, unless its rater has withdrawn. Rows of other tables may change in place: no result is computed
from them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

HUMAN, SIMULATED = "human", "simulated"
RATER_KINDS: tuple[str, ...] = (HUMAN, SIMULATED)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, ``timestamptz`` in PostgreSQL, sortable text in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        value = value.astimezone(UTC)
        # SQLite stores the text of the time and compares texts, so all of them need the same form.
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    # Named constraints: a migration can address them on every database.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime()}


class StudyRow(Base):
    """One study. Its design, settings and secret never change."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    # Design.to_json and StudySettings.to_json.
    design: Mapped[str] = mapped_column(Text)
    settings: Mapped[str] = mapped_column(Text)
    # 32 random bytes in hex: the key that signs tokens and makes ids opaque.
    secret: Mapped[str] = mapped_column(String(64))
    admin_hash: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    # The address at which `study serve` last served the study. Invitations lead there.
    address: Mapped[str | None] = mapped_column(String(255))


class TrialRow(Base):
    """One trial of a study's design."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("study_id", "name"),
        UniqueConstraint("study_id", "public"),
        Index(None, "study_id", "role", "sheet", "position"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    # Trial.id of the design, and the opaque id that a browser gets.
    name: Mapped[str] = mapped_column(String(40))
    public: Mapped[str] = mapped_column(String(40))
    role: Mapped[str] = mapped_column(String(12))
    kind: Mapped[str] = mapped_column(String(8))
    question: Mapped[str] = mapped_column(String(40))
    case_key: Mapped[str] = mapped_column(String(255))
    # SHA-256 of Trial.unit.
    unit: Mapped[str] = mapped_column(String(64))
    candidates: Mapped[list[str]] = mapped_column(JSON)
    sheet: Mapped[int | None]
    position: Mapped[int]
    # `name` of the trial that this one repeats.
    repeat_of: Mapped[str | None] = mapped_column(String(40))
    expected: Mapped[str | None] = mapped_column(String(255))


class RaterRow(Base):
    """One rater of one study. A rater who withdraws keeps this row and its number, but no votes and no names."""

    __tablename__ = "raters"
    __table_args__ = (
        UniqueConstraint("study_id", "kind", "number"),
        UniqueConstraint("study_id", "kind", "external"),
        Index(None, "study_id", "kind", "sheet"),
        CheckConstraint("kind IN ('human', 'simulated')", name="kind"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    # Random id of the rater in every interface.
    public: Mapped[str] = mapped_column(String(40), unique=True)
    kind: Mapped[str] = mapped_column(String(12))
    # From 0, in order of arrival among the study's raters of this kind.
    number: Mapped[int]
    # The recruiting service's id of the rater, and all parameters of its link (interface.RECRUITERS).
    # Neither is ever exported.
    external: Mapped[str | None] = mapped_column(String(255))
    recruited: Mapped[dict[str, str] | None] = mapped_column(JSON)
    sheet: Mapped[int | None]
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    consented_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
    # Answers to the screener, in its order. None before them.
    screening: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    # Why the rater's part ended before the last trial (interface.SCREENED_OUT and others). `finished_at` says when.
    ended: Mapped[str | None] = mapped_column(String(20))


class InvitationRow(Base):
    """One invitation. ``rater_id`` is set once, by the first rater who uses it."""

    __tablename__ = "invitations"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    nonce: Mapped[str] = mapped_column(String(40), unique=True)
    note: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    rater_id: Mapped[int | None] = mapped_column(ForeignKey("raters.id"), unique=True)


class HoldRow(Base):
    """A trial that is reserved for a rater until a time. People and simulated raters hold trials independently."""

    __tablename__ = "holds"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"), primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(12), primary_key=True)
    rater_id: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    until: Mapped[datetime]


class IssueRow(Base):
    """A trial that was shown to a rater. A rater can vote on these trials only."""

    __tablename__ = "issues"
    __table_args__ = (UniqueConstraint("rater_id", "trial_id"), UniqueConstraint("rater_id", "number"))

    id: Mapped[int] = mapped_column(primary_key=True)
    rater_id: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"))
    # From 0, in the order in which the rater was shown trials.
    number: Mapped[int]
    issued_at: Mapped[datetime]
    # True once the trial went to another rater. A late vote still counts.
    released: Mapped[bool] = mapped_column(Boolean)
    # How likely an adaptive study was to choose this trial, among those open to the rater. None in a fixed design.
    probability: Mapped[float | None] = mapped_column(Float)


class VoteRow(Base):
    """One answer. It never changes, and is deleted only when its rater withdraws."""

    __tablename__ = "votes"
    __table_args__ = (
        UniqueConstraint("rater_id", "trial_id"),
        Index(None, "trial_id", "kind"),
        Index(None, "study_id", "kind"),
        CheckConstraint("kind IN ('human', 'simulated')", name="kind"),
        CheckConstraint("reaction_ms >= 0", name="reaction"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    rater_id: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"))
    # Kind of the rater. Stored here too, so that a query of votes needs no join to tell people from simulations.
    kind: Mapped[str] = mapped_column(String(12))
    # Title of the chosen candidate, or "tie".
    answer: Mapped[str] = mapped_column(String(255))
    reaction_ms: Mapped[int] = mapped_column(Integer)
    server_time: Mapped[datetime]
    # Further facts from the screen: zoomed, flickered, size of the window.
    details: Mapped[dict[str, object] | None] = mapped_column(JSON)


class CorrectionRow(Base):
    """A later answer of a rater to a trial, which supersedes the vote and earlier corrections. It never changes."""

    __tablename__ = "corrections"
    __table_args__ = (
        UniqueConstraint("vote_id", "number"),
        CheckConstraint("reaction_ms >= 0", name="reaction"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    vote_id: Mapped[int] = mapped_column(ForeignKey("votes.id"))
    # From 1. The highest number counts.
    number: Mapped[int]
    # As in `votes`.
    answer: Mapped[str] = mapped_column(String(255))
    reaction_ms: Mapped[int] = mapped_column(Integer)
    server_time: Mapped[datetime]
    details: Mapped[dict[str, object] | None] = mapped_column(JSON)


class AttemptRow(Base):
    """One wrong password at the administrator's page."""

    __tablename__ = "attempts"
    __table_args__ = (Index(None, "study_id", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    # SHA-256 of the client's address: attempts are counted by client, and no address is stored.
    client: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]

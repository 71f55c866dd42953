"""The study database's tables. ``migrations`` makes them; a test holds that both say the same.

Votes are insert-only: besides the unique constraint, a trigger (migrations 0002 and 0003) refuses every UPDATE
and DELETE of them, but for those of a rater who has withdrawn. What changes in place is only what nothing is
inferred from: who is here, who holds what.
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
    """Aware UTC in Python; ``timestamptz`` in PostgreSQL, sortable text in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        value = value.astimezone(UTC)
        # SQLite stores what it is given, and compares text.
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Constraints have names, so that a migration can name them on every database."""

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
    """One study: what it was made of never changes."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    design: Mapped[str] = mapped_column(Text)
    """``Design.to_json``."""
    settings: Mapped[str] = mapped_column(Text)
    """``StudySettings.to_json``."""
    secret: Mapped[str] = mapped_column(String(64))
    """Signs tokens and makes ids opaque; hex."""
    admin_hash: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    address: Mapped[str | None] = mapped_column(String(255))
    """Where ``study serve`` last served it: invitations lead there."""


class TrialRow(Base):
    """One trial of the design, for the database to hand out."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("study_id", "name"),
        UniqueConstraint("study_id", "public"),
        Index(None, "study_id", "role", "sheet", "position"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    name: Mapped[str] = mapped_column(String(40))
    """``types.Trial.id``."""
    public: Mapped[str] = mapped_column(String(40))
    """What a browser calls it: opaque."""
    role: Mapped[str] = mapped_column(String(12))
    kind: Mapped[str] = mapped_column(String(8))
    question: Mapped[str] = mapped_column(String(40))
    case_key: Mapped[str] = mapped_column(String(255))
    unit: Mapped[str] = mapped_column(String(64))
    """SHA-256 of ``types.Trial.unit``."""
    candidates: Mapped[list[str]] = mapped_column(JSON)
    sheet: Mapped[int | None]
    position: Mapped[int]
    repeat_of: Mapped[str | None] = mapped_column(String(40))
    """The ``name`` of the trial that it repeats."""
    expected: Mapped[str | None] = mapped_column(String(255))


class RaterRow(Base):
    """One rater of one study."""

    __tablename__ = "raters"
    __table_args__ = (
        UniqueConstraint("study_id", "kind", "number"),
        UniqueConstraint("study_id", "kind", "external"),
        Index(None, "study_id", "kind", "sheet"),
        CheckConstraint("kind IN ('human', 'simulated')", name="kind"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    public: Mapped[str] = mapped_column(String(40), unique=True)
    """Random; what every interface calls the rater."""
    kind: Mapped[str] = mapped_column(String(12))
    number: Mapped[int]
    """From 0, in order of arrival among the study's raters of this kind."""
    external: Mapped[str | None] = mapped_column(String(255))
    """The recruiting service's id of the rater; never exported."""
    recruited: Mapped[dict[str, str] | None] = mapped_column(JSON)
    """All that the service put into the link, by parameter (``interface.RECRUITERS``); never exported."""
    sheet: Mapped[int | None]
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    consented_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
    """Set once the rater withdrew: votes and service's names are deleted, the row keeps its number."""


class InvitationRow(Base):
    """One invitation; ``rater_id`` is set once, by whoever takes it up first."""

    __tablename__ = "invitations"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    nonce: Mapped[str] = mapped_column(String(40), unique=True)
    note: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    rater_id: Mapped[int | None] = mapped_column(ForeignKey("raters.id"), unique=True)


class HoldRow(Base):
    """Who has an open trial at the moment. One of each kind of rater: people and simulations do not meet."""

    __tablename__ = "holds"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"), primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(12), primary_key=True)
    rater_id: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    until: Mapped[datetime]


class IssueRow(Base):
    """A trial was shown to a rater: only what was shown can be voted on."""

    __tablename__ = "issues"
    __table_args__ = (UniqueConstraint("rater_id", "trial_id"), UniqueConstraint("rater_id", "number"))

    id: Mapped[int] = mapped_column(primary_key=True)
    rater_id: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"))
    number: Mapped[int]
    """From 0, in the order in which the rater was shown them."""
    issued_at: Mapped[datetime]
    released: Mapped[bool] = mapped_column(Boolean)
    """Taken back, because another rater holds it by now. A late vote still counts."""


class VoteRow(Base):
    """One answer. Never changed; deleted only when its rater withdraws."""

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
    kind: Mapped[str] = mapped_column(String(12))
    """The rater's, so that no query can forget to ask."""
    answer: Mapped[str] = mapped_column(String(255))
    """The chosen candidate's title, or ``tie``."""
    reaction_ms: Mapped[int] = mapped_column(Integer)
    server_time: Mapped[datetime]
    details: Mapped[dict[str, object] | None] = mapped_column(JSON)
    """What else the screen tells of the answer: zoomed, flickered, size of the window."""


class AttemptRow(Base):
    """One wrong password at the admin page."""

    __tablename__ = "attempts"
    __table_args__ = (Index(None, "study_id", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    client: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the client's address: enough to count by."""
    at: Mapped[datetime]

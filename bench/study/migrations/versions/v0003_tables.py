"""The tables, and the triggers that make votes write-once.

The tables stand here as they were at this revision, and not as ``bench.study.models`` has them now: a revision must not
change when the models do.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

# Not "0001": this migration replaces three older ones, and existing databases have the number of the last of them.
revision = "0003"
down_revision = None
branch_labels = None
depends_on = None

# `models.UtcDateTime` as a database sees it.
MOMENT = sa.DateTime(timezone=True)

# A vote can be deleted only after its rater has withdrawn. The triggers refuse database administrators too.
MESSAGE = "votes are written once: they are never changed or deleted"
WITHDRAWN = "EXISTS (SELECT 1 FROM raters WHERE id = OLD.rater_id AND withdrawn_at IS NOT NULL)"
ANSWERED = (
    "EXISTS (SELECT 1 FROM votes WHERE id = NEW.id OR (rater_id = NEW.rater_id AND trial_id = NEW.trial_id))"
)

SQLITE = (
    f"CREATE TRIGGER votes_no_update BEFORE UPDATE ON votes BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER votes_no_delete BEFORE DELETE ON votes WHEN NOT {WITHDRAWN} "
    f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    # INSERT OR REPLACE deletes a row without firing the trigger above. This trigger makes it do nothing.
    f"CREATE TRIGGER votes_no_replace BEFORE INSERT ON votes WHEN {ANSWERED} BEGIN SELECT RAISE(IGNORE); END",
)
POSTGRESQL = (
    "CREATE FUNCTION votes_write_once() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN IF TG_OP = 'DELETE' THEN IF {WITHDRAWN} THEN RETURN OLD; END IF; END IF; "
    f"RAISE EXCEPTION '{MESSAGE}'; END $$",
    "CREATE TRIGGER votes_write_once BEFORE UPDATE OR DELETE ON votes "
    "FOR EACH ROW EXECUTE FUNCTION votes_write_once()",
    # TRUNCATE fires no trigger for rows.
    "CREATE TRIGGER votes_no_truncate BEFORE TRUNCATE ON votes "
    "FOR EACH STATEMENT EXECUTE FUNCTION votes_write_once()",
)


def upgrade() -> None:
    _create_studies()
    _create_raters()
    _create_votes()
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)


def _create_studies() -> None:
    """Studies with their trials, and wrong passwords."""
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("design", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("admin_hash", sa.String(length=255), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT, nullable=True),
        sa.Column("address", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("name", name=op.f("uq_studies_name")),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("client", sa.String(length=64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_attempts_study_id_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_study_id_at"), "attempts", ["study_id", "at"], unique=False)
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("public", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=12), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("question", sa.String(length=40), nullable=False),
        sa.Column("case_key", sa.String(length=255), nullable=False),
        sa.Column("unit", sa.String(length=64), nullable=False),
        sa.Column("candidates", sa.JSON(), nullable=False),
        sa.Column("sheet", sa.Integer(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("repeat_of", sa.String(length=40), nullable=True),
        sa.Column("expected", sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_trials_study_id_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("study_id", "name", name=op.f("uq_trials_study_id_name")),
        sa.UniqueConstraint("study_id", "public", name=op.f("uq_trials_study_id_public")),
    )
    op.create_index(
        op.f("ix_trials_study_id_role_sheet_position"),
        "trials",
        ["study_id", "role", "sheet", "position"],
        unique=False,
    )


def _create_raters() -> None:
    """Raters and invitations."""
    op.create_table(
        "raters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("public", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("external", sa.String(length=255), nullable=True),
        sa.Column("recruited", sa.JSON(), nullable=True),
        sa.Column("sheet", sa.Integer(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("consented_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.Column("withdrawn_at", MOMENT, nullable=True),
        sa.CheckConstraint("kind IN ('human', 'simulated')", name=op.f("ck_raters_kind")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_raters_study_id_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_raters")),
        sa.UniqueConstraint("public", name=op.f("uq_raters_public")),
        sa.UniqueConstraint("study_id", "kind", "external", name=op.f("uq_raters_study_id_kind_external")),
        sa.UniqueConstraint("study_id", "kind", "number", name=op.f("uq_raters_study_id_kind_number")),
    )
    op.create_index(
        op.f("ix_raters_study_id_kind_sheet"), "raters", ["study_id", "kind", "sheet"], unique=False
    )
    op.create_table(
        "invitations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("nonce", sa.String(length=40), nullable=False),
        sa.Column("note", sa.String(length=255), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("rater_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_invitations_rater_id_raters")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_invitations_study_id_studies")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("nonce", name=op.f("uq_invitations_nonce")),
        sa.UniqueConstraint("rater_id", name=op.f("uq_invitations_rater_id")),
    )
    op.create_index(op.f("ix_invitations_study_id"), "invitations", ["study_id"], unique=False)


def _create_votes() -> None:
    """Trials that were shown to raters, and their answers."""
    op.create_table(
        "holds",
        sa.Column("trial_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("rater_id", sa.Integer(), nullable=False),
        sa.Column("until", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_holds_rater_id_raters")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_holds_trial_id_trials")),
        sa.PrimaryKeyConstraint("trial_id", "kind", name=op.f("pk_holds")),
    )
    op.create_table(
        "issues",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rater_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("issued_at", MOMENT, nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_issues_rater_id_raters")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_issues_trial_id_trials")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_issues")),
        sa.UniqueConstraint("rater_id", "number", name=op.f("uq_issues_rater_id_number")),
        sa.UniqueConstraint("rater_id", "trial_id", name=op.f("uq_issues_rater_id_trial_id")),
    )
    op.create_table(
        "votes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("rater_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("answer", sa.String(length=255), nullable=False),
        sa.Column("reaction_ms", sa.Integer(), nullable=False),
        sa.Column("server_time", MOMENT, nullable=False),
        sa.Column("details", sa.JSON(), nullable=True),
        sa.CheckConstraint("kind IN ('human', 'simulated')", name=op.f("ck_votes_kind")),
        sa.CheckConstraint("reaction_ms >= 0", name=op.f("ck_votes_reaction")),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_votes_rater_id_raters")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_votes_study_id_studies")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_votes_trial_id_trials")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_votes")),
        sa.UniqueConstraint("rater_id", "trial_id", name=op.f("uq_votes_rater_id_trial_id")),
    )
    op.create_index(op.f("ix_votes_study_id_kind"), "votes", ["study_id", "kind"], unique=False)
    op.create_index(op.f("ix_votes_trial_id_kind"), "votes", ["trial_id", "kind"], unique=False)

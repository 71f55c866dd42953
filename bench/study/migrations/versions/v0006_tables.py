"""The tables, and the triggers that make votes and corrections write-once.

The tables stand here as they were at this revision, and not as ``bench.study.models`` has them now: a revision must not
change when the models do.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

# Not "0001": this migration replaces six older ones, and existing databases have the number of the last of them.
revision = "0006"
down_revision = None
branch_labels = None
depends_on = None

# `models.UtcDateTime` as a database sees it.
MOMENT = sa.DateTime(timezone=True)

# Conditions in SQL. A row can be deleted only after its rater has withdrawn.
VOTE_WITHDRAWN = "EXISTS (SELECT 1 FROM raters WHERE id = OLD.rater_id AND withdrawn_at IS NOT NULL)"
CORRECTION_WITHDRAWN = (
    "EXISTS (SELECT 1 FROM votes JOIN raters ON raters.id = votes.rater_id "
    "WHERE votes.id = OLD.vote_id AND raters.withdrawn_at IS NOT NULL)"
)
# True where the new row would replace a stored one.
VOTE_STORED = (
    "EXISTS (SELECT 1 FROM votes WHERE id = NEW.id OR (rater_id = NEW.rater_id AND trial_id = NEW.trial_id))"
)
CORRECTION_STORED = (
    "EXISTS (SELECT 1 FROM corrections WHERE id = NEW.id OR (vote_id = NEW.vote_id AND number = NEW.number))"
)


def upgrade() -> None:
    # Parents first, as foreign keys ask for.
    _create_studies()
    _create_attempts()
    _create_trials()
    _create_raters()
    _create_invitations()
    _create_holds()
    _create_issues()
    _create_votes()
    _create_corrections()
    _make_write_once("votes", withdrawn=VOTE_WITHDRAWN, stored=VOTE_STORED)
    _make_write_once("corrections", withdrawn=CORRECTION_WITHDRAWN, stored=CORRECTION_STORED)


def _make_write_once(table: str, *, withdrawn: str, stored: str) -> None:
    """Triggers that refuse every UPDATE and DELETE of a table, database administrators' included.

    ``withdrawn``: condition under which a row may be deleted. ``stored``: condition under which a new row would replace
    another.
    """
    message = f"{table} are written once: they are never changed or deleted"
    if op.get_bind().dialect.name == "sqlite":
        statements = (
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT {withdrawn} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END",
            # INSERT OR REPLACE deletes a row without firing the trigger above. This trigger makes it do nothing.
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {stored} "
            "BEGIN SELECT RAISE(IGNORE); END",
        )
    else:
        statements = (
            f"CREATE FUNCTION {table}_write_once() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF TG_OP = 'DELETE' THEN IF {withdrawn} THEN RETURN OLD; END IF; END IF; "
            f"RAISE EXCEPTION '{message}'; END $$",
            f"CREATE TRIGGER {table}_write_once BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_write_once()",
            # TRUNCATE fires no trigger for rows.
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_write_once()",
        )
    for statement in statements:
        op.execute(statement)


def _create_studies() -> None:
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


def _create_attempts() -> None:
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


def _create_trials() -> None:
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
        sa.Column("screening", sa.JSON(), nullable=True),
        sa.Column("ended", sa.String(length=20), nullable=True),
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


def _create_invitations() -> None:
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


def _create_holds() -> None:
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


def _create_issues() -> None:
    op.create_table(
        "issues",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rater_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("issued_at", MOMENT, nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_issues_rater_id_raters")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_issues_trial_id_trials")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_issues")),
        sa.UniqueConstraint("rater_id", "number", name=op.f("uq_issues_rater_id_number")),
        sa.UniqueConstraint("rater_id", "trial_id", name=op.f("uq_issues_rater_id_trial_id")),
    )


def _create_votes() -> None:
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


def _create_corrections() -> None:
    op.create_table(
        "corrections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("vote_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("answer", sa.String(length=255), nullable=False),
        sa.Column("reaction_ms", sa.Integer(), nullable=False),
        sa.Column("server_time", MOMENT, nullable=False),
        sa.Column("details", sa.JSON(), nullable=True),
        sa.CheckConstraint("reaction_ms >= 0", name=op.f("ck_corrections_reaction")),
        sa.ForeignKeyConstraint(["vote_id"], ["votes.id"], name=op.f("fk_corrections_vote_id_votes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corrections")),
        sa.UniqueConstraint("vote_id", "number", name=op.f("uq_corrections_vote_id_number")),
    )

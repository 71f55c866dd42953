"""The tables.

Written out, not taken from the models: what a revision does must not change when they do.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("design", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("admin_hash", sa.String(255), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("closed_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("name", name="uq_studies_name"),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("public", sa.String(40), nullable=False),
        sa.Column("role", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("question", sa.String(40), nullable=False),
        sa.Column("case_key", sa.String(255), nullable=False),
        sa.Column("unit", sa.String(64), nullable=False),
        sa.Column("candidates", sa.JSON(), nullable=False),
        sa.Column("sheet", sa.Integer(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("repeat_of", sa.String(40), nullable=True),
        sa.Column("expected", sa.String(255), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_trials_study_id_studies"),
        sa.UniqueConstraint("study_id", "name", name="uq_trials_study_id_name"),
        sa.UniqueConstraint("study_id", "public", name="uq_trials_study_id_public"),
    )
    op.create_index(
        "ix_trials_study_id_role_sheet_position", "trials", ["study_id", "role", "sheet", "position"]
    )
    op.create_table(
        "raters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("public", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("external", sa.String(255), nullable=True),
        sa.Column("sheet", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("consented_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_raters"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_raters_study_id_studies"),
        sa.UniqueConstraint("public", name="uq_raters_public"),
        sa.UniqueConstraint("study_id", "kind", "number", name="uq_raters_study_id_kind_number"),
        sa.UniqueConstraint("study_id", "kind", "external", name="uq_raters_study_id_kind_external"),
        sa.CheckConstraint("kind IN ('human', 'simulated')", name=op.f("ck_raters_kind")),
    )
    op.create_index("ix_raters_study_id_kind_sheet", "raters", ["study_id", "kind", "sheet"])
    op.create_table(
        "invitations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("nonce", sa.String(40), nullable=False),
        sa.Column("note", sa.String(255), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("rater_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_invitations"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_invitations_study_id_studies"),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name="fk_invitations_rater_id_raters"),
        sa.UniqueConstraint("nonce", name="uq_invitations_nonce"),
        sa.UniqueConstraint("rater_id", name="uq_invitations_rater_id"),
    )
    op.create_index("ix_invitations_study_id", "invitations", ["study_id"])
    op.create_table(
        "holds",
        sa.Column("trial_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("rater_id", sa.Integer(), nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("trial_id", "kind", name="pk_holds"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_holds_trial_id_trials"),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name="fk_holds_rater_id_raters"),
    )
    op.create_table(
        "issues",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rater_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("issued_at", TIME, nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_issues"),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name="fk_issues_rater_id_raters"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_issues_trial_id_trials"),
        sa.UniqueConstraint("rater_id", "trial_id", name="uq_issues_rater_id_trial_id"),
        sa.UniqueConstraint("rater_id", "number", name="uq_issues_rater_id_number"),
    )
    op.create_table(
        "votes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("rater_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("answer", sa.String(255), nullable=False),
        sa.Column("reaction_ms", sa.Integer(), nullable=False),
        sa.Column("server_time", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_votes"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_votes_study_id_studies"),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name="fk_votes_rater_id_raters"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_votes_trial_id_trials"),
        sa.UniqueConstraint("rater_id", "trial_id", name="uq_votes_rater_id_trial_id"),
        sa.CheckConstraint("kind IN ('human', 'simulated')", name=op.f("ck_votes_kind")),
        sa.CheckConstraint("reaction_ms >= 0", name=op.f("ck_votes_reaction")),
    )
    op.create_index("ix_votes_trial_id_kind", "votes", ["trial_id", "kind"])
    op.create_index("ix_votes_study_id_kind", "votes", ["study_id", "kind"])
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_attempts_study_id_studies"),
    )
    op.create_index("ix_attempts_study_id_at", "attempts", ["study_id", "at"])


def downgrade() -> None:
    for table in (
        "attempts", "votes", "issues", "holds", "invitations", "raters", "trials", "studies",
    ):  # fmt: skip
        op.drop_table(table)

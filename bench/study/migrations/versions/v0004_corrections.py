"""The table of corrections: later answers that supersede a vote. They are written once, as votes are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

MESSAGE = "corrections are written once: they are never changed or deleted"
# A correction can be deleted only after its rater has withdrawn, as a vote can.
WITHDRAWN = (
    "EXISTS (SELECT 1 FROM votes JOIN raters ON raters.id = votes.rater_id "
    "WHERE votes.id = OLD.vote_id AND raters.withdrawn_at IS NOT NULL)"
)
STORED = (
    "EXISTS (SELECT 1 FROM corrections WHERE id = NEW.id OR (vote_id = NEW.vote_id AND number = NEW.number))"
)

# The same triggers as those of revision 0003 on votes.
SQLITE = (
    f"CREATE TRIGGER corrections_no_update BEFORE UPDATE ON corrections "
    f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER corrections_no_delete BEFORE DELETE ON corrections WHEN NOT {WITHDRAWN} "
    f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER corrections_no_replace BEFORE INSERT ON corrections WHEN {STORED} "
    "BEGIN SELECT RAISE(IGNORE); END",
)
POSTGRESQL = (
    "CREATE FUNCTION corrections_write_once() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN IF TG_OP = 'DELETE' THEN IF {WITHDRAWN} THEN RETURN OLD; END IF; END IF; "
    f"RAISE EXCEPTION '{MESSAGE}'; END $$",
    "CREATE TRIGGER corrections_write_once BEFORE UPDATE OR DELETE ON corrections "
    "FOR EACH ROW EXECUTE FUNCTION corrections_write_once()",
    "CREATE TRIGGER corrections_no_truncate BEFORE TRUNCATE ON corrections "
    "FOR EACH STATEMENT EXECUTE FUNCTION corrections_write_once()",
)


def upgrade() -> None:
    op.create_table(
        "corrections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("vote_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("answer", sa.String(length=255), nullable=False),
        sa.Column("reaction_ms", sa.Integer(), nullable=False),
        sa.Column("server_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("details", sa.JSON(), nullable=True),
        sa.CheckConstraint("reaction_ms >= 0", name=op.f("ck_corrections_reaction")),
        sa.ForeignKeyConstraint(["vote_id"], ["votes.id"], name=op.f("fk_corrections_vote_id_votes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corrections")),
        sa.UniqueConstraint("vote_id", "number", name=op.f("uq_corrections_vote_id_number")),
    )
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)

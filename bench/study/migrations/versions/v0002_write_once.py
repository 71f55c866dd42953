"""Votes are write-once for everyone who reaches the database, and say what else the screen knew of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MESSAGE = "votes are written once: they are never changed or deleted"


def upgrade() -> None:
    op.add_column("votes", sa.Column("details", sa.JSON(), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER votes_no_{action.lower()} BEFORE {action} ON votes "
                f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
            )
        # REPLACE deletes without asking a trigger; a vote that is there makes it do nothing instead.
        op.execute(
            "CREATE TRIGGER votes_no_replace BEFORE INSERT ON votes WHEN EXISTS (SELECT 1 FROM votes WHERE "
            "id = NEW.id OR (rater_id = NEW.rater_id AND trial_id = NEW.trial_id)) "
            "BEGIN SELECT RAISE(IGNORE); END"
        )
    else:
        op.execute(
            "CREATE FUNCTION votes_write_once() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER votes_write_once BEFORE UPDATE OR DELETE ON votes "
            "FOR EACH ROW EXECUTE FUNCTION votes_write_once()"
        )
        op.execute(
            "CREATE TRIGGER votes_no_truncate BEFORE TRUNCATE ON votes "
            "FOR EACH STATEMENT EXECUTE FUNCTION votes_write_once()"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for action in ("update", "delete", "replace"):
            op.execute(f"DROP TRIGGER votes_no_{action}")
    else:
        op.execute("DROP TRIGGER votes_no_truncate ON votes")
        op.execute("DROP TRIGGER votes_write_once ON votes")
        op.execute("DROP FUNCTION votes_write_once()")
    op.drop_column("votes", "details")

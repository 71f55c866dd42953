"""Raters can be settled and can withdraw; a study knows where it is served.

The votes of a rater who has withdrawn may be deleted; all others stay write-once.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MESSAGE = "votes are written once: they are never changed or deleted"
WITHDRAWN = "EXISTS (SELECT 1 FROM raters WHERE id = OLD.rater_id AND withdrawn_at IS NOT NULL)"


def upgrade() -> None:
    op.add_column("raters", sa.Column("recruited", sa.JSON(), nullable=True))
    op.add_column("raters", sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("studies", sa.Column("address", sa.String(255), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER votes_no_delete")
        op.execute(
            f"CREATE TRIGGER votes_no_delete BEFORE DELETE ON votes WHEN NOT {WITHDRAWN} "
            f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
        )
    else:
        op.execute(
            "CREATE OR REPLACE FUNCTION votes_write_once() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF TG_OP = 'DELETE' THEN IF {WITHDRAWN} THEN RETURN OLD; END IF; END IF; "
            f"RAISE EXCEPTION '{MESSAGE}'; END $$"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER votes_no_delete")
        op.execute(
            "CREATE TRIGGER votes_no_delete BEFORE DELETE ON votes "
            f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
        )
    else:
        op.execute(
            "CREATE OR REPLACE FUNCTION votes_write_once() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}'; END $$"
        )
    op.drop_column("studies", "address")
    op.drop_column("raters", "withdrawn_at")
    op.drop_column("raters", "recruited")

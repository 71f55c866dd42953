"""The tables, and the triggers that make votes write-once.

The tables come from ``bench.study.models``, as long as this is the only revision. The first later revision has to
replace ``create_all`` by the tables as they are then: a revision must not change when the models do.
"""

from __future__ import annotations

from alembic import op

from bench.study.models import Base

# Not "0001": this migration replaces three older ones, and existing databases have the number of the last of them.
revision = "0003"
down_revision = None
branch_labels = None
depends_on = None

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
    connection = op.get_bind()
    Base.metadata.create_all(connection)
    for statement in SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)

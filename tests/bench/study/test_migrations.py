from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from bench.study import migrations
from bench.study.database import Database, DatabaseError
from bench.study.design import Design
from bench.study.models import Base
from bench.study.store import StudyStore
from tests.bench.study.conftest import Postgres
from tests.bench.study.runs import answer_all


def differences(connection: Connection) -> list[object]:
    """Where the database's tables differ from the models."""
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, Base.metadata))


def test_a_new_database_has_the_tables_of_the_models_on_sqlite(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path / 'x.db'}").begin() as connection:
        migrations.upgrade(connection)
        assert migrations.current(connection) == migrations.revisions()[0] == "0003"
        assert differences(connection) == []
        # The comparison does not see SQLite's check constraints.
        inspector = inspect(connection)
        names = {
            check["name"] for table in ("votes", "raters") for check in inspector.get_check_constraints(table)
        }
        assert names == {"ck_votes_kind", "ck_votes_reaction", "ck_raters_kind"}


def test_a_new_database_has_the_tables_of_the_models_on_postgresql(postgres: Postgres) -> None:
    engine = create_engine(postgres.database("migrate").replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        migrations.upgrade(connection)
        assert differences(connection) == []
    engine.dispose()


def vandalise(database: Database) -> None:
    """Tries every way to change or remove a vote. Each must fail or do nothing."""

    def rows(connection: Connection) -> list[tuple[object, ...]]:
        return [
            tuple(row) for row in connection.execute(text("SELECT id, rater_id, trial_id, answer FROM votes"))
        ]

    # The votes before the attempts.
    before = database.read(rows)
    assert before
    # Each must fail.
    statements = [
        "UPDATE votes SET answer = 'x'",
        "DELETE FROM votes",
        "UPDATE votes SET reaction_ms = 0 WHERE id = 1",
    ]
    if not database.is_sqlite:
        statements.append("TRUNCATE votes")
    for statement in statements:
        with pytest.raises((DBAPIError, DatabaseError), match="written once"):
            database.write(lambda c, s=statement: c.execute(text(s)))
    if database.is_sqlite:
        # From a connection without our pragmas too, REPLACE must not delete.
        with create_engine(database.engine.url).begin() as connection:
            connection.execute(
                text("INSERT OR REPLACE INTO votes SELECT id, study_id, rater_id, trial_id, kind, 'x', 1, "
                     "server_time, NULL FROM votes")
            )  # fmt: skip
    assert database.read(rows) == before


def test_nobody_changes_a_vote_on_sqlite(store: StudyStore, design: Design) -> None:
    store.create("taste", design)
    answer_all(store, store.register("taste").rater)
    vandalise(store._db)


def test_nobody_changes_a_vote_on_postgresql(postgres: Postgres, design: Design) -> None:
    with StudyStore.open(postgres.database("vandals")) as store:
        store.create("taste", design)
        answer_all(store, store.register("taste").rater)
        vandalise(store._db)


@pytest.mark.parametrize(
    ("revision", "message"), [("9999", "newer version"), ("0002", r"revision 0002.*create the study again")]
)
def test_a_database_of_another_revision_is_refused(tmp_path: Path, revision: str, message: str) -> None:
    path = tmp_path / "s.db"
    StudyStore.open(path).close()
    with create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    with pytest.raises(DatabaseError, match=message):
        StudyStore.open(path)

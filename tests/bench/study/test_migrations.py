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


def differences(connection: Connection) -> list[object]:
    """Where the database's tables differ from the models."""
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, Base.metadata))


def test_a_new_database_has_the_tables_of_the_models_on_sqlite(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path / 'x.db'}").begin() as connection:
        migrations.upgrade(connection)
        assert migrations.current(connection) == migrations.revisions()[0]
        assert differences(connection) == []
        # The comparison does not see SQLite's check constraints.
        inspector = inspect(connection)
        names = {
            check["name"]
            for table in ("votes", "raters", "corrections")
            for check in inspector.get_check_constraints(table)
        }
        assert names == {"ck_votes_kind", "ck_votes_reaction", "ck_raters_kind", "ck_corrections_reaction"}


def test_a_new_database_has_the_tables_of_the_models_on_postgresql(postgres: Postgres) -> None:
    engine = create_engine(postgres.database("migrate").replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        migrations.upgrade(connection)
        assert differences(connection) == []
    engine.dispose()


def vandalise(database: Database) -> None:
    """Tries every way to change or remove a vote or a correction. Each must fail or do nothing."""

    def rows(connection: Connection) -> list[tuple[object, ...]]:
        queries = ("SELECT id, rater_id, trial_id, answer FROM votes", "SELECT id, answer FROM corrections")
        return [tuple(row) for query in queries for row in connection.execute(text(query))]

    # The votes before the attempts.
    before = database.read(rows)
    assert before
    # Each must fail.
    statements = [
        "UPDATE votes SET answer = 'x'",
        "DELETE FROM votes",
        "UPDATE votes SET reaction_ms = 0 WHERE id = 1",
        "UPDATE corrections SET answer = 'x'",
        "DELETE FROM corrections",
    ]
    if not database.is_sqlite:
        statements += ["TRUNCATE votes, corrections", "TRUNCATE corrections"]
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
            connection.execute(
                text("INSERT OR REPLACE INTO corrections SELECT id, vote_id, number, 'x', 1, server_time, NULL "
                     "FROM corrections")
            )  # fmt: skip
    assert database.read(rows) == before


def correct_an_answer(store: StudyStore) -> None:
    """A rater of the study `taste` who answers, and corrects the last answer."""
    rater = store.register("taste").rater
    store.consent(rater)
    for _ in range(2):
        trial = store.next_trial(rater)
        assert trial is not None
        store.vote(rater, trial.id, 0)
    assert store.correct(rater, trial.id, 1).new


def test_nobody_changes_a_vote_on_sqlite(store: StudyStore, design: Design) -> None:
    store.create("taste", design)
    correct_an_answer(store)
    vandalise(store._db)


def test_nobody_changes_a_vote_on_postgresql(postgres: Postgres, design: Design) -> None:
    with StudyStore.open(postgres.database("vandals")) as store:
        store.create("taste", design)
        correct_an_answer(store)
        vandalise(store._db)


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("9999", "newer version"),
        *((old, rf"revision {old}.*create the study again") for old in ("0002", "0005")),
    ],
)
def test_a_database_of_another_revision_is_refused(tmp_path: Path, revision: str, message: str) -> None:
    path = tmp_path / "s.db"
    StudyStore.open(path).close()
    with create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    with pytest.raises(DatabaseError, match=message):
        StudyStore.open(path)


def test_a_database_of_the_migrations_that_the_first_one_replaces_still_opens(
    tmp_path: Path, design: Design
) -> None:
    path = tmp_path / "s.db"
    with StudyStore.open(path) as store:
        store.create("taste", design)
    # Such a database has these three columns at the end of their tables.
    with create_engine(f"sqlite:///{path}").begin() as connection:
        for table, column, kind in (
            ("raters", "screening", "JSON"),
            ("raters", "ended", "VARCHAR(20)"),
            ("issues", "probability", "FLOAT"),
        ):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column} {kind}"))
        # This number is in the databases of users: it must not change.
        assert migrations.current(connection) == "0006"
        assert differences(connection) == []
    with StudyStore.open(path) as store:
        correct_an_answer(store)
        vandalise(store._db)

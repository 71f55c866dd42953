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


def copy_as_of(revision: str, new: Path, old: Path) -> None:
    """Writes the content of a SQLite database as a database of an older revision holds it."""
    with create_engine(f"sqlite:///{old}").begin() as connection:
        migrations.upgrade(connection, revision)
    with create_engine(f"sqlite:///{old}").connect() as connection:
        connection.exec_driver_sql(f"ATTACH '{new}' AS new")
        # Parents first, as foreign keys ask for.
        for table in ("studies", "trials", "raters", "invitations", "holds", "issues", "votes"):
            columns = ", ".join(column["name"] for column in inspect(connection).get_columns(table))
            connection.exec_driver_sql(
                f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}"
            )
        connection.commit()


@pytest.mark.parametrize("revision", migrations.revisions()[1:])
def test_an_older_database_is_brought_to_date_with_its_votes(
    tmp_path: Path, design: Design, revision: str
) -> None:
    with StudyStore.open(tmp_path / "new.db") as store:
        store.create("taste", design)
        first, second = (store.register("taste").rater for _ in range(2))
        answer_all(store, first)
        store.consent(second)
        expected = store.votes("taste")
    copy_as_of(revision, tmp_path / "new.db", tmp_path / "old.db")
    with StudyStore.open(tmp_path / "old.db") as store:
        assert store.votes("taste").equals(expected)
        # The rater who was at work goes on, and can correct an answer.
        for _ in range(2):
            trial = store.next_trial(second)
            assert trial is not None
            store.vote(second, trial.id, 0)
        assert store.correct(second, trial.id, 1).new
        assert len(store.votes("taste")) == len(expected) + 2
        vandalise(store._db)


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
    ("revision", "message"), [("9999", "newer version"), ("0002", r"revision 0002.*create the study again")]
)
def test_a_database_of_another_revision_is_refused(tmp_path: Path, revision: str, message: str) -> None:
    path = tmp_path / "s.db"
    StudyStore.open(path).close()
    with create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    with pytest.raises(DatabaseError, match=message):
        StudyStore.open(path)

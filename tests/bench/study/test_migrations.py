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

FIRST = """
INSERT INTO studies (id, name, digest, design, settings, secret, created_at)
VALUES (1, 'old', 'd', '{}', '{}', 's', '2026-01-01 00:00:00.000000');
INSERT INTO trials (id, study_id, name, public, role, kind, question, case_key, unit, candidates, position)
VALUES (1, 1, 't00000', 'p', 'trial', 'pair', 'overall', 'c', 'u', '["a", "b"]', 0);
INSERT INTO raters (id, study_id, public, kind, number, created_at, seen_at)
VALUES (1, 1, 'r', 'human', 0, '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000');
INSERT INTO votes (id, study_id, rater_id, trial_id, kind, answer, reaction_ms, server_time)
VALUES (1, 1, 1, 1, 'human', 'a', 1200, '2026-01-01 00:00:00.000000')
"""


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, Base.metadata))


def check_from_the_first_revision(connection: Connection) -> None:
    migrations.upgrade(connection, "0001")
    assert migrations.current(connection) == "0001"
    assert differences(connection), "the first revision is not the last: there is something to migrate"
    for statement in FIRST.split(";"):
        connection.execute(text(statement))
    migrations.upgrade(connection)
    assert migrations.current(connection) == migrations.head()
    assert differences(connection) == []
    row = connection.execute(text("SELECT answer, reaction_ms, details FROM votes")).one()
    assert tuple(row) == ("a", 1200, None)
    # Who came before withdrawal was possible can withdraw too.
    row = connection.execute(text("SELECT recruited, withdrawn_at FROM raters")).one()
    assert tuple(row) == (None, None)
    connection.execute(text("UPDATE raters SET withdrawn_at = '2026-01-02 00:00:00.000000'"))
    connection.execute(text("DELETE FROM votes"))
    assert connection.execute(text("SELECT count(*) FROM votes")).scalar_one() == 0


def test_from_the_first_revision_to_the_models_on_sqlite(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        check_from_the_first_revision(connection)
        # SQLite reports no check constraints to the comparison: by name and text.
        found = {c["name"] for t in ("votes", "raters") for c in inspect(connection).get_check_constraints(t)}
        assert found == {"ck_votes_kind", "ck_votes_reaction", "ck_raters_kind"}


def test_from_the_first_revision_to_the_models_on_postgresql(postgres: Postgres) -> None:
    engine = create_engine(postgres.database("migrate").replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        check_from_the_first_revision(connection)
    engine.dispose()


def test_down_and_up_again(tmp_path: Path) -> None:
    from alembic import command

    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        migrations.upgrade(connection)
        command.downgrade(migrations.config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        migrations.upgrade(connection)
        assert differences(connection) == []


def vandalise(database: Database) -> None:
    """Tries every way to change or remove a vote; each must fail or do nothing."""

    def rows(connection: Connection) -> list[tuple[object, ...]]:
        return [
            tuple(row) for row in connection.execute(text("SELECT id, rater_id, trial_id, answer FROM votes"))
        ]

    before = database.read(rows)
    assert before
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
        # Another connection, without our pragmas: REPLACE must not delete in silence.
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


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    StudyStore.open(path).close()
    with create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="newer version"):
        StudyStore.open(path)

"""Opening a database."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from bench.study.database import RECHECK, Clock, Database, DatabaseError
from bench.study.design import Design
from bench.study.store import StudyStore
from tests.bench.study.conftest import Postgres
from tests.bench.study.runs import HandClock


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database, and long enough to be seen as none " * 50)
    with pytest.raises(DatabaseError, match="something else"):
        StudyStore.open(tmp_path / "x.db")
    with pytest.raises(DatabaseError, match="Create a study first"):
        StudyStore.open(tmp_path / "missing.db", create=False)
    with pytest.raises(DatabaseError, match="is a folder"):
        StudyStore.open(tmp_path)
    for url in ("mysql://x/y", "nonsense://x", "sqlite://", "postgresql://u:secret@[x"):
        with pytest.raises(DatabaseError) as caught:
            StudyStore.open(url, patience=0.1)
        assert "secret" not in str(caught.value)


def test_nobody_else_reads_the_database(tmp_path: Path, design: Design) -> None:
    path = tmp_path / "studies.db"
    before = os.umask(0)
    try:
        with StudyStore.open(path) as store:
            store.create("taste", design)
            files = sorted(tmp_path.iterdir())
            # The side files hold the same pages.
            assert {file.name for file in files} == {"studies.db", "studies.db-shm", "studies.db-wal"}
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    finally:
        os.umask(before)
    # A file of before is closed to others; what its owner gave to the group stays.
    path.chmod(0o664)
    StudyStore.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o660


def test_a_server_that_is_not_there_is_said_so_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as caught:
        StudyStore.open(f"postgresql://u:secret@/x?host={tmp_path}", patience=0.1)
    assert "secret" not in str(caught.value)
    assert "has not answered" in str(caught.value)


def test_setting_the_clock_does_not_move_the_processs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert timedelta() <= clock.now() - before < timedelta(seconds=5)


def test_times_are_those_of_the_server_whatever_the_clock_of_this_process_says(postgres: Postgres) -> None:
    clock = HandClock()
    database = Database.open(postgres.database("clock"), clock=clock)
    server = database.read(lambda c: c.execute(text("SELECT clock_timestamp()")).scalar_one())
    first = database.read(database.now)
    assert abs(first - server) < timedelta(seconds=30)
    # Between two looks at the server's clock, the process's own tells how much later it is.
    clock.forward(40)
    assert database.read(database.now) - first == timedelta(seconds=40)
    # Then the server is asked again. Less than a minute has passed there.
    clock.forward(RECHECK.total_seconds())
    assert database.read(database.now) - first < timedelta(seconds=60)
    database.close()


def test_a_snapshot_sees_one_state_whatever_others_write(postgres: Postgres) -> None:
    database = Database.open(postgres.database("snapshot"))
    database.write(lambda c: c.execute(text("CREATE TABLE notes (x int)")))

    def count_twice(connection):  # type: ignore[no-untyped-def]
        before = connection.execute(text("SELECT count(*) FROM notes")).scalar_one()
        database.write(lambda c: c.execute(text("INSERT INTO notes VALUES (1)")))
        return before, connection.execute(text("SELECT count(*) FROM notes")).scalar_one()

    assert database.read(count_twice, snapshot=True) == (0, 0)
    assert database.read(count_twice) == (1, 2)
    database.close()

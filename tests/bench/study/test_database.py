"""Opening a database."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from bench.study.database import Clock, DatabaseError
from bench.study.design import Design
from bench.study.store import StudyStore


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

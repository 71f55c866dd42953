"""The connection to the study database: SQLite or PostgreSQL, transactions, retries, and the time of day.

Every piece of work is a function of a connection that may be called again: where a connection breaks or the
server is restarted, it is retried for ``patience`` seconds. So each has to be idempotent, and each is.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bench.study import StudyError, migrations

T = TypeVar("T")

_WRITE = "peb_write"
"""Execution option of a writing transaction: its value is SQLite's ``synchronous``."""
_ADVISORY = 0x50454253
"""PostgreSQL's advisory lock that migrations of this database take."""
_BATCH = 64
"""Pieces of work that share one commit, at most."""


class DatabaseError(StudyError):
    """A database that cannot be opened, read or written. The message names it (never its password)."""


def _steady() -> float:
    """Seconds that no setting of the clock changes, and that go on while the machine sleeps, where it can."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Clock:
    """UTC as this process saw it when it began, plus the time since: setting the clock does not move it."""

    def __init__(self) -> None:
        self._start = time.time()
        self._steady = _steady()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._start + _steady() - self._steady, UTC)


class Database:
    """An opened and migrated database. Threads may share it; a forked process opens its own."""

    def __init__(self, engine: Engine, *, patience: float, clock: Clock) -> None:
        """Use :meth:`open`."""
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._patience = patience
        self._clock = clock
        self._writer = Writer(engine) if self.is_sqlite else None

    @classmethod
    def open(
        cls,
        target: str | os.PathLike[str],
        *,
        create: bool = True,
        patience: float = 20.0,
        clock: Clock | None = None,
    ) -> Database:
        """``target`` is the path of a SQLite file or a URL (``postgresql://user@host/name``).

        The tables are made or brought up to date. ``create=False`` refuses a SQLite file that is not there.
        Raises :class:`DatabaseError`.
        """
        url = _url(target)
        if url.get_backend_name() == "sqlite":
            path = Path(url.database or "").absolute()
            if not create and not path.exists():
                raise DatabaseError(
                    f"{path}: there is no study database. Create a study first: run_bench.py study create."
                )
            if path.is_dir():
                raise DatabaseError(
                    f"{path}: is a folder. Give the path of a file, such as {path}/studies.db."
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DatabaseError(f"{path.parent}: cannot be made ({error.strerror}).") from error
            _keep_private(path)
            engine = create_engine(
                url.set(database=str(path)), pool_size=16, max_overflow=64, pool_timeout=patience
            )
            _prepare_sqlite(engine)
        else:
            engine = create_engine(
                url, pool_size=24, max_overflow=8, pool_pre_ping=True, pool_timeout=patience
            )
        database = cls(engine, patience=patience, clock=clock or Clock())
        try:
            database._migrate()
        except BaseException:
            engine.dispose()
            raise
        return database

    @property
    def name(self) -> str:
        """What it is called in messages: the URL without its password, or the file's path."""
        url = self.engine.url
        return str(url.database) if self.is_sqlite else url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Waits for what is being written."""
        if self._writer is not None:
            self._writer.close()
        self.engine.dispose()

    def now(self, connection: Connection) -> datetime:
        """UTC: the database server's where there is one, so that all app servers agree, else this process's."""
        if self.is_sqlite:
            return self._clock.now()
        found = connection.scalar(select(func.clock_timestamp()))
        assert isinstance(found, datetime)
        return found.astimezone(UTC)

    def read(self, work: Callable[[Connection], T]) -> T:
        """``work`` in a transaction that sees one state of the database. Raises :class:`DatabaseError`."""
        return self._again(work, write=False)

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """``work`` in a transaction that is on disk when this returns. Raises :class:`DatabaseError`.

        ``durable=False``: SQLite may keep it from the disk until the next durable one, which takes everything
        before it along. It outlives this process all the same, but perhaps not a power cut: for what would
        then simply be done again.
        """
        return self._again(work, write=True, durable=durable)

    def _again(self, work: Callable[[Connection], T], *, write: bool, durable: bool = False) -> T:
        deadline = time.monotonic() + self._patience
        pause = 0.01
        while True:
            try:
                if write and self._writer is not None:
                    return self._writer.run(work, durable)
                with self.engine.connect() as connection, connection.begin():
                    return work(connection)
            except DBAPIError as error:
                if not self._passes(error):
                    raise self._failure(error) from error
                if time.monotonic() > deadline:
                    raise DatabaseError(
                        f"{self.name}: has not answered for {self._patience:.0f} s ({_cause(error)}). "
                        "What is stored is kept. Start it again."
                    ) from error
            except PoolTimeout as error:
                raise DatabaseError(f"{self.name}: too many requests at once. Try again.") from error
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 0.5)

    def _passes(self, error: DBAPIError) -> bool:
        """Whether the same work may succeed a moment later."""
        if self.is_sqlite:
            code = getattr(error.orig, "sqlite_errorcode", 0) or 0
            return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        state = getattr(error.orig, "sqlstate", None) or ""
        if state[:2] in ("28", "3D"):  # who we are, which database
            return False
        # Serialization, deadlock, shutdown, starting up, connection; or no word from the server at all.
        return (
            error.connection_invalidated
            or state[:2] in ("40", "57", "08")
            or (not state and isinstance(error, OperationalError))
        )

    def _failure(self, error: DBAPIError) -> Exception:
        if isinstance(error, (IntegrityError, ProgrammingError, DataError)):
            return error
        remedy = "Mend that and try again."
        cause = _cause(error)
        if "full" in cause or "No space" in cause:
            remedy = "Free some space and try again."
        elif "readonly" in cause or "read-only" in cause:
            remedy = "Make the file and its folder writable."
        elif "not a database" in cause:
            remedy = "Give another path; this file is something else."
        return DatabaseError(f"{self.name}: {cause}. What is stored is kept. {remedy}")

    def _migrate(self) -> None:
        head = migrations.head()

        def revision(connection: Connection) -> str | None:
            return migrations.current(connection)

        found = self.read(revision)
        if found == head:
            return
        if found is not None and not migrations.known(found):
            raise DatabaseError(
                f"{self.name}: was made by a newer version of PromptEditBench (revision {found}). Use that one."
            )

        def upgrade(connection: Connection) -> None:
            if not self.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY})"))
            # Another process may have been quicker.
            if migrations.current(connection) != head:
                migrations.upgrade(connection)

        self.write(upgrade)


_Entry: TypeAlias = tuple[Callable[[Connection], Any], "Future[Any]", bool]
"""Work, who waits for it, and whether it has to be on disk."""


class Writer:
    """SQLite's one writer: a thread that lets the work that is waiting share one commit.

    A commit is one wait for the disk, which is where a vote's time goes; of fifty votes at once each then
    waits for two commits at most, not for fifty. Each piece of work has a savepoint of its own, so one that
    fails undoes itself alone. Nobody is told of success before the commit.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[Connection], T], durable: bool) -> T:
        """What ``work`` returned, once it is committed. Raises what it raised, or what the commit did."""
        future: Future[T] = Future()
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="study-writer", daemon=True)
                self._thread.start()
            self._queue.put((work, future, durable))
        return future.result()

    def close(self) -> None:
        """Returns when all that was given is written. More work begins a new thread."""
        with self._guard:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _loop(self) -> None:
        open_ = True
        while open_:
            entries = [self._queue.get()]
            while len(entries) < _BATCH and not self._queue.empty():
                entries.append(self._queue.get())
            open_ = None not in entries
            batch = [entry for entry in entries if entry is not None]
            if batch and not self._commit(batch):
                # One of them broke the transaction for all; alone, each gets its own answer.
                for entry in batch:
                    self._commit([entry])

    def _commit(self, batch: list[_Entry]) -> bool:
        """False where nothing was committed and nobody was told: only for more than one."""
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._engine.connect() as plain:
                durable = any(entry[2] for entry in batch)
                connection = plain.execution_options(**{_WRITE: "FULL" if durable else "NORMAL"})
                with connection.begin():
                    for work, future, _ in batch:
                        try:
                            with connection.begin_nested():
                                outcomes.append((future, work(connection), None))
                        except Exception as error:
                            if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError):
                                raise
                            outcomes.append((future, None, error))
        except Exception as error:
            if len(batch) > 1:
                return False
            outcomes = [(future, None, error) for _, future, _ in batch]
        for future, result, failure in outcomes:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
        return True


def _keep_private(path: Path) -> None:
    """Makes a new file for its owner alone, and closes one that exists to those outside its group.

    It holds the secret that signs the links. SQLite gives new side files (``-wal``, ``-shm``) the file's mode.
    """
    try:
        if not path.exists():
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            if file.is_file() and (mode := file.stat().st_mode) & 0o007:
                # The file may be another user's, or lie on a read-only disk.
                with contextlib.suppress(OSError):
                    file.chmod(mode & ~0o007)
    except OSError as error:
        raise DatabaseError(
            f"{path}: cannot be opened ({error.strerror}). Give the path of a file that can be written."
        ) from error


def _url(target: str | os.PathLike[str]) -> URL:
    named = os.fspath(target)
    if "://" not in named:
        return URL.create("sqlite", database=str(Path(named).expanduser()))
    try:
        url = make_url(named)
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        backend = url.get_backend_name()
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise DatabaseError(
            "--store: neither a path nor a URL of a known kind, such as postgresql://user@host/name "
            f"({type(error).__name__})."
        ) from None
    if backend not in ("sqlite", "postgresql"):
        raise DatabaseError(f"--store: {backend} is not supported. Give a SQLite file or a PostgreSQL URL.")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise DatabaseError("--store: a study in memory would be lost. Give the path of a file.")
    return url


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # Transactions are begun below, not by the driver's guesses.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 20000")
        for _ in range(200):
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # Changing the mode does not wait for the lock, whatever the timeout.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break  # Read-only, say: the first statement will tell.
                time.sleep(0.02)
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE waits for its turn; a transaction that reads first and then writes could not.
        write = connection.get_execution_options().get(_WRITE)
        if write:
            # FULL: a commit, and all before it, is on disk when it returns. NORMAL: it is with the system.
            connection.exec_driver_sql(f"PRAGMA synchronous = {write}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _cause(error: DBAPIError) -> str:
    text = str(error.orig).strip() if error.orig is not None else str(error)
    return text.splitlines()[0] if text else type(error).__name__


def within(moment: datetime | None, now: datetime, length: timedelta) -> bool:
    """Whether ``moment`` lies less than ``length`` before ``now``.

    A moment after ``now`` was written by a clock that was ahead; a minute of that is forgiven.
    """
    return moment is not None and now - length < moment <= now + SLACK


SLACK = timedelta(seconds=60)
"""By how much two clocks may differ."""

"""The connection to the study database (SQLite or PostgreSQL): transactions, retries, and the clock.

A piece of work is a function of a connection. Where the connection breaks or the server restarts, it is called again
for ``patience`` seconds. It therefore has to be idempotent: a second call after a lost answer changes nothing.
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
from typing import Any, NamedTuple, TypeVar

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

# Accepted difference between two clocks.
SLACK = timedelta(seconds=60)

# Time for which the difference between the server's clock and this process's is used before it is measured again.
RECHECK = timedelta(seconds=60)

# Execution option of a writing transaction. Its value is SQLite's PRAGMA synchronous.
_WRITE = "peb_write"
# Key of PostgreSQL's advisory lock around the migration ("PEBS" in ASCII). Servers that start together would all create
# the tables, and all but one would fail. There is no table yet that they could lock.
_ADVISORY = 0x50454253
# Largest number of pieces of work in one commit.
_BATCH = 64


class DatabaseError(StudyError):
    """A database that cannot be opened, read or written. The message names it, without its password."""


def within(moment: datetime | None, now: datetime, length: timedelta) -> bool:
    """True where ``moment`` is less than ``length`` before ``now``.

    A moment up to ``SLACK`` after ``now`` counts too: another server's clock may be ahead.
    """
    return moment is not None and now - length < moment <= now + SLACK


def _steady() -> float:
    """Seconds of a clock that nobody can set. Where the system offers it, the clock counts the time asleep too."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Clock:
    """UTC at the start of this process plus the time since then. Setting the system's clock does not change it."""

    def __init__(self) -> None:
        self._start = time.time()
        self._steady = _steady()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._start + _steady() - self._steady, UTC)


class Database:
    """An open database with up-to-date tables. Threads may share it. A forked process opens its own."""

    def __init__(self, engine: Engine, *, patience: float, clock: Clock) -> None:
        """Use :meth:`open`."""
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._patience = patience
        self._clock = clock
        # PostgreSQL: the server's clock less this process's, and when it was measured. One pair, so that threads always
        # read both of one measurement.
        self._ahead: tuple[timedelta, datetime] | None = None
        # Two engines over the same connections. On PostgreSQL the first sends no BEGIN and COMMIT, which would be two
        # more round trips to the server. In the second, all statements of a transaction see one state. SQLite needs
        # neither.
        self._single = engine if self.is_sqlite else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._snapshot = (
            engine if self.is_sqlite else engine.execution_options(isolation_level="REPEATABLE READ")
        )
        # PostgreSQL combines commits itself.
        self._writer = _Writer(engine) if self.is_sqlite else None

    @classmethod
    def open(
        cls,
        target: str | os.PathLike[str],
        *,
        create: bool = True,
        patience: float = 20.0,
        clock: Clock | None = None,
    ) -> Database:
        """Opens the path of a SQLite file or a URL (``postgresql://user@host/name``), and makes missing tables.

        ``patience``: seconds to wait for a server or a lock. ``create=False`` refuses a SQLite file that does not
        exist. Raises :class:`DatabaseError`.
        """
        # The engine. Fifty raters at once need a pool that is larger than SQLAlchemy's default of 15.
        url = _url(target)
        if url.get_backend_name() == "sqlite":
            path = Path(url.database or "").absolute()
            _prepare_file(path, create=create)
            engine = create_engine(
                url.set(database=str(path)), pool_size=16, max_overflow=64, pool_timeout=patience
            )
            _prepare_sqlite(engine)
        else:
            # A connection that broke meanwhile is found by its first statement, and the work is done again: no ping
            # before each transaction is needed.
            engine = create_engine(url, pool_size=24, max_overflow=8, pool_timeout=patience)
        # The tables.
        database = cls(engine, patience=patience, clock=clock or Clock())
        try:
            database._migrate()
        except BaseException:
            engine.dispose()
            raise
        return database

    @property
    def name(self) -> str:
        """Name of the database in messages: the file's path, or the URL without its password."""
        url = self.engine.url
        return str(url.database) if self.is_sqlite else url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Waits for pending writes, then closes all connections."""
        if self._writer is not None:
            self._writer.close()
        self.engine.dispose()

    def now(self, connection: Connection) -> datetime:
        """UTC of the database server, which all app servers share. For SQLite, UTC of this process.

        The server is asked once in ``RECHECK``. In between, this process's clock tells how much later it is.
        """
        own = self._clock.now()
        if self.is_sqlite:
            return own
        ahead = self._ahead
        if ahead is None or not timedelta() <= own - ahead[1] < RECHECK:
            moment = connection.scalar(select(func.clock_timestamp()))
            assert isinstance(moment, datetime)
            # The server looked at its clock about half way through the call.
            own += (self._clock.now() - own) / 2
            self._ahead = ahead = (moment.astimezone(UTC) - own, own)
        return own + ahead[0]

    def read(self, work: Callable[[Connection], T], *, snapshot: bool = False) -> T:
        """Runs ``work``, which only reads. Raises :class:`DatabaseError`.

        ``snapshot``: all statements see one state of the database, whatever others write in the meantime.
        """
        return self._retry(work, engine=self._snapshot if snapshot else self._single)

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Runs ``work`` in a transaction that is on disk when this returns. Raises :class:`DatabaseError`.

        ``durable=False`` is for work that would simply be done again. SQLite then leaves it to the operating
        system until the next durable write. It survives the end of this process, but maybe not a power cut.
        """
        return self._retry(work, engine=None, durable=durable)

    def _retry(self, work: Callable[[Connection], T], *, engine: Engine | None, durable: bool = False) -> T:
        """Runs ``work`` on an engine that reads, or writes where it is None."""
        # Every error leads to one of three ends: another attempt, a remedy for the user, or the error itself.
        deadline = time.monotonic() + self._patience
        pause = 0.01
        while True:
            try:
                if engine is None and self._writer is not None:
                    return self._writer.run(work, durable)
                with (engine or self.engine).connect() as connection, connection.begin():
                    return work(connection)
            except DBAPIError as error:
                if not self._is_transient(error):
                    raise self._failure(error) from error
                if time.monotonic() > deadline:
                    raise DatabaseError(
                        f"{self.name}: has not answered for {self._patience:.0f} s ({_cause(error)}). "
                        "What is stored is kept. Check that the database runs, and try again."
                    ) from error
            except PoolTimeout as error:
                raise DatabaseError(f"{self.name}: too many requests at once. Try again.") from error
            # Exponential backoff, at random so that clients do not return in step.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 0.5)

    def _is_transient(self, error: DBAPIError) -> bool:
        """True where the same work may succeed a moment later."""
        if self.is_sqlite:
            return _sqlite_code(error.orig) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        state = _sqlstate(error)
        # 28 and 3D: wrong user or no such database, though the connection is lost with them.
        if state[:2] in ("28", "3D"):
            return False
        # 40 serialization and deadlock, 57 shutdown and start, 08 connection. Or no answer from the server.
        return (
            error.connection_invalidated
            or state[:2] in ("40", "57", "08")
            or (not state and isinstance(error, OperationalError))
        )

    def _failure(self, error: DBAPIError) -> Exception:
        """The error to raise: a defect of this program unchanged, a fault of the database with its remedy."""
        if isinstance(error, (IntegrityError, ProgrammingError, DataError)):
            return error
        # 53100: disk full. 25006: read-only transaction.
        state, code = _sqlstate(error), _sqlite_code(error.orig)
        remedy = "Fix that and try again."
        if state == "53100" or code == sqlite3.SQLITE_FULL:
            remedy = "Free some space and try again."
        elif state == "25006" or code == sqlite3.SQLITE_READONLY:
            remedy = "Make the file and its folder writable."
        elif code == sqlite3.SQLITE_NOTADB:
            remedy = "Give another path; this file is something else."
        return DatabaseError(f"{self.name}: {_cause(error)}. What is stored is kept. {remedy}")

    def _migrate(self) -> None:
        """Creates the tables of a new database, and brings one of an older revision to the newest.

        Raises :class:`DatabaseError` for a revision that this version does not know.
        """
        # The newest revision first, the oldest last.
        revisions = migrations.revisions()
        revision = self.read(migrations.current)
        if revision == revisions[0]:
            return
        if revision is not None and revision < revisions[-1]:
            raise DatabaseError(
                f"{self.name}: was made by a development version of PromptEditBench (revision {revision}), which "
                "this version cannot read. Export its votes with the version that made it, and create the study "
                "again in a new file or database."
            )
        if revision is not None and revision not in revisions:
            raise DatabaseError(
                f"{self.name}: was made by a newer version of PromptEditBench (revision {revision}). Use that one."
            )

        def upgrade(connection: Connection) -> None:
            # SQLite lets one writer in at a time. PostgreSQL frees this lock at the end of the transaction.
            if not self.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY})"))
            # Another process may have created the tables meanwhile.
            if migrations.current(connection) != revisions[0]:
                migrations.upgrade(connection)

        self.write(upgrade)


class _Job(NamedTuple):
    """A piece of work in the writer's queue."""

    work: Callable[[Connection], Any]
    future: Future[Any]
    durable: bool


class _JobResult(NamedTuple):
    """Result of a job, which its caller gets once it is committed."""

    future: Future[Any]
    result: Any
    error: BaseException | None


class _Writer:
    """SQLite's one writer: a thread that commits waiting jobs together.

    A commit waits for the disk, which is most of the time that a vote takes. With shared commits, each of fifty
    simultaneous votes waits for at most two commits, not for fifty. Each job has a savepoint of its own, so a job that
    fails undoes itself alone. No job gets its result before the commit.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Protects `_thread`: a job must not enter the queue of a thread that is ending.
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[Connection], T], durable: bool) -> T:
        """The result of ``work`` once it is committed. Raises the error of ``work`` or of the commit."""
        future: Future[T] = Future()
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="study-writer", daemon=True)
                self._thread.start()
            self._queue.put(_Job(work, future, durable))
        return future.result()

    def close(self) -> None:
        """Returns when all jobs are written. A later job starts a new thread."""
        with self._guard:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _loop(self) -> None:
        running = True
        while running:
            # Wait for one job, then take all that came in the meantime. None ends the thread.
            jobs = [self._queue.get()]
            while len(jobs) < _BATCH and not self._queue.empty():
                jobs.append(self._queue.get())
            running = None not in jobs
            batch = [job for job in jobs if job is not None]
            if batch and not self._commit(batch):
                # One job broke the transaction of all. Alone, each job gets its own result.
                for job in batch:
                    self._commit([job])

    def _commit(self, batch: list[_Job]) -> bool:
        """Runs and commits the jobs, and reports their results. False: nothing was committed and nothing reported.

        False comes for more than one job only. The error of a single job is its result.
        """
        outcomes: list[_JobResult] = []
        try:
            with self._engine.connect() as plain:
                durable = any(job.durable for job in batch)
                connection = plain.execution_options(**{_WRITE: "FULL" if durable else "NORMAL"})
                with connection.begin():
                    for job in batch:
                        try:
                            with connection.begin_nested():
                                outcomes.append(_JobResult(job.future, job.work(connection), None))
                        except Exception as error:
                            # The database's own faults may have ended the transaction that all jobs share.
                            if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError):
                                raise
                            outcomes.append(_JobResult(job.future, None, error))
        except Exception as error:
            if len(batch) > 1:
                return False
            outcomes = [_JobResult(batch[0].future, None, error)]
        # Everything is on disk: report the results.
        for outcome in outcomes:
            if outcome.error is None:
                outcome.future.set_result(outcome.result)
            else:
                outcome.future.set_exception(outcome.error)
        return True


def _prepare_file(path: Path, *, create: bool) -> None:
    """Makes SQLite's file, readable by its owner alone, and removes other users' permissions from an existing one.

    The file holds the secret that signs the links. SQLite gives its side files (``-wal``, ``-shm``) the same mode.
    Raises :class:`DatabaseError`.
    """
    if not create and not path.exists():
        raise DatabaseError(
            f"{path}: there is no study database. Create a study first: run_bench.py study create."
        )
    if path.is_dir():
        raise DatabaseError(f"{path}: is a folder. Give the path of a file, such as {path}/studies.db.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"{path.parent}: cannot be made ({error.strerror}). Give the path of a file that can be written."
        ) from error
    # The mode has to be right from the beginning, not after the first write.
    try:
        if not path.exists():
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            if file.is_file() and (mode := file.stat().st_mode) & 0o007:
                # The file may belong to another user or lie on a read-only disk.
                with contextlib.suppress(OSError):
                    file.chmod(mode & ~0o007)
    except OSError as error:
        raise DatabaseError(
            f"{path}: cannot be opened ({error.strerror}). Give the path of a file that can be written."
        ) from error


def _url(target: str | os.PathLike[str]) -> URL:
    """The URL of a path or of the text of a URL. Raises :class:`DatabaseError` for an unsupported database."""
    address = os.fspath(target)
    if "://" not in address:
        return URL.create("sqlite", database=str(Path(address).expanduser()))
    try:
        url = make_url(address)
        # Without a driver, SQLAlchemy would take psycopg2.
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
    """Sets up every connection to SQLite: write-ahead log, foreign keys, explicit transactions."""

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # `begin` below starts transactions. By default the driver guesses when one is needed.
        connection.isolation_level = None
        cursor = connection.cursor()
        # Milliseconds to wait for another process's lock.
        cursor.execute("PRAGMA busy_timeout = 20000")
        # The busy timeout does not apply to a change of the journal mode, so try for up to 4 seconds.
        for _ in range(200):
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if _sqlite_code(error) != sqlite3.SQLITE_BUSY:
                    break  # A read-only file, for example. The first statement reports it.
                time.sleep(0.02)
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        synchronous = connection.get_execution_options().get(_WRITE)
        if synchronous:
            # FULL: the commit and all commits before it are on disk when it returns. NORMAL: the system has them.
            connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
        # IMMEDIATE waits for the write lock. A transaction that reads first and then writes could not wait.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if synchronous else "BEGIN")


def _sqlite_code(error: BaseException | None) -> int:
    """SQLite's primary result code of an error. 0 where the error is not from SQLite."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return (code or 0) & 0xFF


def _sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's five-character error code. Empty where the server gave none."""
    return getattr(error.orig, "sqlstate", None) or ""


def _cause(error: DBAPIError) -> str:
    """The first line of the driver's message."""
    message = str(error.orig).strip() if error.orig is not None else str(error)
    return message.splitlines()[0] if message else type(error).__name__

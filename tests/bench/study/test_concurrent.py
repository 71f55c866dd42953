"""Fifty raters at once, on SQLite and on PostgreSQL, with what serves them killed in between."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from bench.study import security
from bench.study.build import build
from bench.study.design import Design, DesignOptions
from bench.study.settings import StudySettings
from bench.study.store import StudyStore
from bench.study.votes.frame import check_votes
from tests.bench.study.conftest import Postgres
from tests.bench.study.voters import answer_of, vote

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[3]
RATERS, TRIALS, PRACTICE = 50, 8, 1


@pytest.fixture(scope="module")
def crowd(run_folder: Path) -> Design:
    """Fifty sheets of six trials, with a repeat and an attention check each."""
    options = DesignOptions(raters=RATERS, trials=TRIALS, repeats=1, attention=1, practice=PRACTICE)
    return build([run_folder], options)


def create(target: str | Path, design: Design) -> list[str]:
    """A study and its fifty raters, who come in all at once."""
    with StudyStore.open(target) as store:
        store.create("crowd", design, StudySettings(open_registration=True))
        with ThreadPoolExecutor(RATERS) as pool:
            raters = [entry.rater for entry in pool.map(store.enter, ["crowd"] * RATERS)]
    assert len(set(raters)) == RATERS
    return raters


def check(
    target: str | Path, design: Design, raters: list[str], confirmed: list[tuple[str, str, str]]
) -> None:
    """Every trial of the design has one vote, every rater has all votes, and each confirmed one is there."""
    with StudyStore.open(target) as store:
        votes = check_votes(store.votes("crowd"))  # refuses doubles
        secret = store._load("crowd").secret
        assert {store.progress(rater).state for rater in raters} == {"finished"}
        status = store.status("crowd")
    assert Counter(votes["rater"]) == dict.fromkeys(raters, TRIALS + PRACTICE)
    trial_ids = sorted(trial.id for trial in design.trials if trial.role == "trial")
    assert sorted(votes["trial"][votes["role"] == "trial"]) == trial_ids
    assert (status.answered, status.planned) == (len(trial_ids), len(trial_ids))
    # Every vote that was confirmed is stored, with its answer.
    public = {security.opaque(secret, "trial", trial.id, size=12): trial for trial in design.trials}
    stored = {(row.rater, row.trial): row.answer for row in votes.itertuples()}
    assert len(confirmed) >= len(set(confirmed)) > 0
    for rater, trial, answer in confirmed:
        content = public[trial]
        expected = answer_of(rater, trial, content.kind == "pair")
        assert answer == str(expected)
        title = "tie" if expected == "tie" else content.candidates[int(expected)]
        assert stored[rater, content.id] == title


def spawn(target: str | Path, raters: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.study.voters", str(target), *raters],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def lines(process: subprocess.Popen[str], into: list[tuple[str, str, str]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        # Of the last line of a killed process there may be less than all.
        if line.endswith("\n"):
            rater, trial, answer = line.split()
            into.append((rater, trial, answer))


def run_until(target: str | Path, groups: list[list[str]], count: int | None) -> list[tuple[str, str, str]]:
    """Lets processes vote, one per group. Kills them all at ``count`` confirmed votes, if not None."""
    confirmed: list[tuple[str, str, str]] = []
    processes = [spawn(target, group) for group in groups]
    # A thread per process reads what it confirms.
    readers = [threading.Thread(target=lines, args=(process, confirmed)) for process in processes]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + 240
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < deadline
        # Killed without warning, in the middle of votes.
        if count is not None and len(confirmed) >= count:
            for process in processes:
                process.kill()
            break
        time.sleep(0.005)
    for process, reader in zip(processes, readers, strict=True):
        # A killed process ends with -9, one that finished with 0.
        code = process.wait(60)
        reader.join(60)
        assert code == (0 if count is None else -9)
    return confirmed


def test_sqlite_with_its_app_servers_killed_twice(tmp_path: Path, crowd: Design) -> None:
    path = tmp_path / "studies.db"
    raters = create(path, crowd)
    groups = [raters[0::2], raters[1::2]]
    # Two servers, killed after 100 votes, killed again, and left to finish.
    confirmed = run_until(path, groups, 100)
    confirmed += run_until(path, groups, 100)
    assert 200 <= len(confirmed) < RATERS * (TRIALS + PRACTICE)
    confirmed += run_until(path, groups, None)
    check(path, crowd, raters, confirmed)


def test_postgresql_killed_under_fifty_raters(postgres: Postgres, crowd: Design) -> None:
    url = postgres.database("crowd")
    raters = create(url, crowd)
    confirmed: list[tuple[str, str, str]] = []
    guard = threading.Lock()

    class Noted(StudyStore):
        """The store, taking down what it confirms."""

        def vote(self, rater, trial, answer, reaction_ms=None, *, details=None):  # type: ignore[no-untyped-def]
            stored = super().vote(rater, trial, answer, reaction_ms, details=details)
            with guard:
                confirmed.append((rater, trial, str(stored.answer)))
            return stored

    with Noted.open(url, patience=120) as store, ThreadPoolExecutor(RATERS) as pool:
        running = [pool.submit(vote, store, rater) for rater in raters]
        # The database server is killed twice under load.
        for count in (60, 200):
            while len(confirmed) < count and not all(future.done() for future in running):
                time.sleep(0.005)
            postgres.kill()
            time.sleep(0.2)
            postgres.start()
        for future in running:
            future.result(240)
    check(url, crowd, raters, confirmed)


def test_nothing_waits_for_a_second_connection_while_it_holds_one(
    tmp_path: Path, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else as many raters as there are connections, coming at once to a new server, would wait for each other."""
    from bench.study import database

    path = tmp_path / "s.db"
    with StudyStore.open(path) as store:
        store.create("taste", design)
        token, other = store.invite("taste", 2)
        rater = store.redeem(other).rater
        store.consent(rater)
    real = database.create_engine
    one = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    monkeypatch.setattr(database, "create_engine", lambda url, **options: real(url, **{**options, **one}))

    def first(work: Callable[[StudyStore], T]) -> T:
        """``work`` as the first that a server does, before it has read the study."""
        with StudyStore.open(path) as new:
            return work(new)

    # Every call of the app, each as the first of a new server.
    first(lambda store: store.check_invitation(token))
    first(lambda store: store.redeem(token, external="p-1"))
    assert first(lambda store: store.upcoming(rater)) is not None
    trial = first(lambda store: store.next_trial(rater))
    assert trial is not None
    assert first(lambda store: store.next_trial(rater)) == trial
    assert first(lambda store: store.vote(rater, trial.id, 0, 500)).new
    assert first(lambda store: store.progress(rater)).practice_done == 1
    first(lambda store: vote(store, rater))
    assert first(lambda store: store.completion(rater)).code
    assert len(first(lambda store: store.votes("taste"))) == first(lambda store: store.withdraw(rater)) == 13


def test_who_gets_no_connection_waits_as_long_as_the_store_is_patient(
    tmp_path: Path, postgres: Postgres
) -> None:
    for target in (tmp_path / "s.db", postgres.database("patience")):
        with StudyStore.open(target, patience=77) as store:
            assert store._db.engine.pool.timeout() == 77


def test_threads_of_one_store_share_commits(tmp_path: Path) -> None:
    """Fifty pieces of work at once take far fewer commits, and one that fails takes no other with it."""
    from sqlalchemy import event, text

    with StudyStore.open(tmp_path / "s.db") as store:
        database = store._db
        database.write(lambda c: c.execute(text("CREATE TABLE t (x INTEGER NOT NULL)")))
        commits: list[int] = []
        event.listen(database.engine, "commit", lambda connection: commits.append(1))

        def all_at_once(bad: dict[int, str]) -> tuple[list[str], list[int]]:
            barrier = threading.Barrier(RATERS)

            def run(number: int) -> str:
                barrier.wait()

                def work(connection) -> str:  # type: ignore[no-untyped-def]
                    connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": number})
                    time.sleep(0.002)
                    if bad.get(number) == "python":
                        raise ZeroDivisionError(number)
                    if bad.get(number) == "sql":
                        connection.execute(text("SELECT nonsense FROM t"))
                    return str(number)

                try:
                    return database.write(work)
                except Exception as error:
                    return type(error).__name__

            with ThreadPoolExecutor(RATERS) as pool:
                results = list(pool.map(run, range(RATERS)))
            rows = database.read(lambda c: c.execute(text("SELECT x FROM t ORDER BY x")).scalars().all())
            database.write(lambda c: c.execute(text("DELETE FROM t")))
            return results, list(rows)

        # Fifty jobs without a fault.
        commits.clear()
        results, rows = all_at_once({})
        assert (results, rows) == ([str(n) for n in range(RATERS)], list(range(RATERS)))
        assert len(commits) - 2 <= RATERS // 3  # two are the reading's and the deleting's own
        # Four of fifty jobs fail, in Python or in SQL.
        bad = {3: "python", 13: "python", 27: "sql", 44: "sql"}
        results, rows = all_at_once(bad)
        assert rows == [n for n in range(RATERS) if n not in bad]
        names = {"python": "ZeroDivisionError", "sql": "DatabaseError"}
        assert results == [names[bad[n]] if n in bad else str(n) for n in range(RATERS)]


def test_processes_that_open_a_new_store_at_once_make_it_once(tmp_path: Path) -> None:
    code = "import sys; from bench.study.store import StudyStore; StudyStore.open(sys.argv[1]).close()"
    path = tmp_path / "new.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert os.path.getsize(path) > 0  # noqa: PTH202


def test_what_has_to_be_on_disk_is_synced_whatever_it_shares_a_commit_with(tmp_path: Path) -> None:
    from sqlalchemy import text

    def level(connection) -> int:  # type: ignore[no-untyped-def]
        time.sleep(0.01)
        return int(connection.execute(text("PRAGMA synchronous")).scalar_one())

    full, normal = 2, 1
    with StudyStore.open(tmp_path / "s.db") as store:
        assert store._db.write(level) == full
        assert store._db.write(level, durable=False) == normal
        assert store._db.write(level) == full
        with ThreadPoolExecutor(20) as pool:
            durables = [number % 4 == 0 for number in range(20)]
            levels = list(pool.map(lambda durable: store._db.write(level, durable=durable), durables))
        assert all(value == full for value, durable in zip(levels, durables, strict=True) if durable)


def test_a_vote_is_synced_and_handing_out_is_not(
    store: StudyStore, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("taste", design)
    rater = store.register("taste").rater
    durables: list[bool] = []
    write = store._db.write

    def noted(work, *, durable: bool = True):  # type: ignore[no-untyped-def]
        durables.append(durable)
        return write(work, durable=durable)

    monkeypatch.setattr(store._db, "write", noted)
    trial = store.next_trial(rater)
    assert trial is not None
    assert store.vote(rater, trial.id, 0, 500).new
    assert durables == [False, True]

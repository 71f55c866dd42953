"""Measures how long storing a vote takes with fifty raters at once. Nothing is asserted.

Fifty threads of one process ask for trials and answer them, as in the app. They use SQLite on a real file system and,
where its server is installed, PostgreSQL. There are two loads. In one, raters take ``--think`` seconds per trial on
average, several times faster than people. In the other they take no time, which shows the most that the store can do.

    python tests/perf/study.py
    python tests/perf/study.py --raters 50 --think 1
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Latency:
    """Milliseconds of storing votes, and of asking for trials, under one load."""

    database: str
    load: str
    votes: int
    per_second: float
    median: float
    p95: float
    worst: float
    trial_p95: float

    def __str__(self) -> str:
        return (
            f"storing a vote, {self.database}, {self.load}: p95 {self.p95:.1f} ms (median {self.median:.1f}, "
            f"worst {self.worst:.1f}; {self.votes} votes, {self.per_second:.0f} a second); "
            f"next trial: p95 {self.trial_p95:.1f} ms"
        )


def study_vote(
    target: str | Path, name: str, *, raters: int = 50, trials: int = 20, think: float = 1.0, label: str = ""
) -> Latency:
    """Lets ``raters`` threads answer ``trials`` trials each on the store at ``target``. Prints and returns the times.

    ``think``: mean seconds before each answer, exponentially distributed, so that raters do not act in step. 0: none.
    """
    from bench.study.build import build
    from bench.study.design import DesignOptions
    from bench.study.models import SIMULATED
    from bench.study.store import StudyStore

    with tempfile.TemporaryDirectory() as folder, StudyStore.open(target) as store:
        options = DesignOptions(raters=raters, trials=trials, repeats=2, attention=2, practice=1)
        store.create(name, build([_run(Path(folder))], options))
        # One registered rater per thread.
        seats = [store.register(name, kind=SIMULATED).rater for _ in range(raters)]
        vote_times: list[float] = []
        draw_times: list[float] = []
        failed: list[BaseException] = []
        # All threads begin at once, and the clock with them.
        start = threading.Barrier(raters + 1)

        def sit(rater: str) -> None:
            mind = random.Random(rater)
            start.wait()
            try:
                while True:
                    began = time.perf_counter()
                    trial = store.next_trial(rater)
                    draw_times.append(time.perf_counter() - began)
                    if trial is None:
                        return
                    # The time that a rater takes to look.
                    if think:
                        time.sleep(mind.expovariate(1 / think))
                    began = time.perf_counter()
                    store.vote(rater, trial.id, mind.randrange(2), 1000)
                    vote_times.append(time.perf_counter() - began)
            except BaseException as error:
                failed.append(error)

        # Wait for all. The first error of a thread ends the measurement.
        threads = [threading.Thread(target=sit, args=(rater,)) for rater in seats]
        for thread in threads:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        if failed:
            raise failed[0]
        # Every vote that was timed is stored.
        assert len(vote_times) == store.status(name, SIMULATED).votes
    load = f"{raters} raters, {think:g} s a trial" if think else f"{raters} raters without a pause"
    # Milliseconds.
    latency = Latency(
        label or "SQLite", load, len(vote_times), len(vote_times) / took,
        *(1000 * _quantile(vote_times, q) for q in (0.5, 0.95, 1.0)), 1000 * _quantile(draw_times, 0.95),
    )  # fmt: skip
    print(latency, flush=True)
    return latency


def _quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this ``share`` of the values does not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * share) - 1)]


def _run(folder: Path) -> Path:
    from tests.bench.study.runs import make_run

    return make_run(folder / "run", cases=24, strengths=(1.0, 0.75, 0.5, 0.25))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raters", type=int, default=50)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--think", type=float, default=1.0, help="seconds per trial of the first load")
    parser.add_argument("--folder", type=Path, help="where SQLite's file goes; a temporary folder otherwise")
    options = parser.parse_args()
    load = {"raters": options.raters, "trials": options.trials}
    with ExitStack() as stack:
        place = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # SQLite.
        for number, think in enumerate((options.think, 0.0)):
            study_vote(place / f"perf-{number}.db", "perf", think=think, **load)
        # The same on PostgreSQL, with commits that wait for the disk.
        if server := _postgres(stack):
            for number, think in enumerate((options.think, 0.0)):
                url = server.database(f"perf{number}")
                study_vote(url, "perf", think=think, label="PostgreSQL", **load)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; the aim is below 100 ms")


def _postgres(stack: ExitStack):  # type: ignore[no-untyped-def]
    """A new PostgreSQL server. None where it is not installed."""
    from tests.bench.study.conftest import Postgres

    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        print("PostgreSQL: not measured, its server is not installed")
        return None
    server = Postgres(programs[-1], durable=True)
    stack.callback(server.stop)
    server.start()
    return server


if __name__ == "__main__":
    main()

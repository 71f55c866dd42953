"""Measures the pages of a large study with fifty raters at once: 500 raters, 10,000 trials, 2,000-pixel pictures.

Each rater is a thread that speaks Streamlit's own protocol: it opens its link, fetches the pictures of the trial, waits
as a person would, answers, and takes the next page. A page's time runs from the message to the end of the server's
script. The raters share the machine with the server and the database, so the processor time of each of the three
stands beside the times, and that of all other programs. Nothing is asserted.

    python tests/perf/study_pages.py
    python tests/perf/study_pages.py --folder /tmp/pages    # keeps the run of pictures, which takes minutes to make
    python tests/perf/study_pages.py --raters 10 --answers 3 --think 2 --sqlite
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.edit import EditCase  # noqa: E402
from bench.executors import LocalExecutor  # noqa: E402
from bench.images import from_array, mask_image  # noqa: E402
from bench.plan import make_plan  # noqa: E402
from bench.registry import Registry  # noqa: E402
from bench.runner import run  # noqa: E402
from bench.store import RunStore  # noqa: E402
from bench.suite import configure_protocol  # noqa: E402
from tests.bench.fakes import Fakes, make_case, method  # noqa: E402
from tests.perf.crowd import PATIENCE, start  # noqa: E402
from tests.perf.study import _postgres, _quantile  # noqa: E402

if TYPE_CHECKING:
    from PIL.Image import Image
    from sqlalchemy import Connection
    from websockets.sync.client import ClientConnection

    from bench.study.store import StudyStore


@dataclass
class Times:
    """Seconds of all raters together."""

    first_pages: list[float] = field(default_factory=list)
    # From an answer to the page of the next trial.
    pages: list[float] = field(default_factory=list)
    # From the first request for a trial's pictures to the last byte of the last one, where they were not there yet.
    pictures: list[float] = field(default_factory=list)
    picture_bytes: int = 0
    errors: list[BaseException] = field(default_factory=list)


class Visitor:
    """One rater's browser, without the browser."""

    def __init__(self, address: str, session: str, times: Times, socket: ClientConnection) -> None:
        self.address, self.session, self.times, self.socket = address, session, times, socket
        # Id of the trial's component, and its last message.
        self.component = ""
        self.data: dict[str, Any] = {}
        self.fetched: set[str] = set()

    def run(self, *events: tuple[str, Any]) -> float:
        """Asks for the page, with events of the trial's component. Returns the seconds until the script ended."""
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        message = BackMsg()
        message.rerun_script.query_string = f"session={self.session}"
        if self.component:
            own = message.rerun_script.widget_states.widgets.add(id=self.component)
            own.json_value = "{}"
        for name, value in events:
            widget = message.rerun_script.widget_states.widgets.add()
            widget.id = f"$$STREAMLIT_INTERNAL_KEY_{self.component}__events"
            widget.json_trigger_value = json.dumps([{"event": name, "value": value}])
        began = time.perf_counter()
        self.socket.send(message.SerializeToString())
        while True:
            raw = self.socket.recv(PATIENCE)
            got = ForwardMsg.FromString(raw if isinstance(raw, bytes) else raw.encode())
            if got.WhichOneof("type") == "script_finished":
                return time.perf_counter() - began
            component = got.delta.new_element.bidi_component
            if component.json and "pictures" in (data := json.loads(component.json)):
                self.component, self.data = component.id, data

    def fetch(self, addresses: list[str]) -> None:
        """Fetches the pictures that are not there yet, all at once, as a browser does."""
        missing = [address for address in addresses if address not in self.fetched]
        sizes: list[int] = []

        def get(address: str) -> None:
            try:
                with urllib.request.urlopen(f"{self.address}/{address}", timeout=PATIENCE) as answer:
                    sizes.append(len(answer.read()))
            except OSError as error:
                self.times.errors.append(error)

        threads = [threading.Thread(target=get, args=(address,)) for address in missing]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(sizes) == len(missing), "a picture did not come"
        self.fetched |= set(missing)
        self.times.picture_bytes += sum(sizes)

    def visit(self, answers: int, think: float, mind: random.Random) -> None:
        time.sleep(mind.uniform(0, think))
        self.times.first_pages.append(self.run())
        for _ in range(answers):
            began = time.perf_counter()
            if any(address not in self.fetched for address in self.data["pictures"]):
                self.fetch(self.data["pictures"])
                self.times.pictures.append(time.perf_counter() - began)
            # The next trial's come while the rater looks at this one.
            ahead = threading.Thread(target=self.fetch, args=(self.data["next"],))
            ahead.start()
            time.sleep(mind.expovariate(1 / think))
            ahead.join()
            trial = self.data["trial"]["id"]
            answer = {"trial": trial, "answer": mind.randrange(2), "ms": 3000, "details": {"by": "key"}}
            self.times.pages.append(self.run(("answer", answer)))
            assert self.data["trial"]["id"] != trial, "the answer led to no further trial"


def photograph(seed: int, width: int, height: int) -> Image:
    """Smooth colours with a little noise: a PNG of it is as large as one of a photograph, about 14 bits a pixel."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = from_array(rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return from_array(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8))


class Photographs(Fakes):
    """Cases of large pictures. The method fills the square mask with noise."""

    name = "photographs"

    def cases(self) -> list[EditCase]:
        size = self.canvas, self.canvas * 3 // 4
        mask = np.zeros(size[::-1], dtype=np.bool_)
        mask[size[1] // 3 : size[1] // 2, size[0] // 3 : size[0] // 2] = True
        return [
            replace(
                make_case(4 * index),
                id=f"case-{index}",
                source_id=f"source-{index}",
                request=replace(
                    make_case(4 * index).request,
                    source=photograph(index, *size),
                    mask=mask_image(mask),
                    regions=(),
                ),
                truth=photograph(1000 + index, *size),
                claims=(),
            )
            for index in range(self.options.count)
        ]


REGISTRY = Registry("protocol", {"photographs": "tests.perf.study_pages:Photographs"}, "")


def large_run(path: Path, *, cases: int, pixels: int) -> Path:
    """A finished run of four methods and the oracle."""
    methods = [method("fake", label=label, strength=1 - index / 4) for index, label in enumerate("ABCD")]
    protocol = configure_protocol("photographs", REGISTRY, options={"count": cases, "canvas": pixels})
    plan = make_plan([protocol], [*methods, method("oracle")])
    with RunStore.open(path, create=True) as store:
        assert run(plan, store, LocalExecutor(batch_size=4)).failed == 0
    return path


def create(store: StudyStore, folder: Path, *, cases: int, raters: int, trials: int, pixels: int) -> None:
    """A study of four methods in which each comparison is shown to several raters. Its run is in ``folder``."""
    from bench.study.build import build
    from bench.study.design import DesignOptions

    made = folder / f"run-{cases}-{pixels}"
    if not (made / "run.json").exists():
        large_run(made, cases=cases, pixels=pixels)
    # Checks and repeats beside the trials.
    overlap = math.ceil(raters * trials / (cases * 6))
    options = DesignOptions(
        raters=raters, trials=trials + 4, repeats=2, attention=2, practice=0, overlap=overlap
    )
    store.create("large", build([made], options))


@dataclass(frozen=True)
class Load:
    """Processor seconds so far, of all cores together."""

    server: float
    database: float
    raters: float
    machine: float

    @classmethod
    def now(cls, server: int, database: int | None) -> Load:
        """``server`` and ``database`` are process ids. SQLite is part of the server."""
        ticks = os.sysconf("SC_CLK_TCK")
        # Of the line of all cores, the fields 4, 5 and 9 on are no work of this machine: idle, waiting, stolen.
        cores = [int(value) for value in Path("/proc/stat").read_text(encoding="utf-8").split()[1:8]]
        return cls(
            processor_seconds(server),
            0.0 if database is None else sum(map(processor_seconds, [database, *_children(database)])),
            processor_seconds(os.getpid()),
            (sum(cores) - cores[3] - cores[4]) / ticks,
        )


def processor_seconds(process: int) -> float:
    """Processor time of a process, its threads and its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _children(process: int) -> list[int]:
    """Processes that a process has started and that still run."""
    tasks = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8")
    return [int(child) for child in tasks.split()]


def measure(target: str | Path, label: str, options: argparse.Namespace, database: int | None) -> None:
    """Creates the study on the store at ``target``, serves it, and prints the times.

    ``database``: process id of the database's server. None for SQLite.
    """
    import socket

    from websockets.sync.client import connect

    from bench.study.models import HUMAN
    from bench.study.store import StudyStore

    with tempfile.TemporaryDirectory() as temporary, StudyStore.open(target) as store:
        folder = Path(temporary)
        create(
            store, options.folder or folder, cases=options.cases, raters=options.study_raters,
            trials=options.study_trials // options.study_raters, pixels=options.pixels,
        )  # fmt: skip
        sessions = [store.register("large", kind=HUMAN) for _ in range(options.raters)]
        # The others have finished: the tables are as full as they become.
        fill(store, options.raters, options.study_raters)
        for seat in sessions:
            # After one answer the page is a trial and not the instructions.
            store.consent(seat.rater)
            trial = store.next_trial(seat.rater)
            assert trial is not None
            store.vote(seat.rater, trial.id, 0, 3000)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = start(port, target, folder, study="large")
        try:
            times = Times()
            # A server prepares the pictures before the first rater comes.
            time.sleep(options.warm)
            before = Load.now(server.pid, database)
            began = time.perf_counter()
            address = f"http://127.0.0.1:{port}"

            def sit(number: int, session: str) -> None:
                stream = f"{address.replace('http', 'ws', 1)}/_stcore/stream"
                try:
                    with connect(
                        stream, subprotocols=["streamlit"], max_size=None, open_timeout=PATIENCE
                    ) as opened:  # type: ignore[list-item]
                        visitor = Visitor(address, session, times, opened)
                        visitor.visit(options.answers, options.think, random.Random(number))
                except BaseException as error:
                    times.errors.append(error)

            threads = [
                threading.Thread(target=sit, args=(number, seat.session))
                for number, seat in enumerate(sessions)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if times.errors:
                raise times.errors[0]
            report(label, times, before, Load.now(server.pid, database), time.perf_counter() - began)
        finally:
            server.terminate()
            server.wait(30)


def fill(store: StudyStore, first: int, last: int) -> None:
    """Raters number ``first`` to ``last`` - 1, who have answered all of their sheets. Written at once."""
    from sqlalchemy import insert, select

    from bench.study.models import HUMAN, RaterRow, TrialRow, VoteRow

    def work(connection: Connection) -> None:
        now = store._db.now(connection)
        common = {"study_id": 1, "kind": HUMAN, "created_at": now, "seen_at": now, "finished_at": now}
        raters = [
            {**common, "public": f"full-{number}", "number": number, "sheet": number}
            for number in range(first, last)
        ]
        connection.execute(insert(RaterRow), raters)
        ids = {row.sheet: row.id for row in connection.execute(select(RaterRow.id, RaterRow.sheet))}
        trials = connection.execute(select(TrialRow).where(TrialRow.sheet >= first)).all()
        votes = [
            {"study_id": 1, "kind": HUMAN, "rater_id": ids[row.sheet], "trial_id": row.id,
             "answer": row.candidates[0], "reaction_ms": 3000, "server_time": now}
            for row in trials
        ]  # fmt: skip
        connection.execute(insert(VoteRow), votes)

    store._db.write(work)


def report(label: str, times: Times, before: Load, after: Load, seconds: float) -> None:
    def line(name: str, values: list[float]) -> str:
        if not values:
            return f"  {name}: none"
        p50, p95, worst = (1000 * _quantile(values, q) for q in (0.5, 0.95, 1.0))
        return f"  {name}: p95 {p95:.0f} ms (median {p50:.0f}, worst {worst:.0f}; {len(values)})"

    pages = len(times.pages) + len(times.first_pages)
    server, database, raters, machine = (
        end - start for start, end in zip(astuple(before), astuple(after), strict=True)
    )
    print(
        f"{label}, {os.cpu_count()} cores:",
        line("first page", times.first_pages),
        line("page after an answer", times.pages),
        line("pictures that were not there yet", times.pictures),
        f"  {pages} pages and {times.picture_bytes / 1e6:.0f} MB of pictures in {seconds:.0f} s",
        f"  processor time of the server: {server:.1f} s, {1000 * server / pages:.0f} ms a page with its pictures",
        f"  processor time of the database: {database:.1f} s, of the {len(times.first_pages)} raters: {raters:.1f} s, "
        f"of other programs: {machine - server - database - raters:.1f} s",
        sep="\n",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raters", type=int, default=50, help="at once")
    parser.add_argument("--answers", type=int, default=5, help="of each rater")
    parser.add_argument("--think", type=float, default=10.0, help="mean seconds before an answer")
    parser.add_argument("--study-raters", type=int, default=500)
    parser.add_argument("--study-trials", type=int, default=10_000)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--pixels", type=int, default=2000)
    parser.add_argument(
        "--warm", type=float, default=60.0, help="seconds from the server's start to the first rater"
    )
    parser.add_argument("--folder", type=Path, help="where the run of pictures is kept")
    parser.add_argument("--sqlite", action="store_true", help="not PostgreSQL")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.sqlite:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            measure(folder / "large.db", "SQLite", options, None)
        elif server := _postgres(stack):
            measure(server.database("large"), "PostgreSQL", options, server.process.pid)


if __name__ == "__main__":
    main()

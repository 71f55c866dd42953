"""A run folder of noise, designs and stores of its edits, and a PostgreSQL server for the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.study.build import build
from bench.study.design import Design, DesignOptions
from bench.study.store import StudyStore
from tests.bench.study.runs import OPEN, HandClock, make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cases, edited by four methods and the oracle."""
    return make_run(tmp_path_factory.mktemp("runs") / "noise", cases=12, strengths=(1.0, 0.75, 0.5, 0.25))


@pytest.fixture(scope="session")
def design(run_folder: Path) -> Design:
    """Six raters of twelve trials each."""
    return build([run_folder], DesignOptions(raters=6, trials=12, repeats=2, attention=2, practice=1))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one, since most tests are not about disks."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="peb-study-", dir=shared))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def store(memory: Path) -> Iterator[StudyStore]:
    with StudyStore.open(memory / "studies.db") as opened:
        yield opened


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def taste(memory: Path, design: Design, clock: HandClock) -> Iterator[StudyStore]:
    """A store with the study `taste`, which anyone may enter, and a clock that the test sets."""
    with StudyStore.open(memory / "studies.db", clock=clock) as opened:
        opened.create("taste", design, OPEN)
        yield opened


class Postgres:
    """A server in a folder of its own, reached by a socket there. For root it runs as the user `postgres`."""

    def __init__(self, programs: Path, *, durable: bool = False) -> None:
        """``durable``: commits wait for the disk. Tests need not: they kill the server, but not the machine."""
        self.programs = programs
        self.durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="peb-pg-"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            # initdb and postgres refuse to run as root.
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(self.folder, "postgres", "postgres")
        # The socket has to be reachable for the tests.
        self.folder.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "study", "-A", "trust", "-E", "UTF8", "-N")

    def _run(self, program: str, *arguments: str) -> None:
        # Programs of PostgreSQL print the reason of a failure.
        done = subprocess.run(
            [*self._as, str(self.programs / program), *arguments],
            capture_output=True, text=True, cwd=self.folder, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Returns when the server answers. After a kill it tries until the old server's children have ended."""
        deadline = time.monotonic() + 60
        while True:
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    [*self._as, str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-k",
                     str(self.folder), "-c", "listen_addresses=", "-c", "max_connections=120",
                     "-c", f"fsync={'on' if self.durable else 'off'}"],
                    stdout=log, stderr=log, cwd=self.folder,
                )  # fmt: skip
            while self.process.poll() is None:
                # Ready once it takes connections.
                ready = [str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)]
                if subprocess.run(ready, check=False).returncode == 0:
                    return
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Ends the server without warning or shutdown."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        self._run("createdb", "-h", str(self.folder), "-U", "study", name)
        return f"postgresql://study@/{name}?host={self.folder}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not programs:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no setpriv")
    server = Postgres(programs[-1])
    try:
        server.start()
        yield server
    finally:
        server.stop()

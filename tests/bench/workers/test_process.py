"""Workers that are processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.workers import WorkerError, WorkerLost, Workers, open_workers
from bench.workers.process import ProcessWorker
from tests.bench.workers.work import Doubles, cannot_load, dies_while_loading

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def two() -> Iterator[Workers]:
    workers = open_workers(devices=["cpu", "cpu"])
    assert workers is not None
    with workers:
        yield workers


def lost(item: Any, error: str) -> str:
    return error


def test_processes_that_are_killed_again_and_again_lose_nothing(two: Workers) -> None:
    two.load(Doubles, print)
    results, killed = [], set()
    for reply in two.map(([3 * i, 3 * i + 1, 3 * i + 2] for i in range(24)), lost, lambda note: None):
        results += reply.results
        pid, _ = reply.asides[0]
        # Whoever made this batch works on another one by now.
        if len(killed) < 4 and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert results == [2 * i for i in range(72)]
    assert len(killed) == 4
    assert os.getpid() not in killed


def test_errors_cross_the_process_and_say_what_happened(two: Workers) -> None:
    with pytest.raises(FileNotFoundError, match="no weights for cpu"):
        two.load(cannot_load, print)
    two.load(Doubles, print)
    with pytest.raises(RuntimeError, match="TwoPartError: no number"):
        list(two.map([["wrong"]], lost, print))
    notes: list[str] = []
    (reply,) = two.map([["deadly"]], lost, notes.append)
    assert reply.results == [
        "the worker process on cpu ended (SIGKILL), 3 times, while it worked on this case"
    ]
    assert notes == ["the worker process on cpu ended (SIGKILL): another one does its work again"] * 3


def test_processes_that_die_while_they_load_are_given_up() -> None:
    with (
        Workers(lambda _: ProcessWorker("cpu", None), 1, device="cpu") as workers,
        pytest.raises(WorkerLost, match="SIGKILL"),
    ):
        workers.load(dies_while_loading, lambda note: None)


def test_a_worker_ends_with_its_parent() -> None:
    code = (
        "import sys, time; from bench.workers.process import ProcessWorker; "
        "worker = ProcessWorker('cpu', None); print(worker.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    # The child sees the end of its pipe. An orphan that has ended is a zombie of init, or gone.
    for _ in range(600):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the worker still runs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ["cpu"], "ray": "local"}, "--devices and --ray: one of them"),
        ({"devices": ["cpu"], "device": "cpu"}, "--device cpu and --devices: one of them"),
        ({"devices": ["cpu", "gpu:1"]}, "'gpu:1'"),
        ({"devices": ["cpu", ""]}, "''"),
        ({"count": 2}, "--workers 2: .* together with --ray"),
        ({"devices": ["cpu"], "count": 2}, "--workers 2"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        open_workers(**options)


def test_devices_of_two_kinds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.devices.resolve_device", lambda name: name)
    with pytest.raises(WorkerError, match="devices of one kind"):
        open_workers(devices=["cpu", "cuda:0"])


def test_without_options_there_are_no_workers() -> None:
    assert open_workers() is None

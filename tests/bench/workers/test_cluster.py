"""Workers on a real Ray cluster of this machine. Skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.executors import WorkersExecutor
from bench.workers import WorkerError, Workers, open_workers
from tests.bench.executed import execute, facts
from tests.bench.fakes import make_case
from tests.bench.workers.work import Doubles, cannot_load, deadly

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)"
)


def test_without_ray_the_error_is_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    with pytest.raises(WorkerError, match=r"pip install 'prompteditbench\[ray\]'"):
        open_workers(ray="local")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Workers]:
    """Two workers. Starting a cluster takes seconds, so that all tests share it."""
    # A running cluster where RAY_ADDRESS names one.
    workers = open_workers(ray=os.environ.get("RAY_ADDRESS", "local"), count=2)
    assert workers is not None
    with workers:
        yield workers


@needs_ray
def test_actors_that_are_killed_again_and_again_lose_nothing(cluster: Workers) -> None:
    assert (cluster.count, cluster.device) == (2, "cpu")
    cluster.load(Doubles, print)
    results, killed = [], set()
    batches = ([3 * i, 3 * i + 1, 3 * i + 2] for i in range(24))
    for reply in cluster.map(batches, lambda item, error: error, lambda note: None):
        results += reply.results
        pid, _ = reply.asides[0]
        if len(killed) < 3 and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert results == [2 * i for i in range(72)]
    assert len(killed) == 3


@needs_ray
def test_edits_equal_those_of_one_process_but_for_the_case_that_ends_its_actor(
    cluster: Workers, tmp_path: Path
) -> None:
    prompt = make_case(4).request.target_prompt
    once = deadly(native=16, deadly=prompt, once=str(tmp_path / "marker"))
    (tmp_path / "marker").touch()
    execute(tmp_path / "local", once)
    (tmp_path / "marker").unlink()
    summary = execute(tmp_path / "once", once, executor=WorkersExecutor(cluster, batch_size=3))
    assert (summary.done, summary.failed) == (8, 0)
    assert facts(tmp_path / "once") == facts(tmp_path / "local")
    always = deadly(native=16, deadly=prompt)
    summary = execute(tmp_path / "always", always, executor=WorkersExecutor(cluster, batch_size=3))
    assert (summary.done, summary.failed) == (7, 1)
    (failure,) = summary.failures
    assert failure.key.case == "case-004"
    assert failure.error is not None
    assert failure.error.startswith("a Ray worker ended (ActorDiedError), 3 times, while it worked on this")
    assert [sha for *_, sha in facts(tmp_path / "always") if sha] == [
        sha for i, (*_, sha) in enumerate(facts(tmp_path / "local")) if i != 4
    ]


@needs_ray
def test_errors_of_an_actor_are_raised_here(cluster: Workers) -> None:
    with pytest.raises(FileNotFoundError, match="no weights for cpu"):
        cluster.load(cannot_load, print)


@needs_ray
def test_more_workers_than_the_cluster_has_are_refused(cluster: Workers) -> None:
    # The cluster of this process is used, whatever its address.
    with pytest.raises(WorkerError, match=r"the cluster has \d+ CPUs for 999 workers"):
        open_workers(ray="local", count=999)
    with pytest.raises(WorkerError, match="--device cuda:1 with --ray"):
        open_workers(ray="local", device="cuda:1")

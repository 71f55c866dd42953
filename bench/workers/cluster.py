"""Workers on a Ray cluster: each is an actor, on a GPU of its own where the device is CUDA."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future
from typing import Any

from bench.registry import describe
from bench.workers.host import Answer, Host, WorkerError, WorkerLost

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, started for the command."""


class Cluster:
    """A connection to a Ray cluster. It is closed with the workers."""

    def __init__(self, address: str, *, workers: int | None, device: str) -> None:
        """Joins the cluster at ``address``, or starts one on this machine for ``local``.

        ``device`` is auto, cpu or cuda. auto is cuda where the cluster has a GPU. ``workers`` None: one per GPU, or one
        without GPUs. Raises :class:`WorkerError` where Ray is not installed, the cluster does not answer, or it has
        too few GPUs or CPUs.
        """
        self._ray = _import_ray()
        if device not in ("auto", "cpu", "cuda"):
            raise WorkerError(
                f"--device {device} with --ray: one of auto, cpu, cuda is expected. Ray gives GPUs out."
            )
        # A cluster of this process, such as one that a notebook has joined, is used as it is.
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._connect(address, workers)
        resources = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        self.device = ("cuda" if gpus else "cpu") if device == "auto" else device
        self.count = workers or (gpus if self.device == "cuda" else 1)
        available, kind = (gpus, "GPUs") if self.device == "cuda" else (cpus, "CPUs")
        if not 1 <= self.count <= available:
            self.close()
            raise WorkerError(
                f"--ray {address}: the cluster has {available} {kind} for {self.count} workers. Choose fewer with "
                "--workers, or start Ray on more machines."
            )

    def _connect(self, address: str, workers: int | None) -> None:
        # Nothing is reported to anybody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if address == LOCAL:
                # As many workers as requested, even on fewer cores.
                cores = max(workers or 1, os.cpu_count() or 1)
                self._ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
            else:
                self._ray.init(address=address, **quiet)
        except Exception as error:  # Ray raises many kinds, the base class included
            raise WorkerError(
                f"--ray {address}: no Ray cluster answers there ({describe(error)}). "
                "Run `ray start --head` on the first machine and pass the address that it prints, or `local`."
            ) from error

    def start(self, threads: int | None) -> RayWorker:
        """Starts one worker. Ray chooses the machine."""
        return RayWorker(self._ray, self.device, threads)

    def close(self) -> None:
        """Leaves the cluster. One that was started here ends."""
        if self._is_ours:
            self._ray.shutdown()


class RayWorker:
    """An actor. Requests are answered in order. Ray does not restart it: the driver starts another one."""

    def __init__(self, ray: Any, device: str, threads: int | None) -> None:
        self._ray = ray
        options = {"num_cpus": 1, "num_gpus": int(device == "cuda")}
        actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(Host)
        # Ray sets one thread per actor. Rounding depends on the number, so it is the driver's.
        self._actor = actor.remote(device, threads, _threads_here())

    def ask(self, request: tuple[str, object]) -> Future[Answer]:
        """The future of the answer. It raises :class:`WorkerLost` where the actor or its machine ends before."""
        # Ray's pickle also takes functions of a notebook. The actor reads it in Host.answer, where errors are answers.
        message = self._ray.cloudpickle.dumps(request)
        answer: Future[Answer] = Future()
        self._actor.answer.remote(message).future().add_done_callback(
            lambda done: self._pass_on(done, answer)
        )
        return answer

    def stop(self) -> None:
        """Ends the actor at once, whatever it does."""
        self._ray.kill(self._actor)

    def _pass_on(self, done: Future[Answer], answer: Future[Answer]) -> None:
        try:
            answer.set_result(done.result())
        except self._ray.exceptions.RayError as error:
            answer.set_exception(WorkerLost(f"a Ray worker ended ({type(error).__name__})"))
        except BaseException as error:
            answer.set_exception(error)


def _threads_here() -> int:
    """Number of threads that torch would use in this process."""
    if "OMP_NUM_THREADS" in os.environ:
        return int(os.environ["OMP_NUM_THREADS"].split(",")[0])
    import torch

    return int(torch.get_num_threads())


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise WorkerError(
            "--ray needs Ray, which is not installed. Run: pip install 'prompteditbench[ray]'"
        ) from error
    return ray

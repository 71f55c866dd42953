"""Worker processes that hold a model each: on several devices of this machine, or on a Ray cluster.

Each batch goes to one worker, in the same composition as without workers, so that results are the same. The driver
reads all inputs and alone writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.workers.host import Make, Work, WorkerError, WorkerLost
from bench.workers.pool import BatchReply, Workers

__all__ = ["BatchReply", "Make", "Work", "WorkerError", "WorkerLost", "Workers", "open_workers"]


def open_workers(
    *,
    device: str = "auto",
    devices: Sequence[str] = (),
    ray: str | None = None,
    count: int | None = None,
    threads: int | None = None,
) -> Workers | None:
    """Chooses the workers that the options of the command line name. None where they name none.

    ``devices`` lists devices of this machine, such as ``cuda:0``, one worker each. ``ray`` is the address of a Ray
    cluster, or ``local``, ``count`` its number of workers. ``threads`` None: as many torch threads as without workers.
    Raises :class:`WorkerError` for options that exclude each other, and what :func:`bench.devices.resolve_device`
    raises.
    """
    from bench.devices import resolve_device

    # Options that exclude each other.
    if devices and ray is not None:
        raise WorkerError("--devices and --ray: one of them is expected. --ray gives out the GPUs itself.")
    if count is not None and (ray is None or count < 1):
        raise WorkerError(f"--workers {count}: a number from 1 on is expected, together with --ray.")

    if ray is not None:
        from bench.workers.cluster import Cluster

        cluster = Cluster(ray, workers=count, device=device)
        return Workers(
            lambda _: cluster.start(threads), cluster.count, device=cluster.device, close=cluster.close
        )
    if not devices:
        return None
    if device != "auto":
        raise WorkerError(f"--device {device} and --devices: one of them is expected.")
    names = [resolve_device(name) for name in devices]
    # The dtype and the rounding depend on the kind.
    kinds = {name.partition(":")[0] for name in names}
    if len(kinds) > 1:
        raise WorkerError(f"--devices {','.join(devices)}: devices of one kind are expected.")

    from bench.workers.process import ProcessWorker

    return Workers(lambda number: ProcessWorker(names[number], threads), len(names), device=kinds.pop())

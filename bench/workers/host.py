"""The part of a worker that runs in the worker's process: it holds one model and answers requests."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.editor import free_memory, torch_threads
from bench.errors import BenchError
from bench.registry import describe

Work = Callable[[Sequence[Any]], tuple[Sequence[Any], Any]]
"""A loaded model: a batch of items -> one result per item, in order, and an aside about the whole batch.

The aside (notes, features) goes to the driver beside the results. All of it can be pickled."""

Make = Callable[[str], Work]
"""Device -> the model, loaded on it. It can be pickled, and its module can be imported where workers run."""


class WorkerError(BenchError):
    """Workers that cannot be started or used as requested. The message names the option and the remedy."""


class WorkerLost(WorkerError):
    """A worker whose process has ended. The message says how."""


@dataclass(frozen=True)
class Answer:
    """The answer to one request. ``error`` is the exception that the request raised, if any."""

    value: Any = None
    error: BaseException | None = None


class Host:
    """Holds one model at a time and answers requests for it, one after the other."""

    def __init__(self, device: str, threads: int | None, default_threads: int | None = None) -> None:
        """``threads``: number of torch's threads. None leaves it to torch, which takes ``default_threads`` if given."""
        if default_threads is not None:
            # Torch reads it when it is imported.
            os.environ["OMP_NUM_THREADS"] = str(default_threads)
        self._device = device
        self._threads = threads
        self._work: Work | None = None

    def answer(self, request: bytes) -> Answer:
        """Carries out a pickled request of :func:`load_request` or :func:`batch_request`. Never raises."""
        try:
            name, argument = pickle.loads(request)
            return Answer(self._load(argument) if name == "load" else self._do(argument))
        except (Exception, SystemExit) as error:
            # SystemExit too: code of a plug-in that calls sys.exit fails its request and does not end the worker.
            return Answer(error=_portable(error))

    def _load(self, make: Make) -> int | None:
        """Replaces the model. Returns the number of torch's threads, or None where the model does not use torch."""
        # The memory of the earlier model is free before the next one needs it.
        self._work = None
        free_memory()
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)
        self._work = make(self._device)
        return torch_threads()

    def _do(self, batch: Sequence[Any]) -> tuple[Sequence[Any], Any]:
        assert self._work is not None, "a batch came before a model"
        return self._work(batch)


def load_request(make: Make) -> tuple[str, Any]:
    """The request to load a model. Its answer is the number of torch's threads."""
    return "load", make


def batch_request(batch: Sequence[Any]) -> tuple[str, Any]:
    """The request to work on a batch. Its answer is what the :data:`Work` returns."""
    return "batch", batch


def _portable(error: BaseException) -> BaseException:
    """The exception itself where it survives pickling, or else one with its description."""
    # Exceptions with arguments of their own are often pickled without complaint and cannot be read back.
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(describe(error))
    return error if type(copy) is type(error) and str(copy) == str(error) else RuntimeError(describe(error))

"""Executors make the edits: in this process on one device, or in Ray actors.

An executor turns tasks into outcomes, in order. It stores nothing: the runner does, in one process.
Each outcome depends only on its own case, seed and method, up to floating-point rounding: the order of sums depends
on the batch size and the number of threads, so single pixel values may differ by one level.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from bench.edit import EditCase, EditMethod, Runtime
from bench.editor import Editor, EditOutcome, Note, PreparedCase, free_memory
from bench.errors import BenchError
from bench.registry import describe
from bench.suite import ConfiguredMethod

log = logging.getLogger(__name__)

Factory = Callable[[ConfiguredMethod, Runtime], EditMethod]
"""Creates a method and loads its model."""


class ExecutorError(BenchError):
    """An executor that cannot work. The message names the remedy."""


@dataclass(frozen=True, eq=False)
class Task:
    """One edit to make. ``load`` decodes the case. It is called once, from another thread."""

    case_id: str
    seed: int
    """Seed of this image's random generator."""
    load: Callable[[], EditCase]


class EditSession(Protocol):
    """One loaded method."""

    def edits(self, tasks: Iterable[Task]) -> Iterator[list[EditOutcome]]:
        """The outcomes in the order of the tasks, in batches. Tasks are taken only as they are needed."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


class Executor(Protocol):
    """Opens one session at a time."""

    runtime: Runtime
    batch_size: int
    """Edits per batch at most."""

    def open(self, method: ConfiguredMethod, note: Note) -> EditSession:
        """Loads a method. Raises whatever its constructor does."""
        ...


def create(method: ConfiguredMethod, runtime: Runtime) -> EditMethod:
    """The default factory. Only tests pass another one."""
    return method.create(runtime)


def _check_batch(batch_size: int) -> None:
    if batch_size < 1:
        raise ExecutorError(f"a batch size of {batch_size}; it must be at least 1.")


# -- this machine -------------------------------------------------------------------------------


class LocalExecutor:
    """Edits in this process. Threads decode and resize ahead of the device."""

    def __init__(
        self,
        runtime: Runtime | None = None,
        *,
        batch_size: int = 4,
        factory: Factory = create,
        readers: int = 2,
    ) -> None:
        """``readers``: threads that prepare the next batch. Raises ExecutorError for a batch below 1."""
        _check_batch(batch_size)
        self.runtime = runtime or Runtime()
        self._factory = factory
        self._readers = readers
        self.batch_size = batch_size
        self._batch_sizes: dict[str, int] = {}

    def open(self, method: ConfiguredMethod, note: Note) -> EditSession:
        """Loads a method. Raises whatever its constructor does."""
        digest = method.spec.digest
        editor = Editor(
            self._factory(method, self.runtime),
            batch_size=self._batch_sizes.get(digest, self.batch_size),
            device=self.runtime.device,
            note=note,
        )

        def remember() -> None:
            # The next session of this method begins with the batch size that fitted into memory.
            self._batch_sizes[digest] = editor.batch_size

        return _LocalSession(editor, self._readers, remember)


class _LocalSession:
    def __init__(self, editor: Editor, readers: int, on_close: Callable[[], None]) -> None:
        self._editor: Editor | None = editor
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self._on_close: Callable[[], None] | None = on_close

    def edits(self, tasks: Iterable[Task]) -> Iterator[list[EditOutcome]]:
        editor = self._editor
        assert editor is not None
        rest = iter(tasks)
        ahead: deque[tuple[Task, Future[PreparedCase]]] = deque()

        def prepare(task: Task) -> PreparedCase:
            return editor.prepare(task.load(), task.seed)

        def read_ahead() -> None:
            # One batch is prepared while one is edited.
            for task in islice(rest, max(0, 2 * editor.batch_size - len(ahead))):
                ahead.append((task, self._readers.submit(prepare, task)))

        read_ahead()
        while ahead:
            # The batch size may have been halved meanwhile.
            chunk = [ahead.popleft() for _ in range(min(editor.batch_size, len(ahead)))]
            read_ahead()
            # A case that cannot be read fails alone.
            outcomes: dict[str, EditOutcome] = {}
            prepared = []
            for task, future in chunk:
                try:
                    prepared.append(future.result())
                except Exception as failure:
                    outcomes[task.case_id] = EditOutcome.failed(task.case_id, describe(failure))
            for outcome in editor.edit(prepared):
                outcomes[outcome.case_id] = outcome
            yield [outcomes[task.case_id] for task, _ in chunk]

    def close(self) -> None:
        if self._on_close is not None:
            self._on_close()
        self._readers.shutdown(cancel_futures=True)
        # Drop every reference to the method, including the closure's. Otherwise its memory cannot be freed.
        self._editor = self._on_close = None
        free_memory()


# -- Ray's actors -------------------------------------------------------------------------------


class _RemoteEditor:
    """The class of a Ray actor: it runs an Editor in another process."""

    def __init__(self, method: ConfiguredMethod, runtime: Runtime, batch_size: int, factory: Factory) -> None:
        self._editor = Editor(
            factory(method, runtime), batch_size=batch_size, device=runtime.device, note=log.warning
        )

    def ready(self) -> bool:
        """Returns once the model is loaded."""
        return True

    def edit(self, batch: Sequence[tuple[EditCase, int]]) -> list[EditOutcome]:
        """The outcomes of ``(case, seed)`` each, in order."""
        outcomes: list[EditOutcome | None] = []
        prepared = []
        for case, seed in batch:
            try:
                prepared.append(self._editor.prepare(case, seed))
                outcomes.append(None)
            except Exception as failure:
                outcomes.append(EditOutcome.failed(case.id, describe(failure)))
        # None marks a prepared case: the next edited outcome belongs there.
        edited = iter(self._editor.edit(prepared))
        return [outcome or next(edited) for outcome in outcomes]


class RayExecutor:
    """Edits in Ray actors, each with its own model. Only the driver decodes cases and stores results.

    Methods must be importable where the actors run. Data need not be there.
    """

    def __init__(
        self,
        runtime: Runtime | None = None,
        *,
        batch_size: int = 4,
        actors: int = 1,
        factory: Factory = create,
    ) -> None:
        """Starts a Ray cluster or joins the running one. Raises :class:`ExecutorError` where Ray is not installed."""
        _check_batch(batch_size)
        try:
            import ray
        except ImportError as error:
            raise ExecutorError(
                "the Ray executor needs Ray, which is not installed. Run: pip install 'prompteditbench[ray]'"
            ) from error
        self._ray = ray
        if not ray.is_initialized():
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        self.runtime = runtime or Runtime()
        self.batch_size = batch_size
        self._actors = actors
        self._factory = factory

    def open(self, method: ConfiguredMethod, note: Note) -> EditSession:
        """Loads a method in every actor. Raises the error of the first actor that fails."""
        # Ray gives each actor a GPU of its own. An actor that dies is restarted at most twice.
        gpus = 1 if self.runtime.device.startswith("cuda") else 0
        remote = self._ray.remote(num_gpus=gpus, max_restarts=2, max_task_retries=1)(_RemoteEditor)
        actors = [
            remote.remote(method, self.runtime, self.batch_size, self._factory) for _ in range(self._actors)
        ]
        session = _RaySession(self._ray, actors, self.batch_size)
        try:
            self._ray.get([actor.ready.remote() for actor in actors])
        except BaseException:
            session.close()
            raise
        return session


class _RaySession:
    def __init__(self, ray: Any, actors: Sequence[Any], batch_size: int) -> None:
        self._ray = ray
        self._actors = actors
        self._batch_size = batch_size

    def edits(self, tasks: Iterable[Task]) -> Iterator[list[EditOutcome]]:
        rest = iter(tasks)
        # Two batches per actor: one is edited, the other waits in the actor. Actors take turns.
        in_flight: deque[_SentBatch] = deque()
        turn = 0
        while True:
            while len(in_flight) < 2 * len(self._actors):
                chunk = list(islice(rest, self._batch_size))
                if not chunk:
                    break
                in_flight.append(_send(chunk, self._actors[turn % len(self._actors)]))
                turn += 1
            if not in_flight:
                return
            yield self._received(in_flight.popleft())

    def _received(self, sent: _SentBatch) -> list[EditOutcome]:
        """Waits for a batch. Returns its outcomes, in the order of the tasks."""
        outcomes = {outcome.case_id: outcome for outcome in sent.failed}
        try:
            edited: list[EditOutcome] = self._ray.get(sent.reference)
        except self._ray.exceptions.RayError as failure:
            # The actor is not restarted any more: its cases count as failed, and the next run repeats them.
            error = describe(failure)
            edited = [EditOutcome.failed(name, error) for name in sent.case_ids if name not in outcomes]
        outcomes.update((outcome.case_id, outcome) for outcome in edited)
        return [outcomes[name] for name in sent.case_ids]

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)


@dataclass(frozen=True, eq=False)
class _SentBatch:
    """A batch that was sent to an actor."""

    case_ids: Sequence[str]
    # Outcomes of cases that could not be decoded. They were not sent.
    failed: Sequence[EditOutcome]
    # Ray's reference to the outcomes of the others.
    reference: Any


def _send(tasks: Sequence[Task], actor: Any) -> _SentBatch:
    """Decodes the cases and sends them to an actor."""
    failed: list[EditOutcome] = []
    batch = []
    for task in tasks:
        try:
            batch.append((task.load(), task.seed))
        except Exception as failure:
            failed.append(EditOutcome.failed(task.case_id, describe(failure)))
    return _SentBatch([task.case_id for task in tasks], failed, actor.edit.remote(batch))

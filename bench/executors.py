"""Executors make the edits: in this process on one device, or in workers on several.

An executor turns tasks into outcomes, in order. It stores nothing: the runner does, in one process.
Each outcome depends only on its own case, seed and method, up to floating-point rounding: the order of sums depends
on the batch size and the number of threads, so single pixel values may differ by one level.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol

from bench.edit import EditCase, EditMethod, Runtime
from bench.editor import Editor, EditOutcome, Note, PreparedCase, free_memory, torch_threads
from bench.errors import BenchError
from bench.registry import describe
from bench.suite import ConfiguredMethod
from bench.workers import Workers

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

    @property
    def torch_threads(self) -> int | None:
        """Number of torch's threads where the method runs. None where it does not use torch."""
        ...

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
        # The collector looks only through what is made from now on, until the session is closed. The modules of torch
        # and diffusers alone are a million objects.
        gc.freeze()
        try:
            loaded = self._factory(method, self.runtime)
        except BaseException:
            gc.unfreeze()
            raise
        editor = Editor(
            loaded,
            batch_size=self._batch_sizes.get(digest, self.batch_size),
            device=self.runtime.device,
            note=note,
        )
        del loaded

        def remember() -> None:
            # The next session of this method begins with the batch size that fitted into memory.
            self._batch_sizes[digest] = editor.batch_size

        return _LocalSession(editor, self._readers, remember)


class _LocalSession:
    def __init__(self, editor: Editor, readers: int, on_close: Callable[[], None]) -> None:
        self._editor: Editor | None = editor
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self._on_close: Callable[[], None] | None = on_close

    @property
    def torch_threads(self) -> int | None:
        return torch_threads()

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
        gc.unfreeze()


# -- workers ------------------------------------------------------------------------------------


class WorkersExecutor:
    """Edits in worker processes, each with its own model. This process decodes the cases, a batch to a worker."""

    def __init__(
        self,
        workers: Workers,
        dtype: str = "float32",
        *,
        batch_size: int = 4,
        factory: Factory = create,
        readers: int = 2,
    ) -> None:
        """``factory`` can be pickled. ``readers``: threads that decode cases. The caller closes the workers."""
        _check_batch(batch_size)
        self.runtime = Runtime(workers.device, dtype)
        self.batch_size = batch_size
        self._workers = workers
        self._factory = factory
        self._readers = readers

    def open(self, method: ConfiguredMethod, note: Note) -> EditSession:
        """Loads a method in every worker. Raises the error of one that cannot load it."""
        if method.cls.in_driver:
            local = Runtime("cpu", self.runtime.dtype)
            executor = LocalExecutor(
                local, batch_size=self.batch_size, factory=self._factory, readers=self._readers
            )
            return executor.open(method, note)
        make = partial(_EditWork, method, self.runtime.dtype, self.batch_size, self._factory)
        self._workers.load(make, note)
        return _WorkersSession(self._workers, self.batch_size, self._readers, note)


def make_executor(runtime: Runtime, batch_size: int, workers: Workers | None) -> Executor:
    """Edits in ``workers`` where they are given, or else in this process."""
    if workers is None:
        return LocalExecutor(runtime, batch_size=batch_size)
    return WorkersExecutor(workers, runtime.dtype, batch_size=batch_size)


@dataclass(frozen=True, eq=False)
class _SentCase:
    """A case on its way to a worker. Exactly one of ``case`` and ``error`` is set."""

    case_id: str
    seed: int
    case: EditCase | None
    # The reason why the case cannot be read.
    error: str | None = None


class _EditWork:
    """A loaded method in a worker."""

    def __init__(
        self, method: ConfiguredMethod, dtype: str, batch_size: int, factory: Factory, device: str
    ) -> None:
        self._notes: list[str] = []
        self._editor = Editor(
            factory(method, Runtime(device, dtype)),
            batch_size=batch_size,
            device=device,
            note=self._notes.append,
        )

    def __call__(self, batch: Sequence[_SentCase]) -> tuple[list[EditOutcome], list[str]]:
        """The outcomes, in order, and notes for the user."""
        # A case that cannot be read, or not be resized, fails alone.
        outcomes: dict[str, EditOutcome] = {}
        prepared = []
        for sent in batch:
            try:
                if sent.case is not None:
                    prepared.append(self._editor.prepare(sent.case, sent.seed))
                else:
                    outcomes[sent.case_id] = EditOutcome.failed(sent.case_id, sent.error or "")
            except Exception as failure:
                outcomes[sent.case_id] = EditOutcome.failed(sent.case_id, describe(failure))
        for outcome in self._editor.edit(prepared):
            outcomes[outcome.case_id] = outcome
        notes, self._notes[:] = list(self._notes), []
        return [outcomes[sent.case_id] for sent in batch], notes


class _WorkersSession:
    def __init__(self, workers: Workers, batch_size: int, readers: int, note: Note) -> None:
        self._workers = workers
        self._batch_size = batch_size
        self._readers = readers
        self._note = note

    @property
    def torch_threads(self) -> int | None:
        return self._workers.torch_threads

    def edits(self, tasks: Iterable[Task]) -> Iterator[list[EditOutcome]]:
        replies = self._workers.map(
            self._batches(tasks), lambda sent, error: EditOutcome.failed(sent.case_id, error), self._note
        )
        for reply in replies:
            for note in dict.fromkeys(line for lines in reply.asides for line in lines):
                self._note(note)
            yield reply.results

    def close(self) -> None:
        self._workers.unload()

    def _batches(self, tasks: Iterable[Task]) -> Iterator[list[_SentCase]]:
        """Batches of the same cases as in one process. Threads decode two of them ahead."""
        rest = iter(tasks)
        ahead: deque[Future[_SentCase]] = deque()
        with ThreadPoolExecutor(self._readers, thread_name_prefix="read") as pool:
            while True:
                for task in islice(rest, 2 * self._batch_size - len(ahead)):
                    ahead.append(pool.submit(_decoded, task))
                if not ahead:
                    return
                yield [ahead.popleft().result() for _ in range(min(self._batch_size, len(ahead)))]


def _decoded(task: Task) -> _SentCase:
    try:
        return _SentCase(task.case_id, task.seed, task.load())
    except Exception as failure:
        return _SentCase(task.case_id, task.seed, None, describe(failure))

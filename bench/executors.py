"""Where the edits are made: on this machine around one device, or on Ray's actors.

An executor turns tasks into outcomes, in order. It stores nothing: that is the runner's, in one process.
Each outcome depends on its own case, seed and method alone, up to the rounding of floating point: libraries add up in
another order for another batch size or number of threads, and a sample may then be a level lighter or darker.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from PIL import Image

from bench.edit import EditCase, EditMethod, EditRequest, Region, Runtime
from bench.errors import BenchError
from bench.images import ImageError, resize, resize_mask
from bench.registry import describe
from bench.suite import ConfiguredMethod

log = logging.getLogger(__name__)

Note = Callable[[str], None]
"""Takes a message that the user should read."""

Factory = Callable[[ConfiguredMethod, Runtime], EditMethod]
"""Makes a method's instance, its model loaded."""


@dataclass(frozen=True, eq=False)
class Task:
    """One edit to make. ``load`` decodes the case; it is called from another thread, once."""

    case_id: str
    seed: int
    """Of this image's generator."""
    load: Callable[[], EditCase]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a task. Exactly one of ``image`` and ``error`` is set."""

    case_id: str
    image: Image.Image | None
    """``RGB``, at the method's native size."""
    size: tuple[int, int] | None
    """``(width, height)`` of the case's source, to which the image is to be brought back."""
    seconds: float | None
    error: str | None = None
    peak_memory: int | None = None


class Session(Protocol):
    """One method, loaded."""

    def edits(self, tasks: Iterable[Task]) -> Iterator[list[Outcome]]:
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

    def open(self, method: ConfiguredMethod, note: Note) -> Session:
        """Loads a method. Raises whatever its constructor does."""
        ...


def create(method: ConfiguredMethod, runtime: Runtime) -> EditMethod:
    """The factory that everything but tests uses."""
    return method.create(runtime)


class ExecutorError(BenchError):
    """An executor that cannot work. The message says the remedy."""


# One method around one device


@dataclass(frozen=True, eq=False)
class _Prepared:
    case: EditCase
    """Its request at the method's native size, with the image's seed."""
    size: tuple[int, int]


class Editor:
    """One loaded method: native size, batches, memory, failures, time. Used by every executor."""

    def __init__(
        self, method: EditMethod, *, wants_truth: bool, batch_size: int, device: str, note: Note
    ) -> None:
        self._method = method
        self._wants_truth = wants_truth
        self._wants_cases = method.wants_cases
        self._device = device
        self._note = note
        self.batch_size = batch_size
        """The largest batch that is tried; halved, for good, each time memory does not suffice."""

    def prepare(self, case: EditCase, seed: int) -> _Prepared:
        """The case as the method sees it. Thread-safe. Raises ``ImageError`` for a mask lost in resizing."""
        request = replace(case.request, seed=seed)
        size = request.source.size
        side = self._method.native_size
        if side is not None and size != (side, side):
            request = replace(
                request,
                source=resize(request.source, side),
                mask=_native_mask(request.mask, side, "the mask"),
                regions=tuple(
                    Region(
                        _native_mask(region.mask, side, f"the mask of region {index}"),
                        region.prompt,
                        region.words,
                    )
                    for index, region in enumerate(request.regions)
                ),
            )
        return _Prepared(replace(case, request=request), size)

    def edit(self, batch: Sequence[_Prepared]) -> list[Outcome]:
        """Every case's outcome, in order. An exception that the method raises becomes an outcome.

        Out of memory halves the batch and goes on. Any other failure of a batch is retried one by one, so
        that one bad case spoils no other.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(batch):
            chunk = batch[len(outcomes) : len(outcomes) + self.batch_size]
            attempt = self._attempt(chunk)
            if attempt.out_of_memory and len(chunk) > 1:
                free_memory()
                self.batch_size = len(chunk) // 2
                self._note(f"out of memory with a batch of {len(chunk)}: going on with {self.batch_size}")
            elif attempt.error is not None and len(chunk) > 1:
                for item in chunk:
                    outcomes += self._outcomes([item], self._attempt([item]))
            else:
                outcomes += self._outcomes(chunk, attempt)
        return outcomes

    def _attempt(self, chunk: Sequence[_Prepared]) -> _Attempt:
        cases = [item.case for item in chunk]
        cuda = _cuda(self._device)
        if cuda is not None:
            cuda.reset_peak_memory_stats(self._device)
        error: str | None = None
        out_of_memory = False
        images: Sequence[Any] = ()
        start = time.perf_counter()
        try:
            if self._wants_truth or self._wants_cases:
                visible_cases = cases if self._wants_truth else [_blind(case) for case in cases]
                images = list(self._method.edit_cases(visible_cases))
            else:
                requests: list[EditRequest] = [case.request for case in cases]
                images = list(self._method.edit(requests))
            if len(images) != len(chunk):
                error = f"it returned {len(images)} images for {len(chunk)} requests"
        except (Exception, SystemExit) as failure:
            # SystemExit too: a method ends its edit, never the run.
            log.debug("a batch of %d failed", len(chunk), exc_info=True)
            out_of_memory = is_out_of_memory(failure)
            error = describe(failure)
        seconds = (time.perf_counter() - start) / len(chunk)
        peak = int(cuda.max_memory_allocated(self._device)) if cuda is not None else None
        return _Attempt(images, error, out_of_memory, seconds, peak)

    def _outcomes(self, chunk: Sequence[_Prepared], attempt: _Attempt) -> list[Outcome]:
        outcomes = []
        for index, item in enumerate(chunk):
            error = attempt.error or _wrong(attempt.images[index], item.case.request.source.size)
            outcomes.append(
                Outcome(
                    case_id=item.case.id,
                    image=None if error else attempt.images[index],
                    size=item.size,
                    seconds=attempt.seconds,
                    error=error,
                    peak_memory=attempt.peak_memory,
                )
            )
        return outcomes


@dataclass(frozen=True, eq=False)
class _Attempt:
    images: Sequence[Any]
    error: str | None
    out_of_memory: bool
    seconds: float
    """Per image."""
    peak_memory: int | None


def _blind(case: EditCase) -> EditCase:
    """The case for a method with ``wants_cases``: which one it is and what it asks, not what is right."""
    return replace(case, claims=(), truth=None, tags={})


def _native_mask(mask: Image.Image, side: int, name: str) -> Image.Image:
    native = resize_mask(mask, side)
    if native.getextrema()[1] == 0:
        raise ImageError(f"{name} is too thin: nothing of it is left at the method's native {side}x{side}.")
    return native


def _wrong(image: object, size: tuple[int, int]) -> str | None:
    """What is wrong with a method's output, where RGB of ``size`` is due."""
    if not isinstance(image, Image.Image):
        return f"it returned {type(image).__name__} where an image is due"
    if image.size != size:
        return f"it returned an image of {image.size} where {size} is due"
    if image.mode != "RGB":
        return f"it returned an image of mode {image.mode} where RGB is due"
    return None


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether an exception says that memory did not suffice: torch on any device, JAX, or Python itself."""
    if isinstance(failure, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(failure, torch.cuda.OutOfMemoryError):
        return True
    text = str(failure).lower()
    return isinstance(failure, RuntimeError) and any(
        sign in text for sign in ("out of memory", "can't allocate memory", "resource_exhausted")
    )


def threads() -> int | None:
    """Number of torch's threads, on which a CPU's rounding depends; None where torch is not loaded. Imports nothing."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def free_memory() -> None:
    """Gives back what no object holds any more, the accelerator's cache too. Imports nothing."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _cuda(device: str) -> Any:
    """``torch.cuda`` where ``device`` is one of its and it runs, else None. Imports nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return torch.cuda


class LocalExecutor:
    """Edits in this process; decoding and resizing run ahead of the device in threads."""

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

    def open(self, method: ConfiguredMethod, note: Note) -> Session:
        """Loads a method. Raises whatever its constructor does."""
        digest = method.spec.digest
        editor = Editor(
            self._factory(method, self.runtime),
            wants_truth=method.wants_truth,
            batch_size=self._batch_sizes.get(digest, self.batch_size),
            device=self.runtime.device,
            note=note,
        )

        def remember() -> None:
            self._batch_sizes[digest] = editor.batch_size

        return _LocalSession(editor, self._readers, remember)


class _LocalSession:
    def __init__(self, editor: Editor, readers: int, on_close: Callable[[], None]) -> None:
        self._editor: Editor | None = editor
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self._on_close: Callable[[], None] | None = on_close

    def edits(self, tasks: Iterable[Task]) -> Iterator[list[Outcome]]:
        editor = self._editor
        assert editor is not None
        rest = iter(tasks)
        ahead: deque[tuple[Task, Future[_Prepared]]] = deque()

        def prepare(task: Task) -> _Prepared:
            return editor.prepare(task.load(), task.seed)

        def read_ahead() -> None:
            for task in islice(rest, max(0, 2 * editor.batch_size - len(ahead))):
                ahead.append((task, self._readers.submit(prepare, task)))

        read_ahead()
        while ahead:
            chunk = [ahead.popleft() for _ in range(min(editor.batch_size, len(ahead)))]
            read_ahead()
            outcomes: dict[str, Outcome] = {}
            prepared = []
            for task, future in chunk:
                try:
                    prepared.append(future.result())
                except Exception as failure:
                    outcomes[task.case_id] = Outcome(task.case_id, None, None, None, describe(failure))
            for outcome in editor.edit(prepared):
                outcomes[outcome.case_id] = outcome
            yield [outcomes[task.case_id] for task, _ in chunk]

    def close(self) -> None:
        if self._on_close is not None:
            self._on_close()
        self._readers.shutdown(cancel_futures=True)
        # Every reference to the method goes before memory is given back, the closure's too.
        self._editor = self._on_close = None
        free_memory()


def _check_batch(batch_size: int) -> None:
    if batch_size < 1:
        raise ExecutorError(f"a batch size of {batch_size}; it must be at least 1.")


# Ray's actors


class _RemoteEditor:
    """What an actor runs: the very same Editor."""

    def __init__(self, method: ConfiguredMethod, runtime: Runtime, batch_size: int, factory: Factory) -> None:
        self._editor = Editor(
            factory(method, runtime),
            wants_truth=method.wants_truth,
            batch_size=batch_size,
            device=runtime.device,
            note=log.warning,
        )

    def ready(self) -> bool:
        return True

    def edit(self, batch: Sequence[tuple[EditCase, int]]) -> list[Outcome]:
        outcomes: list[Outcome | None] = []
        prepared = []
        for case, seed in batch:
            try:
                prepared.append(self._editor.prepare(case, seed))
                outcomes.append(None)
            except Exception as failure:
                outcomes.append(Outcome(case.id, None, None, None, describe(failure)))
        edited = iter(self._editor.edit(prepared))
        return [outcome or next(edited) for outcome in outcomes]


class RayExecutor:
    """Edits on Ray's actors, one model each. The driver decodes, sends cases, and alone stores what returns.

    Methods must be importable where the actors run; data need not be there.
    """

    def __init__(
        self,
        runtime: Runtime | None = None,
        *,
        batch_size: int = 4,
        actors: int = 1,
        factory: Factory = create,
    ) -> None:
        """Raises :class:`ExecutorError` where Ray is not installed; starts or joins its cluster."""
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

    def open(self, method: ConfiguredMethod, note: Note) -> Session:
        """Loads a method on every actor. Raises what the first of them raises."""
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

    def edits(self, tasks: Iterable[Task]) -> Iterator[list[Outcome]]:
        rest = iter(tasks)
        # Two batches per actor: one being edited, one waiting there.
        flying: deque[tuple[list[Outcome], list[str], Any]] = deque()
        turn = 0
        while True:
            while len(flying) < 2 * len(self._actors):
                chunk = list(islice(rest, self._batch_size))
                if not chunk:
                    break
                unread: list[Outcome] = []
                batch = []
                for task in chunk:
                    try:
                        batch.append((task.load(), task.seed))
                    except Exception as failure:
                        unread.append(Outcome(task.case_id, None, None, None, describe(failure)))
                actor = self._actors[turn % len(self._actors)]
                turn += 1
                flying.append((unread, [task.case_id for task in chunk], actor.edit.remote(batch)))
            if not flying:
                return
            unread, ids, reference = flying.popleft()
            outcomes = {outcome.case_id: outcome for outcome in unread}
            try:
                edited: list[Outcome] = self._ray.get(reference)
            except self._ray.exceptions.RayError as failure:
                # The actor died for good: its cases failed, and the next run makes them again.
                error = describe(failure)
                edited = [Outcome(name, None, None, None, error) for name in ids if name not in outcomes]
            outcomes.update((outcome.case_id, outcome) for outcome in edited)
            yield [outcomes[name] for name in ids]

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)

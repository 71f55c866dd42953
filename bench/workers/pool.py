"""Sends batches to workers, takes the results in order, and does the work of lost workers again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.workers.host import Answer, Make, WorkerLost, batch_request, load_request

Note = Callable[[str], object]
"""Takes a message that the user should read."""

# Batches that a worker has at once: one is worked on, the other waits in it.
_DEPTH = 2
# A batch whose worker is lost this often is divided into single items, because one of them may be the cause.
_BATCH_LOSSES = 2
# An item on its own whose worker is lost this often gets an error as its result.
_ITEM_LOSSES = 3
# A worker that is lost this often in a row before it has a model is given up.
_LOADING_LOSSES = 3


class Worker(Protocol):
    """A running worker. It answers requests in order."""

    def ask(self, request: tuple[str, object]) -> Future[Answer]:
        """The future of the answer. It raises :class:`WorkerLost` where the worker ends before."""
        ...

    def stop(self) -> None:
        """Ends the worker at once."""
        ...


@dataclass(frozen=True, eq=False)
class BatchReply:
    """The results of one batch."""

    results: list[Any]
    """One per item, in order."""
    asides: list[Any]
    """Remarks of the model beside the results: one, or one for each part of a batch that was divided."""


@dataclass(eq=False)
class _Batch:
    """A batch that was taken and whose reply was not given yet."""

    results: list[Any]
    asides: list[Any] = field(default_factory=list)
    # Number of items without a result.
    missing: int = 0


@dataclass(eq=False)
class _Part:
    """A whole batch, or one item of it, as it is sent to a worker."""

    batch: _Batch
    # Position of the first item in the batch.
    start: int
    items: Sequence[Any]
    losses: int = 0

    def fill(self, results: Sequence[Any]) -> None:
        self.batch.results[self.start : self.start + len(self.items)] = results
        self.batch.missing -= len(self.items)


@dataclass(eq=False)
class _Seat:
    """The place of one worker. A lost worker is replaced here."""

    number: int
    worker: Worker | None = None
    # The answer to the request to load a model. None where no model was requested.
    loading: Future[Answer] | None = None
    is_ready: bool = False
    # Parts that the worker has, the oldest first, with the futures of their answers.
    sent: deque[tuple[_Part, Future[Answer]]] = field(default_factory=deque)
    # Workers that were lost here since one had a model.
    losses: int = 0
    # True once too many were lost: the place stays empty.
    is_given_up: bool = False

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.worker, self.loading, self.is_ready = None, None, False
        self.sent.clear()


class Workers:
    """Workers that hold one model each. They are started on first use and serve one model after the other.

    The process that has this object, the driver, reads all inputs and stores all results. Workers do neither.
    """

    def __init__(
        self,
        start: Callable[[int], Worker],
        count: int,
        *,
        device: str,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """``start(i)`` starts the worker of place i. ``close`` is called once all are stopped.

        ``device`` is their kind of device, for records: ``cpu``, ``cuda`` or ``mps``.
        """
        self.count = count
        self.device = device
        self.torch_threads: int | None = None
        """Number of torch's threads in each worker, once a model is loaded. None where the model does not use torch."""
        self._start = start
        self._close = close
        self._seats = [_Seat(number) for number in range(count)]
        self._make: Make | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops all workers."""
        for seat in self._seats:
            seat.stop()
        self._close()

    def load(self, make: Make, note: Note) -> None:
        """Loads a model in every worker. Raises the error of one that cannot load it, or :class:`WorkerLost`."""
        self._make = make
        for seat in self._seats:
            seat.losses, seat.is_given_up = 0, False
            self._request_model(seat)
        while waiting := [seat.loading for seat in self._seats if seat.loading is not None]:
            wait(waiting, return_when=FIRST_COMPLETED)
            for seat in self._seats:
                self._check_loading(seat, note)

    def unload(self) -> None:
        """Frees the model of every worker."""
        self._make = None
        for seat in self._seats:
            # A worker that still works on something is not worth waiting for.
            if seat.sent or seat.loading is not None:
                seat.stop()
            elif seat.worker is not None:
                seat.is_ready = False

    def map(
        self, batches: Iterable[Sequence[Any]], lost: Callable[[Any, str], Any], note: Note
    ) -> Iterator[BatchReply]:
        """The replies to the batches, in order. Batches are taken only as they are needed.

        The work of a lost worker is done again. A batch that loses two workers is divided, so that an item that ends
        its process fails alone: ``lost(item, error)`` is its result. Raises what the model raises, and
        :class:`WorkerLost` where no worker can load the model any more.
        """
        rest = iter(batches)
        # Batches whose replies were not given yet, in order, and parts that no worker has.
        open_batches: deque[_Batch] = deque()
        waiting: deque[_Part] = deque()
        # So many open batches keep all workers busy while one of them is slow.
        most = 2 * _DEPTH * self.count
        # Workers that were stopped in the middle of an earlier call.
        for seat in self._seats:
            if seat.worker is None and not seat.is_given_up:
                self._request_model(seat)
        try:
            while True:
                # Take batches.
                while len(open_batches) < most and (items := next(rest, None)) is not None:
                    open_batches.append(_Batch([None] * len(items), missing=len(items)))
                    if items:
                        waiting.append(_Part(open_batches[-1], 0, items))
                if not open_batches:
                    return
                # Give the replies that are complete.
                while open_batches and not open_batches[0].missing:
                    done = open_batches.popleft()
                    yield BatchReply(done.results, done.asides)
                # Send and receive, unless all that was taken is done.
                if open_batches:
                    self._send(waiting)
                    self._receive(waiting, lost, note)
        finally:
            # Stopped early: answers to come belong to nobody.
            for seat in self._seats:
                if seat.sent:
                    seat.stop()

    def _send(self, waiting: deque[_Part]) -> None:
        """Gives waiting parts to workers with room: one to each, then a second one."""
        for depth in range(1, _DEPTH + 1):
            for seat in self._seats:
                if waiting and seat.is_ready and seat.worker is not None and len(seat.sent) < depth:
                    part = waiting.popleft()
                    seat.sent.append((part, seat.worker.ask(batch_request(part.items))))

    def _receive(self, waiting: deque[_Part], lost: Callable[[Any, str], Any], note: Note) -> None:
        """Waits for an answer of any worker, and takes all answers that are there."""
        due = [seat.sent[0][1] for seat in self._seats if seat.sent]
        due += [seat.loading for seat in self._seats if seat.loading is not None]
        if not due:
            raise WorkerLost("no worker is left: each was lost again and again while it loaded the model")
        wait(due, return_when=FIRST_COMPLETED)
        for seat in self._seats:
            self._check_loading(seat, note)
            while seat.sent and seat.sent[0][1].done():
                part, future = seat.sent.popleft()
                try:
                    answer = future.result()
                except WorkerLost as loss:
                    self._take_back(seat, part, waiting, lost, loss, note)
                    break
                if answer.error is not None:
                    raise answer.error
                results, aside = answer.value
                part.fill(results)
                part.batch.asides.append(aside)

    def _take_back(
        self,
        seat: _Seat,
        part: _Part,
        waiting: deque[_Part],
        lost: Callable[[Any, str], Any],
        loss: WorkerLost,
        note: Note,
    ) -> None:
        """Replaces a lost worker. ``part`` is what it was working on. The part behind it cannot be the cause."""
        again = [behind for behind, _ in seat.sent]
        part.losses += 1
        if len(part.items) == 1 and part.losses >= _ITEM_LOSSES:
            part.fill([lost(part.items[0], f"{loss}, {part.losses} times, while it worked on this case")])
        elif len(part.items) > 1 and part.losses >= _BATCH_LOSSES:
            again = [
                _Part(part.batch, part.start + i, part.items[i : i + 1]) for i in range(len(part.items))
            ] + again
        else:
            again.insert(0, part)
        # The oldest first.
        waiting.extendleft(reversed(again))
        note(f"{loss}: another one does its work again")
        seat.stop()
        self._request_model(seat)

    def _request_model(self, seat: _Seat) -> None:
        assert self._make is not None
        seat.worker = seat.worker or self._start(seat.number)
        seat.loading = seat.worker.ask(load_request(self._make))
        seat.is_ready = False

    def _check_loading(self, seat: _Seat, note: Note) -> None:
        """Makes a worker ready whose model is loaded. Replaces one that was lost before."""
        if seat.loading is None or not seat.loading.done():
            return
        try:
            answer = seat.loading.result()
        except WorkerLost as loss:
            seat.stop()
            seat.losses += 1
            seat.is_given_up = seat.losses >= _LOADING_LOSSES
            if not seat.is_given_up:
                self._request_model(seat)
                return
            note(
                f"{loss}, {seat.losses} times, while it loaded the model. No further one is started in its place"
            )
            if all(other.is_given_up for other in self._seats):
                raise
            return
        seat.loading = None
        if answer.error is not None:
            raise answer.error
        seat.is_ready = True
        seat.losses = 0
        self.torch_threads = answer.value

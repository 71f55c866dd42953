"""The order of results, lost workers, and errors: with workers that are threads of this process."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from bench.workers import WorkerLost, Workers
from bench.workers.host import Answer, Host
from tests.bench.workers.work import Doubles, cannot_load


class Thread:
    """A worker that is a thread. It is lost where ``is_lost`` says so of a request's argument."""

    def __init__(self, is_lost: Callable[[Any], bool]) -> None:
        self.host = Host("cpu", None)
        self.is_lost = is_lost
        self.is_dead = False
        self.thread = ThreadPoolExecutor(1)

    def ask(self, request: tuple[str, object]) -> Future[Answer]:
        return self.thread.submit(self.answer, request)

    def answer(self, request: tuple[str, object]) -> Answer:
        self.is_dead = self.is_dead or self.is_lost(request[1])
        if self.is_dead:
            raise WorkerLost("the worker was lost")
        return self.host.answer(pickle.dumps(request))

    def stop(self) -> None:
        self.is_dead = True
        self.thread.shutdown(cancel_futures=True)


def threads(count: int, is_lost: Callable[[Any], bool] = lambda argument: False) -> Workers:
    return Workers(lambda number: Thread(is_lost), count, device="cpu")


def batches(count: int, size: int = 3) -> Iterator[list[Any]]:
    return (list(range(size * i, size * i + size)) for i in range(count))


def lost(item: Any, error: str) -> str:
    return f"{item}: {error}"


def test_replies_come_in_order_and_batches_are_taken_as_needed() -> None:
    taken: list[int] = []

    def watched() -> Iterator[list[int]]:
        for batch in batches(40):
            taken.append(batch[0])
            yield batch

    with threads(3) as workers:
        workers.load(Doubles, print)
        replies = workers.map(watched(), lost, print)
        first = next(replies)
        assert first.results == [0, 2, 4]
        assert len(taken) <= 13, "four open batches for each worker at most"
        rest = [reply.results for reply in replies]
    assert rest == [[2 * i for i in batch] for batch in batches(40)][1:]


def test_batches_may_come_later_than_all_earlier_replies() -> None:
    with threads(2) as workers:
        workers.load(Doubles, print)

        def slow() -> Iterator[list[int]]:
            for number in range(12):
                # Every batch that was taken before is done by now, in most cases.
                time.sleep(0.02)
                yield [number]

        replies = [reply.results for reply in workers.map(slow(), lost, print)]
        assert replies == [[2 * number] for number in range(12)]


def test_an_empty_batch_has_an_empty_reply() -> None:
    with threads(2) as workers:
        workers.load(Doubles, print)
        assert [reply.results for reply in workers.map([[], [1], []], lost, print)] == [[], [2], []]


@pytest.mark.parametrize("count", [1, 2])
def test_the_work_of_lost_workers_is_done_again(count: int) -> None:
    seen: list[Any] = []

    def once_each(argument: Any) -> bool:
        # The first worker that gets a batch is lost, every time.
        new = isinstance(argument, list) and argument not in seen
        if new:
            seen.append(argument)
        return new

    notes: list[str] = []
    with threads(count, once_each) as workers:
        workers.load(Doubles, notes.append)
        replies = list(workers.map(batches(8), lost, notes.append))
    assert [reply.results for reply in replies] == [[2 * i for i in batch] for batch in batches(8)]
    # Whole batches again, so that the composition of a batch stays as it was.
    assert [[size for _, size in reply.asides] for reply in replies] == [[3]] * 8
    assert notes == ["the worker was lost: another one does its work again"] * 8


def test_an_item_that_ends_its_worker_fails_alone() -> None:
    losses: list[list[int]] = []

    def is_lost(argument: Any) -> bool:
        if isinstance(argument, list) and 4 in argument:
            losses.append(argument)
            return True
        return False

    with threads(2, is_lost) as workers:
        workers.load(Doubles, print)
        replies = list(workers.map(batches(4), lost, lambda note: None))
    error = "4: the worker was lost, 3 times, while it worked on this case"
    assert [reply.results for reply in replies] == [[0, 2, 4], [6, error, 10], [12, 14, 16], [18, 20, 22]]
    assert losses == [[3, 4, 5]] * 2 + [[4]] * 3


def test_errors_of_the_model_are_raised_here() -> None:
    with threads(2) as workers:
        with pytest.raises(FileNotFoundError, match="no weights for cpu"):
            workers.load(cannot_load, print)
        workers.load(Doubles, print)
        with pytest.raises(RuntimeError, match=r"^TwoPartError: no number$"):
            list(workers.map([[1], ["wrong"], [2]], lost, print))
        # The workers serve again.
        assert [reply.results for reply in workers.map(batches(2), lost, print)] == [[0, 2, 4], [6, 8, 10]]


def test_results_of_a_call_that_was_given_up_do_not_reach_the_next() -> None:
    with threads(2) as workers:
        workers.load(Doubles, print)
        replies = workers.map(batches(30), lost, print)
        next(replies)
        replies.close()
        assert [reply.results for reply in workers.map([[100], [200]], lost, print)] == [[200], [400]]


def test_a_place_where_no_worker_can_load_is_given_up() -> None:
    started: list[int] = []

    def start(number: int) -> Thread:
        started.append(number)
        return Thread(lambda argument: number == 1)

    notes: list[str] = []
    with Workers(start, 2, device="cpu") as workers:
        workers.load(Doubles, notes.append)
        results = [reply.results for reply in workers.map(batches(4), lost, notes.append)]
    assert results == [[2 * i for i in batch] for batch in batches(4)]
    assert sorted(started) == [0, 1, 1, 1]
    assert notes == [
        "the worker was lost, 3 times, while it loaded the model. No further one is started in its place"
    ]
    with threads(2, lambda argument: True) as workers, pytest.raises(WorkerLost):
        workers.load(Doubles, notes.append)

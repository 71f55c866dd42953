"""Asks a judge the questions that have no reply: some at one time, each once, each stored as it comes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.endpoints.client import NoAccess
from bench.judges.cache import ReplyCache
from bench.judges.chat import Reply, ask, connect, request_body
from bench.judges.options import Judge
from bench.judges.prices import Bill, Size
from bench.judges.reading import Scores, Unread, read_scores
from bench.judges.replies import ReplyKey, ReplyLog
from bench.judges.rubrics import Question

if TYPE_CHECKING:
    from bench.store import RunStore

# Answers in a row that say the request has a wrong form, after which the judge is not asked any more.
MANY_REJECTED = 5


@dataclass(frozen=True, eq=False)
class Call:
    """One question to ask."""

    key: ReplyKey
    question: Question
    text: str
    urls: Sequence[str]
    """The images, encoded."""
    sizes: Sequence[Size]
    """Width and height of each image as it is sent."""


class Asker:
    """Asks one judge about one run. The run must be locked before the first question."""

    def __init__(self, store: RunStore, judge: Judge) -> None:
        self.log = ReplyLog(store, judge.digest)
        self.bill = Bill(judge.options)
        self.calls = 0
        """Replies that came."""
        self.shared = 0
        """Replies from the cache."""
        self._lock = threading.Lock()
        self._judge = judge
        self._cache = ReplyCache(store, judge)
        self._endpoint = connect(judge)

    def needs_call(self, key: ReplyKey, question: Question) -> bool:
        """False where there is a reply. That of another run is copied into this run's log.

        Raises RubricError where the rubric has no wording for the case.
        """
        if self.log.find(key) is not None:
            return False
        reply = self._cache.find(key, question)
        if reply is None:
            return True
        self.log.add(key, reply, read_reply(reply, question, self._judge.wording.rubric.scale))
        self.shared += 1
        return False

    def ask(self, calls: Iterable[Call]) -> None:
        """Carries out calls. Stores what is answered, then raises the first NoAccess, CeilingReached or StoreError."""
        rejected = 0
        with ThreadPoolExecutor(self._judge.options.concurrency, thread_name_prefix="judge") as pool:
            futures = [pool.submit(self._carry_out, call) for call in calls]
            try:
                for future in futures:
                    reply = future.result()
                    problem = reply.problem
                    rejected = rejected + 1 if problem is not None and problem.kind == "rejected" else 0
                    if problem is not None and rejected >= MANY_REJECTED:
                        raise NoAccess(
                            f"{rejected} requests in a row were rejected. The last: {problem.detail}"
                        )
            except BaseException:
                # Calls that have not begun are not made. Those under way end, and their replies are stored.
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _carry_out(self, call: Call) -> Reply:
        options, scale = self._judge.options, self._judge.wording.rubric.scale
        body = request_body(options, call.text, call.urls, call.key.number)
        reserved = self.bill.reserve(call.text, call.sizes)
        reply = ask(self._endpoint, body, price=reserved)
        if reply.text is not None:
            price = self.bill.add(reply.usage, reserved, call.text, call.sizes)
            self._endpoint.settle(reserved or 0.0, price)
        try:
            self._cache.add(call.key, call.question, reply)
        finally:
            # A full disk of the cache must not lose a reply that was paid for.
            self.log.add(call.key, reply, read_reply(reply, call.question, scale))
        with self._lock:
            self.calls += 1
        return reply


def read_reply(reply: Reply, question: Question, scale: tuple[float, float]) -> Scores | Unread:
    """The scores in a reply, or why there are none."""
    if reply.problem is not None:
        return reply.problem
    assert reply.text is not None
    return read_scores(
        reply.text, question.reply, question.scores, scale, finish=reply.finish, refusal=reply.refusal
    )

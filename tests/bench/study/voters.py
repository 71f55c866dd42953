"""Raters as a process of their own, to be killed: ``python -m tests.bench.study.voters STORE STUDY RATERS...``.

One thread per rater. For each vote that the store has confirmed, a line ``RATER TRIAL ANSWER`` is written to
the standard output before the next one is asked for.
"""

from __future__ import annotations

import os
import sys
import threading

from bench.study.store import StudyStore


def answer_of(rater: str, trial: str, ties: bool) -> int | str:
    """An answer that depends on nothing else: whoever checks can tell what it must be."""
    # Left, right or a tie, by the sum of the bytes.
    value = sum((rater + trial).encode()) % 3
    return "tie" if value == 2 and ties else value % 2


def vote(store: StudyStore, rater: str) -> None:
    store.consent(rater)
    while (trial := store.next_trial(rater)) is not None:
        answer = answer_of(rater, trial.id, trial.tie)
        stored = store.vote(rater, trial.id, answer, 1000)
        # One write, so that the lines of threads do not mix.
        os.write(1, f"{rater} {trial.id} {stored.answer}\n".encode())


def main(target: str, raters: list[str]) -> None:
    with StudyStore.open(target, create=False, patience=120) as store:
        threads = [threading.Thread(target=vote, args=(store, rater)) for rater in raters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

"""Run folders for the tests of the study: noise, edited by methods small enough to see through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.executors import LocalExecutor
from bench.runner import make_plan, run
from bench.store import RunStore
from bench.study.interface import Answer, OpenTrial
from bench.study.store import StudyStore
from tests.bench.fakes import method, protocol


def make_run(path: Path, *, cases: int, strengths: Sequence[float], oracle: bool = True) -> Path:
    """A finished run: methods A, B, ... of the given strengths, and the oracle."""
    methods = [
        method("fake", label=chr(ord("A") + index), strength=strength)
        for index, strength in enumerate(strengths)
    ]
    if oracle:
        methods.append(method("oracle"))
    plan = make_plan([protocol(count=cases)], methods)
    with RunStore.open(path, create=True) as store:
        done = run(plan, store, LocalExecutor(batch_size=16))
    assert done.failed == 0
    return path


def answer_all(store: StudyStore, rater: str, answer: Answer = 0) -> list[OpenTrial]:
    """Answers every trial of a rater alike; the trials in order."""
    store.consent(rater)
    seen = []
    while (trial := store.next_trial(rater)) is not None:
        seen.append(trial)
        assert store.vote(rater, trial.id, answer, 1500).new
    return seen

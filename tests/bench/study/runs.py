"""Runs, raters and a clock for the tests of the study."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.executors import LocalExecutor
from bench.plan import make_plan
from bench.runner import run
from bench.store import RunStore
from bench.study.database import Clock
from bench.study.interface import Answer, OpenTrial
from bench.study.settings import StudySettings
from bench.study.store import StudyStore
from bench.study.types import Trial
from tests.bench.fakes import method, protocol

OPEN = StudySettings(open_registration=True, lease_seconds=600)
PROLIFIC = {"PROLIFIC_PID": "5f3c", "STUDY_ID": "60aa", "SESSION_ID": "71bb"}


class HandClock(Clock):
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


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


def begin(store: StudyStore, external: str = "") -> str:
    """A rater who has entered the study `taste` and agreed."""
    rater = store.enter("taste", external).rater
    store.consent(rater)
    return rater


def on_sheet(store: StudyStore, rater: str, trial: str) -> Trial:
    """The design's trial behind one that was shown."""
    return store.unblinded(rater, trial).trial


def answer_all(store: StudyStore, rater: str, answer: Answer = 0) -> list[OpenTrial]:
    """Gives the same answer to every trial of a rater. Returns the trials in order."""
    store.consent(rater)
    trials = []
    while (trial := store.next_trial(rater)) is not None:
        trials.append(trial)
        assert store.vote(rater, trial.id, answer, 1500).new
    return trials

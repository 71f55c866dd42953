"""Raters that are none: for tests, for load, and for trying out an analysis before anyone has voted.

They come in and vote by the store's own door, as ``simulated``, and have trials, sheets and holds of their
own kind: they take nothing from people, and no figure of people counts them.

A rater's answer to a pair i (first), j follows Davidson (1970) with an advantage of the first place::

    P(i) : P(j) : P(tie)  =  b s_i : s_j : nu sqrt(b s_i s_j)

s are strengths (Bradley-Terry), nu is the tendency to ties, log b the position bias. Of several, the first
is chosen with b s_1 / (b s_1 + s_2 + ...) and so on (Luce). An inattentive rater answers at random, fast or
slowly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.study import StudyError
from bench.study.models import SIMULATED
from bench.study.types import GROUND_TRUTH, NOISE, SOURCE, Trial

if TYPE_CHECKING:
    from bench.progress import Progress
    from bench.study.interface import Answer
    from bench.study.store import StudyStore

CONTROL_STRENGTHS: Mapping[str, float] = {GROUND_TRUTH: 6.0, SOURCE: 0.0, NOISE: -6.0}
"""Logarithms: an attentive rater fails an attention check about six times in a million."""


class SimulationError(StudyError):
    """Simulated raters that cannot be. The message names the parameter."""


@dataclass(frozen=True)
class Taste:
    """What all simulated raters have in common."""

    strengths: Mapping[str, float] = field(default_factory=dict)
    """Method's title -> log of its strength; 0 where it is not named."""
    ties: float = 0.3
    """Davidson's nu: 0 never ties; with equal strengths, nu / (2 + nu) of the pairs are ties."""
    position_bias: float = 0.0
    """Log odds in favour of the first candidate."""
    inattentive: float = 0.0
    """Share of raters who answer at random, and fast: a bound on the median reaction time finds them."""
    inattentive_slow: float = 0.0
    """Share of raters who answer at random, as slowly as the attentive: only attention checks find them."""
    spread: float = 0.0
    """Standard deviation, between raters, of a method's log strength."""

    def check(self, methods: Sequence[str]) -> None:
        """Raises :class:`SimulationError`."""
        unknown = sorted(set(self.strengths) - set(methods))
        if unknown:
            raise SimulationError(
                f"--strength {unknown[0]!r}: the study has no such method. It has: {', '.join(methods)}."
            )
        values = [*self.strengths.values(), self.ties, self.position_bias, self.spread]
        if not all(map(math.isfinite, values)) or self.ties < 0 or self.spread < 0:
            raise SimulationError("strengths, ties, bias and spread: expected numbers; ties and spread >= 0.")
        for name, value in (
            ("--inattentive", self.inattentive),
            ("--inattentive-slow", self.inattentive_slow),
        ):
            if not 0 <= value <= 1:
                raise SimulationError(f"{name} {value}: expected a share from 0 to 1.")
        if self.inattentive + self.inattentive_slow > 1:
            raise SimulationError(
                "--inattentive and --inattentive-slow: together they are more than 1. Lower one of them."
            )


class SimulatedRater:
    """One rater's taste and attention; the same for the same seed and number."""

    def __init__(self, taste: Taste, methods: Sequence[str], seed: int, number: int) -> None:
        self._random = random.Random(f"{seed}/{number}")
        self._taste = taste
        drawn = self._random.random()
        self.attentive = drawn >= taste.inattentive + taste.inattentive_slow
        self.fast = drawn < taste.inattentive
        self._strengths = {
            title: taste.strengths.get(title, 0.0) + taste.spread * self._random.gauss(0, 1)
            for title in methods
        }

    def answer(self, trial: Trial, tie: bool) -> tuple[Answer, int]:
        """A position or ``"tie"``, and the milliseconds that it took."""
        answers: list[Answer] = list(range(len(trial.candidates)))
        if tie:
            answers.append("tie")
        if not self.attentive:
            answer = self._random.choice(answers)
            # Medians of 0.5 and, as of the attentive, 4 seconds.
            return answer, round(self._random.lognormvariate(*((6.2, 0.4) if self.fast else (8.3, 0.5))))
        chances = probabilities(
            [self._strength(title) for title in trial.candidates],
            self._taste.ties if tie else None,
            self._taste.position_bias,
        )
        chosen = self._random.choices(answers, weights=chances)[0]
        return chosen, round(self._random.lognormvariate(8.3, 0.5))

    def _strength(self, title: str) -> float:
        if title in self._strengths:
            return self._strengths[title]
        return CONTROL_STRENGTHS[NOISE if title.startswith(NOISE) else title]


def probabilities(strengths: Sequence[float], ties: float | None, bias: float = 0.0) -> list[float]:
    """Of each candidate, in order, given their log strengths; of a tie last, where ``ties`` is not None.

    Raises :class:`SimulationError` for ties among other than two.
    """
    logs = [strengths[0] + bias, *strengths[1:]]
    top = max(logs)
    weights = [math.exp(value - top) for value in logs]
    if ties is not None:
        if len(weights) != 2:
            raise SimulationError("ties are between two.")
        weights.append(ties * math.sqrt(weights[0] * weights[1]))
    total = sum(weights)
    return [weight / total for weight in weights]


def simulate(
    store: StudyStore,
    study: str,
    raters: int,
    taste: Taste = Taste(),
    *,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> int:
    """Lets ``raters`` simulated raters answer all that they are asked; returns how many votes they stored.

    With one thread, the same seed gives the same votes. Raises :class:`SimulationError`, and
    ``store.StudyFull`` where the study has fewer sheets left.
    """
    from bench.progress import Silent

    design = store.study(study).design
    taste.check(design.methods)
    if raters < 1:
        raise SimulationError(f"--raters {raters}: expected 1 or more.")
    bar = progress or Silent()
    bar.start(raters, f"simulated raters of {study}")

    def run(number: int) -> int:
        rater = store.register(study, kind=SIMULATED).rater
        store.consent(rater)
        mind = SimulatedRater(taste, design.methods, seed, number)
        stored = 0
        while (trial := store.next_trial(rater)) is not None:
            answer, took = mind.answer(store.unblinded(rater, trial.id).trial, trial.tie)
            stored += store.vote(rater, trial.id, answer, took).new
        bar.advance()
        return stored

    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="rater") as pool:
            return sum(pool.map(run, range(raters)))
    finally:
        bar.stop()

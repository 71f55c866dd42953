"""Simulated raters, for tests, for load tests, and to try an analysis before anyone has voted.

They register and vote through the store like people, as the kind ``simulated``. Their trials, sheets and reservations
are counted separately: people still get all trials, and no figure of people counts simulated votes.

A rater's answer to a pair i (first), j follows Davidson (1970), with an advantage of the first place::

    P(i) : P(j) : P(tie)  =  b s_i : s_j : nu sqrt(b s_i s_j)

s are strengths (Bradley-Terry), nu is the tendency to ties, log b the position bias. Among several candidates, the
probability of the first is b s_1 / (b s_1 + s_2 + ...), and so on (Luce's choice axiom, 1959). An inattentive rater
answers at random, fast or slowly.

A rating is a level on a scale of L levels: the whole part of L / (1 + exp(-(log s + e))), with standard normal noise e.
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
from bench.study.scales import Scale
from bench.study.types import GROUND_TRUTH, NOISE, SOURCE, Trial

if TYPE_CHECKING:
    from bench.study.interface import Answer
    from bench.study.store import StudyStore

# Log strengths of the controls. The odds of a failed attention check are exp(-12): about six in a million.
CONTROL_STRENGTHS: Mapping[str, float] = {GROUND_TRUTH: 6.0, SOURCE: 0.0, NOISE: -6.0}
# Reaction times are lognormal: (mean, standard deviation) of the log of milliseconds. The medians are 4 s and 0.5 s.
# The default exclusion rule asks for a median of 1 s, so it excludes the fast raters and no others.
_CAREFUL_MS = (8.3, 0.5)
_FAST_MS = (6.2, 0.4)


class SimulationError(StudyError):
    """A parameter of simulated raters outside its range. The message names it."""


@dataclass(frozen=True)
class Taste:
    """The parameters that all simulated raters of one call share."""

    # Method's title -> log of its strength. 0 for a method that is not named.
    strengths: Mapping[str, float] = field(default_factory=dict)
    # Davidson's nu. 0 never ties. With equal strengths, nu / (2 + nu) of the pairs are ties.
    ties: float = 0.3
    # Share of the answers without a preference that call both bad, where the study offers that answer.
    both_bad: float = 0.5
    # Log odds in favour of the first candidate.
    position_bias: float = 0.0
    # Share of raters who answer at random, and fast. A bound on the median reaction time excludes them.
    inattentive: float = 0.0
    # Share of raters who answer at random, as slowly as the attentive. Only attention checks expose them.
    inattentive_slow: float = 0.0
    # Standard deviation, between raters, of a method's log strength.
    spread: float = 0.0

    def check(self, methods: Sequence[str]) -> None:
        """Raises :class:`SimulationError` that names the option."""
        # Strengths of other methods are typing errors: they would change nothing.
        unknown = sorted(set(self.strengths) - set(methods))
        if unknown:
            raise SimulationError(
                f"--strength {unknown[0]!r}: the study has no such method. It has: {', '.join(methods)}."
            )
        # NaN passes every comparison, so finiteness is checked first.
        values = [*self.strengths.values(), self.ties, self.position_bias, self.spread]
        if not all(map(math.isfinite, values)) or self.ties < 0 or self.spread < 0:
            raise SimulationError("strengths, ties, bias and spread: expected numbers; ties and spread >= 0.")
        for name, value in (
            ("--inattentive", self.inattentive),
            ("--inattentive-slow", self.inattentive_slow),
            ("--both-bad", self.both_bad),
        ):
            if not 0 <= value <= 1:
                raise SimulationError(f"{name} {value}: expected a share from 0 to 1.")
        # One random number decides between fast, slow and attentive, so the shares add up.
        if self.inattentive + self.inattentive_slow > 1:
            raise SimulationError(
                "--inattentive and --inattentive-slow: together they are more than 1. Lower one of them."
            )


def parse_strengths(texts: Sequence[str]) -> dict[str, float]:
    """Reads ``METHOD=NUMBER`` as title -> log strength. Raises :class:`SimulationError` for another form."""
    strengths = {}
    for text in texts:
        # From the right: a method's title may hold an equals sign, a number does not.
        title, _, number = text.rpartition("=")
        try:
            strength = float(number)
        except ValueError:
            title = ""
        if not title:
            raise SimulationError(f"--strength {text!r}: write METHOD=NUMBER, such as 'GLIDE=0.8'.")
        strengths[title] = strength
    return strengths


class SimulatedRater:
    """One rater's taste and attention. The same seed and number give the same rater."""

    def __init__(self, taste: Taste, methods: Sequence[str], seed: int, number: int) -> None:
        # A generator per rater, so that the answers do not depend on the order in which threads run.
        self._random = random.Random(f"{seed}/{number}")
        self._taste = taste
        # 0..fast: fast and inattentive, fast..fast + slow: slow and inattentive, above: attentive.
        level = self._random.random()
        self.attentive = level >= taste.inattentive + taste.inattentive_slow
        self.fast = level < taste.inattentive
        self._strengths = {
            title: taste.strengths.get(title, 0.0) + taste.spread * self._random.gauss(0, 1)
            for title in methods
        }

    def answer(
        self, trial: Trial, tie: bool, both_bad: bool = False, scales: Sequence[Scale] = ()
    ) -> tuple[Answer, int]:
        """The answer, as ``StudyStore.vote`` takes it, and the milliseconds that it took.

        ``tie``, ``both_bad``: whether the trial may be answered so. ``scales``: those of a rating.
        """
        if trial.kind == "rate":
            reaction = self._reaction_ms(_FAST_MS if self.fast else _CAREFUL_MS)
            return self._ratings(trial, scales), reaction
        answers: list[Answer] = list(range(len(trial.candidates)))
        if tie:
            answers.append("tie")
        if both_bad:
            answers.append("both bad")
        if not self.attentive:
            answer = self._random.choice(answers)
            return answer, self._reaction_ms(_FAST_MS if self.fast else _CAREFUL_MS)
        weights = probabilities(
            [self._strength(title) for title in trial.candidates],
            self._taste.ties if tie or both_bad else None,
            self._taste.position_bias,
        )
        if tie and both_bad:
            # Davidson's tie is any answer without a preference.
            *others, no_preference = weights
            share = self._taste.both_bad
            weights = [*others, no_preference * (1 - share), no_preference * share]
        answer = self._random.choices(answers, weights=weights)[0]
        return answer, self._reaction_ms(_CAREFUL_MS)

    def _ratings(self, trial: Trial, scales: Sequence[Scale]) -> tuple[int, ...]:
        """The level on each scale. An attentive rater's follow the logistic curve of the strength plus noise."""
        positions = []
        for scale in scales:
            levels = len(scale.levels)
            if not self.attentive:
                positions.append(self._random.randrange(levels))
                continue
            strength = self._strength(trial.candidates[0]) + self._random.gauss(0, 1)
            positions.append(min(levels - 1, int(levels / (1 + math.exp(-strength)))))
        return tuple(positions)

    def _reaction_ms(self, lognormal: tuple[float, float]) -> int:
        return round(self._random.lognormvariate(*lognormal))

    def _strength(self, title: str) -> float:
        if title in self._strengths:
            return self._strengths[title]
        # There may be several controls of noise: `noise`, `noise-2`, ...
        return CONTROL_STRENGTHS[NOISE if title.startswith(NOISE) else title]


def probabilities(strengths: Sequence[float], ties: float | None, bias: float = 0.0) -> list[float]:
    """Probabilities of choosing each candidate, in order, given their log strengths.

    ``ties`` is Davidson's nu: the probability of a tie then comes last. None: there are no ties. ``bias`` are the log
    odds in favour of the first. Raises :class:`SimulationError` for ties among more or fewer than two.
    """
    logs = [strengths[0] + bias, *strengths[1:]]
    # The largest weight becomes 1, so that no exponential overflows.
    largest = max(logs)
    weights = [math.exp(value - largest) for value in logs]
    if ties is not None:
        if len(weights) != 2:
            raise SimulationError("ties need exactly two candidates. Pass ties=None for more.")
        weights.append(ties * math.sqrt(weights[0] * weights[1]))
    total = sum(weights)
    return [weight / total for weight in weights]


def run_raters(
    store: StudyStore,
    study: str,
    raters: int,
    taste: Taste = Taste(),
    *,
    seed: int = 0,
    threads: int = 1,
) -> int:
    """Lets ``raters`` simulated raters answer all their trials. Returns the number of votes that were stored.

    With one thread, the same seed gives the same votes. Raises :class:`SimulationError`, and
    ``interface.StudyFull`` where the study has fewer free sheets.
    """
    # Checked before the first rater is stored.
    design = store.study(study).design
    taste.check(design.methods)
    if raters < 1:
        raise SimulationError(f"--raters {raters}: expected 1 or more.")

    def run(number: int) -> int:
        # The same calls as a person's pages make, in the same order.
        rater = store.register(study, kind=SIMULATED).rater
        store.consent(rater)
        simulated = SimulatedRater(taste, design.methods, seed, number)
        stored = 0
        while (trial := store.next_trial(rater)) is not None:
            # A person's screen is blind. The simulation has to know the methods.
            content = store.unblinded(rater, trial.id).trial
            answer, reaction_ms = simulated.answer(content, trial.tie, trial.both_bad, trial.scales)
            stored += store.vote(rater, trial.id, answer, reaction_ms).new
        return stored

    with ThreadPoolExecutor(threads, thread_name_prefix="rater") as pool:
        return sum(pool.map(run, range(raters)))

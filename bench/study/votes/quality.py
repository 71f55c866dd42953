"""What a rater's answers say about the rater: for the administrator, who decides nothing by it alone.

Whom an analysis leaves out is decided by the rule that was stated beforehand (``analysis.Exclusion``).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from bench.study.design import Design
from bench.study.types import TIE

Row: TypeAlias = Any
"""A row of a query; its attributes are the query's columns."""

FAST = 1000
"""Milliseconds: too short to have looked."""


@dataclass(frozen=True)
class RaterQuality:
    """What a rater's answers say about the rater. Shares are None where there is nothing to share."""

    rater: str
    number: int
    external: str | None
    """The recruiting service's id of the rater."""
    votes: int
    """Without practice."""
    finished: bool
    attention_failed: int
    attention: int
    repeats_same: int
    """Repeats answered with the same method (or tie) as the trial they repeat."""
    repeats: int
    first_share: float | None
    """Of pairs that were not ties: how often the left one was chosen. 0.5 is even."""
    tie_share: float | None
    median_ms: float | None
    fast_share: float | None
    """Answers within ``FAST`` milliseconds."""
    first_vote: datetime | None
    last_vote: datetime | None


def random_pass(design: Design, failures: int | None, *, ties: bool = False) -> float:
    """The share of raters who answer at random that fail at most so many attention checks (None: any number).

    ``ties``: they choose a tie as often as each candidate, where the study allows it. The mean over the four
    sets of checks that raters get in turn; failures of one rater are independent (Poisson binomial).
    """
    count = design.options.attention
    if failures is None or failures >= count:
        return 1.0
    checks = sorted((trial for trial in design.trials if trial.role == "attention"), key=lambda t: t.position)
    passed = 0.0
    for first in range(0, len(checks), count):
        # chances[k]: that k checks have been failed so far.
        chances = [1.0]
        for trial in checks[first : first + count]:
            right = 1 / (len(trial.candidates) + (ties and trial.kind == "pair" and design.options.ties))
            chances = [
                right * now + (1 - right) * before
                for now, before in zip([*chances, 0.0], [0.0, *chances], strict=True)
            ]
        passed += sum(chances[: failures + 1])
    return passed * count / len(checks)


def quality(design: Design, rater: Row, votes: Sequence[Row]) -> RaterQuality:
    """The quality of one rater, whose row has ``public``, ``number``, ``external`` and ``finished_at``.

    ``votes`` are all of the rater's.
    """
    answers = {vote.name: vote.answer for vote in votes}
    counted = [vote for vote in votes if design.trial_by_id[vote.name].role != "practice"]
    trials = [(design.trial_by_id[vote.name], vote.answer) for vote in counted]
    checks = [(trial, answer) for trial, answer in trials if trial.role == "attention"]
    repeats = [
        (answer, answers[trial.repeat_of])
        for trial, answer in trials
        if trial.repeat_of is not None and trial.repeat_of in answers
    ]
    judged = [
        (trial, answer) for trial, answer in trials if trial.role != "attention" and trial.kind == "pair"
    ]
    chosen = [(trial, answer) for trial, answer in judged if answer != TIE]
    times = [vote.reaction_ms for vote in counted]

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return RaterQuality(
        rater=rater.public,
        number=rater.number,
        external=rater.external,
        votes=len(counted),
        finished=rater.finished_at is not None,
        attention_failed=sum(answer != trial.expected for trial, answer in checks),
        attention=len(checks),
        repeats_same=sum(now == before for now, before in repeats),
        repeats=len(repeats),
        first_share=share(sum(answer == trial.candidates[0] for trial, answer in chosen), len(chosen)),
        tie_share=share(len(judged) - len(chosen), len(judged)),
        median_ms=statistics.median(times) if times else None,
        fast_share=share(sum(ms < FAST for ms in times), len(times)),
        first_vote=min((vote.server_time for vote in votes), default=None),
        last_vote=max((vote.server_time for vote in votes), default=None),
    )

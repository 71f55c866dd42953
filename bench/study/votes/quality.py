"""Quality of one rater's answers, for the administrator, who decides nothing by it alone.

The rule that was stated beforehand (:class:`bench.study.votes.exclusion.Exclusion`) decides whom an analysis leaves
out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from bench.study import scales
from bench.study.answers import is_expected
from bench.study.design import Design
from bench.study.types import NO_PREFERENCE, Trial

# A row of a query. Its attributes are the query's columns.
Row: TypeAlias = Any

# Milliseconds: too short to have looked at two edits and their source.
FAST = 1000


@dataclass(frozen=True)
class RaterQuality:
    """Quantities of one rater's answers. Shares lie in 0..1 and are None where they are shares of nothing."""

    rater: str
    number: int
    # The recruiting service's id of the rater.
    external: str | None
    # Answers without practice.
    votes: int
    finished: bool
    attention_failed: int
    attention: int
    # Repeats answered with the same method (or tie) as the trial they repeat.
    repeats_same: int
    repeats: int
    # Share of left ones among the choices in pairs, without ties. 0.5 is even.
    first_share: float | None
    tie_share: float | None
    median_ms: float | None
    # Share of answers within ``FAST`` milliseconds.
    fast_share: float | None
    first_vote: datetime | None
    last_vote: datetime | None


def random_pass(design: Design, failures: int | None, *, ties: bool = False) -> float:
    """Share of raters who answer at random that fail at most ``failures`` attention checks (None: any number).

    ``ties``: they choose each answer without a preference that the study allows as often as each candidate. The value
    is the mean over the sets of checks that raters get in turn. Failures of one rater are independent and differ in
    their probability, so their number is Poisson binomial: the recursion adds one check at a time.
    """
    count = design.options.attention
    if failures is None or failures >= count:
        return 1.0
    checks = sorted((trial for trial in design.trials if trial.role == "attention"), key=lambda t: t.position)
    passed = 0.0
    for first in range(0, len(checks), count):
        # chances[k]: probability that k checks have been failed so far.
        chances = [1.0]
        for trial in checks[first : first + count]:
            right = _chance(design, trial, ties=ties)
            chances = [
                right * same + (1 - right) * one_less
                for same, one_less in zip([*chances, 0.0], [0.0, *chances], strict=True)
            ]
        passed += sum(chances[: failures + 1])
    return passed * count / len(checks)


def _chance(design: Design, trial: Trial, *, ties: bool) -> float:
    """Probability that an answer at random passes an attention check."""
    if trial.kind == "rate":
        return scales.chance(str(trial.expected), design.options.scales)
    others = design.options.ties + design.options.both_bad if ties and trial.kind == "pair" else 0
    return 1 / (len(trial.candidates) + others)


def quality(design: Design, rater: Row, votes: Sequence[Row]) -> RaterQuality:
    """Computes the quality of one rater from all of the rater's ``votes``.

    ``rater`` has the attributes public, number, external and finished_at, each vote has name, answer, reaction_ms and
    server_time.
    """
    # Answers that count, each with its trial. Practice teaches the task and says nothing about the rater.
    answers = {vote.name: vote.answer for vote in votes}
    counted = [vote for vote in votes if design.trial_by_id[vote.name].role != "practice"]
    trials = [(design.trial_by_id[vote.name], vote.answer) for vote in counted]

    # Attention checks, repeats, and pairs. A check has one right side, so it says nothing about a habit of sides.
    checks = [(trial, answer) for trial, answer in trials if trial.role == "attention"]
    repeats = [
        (answer, answers[trial.repeat_of])
        for trial, answer in trials
        if trial.repeat_of is not None and trial.repeat_of in answers
    ]
    pairs = [
        (trial, answer) for trial, answer in trials if trial.role != "attention" and trial.kind == "pair"
    ]
    decided = [(trial, answer) for trial, answer in pairs if answer not in NO_PREFERENCE]
    times = [vote.reaction_ms for vote in counted]

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return RaterQuality(
        rater=rater.public,
        number=rater.number,
        external=rater.external,
        votes=len(counted),
        finished=rater.finished_at is not None,
        attention_failed=sum(
            not is_expected(trial.kind, design.options, answer, trial.expected) for trial, answer in checks
        ),
        attention=len(checks),
        repeats_same=sum(repeated == first for repeated, first in repeats),
        repeats=len(repeats),
        first_share=share(sum(answer == trial.candidates[0] for trial, answer in decided), len(decided)),
        tie_share=share(len(pairs) - len(decided), len(pairs)),
        median_ms=statistics.median(times) if times else None,
        fast_share=share(sum(ms < FAST for ms in times), len(times)),
        first_vote=min((vote.server_time for vote in votes), default=None),
        last_vote=max((vote.server_time for vote in votes), default=None),
    )

"""Chooses the cases of a figure by a rule. The figure states the rule.

===========  ==============================================================================================
rule         the cases of each category are sorted, and the first ones taken
===========  ==============================================================================================
random       by the SHA-256 of the id
best         by mean success over the methods, then least mean leakage
worst        the other way round
disputed     by how evenly people were split, where there are votes, then by how evenly success splits the
             methods, then by how often the judges contradict each other
===========  ==============================================================================================

Cases that are equal by the rule are ordered by the SHA-256 of the id. Controls do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from reports.data.metrics import SUCCESS
from reports.data.preference import TIE, pairs

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from reports.data.scores import ProtocolScores

    FloatND = NDArray[np.float64]

Rule = Literal["random", "best", "worst", "disputed"]
RULES: tuple[Rule, ...] = get_args(Rule)

# Rule -> words in the figure.
WORDS: Mapping[str, str] = {
    "random": "chosen at random: first by the hash of the case's id",
    "best": "chosen by rule: highest mean success, then least leakage",
    "worst": "chosen by rule: lowest mean success, then most leakage",
    "disputed": "chosen by rule: where votes, methods and judges disagree most",
    "hand": "chosen by hand",
}


def choose(
    scores: ProtocolScores, rule: Rule, per_category: int = 1, votes: pd.DataFrame | None = None
) -> list[str]:
    """Case ids, in the order of the categories. ``votes``: those of all protocols.

    Raises ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r} to choose cases by. Choose {', '.join(RULES)}.")
    ranks = _ranks(scores, rule, votes)
    picked: list[str] = []
    ranked: set[str] = set()
    # Ranks, then hashes, within each category.
    for code in range(len(scores.categories)):
        units = np.flatnonzero(scores.category == code)
        of_category: list[tuple[tuple[float, ...], str, str]] = []
        for unit in units:
            case = scores.cases[unit]
            # A case with several seeds is ranked by its first unit.
            if case not in ranked:
                ranked.add(case)
                # The hash keeps ties from following the order of a file. The id decides between equal hashes.
                of_category.append((ranks[unit], hashlib.sha256(case.encode()).hexdigest(), case))
        picked += [case for _, _, case in sorted(of_category)[:per_category]]
    return picked


def _ranks(scores: ProtocolScores, rule: Rule, votes: pd.DataFrame | None) -> list[tuple[float, ...]]:
    """Ascending sort key per unit."""
    count = len(scores.cases)
    # Equal ranks leave the order to the hash alone.
    if rule == "random":
        return [()] * count
    judged = [m for m in SUCCESS if m in scores.metrics]
    # Without a judge, leakage decides, or else the hash.
    success = _mean(scores, judged[0]) if judged else np.zeros(count)
    if rule == "disputed":
        split = _vote_split(scores, votes)
        # p (1 - p) is largest where half of the methods succeed.
        even = success * (1 - success)
        # Share of methods on which two judges contradict each other.
        contradiction = np.zeros(count)
        if len(judged) > 1:
            a, b = (scores.metric(m)[:, scores.contenders] for m in judged[:2])
            contradiction = _nanmean(np.abs(a - b))
        return [tuple(row) for row in np.stack([-split, -even, -contradiction], axis=1).tolist()]
    # Leakage decides between cases with the same success.
    leak = _mean(scores, "leak_lpips") if "leak_lpips" in scores.metrics else np.zeros(count)
    sign = -1.0 if rule == "best" else 1.0
    return [tuple(row) for row in np.stack([sign * success, -sign * leak], axis=1).tolist()]


def _mean(scores: ProtocolScores, metric: str) -> FloatND:
    return _nanmean(scores.metric(metric)[:, scores.contenders])


def _nanmean(values: FloatND) -> FloatND:
    """Mean over the second axis, 0 where there is no value."""
    present = ~np.isnan(values)
    means: FloatND = np.where(present, values, 0.0).sum(axis=1) / np.maximum(1, present.sum(axis=1))
    return means


def _vote_split(scores: ProtocolScores, votes: pd.DataFrame | None) -> FloatND:
    """Evenness of the votes per unit: 1 - |share of a - share of b|, averaged over its pairs. 0 without votes."""
    split = np.zeros(len(scores.cases))
    if votes is None:
        return split
    evenness: dict[str, list[float]] = {}
    # Votes for the best of several do not say how two edits compare.
    two = pairs(votes[votes["protocol"] == scores.protocol])
    # The same pair, whichever edit stood on the left.
    two = two.assign(pair=[tuple(sorted(candidates)) for candidates in two["candidates"]])
    for (case, (first, _)), part in two.groupby(["case", "pair"]):
        # A tie counts half for either side, so it moves the lead towards 0.
        decided = part[part["answer"] != TIE]
        lead = (2 * (decided["answer"] == first).sum() - len(decided)) / len(part)
        # A single vote is never split.
        if len(part) > 1:
            evenness.setdefault(str(case), []).append(1 - abs(float(lead)))
    for unit, case in enumerate(scores.cases):
        if case in evenness:
            split[unit] = sum(evenness[case]) / len(evenness[case])
    return split


def words(rule: str, cases: Sequence[str] = ()) -> str:
    """Words in the figure for a rule, or for cases chosen by hand."""
    return WORDS["hand" if cases else rule]

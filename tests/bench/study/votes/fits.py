"""Strengths of votes that are given as counts of outcomes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.study.votes.bradley_terry import Choices, Fit, fit_counts


def fit(outcomes: Mapping[tuple[tuple[str, ...], str], float], *, kind: str = "pair") -> Fit:
    """Strengths from the number of each outcome, all of one ``kind`` (``"pair"`` or ``"best"``).

    ``{(("A", "B"), "A"): 7, (("A", "B"), "tie"): 2, ...}``.
    """
    return fit_votes({(kind, candidates, answer): n for (candidates, answer), n in outcomes.items()})


def fit_votes(outcomes: Mapping[tuple[str, tuple[str, ...], str], float]) -> Fit:
    """Strengths from pairs and choices of the best together: (kind, candidates, answer) -> number of votes."""
    choices = Choices.of(outcomes)
    counts = np.zeros(len(choices.features))
    for (kind, candidates, answer), n in outcomes.items():
        counts[choices.column[kind, frozenset(candidates), answer]] += n
    return fit_counts(choices, counts)[0]

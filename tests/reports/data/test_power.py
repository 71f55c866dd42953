"""A detectable difference is found as often as the power says."""

from __future__ import annotations

import numpy as np

from bench import stats
from reports.data import power


def test_what_can_be_detected_is_found_as_often_as_it_says() -> None:
    """Two methods on 80 cases that disagree on 40 % of them: the exact sign test says what can be found."""
    generator = np.random.default_rng(5)
    skill = generator.random(80) < 0.5
    values = np.stack([skill, skill ^ (np.arange(80) % 5 < 2)], axis=1).astype(float)
    difference = power.detectable(values, np.arange(80))
    assert difference is not None
    # D cases disagree, and the better method wins W of them: |2 W - D| > critical * sqrt(D).
    hits = 0
    for seed in range(400):
        generator = np.random.default_rng(seed)
        one = generator.random(80) < 0.5
        other = one ^ (generator.random(80) < 0.4)
        other &= generator.random(80) >= difference / 0.5
        gap = one.astype(float) - other
        hits += stats.max_t([gap[:, None]], draws=999, seed=seed)[0][0] < 0.05
    assert 0.7 <= hits / 400 <= 0.9


def test_nothing_can_be_detected_where_all_are_separate_or_cases_are_few() -> None:
    apart = np.stack([np.ones(40), np.zeros(40)], axis=1)
    assert power.detectable(apart, np.arange(40)) is None
    assert power.detectable(np.ones((4, 2)), np.arange(4)) is None

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from bench.study.votes.power import (
    NORMAL,
    Assumptions,
    Layout,
    PowerError,
    design_effect,
    effective_votes,
    power_of,
    raters_needed,
    resolvable,
)

ALONE = Assumptions(ties=0.0, icc_rater=0.0, icc_case=0.0)


def exact_power(share: float, n: int, alpha: float = 0.05) -> float:
    """Of the same test, from the binomial distribution itself: wins w with |w/n - 1/2| beyond its edge."""
    edge = norm.isf(alpha / 2) * 0.5 / math.sqrt(n)
    wins = np.arange(n + 1)
    return float(binom.pmf(wins, n, share)[np.abs(wins / n - 0.5) > edge].sum())


@pytest.mark.parametrize(
    ("share", "alpha", "power", "n"),
    # ((1.959964 / 2 + 0.841621 sqrt(p q)) / (p - 0.5))^2, by hand: 193.85, 782.2, 46.43; 1.644854, 1.281552.
    # Source: Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions (3rd ed., 2003), equation 2.11.
    [(0.6, 0.05, 0.8, 194), (0.55, 0.05, 0.8, 783), (0.7, 0.05, 0.8, 47), (0.6, 0.1, 0.9, 211)],
)
def test_raters_of_one_vote_are_as_many_as_the_textbooks_votes(
    share: float, alpha: float, power: float, n: int
) -> None:
    alone = replace(ALONE, alpha=alpha, power=power)
    for either in (share, 1 - share):
        count = raters_needed(either, trials=1, methods=2, cases=10**6, assumptions=alone)
        # The textbook leaves out the chance to win on the wrong side, which is almost 0.
        assert count == pytest.approx(n, abs=1)


@pytest.mark.parametrize("share", [0.5, 0.55, 0.6, 0.65, 0.75])
def test_power_is_the_binomial_distributions(share: float) -> None:
    sizes = range(200, 240)
    # The exact power saws with n; over a tooth it averages to the smooth one.
    exact = np.mean([exact_power(share, n) for n in sizes])
    assert np.mean([power_of(share, n) for n in sizes]) == pytest.approx(exact, abs=0.012)


@pytest.mark.parametrize("share", [0.56, 0.6, 0.7])
def test_the_votes_needed_have_the_power_that_was_asked_for(share: float) -> None:
    n = raters_needed(share, trials=1, methods=2, cases=10**6, assumptions=ALONE)
    assert n is not None
    assert power_of(share, n) == pytest.approx(0.8, abs=0.01)
    assert exact_power(share, n) == pytest.approx(0.8, abs=0.035)


def test_the_level_is_kept_where_there_is_no_difference() -> None:
    assert power_of(0.5, 500, alpha=0.03) == pytest.approx(0.03)


def test_the_design_effect_is_kishs_and_adds_crossed_clusters() -> None:
    assert design_effect(10, 1, 0.05, 0.9) == pytest.approx(1.45)
    assert design_effect(10, 5, 0.05, 0.1) == pytest.approx(1.45 + 0.4)
    assert effective_votes(Layout(20, 30, 2, 1000), ALONE) == 600
    # 20 raters of 30 votes about one pair; on 100 cases each has 6 votes.
    some = Assumptions(ties=0.0, icc_rater=0.02, icc_case=0.1)
    assert effective_votes(Layout(20, 30, 2, 100), some) == pytest.approx(600 / (1 + 29 * 0.02 + 5 * 0.1))


def test_overlap_puts_that_many_votes_on_each_case() -> None:
    some = Assumptions(ties=0.0, icc_rater=0.0, icc_case=0.1)
    # 60 votes about one pair on 100 cases: one on each that has any, or three.
    assert effective_votes(Layout(20, 3, 2, 100), some) == pytest.approx(60)
    assert effective_votes(Layout(20, 3, 2, 100, overlap=3), some) == pytest.approx(60 / (1 + 2 * 0.1))
    # 194 independent votes tell 0.6 from 0.5.
    assert raters_needed(0.6, trials=3, methods=2, cases=10**6, overlap=3, assumptions=some) == math.ceil(
        194 * 1.2 / 3
    )


def test_the_design_effect_is_the_variance_of_simulated_shares() -> None:
    rng = np.random.default_rng(0)
    raters, per, n_cases, icc_r, icc_c = 12, 15, 30, 0.05, 0.1
    steps = [math.sqrt(icc * 0.25) for icc in (icc_r, icc_c)]
    rater = np.repeat(np.arange(raters), per)
    of_case = np.arange(raters * per) % n_cases
    shares = []
    for _ in range(20_000):
        a = steps[0] * rng.choice((-1, 1), raters)
        b = steps[1] * rng.choice((-1, 1), n_cases)
        shares.append((rng.random(rater.size) < 0.5 + a[rater] + b[of_case]).mean())
    expected = 0.25 / rater.size * design_effect(per, raters * per / n_cases, icc_r, icc_c)
    assert np.var(shares) == pytest.approx(expected, rel=0.04)


def simulate_power(
    share: float, layout: Layout, assumptions: Assumptions, *, studies: int = 2000, seed: int = 0
) -> float:
    """The share of simulated studies that find the difference: an independent check of the formulas.

    A vote by rater i on case j prefers the better method with probability p + a_i + b_j. Here a_i and b_j are plus or
    minus sqrt(rho p (1 - p)), so two votes that share a rater (a case) have exactly the correlation icc_rater
    (icc_case). Each study is tested as stated: z of its share, with the variance under no difference times the design
    effect. There is one pair, and ``layout.trials`` votes about it per rater, on cases in turn.
    """
    assert layout.pairs == 1
    scale = math.sqrt(share * (1 - share))
    steps = [math.sqrt(rho) * scale for rho in (assumptions.icc_rater, assumptions.icc_case)]
    assert sum(steps) <= share <= 1 - sum(steps), "too near to 0 or 1 for these correlations"
    rng = np.random.default_rng(seed)
    raters = np.repeat(np.arange(layout.raters), round(layout.trials))
    cases = np.arange(raters.size) % layout.cases
    threshold = NORMAL.inv_cdf(1 - assumptions.alpha / 2)
    significant = 0
    for _ in range(studies):
        by_rater = steps[0] * rng.choice((-1.0, 1.0), layout.raters)
        by_case = steps[1] * rng.choice((-1.0, 1.0), layout.cases)
        decided = rng.random(raters.size) >= assumptions.ties
        likely = share + by_rater[raters[decided]] + by_case[cases[decided]]
        wins = rng.random(likely.size) < likely
        # Votes per rater and per case that a vote shares its own with, on average: sum of squares over sum.
        counts = [np.bincount(cluster[decided]).astype(np.float64) for cluster in (raters, cases)]
        sizes = [float((count**2).sum() / count.sum()) for count in counts]
        effect = design_effect(sizes[0], sizes[1], assumptions.icc_rater, assumptions.icc_case)
        z = (wins.mean() - 0.5) / (0.5 * math.sqrt(effect / likely.size))
        significant += abs(z) > threshold
    return significant / studies


@pytest.mark.parametrize(
    ("share", "layout", "assumptions"),
    [
        (0.6, Layout(20, 12, 2, 60), Assumptions(icc_rater=0.02, icc_case=0.05, ties=0.2)),
        (0.6, Layout(30, 8, 2, 24), Assumptions(icc_rater=0.03, icc_case=0.1, ties=0.0)),
        (0.65, Layout(15, 10, 2, 40), Assumptions(icc_rater=0.0, icc_case=0.15, ties=0.3)),
    ],
)
def test_predicted_power_is_that_of_simulated_studies(
    share: float, layout: Layout, assumptions: Assumptions
) -> None:
    predicted = power_of(share, effective_votes(layout, assumptions))
    simulated = simulate_power(share, layout, assumptions, studies=3000, seed=1)
    assert 0.3 < predicted < 0.95
    assert simulated == pytest.approx(predicted, abs=0.04)


def test_without_a_difference_simulated_studies_find_one_at_the_level() -> None:
    simulated = simulate_power(0.5, Layout(20, 12, 2, 60), Assumptions(icc_case=0.1), studies=4000, seed=2)
    assert simulated == pytest.approx(0.05, abs=0.015)


def test_what_a_layout_resolves_has_the_power() -> None:
    layout = Layout(20, 40, 4, 100)
    share = resolvable(layout, Assumptions())
    assert power_of(share, effective_votes(layout, Assumptions()), alpha=0.05 / 6) == pytest.approx(
        0.8, abs=1e-6
    )
    assert resolvable(layout, Assumptions(), all_pairs=False) < share
    assert resolvable(Layout(1, 1, 4, 100), Assumptions()) == 1.0


def test_raters_needed_is_the_least_that_is_enough() -> None:
    assumed = Assumptions()
    count = raters_needed(0.65, trials=30, methods=3, cases=200, assumptions=assumed)
    assert count is not None
    assert resolvable(Layout(count, 30, 3, 200), assumed) <= 0.65
    assert resolvable(Layout(count - 1, 30, 3, 200), assumed) > 0.65
    # Without clustering and ties: the textbook's number of votes, in whole raters.
    plain = raters_needed(0.6, trials=10, methods=2, cases=10**6, assumptions=ALONE)
    assert plain == math.ceil(194 / 10)


def test_no_number_of_raters_makes_up_for_too_few_cases() -> None:
    assert raters_needed(0.55, trials=20, methods=2, cases=10, assumptions=Assumptions(icc_case=0.3)) is None


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (lambda: raters_needed(0.5, trials=1, methods=2, cases=9), "share"),
        (lambda: effective_votes(Layout(1, 1, 2, 1), Assumptions(alpha=0.7)), "alpha"),
        (lambda: effective_votes(Layout(1, 1, 1, 1), ALONE), "methods"),
        (lambda: effective_votes(Layout(1, 1, 2, 1), Assumptions(ties=1.0)), "ties"),
        (lambda: effective_votes(Layout(5, 5, 2, 5), Assumptions(icc_rater=0.8, icc_case=0.3)), "together"),
    ],
)
def test_values_outside_their_range_are_named(work, named: str) -> None:
    with pytest.raises(PowerError, match=named):
        work()

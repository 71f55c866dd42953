"""Two-way clustered intervals: against sums by hand, against one-way formulas, and for their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from bench.study.votes.crossed import Crossed, interval


def crossed_sample(
    seed: int, *, effect: float, raters: int = 20, sources: int = 30
) -> tuple[np.ndarray, ...]:
    """Values of mean 0: rater + source + noise, a third of all cells filled."""
    generator = np.random.default_rng(seed)
    filled = np.argwhere(generator.random((raters, sources)) < 1 / 3)
    rater, source = filled.T
    values = effect * (generator.normal(size=raters)[rater] + generator.normal(size=sources)[source])
    return rater, source, values + generator.normal(size=len(rater))


def mean_interval(rater: np.ndarray, source: np.ndarray, x: np.ndarray, *, pull: bool = True) -> tuple:
    crossed = Crossed.of(rater.tolist(), source.tolist(), draws=400)
    drawn = crossed.sums(np.stack([x, np.ones(len(x))], axis=1))
    factor = crossed.factor(((x - x.mean()) / len(x))[:, None]) if pull else np.ones(1)
    low, high = interval(np.array([x.mean()]), (drawn[:, 0] / drawn[:, 1])[:, None], factor)
    return low[0], high[0]


def test_weights_are_products_of_how_often_rater_and_source_were_drawn() -> None:
    crossed = Crossed.of(["a", "a", "b"], ["x", "y", "y"], draws=50, seed=3)
    u, v = crossed.rater_weights, crossed.source_weights
    assert (u.sum(axis=0) == 2).all()
    assert (v.sum(axis=0) == 2).all()
    by_hand = np.stack([u[0] * v[0], u[0] * v[1] + u[1] * v[1]], axis=1)
    np.testing.assert_array_equal(crossed.counts(np.array([0, 1, 1]), 2), by_hand)
    values = np.array([[1.0], [0.5], [2.0]])
    np.testing.assert_allclose(
        crossed.sums(values)[:, 0], u[0] * v[0] + 0.5 * u[0] * v[1] + 2 * u[1] * v[1], rtol=1e-6
    )


def test_counts_of_many_votes_do_not_depend_on_their_order() -> None:
    generator = np.random.default_rng(0)
    rater, source, label = (generator.integers(k, size=3000) for k in (11, 23, 7))
    rater[:11], source[:23] = np.arange(11), np.arange(23)
    crossed = Crossed.of(rater.tolist(), source.tolist(), draws=300)
    counts = crossed.counts(label, 7)
    weights = crossed.rater_weights[crossed.rater] * crossed.source_weights[crossed.source]
    by_hand = np.stack([weights[label == k].sum(axis=0) for k in range(7)], axis=1)
    np.testing.assert_array_equal(counts, by_hand)


def test_pigeonhole_variance_is_the_sum_that_the_width_is_taken_from() -> None:
    """The identity that the factor rests on, on data with both effects."""
    rater, source, x = crossed_sample(1, effect=0.7)
    crossed = Crossed.of(rater.tolist(), source.tolist(), draws=20_000)
    drawn = crossed.sums(np.stack([x, np.ones(len(x))], axis=1))
    psi = (x - x.mean()) / len(x)
    parts = [(np.bincount(code, psi) ** 2).sum() for code in (rater, source, rater * 1000 + source)]
    assert (drawn[:, 0] / drawn[:, 1]).var() == pytest.approx(sum(parts), rel=0.06)


def test_factor_by_hand() -> None:
    """Four votes, two raters, two sources, influences 3, 1, -2, -2."""
    crossed = Crossed.of(["a", "a", "b", "b"], ["x", "y", "x", "y"], draws=10)
    psi = np.array([[3.0], [1.0], [-2.0], [-2.0]])
    by_rater, by_source, by_cell = 16 + 16, 1 + 1, 9 + 1 + 4 + 4
    sought = max(2 * by_rater + 2 * by_source - by_cell, 2 * by_rater)
    # Student's factor on one degree of freedom takes it over 1, where it is cut.
    assert sought / (by_rater + by_source + by_cell) > 0.9
    assert crossed.factor(psi)[0] == 1.0
    many = Crossed.of([f"r{i}" for i in range(400)], [f"s{i}" for i in range(400)], draws=2)
    noise = np.where(np.arange(400) % 2, 1.0, -1.0)[:, None]
    # One vote per rater and source: all three variances are one, the pigeonhole's is three times it.
    expected = np.sqrt((2 * 400 / 399 - 1) / 3) * (1 + (1.96**2 + 1) / (4 * 399))
    assert many.factor(noise)[0] == pytest.approx(expected, rel=1e-4)


def test_no_interval_from_one_rater_one_source_or_no_variation() -> None:
    one = Crossed.of(["a"] * 3, ["x", "y", "z"], draws=50)
    psi = np.array([[1.0], [-1.0], [0.5]])
    assert np.isnan(one.factor(psi)).all()
    assert np.isnan(Crossed.of(["a", "b", "c"], ["x"] * 3, draws=50).factor(psi)).all()
    assert np.isnan(one.factor(np.zeros((3, 1)))).all()
    low, high = interval(np.array([0.5]), np.full((50, 1), 0.5), np.ones(1))
    assert np.isnan([low[0], high[0]]).all()
    mostly_gone = np.where(np.arange(50)[:, None] < 30, np.nan, np.arange(50.0)[:, None])
    assert np.isnan(interval(np.array([0.5]), mostly_gone, np.ones(1))[0][0])


def test_names_and_seed() -> None:
    a = Crossed.of(["x", "y", "x"], ["s", "s", "t"], draws=20, seed=1)
    b = Crossed.of(["one", "two", "one"], ["p", "p", "q"], draws=20, seed=1)
    np.testing.assert_array_equal(a.rater_weights, b.rater_weights)
    np.testing.assert_array_equal(a.source_weights, b.source_weights)
    c = Crossed.of(["x", "y", "x"], ["s", "s", "t"], draws=20, seed=2)
    assert (a.rater_weights != c.rater_weights).any()
    with pytest.raises(ValueError, match="resamples"):
        Crossed.of(["x"], ["s"], draws=0)


@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_coverage(effect: float) -> None:
    """The interval holds the truth as often as it says; the pigeonhole bootstrap alone is too wide."""
    held = alone = 0
    widths = []
    for seed in range(120):
        sample = crossed_sample(seed, effect=effect)
        low, high = mean_interval(*sample)
        wide = mean_interval(*sample, pull=False)
        held += low <= 0 <= high
        alone += wide[0] <= 0 <= wide[1]
        widths.append((high - low) / (wide[1] - wide[0]))
    assert 0.89 <= held / 120 <= 0.985
    assert alone >= held
    if effect == 0:
        assert alone / 120 > 0.99
    assert np.mean(widths) < (0.72 if effect == 0 else 0.95)

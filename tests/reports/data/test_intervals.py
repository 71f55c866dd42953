"""Intervals of whole tables against those of one column at a time."""

from __future__ import annotations

import numpy as np
import pytest

from bench.stats import share
from reports.data import intervals
from reports.data.intervals import bootstrap_means
from tests.bench import one_column


def table(units: int = 60, columns: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(units, columns)), generator.integers(0, units // 3, units)


def test_means_are_those_of_one_column_at_a_time() -> None:
    values, cluster = table()
    result = bootstrap_means(values, cluster, draws=500, seed=3)
    for k in range(values.shape[1]):
        one = one_column.mean(values[:, k], cluster.tolist(), draws=500, seed=3)
        assert (result.value[k], result.low[k], result.high[k]) == pytest.approx(
            (one.value, one.low, one.high)
        )
        assert (result.n[k], result.clusters[k]) == (one.n, one.clusters)


def test_missing_values_lower_n_of_their_column_alone() -> None:
    values, cluster = table()
    # One column with some values, one with none, the others whole.
    holed = values.copy()
    holed[:20, 1] = np.nan
    holed[:, 2] = np.nan
    whole, result = bootstrap_means(values, cluster), bootstrap_means(holed, cluster)
    assert result.n.tolist() == [60, 40, 0, 60]
    assert result.value[1] == pytest.approx(values[20:, 1].mean())
    assert np.isnan([result.value[2], result.low[2], result.high[2]]).all()
    assert (result.low[0], result.high[3]) == (whole.low[0], whole.high[3])
    alone = one_column.mean(values[20:, 1], cluster[20:].tolist())
    # Other resamples of nearly the same clusters: the same interval but for chance.
    assert (result.low[1], result.high[1]) == pytest.approx((alone.low, alone.high), abs=0.08)


def test_the_names_and_order_of_clusters_do_not_matter() -> None:
    values, cluster = table()
    result = bootstrap_means(values, cluster)
    # Other names, in the reverse order.
    renamed = bootstrap_means(values, 1000 - 7 * cluster)
    assert result.low.tolist() == renamed.low.tolist()


@pytest.mark.parametrize(("clusters", "has_interval"), [(1, False), (5, False), (6, True)])
def test_few_clusters_have_no_interval_and_a_constant_its_value(clusters: int, has_interval: bool) -> None:
    result = bootstrap_means(np.full((12, 1), 0.3), np.arange(12) % clusters)
    assert result.value[0] == pytest.approx(0.3)
    if has_interval:
        assert (result.low[0], result.high[0]) == (0.3, 0.3)
    else:
        assert np.isnan([result.low[0], result.high[0]]).all()


def outcomes(units: int = 60, columns: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    values = (generator.random((units, columns)) < [0.3, 0.9, 1.0][:columns]).astype(float)
    # Shares near 0.3, 0.9 and exactly 1. The first column lacks values.
    values[:7, 0] = np.nan
    return values, generator.integers(0, units // 3, units)


def test_shares_are_those_of_one_column_at_a_time() -> None:
    values, cluster = outcomes()
    result = intervals.shares(values, cluster)
    for k in range(values.shape[1]):
        present = ~np.isnan(values[:, k])
        one = share(values[present, k], cluster[present].tolist())
        assert (result.value[k], result.low[k], result.high[k]) == pytest.approx(
            (one.value, one.low, one.high)
        )
        assert (result.n[k], result.clusters[k]) == (one.n, one.clusters)


def test_declared_outcomes_and_other_values_stand_side_by_side() -> None:
    values, cluster = np.ones((12, 3)), np.repeat(np.arange(6), 2)
    result = intervals.summarise(values, cluster, np.array([False, True, False]))
    assert result.low.tolist() == [1.0, share(np.ones(12), cluster.tolist()).low, 1.0]
    assert result.high.tolist() == [1.0, 1.0, 1.0]


def test_differences_are_those_of_one_column_at_a_time() -> None:
    (a, cluster), (b, _) = outcomes(), outcomes(seed=1)
    result = intervals.differences(a, b, cluster, np.array([True, True, False]), draws=400, seed=2)
    for k in range(3):
        present = ~np.isnan(a[:, k] - b[:, k])
        one = one_column.share_difference(a[present, k], b[present, k], cluster[present].tolist())
        if k == 2:
            # Equal values that no metric declared to be outcomes: a mean without spread.
            one = one_column.mean((a - b)[present, k], cluster[present].tolist(), draws=400, seed=2)
            assert one.low == one.high == 0
        assert (result.value[k], result.low[k], result.high[k]) == pytest.approx(
            (one.value, one.low, one.high)
        )
        assert (result.n[k], result.clusters[k]) == (one.n, one.clusters)


@pytest.mark.parametrize("shape", [(0, 2), (5, 0)])
def test_nothing_has_neither_mean_nor_interval(shape: tuple[int, int]) -> None:
    values, cluster, outcome = np.zeros(shape), np.arange(shape[0]), np.arange(shape[1]) == 1
    for result in (
        intervals.summarise(values, cluster, outcome),
        intervals.differences(values, values, cluster, outcome),
    ):
        assert result.n.tolist() == [0] * shape[1]
        assert np.isnan(result.value).all()
        assert np.isnan(result.low).all()


def test_an_outcome_that_is_none_is_refused_with_the_remedy() -> None:
    with pytest.raises(intervals.StatisticsError, match=r"between 0 .* unit of the metric"):
        intervals.shares(np.array([[0.0], [2.0]]), np.arange(2))

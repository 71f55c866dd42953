"""Rank correlations against scipy, and their intervals against resampling by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from reports.data import rank_correlation


def columns(units: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = (generator.random((units, 2)) < 0.5).astype(float)
    x = np.round(y[:, :1] + generator.normal(size=(units, 3)), 1)  # rounded: many ties
    return x, y, generator.integers(0, units // 4, units)


def test_correlations_are_scipys() -> None:
    x, y, cluster = columns()
    for (k, t), (value, low, high, n, _) in rank_correlation.spearman(x, y, cluster).items():
        assert value == pytest.approx(scipy_stats.spearmanr(x[:, k], y[:, t]).statistic)
        assert low < value < high
        assert n == 80


def test_weighted_ranks_are_the_ranks_of_the_repeated_sample() -> None:
    x, y, cluster = columns(30)
    # Rounded values have ties, the others have none.
    for values in (x[:, 0], x[:, 0] + np.linspace(0, 0.01, 30)):
        # How often each of the 7 clusters occurs in five resamples.
        weights = np.random.default_rng(1).multinomial(7, np.full(7, 1 / 7), size=5).astype(np.int32)
        column = rank_correlation.SortedColumn.of(values, y > 0.5, cluster)
        correlations = rank_correlation.weighted_spearman({0: column}, [(0, 1)], weights)
        for row, value in zip(weights, correlations[:, 0], strict=True):
            again = np.repeat(np.arange(30), row[cluster])
            assert value == pytest.approx(scipy_stats.spearmanr(values[again], y[again, 1]).statistic)


def test_a_sample_with_every_value_many_times_has_the_same_correlation() -> None:
    x, y, cluster = columns(30)
    column = rank_correlation.SortedColumn.of(x[:, 0] + np.linspace(0, 0.01, 30), y > 0.5, cluster)
    weights = np.random.default_rng(1).multinomial(7, np.full(7, 1 / 7), size=5).astype(np.int32)
    # Products of these weights and their running sums do not fit into 32 bits.
    assert column.correlations(20_000 * weights) == pytest.approx(column.correlations(weights), nan_ok=True)


def test_a_verdict_is_yes_above_a_half_and_the_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, cluster = columns()
    whole = rank_correlation.spearman(x, y, cluster)
    assert rank_correlation.spearman(x, 0.6 * y, cluster) == whole
    monkeypatch.setattr(rank_correlation, "_BLOCK", 1)
    again = rank_correlation.spearman(x, y, cluster)
    for pair, values in whole.items():
        assert again[pair] == pytest.approx(values, abs=1e-12)


def test_the_interval_is_the_cluster_bootstraps() -> None:
    x, y, cluster = columns(120)
    (_, low, high, _, clusters) = rank_correlation.spearman(x[:, :1], y[:, :1], cluster)[0, 0]
    members = [np.flatnonzero(cluster == name) for name in np.unique(cluster)]
    generator = np.random.default_rng(9)
    resampled = []
    for _ in range(2000):
        rows = np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))])
        resampled.append(scipy_stats.spearmanr(x[rows, 0], y[rows, 0]).statistic)
    assert (low, high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.02)
    assert clusters == len(members)


def test_missing_values_are_left_out_pair_by_pair() -> None:
    x, y, cluster = columns()
    x[:10, 1] = np.nan
    y[5:20, 0] = np.nan
    correlations = rank_correlation.spearman(x, y, cluster)
    assert [correlations[k, t][3] for k in range(2) for t in range(2)] == [65, 80, 60, 70]
    complete = ~np.isnan(x[:, 1]) & ~np.isnan(y[:, 0])
    assert correlations[1, 0][0] == pytest.approx(
        scipy_stats.spearmanr(x[complete, 1], y[complete, 0]).statistic
    )


def test_a_constant_side_has_no_correlation() -> None:
    x, y, cluster = columns()
    x[:, 2] = 1.0
    assert all(k != 2 for k, _ in rank_correlation.spearman(x, y, cluster))

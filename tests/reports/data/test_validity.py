"""Does the measure of the measures measure: against scipy, scikit-learn's definitions, and resampling by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from reports.data import scores, validity
from tests.reports import fake

N = len(fake.cases())


def columns(units: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = (generator.random((units, 2)) < 0.5).astype(float)
    x = np.round(y[:, :1] + generator.normal(size=(units, 3)), 1)  # rounded: many ties
    return x, y, generator.integers(0, units // 4, units)


def test_correlations_are_scipys() -> None:
    x, y, cluster = columns()
    for (k, t), (value, low, high, n, _) in validity.spearman(x, y, cluster).items():
        assert value == pytest.approx(scipy_stats.spearmanr(x[:, k], y[:, t]).statistic)
        assert low < value < high
        assert n == 80


def test_weighted_ranks_are_the_ranks_of_the_repeated_sample() -> None:
    x, y, _ = columns(30)
    weights = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), size=5).astype(float)
    sides = {("x", 0): validity._Sorted.of(x[:, 0]), ("y", 1): validity._Sorted.of(y[:, 1])}
    found = validity._weighted_spearman(sides, [(0, 1)], weights)
    for row, value in zip(weights, found[:, 0], strict=True):
        again = np.repeat(np.arange(30), row.astype(int))
        assert value == pytest.approx(scipy_stats.spearmanr(x[again, 0], y[again, 1]).statistic)


def test_the_interval_is_the_cluster_bootstraps() -> None:
    x, y, cluster = columns(120)
    (_, low, high, _, clusters) = validity.spearman(x[:, :1], y[:, :1], cluster)[0, 0]
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
    found = validity.spearman(x, y, cluster)
    assert [found[k, t][3] for k in range(2) for t in range(2)] == [65, 80, 60, 70]
    there = ~np.isnan(x[:, 1]) & ~np.isnan(y[:, 0])
    assert found[1, 0][0] == pytest.approx(scipy_stats.spearmanr(x[there, 1], y[there, 0]).statistic)


def test_a_constant_side_has_no_correlation() -> None:
    x, y, cluster = columns()
    x[:, 2] = 1.0
    assert all(k != 2 for k, _ in validity.spearman(x, y, cluster))


def test_agreement_by_hand() -> None:
    # Truth yes 6, of which the rule says 4; truth no 4, of which the rule says yes to 1.
    is_so = np.array([True] * 6 + [False] * 4)
    said = np.array([True] * 4 + [False] * 2 + [True] + [False] * 3)
    found = {measure: values for measure, *values in validity.agreement(said, is_so, np.arange(10))}
    assert found["accuracy"][0] == pytest.approx(0.7)
    # Chance: .6 x .5 + .4 x .5 = .5; kappa = (.7 - .5) / .5.
    assert found["kappa"][0] == pytest.approx(0.4)
    assert found["missed"][0] == pytest.approx(2 / 6)
    assert found["false alarms"][0] == pytest.approx(1 / 4)
    assert found["truth says yes"][0] == pytest.approx(0.6)
    assert found["accuracy"][1] < 0.7 < found["accuracy"][2]


def test_a_perfect_rule_agrees_perfectly_and_a_constant_one_by_chance() -> None:
    is_so = np.array([True, False] * 10)
    perfect = {m: v[0] for m, *v in validity.agreement(is_so, is_so, np.arange(20))}
    assert (perfect["accuracy"], perfect["kappa"], perfect["missed"]) == (1, 1, 0)
    constant = {m: v[0] for m, *v in validity.agreement(np.ones(20, bool), is_so, np.arange(20))}
    assert (constant["accuracy"], constant["kappa"], constant["false alarms"]) == (0.5, 0, 1)


@pytest.fixture
def run(tmp_path: Path) -> scores.RunScores:
    generator = np.random.default_rng(2)
    truth = {
        m: (generator.random(N) < 0.5).astype(float).tolist() for m in ("sd_inpainting", "instruct_pix2pix")
    }
    values = {
        "judge_truth": {**truth, "oracle": [1.0] * N, "copy_input": [0.0] * N},
        "judge_clip": truth,
        # Lower is better, and exactly the truth turned round.
        "leak_lpips": {m: [1 - v for v in row] for m, row in truth.items()} | {"oracle": [0.9] * N},
        "noise": {m: generator.random(N).tolist() for m in truth},
    }
    return scores.load(fake.run(tmp_path / "r", values))


HIGHER = {"judge_truth": True, "judge_clip": True, "leak_lpips": False, "noise": True}


def test_a_metric_that_is_the_truth_correlates_fully_whatever_its_direction(run: scores.RunScores) -> None:
    found = validity.validity(run, HIGHER)
    every = found[(found["category"] == "all") & (found["measure"] == "spearman")].set_index("metric")
    assert every.loc["leak_lpips", "value"] == pytest.approx(1)
    assert every.loc["judge_clip", "value"] == pytest.approx(1)
    assert abs(every.loc["noise", "value"]) < 0.5
    # Controls take no part: two methods, sixteen cases.
    assert every.loc["noise", "n"] == 2 * N
    assert set(found["category"]) == {"all", "attribute", "replacement", "background", "multi_object"}


def test_tables_name_their_rows_and_intervals(run: scores.RunScores) -> None:
    made = validity.validity_tables(validity.validity(run, HIGHER))
    names = [table.name for table in made]
    assert names == ["validity-judge-truth-spearman-mini-coco", "validity-agreement-mini-coco"]
    assert made[0].rows_are == "metric"
    assert [column.metric for column in made[1].columns] == list(validity.AGREEMENT)
    assert made[1].rows[0].cells[0].value == 1

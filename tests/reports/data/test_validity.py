"""Does the measure of the measures measure: against scipy, scikit-learn's definitions, and resampling by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reports.data import scores, validity
from tests.reports import fake

N = len(fake.cases())


def test_agreement_by_hand() -> None:
    # Truth yes 6, of which the rule says 4; truth no 4, of which the rule says yes to 1.
    is_so = np.array([True] * 6 + [False] * 4)
    said = np.array([True] * 4 + [False] * 2 + [True] + [False] * 3)
    result = {measure: values for measure, *values in validity.agreement(said, is_so, np.arange(10))}
    assert result["accuracy"][0] == pytest.approx(0.7)
    # Chance: .6 x .5 + .4 x .5 = .5; kappa = (.7 - .5) / .5.
    assert result["kappa"][0] == pytest.approx(0.4)
    assert result["missed"][0] == pytest.approx(2 / 6)
    assert result["false alarms"][0] == pytest.approx(1 / 4)
    assert result["truth says yes"][0] == pytest.approx(0.6)
    assert result["accuracy"][1] < 0.7 < result["accuracy"][2]


def test_a_perfect_rule_agrees_perfectly_and_a_constant_one_by_chance() -> None:
    is_so = np.array([True, False] * 10)
    # kappa is 1 for a perfect rule, and 0 for one that says the same of every edit.
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
    result = validity.validity(run, HIGHER)
    every = result[(result["category"] == "all") & (result["measure"] == "spearman")].set_index("metric")
    assert every.loc["leak_lpips", "value"] == pytest.approx(1)
    assert every.loc["judge_clip", "value"] == pytest.approx(1)
    assert abs(every.loc["noise", "value"]) < 0.5
    # Controls take no part: two methods, sixteen cases.
    assert every.loc["noise", "n"] == 2 * N
    assert set(result["category"]) == {"all", "attribute", "replacement", "background", "multi_object"}

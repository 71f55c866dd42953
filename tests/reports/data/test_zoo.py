"""Thresholds that a run decides: counted by hand, and without a run the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.data.zoo import MOST_SECONDS, run_thresholds
from tests.reports import fake

N = len(fake.cases())


@pytest.mark.parametrize(("wrong", "passed"), [(3, True), (4, False)])
def test_agreement_counts_every_edit_and_says_what_it_is_without_the_controls(
    tmp_path: Path, wrong: int, passed: bool
) -> None:
    # The CLIP's rule is wrong on some edits of one method alone.
    truth = {"sd_inpainting": [1.0] * N, "copy_input": [0.0] * N, "oracle": [1.0] * N}
    clip = {**truth, "sd_inpainting": [1.0] * (N - wrong) + [0.0] * wrong}
    values = {"success_truth": truth, "success_mini_clip": clip}
    fake.run(tmp_path / "run", values)
    agreement, cost = run_thresholds(tmp_path / "run")
    assert agreement.figure == pytest.approx((3 * N - wrong) / (3 * N))
    assert agreement.passed == passed  # 45 and 44 of 48, and the threshold is 0.92
    assert f"without the controls {(N - wrong) / N:.3f} of {N}" in agreement.detail
    assert cost.figure == pytest.approx(0.1)
    assert cost.passed
    assert cost.threshold == MOST_SECONDS


def test_a_rule_that_contradicts_the_truth_misses(tmp_path: Path) -> None:
    values = {
        "success_truth": {"sd_inpainting": [1.0] * N},
        "success_mini_clip": {"sd_inpainting": [0.0] * N},
    }
    fake.run(tmp_path / "run", values)
    agreement, _ = run_thresholds(tmp_path / "run")
    assert agreement.figure == 0.0
    assert not agreement.passed


@pytest.mark.parametrize("scored", [False, True])
def test_without_a_run_the_remedy_is_named(tmp_path: Path, scored: bool) -> None:
    if scored:
        fake.run(tmp_path / "run", {"success_truth": {"sd_inpainting": [1.0] * N}})
    thresholds = run_thresholds(tmp_path / "run")
    assert [threshold.figure for threshold in thresholds] == [None, None]
    assert not any(threshold.passed for threshold in thresholds)
    assert all("run_bench.py demo" in threshold.detail for threshold in thresholds)

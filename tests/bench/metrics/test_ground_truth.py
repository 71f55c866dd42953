"""Distances to the ground truth: analytic answers, independent implementations, and nothing from outside the mask."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from bench.edit import EditCase, EditRequest
from bench.edit_scoring import compute
from bench.images import from_array, mask_image
from bench.metrics import ground_truth
from bench.metrics.features import Features
from bench.metrics.types import NoValue, Pair, RgbImage
from tests.bench.metrics.pictures import box, natural, noise, pair
from tests.bench.metrics.test_leakage import reference_map
from tests.bench.metrics.test_masked import naive_ssim

METRICS = (ground_truth.TruthLpips, ground_truth.TruthRmse, ground_truth.TruthSsim)
MASK = box(64, 10, 14, 30, 36)


@cache
def features() -> Features:
    return Features()


def edit(edited: np.ndarray, reference: np.ndarray) -> Pair:
    return pair(natural(0), edited, MASK, truth=RgbImage(reference))


@pytest.mark.parametrize("metric", METRICS)
class TestAll:
    def test_the_oracle_has_no_distance(self, metric: type[ground_truth.TruthLpips]) -> None:
        reference = natural(1)
        expected = 1.0 if metric is ground_truth.TruthSsim else 0.0
        assert metric(features()).score([edit(reference, reference)]) == [pytest.approx(expected, abs=1e-12)]

    def test_the_outside_does_not_matter(self, metric: type[ground_truth.TruthLpips]) -> None:
        reference, inside = natural(1), natural(2)
        edits = [np.where(MASK[..., None], inside, outside) for outside in (noise(3), natural(4))]
        one, other = metric(features()).score([edit(edits[0], reference), edit(edits[1], reference)])
        assert one == other

    def test_the_source_does_not_matter(self, metric: type[ground_truth.TruthLpips]) -> None:
        pairs = [pair(natural(k), natural(2), MASK, truth=RgbImage(natural(1))) for k in (5, 6)]
        one, other = metric(features()).score(pairs)
        assert one == other

    def test_another_truth_is_another_value(self, metric: type[ground_truth.TruthLpips]) -> None:
        """Values are kept by content: the truth belongs to it."""
        one, other = metric(features()).score([edit(natural(2), natural(1)), edit(natural(2), natural(3))])
        assert one != other

    def test_a_case_without_a_truth_gets_a_reason(self, metric: type[ground_truth.TruthLpips]) -> None:
        bare = pair(natural(0), natural(1), MASK)
        empty = pair(natural(0), natural(1), np.zeros((64, 64), bool), truth=RgbImage(natural(2)))
        scores = compute(metric(features()), [bare, edit(natural(1), natural(1)), empty])
        assert [reason for _, reason in scores] == ["the case has no truth", None, "the case has no mask"]


def test_rmse_is_the_formula() -> None:
    source = np.full((64, 64, 3), 100, np.uint8)
    edited = source.copy()
    edited[MASK] += np.array([30, 0, 40], np.uint8)
    (value,) = ground_truth.TruthRmse(features()).score([edit(edited, source)])
    assert value == pytest.approx(np.sqrt((30**2 + 40**2) / 3) / 255, rel=1e-12)


def test_ssim_agrees_with_loops() -> None:
    mask = box(24, 4, 6, 12, 13)
    one = pair(natural(0, 24), noise(2, 24), mask, truth=RgbImage(natural(1, 24)))
    (value,) = ground_truth.TruthSsim(features()).score([one])
    assert value == pytest.approx(naive_ssim(natural(1, 24), noise(2, 24), mask), rel=1e-10)


def test_ssim_without_a_whole_window_has_no_value() -> None:
    one = pair(natural(0), natural(1), box(64, 0, 0, 4, 64), truth=RgbImage(natural(2)))
    assert isinstance(ground_truth.TruthSsim(features()).score([one])[0], NoValue)


def test_lpips_agrees_with_its_package() -> None:
    reference, edited = natural(1), natural(2)
    filled = np.where(MASK[..., None], edited, reference)
    expected = reference_map("alex", reference, filled)[MASK].mean()
    (value,) = ground_truth.TruthLpips(features()).score([edit(edited, reference)])
    assert value == pytest.approx(float(expected), abs=1e-5)


def test_a_case_hands_its_truth_on() -> None:
    request = EditRequest(from_array(natural(0)), mask_image(MASK), "a", "b", "c", "d")
    case = EditCase("x", "attribute", request, source_id="s", truth=from_array(natural(1)))
    one = Pair.of_case(case, RgbImage(natural(1)))
    assert ground_truth.TruthRmse(features()).score([one]) == [0.0]

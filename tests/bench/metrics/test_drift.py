"""Drift metrics against the drift that was made, and aligned leakage against leakage without any drift."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from bench import scoring
from bench.metrics import METRICS, leakage
from bench.metrics.choice import choose_metrics, metric_registry
from bench.metrics.drift import DriftPx, DriftZoom, LeakLpipsAligned, LeakPsnrAligned, LeakSsimAligned
from bench.metrics.features import Features
from bench.metrics.types import NO_MASK
from tests.bench.metrics.pictures import box, natural, pair
from tests.bench.metrics.test_registration import jpeg, photograph, repainted, warped

DRIFT = (DriftPx, DriftZoom)
ALIGNED = {
    LeakPsnrAligned: leakage.LeakPsnr,
    LeakSsimAligned: leakage.LeakSsim,
    LeakLpipsAligned: leakage.LeakLpips,
}
NAMES = {cls.name for cls in (*DRIFT, *ALIGNED)}
MASK = box(256, 80, 60, 100, 120)


@cache
def features() -> Features:
    return Features()


@cache
def small() -> Any:
    """The photograph at ``(256, 256, 3)``: means of 2 x 2 pixels, without aliases that no interpolation could keep."""
    return photograph().reshape(256, 2, 256, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def value(metric: Any, edited: Any, mask: Any = MASK, source: Any = None) -> Any:
    """``(value, reason)`` as scoring stores them."""
    source = small() if source is None else source
    return scoring.compute(metric(features()), [pair(source, edited, mask)])[0]


@pytest.mark.parametrize("mask", [MASK, None])
@pytest.mark.parametrize("change", ["copy", "jpeg"])
def test_an_image_that_did_not_move_has_a_drift_of_exactly_0(mask: Any, change: str) -> None:
    source = small()
    edited = source if change == "copy" else jpeg(source, 60)
    assert value(DriftPx, edited, mask) == (0.0, None)
    assert value(DriftZoom, edited, mask) == (0.0, None)


@pytest.mark.parametrize("aligned", ALIGNED)
def test_without_drift_aligned_leakage_is_plain_leakage(aligned: Any) -> None:
    edited = jpeg(small(), 60)
    assert value(aligned, edited) == value(ALIGNED[aligned], edited)


@pytest.mark.parametrize("mask", [MASK, None])
def test_drift_is_the_mean_displacement_outside(mask: Any) -> None:
    source = small()
    edited = warped(source, 1, 3, -2)
    assert value(DriftPx, edited, mask)[0] == pytest.approx(np.hypot(3, 2), abs=0.1)
    assert value(DriftZoom, edited, mask)[0] == pytest.approx(0, abs=0.05)
    # A pixel moves by 2 % of its distance from the centre.
    edited = warped(source, 1.02, 0, 0)
    y, x = np.mgrid[:256, :256] - 127.5
    valid = np.ones((256, 256), bool) if mask is None else leakage.bands(mask).valid
    assert value(DriftPx, edited, mask)[0] == pytest.approx(0.02 * np.hypot(x, y)[valid].mean(), abs=0.1)
    assert value(DriftZoom, edited, mask)[0] == pytest.approx(2, abs=0.05)


def test_aligned_leakage_of_pure_drift_is_that_of_warping_and_warping_back() -> None:
    source = small()
    moved = warped(source, 1.01, 3, -2)
    floor = warped(moved, 1 / 1.01, -3 / 1.01, 2 / 1.01)
    # The pixels that left the image count in the floor, and not in the aligned value.
    frame = MASK.copy()
    frame[:8], frame[-8:], frame[:, :8], frame[:, -8:] = True, True, True, True
    plain, aligned = value(leakage.LeakPsnr, moved)[0], value(LeakPsnrAligned, moved)[0]
    assert aligned == pytest.approx(value(leakage.LeakPsnr, floor, frame)[0], abs=1.5)
    assert plain < aligned - 8
    assert value(LeakSsimAligned, moved)[0] > 0.97 > value(leakage.LeakSsim, moved)[0]
    assert value(LeakLpipsAligned, moved)[0] < 0.02 < value(leakage.LeakLpips, moved)[0]


def test_aligned_leakage_keeps_what_else_changed() -> None:
    """A square repainted outside the mask costs as much with drift as without."""
    source = small()
    edited = source.copy()
    edited[200:240, 20:100] = 255 - edited[200:240, 20:100]
    still = value(leakage.LeakPsnr, edited)[0]
    assert value(LeakPsnrAligned, warped(edited, 1, 2, 1))[0] == pytest.approx(still, abs=0.3)


@pytest.mark.parametrize("metric", [*DRIFT, *ALIGNED])
def test_an_edit_of_most_of_the_outside_has_a_reason_and_no_value(metric: Any) -> None:
    source = natural(3, 256)
    number, reason = value(metric, repainted(source, 0.7), box(256, 0, 0, 20, 20), source)
    assert number is None
    assert (
        reason == "less than half of the part outside the mask matches the source: drift cannot be measured"
    )


@pytest.mark.parametrize("aligned", ALIGNED)
def test_without_a_mask_aligned_leakage_is_not_defined(aligned: Any) -> None:
    assert value(aligned, warped(small(), 1, 3, -2), None) == (None, NO_MASK)


def test_values_do_not_depend_on_the_batch() -> None:
    source = small()
    edits = [warped(source, 1, 3, -2), repainted(source, 0.7), source, jpeg(warped(source, 1.01, 0, 0), 80)]
    for metric in (*DRIFT, *ALIGNED):
        together = metric(Features()).score([pair(source, edited, MASK) for edited in edits])
        assert together == [metric(Features()).score([pair(source, edited, MASK)])[0] for edited in edits]


def test_they_are_computed_only_where_they_are_named() -> None:
    assert set(METRICS) >= NAMES
    assert all(metric_registry().load(name).on_request for name in NAMES)
    assert not NAMES & set(choose_metrics(Features()).names)
    assert set(choose_metrics(Features(), requested=sorted(NAMES)).names) == NAMES

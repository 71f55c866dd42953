"""Spoiled edits: nothing outside the region is touched, and the labels say what is left to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.images import mask_array
from methods.zoo import failures
from methods.zoo.failures import OTHER
from protocols.world.world import MiniWorld

WORLD = MiniWorld()
CASES = [WORLD.case(-1 - i) for i in range(40)]


def region_of(case, index):  # type: ignore[no-untyped-def]
    return mask_array(case.request.regions[index].mask if case.request.regions else case.request.mask)


def test_an_ideal_edit_is_the_truth_with_every_claim_of_the_region() -> None:
    for case in CASES:
        for index in range(failures.regions(case)):
            example = failures.ideal(case, index)
            assert (example.pixels == np.asarray(case.truth)).all()
            assert (example.region == region_of(case, index)).all()
            assert example.labels == {c.attribute: c.after for c in case.claims if c.region == index}
            assert example.labels


def test_a_spoiled_edit_differs_from_the_truth_inside_the_region_alone() -> None:
    rng = np.random.default_rng(0)
    for case in CASES:
        index = failures.regions(case) - 1
        example = failures.spoiled(case, index, rng)
        # A soft edge may reach two pixels past the region, corners included.
        grown = example.region.copy()
        for _ in range(4):
            grown |= (
                np.roll(grown, 1, 0) | np.roll(grown, -1, 0) | np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
            )
        # Far from the region the image is the source or the ground truth.
        source, truth = np.asarray(case.request.source), np.asarray(case.truth)
        outside = example.pixels[~grown]
        assert (outside == source[~grown]).all() or (outside == truth[~grown]).all()
        assert (example.pixels != truth)[example.region].any()


def test_a_spoiled_edit_is_other_in_what_it_was_asked_for() -> None:
    rng = np.random.default_rng(1)
    for case in CASES * 3:
        example = failures.spoiled(case, 0, rng)
        assert set(example.labels.values()) == {OTHER}
        assert set(example.labels) <= {c.attribute for c in case.claims if c.region == 0} | {"color"}


def test_a_trim_is_never_spoiled_by_a_flat_colour() -> None:
    # A trim has one colour, so a region with one colour shows a trim.
    level_3, rng = MiniWorld((1, 2, 3)).by_level()[3], np.random.default_rng(2)
    trims = [case for case in map(level_3.case, range(60)) if case.category == "trim"]
    assert len(trims) >= 5
    for case in trims * 4:
        example = failures.spoiled(case, 0, rng)
        # A soft edge mixes the region's rim with the source, so a flat fill would keep the spread of a few levels.
        assert example.pixels[example.region].std(axis=0).max() > 12


def test_the_same_generator_spoils_the_same_way() -> None:
    one, other = (failures.spoiled(CASES[3], 0, np.random.default_rng(5)) for _ in range(2))
    assert (one.pixels == other.pixels).all()
    assert one.labels == other.labels


def test_a_case_without_a_truth_is_refused_by_name() -> None:
    case = replace(CASES[0], truth=None)
    with pytest.raises(ValueError, match="has no ground truth"):
        failures.ideal(case, 0)
    with pytest.raises(ValueError, match="has no ground truth"):
        failures.spoiled(case, 0, np.random.default_rng(0))

"""Imprecise masks: what each change adds or takes, and what it never does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.imprecise_masks import KINDS, imprecise


def regions() -> NDArray[np.bool_]:
    # A disc and a box apart from each other, and an unused third region.
    y, x = np.mgrid[0:64, 0:64]
    out = np.zeros((3, 64, 64), np.bool_)
    out[0] = (y - 18) ** 2 + (x - 18) ** 2 <= 100
    out[1, 40:56, 34:60] = True
    return out


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_regions_apart_and_empty_ones_empty(kind: str) -> None:
    masks = regions()
    for seed in range(20):
        out = imprecise(masks, kind, rng(seed), reach=0.3)
        assert not out[2].any()
        assert not (out[0] & masks[1]).any()
        assert not (out[1] & masks[0]).any()
        assert out[0].any()
        assert out[1].any()


def test_growing_is_by_the_drawn_radius() -> None:
    masks = np.zeros((1, 33, 33), np.bool_)
    masks[0, 16, 16] = True
    for seed in range(10):
        out = imprecise(masks, "grow", rng(seed), reach=5 / 33)[0]
        # The distance of the farthest pixel from the centre.
        reach = max(abs(np.argwhere(out) - 16).max(), 0)
        radius = int(rng(seed).integers(1, 6))
        assert reach == radius
        assert (out == out[::-1]).all()
        assert (out == out.T).all()


def test_a_change_that_would_leave_too_little_is_not_made() -> None:
    masks = np.zeros((1, 64, 64), np.bool_)
    masks[0, 30:32, 10:50] = True  # two pixels high: any shrinking would erase it
    for seed in range(10):
        assert np.array_equal(imprecise(masks, "shrink", rng(seed), reach=0.1), masks)


def test_a_box_is_the_bounding_box_grown_by_the_drawn_radius() -> None:
    masks = regions()[:1]
    for seed in range(10):
        out = imprecise(masks, "box", rng(seed), reach=0.05)[0]
        radius = int(rng(seed).integers(1, 4))
        # The disc spans 8 to 28.
        expected = np.zeros_like(out)
        expected[8 - radius : 29 + radius, 8 - radius : 29 + radius] = True
        assert np.array_equal(out, expected)


def test_an_unknown_change_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown change of a mask: 'melt'. The kinds are grow, shrink"):
        imprecise(regions(), "melt", rng())

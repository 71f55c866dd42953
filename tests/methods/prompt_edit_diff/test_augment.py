"""Mask dropout: how often, how much, and what it never does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from methods.prompt_edit_diff.augment import MaskDropout


def regions(count: int) -> NDArray[np.bool_]:
    # A disc and a box apart from each other, and an unused third region.
    y, x = np.mgrid[0:64, 0:64]
    out = np.zeros((count, 3, 64, 64), np.bool_)
    out[:, 0] = (y - 18) ** 2 + (x - 18) ** 2 <= 100
    out[:, 1, 40:56, 34:60] = True
    return out


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_the_stated_share_of_examples_changes() -> None:
    masks = regions(2000)
    for probability in (0.0, 0.25, 1.0):
        out = MaskDropout(probability)(masks, rng())
        changed = (out != masks).any((1, 2, 3)).mean()
        assert changed == pytest.approx(probability, abs=0.03)


def test_each_kind_is_as_likely_and_does_what_it_says() -> None:
    # Of all changes: grown, box and blob only add, shrink and drop only take, each a fifth.
    masks = regions(2000)
    out = MaskDropout(1.0)(masks, rng(1))
    # Pixels that were added, and pixels that were removed.
    adds = ((out & ~masks).any((1, 2, 3))).mean()
    takes = ((~out & masks).any((1, 2, 3))).mean()
    assert adds == pytest.approx(3 / 5, abs=0.04)
    assert takes == pytest.approx(2 / 5, abs=0.04)
    assert not ((out & ~masks).any((1, 2, 3)) & (~out & masks).any((1, 2, 3))).any()


def test_areas_stay_within_their_bounds() -> None:
    masks = regions(500)
    out = MaskDropout(1.0, least=0.5)(masks, rng(2))
    # Area after and before, for the two used regions.
    ratio = out[:, :2].sum((2, 3)) / masks[:, :2].sum((2, 3))
    assert ratio.min() >= 0.5
    assert ratio.max() < 3
    assert 0.9 < np.median(ratio) < 1.3


def test_it_depends_on_the_generator_alone() -> None:
    masks = regions(50)
    before = masks.copy()
    assert np.array_equal(MaskDropout(0.5)(masks, rng(4)), MaskDropout(0.5)(masks, rng(4)))
    assert not np.array_equal(MaskDropout(0.5)(masks, rng(4)), MaskDropout(0.5)(masks, rng(5)))
    assert np.array_equal(masks, before)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="probability"):
        MaskDropout(probability=1.5)

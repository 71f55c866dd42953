"""Masks of every precision, and the object of an edit."""

from __future__ import annotations

import numpy as np
import pytest

from methods.smartbrush.precision import (
    BOX,
    DRAWN,
    PRECISIONS,
    SIGMAS,
    THRESHOLD,
    at_precision,
    changed_inside,
    guess,
)


def disc(radius: float = 10, size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - 30) ** 2 + (x - 34) ** 2 <= radius**2


def test_the_ends_are_the_silhouette_and_its_bounding_box() -> None:
    mask = disc()
    assert np.array_equal(at_precision(mask, 0), mask)
    box = np.zeros_like(mask)
    box[20:41, 24:45] = True
    assert np.array_equal(at_precision(mask, BOX), box)
    # A margin grows the box, up to the image's border.
    assert np.argwhere(at_precision(mask, BOX, margin=3))[[0, -1]].tolist() == [[17, 21], [43, 47]]
    assert at_precision(mask, BOX, margin=64).all()


def test_every_precision_contains_the_object_and_they_grow() -> None:
    mask = disc()
    mask[50, 5:40] = True  # a line of one pixel, which a blur alone would lose
    areas = []
    for precision in range(PRECISIONS):
        grown = at_precision(mask, precision)
        assert (grown | ~mask).all()
        areas.append(np.count_nonzero(grown))
    assert areas == sorted(areas)
    assert len(set(areas)) == PRECISIONS
    assert not at_precision(np.zeros_like(mask), 3).any()


@pytest.mark.parametrize("precision", [1, 2, 3])
def test_a_blur_moves_a_straight_edge_by_its_standard_deviation(precision: int) -> None:
    # Phi(-1): the share of a normal distribution more than one standard deviation below its mean.
    from scipy.stats import norm

    assert pytest.approx(norm.cdf(-1), abs=1e-4) == THRESHOLD
    half = np.zeros((64, 64), bool)
    half[:, :20] = True
    grown = at_precision(half, precision)
    # The edge lies between pixels, so that the middle of the last new pixel is half a pixel nearer.
    assert abs((np.flatnonzero(grown[32])[-1] + 1 - 20) - SIGMAS[precision - 1]) <= 0.5
    # Twice the size, twice the blur.
    large = at_precision(np.kron(half, np.ones((2, 2), bool)), precision)
    assert abs((np.flatnonzero(large[64])[-1] + 1 - 40) - 2 * SIGMAS[precision - 1]) <= 0.5


def test_the_precision_of_a_mask_is_guessed_from_its_shape() -> None:
    box = at_precision(disc(), BOX)
    rounded = box.copy()
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        ys, xs = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        rounded[ys[y], xs[x]] = False
    assert [guess(mask) for mask in (box, rounded, disc())] == [BOX, BOX, DRAWN]
    with pytest.raises(ValueError, match="empty"):
        guess(np.zeros((8, 8), bool))
    with pytest.raises(ValueError, match="expected 0 to 4"):
        at_precision(disc(), PRECISIONS)


def test_the_object_of_an_edit_is_what_changes_inside_its_mask() -> None:
    source = np.full((64, 64, 3), 100, np.uint8)
    truth = source.copy()
    truth[disc(10)] = 200
    truth[28:32, 32:36] = 100  # a hole, which keeps its colour
    truth[0:4, 0:4] = 0  # outside the mask
    mask = disc(14)
    assert np.array_equal(changed_inside(source, truth, mask), disc(10))
    # Small differences are no change, and an edit without changes has its whole mask.
    assert np.array_equal(changed_inside(source, source + 8, mask), mask)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import images
from protocols.masks import apart, bounds, dilate, erode, rounded_box, square_crop, union, usable


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 9),
    st.sampled_from([0.01, 0.1, 0.5]),
)
def test_dilation_and_erosion_agree_with_the_distance_transform(
    seed: int, height: int, width: int, radius: float, density: float
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    assert np.array_equal(dilate(mask, radius), images.dilate(mask, radius))
    assert np.array_equal(erode(mask, radius), ~images.dilate(~mask, radius))


def test_a_dilated_pixel_is_a_disc() -> None:
    mask = np.zeros((41, 41), bool)
    mask[20, 20] = True
    y, x = np.mgrid[:41, :41] - 20
    assert np.array_equal(dilate(mask, 7.5), x * x + y * y <= 7.5**2)


def test_dilation_leaves_its_argument_alone_and_small_radii_change_nothing() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0, 0] = True
    same = dilate(mask, 0.9)
    assert np.array_equal(same, mask)
    same[5, 5] = True
    assert mask.sum() == 1


def test_shapes_have_the_areas_of_geometry() -> None:
    disc = rounded_box((200, 300), (60, 50, 160, 150), 50)
    assert disc.sum() == pytest.approx(math.pi * 50**2, rel=0.01)
    box = rounded_box((200, 300), (50, 40, 250, 160), 30)
    assert box.sum() == pytest.approx(200 * 120 - (4 - math.pi) * 30**2, rel=0.01)
    assert rounded_box((20, 30), (5, 4, 25, 16), 0).sum() == 20 * 12
    assert bounds(box) == (50, 40, 250, 160)


def test_a_box_may_reach_beyond_the_image() -> None:
    assert rounded_box((10, 10), (-50, -50, 60, 60), 5).all()


def test_bounds_of_nothing_is_none() -> None:
    assert bounds(np.zeros((4, 5), bool)) is None


def test_regions_are_apart_up_to_a_fifth_of_the_smaller() -> None:
    one, other = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    one[:, :10] = True
    other[:5, 8:18] = True  # 10 of 50 pixels lie in both
    assert apart([one, other])
    other[:5, 7] = True  # 15 of 55
    assert not apart([one, other])


def test_usable_masks_edit_something_and_keep_something() -> None:
    mask = np.zeros((100, 100), bool)
    assert not usable(mask)
    mask[:5, :5] = True
    assert usable(mask)
    mask[:98] = True
    assert usable(mask)
    mask[:99] = True
    assert not usable(mask)


def test_union_of_nothing_is_empty() -> None:
    assert not union([], (3, 4)).any()


@pytest.mark.parametrize("seed", range(30))
def test_no_other_square_shows_more_of_the_spans(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side, length = int(rng.integers(20, 60)), int(rng.integers(60, 120))
    spans = [
        tuple(sorted(rng.choice(length + 1, 2, replace=False).tolist())) for _ in range(rng.integers(1, 5))
    ]

    def visible(start: int) -> float:
        return sum(np.mean([start <= x < start + side for x in range(low, high)]) for low, high in spans)

    best = max(visible(start) for start in range(length - side + 1))
    left, top, right, bottom = square_crop(length, side, spans)
    assert (top, right - left, bottom) == (0, side, side)
    assert visible(left) == pytest.approx(best)
    assert square_crop(side, length, spans) == (0, left, side, left + side)


def test_the_most_central_square_wins_a_tie() -> None:
    assert square_crop(100, 40, []) == (30, 0, 70, 40)
    assert square_crop(100, 40, [(45, 55)]) == (30, 0, 70, 40)
    assert square_crop(100, 40, [(80, 90)]) == (50, 0, 90, 40)
    assert square_crop(40, 40, [(0, 10)]) == (0, 0, 40, 40)

"""Images and pairs: their sizes, keys and composited edits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.edit import Region, ScoredAreas
from bench.images import mask_array
from bench.metrics.types import MetricError, Pair, RgbImage
from tests.bench.fakes import make_case, square
from tests.bench.metrics.pictures import box, natural, pair


class TestPair:
    def test_sizes_must_agree(self) -> None:
        with pytest.raises(MetricError, match="sizes differ"):
            pair(natural(1), natural(1, 32), box(64, 0, 0, 9, 9))
        with pytest.raises(MetricError, match="sizes differ"):
            pair(natural(1), natural(2), box(32, 0, 0, 9, 9))

    def test_ranges_are_not_guessed(self) -> None:
        with pytest.raises(MetricError, match="uint8"):
            RgbImage(natural(1) / 255)  # type: ignore[arg-type]

    def test_pasting_back(self) -> None:
        mask = box(64, 10, 20, 9, 9)
        one = pair(natural(1), natural(2), mask, case="x", target_prompt="y")
        composited = one.composite()
        assert np.array_equal(composited.edited.pixels[mask], natural(2)[mask])
        assert np.array_equal(composited.edited.pixels[~mask], natural(1)[~mask])
        assert (composited.case, composited.target_prompt, composited.composited) == ("x", "y", True)
        assert composited.composite() is composited

    def test_keys_are_of_content(self) -> None:
        assert RgbImage(natural(1)).key == RgbImage(natural(1).copy()).key
        assert RgbImage(natural(1)).key != RgbImage(natural(2)).key
        flat = np.zeros((2, 8, 3), np.uint8)
        assert RgbImage(flat).key != RgbImage(flat.reshape(8, 2, 3)).key

    def test_of_a_case(self) -> None:
        from bench.edit import Claim, EditCase, EditRequest, Region
        from bench.images import from_array, mask_image

        left, right = box(64, 0, 0, 20, 20), box(64, 40, 40, 9, 9)
        request = EditRequest(
            from_array(natural(1)), mask_image(left | right), "s", "t", "r", "i", ("w",),
            (Region(mask_image(left), "l", ("l",)), Region(mask_image(right), "q")),
        )  # fmt: skip
        claims = (Claim("color", "red", "blue", 1),)
        case = EditCase("id", "multi_object", request, "src", claims, from_array(natural(3)))
        one = Pair.of_case(case, RgbImage(natural(2)))
        assert np.array_equal(one.mask, left | right)
        assert [area.prompt for area in one.areas] == ["l", "q"]
        assert np.array_equal(one.areas[1].mask, right)
        assert one.claims == claims
        assert one.truth is not None
        assert one.truth.key == RgbImage(natural(3)).key
        assert (one.source_prompt, one.target_prompt, one.region_prompt) == ("s", "t", "r")
        assert (one.case, one.category, one.source_id) == ("id", "multi_object", "src")


def test_a_composited_edit_is_bounded_by_the_mask_that_the_method_got() -> None:
    """The exact mask decides where metrics look, not which pixels a method was allowed to paint."""
    exact, grown = box(64, 20, 20, 20, 20), box(64, 16, 16, 28, 28)
    one = pair(natural(1), natural(2), exact)
    sloppy = replace(one, given_mask=grown)
    composited = sloppy.composite()
    assert np.array_equal(composited.edited.pixels[grown], natural(2)[grown])
    assert np.array_equal(composited.edited.pixels[~grown], natural(1)[~grown])
    # The rim beyond the exact mask leaks, so the pair does not count as free of leakage.
    assert not composited.composited
    # A mask within the exact one leaves nothing outside it to leak.
    assert replace(one, mask=grown, given_mask=exact).composite().composited


def test_a_pair_takes_its_areas_from_where_metrics_look() -> None:
    case = make_case(0)
    exact = square(32, (3, 3, 7, 8))
    scored = ScoredAreas(exact, (Region(exact, "a red ball", ("red",)),))
    edited = RgbImage.of(case.request.source)
    seen = Pair.of_case(replace(case, scored=scored), edited)
    assert np.array_equal(seen.mask, mask_array(exact))
    assert np.array_equal(seen.given_mask, mask_array(case.request.mask))
    assert [area.prompt for area in seen.areas] == ["a red ball"]
    assert Pair.of_case(case, edited).given_mask is None

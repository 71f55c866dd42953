"""Each feature is computed once, and never taken for another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.features import FeatureCache, Features
from bench.metrics.networks.clip import ClipNet
from bench.metrics.types import MetricError, Pair, RgbImage
from tests.bench.metrics.pictures import box, natural, pair


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward pass of a CLIP saw."""
    seen: list[int] = []
    original = ClipNet.encode_images

    def counting(self: ClipNet, prepared: Any) -> Any:
        seen.append(len(prepared))
        return original(self, prepared)

    monkeypatch.setattr(ClipNet, "encode_images", counting)
    return seen


class TestOnce:
    def test_a_picture_is_encoded_once(self, clip_folder: Path, encoded: list[int]) -> None:
        features = Features(mini_clip=clip_folder)
        first = features.clip_images(
            "mini_clip", [RgbImage(natural(1)), RgbImage(natural(2)), RgbImage(natural(1))]
        )
        second = features.clip_images("mini_clip", [RgbImage(natural(2)), RgbImage(natural(1).copy())])
        assert sum(encoded) == 2
        assert np.array_equal(first[0], first[2])
        assert np.array_equal(second, first[[1, 0]])

    def test_across_runs_through_the_disk(
        self, clip_folder: Path, encoded: list[int], tmp_path: Path
    ) -> None:
        pictures = [RgbImage(natural(seed)) for seed in range(3)]
        first = Features(mini_clip=clip_folder, cache_dir=tmp_path)
        before = first.clip_images("mini_clip", pictures)
        texts = first.clip_texts("mini_clip", ["a car", "a ball"])
        first.flush()
        second = Features(mini_clip=clip_folder, cache_dir=tmp_path)
        after = second.clip_images("mini_clip", pictures[::-1])[::-1]
        assert np.array_equal(before, after)
        assert np.array_equal(texts, second.clip_texts("mini_clip", ["a car", "a ball"]))
        assert sum(encoded) == 3
        assert not second._clips, "nothing was missing, so no network need be loaded"

    def test_another_network_shares_nothing(
        self, make_clip: Callable[[int], Path], encoded: list[int], tmp_path: Path
    ) -> None:
        one = Features(mini_clip=make_clip(0), cache_dir=tmp_path)
        one.clip_images("mini_clip", [RgbImage(natural(1))])
        one.flush()
        other = Features(mini_clip=make_clip(1), cache_dir=tmp_path)
        other.clip_images("mini_clip", [RgbImage(natural(1))])
        assert sum(encoded) == 2

    def test_pair_values(self) -> None:
        features = Features()
        asked: list[int] = []

        def compute(pairs: Any) -> list[float]:
            asked.append(len(pairs))
            return [float(p.edited.pixels.mean()) for p in pairs]

        mask = box(64, 0, 0, 9, 9)
        one, two = pair(natural(1), natural(2), mask), pair(natural(1), natural(3), mask)
        assert len(set(features.pair_values("mean", [one, two, one], compute))) == 2
        features.pair_values("mean", [two], compute)
        features.pair_values("other", [two], compute)
        assert asked == [2, 1]


class TestCache:
    def test_a_damaged_file_is_computed_again(self, tmp_path: Path) -> None:
        def compute(items: Any) -> Any:
            return np.array([[float(item)] for item in items])

        cache = FeatureCache(tmp_path)
        cache.get("net", ["a", "b"], [1, 2], compute)
        cache.flush()
        (file,) = (tmp_path / "net").glob("*.npz")
        assert FeatureCache(tmp_path).get("net", ["b"], [9], compute).tolist() == [[2.0]]
        file.write_bytes(file.read_bytes()[:60])
        assert FeatureCache(tmp_path).get("net", ["b"], [9], compute).tolist() == [[9.0]]

    def test_a_folder_that_cannot_be_written_costs_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        cache = FeatureCache(tmp_path / "file")
        rows = cache.get("net", ["a"], [1], lambda items: np.ones((1, 2)))
        with pytest.warns(UserWarning, match="cannot be written"):
            cache.flush()
        assert rows.shape == (1, 2)

    def test_features_of_a_wrong_shape_are_refused(self) -> None:
        with pytest.raises(MetricError, match="for 2 images"):
            FeatureCache().get("net", ["a", "b"], [1, 2], lambda items: np.ones((1, 2)))

    def test_a_name_space_cannot_leave_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot become a file name"):
            FeatureCache(tmp_path).get("../net", ["a"], [1], lambda items: np.ones((1, 2)))


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

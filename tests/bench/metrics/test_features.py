"""Each feature is computed once, and never taken for another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.features import Features
from bench.metrics.networks.clip import ClipNet
from bench.metrics.types import RgbImage
from tests.bench.metrics.pictures import box, natural, pair


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward pass of a CLIP saw."""
    calls: list[int] = []
    original = ClipNet.encode_images

    def counting(self: ClipNet, prepared: Any) -> Any:
        calls.append(len(prepared))
        return original(self, prepared)

    monkeypatch.setattr(ClipNet, "encode_images", counting)
    return calls


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
        sizes: list[int] = []

        def compute(pairs: Any) -> list[float]:
            sizes.append(len(pairs))
            return [float(p.edited.pixels.mean()) for p in pairs]

        mask = box(64, 0, 0, 9, 9)
        one, two = pair(natural(1), natural(2), mask), pair(natural(1), natural(3), mask)
        assert len(set(features.pair_values("mean", [one, two, one], compute))) == 2
        features.pair_values("mean", [two], compute)
        features.pair_values("other", [two], compute)
        assert sizes == [2, 1]

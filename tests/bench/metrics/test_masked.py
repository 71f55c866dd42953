"""Comparisons of masked pixels against loops and analytic answers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics import leakage, masked
from bench.metrics.features import Features
from bench.metrics.options import LeakageOptions
from bench.metrics.types import MetricError, NoValue
from tests.bench.metrics.pictures import SHARES, box, natural, noise, pair, square

boxes = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 64), st.integers(1, 64)).map(
    lambda b: (b[0], b[1], min(b[2], 64 - b[0]), min(b[3], 64 - b[1]))
)


@cache
def features() -> Features:
    return Features()


def naive_area(source: Any, edited: Any, region: Any, radius: int) -> float:
    """By loops over the region's pixels, each with the square from ``radius`` pixels before it to as many after it."""
    changed = 0
    for row, column in np.argwhere(region):
        part = (
            slice(max(0, row - radius), row + radius + 1),
            slice(max(0, column - radius), column + radius + 1),
        )
        pixels = region[part]
        step = (source[part][pixels].astype(float) - edited[part][pixels]).mean(axis=0)
        changed += bool(np.abs(step).max() > 38.25)
    return changed / int(region.sum())


class TestArea:
    @given(boxes, st.integers(0, 3))
    @settings(max_examples=15, deadline=None)
    def test_against_loops(self, where: tuple[int, int, int, int], seed: int) -> None:
        region = box(64, *where)
        source, edited = natural(seed), natural(seed + 10)
        expected = naive_area(source, edited, region, 2)
        assert masked.changed_area(source, edited, region) == pytest.approx(expected, rel=1e-12)

    def test_a_repainted_strip_covers_its_share(self) -> None:
        """The change is twice the least one: half of the square around a pixel must be repainted to count."""
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = source.copy()
        edited[:, 32:56, 2] += 77
        assert masked.changed_area(source, edited, np.ones((64, 64), bool)) == 24 / 64
        edited[:, 32:56, 2] = 138
        assert masked.changed_area(source, edited, np.ones((64, 64), bool)) == 0.0

    def test_errors_that_cancel_around_a_pixel_do_not_count(self) -> None:
        source = np.full((64, 64, 3), 128, np.uint8)
        edited = source.copy()
        edited[::2], edited[1::2] = 68, 188
        assert masked.changed_area(source, edited, np.ones((64, 64), bool)) == 0.0

    def test_pixels_beyond_the_region_do_not_count(self) -> None:
        source = natural(1)
        region = box(64, 3, 5, 30, 21)
        edited = np.where(region[..., None], source, noise(2))
        assert masked.changed_area(source, edited, region) == 0.0

    @pytest.mark.parametrize("shape", [(64, 64), (100, 70), (15, 40), (7, 7)])
    def test_any_shape_is_covered_once(self, shape: tuple[int, int]) -> None:
        source = np.zeros((*shape, 3), np.uint8)
        region = np.ones(shape, bool)
        assert masked.changed_area(source, source + np.uint8(200), region) == 1.0
        edited = source.copy()
        edited[: shape[0] // 2] = 200
        share = masked.changed_area(source, edited, region)
        assert share == pytest.approx(0.5, abs=0.1)

    def test_an_empty_region_has_none(self) -> None:
        assert masked.changed_area(natural(1), natural(2), np.zeros((64, 64), bool)) is None

    def test_inside_and_outside_are_the_two_sides_of_the_mask(self) -> None:
        mask = box(64, 16, 16, 16, 16)
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = source.copy()
        edited[16:24, 16:32] = 176
        edited[48:56] = 176
        pairs = [pair(source, edited, mask)]
        assert leakage.EditArea(features()).score(pairs) == [0.5]
        valid = masked.bands(mask).valid
        assert leakage.LeakArea(features()).score(pairs) == [pytest.approx(8 * 64 / valid.sum())]
        empty = np.zeros((64, 64), bool)
        assert leakage.EditArea(features()).score([pair(source, edited, empty)]) == [
            NoValue("the mask is empty")
        ]

    @pytest.mark.parametrize("share", SHARES)
    @pytest.mark.parametrize("side", [64, 256, 512])
    def test_one_damage_has_one_value_at_every_mask_and_canvas(self, side: int, share: float) -> None:
        """Every other strip, 1/8 of the side wide, is repainted by twice the least change, with noise everywhere."""
        valid = masked.bands(square(share, side)).valid
        source = np.full((side, side, 3), 128, np.uint8)
        strips = np.broadcast_to(np.arange(side) // (side // 8) % 2 == 0, (side, side))
        grain = np.random.default_rng(0).normal(0, 10, source.shape)
        edited = (source + 76.5 * strips[..., None] + grain).round().clip(0, 255).astype(np.uint8)
        area = masked.changed_area(source, edited, valid)
        mse = masked.masked_mse(source, edited, valid)
        covered = float(strips[valid].mean())
        # Where the mask cuts the square around a pixel, the pixels at a strip's end may fall on its other side.
        assert area == pytest.approx(covered, abs=0.05)
        assert mse is not None
        # Mean square: the repainted part and the noise; 5 % for a few hundred samples.
        assert mse * 255**2 == pytest.approx(76.5**2 * covered + 100, rel=0.05)

    def test_options(self) -> None:
        with pytest.raises(MetricError, match="tile"):
            LeakageOptions(tile=0.0)
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = source + np.uint8(10)
        region = np.ones((64, 64), bool)
        assert masked.changed_area(source, edited, region) == 0.0
        assert masked.changed_area(source, edited, region, LeakageOptions(repainted=0.03)) == 1.0


class TestBands:
    @given(boxes)
    @settings(max_examples=20, deadline=None)
    def test_distances_by_brute_force(self, where: tuple[int, int, int, int]) -> None:
        mask = box(64, *where)
        parts = masked.bands(mask)
        inside = np.argwhere(mask)
        grid = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), axis=-1)
        distance = np.sqrt(((grid[:, :, None] - inside) ** 2).sum(axis=-1)).min(axis=-1)
        assert np.array_equal(parts.edge, (distance > 0) & (distance <= 1))
        assert np.array_equal(parts.valid, distance > 1)
        assert np.array_equal(parts.near, (distance > 1) & (distance <= 4))
        assert np.array_equal(parts.mid, (distance > 4) & (distance <= 16))
        assert np.array_equal(parts.far, distance > 16)

    def test_widths_grow_with_the_image(self) -> None:
        parts = masked.bands(box(512, 0, 0, 512, 100))
        assert parts.edge[0].sum() == 8
        assert parts.near[0].sum() == 32 - 8
        assert parts.mid[0].sum() == 128 - 32
        assert parts.far[0].sum() == 512 - 100 - 128

    def test_bands_must_rise(self) -> None:
        with pytest.raises(MetricError, match="rise"):
            LeakageOptions(edge=0.2, near=0.1)


def naive_ssim(a: Any, b: Any, valid: Any) -> float:
    """By loops, from Wang et al. 2004, section III.B, with weights of invalid pixels set to zero."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    a, b = a / 255, b / 255
    values = []
    for row in range(5, a.shape[0] - 5):
        for column in range(5, a.shape[1] - 5):
            if not valid[row, column]:
                continue
            part = (slice(row - 5, row + 6), slice(column - 5, column + 6))
            weight = window * valid[part]
            weight = weight / weight.sum()
            for channel in range(3):
                x, y = a[(*part, channel)], b[(*part, channel)]
                mx, my = (weight * x).sum(), (weight * y).sum()
                sx, sy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
                sxy = (weight * (x - mx) * (y - my)).sum()
                values.append(
                    (2 * mx * my + 1e-4) * (2 * sxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (sx + sy + 9e-4))
                )
    return float(np.mean(values))


class TestSsim:
    @pytest.mark.parametrize("mask", [box(24, 0, 0, 0, 0), box(24, 8, 3, 9, 12), box(24, 0, 10, 24, 14)])
    def test_against_loops(self, mask: Any) -> None:
        a, b = natural(1, 24), noise(2, 24)
        (value,) = masked.masked_ssim(a, [b], ~mask)
        assert value == pytest.approx(naive_ssim(a, b, ~mask), rel=1e-10)

    def test_flat_images(self) -> None:
        """Without variance only the luminance term is left."""
        a = np.full((32, 32, 3), 51, np.uint8)
        b = np.full((32, 32, 3), 153, np.uint8)
        (value,) = masked.masked_ssim(a, [b], ~box(32, 5, 5, 10, 10))
        assert value == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-9)

    def test_images_below_the_window_have_no_value(self) -> None:
        small = np.zeros((10, 10, 3), np.uint8)
        assert masked.masked_ssim(small, [small], np.ones((10, 10), bool)) == [None]

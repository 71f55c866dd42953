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

from bench.metrics import leakage, masked
from bench.metrics.features import Features
from bench.metrics.networks import lpips_weights
from bench.metrics.networks.lpips_net import LpipsNet
from bench.metrics.options import LeakageOptions, MetricOptions
from bench.metrics.types import MetricError, NoValue, RgbImage
from tests.bench.metrics.pictures import SHARES, box, natural, noise, pair, square

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
PERFECT = {"leak_psnr": masked.PSNR_CAP, "leak_ssim": 1.0}


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
        parts = masked.bands(mask)
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
        valid = masked.bands(mask).valid
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
        assert peak == pytest.approx(min(masked.PSNR_CAP, 10 * math.log10(1 / expected)), rel=1e-12)
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
        assert pytest.approx(-10 * math.log10(mse), abs=0.01) == masked.PSNR_CAP
        assert masked.psnr(0.0) == masked.psnr(1e-9) == masked.PSNR_CAP
        assert masked.psnr(1e-4) == pytest.approx(40.0)

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
        valid = masked.bands(mask).valid
        assert valid[0].argmax() == 33
        (value,) = leakage.LeakLpipsUndiluted(features()).score([pair(natural(1), natural(2), mask)])
        assert value == pytest.approx(float(reference_map("alex", *pictures)[valid].mean()), abs=1e-5)

    def test_no_mask_is_plain_lpips(self) -> None:
        pairs = [pair(natural(1), natural(2), np.zeros((64, 64), bool))]
        assert leakage.LeakLpipsUndiluted(features()).score(pairs) == leakage.LeakLpips(features()).score(
            pairs
        )


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
        (value,) = features().lpips(net).maps([RgbImage(a)], [RgbImage(b)])
        np.testing.assert_allclose(value, reference_map(net, a, b), rtol=0, atol=1e-5)

    def test_a_map_of_whole_cells_averages_to_the_published_scalar(self) -> None:
        """VGG's layers divide 64 px evenly; enlarging them bilinearly then keeps the mean."""
        a, b = natural(6), natural(7)
        (value,) = features().lpips("vgg").maps([RgbImage(a)], [RgbImage(b)])
        assert value.mean(dtype=np.float64) == pytest.approx(
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
        parts = masked.bands(mask)
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
        parts = masked.bands(mask)
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
        calls: list[str] = []
        original = net.activations

        def counting(pictures: Any) -> Any:
            calls.extend(p.key for p in pictures)
            return original(pictures)

        monkeypatch.setattr(net, "activations", counting)
        source = RgbImage(natural(1))
        edits = [RgbImage(natural(i)) for i in range(2, 6)]
        net.maps([source] * 4, edits)
        net.maps([source], [RgbImage(natural(9))])
        assert calls.count(source.key) == 1
        assert len(calls) == 6

    def test_linear_heads_are_the_packages_own(self) -> None:
        from pathlib import Path

        import lpips
        import torch

        for net in ("alex", "vgg"):
            path = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
            actual = lpips_weights.state_dict(net)
            for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
                assert torch.equal(actual[name], value)

    def test_an_unknown_network(self) -> None:
        with pytest.raises(MetricError, match="alex, vgg"):
            lpips_weights.weight_file("resnet")


PINNED_ALEX = 0.274825
PINNED_VGG = 0.614292

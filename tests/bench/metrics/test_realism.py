"""Distances between sets against clean-fid, scipy and loops on the same features."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.metrics import METRICS, realism
from bench.metrics.features import Features
from bench.metrics.networks import inception, weights
from bench.metrics.networks.weights import WeightFile
from bench.metrics.options import MetricOptions, RealismOptions
from bench.metrics.types import MetricError, RgbImage
from tests.bench.metrics.pictures import by_eigenvalues, natural, noise


class TestResizing:
    @pytest.mark.parametrize("side", [48, 64, 299])
    def test_is_clean_fids(self, side: int) -> None:
        from cleanfid.resize import make_resizer

        image = natural(1)
        expected = make_resizer("PIL", False, "bicubic", (side, side))(image)
        value = inception.clean_resize(image, side)
        np.testing.assert_array_equal(value, expected.transpose(2, 0, 1))
        assert value.dtype == np.float32


@pytest.fixture
def small_inception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WeightFile:
    """A file of Inception's form and interface, with a small random network in it."""
    import torch

    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2048, 23, stride=23)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(x)).mean(dim=(2, 3))

    class Inception(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Layers()

        def forward(self, x: torch.Tensor, return_features: bool = True) -> torch.Tensor:
            return self.layers(x)

    torch.manual_seed(0)
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Inception()).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    file = WeightFile(path.name, sha256, "https://example.org/inception.pt", (str(tmp_path),))
    for module in (weights, inception, realism):
        monkeypatch.setattr(module, "INCEPTION", file)
    return file


class TestSets:
    def test_fid_and_kid_from_files_as_clean_fid_computes_them(
        self, small_inception: WeightFile, tmp_path: Path
    ) -> None:
        import torch
        from cleanfid.fid import get_folder_features, kernel_distance
        from cleanfid.inception_torchscript import InceptionV3W

        edited, real = [natural(i) for i in range(12)], [natural(i + 50) for i in range(15)]
        for name, images in (("edited", edited), ("real", real)):
            (tmp_path / name).mkdir()
            for index, pixels in enumerate(sorted(images, key=lambda p: RgbImage(p).key)):
                Image.fromarray(pixels).save(tmp_path / name / f"{index:03}.png")
        model = InceptionV3W(str(tmp_path), download=False)
        x, y = (
            get_folder_features(
                str(tmp_path / name), model, num_workers=0, device=torch.device("cpu"), verbose=False
            ).astype(np.float64)
            for name in ("edited", "real")
        )
        features = Features()
        pictures = [RgbImage(p) for p in edited], [RgbImage(p) for p in real]
        fid = realism.Fid(features).score_set(*pictures)
        assert fid.value == pytest.approx(by_eigenvalues(x, y), rel=1e-6)
        np.random.seed(0)  # noqa: NPY002 - clean-fid draws from the global generator
        kid = realism.Kid(features).score_set(*pictures)
        assert kid.value == pytest.approx(kernel_distance(y, x), rel=1e-6)

    def test_missing_inception_is_named_with_the_command_that_gets_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = weights.INCEPTION
        gone = WeightFile(real.name, real.sha256, real.url, ("/nonexistent",))
        for module in (weights, inception, realism):
            monkeypatch.setattr(module, "INCEPTION", gone)
        (problem,) = realism.Fid.problems(Features())
        assert real.name in problem
        assert "run_bench.py fetch" in problem
        with pytest.raises(MetricError, match="Inception"):
            inception.InceptionNet()

    def test_vgg16_features_are_the_pooled_backbone(self) -> None:
        import torch
        import torchvision

        from bench.metrics.networks import lpips_weights

        backbone = torchvision.models.vgg16(weights=None).features[:30]
        state = lpips_weights.state_dict("vgg")
        renamed = {
            name.split(".", 2)[2]: value for name, value in state.items() if name.startswith("net.slice")
        }
        backbone.load_state_dict(renamed)
        image = natural(1)
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        x = (x - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
        with torch.no_grad():
            expected = backbone(x).mean(dim=(2, 3))[0].numpy()
        features = Features().vgg16([RgbImage(image)], 64)[0]
        np.testing.assert_allclose(features, expected, atol=1e-5)
        assert features.shape == (512,)

    def test_order_and_batches_do_not_matter(self, clip_folder: Path) -> None:
        edited, real = [RgbImage(natural(i)) for i in range(6)], [RgbImage(noise(i)) for i in range(7)]
        for metric in (realism.Vgg16Frechet, realism.Vgg16Kid, realism.MiniClipCmmd):
            one = metric(Features(mini_clip=clip_folder)).score_set(edited, real)
            backwards = metric(Features(mini_clip=clip_folder)).score_set(edited[::-1], real[::-1])
            alone = metric(Features(mini_clip=clip_folder, batch_pixels=1)).score_set(edited, real)
            assert one.value == pytest.approx(alone.value, rel=1e-4)
            assert one.value == pytest.approx(backwards.value, rel=1e-4)
            assert (one.n, one.n_reference) == (6, 7)
            assert one.value is not None
            assert one.value > 0

    def test_small_n_is_said(self) -> None:
        edited, real = [RgbImage(natural(i)) for i in range(4)], [RgbImage(natural(i)) for i in range(3)]
        score = realism.Vgg16Frechet(Features()).score_set(edited, real)
        assert score.warning is not None
        assert "4 edited, 3 real, 512 dimensions" in score.warning
        assert realism.Vgg16Frechet(Features())._small_n_warning(2048, 5000, 512) is None
        assert "2047" in str(realism.Vgg16Frechet(Features())._small_n_warning(2047, 5000, 512))
        assert "dimensions" in str(realism.Fid(Features())._small_n_warning(4000, 5000, 2048))

    def test_matched_n(self) -> None:
        edited = [RgbImage(natural(i)) for i in range(8)]
        real = [RgbImage(noise(i)) for i in range(9)]
        options = MetricOptions(realism=RealismOptions(n=4))
        metric = realism.Vgg16Frechet(Features(options))
        score = metric.score_set(edited, real)
        assert (score.n, score.n_reference) == (4, 4)
        # The choice is by content: order does not matter, and what was chosen stays when some are added.
        assert metric.score_set(edited[::-1], real[::-1]).value == pytest.approx(score.value, rel=1e-6)
        smallest = sorted(edited, key=lambda p: p.key)[:4]
        assert metric.score_set(smallest, real).value == pytest.approx(score.value, rel=1e-6)
        assert metric.version != realism.Vgg16Frechet(Features()).version

    def test_what_cannot_be_compared_has_no_value(self) -> None:
        metric = realism.Vgg16Frechet(Features())
        few = metric.score_set([RgbImage(natural(1))], [RgbImage(natural(2))] * 3)
        assert few.value is None
        assert few.reason == "too few images: 1 edited and 3 real; at least two of each are needed"
        mixed = metric.score_set([RgbImage(natural(1))] * 2, [RgbImage(natural(2, 32))] * 3)
        assert mixed.value is None
        assert "32x32, 64x64" in str(mixed.reason)

    def test_interval(self) -> None:
        edited, real = [RgbImage(natural(i)) for i in range(12)], [RgbImage(noise(i)) for i in range(12)]
        metric = realism.Vgg16Frechet(Features())
        score = metric.score_set(edited, real, [f"s{i // 2}" for i in range(12)])
        assert score.low is not None
        assert score.high is not None
        assert score.value is not None
        assert score.low < score.value < score.high
        assert metric.score_set(edited, real, [f"s{i // 2}" for i in range(12)]) == score

    @pytest.mark.parametrize("metric_name", ["Vgg16Kid", "MiniClipCmmd"])
    def test_kernel_distances_have_intervals_too(self, metric_name: str, clip_folder: Path) -> None:
        edited, real = [RgbImage(natural(i)) for i in range(12)], [RgbImage(noise(i)) for i in range(12)]
        metric = getattr(realism, metric_name)(Features(mini_clip=clip_folder))
        score = metric.score_set(edited, real, [f"s{i // 2}" for i in range(12)])
        assert score.low < score.value < score.high

    @pytest.mark.parametrize("metric_name", ["Vgg16Frechet", "Vgg16Kid", "MiniClipCmmd"])
    @pytest.mark.parametrize(
        ("n", "sources", "real", "interval"),
        [
            (2, 2, 20, False),  # fewer source images than an interval needs
            (8, 1, 20, False),
            (8, 3, 20, False),
            (8, 8, 2, False),  # fewer real ones
            (4, 4, 4, True),
            (16, 4, 20, True),
        ],
    )
    def test_few_images(
        self, metric_name: str, n: int, sources: int, real: int, interval: bool, clip_folder: Path
    ) -> None:
        metric = getattr(realism, metric_name)(Features(mini_clip=clip_folder))
        edited = [RgbImage(natural(i)) for i in range(n)]
        clusters = [str(i % sources) for i in range(n)]
        score = metric.score_set(edited, [RgbImage(noise(i)) for i in range(real)], clusters)
        assert score.value is not None
        assert math.isfinite(score.value)
        assert score.reason is None
        if interval:
            assert 0 <= score.low <= score.value <= score.high < math.inf
            assert "no interval" not in score.warning
        else:
            assert score.low is None
            assert score.high is None
            reason = f"no interval: {sources} source and {real} real images, at least 4 of each are needed"
            assert score.warning.endswith(reason)

    @pytest.mark.parametrize("metric_name", ["Vgg16Frechet", "Vgg16Kid", "MiniClipCmmd"])
    def test_copies_of_one_image(self, metric_name: str, clip_folder: Path) -> None:
        """All edits alike, all real images alike: nothing scatters, and the interval is a point."""
        metric = getattr(realism, metric_name)(Features(mini_clip=clip_folder))
        score = metric.score_set([RgbImage(natural(1))] * 6, [RgbImage(noise(1))] * 5)
        assert score.value > 0
        assert score.low == pytest.approx(score.value, rel=1e-4)
        assert score.high == pytest.approx(score.value, rel=1e-4)
        same = metric.score_set([RgbImage(natural(1))] * 6, [RgbImage(natural(1))] * 5)
        assert (same.low, same.high) == (pytest.approx(0, abs=1e-4), pytest.approx(0, abs=1e-4))

    def test_no_interval_where_none_is_asked_for(self) -> None:
        metric = realism.Vgg16Frechet(Features(MetricOptions(realism=RealismOptions(groups=0))))
        score = metric.score_set([RgbImage(natural(1))] * 2, [RgbImage(noise(i)) for i in range(5)])
        assert (score.low, score.high) == (None, None)
        assert "no interval" not in str(score.warning)
        with pytest.raises(MetricError, match="groups must be at least 4, or 0"):
            RealismOptions(groups=3)

    def test_only_inceptions_distance_is_called_fid(self) -> None:
        from bench.metrics.choice import metric_registry

        for name in METRICS:
            metric = metric_registry().load(name)
            if "fid" in name:
                assert issubclass(metric, realism._Inception)

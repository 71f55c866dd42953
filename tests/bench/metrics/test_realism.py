"""Distances between sets against clean-fid, scipy and loops on the same features."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.metrics import METRICS, realism
from bench.metrics.features import Features
from bench.metrics.networks import inception, weights
from bench.metrics.networks.weights import WeightFile
from bench.metrics.options import MetricOptions, RealismOptions
from bench.metrics.types import MetricError, Picture, SetMetric
from tests.bench.metrics.pictures import natural, noise


def rows(seed: int, n: int, dimensions: int, shift: float = 0.0) -> Any:
    """Correlated, non-negative features, as pooled ReLUs are."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions)) / math.sqrt(dimensions)
    return np.maximum(0, generator.normal(size=(n, dimensions)) @ mixing + 0.5 + shift).astype(np.float32)


def by_eigenvalues(x: Any, y: Any) -> float:
    """The Fréchet distance, where there are fewer images than dimensions, from n x n eigenvalues."""
    xc, yc = (z - z.mean(0) for z in (x, y))
    xc, yc = xc / math.sqrt(len(x) - 1), yc / math.sqrt(len(y) - 1)
    across = xc @ yc.T
    eigenvalues = np.linalg.eigvalsh(across @ across.T).clip(0)
    step = x.mean(0) - y.mean(0)
    return float(step @ step + (xc**2).sum() + (yc**2).sum() - 2 * np.sqrt(eigenvalues).sum())


class TestFrechet:
    @pytest.mark.parametrize(("n", "m", "d"), [(300, 500, 40), (120, 90, 64), (400, 100, 64)])
    def test_against_clean_fid_and_scipy(self, n: int, m: int, d: int) -> None:
        from cleanfid.fid import frechet_distance
        from scipy.linalg import sqrtm

        x, y = rows(1, n, d).astype(np.float64), rows(2, m, d, 0.2).astype(np.float64)
        ours = realism.frechet(realism.Gaussian.of_rows(x), realism.Gaussian.of_rows(y))
        mx, my, sx, sy = x.mean(0), y.mean(0), np.cov(x.T), np.cov(y.T)
        theirs = frechet_distance(mx, sx, my, sy)
        by_hand = ((mx - my) ** 2).sum() + np.trace(sx + sy) - 2 * np.trace(sqrtm(sx @ sy)).real
        assert ours == pytest.approx(theirs, rel=1e-6)
        assert ours == pytest.approx(by_hand, rel=1e-6)

    def test_fewer_images_than_dimensions(self) -> None:
        """Where square roots of singular products are ill-conditioned: by eigenvalues of the small side."""
        x, y = rows(1, 30, 200).astype(np.float64), rows(2, 50, 200, 0.2).astype(np.float64)
        ours = realism.frechet(realism.Gaussian.of_rows(x), realism.Gaussian.of_rows(y))
        assert ours == pytest.approx(by_eigenvalues(x, y), rel=1e-6)

    def test_known_gaussians(self) -> None:
        """Commuting covariances: |m|^2 + sum (s - t)^2."""
        s, t, step = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0]), np.array([1.0, 0.0, -2.0])
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        a = realism.Gaussian.of_covariance(np.zeros(3), rotation @ np.diag(s**2) @ rotation.T)
        b = realism.Gaussian.of_covariance(step, rotation @ np.diag(t**2) @ rotation.T)
        assert realism.frechet(a, b) == pytest.approx(5 + 1 + 0 + 4, rel=1e-12)

    def test_properties(self) -> None:
        x, y = (realism.Gaussian.of_rows(rows(seed, 80, 30)) for seed in (1, 2))
        assert realism.frechet(x, y) == pytest.approx(realism.frechet(y, x), rel=1e-9)
        assert realism.frechet(x, x) == pytest.approx(0, abs=1e-9)
        moved = realism.Gaussian(x.mean + 0.1, x.factor)
        assert realism.frechet(x, moved) == pytest.approx(30 * 0.01, rel=1e-9)

    def test_one_image_has_no_covariance(self) -> None:
        with pytest.raises(MetricError, match="at least two"):
            realism.Gaussian.of_rows(np.ones((1, 4)))


class TestMoments:
    @pytest.mark.parametrize("sizes", [(100,), (1, 99), (33, 0, 33, 34), (1,) * 100])
    def test_streaming(self, sizes: tuple[int, ...]) -> None:
        x = rows(1, 100, 12).astype(np.float64) + 1e6  # a large mean, which naive sums would drown in
        moments = realism.Moments()
        start = 0
        for size in sizes:
            moments.update(x[start : start + size])
            start += size
        assert moments.n == 100
        np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-7, atol=1e-9)

    def test_give_the_same_distance_as_rows(self) -> None:
        x, y = rows(1, 200, 20), rows(2, 150, 20)
        gaussians = []
        for part in (x, y):
            moments = realism.Moments()
            for batch in np.array_split(part, 7):
                moments.update(batch)
            gaussians.append(realism.Gaussian.of_covariance(moments.mean, moments.covariance))
        expected = realism.frechet(realism.Gaussian.of_rows(x), realism.Gaussian.of_rows(y))
        assert realism.frechet(*gaussians) == pytest.approx(expected, rel=1e-8)

    def test_misfits(self) -> None:
        moments = realism.Moments()
        moments.update(np.ones((1, 3)))
        with pytest.raises(MetricError, match="two images"):
            _ = moments.covariance
        with pytest.raises(MetricError, match=r"\(2, 4\)"):
            moments.update(np.ones((2, 4)))


class TestKid:
    @pytest.mark.parametrize(("n", "m", "size"), [(120, 150, 50), (60, 200, 1000)])
    def test_against_clean_fid(self, n: int, m: int, size: int) -> None:
        from cleanfid.fid import kernel_distance

        x, y = rows(1, n, 24).astype(np.float64), rows(2, m, 24, 0.1).astype(np.float64)
        np.random.seed(7)  # noqa: NPY002 - clean-fid draws from the global generator
        theirs = kernel_distance(y, x, num_subsets=20, max_subset_size=size)
        assert realism.kid(x, y, subsets=20, subset_size=size, seed=7) == pytest.approx(theirs, rel=1e-6)

    def test_against_loops(self) -> None:
        x, y = rows(1, 9, 5).astype(np.float64), rows(2, 9, 5).astype(np.float64)

        def kernel(a: Any, b: Any) -> float:
            return float((a @ b / 5 + 1) ** 3)

        within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(9) for j in range(9) if i != j) / (
            9 * 8
        )
        across = sum(kernel(a, b) for a in x for b in y) / 81
        # Every subset is the whole.
        assert realism.kid(x, y, subsets=3) == pytest.approx(within - 2 * across, rel=1e-9)

    def test_unbiased(self) -> None:
        """Two samples of one distribution: zero on average, whatever n."""
        values = [realism.kid(rows(i, 20, 8), rows(1000 + i, 20, 8), subsets=1) for i in range(300)]
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values)) < 4 * error
        assert min(values) < 0

    def test_large_sets_take_the_other_path_to_the_same_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = rows(1, 60, 6), rows(2, 60, 6, 0.3)
        expected = realism.kid(x, y, subsets=5, subset_size=20)
        monkeypatch.setattr(realism, "KERNEL_LIMIT", 10)
        assert realism.kid(x, y, subsets=5, subset_size=20) == pytest.approx(expected, rel=1e-9)


class TestCmmd:
    def test_against_loops(self) -> None:
        x, y = rows(1, 13, 6).astype(np.float64), rows(2, 17, 6, 1.0).astype(np.float64)

        def mean(a: Any, b: Any) -> float:
            return float(np.mean([math.exp(-((p - q) ** 2).sum() / 200) for p in a for q in b]))

        expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
        assert realism.cmmd(x, y) == pytest.approx(expected, rel=1e-9)

    def test_blocks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = rows(1, 50, 6), rows(2, 40, 6, 1.0)
        expected = realism.cmmd(x, y)
        monkeypatch.setattr(realism, "_CHUNK", 7)
        assert realism.cmmd(x, y) == pytest.approx(expected, rel=1e-9)
        assert realism.cmmd(x, x) == pytest.approx(0, abs=1e-9)


class TestResizing:
    @pytest.mark.parametrize("side", [48, 64, 299])
    def test_is_clean_fids(self, side: int) -> None:
        from cleanfid.resize import make_resizer

        image = natural(1)
        theirs = make_resizer("PIL", False, "bicubic", (side, side))(image)
        ours = inception.clean_resize(image, side)
        np.testing.assert_array_equal(ours, theirs.transpose(2, 0, 1))
        assert ours.dtype == np.float32


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
            for index, pixels in enumerate(sorted(images, key=lambda p: Picture(p).key)):
                Image.fromarray(pixels).save(tmp_path / name / f"{index:03}.png")
        model = InceptionV3W(str(tmp_path), download=False)
        x, y = (
            get_folder_features(
                str(tmp_path / name), model, num_workers=0, device=torch.device("cpu"), verbose=False
            ).astype(np.float64)
            for name in ("edited", "real")
        )
        features = Features()
        pictures = [Picture(p) for p in edited], [Picture(p) for p in real]
        fid = realism.Fid(features).score_set(*pictures)
        assert fid.value == pytest.approx(by_eigenvalues(x, y), rel=1e-6)
        np.random.seed(0)  # noqa: NPY002 - clean-fid draws from the global generator
        kid = realism.Kid(features).score_set(*pictures)
        assert kid.value == pytest.approx(kernel_distance(y, x), rel=1e-6)

    def test_missing_inception_is_named_with_its_sha256(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = weights.INCEPTION
        gone = WeightFile(real.name, real.sha256, real.url, ("/nonexistent",))
        for module in (weights, inception, realism):
            monkeypatch.setattr(module, "INCEPTION", gone)
        (problem,) = realism.Fid.problems(Features())
        assert "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4" in problem
        assert gone.url in problem
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
        found = Features().vgg16([Picture(image)], 64)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.shape == (512,)

    def test_order_and_batches_do_not_matter(self, clip_folder: Path) -> None:
        edited, real = [Picture(natural(i)) for i in range(6)], [Picture(noise(i)) for i in range(7)]
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
        edited, real = [Picture(natural(i)) for i in range(4)], [Picture(natural(i)) for i in range(3)]
        score = realism.Vgg16Frechet(Features()).score_set(edited, real)
        assert score.warning is not None
        assert "4 edited, 3 real, 512 dimensions" in score.warning
        assert realism.Vgg16Frechet(Features())._warning(2048, 5000, 512) is None
        assert "2047" in str(realism.Vgg16Frechet(Features())._warning(2047, 5000, 512))
        assert "dimensions" in str(realism.Fid(Features())._warning(4000, 5000, 2048))

    def test_matched_n(self) -> None:
        edited = [Picture(natural(i)) for i in range(8)]
        real = [Picture(noise(i)) for i in range(9)]
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
        few = metric.score_set([Picture(natural(1))], [Picture(natural(2))] * 3)
        assert few.value is None
        assert "at least two" in str(few.reason)
        mixed = metric.score_set([Picture(natural(1))] * 2, [Picture(natural(2, 32))] * 3)
        assert mixed.value is None
        assert "32x32, 64x64" in str(mixed.reason)

    def test_interval(self) -> None:
        edited, real = [Picture(natural(i)) for i in range(12)], [Picture(noise(i)) for i in range(12)]
        options = MetricOptions(realism=RealismOptions(bootstrap=20))
        metric = realism.Vgg16Frechet(Features(options))
        score = metric.score_set(edited, real, [f"s{i // 2}" for i in range(12)])
        assert score.low is not None
        assert score.high is not None
        assert score.value is not None
        assert score.low < score.value < score.high
        assert metric.score_set(edited, real, [f"s{i // 2}" for i in range(12)]) == score

    def test_bootstrap_of_a_mean_is_its_standard_error(self) -> None:
        x = np.random.default_rng(0).normal(size=400)
        low, high = realism.bootstrap_interval(
            float(x.mean()), lambda i: float(x[i].mean()), [str(i) for i in range(400)], draws=2000
        )
        assert (high - low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.08)

    @pytest.mark.parametrize("n", [20, 90])  # fewer images than dimensions, and more
    def test_a_resample_is_as_far_as_its_rows(self, n: int) -> None:
        generator = np.random.default_rng(n)
        x = generator.normal(3, 1, (n, 40)) @ generator.normal(size=(40, 40))
        y = generator.normal(3, 1, (60, 40)) @ generator.normal(size=(40, 40))
        other = realism.Gaussian.of_rows(y)
        fast = realism.Resampled(x, other)
        for _ in range(5):
            indices = generator.integers(n, size=n)
            expected = realism.frechet(realism.Gaussian.of_rows(x[indices]), other)
            assert fast(indices) == pytest.approx(expected, rel=1e-5)
        assert fast(np.arange(n)) == pytest.approx(
            realism.frechet(realism.Gaussian.of_rows(x), other), rel=1e-5
        )

    def test_a_resampled_mmd_is_that_of_the_rows(self) -> None:
        generator = np.random.default_rng(5)
        x, y = generator.normal(size=(15, 6)), generator.normal(0.5, 1, (20, 6))
        indices = generator.integers(15, size=15)
        kernel = realism.gaussian_kernel
        biased = realism.resampled_mmd(kernel(x, x), kernel(x, y), unbiased=False)
        expected = realism.cmmd(x[indices], y) / realism.CMMD_SCALE - kernel(y, y).mean()
        assert biased(indices) == pytest.approx(expected, rel=1e-9)
        # Unbiased: by hand over all pairs of different images.
        kxx, kxy = realism.polynomial_kernel(x, x), realism.polynomial_kernel(x, y)
        pairs = [(i, j) for i in indices for j in indices if i != j]
        by_hand = np.mean([kxx[i, j] for i, j in pairs]) - 2 * kxy[indices].mean()
        assert realism.resampled_mmd(kxx, kxy, unbiased=True)(indices) == pytest.approx(by_hand, rel=1e-9)
        whole = realism.resampled_mmd(kxx, kxy, unbiased=True)(np.arange(15))
        kyy = realism.polynomial_kernel(y, y)
        within = (kyy.sum() - np.trace(kyy)) / (20 * 19)
        assert whole + within == pytest.approx(realism.mmd2_unbiased(kxx, kyy, kxy), rel=1e-9)

    @pytest.mark.parametrize("metric_name", ["Vgg16Kid", "MiniClipCmmd"])
    def test_kernel_distances_have_intervals_too(self, metric_name: str, clip_folder: Path) -> None:
        edited, real = [Picture(natural(i)) for i in range(12)], [Picture(noise(i)) for i in range(12)]
        options = MetricOptions(realism=RealismOptions(bootstrap=30))
        metric = getattr(realism, metric_name)(Features(options, mini_clip=clip_folder))
        score = metric.score_set(edited, real, [f"s{i // 2}" for i in range(12)])
        assert score.low < score.value < score.high

    def test_only_inceptions_distance_is_called_fid(self) -> None:
        from bench.scoring import registry

        for name in METRICS:
            metric = registry().load(name)
            if "fid" in name:
                assert issubclass(metric, realism._Inception)

    def test_are_set_metrics(self, clip_folder: Path) -> None:
        for metric in (realism.Vgg16Frechet, realism.Vgg16Kid, realism.MiniClipCmmd):
            assert isinstance(metric(Features(mini_clip=clip_folder)), SetMetric)

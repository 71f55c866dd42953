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
from bench.metrics.types import MetricError, RgbImage, SetMetric
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


class TestJackknife:
    def test_groups_hold_whole_clusters_and_every_row_once(self) -> None:
        clusters = [f"s{i % 33}" for i in range(80)]
        groups = realism.leave_out_groups(clusters, 32)
        assert sorted(np.concatenate(groups).tolist()) == list(range(80))
        owners = [{clusters[i] for i in group} for group in groups]
        assert sum(map(len, owners)) == 33
        # 33 clusters of 2 or 3 edits: two clusters a group, and one group with what is left.
        assert sorted(map(len, owners)) == [1, *[2] * 16]

    def test_groups_depend_on_names_and_seed_alone(self) -> None:
        clusters = [f"s{i // 2}" for i in range(80)]

        def named(seed: int, order: list[int]) -> set[frozenset[str]]:
            names = [clusters[i] for i in order]
            groups = realism.leave_out_groups(names, 8, seed=seed)
            return {frozenset(names[i] for i in group) for group in groups}

        forwards = list(range(80))
        assert named(3, forwards) == named(3, forwards[::-1])
        assert named(3, forwards) != named(4, forwards)

    def test_variance_of_a_mean_is_its_squared_standard_error(self) -> None:
        x = np.random.default_rng(0).normal(size=60)
        singles = realism.leave_out_groups([str(i) for i in range(60)], 60)
        variance = realism.jackknife_variance(lambda out: float(np.delete(x, out).mean()), singles)
        assert variance == pytest.approx(x.var(ddof=1) / 60, rel=1e-9)

    def test_copies_of_a_row_in_one_cluster_add_nothing(self) -> None:
        x = np.random.default_rng(0).normal(size=60)
        clusters = [str(i) for i in range(60)]
        once = realism.jackknife_variance(
            lambda out: float(np.delete(x, out).mean()), realism.leave_out_groups(clusters, 20)
        )
        copied = np.repeat(x, 5)
        five = realism.jackknife_variance(
            lambda out: float(np.delete(copied, out).mean()),
            realism.leave_out_groups(np.repeat(clusters, 5).tolist(), 20),
        )
        assert five == pytest.approx(once, rel=1e-9)

    def test_a_bias_that_falls_with_n_is_no_scatter(self) -> None:
        """Groups of 1 to 4 rows of one value: the mean is constant, and a bias of 5 / n all that changes."""
        groups = realism.leave_out_groups([str(int(math.sqrt(i))) for i in range(16)], 16)
        assert len({len(group) for group in groups}) > 1
        assert realism.jackknife_variance(lambda out: 2 + 5 / (16 - len(out)), groups) == pytest.approx(0)

    def test_interval_is_students(self) -> None:
        low, high = realism.distance_interval(10.0, [(4.0, 10)])
        assert high - 10 == pytest.approx(
            2 * 2.228139, rel=1e-6
        )  # t of 10 degrees of freedom, from its table
        assert 10 - low == pytest.approx(high - 10)
        # Two equal variances of 5 degrees each have 10 together.
        assert realism.distance_interval(10.0, [(2.0, 5), (2.0, 5)]) == pytest.approx((low, high))

    def test_interval_is_clipped_at_0_and_holds_its_value(self) -> None:
        low, high = realism.distance_interval(1.0, [(4.0, 10)])
        assert (low, high) == (0.0, pytest.approx(1 + 2 * 2.228139, rel=1e-6))
        assert realism.distance_interval(-1.0, [(0.01, 10)]) == (-1.0, 0.0)
        assert realism.distance_interval(3.0, [(0.0, 10), (0.0, 10)]) == (3.0, 3.0)

    @pytest.mark.parametrize("n", [20, 90])  # fewer images than dimensions, and more
    def test_frechet_without_some_rows(self, n: int) -> None:
        generator = np.random.default_rng(n)
        x = generator.normal(3, 1, (n, 40)) @ generator.normal(size=(40, 40))
        y = generator.normal(3, 1, (60, 40)) @ generator.normal(size=(40, 40))
        other = realism.Gaussian.of_rows(y)
        without = realism.FrechetWithout(x, other)
        for count in (0, 1, 7, n - 2):
            out = generator.permutation(n)[:count]
            expected = realism.frechet(realism.Gaussian.of_rows(np.delete(x, out, axis=0)), other)
            assert without(out) == pytest.approx(expected, rel=1e-5)

    def test_mmd_without_some_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(realism, "_CHUNK", 7)
        generator = np.random.default_rng(5)
        x, y = generator.normal(size=(15, 6)), generator.normal(0.5, 1, (20, 6))
        cubic, bell = realism.polynomial_kernel, realism.gaussian_kernel
        to_y, to_x = realism.mean_kernels(cubic, x, y)
        np.testing.assert_allclose(to_x, cubic(x, y).mean(axis=0), rtol=1e-12)
        unbiased = realism.KernelSums.of_rows(cubic, x).mmd2_without(to_y, unbiased=True)
        biased = realism.KernelSums.of_rows(bell, x).mmd2_without(bell(x, y).mean(axis=1), unbiased=False)
        kyy = cubic(y, y)
        for out in ([], [3], [14, 0, 7, 8]):
            rest = np.delete(x, out, axis=0)
            by_y = (kyy.sum() - np.trace(kyy)) / (20 * 19)
            expected = realism.mmd2_unbiased(cubic(rest, rest), kyy, cubic(rest, y)) - by_y
            assert unbiased(np.array(out, np.intp)) == pytest.approx(expected, rel=1e-9)
            expected = realism.cmmd(rest, y) / realism.CMMD_SCALE - bell(y, y).mean()
            assert biased(np.array(out, np.intp)) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(("metric_name", "n", "m"), [("Vgg16Frechet", 120, 100), ("Vgg16Kid", 120, 60)])
    def test_half_widths_are_those_of_repeated_draws(self, metric_name: str, n: int, m: int) -> None:
        """Three edits of each source, alike, and the real images drawn anew each time."""
        options = MetricOptions(realism=RealismOptions(kid_subsets=5))
        metric = getattr(realism, metric_name)(Features(options))
        clusters = [str(i // 3) for i in range(n)]
        values, halves = [], []
        for draw in range(80):
            jitter = 0.1 * np.random.default_rng(draw).normal(size=(n, 8)).astype(np.float32)
            x, y = np.repeat(rows(draw, n // 3, 8, 0.5), 3, axis=0) + jitter, rows(1000 + draw, m, 8)
            values.append(metric.distance(x, y))
            _, high, _ = metric.interval(values[-1], x, y, clusters)
            halves.append(high - values[-1])
        assert np.mean(halves) / (2 * np.std(values)) == pytest.approx(1, abs=0.2)

    def test_random_subsets_scatter_as_the_interval_says(self) -> None:
        """The scatter of KID over its seeds, for fixed images, is what the factors add to the variances."""
        x, y = rows(1, 200, 8, 0.3), rows(2, 300, 8)
        metric = realism.Vgg16Kid(
            Features(MetricOptions(realism=RealismOptions(kid_subsets=2, kid_subset_size=50)))
        )
        scatter = np.var([realism.kid(x, y, subsets=2, subset_size=50, seed=s) for s in range(300)])
        factors = metric.variance_factors(200, 300)
        assert factors == (1 + 3 / 2, 1 + 5 / 2)
        variances = [
            realism.jackknife_variance(without, realism.leave_out_groups([str(i) for i in range(count)], 100))
            for without, count in zip(metric.leave_out(x, y), (200, 300), strict=True)
        ]
        added = sum((factor - 1) * variance for factor, variance in zip(factors, variances, strict=True))
        assert scatter == pytest.approx(added, rel=0.25)
        assert realism.Vgg16Kid(Features()).variance_factors(64, 64) == (1, 1)


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
        found = Features().vgg16([RgbImage(image)], 64)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.shape == (512,)

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
        assert realism.Vgg16Frechet(Features())._warning(2048, 5000, 512) is None
        assert "2047" in str(realism.Vgg16Frechet(Features())._warning(2047, 5000, 512))
        assert "dimensions" in str(realism.Fid(Features())._warning(4000, 5000, 2048))

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

    def test_are_set_metrics(self, clip_folder: Path) -> None:
        for metric in (realism.Vgg16Frechet, realism.Vgg16Kid, realism.MiniClipCmmd):
            assert isinstance(metric(Features(mini_clip=clip_folder)), SetMetric)

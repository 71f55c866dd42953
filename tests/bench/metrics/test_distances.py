"""Distances between sets of features against clean-fid, scipy and plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bench.metrics import distances
from bench.metrics.types import MetricError
from tests.bench.metrics.pictures import by_eigenvalues, feature_rows


class TestFrechet:
    @pytest.mark.parametrize(("n", "m", "d"), [(300, 500, 40), (120, 90, 64), (400, 100, 64)])
    def test_against_clean_fid_and_scipy(self, n: int, m: int, d: int) -> None:
        from cleanfid.fid import frechet_distance
        from scipy.linalg import sqrtm

        x, y = feature_rows(1, n, d).astype(np.float64), feature_rows(2, m, d, 0.2).astype(np.float64)
        value = distances.frechet(distances.Gaussian.of_rows(x), distances.Gaussian.of_rows(y))
        mx, my, sx, sy = x.mean(0), y.mean(0), np.cov(x.T), np.cov(y.T)
        expected = frechet_distance(mx, sx, my, sy)
        by_hand = ((mx - my) ** 2).sum() + np.trace(sx + sy) - 2 * np.trace(sqrtm(sx @ sy)).real
        assert value == pytest.approx(expected, rel=1e-6)
        assert value == pytest.approx(by_hand, rel=1e-6)

    def test_fewer_images_than_dimensions(self) -> None:
        """Where square roots of singular products are ill-conditioned: by eigenvalues of the small side."""
        x, y = feature_rows(1, 30, 200).astype(np.float64), feature_rows(2, 50, 200, 0.2).astype(np.float64)
        value = distances.frechet(distances.Gaussian.of_rows(x), distances.Gaussian.of_rows(y))
        assert value == pytest.approx(by_eigenvalues(x, y), rel=1e-6)

    def test_known_gaussians(self) -> None:
        """Commuting covariances: |m|^2 + sum (s - t)^2."""
        s, t, step = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0]), np.array([1.0, 0.0, -2.0])
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        a, b = (distances.Gaussian(m, np.diag(d) @ rotation.T) for m, d in ((np.zeros(3), s), (step, t)))
        assert distances.frechet(a, b) == pytest.approx(5 + 1 + 0 + 4, rel=1e-12)

    def test_properties(self) -> None:
        x, y = (distances.Gaussian.of_rows(feature_rows(seed, 80, 30)) for seed in (1, 2))
        assert distances.frechet(x, y) == pytest.approx(distances.frechet(y, x), rel=1e-9)
        assert distances.frechet(x, x) == pytest.approx(0, abs=1e-9)
        moved = distances.Gaussian(x.mean + 0.1, x.factor)
        assert distances.frechet(x, moved) == pytest.approx(30 * 0.01, rel=1e-9)

    def test_one_image_has_no_covariance(self) -> None:
        with pytest.raises(MetricError, match="at least two"):
            distances.Gaussian.of_rows(np.ones((1, 4)))


class TestKid:
    @pytest.mark.parametrize(("n", "m", "size"), [(120, 150, 50), (60, 200, 1000)])
    def test_against_clean_fid(self, n: int, m: int, size: int) -> None:
        from cleanfid.fid import kernel_distance

        x, y = feature_rows(1, n, 24).astype(np.float64), feature_rows(2, m, 24, 0.1).astype(np.float64)
        np.random.seed(7)  # noqa: NPY002 - clean-fid draws from the global generator
        expected = kernel_distance(y, x, num_subsets=20, max_subset_size=size)
        assert distances.kid(x, y, subsets=20, subset_size=size, seed=7) == pytest.approx(expected, rel=1e-6)

    def test_against_loops(self) -> None:
        x, y = feature_rows(1, 9, 5).astype(np.float64), feature_rows(2, 9, 5).astype(np.float64)

        def kernel(a: Any, b: Any) -> float:
            return float((a @ b / 5 + 1) ** 3)

        within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(9) for j in range(9) if i != j) / (
            9 * 8
        )
        across = sum(kernel(a, b) for a in x for b in y) / 81
        # Every subset is the whole.
        assert distances.kid(x, y, subsets=3) == pytest.approx(within - 2 * across, rel=1e-9)

    def test_unbiased(self) -> None:
        """Two samples of one distribution: zero on average, whatever n."""
        values = [
            distances.kid(feature_rows(i, 20, 8), feature_rows(1000 + i, 20, 8), subsets=1)
            for i in range(300)
        ]
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values)) < 4 * error
        assert min(values) < 0

    def test_large_sets_take_the_other_path_to_the_same_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = feature_rows(1, 60, 6), feature_rows(2, 60, 6, 0.3)
        expected = distances.kid(x, y, subsets=5, subset_size=20)
        monkeypatch.setattr(distances, "KERNEL_LIMIT", 10)
        assert distances.kid(x, y, subsets=5, subset_size=20) == pytest.approx(expected, rel=1e-9)


class TestCmmd:
    def test_against_loops(self) -> None:
        x, y = feature_rows(1, 13, 6).astype(np.float64), feature_rows(2, 17, 6, 1.0).astype(np.float64)

        def mean(a: Any, b: Any) -> float:
            return float(np.mean([math.exp(-((p - q) ** 2).sum() / 200) for p in a for q in b]))

        expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
        assert distances.cmmd(x, y) == pytest.approx(expected, rel=1e-9)

    def test_blocks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = feature_rows(1, 50, 6), feature_rows(2, 40, 6, 1.0)
        expected = distances.cmmd(x, y)
        monkeypatch.setattr(distances, "BLOCK_ROWS", 7)
        assert distances.cmmd(x, y) == pytest.approx(expected, rel=1e-9)
        assert distances.cmmd(x, x) == pytest.approx(0, abs=1e-9)

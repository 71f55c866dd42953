"""The jackknife against known variances, repeated draws, and distances from the start."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.metrics import distances, jackknife, realism
from bench.metrics.features import Features
from bench.metrics.options import MetricOptions, RealismOptions
from tests.bench.metrics.pictures import feature_rows


class TestJackknife:
    def test_groups_hold_whole_clusters_and_every_row_once(self) -> None:
        clusters = [f"s{i % 33}" for i in range(80)]
        groups = jackknife.leave_out_groups(clusters, 32)
        assert sorted(np.concatenate(groups).tolist()) == list(range(80))
        owners = [{clusters[i] for i in group} for group in groups]
        assert sum(map(len, owners)) == 33
        # 33 clusters of 2 or 3 edits: two clusters a group, and one group with what is left.
        assert sorted(map(len, owners)) == [1, *[2] * 16]

    def test_groups_depend_on_names_and_seed_alone(self) -> None:
        clusters = [f"s{i // 2}" for i in range(80)]

        def named(seed: int, order: list[int]) -> set[frozenset[str]]:
            names = [clusters[i] for i in order]
            groups = jackknife.leave_out_groups(names, 8, seed=seed)
            return {frozenset(names[i] for i in group) for group in groups}

        forwards = list(range(80))
        assert named(3, forwards) == named(3, forwards[::-1])
        assert named(3, forwards) != named(4, forwards)

    def test_variance_of_a_mean_is_its_squared_standard_error(self) -> None:
        x = np.random.default_rng(0).normal(size=60)
        singles = jackknife.leave_out_groups([str(i) for i in range(60)], 60)
        variance = jackknife.jackknife_variance(lambda out: float(np.delete(x, out).mean()), singles)
        assert variance == pytest.approx(x.var(ddof=1) / 60, rel=1e-9)

    def test_copies_of_a_row_in_one_cluster_add_nothing(self) -> None:
        x = np.random.default_rng(0).normal(size=60)
        clusters = [str(i) for i in range(60)]
        once = jackknife.jackknife_variance(
            lambda out: float(np.delete(x, out).mean()), jackknife.leave_out_groups(clusters, 20)
        )
        copied = np.repeat(x, 5)
        five = jackknife.jackknife_variance(
            lambda out: float(np.delete(copied, out).mean()),
            jackknife.leave_out_groups(np.repeat(clusters, 5).tolist(), 20),
        )
        assert five == pytest.approx(once, rel=1e-9)

    def test_a_bias_that_falls_with_n_is_no_scatter(self) -> None:
        """Groups of 1 to 4 rows of one value: the mean is constant, and a bias of 5 / n all that changes."""
        groups = jackknife.leave_out_groups([str(int(math.sqrt(i))) for i in range(16)], 16)
        assert len({len(group) for group in groups}) > 1
        assert jackknife.jackknife_variance(lambda out: 2 + 5 / (16 - len(out)), groups) == pytest.approx(0)

    def test_interval_is_students(self) -> None:
        low, high = jackknife.distance_interval(10.0, [(4.0, 10)])
        assert high - 10 == pytest.approx(
            2 * 2.228139, rel=1e-6
        )  # t of 10 degrees of freedom, from its table
        assert 10 - low == pytest.approx(high - 10)
        # Two equal variances of 5 degrees each have 10 together.
        assert jackknife.distance_interval(10.0, [(2.0, 5), (2.0, 5)]) == pytest.approx((low, high))

    def test_interval_is_clipped_at_0_and_holds_its_value(self) -> None:
        low, high = jackknife.distance_interval(1.0, [(4.0, 10)])
        assert (low, high) == (0.0, pytest.approx(1 + 2 * 2.228139, rel=1e-6))
        assert jackknife.distance_interval(-1.0, [(0.01, 10)]) == (-1.0, 0.0)
        assert jackknife.distance_interval(3.0, [(0.0, 10), (0.0, 10)]) == (3.0, 3.0)

    @pytest.mark.parametrize("n", [20, 90])  # fewer images than dimensions, and more
    def test_frechet_without_some_rows(self, n: int) -> None:
        generator = np.random.default_rng(n)
        x = generator.normal(3, 1, (n, 40)) @ generator.normal(size=(40, 40))
        y = generator.normal(3, 1, (60, 40)) @ generator.normal(size=(40, 40))
        other = distances.Gaussian.of_rows(y)
        without = jackknife.FrechetWithout(x, other)
        for count in (0, 1, 7, n - 2):
            out = generator.permutation(n)[:count]
            expected = distances.frechet(distances.Gaussian.of_rows(np.delete(x, out, axis=0)), other)
            assert without(out) == pytest.approx(expected, rel=1e-5)

    def test_mmd_without_some_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(distances, "BLOCK_ROWS", 7)
        generator = np.random.default_rng(5)
        x, y = generator.normal(size=(15, 6)), generator.normal(0.5, 1, (20, 6))
        cubic, bell = distances.polynomial_kernel, distances.gaussian_kernel
        to_y, to_x = jackknife.mean_kernels(cubic, x, y)
        np.testing.assert_allclose(to_x, cubic(x, y).mean(axis=0), rtol=1e-12)
        unbiased = jackknife.KernelSums.of_rows(cubic, x).mmd2_without(to_y, unbiased=True)
        biased = jackknife.KernelSums.of_rows(bell, x).mmd2_without(bell(x, y).mean(axis=1), unbiased=False)
        kyy = cubic(y, y)
        for out in ([], [3], [14, 0, 7, 8]):
            rest = np.delete(x, out, axis=0)
            by_y = (kyy.sum() - np.trace(kyy)) / (20 * 19)
            expected = distances.mmd2_unbiased(cubic(rest, rest), kyy, cubic(rest, y)) - by_y
            assert unbiased(np.array(out, np.intp)) == pytest.approx(expected, rel=1e-9)
            expected = distances.cmmd(rest, y) / distances.CMMD_SCALE - bell(y, y).mean()
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
            x, y = (
                np.repeat(feature_rows(draw, n // 3, 8, 0.5), 3, axis=0) + jitter,
                feature_rows(1000 + draw, m, 8),
            )
            values.append(metric.distance(x, y))
            _, high, _ = metric.interval(values[-1], x, y, clusters)
            halves.append(high - values[-1])
        assert np.mean(halves) / (2 * np.std(values)) == pytest.approx(1, abs=0.2)

    def test_random_subsets_scatter_as_the_interval_says(self) -> None:
        """The scatter of KID over its seeds, for fixed images, is what the factors add to the variances."""
        x, y = feature_rows(1, 200, 8, 0.3), feature_rows(2, 300, 8)
        metric = realism.Vgg16Kid(
            Features(MetricOptions(realism=RealismOptions(kid_subsets=2, kid_subset_size=50)))
        )
        scatter = np.var([distances.kid(x, y, subsets=2, subset_size=50, seed=s) for s in range(300)])
        factors = metric.variance_factors(200, 300)
        assert factors == (1 + 3 / 2, 1 + 5 / 2)
        variances = [
            jackknife.jackknife_variance(
                without, jackknife.leave_out_groups([str(i) for i in range(count)], 100)
            )
            for without, count in zip(metric.leave_out(x, y), (200, 300), strict=True)
        ]
        added = sum((factor - 1) * variance for factor, variance in zip(factors, variances, strict=True))
        assert scatter == pytest.approx(added, rel=0.25)
        assert realism.Vgg16Kid(Features()).variance_factors(64, 64) == (1, 1)

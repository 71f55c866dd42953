"""Statistics against known answers, other implementations, and what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bench import stats


class TestBootstrap:
    def test_of_a_mean_matches_its_standard_error(self) -> None:
        x = np.random.default_rng(0).normal(3, 2, 400)
        found = stats.bootstrap_mean(x)
        assert found.value == pytest.approx(x.mean())
        assert found.low is not None
        assert found.high is not None
        assert (found.high - found.low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.04)
        assert (found.n, found.clusters) == (400, 400)

    def test_clusters_of_copies_count_once(self) -> None:
        """Ten copies of each value carry no more than the values do."""
        x = np.random.default_rng(1).normal(size=50)
        single = stats.bootstrap_mean(x, seed=3)
        copied = stats.bootstrap_mean(np.repeat(x, 10), np.repeat(np.arange(50), 10).tolist(), seed=3)
        assert copied.low == pytest.approx(single.low)
        assert copied.high == pytest.approx(single.high)
        naive = stats.bootstrap_mean(np.repeat(x, 10), seed=3)
        assert naive.high is not None
        assert copied.high is not None
        assert naive.high - naive.value < 0.5 * (copied.high - copied.value)

    def test_clusters_of_different_sizes_weigh_by_size(self) -> None:
        """Against resampling by hand."""
        values, clusters = [1.0, 2.0, 3.0, 10.0], ["a", "a", "a", "b"]
        found = stats.bootstrap_mean(values, clusters, draws=4000)
        # Both twice, or one of each: 2, 4 (twice as often), 10.
        assert found.value == 4.0
        assert (found.low, found.high) == (2.0, 10.0)

    def test_is_a_function_of_its_seed(self) -> None:
        x = np.random.default_rng(2).normal(size=30)
        assert stats.bootstrap_mean(x, seed=1) == stats.bootstrap_mean(x, seed=1)
        assert stats.bootstrap_mean(x, seed=1) != stats.bootstrap_mean(x, seed=2)
        by_name = stats.bootstrap_mean(x, [f"s{i}" for i in range(30)], seed=1)
        assert by_name == stats.bootstrap_mean(x, seed=1)

    def test_coverage(self) -> None:
        """Clustered data: the interval holds the true mean about as often as it says."""
        generator = np.random.default_rng(3)
        clusters = np.repeat(np.arange(40), 5)
        held = naive = 0
        for trial in range(200):
            x = generator.normal(size=40)[clusters] + generator.normal(size=200)
            for by, count in ((clusters.tolist(), 0), (None, 1)):
                found = stats.bootstrap_mean(x, by, draws=400, seed=trial)
                assert found.low is not None
                assert found.high is not None
                inside = found.low <= 0 <= found.high
                held, naive = (held + inside, naive) if count == 0 else (held, naive + inside)
        assert 0.88 <= held / 200 <= 0.99
        assert naive / 200 < 0.8, "without clusters the interval must be seen to be too narrow"

    def test_blocks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = np.random.default_rng(4).normal(size=30)
        whole = stats.bootstrap_mean(x, draws=500)
        monkeypatch.setattr(stats, "_BLOCK", 30 * 7)
        blocks = stats.bootstrap_mean(x, draws=500)
        assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high), rel=1e-12)

    def test_one_cluster_has_no_interval(self) -> None:
        assert stats.bootstrap_mean([1.0, 3.0], ["a", "a"]) == stats.Interval(2.0, None, None, 2, 1)

    @pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0]]])
    def test_what_it_refuses(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match=r"finite|at least one"):
            stats.bootstrap_mean(values)

    def test_any_statistic(self) -> None:
        x = np.random.default_rng(5).normal(size=200)
        mean = stats.bootstrap(lambda i: float(x[i].mean()), list(range(200)), draws=3000)
        reference = stats.bootstrap_mean(x)
        assert mean.value == reference.value
        assert mean.low == pytest.approx(reference.low, abs=0.02)
        assert mean.high == pytest.approx(reference.high, abs=0.02)

    def test_overlap(self) -> None:
        def interval(low: float | None, high: float | None, value: float = 1.0) -> stats.Interval:
            return stats.Interval(value, low, high, 9, 9)

        assert interval(0, 2).overlaps(interval(2, 3))
        assert not interval(0, 1).overlaps(interval(1.5, 3))
        assert interval(None, None).overlaps(interval(0, 2))
        assert not interval(None, None, 5.0).overlaps(interval(0, 2))


class TestPaired:
    def test_exact_by_hand(self) -> None:
        """Differences 1, 2, 3: of 8 flips, two reach the observed mean."""
        found = stats.paired_permutation([2, 4, 6], [1, 2, 3])
        assert found == stats.PairedTest(2.0, 0.25, 3, 3, True)

    def test_against_scipy(self) -> None:
        from scipy.stats import permutation_test

        generator = np.random.default_rng(0)
        a, b = generator.normal(0.4, 1, 11), generator.normal(0, 1, 11)
        theirs = permutation_test(
            (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
        )
        assert stats.paired_permutation(a, b).p == pytest.approx(theirs.pvalue, rel=1e-9)

    def test_random_flips_agree_with_all_flips(self) -> None:
        generator = np.random.default_rng(1)
        a, b = generator.normal(0.5, 1, 13), generator.normal(0, 1, 13)
        exact = stats.paired_permutation(a, b)
        drawn = stats.paired_permutation(a, b, draws=8000)
        assert exact.exact
        assert not drawn.exact
        assert drawn.p == pytest.approx(exact.p, abs=0.02)

    def test_clusters_flip_together(self) -> None:
        a = [1.0, 2.0, 3.0, -1.0]
        found = stats.paired_permutation(a, [0.0] * 4, ["x", "x", "y", "y"])
        sums = (3.0, 2.0)
        flips = [abs(s * sums[0] + t * sums[1]) for s, t in itertools.product((-1, 1), repeat=2)]
        assert found.p == np.mean([f >= 5.0 for f in flips]) == 0.5
        assert found.clusters == 2

    def test_never_zero_and_one_for_equals(self) -> None:
        large = stats.paired_permutation(np.arange(100.0) + 5, np.arange(100.0), draws=200)
        assert large.p == pytest.approx(1 / 201)
        assert stats.paired_permutation([1.0] * 30, [1.0] * 30).p == 1.0

    def test_holds_its_level(self) -> None:
        generator = np.random.default_rng(2)
        p = [
            stats.paired_permutation(*generator.normal(size=(2, 20)), draws=300, seed=i).p for i in range(300)
        ]
        assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09

    def test_pairs_must_match(self) -> None:
        with pytest.raises(ValueError, match="3 and 2"):
            stats.paired_permutation([1, 2, 3], [1, 2])
        with pytest.raises(ValueError, match="clusters"):
            stats.paired_permutation([1, 2], [1, 2], ["a"])


class TestHolm:
    def test_by_hand(self) -> None:
        adjusted = stats.holm([0.01, 0.04, 0.03, 0.005])
        assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert stats.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
        assert stats.holm([]).shape == (0,)

    def test_order_does_not_matter(self) -> None:
        p = np.random.default_rng(0).uniform(0, 0.2, 9)
        order = np.random.default_rng(1).permutation(9)
        assert stats.holm(p[order]) == pytest.approx(stats.holm(p)[order])

    def test_refuses_what_is_no_probability(self) -> None:
        with pytest.raises(ValueError, match="between 0 and 1"):
            stats.holm([0.5, 1.2])


class TestWilson:
    @pytest.mark.parametrize(
        ("successes", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (263, 263), (1, 29)]
    )
    def test_against_scipy(self, successes: int, n: int) -> None:
        from scipy.stats import binomtest

        theirs = binomtest(successes, n).proportion_ci(method="wilson")
        ours = stats.wilson(successes, n)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)

    def test_published(self) -> None:
        """Newcombe 1998, table I: 81 of 263."""
        found = stats.wilson(81, 263)
        assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)

    def test_half_a_success_lies_between(self) -> None:
        """Wilson's bounds p solve (x - n p)^2 = z^2 n p (1 - p), for any x."""
        found = stats.wilson(7.5, 20)
        assert found.value == 0.375
        for end in (found.low, found.high):
            assert end is not None
            assert (7.5 - 20 * end) ** 2 == pytest.approx(1.959964**2 * 20 * end * (1 - end), rel=1e-6)
        assert stats.wilson(7, 20).low < found.low < stats.wilson(8, 20).low  # type: ignore[operator]

    def test_refuses_what_cannot_be(self) -> None:
        with pytest.raises(ValueError, match="3 successes of 2"):
            stats.wilson(3, 2)


class TestRank:
    @pytest.mark.parametrize("ties", [False, True])
    def test_against_scipy(self, ties: bool) -> None:
        from scipy.stats import kendalltau, rankdata, spearmanr

        generator = np.random.default_rng(0)
        x = generator.normal(size=40)
        y = x + generator.normal(size=40)
        if ties:
            x, y = np.round(x), np.round(y)
        assert stats.ranks(x) == pytest.approx(rankdata(x))
        assert stats.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
        assert stats.kendall(x, y) == pytest.approx(kendalltau(x, y).statistic)

    def test_interval(self) -> None:
        generator = np.random.default_rng(1)
        x = generator.normal(size=100)
        y = x + generator.normal(size=100)
        for kind in ("spearman", "kendall"):
            found = stats.rank_correlation(x, y, kind=kind, draws=300)  # type: ignore[arg-type]
            assert found.low is not None
            assert found.high is not None
            assert 0 < found.low < found.value < found.high < 1

    def test_monotone_is_one(self) -> None:
        x = np.arange(10.0)
        assert stats.spearman(x, np.exp(x)) == pytest.approx(1)
        assert stats.kendall(x, -(x**3)) == pytest.approx(-1)

    def test_a_constant_side_has_none(self) -> None:
        found = stats.rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], draws=50)
        assert math.isnan(found.value)
        assert found.low is None

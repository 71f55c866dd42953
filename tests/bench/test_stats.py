"""Statistics against known answers, other implementations, and what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bench import stats
from tests.bench import one_column


class TestBootstrap:
    def test_of_a_mean_matches_its_standard_error(self) -> None:
        x = np.random.default_rng(0).normal(3, 2, 400)
        interval = one_column.mean(x)
        assert interval.value == pytest.approx(x.mean())
        assert interval.low is not None
        assert interval.high is not None
        assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.04)
        assert (interval.n, interval.clusters) == (400, 400)

    def test_clusters_of_copies_count_once(self) -> None:
        """Ten copies of each value carry no more than the values do."""
        x = np.random.default_rng(1).normal(size=50)
        single = one_column.mean(x, seed=3)
        copied = one_column.mean(np.repeat(x, 10), np.repeat(np.arange(50), 10).tolist(), seed=3)
        assert copied.low == pytest.approx(single.low)
        assert copied.high == pytest.approx(single.high)
        naive = one_column.mean(np.repeat(x, 10), seed=3)
        assert naive.high is not None
        assert copied.high is not None
        assert naive.high - naive.value < 0.5 * (copied.high - copied.value)

    def test_clusters_of_different_sizes_against_resampling_by_hand(self) -> None:
        """Every resample built from its values, with the same draws of clusters."""
        generator = np.random.default_rng(0)
        owner = np.repeat(np.arange(12), generator.integers(1, 5, 12))
        x = generator.exponential(size=len(owner)) * 2.0 ** generator.normal(size=12)[owner]

        def mean_and_error(chosen: np.ndarray) -> tuple[float, float]:
            parts = [x[owner == c] for c in chosen]
            mean = float(np.concatenate(parts).mean())
            n = sum(map(len, parts))
            return mean, np.sqrt(12 / 11 * sum((p.sum() - mean * len(p)) ** 2 for p in parts)) / n

        mean, error = mean_and_error(np.arange(12))
        weights = np.random.default_rng(4).multinomial(12, np.full(12, 1 / 12), size=800)
        resampled = [mean_and_error(np.repeat(np.arange(12), row)) for row in weights]
        t = np.quantile([(m - mean) / e for m, e in resampled], [0.025, 0.975])
        student = 2.200985  # of 11 degrees of freedom
        interval = one_column.mean(x, owner.tolist(), draws=800, seed=4)
        assert interval.value == pytest.approx(mean)
        assert interval.low == pytest.approx(mean - np.clip(t[1], student, 3 * student) * error)
        assert interval.high == pytest.approx(mean - np.clip(t[0], -3 * student, -student) * error)

    def test_a_skewed_mean_is_covered_where_percentiles_fail(self) -> None:
        """16 exponential values: the percentile interval holds their mean in 89 % of the cases."""
        x = np.random.default_rng(6).exponential(size=(16, 2000))
        low, high = stats.mean_ends(x, np.ones_like(x), draws=500)
        assert 0.94 <= ((low <= 1) & (high >= 1)).mean() <= 0.975

    def test_resamples_without_spread_leave_a_finite_interval(self) -> None:
        """One value of six differs: a third of all resamples have no spread at all."""
        interval = one_column.mean([0.0] * 5 + [1.0])
        assert interval.low is not None
        assert interval.high is not None
        error, student = 1 / 6, 2.570582  # of 5 degrees of freedom
        assert interval.high - interval.value == pytest.approx(3 * student * error)
        # No value is negative, so neither is their mean.
        assert interval.low == 0
        turned = one_column.mean([0.0] * 5 + [-1.0])
        assert (turned.low, turned.high) == pytest.approx((-interval.high, 0.0))

    def test_is_a_function_of_its_seed(self) -> None:
        x = np.random.default_rng(2).normal(size=30)
        assert one_column.mean(x, seed=1) == one_column.mean(x, seed=1)
        assert one_column.mean(x, seed=1) != one_column.mean(x, seed=2)
        by_name = one_column.mean(x, [f"s{i}" for i in range(30)], seed=1)
        assert by_name == one_column.mean(x, seed=1)

    def test_coverage(self) -> None:
        """Clustered data: the interval holds the true mean about as often as it says."""
        generator = np.random.default_rng(3)
        clusters = np.repeat(np.arange(40), 5)
        covered = naive = 0
        for trial in range(200):
            x = generator.normal(size=40)[clusters] + generator.normal(size=200)
            for by, count in ((clusters.tolist(), 0), (None, 1)):
                interval = one_column.mean(x, by, draws=400, seed=trial)
                assert interval.low is not None
                assert interval.high is not None
                inside = interval.low <= 0 <= interval.high
                covered, naive = (covered + inside, naive) if count == 0 else (covered, naive + inside)
        assert 0.88 <= covered / 200 <= 0.99
        assert naive / 200 < 0.8, "without clusters the interval must be seen to be too narrow"

    def test_blocks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = np.random.default_rng(4).normal(size=30)
        whole = one_column.mean(x, draws=500)
        monkeypatch.setattr(stats, "_BLOCK", 30 * 7)
        blocks = one_column.mean(x, draws=500)
        assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high), rel=1e-12)

    def test_resamples_are_the_same_whether_they_are_remembered_or_drawn_in_blocks(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (whole,) = stats.resamples(7, 20, 3, rows=20)
        assert (whole.sum(axis=1) == 7).all()
        # A caller must not change what others get.
        assert not whole.flags.writeable
        # One number fits into a block, so nothing is remembered.
        monkeypatch.setattr(stats, "_BLOCK", 1)
        blocks = list(stats.resamples(7, 20, 3, rows=6))
        assert [len(block) for block in blocks] == [6, 6, 6, 2]
        assert (np.concatenate(blocks) == whole).all()

    def test_one_cluster_has_no_interval(self) -> None:
        assert one_column.mean([1.0, 3.0], ["a", "a"]) == stats.Interval(2.0, None, None, 2, 1)

    @pytest.mark.parametrize(("clusters", "has_interval"), [(2, False), (5, False), (6, True)])
    def test_a_mean_of_fewer_than_six_clusters_has_no_interval(
        self, clusters: int, has_interval: bool
    ) -> None:
        """Six is the smallest number of which any sign-flip test can reach p < .05."""
        interval = one_column.mean(
            [float(k) for k in range(4 * clusters)], [k // 4 for k in range(4 * clusters)]
        )
        assert interval.clusters == clusters
        assert (interval.low is not None, interval.high is not None) == (has_interval, has_interval)
        assert has_interval == (2.0 ** (1 - clusters) < 0.05)

    def test_only_clusters_with_values_count(self) -> None:
        sums = np.random.default_rng(0).normal(size=(6, 2))
        sizes = np.ones((6, 2))
        sums[0, 1] = sizes[0, 1] = 0
        low, _ = stats.mean_ends(sums, sizes)
        assert np.isnan(low).tolist() == [False, True]

    def test_three_clusters_would_have_the_bound_of_the_quantiles_for_an_interval(self) -> None:
        """One resample in nine has no spread, so that both quantiles are cut at three times Student's."""
        x = np.random.default_rng(1).normal(size=(3, 500))
        low, high = stats.mean_ends(x, np.ones_like(x), draws=2000, least=2)
        student = 2 * 4.302653 * x.std(axis=0, ddof=1) / np.sqrt(3)  # of 2 degrees of freedom
        assert np.median((high - low) / student) == pytest.approx(3, abs=0.01)
        # Six: a fifth wider than Student's.
        x = np.random.default_rng(1).normal(size=(6, 500))
        low, high = stats.mean_ends(x, np.ones_like(x), draws=2000)
        student = 2 * 2.570582 * x.std(axis=0, ddof=1) / np.sqrt(6)
        assert 1 < np.median((high - low) / student) < 1.3


class TestMaxT:
    def test_one_pair_is_the_exact_permutation_test(self) -> None:
        difference = np.array([1.0, 2.0, 3.0, 0.5, -0.2, 1.5])
        (interval,) = stats.max_t([difference[:, None]])
        flips = np.array(list(itertools.product((-1, 1), repeat=6)))
        as_large = np.abs(flips @ difference) >= difference.sum() - 1e-12
        assert interval.tolist() == [as_large.mean()]

    def test_against_every_flip_by_hand(self) -> None:
        sums = np.random.default_rng(0).normal(0.5, 1, (7, 3))
        t = np.abs(sums.sum(axis=0)) / np.sqrt((sums**2).sum(axis=0))
        order = np.argsort(-t)
        flipped = [
            np.abs(np.array(signs) @ sums) / np.sqrt((sums**2).sum(axis=0))
            for signs in itertools.product((-1, 1), repeat=7)
        ]
        p, least = np.zeros(3), 0.0
        for step, pair in enumerate(order):
            rest = order[step:]
            least = max(least, np.mean([max(row[rest]) >= t[pair] - 1e-9 for row in flipped]))
            p[pair] = least
        assert stats.max_t([sums])[0] == pytest.approx(p)

    def test_copies_of_a_pair_cost_nothing_and_order_does_not_matter(self) -> None:
        sums = np.random.default_rng(1).normal(0.4, 1, (20, 2))
        interval, copied, turned = stats.max_t([sums, np.repeat(sums, 5, axis=1), sums[:, ::-1]], draws=3000)
        assert copied[::5] == pytest.approx(interval)
        assert turned[::-1] == pytest.approx(interval)

    def test_equal_methods_are_never_separable(self) -> None:
        equal, none = stats.max_t([np.zeros((9, 2)), np.zeros((9, 0))])
        assert equal.tolist() == [1.0, 1.0]
        assert none.shape == (0,)

    def test_each_family_has_the_result_that_it_has_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = np.random.default_rng(2)
        families = [generator.normal(0.4, 1, (12, pairs)) for pairs in (1, 3, 0, 6)]
        together = stats.max_t(families, draws=500, seed=1)
        for family, p_values in zip(families, together, strict=True):
            assert p_values == pytest.approx(stats.max_t([family], draws=500, seed=1)[0])
        # Every flip, four of them in each product.
        whole = stats.max_t(families, draws=4096)
        monkeypatch.setattr(stats, "_BLOCK", 40)
        for p_values, expected in zip(stats.max_t(families, draws=4096), whole, strict=True):
            assert p_values == pytest.approx(expected)

    def test_families_are_of_the_same_clusters(self) -> None:
        assert stats.max_t([]) == []
        with pytest.raises(ValueError, match=r"\[3, 4\]"):
            stats.max_t([np.ones((3, 1)), np.ones((4, 1))])

    def test_any_false_claim_is_rare_though_the_best_is_chosen_after_looking(self) -> None:
        """Six equally good methods on 30 cases: all pairs together keep 5 %, each pair alone does not."""
        generator = np.random.default_rng(2)
        first, second = np.triu_indices(6, 1)
        wrong = naive = 0
        for _ in range(400):
            values = (generator.random((30, 6)) < 0.5).astype(float)
            gaps = values[:, first] - values[:, second]
            wrong += bool((stats.max_t([gaps], draws=499)[0] < 0.05).any())
            widest = int(np.abs(gaps.sum(axis=0)).argmax())
            naive += bool(stats.max_t([gaps[:, [widest]]], draws=499)[0][0] < 0.05)
        assert wrong / 400 <= 0.07
        assert naive / 400 > 0.12


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

        expected = binomtest(successes, n).proportion_ci(method="wilson")
        interval = stats.wilson(successes, n)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_published(self) -> None:
        """Newcombe 1998, table I: 81 of 263."""
        interval = stats.wilson(81, 263)
        assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)

    def test_half_a_success_lies_between(self) -> None:
        """Wilson's bounds p solve (x - n p)^2 = z^2 n p (1 - p), for any x."""
        interval = stats.wilson(7.5, 20)
        assert interval.value == 0.375
        for end in (interval.low, interval.high):
            assert end is not None
            assert (7.5 - 20 * end) ** 2 == pytest.approx(1.959964**2 * 20 * end * (1 - end), rel=1e-6)
        assert stats.wilson(7, 20).low < interval.low < stats.wilson(8, 20).low  # type: ignore[operator]

    def test_refuses_what_cannot_be(self) -> None:
        with pytest.raises(ValueError, match="3 successes of 2"):
            stats.wilson(3, 2)


def single(successes: int, n: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [successes, n - successes])


class TestShare:
    @pytest.mark.parametrize(("successes", "n"), [(5, 16), (16, 16), (40, 59)])
    def test_of_independent_trials_is_wilsons_with_students_quantile(self, successes: int, n: int) -> None:
        from scipy.stats import t

        interval = one_column.share(single(successes, n))
        q = t.ppf(0.975, n - 1)
        for end in (interval.low, interval.high):
            assert end is not None
            assert (successes - n * end) ** 2 == pytest.approx(q**2 * n * end * (1 - end), rel=1e-6, abs=1e-9)

    @pytest.mark.parametrize("n", [16, 59, 400])
    def test_exact_coverage_is_never_below_93_percent(self, n: int) -> None:
        """Summed over all outcomes, for p in steps of .001; Wilson's alone falls to .90 at n = 16."""
        from scipy.stats import binom

        p, x = np.linspace(0.02, 0.98, 961), np.arange(n + 1)
        rows = (np.arange(n)[:, None] < x).astype(float)
        low, high = stats.share_ends(rows, np.ones_like(rows))
        covered = (low[:, None] <= p) & (p <= high[:, None])
        assert (binom.pmf(x[:, None], n, p) * covered).sum(axis=0).min() >= 0.93

    @pytest.mark.parametrize("edits", [1, 4])
    def test_one_failure_less_never_lowers_the_lower_end(self, edits: int) -> None:
        clusters = np.repeat(np.arange(15), edits).tolist()
        n = len(clusters)
        every, all_but_one = (one_column.share(single(k, n), clusters) for k in (n, n - 1))
        assert every.low is not None
        assert all_but_one.low is not None
        assert every.low > all_but_one.low
        assert every.high == 1
        none = one_column.share(single(0, n), clusters)
        assert none.high == pytest.approx(1 - every.low)

    def test_clusters_that_succeed_or_fail_whole_count_once(self) -> None:
        x = single(21, 30)
        once = one_column.share(x)
        copied = one_column.share(np.repeat(x, 4), np.repeat(np.arange(30), 4).tolist())
        assert (copied.low, copied.high) == pytest.approx((once.low, once.high))

    def test_the_effect_is_kishs_for_equal_clusters(self) -> None:
        """1 + (m - 1) rho, with rho by analysis of variance: 40 clusters of 5, shrunk by one of 80 rare trials."""
        sums = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 8)[:, None]
        n, m, p = 200, 5, 0.4
        between = m * ((sums / m - p) ** 2).sum() / 39
        within = (sums * (1 - sums / m)).sum() / 160
        rho = (between - within) / (between + (m - 1) * within)
        raw = between / (n / (n - 1) * p * (1 - p))
        assert raw == pytest.approx(1 + (m - 1) * rho, rel=0.01)
        interval = stats.design_effects(sums, np.full_like(sums, m))
        assert interval[0] == pytest.approx((80 * raw + m) / 81)

    def test_one_cluster_of_several_has_no_interval(self) -> None:
        assert one_column.share([1.0, 0.0], ["a", "a"]) == stats.Interval(0.5, None, None, 2, 1)

    @pytest.mark.parametrize(
        ("values", "problem"),
        [([0.0, 1.5], "between 0"), ([], "at least one"), ([1.0, math.nan], "finite"), ([[1.0]], "a row")],
    )
    def test_refuses_what_is_no_outcome(self, values: list[float], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            one_column.share(values)

    def test_each_value_has_a_cluster(self) -> None:
        with pytest.raises(ValueError, match="2 values with 1 clusters"):
            stats.share([0.0, 1.0], ["a"])


class TestShareDifference:
    def test_is_newcombes(self) -> None:
        """Newcombe 1998 (Statistics in Medicine 17, 2635), table II: e, f, g, h = 36, 12, 2, 0; method 10."""
        a = np.repeat([1.0, 1.0, 0.0, 0.0], [36, 12, 2, 0])
        b = np.repeat([1.0, 0.0, 1.0, 0.0], [36, 12, 2, 0])
        interval = one_column.share_difference(a, b)
        assert interval.value == pytest.approx(0.2)
        # Student's quantile of 49 degrees of freedom in place of the normal one: a little wider.
        assert (interval.low, interval.high) == pytest.approx((0.0569, 0.3404), abs=0.006)
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < 0.0569
        assert interval.high > 0.3404

    @pytest.mark.parametrize("successes", [0, 8, 16])
    def test_equal_verdicts_have_an_interval_around_zero(self, successes: int) -> None:
        x = single(successes, 16)
        interval = one_column.share_difference(x, x)
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < 0 < interval.high
        assert interval.value == 0
        assert interval.high - interval.low > 0.05

    def test_swapping_turns_the_sign(self) -> None:
        generator = np.random.default_rng(0)
        a, b = (generator.random((2, 40)) < [[0.8], [0.4]]).astype(float)
        clusters = np.repeat(np.arange(10), 4).tolist()
        one, other = one_column.share_difference(a, b, clusters), one_column.share_difference(b, a, clusters)
        assert (one.low, one.high) == pytest.approx((-(other.high or 0), -(other.low or 0)))

    def test_pairing_narrows_it(self) -> None:
        a = single(20, 40)
        paired, crossed = one_column.share_difference(a, a), one_column.share_difference(a, np.roll(a, 10))
        for interval in (paired, crossed):
            assert interval.low is not None
            assert interval.high is not None
        assert paired.high - paired.low < 0.5 * (crossed.high - crossed.low)  # type: ignore[operator]

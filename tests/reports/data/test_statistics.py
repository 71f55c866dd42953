"""Statistics of whole tables against those of one column at a time, scipy's, and known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench import stats
from bench.stats import holm, max_t, share
from reports.data import scores, statistics
from reports.data.statistics import bootstrap_means, paired_tests
from tests.bench import one_column
from tests.reports import fake

N = len(fake.cases())


def table(units: int = 60, columns: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(units, columns)), generator.integers(0, units // 3, units)


def test_means_are_those_of_one_column_at_a_time() -> None:
    values, cluster = table()
    found = bootstrap_means(values, cluster, draws=500, seed=3)
    for k in range(values.shape[1]):
        one = one_column.mean(values[:, k], cluster.tolist(), draws=500, seed=3)
        assert (found.value[k], found.low[k], found.high[k]) == pytest.approx((one.value, one.low, one.high))
        assert (found.n[k], found.clusters[k]) == (one.n, one.clusters)


def test_missing_values_lower_n_of_their_column_alone() -> None:
    values, cluster = table()
    holed = values.copy()
    holed[:20, 1] = np.nan
    holed[:, 2] = np.nan
    whole, found = bootstrap_means(values, cluster), bootstrap_means(holed, cluster)
    assert found.n.tolist() == [60, 40, 0, 60]
    assert found.value[1] == pytest.approx(values[20:, 1].mean())
    assert np.isnan([found.value[2], found.low[2], found.high[2]]).all()
    assert (found.low[0], found.high[3]) == (whole.low[0], whole.high[3])
    alone = one_column.mean(values[20:, 1], cluster[20:].tolist())
    # Other resamples of nearly the same clusters: the same interval but for chance.
    assert (found.low[1], found.high[1]) == pytest.approx((alone.low, alone.high), abs=0.08)


def test_the_names_and_order_of_clusters_do_not_matter() -> None:
    values, cluster = table()
    found = bootstrap_means(values, cluster)
    renamed = bootstrap_means(values, 1000 - 7 * cluster)
    assert found.low.tolist() == renamed.low.tolist()


def test_one_cluster_has_no_interval_and_a_constant_its_value() -> None:
    found = bootstrap_means(np.full((5, 1), 0.3), np.zeros(5, dtype=np.intp))
    assert found.value[0] == pytest.approx(0.3)
    assert np.isnan(found.low[0])
    found = bootstrap_means(np.full((5, 1), 0.3), np.arange(5))
    assert (found.low[0], found.high[0]) == (0.3, 0.3)


def outcomes(units: int = 60, columns: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    values = (generator.random((units, columns)) < [0.3, 0.9, 1.0][:columns]).astype(float)
    values[:7, 0] = np.nan
    return values, generator.integers(0, units // 3, units)


def test_shares_are_those_of_one_column_at_a_time() -> None:
    values, cluster = outcomes()
    found = statistics.shares(values, cluster)
    for k in range(values.shape[1]):
        there = ~np.isnan(values[:, k])
        one = share(values[there, k], cluster[there].tolist())
        assert (found.value[k], found.low[k], found.high[k]) == pytest.approx((one.value, one.low, one.high))
        assert (found.n[k], found.clusters[k]) == (one.n, one.clusters)


def test_declared_outcomes_and_other_values_stand_side_by_side() -> None:
    values, cluster = np.ones((10, 3)), np.repeat(np.arange(5), 2)
    found = statistics.summarise(values, cluster, np.array([False, True, False]))
    assert found.low.tolist() == [1.0, share(np.ones(10), cluster.tolist()).low, 1.0]
    assert found.high.tolist() == [1.0, 1.0, 1.0]


def test_differences_are_those_of_one_column_at_a_time() -> None:
    (a, cluster), (b, _) = outcomes(), outcomes(seed=1)
    found = statistics.differences(a, b, cluster, np.array([True, True, False]), draws=400, seed=2)
    for k in range(3):
        there = ~np.isnan(a[:, k] - b[:, k])
        one = one_column.share_difference(a[there, k], b[there, k], cluster[there].tolist())
        if k == 2:
            # Equal values that no metric declared to be outcomes: a mean without spread.
            one = one_column.mean((a - b)[there, k], cluster[there].tolist(), draws=400, seed=2)
            assert one.low == one.high == 0
        assert (found.value[k], found.low[k], found.high[k]) == pytest.approx((one.value, one.low, one.high))
        assert (found.n[k], found.clusters[k]) == (one.n, one.clusters)


@pytest.mark.parametrize("shape", [(0, 2), (5, 0)])
def test_nothing_has_neither_mean_nor_interval(shape: tuple[int, int]) -> None:
    values, cluster, outcome = np.zeros(shape), np.arange(shape[0]), np.arange(shape[1]) == 1
    for found in (
        statistics.summarise(values, cluster, outcome),
        statistics.differences(values, values, cluster, outcome),
    ):
        assert found.n.tolist() == [0] * shape[1]
        assert np.isnan(found.value).all()
        assert np.isnan(found.low).all()


def test_an_outcome_that_is_none_is_refused_with_the_remedy() -> None:
    with pytest.raises(statistics.StatisticsError, match=r"between 0 .* unit of the metric"):
        statistics.shares(np.array([[0.0], [2.0]]), np.arange(2))


@pytest.mark.parametrize("units", [10, 60])  # 10: every flip is tried
def test_paired_tests_are_those_of_one_column_at_a_time(units: int) -> None:
    a, cluster = table(units, 3)
    b, _ = table(units, 3, seed=1)
    found = paired_tests(a - b, cluster, draws=2000, seed=5)
    for k in range(3):
        alone = paired_tests((a - b)[:, [k]], cluster, draws=2000, seed=5)
        assert found.p[k] == pytest.approx(alone.p[0])
        assert found.difference[k] == pytest.approx((a - b)[:, k].mean())
        assert (found.n[k], found.clusters[k]) == (units, len(set(cluster.tolist())))
    assert found.exact == (units == 10)


def test_a_paired_test_flips_whole_clusters() -> None:
    """Cluster sums 3 and 2: of four flips, two reach their sum. Single differences 1, 2, 3: two of eight do."""
    by_cluster = paired_tests(np.array([[1.0], [2.0], [3.0], [-1.0]]), np.array([0, 0, 1, 1]))
    assert (by_cluster.p[0], by_cluster.clusters[0]) == (0.5, 2)
    alone = paired_tests(np.array([[1.0], [2.0], [3.0]]), np.arange(3))
    assert (alone.p[0], alone.difference[0], alone.exact) == (0.25, 2.0, True)


def test_p_of_random_flips_is_never_zero_and_that_of_equals_is_one() -> None:
    large = paired_tests(np.full((100, 1), 5.0), np.arange(100), draws=200)
    assert large.p[0] == pytest.approx(1 / 201)
    assert paired_tests(np.zeros((30, 1)), np.arange(30)).p[0] == 1.0


def test_a_paired_test_agrees_with_scipy() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(0.4, 1, 40), generator.normal(0, 1, 40)
    ours = paired_tests((a - b)[:, None], np.arange(40), draws=20_000).p[0]
    theirs = scipy_stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=20_000,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert ours == pytest.approx(theirs.pvalue, abs=0.01)


def test_under_no_difference_p_is_uniform() -> None:
    generator = np.random.default_rng(4)
    p = paired_tests(generator.normal(size=(30, 800)), np.arange(30), draws=400).p
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.025)
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.06)


@pytest.fixture
def run(tmp_path: Path) -> scores.RunScores:
    generator = np.random.default_rng(1)
    close = (0.5 + 0.01 * generator.normal(size=N)).tolist()
    values = {
        "leak_lpips": {
            "sd_inpainting": close,
            "instruct_pix2pix": [value + 0.2 for value in close],
            "oracle": [0.0] * N,
        }
    }
    sets: dict[str, tuple[float, float | None, float | None]] = {
        "sd_inpainting": (10.0, 7.0, 13.0),
        "instruct_pix2pix": (16.0, 12.0, 20.0),
        "oracle": (1.0, None, None),
    }
    return scores.load(fake.run(tmp_path / "r", values, sets=sets))


def row(found: object, method: str, metric: str, category: str = "all") -> dict[str, object]:
    rows = [
        r
        for r in found.to_dict(orient="records")  # type: ignore[attr-defined]
        if (r["method"], r["metric"], r["category"]) == (method, metric, category)
    ]
    assert len(rows) == 1
    return rows[0]


def test_a_comparison_says_difference_effect_and_test(run: scores.RunScores) -> None:
    found = statistics.compare(run, "sd_inpainting")
    assert list(found.columns) == list(statistics.COMPARISON_COLUMNS)
    leak = row(found, "instruct_pix2pix", "leak_lpips")
    assert leak["difference"] == pytest.approx(0.2)
    assert leak["superiority"] == 1
    assert (leak["n"], leak["clusters"], leak["exact"]) == (N, 8, True)
    assert leak["p"] == 2 / 2**8
    # Two methods besides the baseline: Holm doubles the smaller of two equal p.
    assert leak["p_holm"] == pytest.approx(min(1.0, holm([2 / 2**8] * 2)[0]))
    fid = row(found, "instruct_pix2pix", "fid")
    assert (fid["difference"], fid["low"], fid["high"]) == (6.0, 6.0 - 5.0, 6.0 + 5.0)
    assert np.isnan(fid["p"])  # type: ignore[call-overload]
    assert row(found, "oracle", "fid")["remark"] == "no interval was stored, no test"


def test_a_difference_of_sets_is_as_wide_as_before_the_lower_end_was_cut(tmp_path: Path) -> None:
    """Half-widths of 3 and 4, of which the second is cut at 0 below."""
    sets = {"sd_inpainting": (5.0, 2.0, 8.0), "oracle": (1.0, 0.0, 5.0)}
    store = fake.run(tmp_path / "r", {"leak_lpips": {"oracle": [0.0] * N}}, sets=sets)
    fid = row(statistics.compare(scores.load(store), "sd_inpainting"), "oracle", "fid")
    assert (fid["difference"], fid["low"], fid["high"]) == (-4.0, -9.0, 1.0)


def test_cohens_d_is_mean_over_standard_deviation(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    a, b = generator.random(N), generator.random(N)
    values = {"my": {"sd_inpainting": a.tolist(), "instruct_pix2pix": b.tolist()}}
    found = statistics.compare(scores.load(fake.run(tmp_path / "r", values)), "sd_inpainting")
    one = row(found, "instruct_pix2pix", "my")
    assert one["cohens_d"] == pytest.approx((b - a).mean() / (b - a).std(ddof=1))
    assert one["superiority"] == (b > a).mean()


def test_few_source_images_are_remarked_on(run: scores.RunScores) -> None:
    found = statistics.compare(run, "sd_inpainting")
    assert row(found, "instruct_pix2pix", "leak_lpips")["remark"] == ""
    assert "2 source images are too few" in str(
        row(found, "instruct_pix2pix", "leak_lpips", "attribute")["remark"]
    )
    # 2^(1 - C) is the least p: five images for one comparison give .0625, six .03125.
    assert statistics.too_few(5, 1)
    assert not statistics.too_few(6, 1)
    assert statistics.too_few(6, 2)


def test_an_unknown_baseline_is_refused_with_the_names(run: scores.RunScores) -> None:
    with pytest.raises(statistics.StatisticsError, match="instruct_pix2pix"):
        statistics.compare(run, "nobody")


def test_separation_is_max_t_over_all_pairs(tmp_path: Path) -> None:
    from bench.edit import MethodSpec

    methods = (*(MethodSpec(name) for name in "abc"), MethodSpec("copy_input", is_control=True))
    generator = np.random.default_rng(0)
    base = generator.random(N)
    shifted = base + np.where(np.arange(N) % 4 < 2, 0.05, -0.05) - 0.001
    values = {
        "success_truth": {
            "a": (base + 0.01).tolist(),
            "b": (base - 0.5).tolist(),
            "c": shifted.tolist(),
            "copy_input": [9.0] * N,
        }
    }
    run = scores.load(fake.run(tmp_path / "r", values, methods=methods))
    found = statistics.separations(run, {"success_truth": True}, ["success_truth"])
    tests = found["mini-coco", "success_truth", "all"]
    _, cluster = np.unique([case.source_id for case in fake.cases()], return_inverse=True)
    gaps = [
        np.array(values["success_truth"][one]) - values["success_truth"][other]
        for one, other in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    p = max_t([np.stack([np.bincount(cluster, gap) for gap in gaps], axis=1)])[0]
    assert tests == pytest.approx({"b": p[0], "c": p[1]})
    assert tests["b"] < 0.05 < tests["c"]
    assert ("mini-coco", "success_truth", "background") in found
    low = statistics.separations(run, {"success_truth": False}, ["success_truth"])
    assert set(low["mini-coco", "success_truth", "all"]) == {"a", "c"}


def test_a_comparison_of_shares_never_has_width_zero(tmp_path: Path) -> None:
    values = {"success_truth": {name: [1.0] * N for name in ("sd_inpainting", "instruct_pix2pix", "oracle")}}
    found = statistics.compare(
        scores.load(fake.run(tmp_path / "r", values)), "sd_inpainting", outcomes={"success_truth"}
    )
    assert (found["difference"] == 0).all()
    assert (found["high"] - found["low"] > 0.1).all()


def test_what_can_be_detected_is_found_as_often_as_it_says() -> None:
    """Two methods on 80 cases that disagree on 40 % of them: the exact sign test says what can be found."""
    generator = np.random.default_rng(5)
    skill = generator.random(80) < 0.5
    values = np.stack([skill, skill ^ (np.arange(80) % 5 < 2)], axis=1).astype(float)
    found = statistics.detectable(values, np.arange(80))
    assert found is not None
    # D cases disagree, and the better method wins W of them: |2 W - D| > critical * sqrt(D).
    hits = 0
    for seed in range(400):
        generator = np.random.default_rng(seed)
        one = generator.random(80) < 0.5
        other = one ^ (generator.random(80) < 0.4)
        other &= generator.random(80) >= found / 0.5
        gap = one.astype(float) - other
        hits += stats.max_t([gap[:, None]], draws=999, seed=seed)[0][0] < 0.05
    assert 0.7 <= hits / 400 <= 0.9


def test_nothing_can_be_detected_where_all_are_separate_or_cases_are_few() -> None:
    apart = np.stack([np.ones(40), np.zeros(40)], axis=1)
    assert statistics.detectable(apart, np.arange(40)) is None
    assert statistics.detectable(np.ones((4, 2)), np.arange(4)) is None

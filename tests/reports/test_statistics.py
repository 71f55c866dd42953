"""Statistics of whole tables against those of one column at a time, scipy's, and known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.stats import bootstrap_mean, holm, paired_permutation, wilson  # noqa
from reports import scores, statistics
from reports.statistics import bootstrap_means, paired_tests
from tests.reports import fake

N = len(fake.cases())


def table(units: int = 60, columns: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(units, columns)), generator.integers(0, units // 3, units)


def test_means_are_those_of_one_column_at_a_time() -> None:
    values, cluster = table()
    found = bootstrap_means(values, cluster, draws=500, seed=3)
    for k in range(values.shape[1]):
        one = bootstrap_mean(values[:, k], cluster.tolist(), draws=500, seed=3)
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
    alone = bootstrap_mean(values[20:, 1], cluster[20:].tolist())
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


def test_a_share_of_all_gets_wilsons_interval() -> None:
    means = bootstrap_means(np.ones((10, 2)), np.repeat(np.arange(5), 2))
    found = statistics.with_wilson(means, np.array([True, False]))
    assert found.low.tolist() == [wilson(5, 5).low, 1.0]
    assert found.high.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("units", [10, 60])  # 10: every flip is tried
def test_paired_tests_are_those_of_one_column_at_a_time(units: int) -> None:
    a, cluster = table(units, 3)
    b, _ = table(units, 3, seed=1)
    found = paired_tests(a - b, cluster, draws=2000, seed=5)
    for k in range(3):
        one = paired_permutation(a[:, k], b[:, k], cluster.tolist(), draws=2000, seed=5)
        assert found.p[k] == pytest.approx(one.p)
        assert found.difference[k] == pytest.approx(one.difference)
        assert (found.n[k], found.clusters[k], found.exact) == (one.n, one.clusters, one.exact)


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


def test_separation_is_holms_p_against_the_best(tmp_path: Path) -> None:
    from bench.edit import MethodSpec

    methods = tuple(MethodSpec(name) for name in ("a", "b", "c", "copy_input"))
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
    clusters = [case.source_id for case in fake.cases()]
    p = [
        paired_permutation(values["success_truth"][m], values["success_truth"]["a"], clusters).p
        for m in ("b", "c")
    ]
    assert tests == pytest.approx(dict(zip(("b", "c"), holm(p), strict=True)))
    assert tests["b"] < 0.05 < tests["c"]
    assert ("mini-coco", "success_truth", "background") in found
    low = statistics.separations(run, {"success_truth": False}, ["success_truth"])
    assert set(low["mini-coco", "success_truth", "all"]) == {"a", "c"}


def test_what_can_be_detected_follows_from_the_error() -> None:
    # Of a difference with standard error 1: z of 97.5 % plus z of 80 %.
    assert statistics.detectable(-1.959964, 1.959964) == pytest.approx(2.8016, abs=1e-3)

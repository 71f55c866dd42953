"""Paired tests and comparisons with a baseline: known answers, one column at a time, and scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.stats import holm
from reports.data import comparisons, intervals, scores
from reports.data.comparisons import paired_tests
from tests.reports import fake

N = len(fake.cases())


def table(units: int = 60, columns: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(units, columns)), generator.integers(0, units // 3, units)


@pytest.mark.parametrize("units", [10, 60])  # 10: every flip is tried
def test_paired_tests_are_those_of_one_column_at_a_time(units: int) -> None:
    a, cluster = table(units, 3)
    b, _ = table(units, 3, seed=1)
    result = paired_tests(a - b, cluster, draws=2000, seed=5)
    for k in range(3):
        alone = paired_tests((a - b)[:, [k]], cluster, draws=2000, seed=5)
        assert result.p[k] == pytest.approx(alone.p[0])
        assert result.difference[k] == pytest.approx((a - b)[:, k].mean())
        assert (result.n[k], result.clusters[k]) == (units, len(set(cluster.tolist())))
    assert result.exact == (units == 10)


def test_a_paired_test_flips_whole_clusters() -> None:
    """Cluster sums 3 and 2: of four flips, two reach their sum. Single differences 1, 2, 3: two of eight do."""
    by_cluster = paired_tests(np.array([[1.0], [2.0], [3.0], [-1.0]]), np.array([0, 0, 1, 1]))
    assert (by_cluster.p[0], by_cluster.clusters[0]) == (0.5, 2)
    alone = paired_tests(np.array([[1.0], [2.0], [3.0]]), np.arange(3))
    assert (alone.p[0], alone.difference[0], alone.exact) == (0.25, 2.0, True)


def test_p_of_random_flips_is_never_zero_and_that_of_equals_is_one() -> None:
    # Of 200 random flips and the observed one, the observed one alone reaches its sum.
    large = paired_tests(np.full((100, 1), 5.0), np.arange(100), draws=200)
    assert large.p[0] == pytest.approx(1 / 201)
    assert paired_tests(np.zeros((30, 1)), np.arange(30)).p[0] == 1.0


def test_a_paired_test_agrees_with_scipy() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(0.4, 1, 40), generator.normal(0, 1, 40)
    p_value = paired_tests((a - b)[:, None], np.arange(40), draws=20_000).p[0]
    reference = scipy_stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=20_000,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert p_value == pytest.approx(reference.pvalue, abs=0.01)


def test_under_no_difference_p_is_uniform() -> None:
    generator = np.random.default_rng(4)
    p = paired_tests(generator.normal(size=(30, 800)), np.arange(30), draws=400).p
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.025)
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.06)


@pytest.fixture
def run(tmp_path: Path) -> scores.RunScores:
    generator = np.random.default_rng(1)
    # instruct_pix2pix leaks 0.2 more on every case, the oracle nothing.
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


def row(result: object, method: str, metric: str, category: str = "all") -> dict[str, object]:
    rows = [
        r
        for r in result.to_dict(orient="records")  # type: ignore[attr-defined]
        if (r["method"], r["metric"], r["category"]) == (method, metric, category)
    ]
    assert len(rows) == 1
    return rows[0]


def test_a_comparison_says_difference_effect_and_test(run: scores.RunScores) -> None:
    result = comparisons.compare(run, "sd_inpainting")
    assert list(result.columns) == list(comparisons.COMPARISON_COLUMNS)
    leak = row(result, "instruct_pix2pix", "leak_lpips")
    assert leak["difference"] == pytest.approx(0.2)
    assert leak["superiority"] == 1
    assert (leak["n"], leak["clusters"], leak["exact"]) == (N, 8, True)
    assert leak["p"] == 2 / 2**8
    # Two methods besides the baseline: Holm doubles the smaller of two equal p.
    assert leak["p_holm"] == pytest.approx(min(1.0, holm([2 / 2**8] * 2)[0]))
    fid = row(result, "instruct_pix2pix", "fid")
    assert (fid["difference"], fid["low"], fid["high"]) == (6.0, 6.0 - 5.0, 6.0 + 5.0)
    assert np.isnan(fid["p"])  # type: ignore[call-overload]
    assert row(result, "oracle", "fid")["remark"] == "no interval was stored, no test"


def test_a_difference_of_sets_is_as_wide_as_before_the_lower_end_was_cut(tmp_path: Path) -> None:
    """Half-widths of 3 and 4, of which the second is cut at 0 below."""
    sets = {"sd_inpainting": (5.0, 2.0, 8.0), "oracle": (1.0, 0.0, 5.0)}
    store = fake.run(tmp_path / "r", {"leak_lpips": {"oracle": [0.0] * N}}, sets=sets)
    fid = row(comparisons.compare(scores.load(store), "sd_inpainting"), "oracle", "fid")
    assert (fid["difference"], fid["low"], fid["high"]) == (-4.0, -9.0, 1.0)


def test_cohens_d_is_mean_over_standard_deviation(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    a, b = generator.random(N), generator.random(N)
    values = {"my": {"sd_inpainting": a.tolist(), "instruct_pix2pix": b.tolist()}}
    result = comparisons.compare(scores.load(fake.run(tmp_path / "r", values)), "sd_inpainting")
    one = row(result, "instruct_pix2pix", "my")
    assert one["cohens_d"] == pytest.approx((b - a).mean() / (b - a).std(ddof=1))
    assert one["superiority"] == (b > a).mean()


def test_few_source_images_are_remarked_on(run: scores.RunScores) -> None:
    result = comparisons.compare(run, "sd_inpainting")
    assert row(result, "instruct_pix2pix", "leak_lpips")["remark"] == ""
    assert "2 source images are too few" in str(
        row(result, "instruct_pix2pix", "leak_lpips", "attribute")["remark"]
    )
    # 2^(1 - C) is the least p: five images for one comparison give .0625, six .03125.
    assert comparisons.too_few(5, 1)
    assert not comparisons.too_few(6, 1)
    assert comparisons.too_few(6, 2)


def test_an_unknown_baseline_is_refused_with_the_names(run: scores.RunScores) -> None:
    with pytest.raises(intervals.StatisticsError, match="instruct_pix2pix"):
        comparisons.compare(run, "nobody")


def test_a_comparison_of_shares_never_has_width_zero(tmp_path: Path) -> None:
    values = {"success_truth": {name: [1.0] * N for name in ("sd_inpainting", "instruct_pix2pix", "oracle")}}
    result = comparisons.compare(
        scores.load(fake.run(tmp_path / "r", values)), "sd_inpainting", outcomes={"success_truth"}
    )
    assert (result["difference"] == 0).all()
    assert (result["high"] - result["low"] > 0.1).all()

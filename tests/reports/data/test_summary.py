"""The tidy summary of runs whose every number is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.edit import ALL
from bench.stats import share
from reports.data.scores import load
from reports.data.summary import summary
from tests.bench import one_column
from tests.reports import fake

N = len(fake.cases())


def rising(start: float) -> list[float | None]:
    return [start + 0.01 * k for k in range(N)]


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    values = {
        "success_truth": {
            "sd_inpainting": [1.0] * 8 + [0.0] * 8,
            "instruct_pix2pix": [0.0] * N,
            "copy_input": [0.0] * N,
            "oracle": [1.0] * N,
        },
        "leak_lpips": {
            "sd_inpainting": rising(0.1),
            "instruct_pix2pix": rising(0.5),
            "copy_input": [0.0] * N,
            "oracle": rising(0.0),
        },
    }
    store = fake.run(tmp_path / "r", values, failed=[("instruct_pix2pix", "background-1")])
    return summary(load(store), fake.METRICS, resamples=200)


def pick(frame: pd.DataFrame, method: str, metric: str, category: str = ALL) -> pd.Series:
    rows = frame[(frame["method"] == method) & (frame["metric"] == metric) & (frame["category"] == category)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_columns_are_those_that_others_read(frame: pd.DataFrame) -> None:
    assert ",".join(frame.columns) == "protocol,category,method,metric,value,low,high,n,failed"
    assert set(frame["category"]) == {"all", "attribute", "replacement", "background", "multi_object"}
    assert set(frame["protocol"]) == {"mini-coco"}


def test_means_are_over_the_edits_of_the_category(frame: pd.DataFrame) -> None:
    assert pick(frame, "sd_inpainting", "leak_lpips")["value"] == pytest.approx(0.1 + 0.01 * 7.5)
    assert pick(frame, "sd_inpainting", "leak_lpips", "replacement")["value"] == pytest.approx(0.155)
    assert pick(frame, "sd_inpainting", "success_truth", "attribute")["value"] == 1
    assert pick(frame, "sd_inpainting", "success_truth")["value"] == 0.5


def test_a_failed_edit_is_counted_and_not_scored(frame: pd.DataFrame) -> None:
    every = pick(frame, "instruct_pix2pix", "leak_lpips")
    assert (every["n"], every["failed"]) == (N - 1, 1)
    expected = [0.5 + 0.01 * k for k, case in enumerate(fake.cases()) if case.id != "background-1"]
    assert every["value"] == pytest.approx(np.mean(expected))
    assert pick(frame, "instruct_pix2pix", "leak_lpips", "background")["failed"] == 1
    assert pick(frame, "instruct_pix2pix", "leak_lpips", "attribute")["failed"] == 0


def test_intervals_are_those_of_the_bootstrap_over_sources(frame: pd.DataFrame) -> None:
    row = pick(frame, "sd_inpainting", "leak_lpips")
    clusters = [case.source_id for case in fake.cases()]
    expected = one_column.mean([0.1 + 0.01 * k for k in range(N)], clusters, draws=200)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), rel=1e-12)
    by_case = one_column.mean([0.1 + 0.01 * k for k in range(N)], draws=200)
    assert by_case.low is not None
    assert abs(row["low"] - by_case.low) > 1e-4


def test_a_constant_has_the_interval_of_its_value(frame: pd.DataFrame) -> None:
    row = pick(frame, "copy_input", "leak_lpips")
    assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


def test_values_that_are_none_lower_n_and_nothing_else(tmp_path: Path) -> None:
    values: dict[str, dict[str, list[float | None]]] = {
        "leak_lpips": {"sd_inpainting": [None, *[0.25] * (N - 1)], "oracle": [None] * N}
    }
    frame = summary(load(fake.run(tmp_path / "r", values)), fake.METRICS)
    row = pick(frame, "sd_inpainting", "leak_lpips")
    assert (row["value"], row["n"], row["failed"]) == (0.25, N - 1, 0)
    nothing = pick(frame, "oracle", "leak_lpips")
    assert np.isnan(nothing["value"])
    assert (nothing["n"], nothing["failed"]) == (0, 0)


def test_set_scores_keep_their_own_interval(tmp_path: Path) -> None:
    sets = {"sd_inpainting": (12.5, 11.0, 14.0), "oracle": (1.0, None, None)}
    frame = summary(load(fake.run(tmp_path / "r", {}, sets=sets)), fake.METRICS)
    row = pick(frame, "sd_inpainting", "fid")
    assert (row["value"], row["low"], row["high"], row["n"]) == (12.5, 11.0, 14.0, N)
    assert np.isnan(pick(frame, "oracle", "fid")["low"])


def test_a_share_is_what_the_metric_declares_and_not_what_its_values_look_like(tmp_path: Path) -> None:
    """LPIPS of 0 and 1 is a mean; a plug-in's 0/1 is a share, on the pasted edit too."""
    values = {
        name: {"oracle": [0.0] * N, "copy_input": [1.0] * N}
        for name in ("leak_lpips", "my_outcome", "my_outcome_pasted")
    }
    facts = {**fake.METRICS, "my_outcome": fake.info("0/1", True)}
    frame = summary(load(fake.run(tmp_path / "r", values)), facts)
    assert pick(frame, "oracle", "leak_lpips")["high"] == 0
    clusters = [case.source_id for case in fake.cases()]
    for metric in ("my_outcome", "my_outcome_pasted"):
        assert pick(frame, "oracle", metric)["high"] == pytest.approx(share([0.0] * N, clusters).high)
    # Shown in per cent, but a mean all the same.
    part = summary(load(fake.run(tmp_path / "s", values)), {**facts, "my_outcome": fake.info("share", True)})
    assert pick(part, "oracle", "my_outcome")["high"] == 0


@pytest.mark.parametrize(
    ("unit", "values", "ends"),
    [
        ("share", [1.0] * 14 + [0.0] * 2, (0, 1)),
        ("-1..1", [-1.0] * 15 + [1.0], (-1, 1)),
        ("0..1", [0.5, 1.0] * 8, (0, 1)),
    ],
)
def test_an_interval_does_not_leave_the_range_that_the_unit_states(
    tmp_path: Path, unit: str, values: list[float | None], ends: tuple[float, float]
) -> None:
    store = fake.run(tmp_path / "r", {"my_score": {"oracle": values}})
    # Categories have too few sources for an interval.
    free, cut = (
        summary(load(store), {**fake.METRICS, "my_score": fake.info(of_metric, True)}).dropna(subset="low")
        for of_metric in ("logit", unit)
    )
    assert set(cut["category"]) == {"all"}
    # Without a range, some interval leaves this one. With it, none does, and the others are the same.
    for side in ("low", "high"):
        assert cut[side].tolist() == free[side].clip(*ends).tolist()
    assert unit == "0..1" or not free["low"].ge(ends[0]).all() or not free["high"].le(ends[1]).all()

"""Tables of runs whose every number is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.edit import MethodSpec
from bench.metrics.drift import DriftZoom
from bench.metrics.types import MetricInfo
from bench.stats import share
from bench.store import RunStore
from bench.tables.numbers import number
from bench.tables.style import Style
from bench.tables.table import Cell, Column, Row, Table
from reports import build
from reports.data.metrics import heading
from reports.data.report_data import ReportData, ReportError
from reports.data.scores import control_titles, load, method_titles
from reports.data.summary import summary
from reports.tables import tabulate
from reports.tables.standard import short_table, standard_tables
from tests.reports import fake
from tests.reports.data.test_summary import N, frame

__all__ = ["frame"]


def tables_of(store: RunStore, metrics: Mapping[str, MetricInfo] = fake.METRICS) -> list[Table]:
    scores = load(store)
    return standard_tables(ReportData(summary(scores, metrics), metrics, scores.controls))


@pytest.mark.parametrize(
    ("values", "ends", "unit", "decimals"),
    [
        ([0.0, 0.0], [0.0, 0.203883], "0/1", 1),
        ([0.5, 0.015], [], "0/1", 1),
        ([0.015], [], "0/1", 2),
        ([0.008, 0.001], [], "0..1", 4),
        ([0.2, 1.1e-5], [], "0..1", 3),
        # Each value has digits of its own.
        ([4.0e-5, 1.1e-5], [], "0..1", 0),
        ([31.0], [], "dB", 1),
        ([0.0], [], "0..1", 3),
    ],
)
def test_a_column_has_about_four_digits(
    values: list[float], ends: list[float], unit: str, decimals: int
) -> None:
    low, high = (ends or [None, None])[:2]
    records = [{"value": value, "low": low, "high": high} for value in values]
    data = ReportData(pd.DataFrame(), {"m": fake.info(unit, True)})
    assert tabulate._column(tabulate.Pick("m", "m"), data, records).decimals == decimals


def test_a_value_in_per_cent_is_not_multiplied_again() -> None:
    infos = {
        "drift_zoom": MetricInfo("", "1", DriftZoom.unit, None, ""),
        "leak_area": fake.info("share", False),
    }
    data = ReportData(pd.DataFrame(), infos)
    texts = {}
    for metric in infos:
        value = {"value": 0.025 if metric == "leak_area" else 2.5, "low": None, "high": None}
        column = tabulate._column(tabulate.Pick(heading(metric), metric), data, [value])
        texts[column.title] = number(value["value"], column)
    assert texts == {"drift zoom %": "2.500", "leak area % ↓": "2.50"}


def test_marks_are_explained_one_by_one(frame: pd.DataFrame) -> None:
    """Tables with other marks share the sentences that they have in common."""
    notes = [
        note
        for table in standard_tables(ReportData(frame, fake.METRICS, ("copy_input", "oracle")))
        for note in table.notes
    ]
    assert "Bold: the best method of the column." in notes
    assert len({note for note in notes if "Bold" in note}) == 1


def test_two_presets_of_one_method_are_told_apart(tmp_path: Path) -> None:
    methods = (
        MethodSpec("jpeg", {"quality": 10}, is_control=True),
        MethodSpec("jpeg", {"quality": 90}, is_control=True),
    )
    store = fake.run(tmp_path / "r", {"leak_lpips": {"jpeg": [0.1] * N}}, methods=methods)
    titles = list(method_titles(store).values())
    assert len(set(titles)) == 2
    assert all(title.startswith("jpeg (") for title in titles)
    assert control_titles(store) == frozenset(titles)


def test_a_labelled_control_stays_a_control(tmp_path: Path) -> None:
    methods = (MethodSpec("copy_input", {}, "nothing done", is_control=True), MethodSpec("sd_inpainting", {}))
    values = {"leak_lpips": {"copy_input": [0.0] * N, "sd_inpainting": [0.5] * N}}
    tables = tables_of(fake.run(tmp_path / "r", values, methods=methods))
    assert [(row.label, row.control) for row in tables[0].rows] == [
        ("sd_inpainting", False),
        ("nothing done", True),
    ]


def test_main_and_success_tables(frame: pd.DataFrame) -> None:
    main, success, *_ = standard_tables(ReportData(frame, fake.METRICS, ("copy_input", "oracle")))
    assert [column.title for column in main.columns] == ["success (truth) % ↑", "leak LPIPS ↓"]
    assert [row.label for row in main.rows] == [
        "sd_inpainting", "instruct_pix2pix", "copy_input", "oracle",
    ]  # fmt: skip
    assert [row.failed for row in main.rows] == [0, 1, 0, 0]
    assert [column.heading for column in success.columns] == [
        "attribute", "replacement", "background", "multi-object", "all",
    ]  # fmt: skip
    # Four edits of two source images, all successes: a share's interval, though no value differs.
    low = share([1.0] * 4, ["s0-0", "s0-0", "s0-1", "s0-1"]).low
    assert success.rows[0].cells[0] == Cell(1.0, low, 1.0, 4, best=True)


def test_a_metric_without_direction_has_no_arrow_and_no_best(tmp_path: Path) -> None:
    values = {"leak_lpips": {m: [x] * N for m, x in (("sd_inpainting", 0.1), ("instruct_pix2pix", 0.2))}}
    metrics = {"leak_lpips": fake.info("LPIPS", None)}
    main, *_ = tables_of(fake.run(tmp_path / "r", values), metrics)
    assert [column.title for column in main.columns] == ["leak LPIPS"]
    assert not any(cell.best or cell.second or cell.tie for row in main.rows for cell in row.cells)


def test_a_plug_ins_metric_joins_the_main_table(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}, "my_score": {"oracle": [3.0] * N}}
    main, *_ = tables_of(fake.run(tmp_path / "r", values))
    assert [column.metric for column in main.columns] == ["leak_lpips", "my_score"]


def test_pasted_scores_have_a_table_of_their_own(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}, "clip_target_pasted": {"oracle": [3.0] * N}}
    tables = tables_of(fake.run(tmp_path / "r", values))
    by_name = {table.name: table for table in tables}
    assert [column.metric for column in by_name["main-mini-coco"].columns] == ["leak_lpips"]
    column = by_name["pasted-mini-coco"].columns[0]
    assert (column.metric, column.higher_is_better) == ("clip_target_pasted", True)


def test_a_run_without_scores_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="score RUN"):
        build.compute(fake.run(tmp_path / "r", {}), fake.METRICS)


def test_small_sets_are_remarked_on(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}}
    store = fake.run(tmp_path / "r", values, sets={"oracle": (1.0, None, None)})
    main, *_ = tables_of(store)
    assert any(f"from {N} images" in note for note in main.notes)
    assert tabulate.SET_INTERVAL_NOTE not in main.interval_notes, "no interval of a set is shown"


def test_sets_without_a_value_are_not_remarked_on(tmp_path: Path) -> None:
    """As of published benchmarks, which have no real images to compare with."""
    values = {"leak_lpips": {"oracle": [0.0] * N}}
    store = fake.run(tmp_path / "r", values, sets={"oracle": (math.nan, None, None)})
    main, *_ = tables_of(store)
    assert [cell.value for row in main.rows for cell in row.cells] == [0.0, None]
    assert not any("Fréchet" in note for note in main.notes)


def test_intervals_of_sets_are_said_to_be_the_jackknifes(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", {"leak_lpips": {"oracle": [0.0] * N}}, sets={"oracle": (1.0, 0.0, 2.5)})
    main, *_ = tables_of(store)
    assert tabulate.SET_INTERVAL_NOTE in main.interval_notes
    for intervals, said in (("brackets", True), ("none", False)):
        report = build.compute(store, fake.METRICS, style=Style(intervals=intervals), resamples=200)
        notes = [note for table in report.tables for note in table.interval_notes]
        assert (tabulate.SET_INTERVAL_NOTE in notes) == said


def test_distances_to_the_reference_have_a_table_that_says_how_to_read_them(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}, "truth_rmse": {"oracle": [0.0] * N}}
    tables_ = tables_of(fake.run(tmp_path / "r", values))
    by_name = {table.name: table for table in tables_}
    assert [column.metric for column in by_name["main-mini-coco"].columns] == ["leak_lpips"]
    reference = by_name["reference-mini-coco"]
    assert [column.metric for column in reference.columns] == ["truth_rmse"]
    assert any("several answers can be right" in note for note in reference.notes)


def test_the_short_table_has_success_per_protocol_and_the_last_ones_leakage() -> None:
    def main(protocol: str, success: float, area: float) -> Table:
        columns = (
            Column("leak area", "leak_area", percent=True, decimals=2),
            Column("success", "success_truth", percent=True, decimals=1),
        )
        rows = tuple(
            Row(name, name == "oracle", (Cell(area), Cell(value, best=value == success)), n=4, failed=0)
            for name, value in (("a", success), ("b", 0.25), ("oracle", 1.0))
        )
        return Table(f"main-{protocol}", f"{protocol}: all categories", columns, rows)

    table = short_table([main("portraits", 0.5, 0.1), main("scenes", 0.75, 0.2)])
    assert [column.heading for column in table.columns] == [
        "success, portraits",
        "success, scenes",
        "repainted outside, scenes",
    ]
    assert [row.label for row in table.rows] == ["a", "b"]
    assert [[cell.value for cell in row.cells] for row in table.rows] == [[0.5, 0.75, 0.2], [0.25, 0.25, 0.2]]
    assert [cell.best for cell in table.rows[0].cells] == [True, True, False]


def test_a_protocol_with_categories_of_its_own_has_a_column_for_each(tmp_path: Path) -> None:
    """Success per kind of edit, counted by hand, and the ceilings that the protocol declares below it."""
    picked = [
        replace(case, category="swap2" if index < 10 else "perm3") for index, case in enumerate(fake.cases())
    ]
    values = {"success_truth": {"sd_inpainting": [1.0] * 3 + [0.0] * 9 + [1.0] * 4}}
    store = fake.run(tmp_path / "r", values, picked=picked, ceilings={"swap2": 0.5, "perm3": 1 / 6})
    scores = load(store)
    data = ReportData(summary(scores, fake.METRICS), fake.METRICS, scores.controls, ceilings=scores.ceilings)
    [table] = [table for table in standard_tables(data) if table.name == "success-truth-mini-coco"]
    assert [column.heading for column in table.columns] == ["swap2", "perm3", "all"]
    row = next(row for row in table.rows if row.label == "sd_inpainting")
    assert [cell.value for cell in row.cells] == pytest.approx([3 / 10, 4 / 6, 7 / 16])
    assert any("swap2 50.0 %, perm3 16.7 %" in note for note in table.notes)


def test_a_protocol_with_the_papers_categories_has_no_word_of_ceilings(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", {"success_truth": {"sd_inpainting": [1.0] * N}})
    [table] = [table for table in tables_of(store) if table.name == "success-truth-mini-coco"]
    assert [column.heading for column in table.columns] == [
        "attribute", "replacement", "background", "multi-object", "all",
    ]  # fmt: skip
    assert not any("Ceiling" in note for note in table.notes)

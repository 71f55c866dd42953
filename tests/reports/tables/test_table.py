"""Summary and tables on runs whose every number is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.edit import MethodSpec
from bench.stats import share
from reports import build
from reports.tables import style
from reports.tables import table as tables
from reports.tables.table import ALL, Cell
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
    return tables.summary(store, fake.FACTS, resamples=200)


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
    kept = [0.5 + 0.01 * k for k, case in enumerate(fake.cases()) if case.id != "background-1"]
    assert every["value"] == pytest.approx(np.mean(kept))
    assert pick(frame, "instruct_pix2pix", "leak_lpips", "background")["failed"] == 1
    assert pick(frame, "instruct_pix2pix", "leak_lpips", "attribute")["failed"] == 0


def test_intervals_are_those_of_the_bootstrap_over_sources(frame: pd.DataFrame) -> None:
    found = pick(frame, "sd_inpainting", "leak_lpips")
    clusters = [case.source_id for case in fake.cases()]
    expected = one_column.mean([0.1 + 0.01 * k for k in range(N)], clusters, draws=200)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=1e-12)
    by_case = one_column.mean([0.1 + 0.01 * k for k in range(N)], draws=200)
    assert by_case.low is not None
    assert abs(found["low"] - by_case.low) > 1e-4


def test_a_constant_has_the_interval_of_its_value(frame: pd.DataFrame) -> None:
    found = pick(frame, "copy_input", "leak_lpips")
    assert (found["value"], found["low"], found["high"]) == (0, 0, 0)


def test_values_that_are_none_lower_n_and_nothing_else(tmp_path: Path) -> None:
    values: dict[str, dict[str, list[float | None]]] = {
        "leak_lpips": {"sd_inpainting": [None, *[0.25] * (N - 1)], "oracle": [None] * N}
    }
    frame = tables.summary(fake.run(tmp_path / "r", values), fake.FACTS)
    found = pick(frame, "sd_inpainting", "leak_lpips")
    assert (found["value"], found["n"], found["failed"]) == (0.25, N - 1, 0)
    nothing = pick(frame, "oracle", "leak_lpips")
    assert np.isnan(nothing["value"])
    assert (nothing["n"], nothing["failed"]) == (0, 0)


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
    facts = {"m": fake.Facts(unit, True)}
    assert tables._column("m", "m", ALL, facts, records).decimals == decimals


def test_marks_are_explained_one_by_one(frame: pd.DataFrame) -> None:
    """Tables with other marks share the sentences that they have in common."""
    notes = [note for table in tables.build(frame, fake.FACTS) for note in table.notes]
    assert "Bold: the best method of the column." in notes
    assert len({note for note in notes if "Bold" in note}) == 1


def test_set_scores_keep_their_own_interval(tmp_path: Path) -> None:
    frame = tables.summary(
        fake.run(tmp_path / "r", {}, sets={"sd_inpainting": (12.5, 11.0, 14.0), "oracle": (1.0, None, None)}),
        fake.FACTS,
    )
    found = pick(frame, "sd_inpainting", "fid")
    assert (found["value"], found["low"], found["high"], found["n"]) == (12.5, 11.0, 14.0, N)
    assert np.isnan(pick(frame, "oracle", "fid")["low"])


def test_two_presets_of_one_method_are_told_apart(tmp_path: Path) -> None:
    methods = (
        MethodSpec("jpeg", {"quality": 10}, is_control=True),
        MethodSpec("jpeg", {"quality": 90}, is_control=True),
    )
    store = fake.run(tmp_path / "r", {"leak_lpips": {"jpeg": [0.1] * N}}, methods=methods)
    titles = list(tables.method_titles(store).values())
    assert len(set(titles)) == 2
    assert all(title.startswith("jpeg (") for title in titles)
    assert tables.control_titles(store) == frozenset(titles)


def test_a_labelled_control_stays_a_control(tmp_path: Path) -> None:
    methods = (MethodSpec("copy_input", {}, "nothing done", is_control=True), MethodSpec("sd_inpainting", {}))
    values = {"leak_lpips": {"copy_input": [0.0] * N, "sd_inpainting": [0.5] * N}}
    _, made = tables.write_tables(fake.run(tmp_path / "r", values, methods=methods), fake.FACTS)
    assert [(row.method, row.control) for row in made[0].rows] == [
        ("sd_inpainting", False),
        ("nothing done", True),
    ]


# --- marks ---------------------------------------------------------------------------------------------


def marks(cells: list[Cell], controls: list[bool], higher: bool | None) -> list[str]:
    marked = tables.mark(cells, controls, higher)
    return ["best" if cell.best else "tie" if cell.tie else "" for cell in marked]


def cell(value: float | None, half: float | None = None) -> Cell:
    if value is None or half is None:
        return Cell(value)
    return Cell(value, value - half, value + half)


def test_the_best_is_highest_or_lowest_by_the_metric() -> None:
    cells = [cell(0.1, 0.01), cell(0.5, 0.01), cell(0.9, 0.01)]
    assert marks(cells, [False] * 3, True) == ["", "", "best"]
    assert marks(cells, [False] * 3, False) == ["best", "", ""]
    assert marks(cells, [False] * 3, None) == ["", "", ""]


def test_overlapping_intervals_are_ties_with_the_best_only() -> None:
    cells = [cell(0.5, 0.1), cell(0.65, 0.1), cell(0.8, 0.06)]
    assert marks(cells, [False] * 3, True) == ["", "tie", "best"]


def test_intervals_that_touch_overlap() -> None:
    assert marks([Cell(0.4, 0.3, 0.5), Cell(0.6, 0.5, 0.7)], [False] * 2, True) == ["tie", "best"]


def test_controls_are_never_best_nor_ties_whatever_their_value() -> None:
    cells = [cell(0.2, 0.3), cell(0.3, 0.01), cell(0.9, 0.01), cell(0.31, 0.01)]
    assert marks(cells, [False, False, True, True], True) == ["tie", "best", "", ""]


def test_one_method_alone_is_not_best() -> None:
    assert marks([cell(0.2, 0.1), cell(0.9, 0.1)], [False, True], True) == ["", ""]
    assert marks([cell(0.2, 0.1), cell(None)], [False, False], True) == ["", ""]


def test_equal_values_are_both_best() -> None:
    assert marks([cell(0.2), cell(0.2), cell(0.1)], [False] * 3, True) == ["best", "best", ""]


def test_where_all_are_equal_none_is_best() -> None:
    assert marks([cell(0.0), cell(0.0)], [False] * 2, False) == ["", ""]


def test_the_second_is_the_best_but_one_of_the_methods() -> None:
    marked = tables.mark([cell(0.1), cell(0.3), cell(0.2), cell(0.25)], [False, False, False, True], True)
    assert [c.second for c in marked] == [False, False, True, False]
    shared = tables.mark([cell(0.3), cell(0.3), cell(0.2)], [False] * 3, True)
    assert not any(c.second for c in shared)


def test_a_test_replaces_the_overlap() -> None:
    cells = [cell(0.5, 0.2), cell(0.6, 0.2), cell(0.7, 0.2)]
    marked = tables.mark(cells, [False] * 3, True, [0.2, 0.01, None])
    assert [(c.dagger, c.tie) for c in marked] == [(True, False), (False, False), (False, False)]


def test_without_intervals_there_are_no_ties() -> None:
    assert marks([cell(0.2), cell(0.21)], [False] * 2, True) == ["", "best"]


# --- layout --------------------------------------------------------------------------------------------


def test_main_and_success_tables(frame: pd.DataFrame) -> None:
    main, success, *_ = tables.build(frame, fake.FACTS)
    assert [column.title for column in main.columns] == ["success (truth) % ↑", "leak LPIPS ↓"]
    assert [row.method for row in main.rows] == [
        "sd_inpainting", "instruct_pix2pix", "copy_input", "oracle",
    ]  # fmt: skip
    assert [row.failed for row in main.rows] == [0, 1, 0, 0]
    assert [column.heading for column in success.columns] == [
        "attribute", "replacement", "background", "multi-object", "all",
    ]  # fmt: skip
    # Four edits of two source images, all successes: a share's interval, though no value differs.
    low = share([1.0] * 4, ["s0-0", "s0-0", "s0-1", "s0-1"]).low
    assert success.rows[0].cells[0] == Cell(1.0, low, 1.0, 4, best=True)


def test_a_share_is_what_the_metric_declares_and_not_what_its_values_look_like(tmp_path: Path) -> None:
    """LPIPS of 0 and 1 is a mean; a plug-in's 0/1 is a share, on the pasted edit too."""
    values = {
        name: {"oracle": [0.0] * N, "copy_input": [1.0] * N} for name in ("leak_lpips", "mine", "mine_pasted")
    }
    facts = {**fake.FACTS, "mine": fake.Facts("0/1", True)}
    frame = tables.summary(fake.run(tmp_path / "r", values), facts)
    assert pick(frame, "oracle", "leak_lpips")["high"] == 0
    clusters = [case.source_id for case in fake.cases()]
    for metric in ("mine", "mine_pasted"):
        assert pick(frame, "oracle", metric)["high"] == pytest.approx(share([0.0] * N, clusters).high)
    # Shown in per cent, but a mean all the same.
    part = tables.summary(fake.run(tmp_path / "s", values), {**facts, "mine": fake.Facts("share", True)})
    assert pick(part, "oracle", "mine")["high"] == 0


def test_a_metric_without_direction_has_no_arrow_and_no_best(tmp_path: Path) -> None:
    values = {"leak_lpips": {m: [x] * N for m, x in (("sd_inpainting", 0.1), ("instruct_pix2pix", 0.2))}}
    facts = {"leak_lpips": fake.Facts("LPIPS", None)}
    main, *_ = tables.build(tables.summary(fake.run(tmp_path / "r", values), facts), facts)
    assert [column.title for column in main.columns] == ["leak LPIPS"]
    assert not any(cell.best or cell.second or cell.tie for row in main.rows for cell in row.cells)


def test_a_plug_ins_metric_joins_the_main_table(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}, "my_score": {"oracle": [3.0] * N}}
    main, *_ = tables.build(tables.summary(fake.run(tmp_path / "r", values), fake.FACTS), fake.FACTS)
    assert [column.metric for column in main.columns] == ["leak_lpips", "my_score"]


def test_pasted_scores_have_a_table_of_their_own(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}, "clip_target_pasted": {"oracle": [3.0] * N}}
    made = tables.build(tables.summary(fake.run(tmp_path / "r", values), fake.FACTS), fake.FACTS)
    by_name = {table.name: table for table in made}
    assert [column.metric for column in by_name["main-mini-coco"].columns] == ["leak_lpips"]
    column = by_name["pasted-mini-coco"].columns[0]
    assert (column.metric, column.higher_is_better) == ("clip_target_pasted", True)


def test_a_run_without_scores_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(tables.ReportError, match="score RUN"):
        tables.write_tables(fake.run(tmp_path / "r", {}), fake.FACTS)


def test_small_sets_are_remarked_on(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}}
    store = fake.run(tmp_path / "r", values, sets={"oracle": (1.0, None, None)})
    main, *_ = tables.build(tables.summary(store, fake.FACTS), fake.FACTS)
    assert any(f"from {N} images" in note for note in main.notes)
    assert tables.SET_INTERVAL_NOTE not in main.interval_notes, "no interval of a set is shown"


def test_intervals_of_sets_are_said_to_be_the_jackknifes(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "r", {"leak_lpips": {"oracle": [0.0] * N}}, sets={"oracle": (1.0, 0.0, 2.5)})
    main, *_ = tables.build(tables.summary(store, fake.FACTS), fake.FACTS)
    assert tables.SET_INTERVAL_NOTE in main.interval_notes
    for intervals, said in (("brackets", True), ("none", False)):
        made = build.make(store, fake.FACTS, style=style.parse(f"intervals={intervals}"), resamples=200)
        notes = [note for table in made.tables for note in table.interval_notes]
        assert (tables.SET_INTERVAL_NOTE in notes) == said


def test_distances_to_the_reference_have_a_table_that_says_how_to_read_them(tmp_path: Path) -> None:
    values = {"leak_lpips": {"oracle": [0.0] * N}, "truth_rmse": {"oracle": [0.0] * N}}
    tables_ = tables.build(tables.summary(fake.run(tmp_path / "r", values), fake.FACTS), fake.FACTS)
    by_name = {table.name: table for table in tables_}
    assert [column.metric for column in by_name["main-mini-coco"].columns] == ["leak_lpips"]
    reference = by_name["reference-mini-coco"]
    assert [column.metric for column in reference.columns] == ["truth_rmse"]
    assert any("several answers can be right" in note for note in reference.notes)

"""Charts: what is drawn is what was measured, at the paper's size, the same bytes each time."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.edit import MethodSpec
from bench.metrics.options import SuccessRule
from bench.store import RunStore
from reports.data import scores
from reports.data.summary import SUMMARY_COLUMNS, summary
from reports.figures import chart_parts, charts, pictures, sensitivity, style
from reports.figures.style import drawing
from tests.reports import fake

N = len(fake.cases())
A, B = "sd_inpainting", "instruct_pix2pix"
METHODS = (*fake.METHODS, MethodSpec("jpeg", {}, is_control=True))


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    generator = np.random.default_rng(0)

    def rows(scale: float = 1.0) -> dict[str, list[float | None]]:
        return {spec.name: (scale * generator.random(N)).tolist() for spec in METHODS}

    # Random scores for every metric that a chart needs.
    def verdicts() -> dict[str, list[float | None]]:
        return {spec.name: (generator.random(N) < 0.6).astype(float).tolist() for spec in METHODS}

    values = {
        "success_truth": verdicts(),
        "judge_truth": verdicts(),
        "edit_area": rows(0.4),
        "leak_lpips": rows(0.2),
        "leak_area": rows(0.2),
        "leak_psnr": rows(60.0),
        "clip_region": rows(),
        **{metric: rows(0.2) for metric, _ in charts.DISTANCES},
    }
    for metric in ("leak_lpips", "leak_area", "leak_psnr"):
        values[metric][A][3] = None  # a case without an outside
    return fake.run(tmp_path / "r", values, methods=METHODS, failed=[(B, "background-1")])


def loaded(store: RunStore) -> tuple[object, scores.RunScores, dict[str, style.Look]]:
    run = scores.load(store)
    frame = summary(run, fake.METRICS)
    return frame, run, style.looks([t for t in run.titles.values() if t not in run.controls])


def test_every_chart_has_the_width_of_its_column(store: RunStore) -> None:
    frame, run, looks = loaded(store)
    drawings = [
        charts.leakage_by_distance(frame, run, looks),  # type: ignore[arg-type]
        charts.success_by_category(frame, run, looks),  # type: ignore[arg-type]
        charts.trade_off(frame, run, looks),  # type: ignore[arg-type]
        sensitivity.success_sensitivity(run, looks),
    ]
    assert [chart.get_figwidth() for chart in drawings if chart is not None] == [3.25] * 4


def test_bars_are_the_summarys_values(store: RunStore) -> None:
    frame, run, looks = loaded(store)
    chart = charts.success_by_category(frame, run, looks)  # type: ignore[arg-type]
    assert chart is not None
    # Bars are drawn method by method, category by category.
    heights = [patch.get_height() for patch in chart.axes[0].patches]
    expected = [
        100 * row["value"]
        for method in (A, B)
        for category in (*charts.CATEGORIES, "all")
        for row in [chart_parts.rows_of(frame)["mini-coco", method, "success_truth", category]]  # type: ignore[arg-type]
    ]
    assert heights == pytest.approx(expected)


def test_the_floor_is_the_gentlest_round_trip_and_no_method(store: RunStore) -> None:
    frame, run, _ = loaded(store)
    rows = chart_parts.rows_of(frame)  # type: ignore[arg-type]
    floor = chart_parts.noise_floor(rows, run, "mini-coco", "leak_lpips")
    assert floor == rows["mini-coco", "jpeg", "leak_lpips", "all"]["value"]


def test_charts_without_their_data_are_left_out(tmp_path: Path) -> None:
    store = fake.run(tmp_path / "bare", {"my": {A: [0.0] * N}})
    frame, run, looks = loaded(store)
    assert charts.leakage_by_distance(frame, run, looks) is None  # type: ignore[arg-type]
    assert charts.success_by_category(frame, run, looks) is None  # type: ignore[arg-type]
    assert charts.trade_off(frame, run, looks) is None  # type: ignore[arg-type]
    assert sensitivity.success_sensitivity(run, looks) is None


def test_sensitivity_is_the_rules_own(store: RunStore) -> None:
    of = scores.load(store).protocols["mini-coco"]
    bounds = {
        "min_edit_area": (0.0, 0.1, 0.2, 0.3),
        "max_leak_area": (0.0, 0.05, 0.1, 1.0),
        "min_leak_psnr": (0.0, 22.0, 50.0),
    }
    for m in of.contenders:
        parts = []
        for unit in range(len(of.cases)):
            judged, area, leak, ratio = (
                of.metric(k)[unit, m] for k in ("judge_truth", "edit_area", "leak_area", "leak_psnr")
            )
            if not np.isnan(judged) and not np.isnan(area):
                outside = not np.isnan(leak)
                parts.append((judged > 0.5, area, leak if outside else None, ratio if outside else None))
        at = {bound: np.array(values) for bound, values in bounds.items()}
        curves = sensitivity.sensitivity(of, int(m), "truth", SuccessRule(), at)
        assert [curve.n for curve in curves] == [len(parts)] * 3
        for curve, (bound, values) in zip(curves, bounds.items(), strict=True):
            rules = [replace(SuccessRule(), **{bound: value}) for value in values]
            expected = [np.mean([rule.holds(*part) for part in parts]) for rule in rules]
            assert (curve.bound, tuple(curve.success)) == (bound, pytest.approx(expected))


def test_files_are_vector_and_raster_and_the_same_each_time(store: RunStore) -> None:
    frame, run, looks = loaded(store)
    # The chart is drawn twice from the same scores.
    bytes_of = []
    for _ in range(2):
        chart = charts.trade_off(frame, run, looks)  # type: ignore[arg-type]
        assert chart is not None
        pdf, png = style.save(store, "x", chart)
        bytes_of.append((pdf.read_bytes(), png.read_bytes()))
    store.close()
    assert bytes_of[0] == bytes_of[1]
    assert pdf.read_bytes().startswith(b"%PDF")
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", bytes_of[0][0])
    assert box is not None
    assert float(box[1]) == pytest.approx(3.25 * 72)
    with Image.open(png) as image:
        assert image.width == 3.25 * 300


def test_colours_are_told_apart_by_all_eyes() -> None:
    """Machado et al. 2009, severity 1: after each kind of colour blindness all colours keep a distance."""
    kinds = {
        "protan": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deutan": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    }
    colors = [look.color for look in style.looks([f"m{i}" for i in range(16)]).values()]
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in kinds.values():
        simulated = np.clip(linear @ np.array(matrix).T, 0, 1)
        # Oklab (Ottosson 2020): equal distances look equally far apart.
        cones = simulated @ np.array(
            [
                [0.4122214708, 0.2119034982, 0.0883024619],
                [0.5363325363, 0.6806995451, 0.2817188376],
                [0.0514459929, 0.1073969566, 0.6299787005],
            ]
        )
        lab = np.cbrt(cones) @ np.array(
            [
                [0.2104542553, 1.9779984951, 0.0259040371],
                [0.7936177850, -2.4285922050, 0.7827717662],
                [-0.0040720468, 0.4505937099, -0.8086757660],
            ]
        )
        apart = np.linalg.norm(lab[:, None] - lab, axis=2)
        assert apart[np.triu_indices(16, 1)].min() > 0.05
        assert apart[:8, :8][np.triu_indices(8, 1)].min() > 0.07
    # Dark error bars stand out from every colour: contrast as WCAG has it.
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    assert ((luminance + 0.05) / 0.061).min() > 1.9


def test_no_method_shares_its_colour_or_its_marker() -> None:
    looks = style.looks([f"m{i}" for i in range(120)])
    assert len({look.color for look in looks.values()}) == 120
    assert len({(look.marker, look.hollow) for look in list(looks.values())[:24]}) == 24
    # More methods after it leave a method's look as it was.
    assert style.looks(list(looks)[:5]) == {name: looks[name] for name in list(looks)[:5]}


def test_markers_at_zero_leakage_are_whole(tmp_path: Path) -> None:
    values = {
        "leak_lpips": {A: [0.0] * N, B: [0.2] * N, "oracle": [0.0] * N},
        "clip_region": {A: [0.5] * N, B: [0.4] * N, "oracle": [0.9] * N},
        **{metric: {A: [0.0] * N, B: [0.2] * N} for metric, _ in charts.DISTANCES},
    }
    frame, run, looks = loaded(fake.run(tmp_path / "r", values))
    chart = charts.trade_off(frame, run, looks)  # type: ignore[arg-type]
    assert chart is not None
    with style.drawing():
        chart.draw_without_rendering()
    axis = chart.axes[0]
    # Room between the axis and the point at 0, against half of the marker.
    room = axis.transData.transform((0, 0))[0] - axis.get_window_extent().x0
    assert room * 72 / chart.dpi > looks[A].mark()["markersize"] / 2
    by_distance = charts.leakage_by_distance(frame, run, looks)  # type: ignore[arg-type]
    assert by_distance is not None
    assert not any(line.get_clip_on() for line in by_distance.axes[0].lines if line.get_marker() == "o")


def test_error_bars_have_a_light_rim(store: RunStore) -> None:
    frame, run, looks = loaded(store)
    chart = charts.success_by_category(frame, run, looks)  # type: ignore[arg-type]
    assert chart is not None
    bars = chart.axes[0].collections
    assert len(bars) == 2 * 5
    assert all(bar.get_path_effects() for bar in bars)


def votes(metric: str, values: dict[str, float]) -> pd.DataFrame:
    rows = [("mini-coco", "all", name, metric, v, v - 0.1, v + 0.1, 40, 0) for name, v in values.items()]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def test_bars_of_votes_are_the_studys_shares(store: RunStore) -> None:
    _, run, looks = loaded(store)
    assert charts.preference(votes("leak_lpips", {A: 0.2}), run, looks) is None
    chart = charts.preference(votes("preference", {"oracle": 0.8, A: 0.7, B: 0.25}), run, looks)
    assert chart is not None
    axis = chart.axes[0]
    assert [patch.get_width() for patch in axis.patches] == pytest.approx([70, 25, 80])
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        "sd inpainting",
        "instruct pix2pix",
        "oracle",
    ]
    assert "simulated" not in str(chart.get_supxlabel())
    assert len({patch.get_facecolor() for patch in axis.patches}) == 3
    simulated = charts.preference(votes("simulated_preference", {A: 0.7}), run, looks)
    assert simulated is not None
    assert str(simulated.get_supxlabel()).startswith("simulated raters")


def test_no_method_is_dropped_from_the_pictures(tmp_path: Path) -> None:
    methods = (*(MethodSpec("lama", {"pad": k}) for k in range(9)), MethodSpec("oracle", {}, is_control=True))
    run = scores.load(fake.run(tmp_path / "r", {}, methods=methods))
    pieces = pictures.parts(run)
    assert [len(piece) for piece in pieces] == [5, 5]
    assert sorted(title for piece in pieces for title in piece) == sorted(run.titles.values())
    assert pieces[-1][-1] == "oracle"


def test_each_edit_is_marked_by_its_verdict(tmp_path: Path) -> None:
    yes_then_none: list[float | None] = [1.0, None, *([0.0] * (N - 2))]
    store = fake.run(tmp_path / "r", {"success_truth": {A: yes_then_none, B: [0.0] * N}})
    sheet = pictures.side_by_side(
        store,
        scores.load(store),
        "mini-coco",
        cases=["attribute-0", "attribute-1"],
        methods=[A, B],
        part="1 of 2",
    )
    assert sheet is not None
    signs = {"\u2713", "\u2717"}
    texts = [text.get_text() for text in sheet.axes[0].texts]
    assert [text for text in texts if text in signs] == ["\u2713", "\u2717", "\u2717"]
    assert "source:  a attribute case" in texts
    assert texts[3] == "mini-coco; chosen by hand; \u2713 \u2717: success (truth); part 1 of 2"


def test_a_leak_map_is_the_largest_channels_change_and_blank_inside() -> None:
    case = fake.cases()[0]
    pixels = np.asarray(case.request.source).copy()
    pixels[0, 0] = pixels[0, 0] + np.array([51, 0, 10], np.uint8)
    change = pictures.leak_map(case, Image.fromarray(pixels))
    inside = np.asarray(case.request.mask) > 0
    assert np.isnan(change[inside]).all()
    assert change[0, 0] == pytest.approx(0.2)
    assert np.nansum(change) == pytest.approx(0.2)


def test_a_picture_that_is_not_square_is_not_stretched_in_a_sheet(store: RunStore) -> None:
    with drawing():
        sheet = pictures._Sheet(["source, mask", "m"], 1, "foot", scores.load(store))
        sheet.image(0, 0, np.zeros((32, 48, 3), np.uint8))
        sheet.image(0, 1, np.zeros((48, 48, 3), np.uint8))
    wide, square = (image.get_extent() for image in sheet.axes.images)
    left, right, bottom, top = wide
    assert right - left == pytest.approx(sheet.panel)
    assert top - bottom == pytest.approx(sheet.panel * 32 / 48)
    # Both stand in the middle of their panels.
    assert bottom + top == pytest.approx(square[2] + square[3])


def test_pictures_say_how_their_cases_were_chosen(store: RunStore) -> None:
    run = scores.load(store)
    for rule, words in (("worst", "lowest mean success"), ("random", "at random")):
        sheet = pictures.side_by_side(store, run, "mini-coco", rule)  # type: ignore[arg-type]
        assert sheet is not None
        assert any(words in text.get_text() for text in sheet.axes[0].texts)
    by_hand = pictures.side_by_side(store, run, "mini-coco", cases=["attribute-1"])
    assert by_hand is not None
    texts = [text.get_text() for text in by_hand.axes[0].texts]
    assert any("chosen by hand" in text for text in texts)
    assert any("attribute case & 100 %" in text for text in texts)
    heat = pictures.heat_maps(store, run, "mini-coco")
    assert heat is not None
    assert heat.get_figwidth() == 6.875
    # Source and five methods, four rows; one edit failed and has no picture.
    assert len(heat.axes[0].images) in (23, 24)


def test_legends_and_headings_say_what_was_not_trained_enough(store: RunStore) -> None:
    frame, run, looks = loaded(store)
    remarked = replace(run, remarks={A: "under-trained"})
    for chart in (
        charts.leakage_by_distance(frame, remarked, looks),  # type: ignore[arg-type]
        charts.success_by_category(frame, remarked, looks),  # type: ignore[arg-type]
        charts.trade_off(frame, remarked, looks),  # type: ignore[arg-type]
        sensitivity.success_sensitivity(remarked, looks),
    ):
        assert chart is not None
        names = [text.get_text() for text in chart.legends[0].get_texts()]
        assert "sd inpainting, under-trained" in names
        assert "instruct pix2pix" in names


def test_a_methods_remark_is_read_from_the_run(tmp_path: Path) -> None:
    methods = (MethodSpec(A, {}, remark="under-trained"), MethodSpec(B, {}))
    run = fake.run(tmp_path / "r", {"leak_lpips": {A: [0.1] * N, B: [0.1] * N}}, methods=methods)
    assert scores.load(run).remarks == {A: "under-trained"}

"""The grid: which cases, in which order, and that pixels land where they must."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.edit import CATEGORIES
from bench.store import RunStore
from reports.figures import grid as figures
from reports.figures.grid import GAP, MARGIN, PANEL
from tests.reports import fake


def test_the_first_of_each_category_by_hash_of_the_id() -> None:
    cases = [(f"{category}-{i}", category) for i in range(20) for category in reversed(CATEGORIES)]
    picked = figures.chosen(cases)
    assert [dict(cases)[case] for case in picked] == list(CATEGORIES)
    for case in picked:
        digest = hashlib.sha256(case.encode()).hexdigest()
        rivals = [c for c, category in cases if category == dict(cases)[case]]
        assert all(digest <= hashlib.sha256(rival.encode()).hexdigest() for rival in rivals)


def test_the_choice_does_not_depend_on_order_nor_on_what_is_added_elsewhere() -> None:
    cases = [(f"c-{i}", "attribute") for i in range(9)]
    more = [*reversed(cases), *((f"b-{i}", "background") for i in range(5))]
    assert figures.chosen(more)[:1] == figures.chosen(cases)


def test_the_outline_lies_on_the_border_and_the_rest_is_the_source() -> None:
    case = fake.cases()[0]
    image = np.asarray(figures.outlined(case, 192))
    plain = np.asarray(case.request.source.resize((192, 192), Image.Resampling.NEAREST))
    mask = np.asarray(case.request.mask.resize((192, 192), Image.Resampling.NEAREST)) > 0
    # Painted pixels lie within a few pixels of the mask's border.
    changed = (image != plain).any(axis=2)
    assert changed.any()
    # Nothing deep inside and nothing far outside is painted over.
    from scipy.ndimage import distance_transform_edt

    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    assert not changed[inside > 4].any()
    assert not changed[outside > 2].any()


def test_without_a_mask_the_source_has_no_outline_and_the_mask_s_panel_says_so() -> None:
    case = fake.cases()[0]
    bare = dataclasses.replace(case, request=dataclasses.replace(case.request, mask=None))
    assert figures.outlined(bare, 192).tobytes() == figures.enlarged(case.request.source, 192).tobytes()
    assert figures._mask_panel(bare).tobytes() == figures._blank_panel("no mask", PANEL).tobytes()


def test_an_outline_that_meets_the_rim_is_closed_there() -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 16, 32, 48))
    case = fake.cases()[0]
    request = dataclasses.replace(case.request, mask=mask)
    image = np.asarray(figures.outlined(dataclasses.replace(case, request=request), 192))
    pink = np.asarray(Image.new("RGB", (1, 1), figures.OUTLINE))[0, 0]
    assert (image[60:130, 0] == pink).all()
    assert not (image[60:130, 20] == pink).all(axis=1).any()


@pytest.mark.parametrize(("size", "expected"), [((24, 16), (192, 128)), ((300, 400), (144, 192))])
def test_pictures_that_are_not_square_keep_their_shape(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    case = fake.cases()[0]
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    request = dataclasses.replace(case.request, source=Image.new("RGB", size, (9, 80, 7)), mask=mask)
    case = dataclasses.replace(case, request=request)
    panels = (figures.outlined(case), figures._mask_panel(case), figures._edit_panel(request.source))
    assert [panel.size for panel in panels] == [expected] * 3
    # In the middle of a square of the grid, on paper.
    row = figures.GridRow(case, (request.source,))
    drawn = figures.draw([("p", [row])], ["m"])
    pixels = np.asarray(drawn)
    left = MARGIN + 2 * (PANEL + GAP)
    column = pixels[:, left : left + PANEL]
    edit = (column == (9, 80, 7)).all(axis=2)
    rows, columns = np.flatnonzero(edit.any(axis=1)), np.flatnonzero(edit.any(axis=0))
    assert (len(columns), len(rows)) == expected
    assert columns[0] == (PANEL - expected[0]) // 2


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return fake.run(tmp_path / "r", {}, failed=[("oracle", figures.chosen(_rows())[0])])


def _rows() -> list[tuple[str, str]]:
    return [(case.id, case.category) for case in fake.cases()]


def panel(image: np.ndarray, row: int, column: int, tops: list[int]) -> np.ndarray:
    x = MARGIN + column * (PANEL + GAP)
    return image[tops[row] : tops[row] + PANEL, x : x + PANEL]


def test_every_panel_is_where_it_must_be(store: RunStore) -> None:
    path = figures.grid(store)
    assert path == store.report_dir / "figures/grid.png"
    image = np.asarray(Image.open(path).convert("RGB"))
    # source, mask, two methods, two controls
    assert image.shape[1] == 2 * MARGIN + 6 * PANEL + 5 * GAP
    cases = {case.id: case for case in fake.cases()}
    picked = figures.chosen(_rows())
    source = np.asarray(cases[picked[0]].request.source)[0, 0]
    # Rows begin where the frame of the second panel's column does: look for copy_input's exact colours.
    column = MARGIN + 4 * (PANEL + GAP) + PANEL // 2
    tops = []
    for case in picked:
        color = np.asarray(cases[case].request.source)[0, 0]
        rows = np.flatnonzero((image[:, column] == color).all(axis=1))
        assert len(rows) >= PANEL - 2
        tops.append(int(rows[0]))
    assert tops == sorted(tops)
    assert (panel(image, 0, 2, tops)[2:-2, 2:-2] == source // 2).all()
    failed = panel(image, 0, 5, tops)
    assert failed.min() > 90  # the pale panel of a failed edit, not an edit
    assert (panel(image, 1, 5, tops)[2:-2, 2:-2] < 128).all()


def test_marks_of_success_stand_under_the_edits(store: RunStore) -> None:
    title = "sd_inpainting"
    case = figures.chosen(_rows())[1]
    plain = np.asarray(Image.open(figures.grid(store)))
    marked = np.asarray(Image.open(figures.grid(store, succeeded={("mini-coco", title, case): True})))
    # Every row of panels got room for marks; one of the four has one.
    assert marked.shape[0] - plain.shape[0] == 4 * 18
    x = MARGIN + 2 * (PANEL + GAP)
    green = np.asarray(Image.new("RGB", (1, 1), figures.MARKS[True][1]))[0, 0]
    # One mark, in the column of its method.
    places = (marked == green).all(axis=2)
    assert places[:, x : x + PANEL].any()
    assert not places[:, x + PANEL :].any()


def test_the_same_run_gives_the_same_bytes(store: RunStore) -> None:
    first = figures.grid(store).read_bytes()
    assert figures.grid(store).read_bytes() == first


def test_a_run_without_cases_is_refused(tmp_path: Path) -> None:
    empty = RunStore.open(tmp_path / "empty", create=True)
    with pytest.raises(figures.FigureError, match="nothing to draw"):
        figures.grid(empty)


def test_long_prompts_are_wrapped_within_the_picture() -> None:
    lines = figures._wrap("a very long prompt " * 30, figures._font(15), 400)
    assert len(lines) > 3
    assert all(figures._font(15).getlength(line) <= 400 for line in lines)
    assert " ".join(lines) == " ".join(("a very long prompt " * 30).split())

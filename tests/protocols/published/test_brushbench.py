from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import case_row, check_case
from protocols.published.brushbench import BrushBench, decode_mask
from protocols.selection import ProtocolError
from tests.protocols.published.masked_layouts import box_mask, write_brushbench

pytestmark = pytest.mark.filterwarnings("ignore:brushbench. . cases")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brushbench(tmp_path_factory.mktemp("brush"))


def protocol(root: Path, **options: tuple[str, ...]) -> BrushBench:
    return BrushBench(BrushBench.Options(root=str(root), **options))


def test_runs_count_from_one_row_by_row() -> None:
    expected = np.zeros((512, 512), bool)
    expected[0, :3] = True
    assert np.array_equal(decode_mask([1, 3]), expected)
    # The last pixel of the first row, and the first one of the second.
    expected = np.zeros((512, 512), bool)
    expected[0, 511] = expected[1, 0] = True
    assert np.array_equal(decode_mask([512, 2]), expected)
    # No border, unlike in PIE-Bench.
    assert not decode_mask([]).any()


@pytest.mark.parametrize("runs", [[0, 3], [1], [512 * 512 + 1, 1], [1, -1], [1.5, 2]])
def test_other_lists_are_refused(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="start"):
        decode_mask(runs)


def test_each_image_is_a_case_inside_and_a_case_outside(root: Path) -> None:
    cases = list(protocol(root).cases())
    for case in cases:
        check_case(case)
    assert [case.category for case in cases] == ["inside", "inside", "outside", "outside"]
    inside, outside = cases[0], cases[2]
    assert inside.source_id == outside.source_id
    assert inside.request.target_prompt == inside.request.source_prompt == "a thing, number 0"
    expected = box_mask((512, 512), (0, 0, 100, 50))
    assert np.array_equal(np.asarray(inside.request.mask) == 255, expected)
    assert np.array_equal(np.asarray(outside.request.mask) == 255, ~expected)
    assert outside.tags["paper_category"] == "background"
    assert "paper_category" not in inside.tags


def test_one_setting_alone(root: Path) -> None:
    one = protocol(root, settings=("outside",))
    assert {case.category for case in one.cases()} == {"outside"}
    assert BrushBench.publication(one.options).cases == 600
    assert one.digest != protocol(root).digest
    with pytest.raises(ValueError, match="choose from inside, outside"):
        protocol(root, settings=("around",))


def test_edits_are_exported_by_setting_under_the_images_names(root: Path) -> None:
    paths = [next(iter(BrushBench.output_files(case_row(case)))) for case in protocol(root).cases()]
    assert paths == [f"{s}/images/0000000{n}.jpg" for s in ("inside", "outside") for n in (0, 1)]


def test_the_missing_file_is_named_with_source_and_count(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"mapping_file\.json: missing.*1200 cases.*TencentARC/BrushNet"):
        protocol(tmp_path)

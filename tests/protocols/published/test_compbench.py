"""CompBench: masks, ground truth, turns, the layout of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.case_rows import case_row, check_case
from bench.edit import EditCase
from protocols.published.compbench import CompBench
from protocols.selection import ProtocolError
from tests.protocols.published import instruction_layouts as data


def cases(root: Path, split: str = "train") -> Sequence[EditCase]:
    with pytest.warns(match="Do not compare with published tables"):
        return CompBench(CompBench.Options(root=str(root), split=split)).cases()


def test_masks_are_white_where_to_edit_and_the_truth_is_the_edited_image(tmp_path: Path) -> None:
    selected = cases(data.compbench(tmp_path))
    assert [case.id for case in selected] == [
        "add-001ca3cb-0-00003",
        "implicit_reasoning-02b72b8d_2_00016",
        "multi_object_add-02b72b8d_00002",
        "view-00000",
    ]
    expected = data.box_mask((48, 48), data.COMPBENCH_BOX)
    for case in selected:
        check_case(case)
        assert case.truth is not None
        changed = (np.asarray(case.truth) != np.asarray(case.request.source)).any(axis=2)
        assert np.array_equal(changed, np.asarray(expected) > 0)
        if case.category == "view":
            assert case.request.mask is None
        else:
            assert np.array_equal(case.request.mask, expected)
    assert [case.request.region_prompt for case in selected] == [
        "a gray fish",
        "a dog",
        "a cat and a dog",
        "",
    ]


def test_outputs_are_where_the_evaluation_reads_them(tmp_path: Path) -> None:
    root = data.compbench(tmp_path)
    files = [CompBench.output_files(case_row(case)) for case in [*cases(root), *cases(root, "multi_turn")]]
    assert files == [
        {"{method}_local/add/001ca3cb/0/00003.png": "edit"},
        {"{method}_implicit/02b72b8d_2_00016.png": "edit"},
        {"{method}_multi/multi_object_add/02b72b8d_00002.png": "edit"},
        {"view/00000.png": "edit"},
        {"{method}_multi/turn1_add/02b72b8d_00005.png": "edit"},
        {"{method}_multi/turn2_add/02b72b8d_00005.png": "edit"},
    ]


def one_case(root: Path, mask: Image.Image, truth: Image.Image | None = None) -> EditCase:
    source = data.picture(0, (40, 20))
    row = data.COMPBENCH[0] | {"input_image": data.cell(source), "mask": data.cell(mask)}
    return cases(data.parquet_folder(root, "train", [row | {"edited_image": data.cell(truth or source)}]))[0]


def test_a_mask_of_another_size_is_brought_to_the_source(tmp_path: Path) -> None:
    case = one_case(tmp_path, data.box_mask((80, 40), (20, 10, 60, 30)), data.picture(0, (80, 40)))
    assert np.array_equal(case.request.mask, data.box_mask((40, 20), (10, 5, 30, 15)))
    assert case.truth is not None
    assert case.truth.size == (40, 20)


@pytest.mark.parametrize("value", [0, 255])
def test_an_empty_or_full_mask_is_no_mask(tmp_path: Path, value: int) -> None:
    assert one_case(tmp_path, Image.new("L", (40, 20), value)).request.mask is None


def test_a_mask_of_many_grays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"row 0 of train: mask: .*CC BY 4.0"):
        one_case(tmp_path, data.picture(1, (40, 20)).convert("L"))


def test_a_mask_of_another_aspect_ratio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match=r"row 0 of train: mask: is 40x40, another aspect ratio than .*40x20"
    ):
        one_case(tmp_path, data.box_mask((40, 40), (5, 5, 20, 20)))

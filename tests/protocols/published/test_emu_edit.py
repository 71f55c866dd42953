"""Emu Edit's test set: options that must be chosen, equal captions, swapped splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import case_row, check_case
from protocols.published.emu_edit import EmuEdit
from tests.protocols.published import instruction_layouts as data


def options(root: Path, **changes: str) -> EmuEdit.Options:
    return EmuEdit.Options(**{"root": str(root), "split": "test", "equal_captions": "keep", **changes})


def test_captions_are_the_prompts(tmp_path: Path) -> None:
    with pytest.warns(match="4 cases in .* the published benchmark has 3589"):
        cases = EmuEdit(options(data.emu_edit(tmp_path))).cases()
    for case, row in zip(cases, data.EMU_EDIT, strict=True):
        check_case(case)
        request = case.request
        assert (case.id, case.category) == (str(row["idx"]), row["task"])
        assert request.mask is None
        assert request.instruction == f"instruction {row['idx']}"
        assert (request.source_prompt, request.target_prompt) == (row["input_caption"], row["output_caption"])
        assert np.array_equal(request.source, data.picture(row["idx"], (40, 56)))
        assert EmuEdit.output_files(case_row(case)) == {f"{row['idx']}.png": "edit"}
    assert [case.tags.get("paper_category") for case in cases] == ["attribute", None, "background", None]


def test_equal_captions_are_counted_and_kept_or_dropped(tmp_path: Path) -> None:
    root = data.emu_edit(tmp_path)
    with pytest.warns(match="1 of 4 cases have equal captions before and after. They are kept"):
        kept = EmuEdit(options(root)).cases()
    # Spaces around a caption change nothing.
    assert [case.tags["equal_captions"] for case in kept] == ["no", "yes", "no", "no"]
    with pytest.warns(match="They are left out"):
        dropped = EmuEdit(options(root, equal_captions="drop")).cases()
    assert [case.id for case in dropped] == ["11", "15", "40"]


@pytest.mark.parametrize("option", ["split", "equal_captions"])
def test_disputed_options_have_no_default(tmp_path: Path, option: str) -> None:
    (problem,) = EmuEdit.problems(options(data.emu_edit(tmp_path), **{option: ""}))
    assert f"option {option} is missing. Choose" in problem
    with pytest.raises(ValueError, match=f"{option} is 'both'; choose from"):
        options(tmp_path, **{option: "both"})

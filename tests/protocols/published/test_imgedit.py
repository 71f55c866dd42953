"""ImgEdit-Bench: the basic and the hard suite."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import case_row, check_case
from bench.images import read_rgb
from protocols.published.imgedit import ImgEdit
from protocols.selection import ProtocolError
from tests.protocols.published import instruction_layouts as data


def protocol(root: Path, suite: str = "basic") -> ImgEdit:
    return ImgEdit(ImgEdit.Options(root=str(root), suite=suite))


def test_the_basic_suite_has_types(tmp_path: Path) -> None:
    root = data.imgedit(tmp_path)
    with pytest.warns(match="the published benchmark has 737"):
        cases = protocol(root).cases()
    assert [(case.id, case.category, case.source_id) for case in cases] == [
        ("1082", "adjust", "animal-000342021"),
        ("1068", "remove", "animal-000342021"),
        ("673", "style", "style-000278574"),
    ]
    for case, row in zip(cases, data.IMGEDIT_BASIC.values(), strict=True):
        check_case(case)
        assert case.request.mask is None
        assert case.request.instruction == row["prompt"]
        assert np.array_equal(case.request.source, read_rgb(root / "singleturn" / row["id"]))
        assert ImgEdit.output_files(case_row(case)) == {f"{case.id}.png": "edit"}
    assert [case.tags.get("paper_category") for case in cases] == ["attribute", None, None]


def test_the_hard_suite_has_one_category(tmp_path: Path) -> None:
    hard = protocol(data.imgedit(tmp_path), "uge")
    with pytest.warns(match="the published benchmark has 47"):
        (case,) = hard.cases()
    check_case(case)
    assert (case.id, case.category, case.source_id) == ("1", "uge", "000029784")
    assert hard.categories == ("uge",)
    assert "uge" not in ImgEdit.categories


def test_an_unknown_type_and_a_missing_file_are_named(tmp_path: Path) -> None:
    root = data.imgedit(tmp_path)
    path = root / "singleturn" / "singleturn.json"
    path.write_text(json.dumps({"5": {"id": "animal/000342021.jpg", "prompt": "x", "edit_type": "blend"}}))
    with pytest.raises(ProtocolError, match="'5': 'blend' is none of the categories add"):
        protocol(root).cases()
    path.unlink()
    (problem,) = ImgEdit.problems(ImgEdit.Options(root=str(root)))
    for fact in ("singleturn.json: missing", "737 cases", "sysuyy/ImgEdit", "PKU-YuanGroup/ImgEdit"):
        assert fact in problem
    with pytest.raises(ValueError, match="suite is 'hard'; choose from basic, uge"):
        ImgEdit.Options(suite="hard")

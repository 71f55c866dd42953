"""GEdit-Bench: languages, sources at their own size, the layout of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import case_row, check_case
from bench.edit import EditCase
from protocols.published.gedit import GEdit
from protocols.selection import ProtocolError
from tests.protocols.published import instruction_layouts as data


def cases(root: Path, **options: str) -> Sequence[EditCase]:
    with pytest.warns(match="the published benchmark has 606"):
        return GEdit(GEdit.Options(root=str(root), **options)).cases()


def test_each_language_has_its_own_instructions(tmp_path: Path) -> None:
    root = data.gedit(tmp_path)
    english, chinese = cases(root), cases(root, language="cn")
    assert [(case.id, case.category, case.request.instruction) for case in english] == [
        ("a1-en", "color_alter", "make the sky red"),
        ("b2-en", "subject-remove", "remove it"),
        ("c3-en", "tone_transfer", "in the evening"),
    ]
    assert [(case.id, case.request.instruction) for case in chinese] == [
        ("a1-cn", "把天空变成红色"),
        ("c3-cn", "改成傍晚"),
    ]
    for case in [*english, *chinese]:
        check_case(case)
        assert case.request.mask is None
        assert not case.request.target_prompt


def test_sources_are_the_published_pixels_at_their_own_size(tmp_path: Path) -> None:
    root = data.gedit(tmp_path)
    for options, size in (({}, (48, 32)), ({"image": "input_image_raw"}, (72, 48))):
        selected = cases(root, **options)
        for case, source in zip(selected, (0, 0, 3), strict=True):
            assert case.request.source.size == size
            assert np.array_equal(case.request.source, data.picture(source, size))
        # One cluster for each picture.
        assert selected[0].source_id == selected[1].source_id != selected[2].source_id


def test_tags_and_outputs(tmp_path: Path) -> None:
    first, second, third = cases(data.gedit(tmp_path))
    assert first.tags == {
        "key": "a1",
        "language": "en",
        "intersection": "true",
        "paper_category": "attribute",
    }
    assert "paper_category" not in second.tags
    assert third.tags["intersection"] == "false"
    assert GEdit.output_files(case_row(second)) == {
        "fullset/subject-remove/en/b2.png": "edit",
        "fullset/subject-remove/en/b2_SRCIMG.png": "source",
    }


def test_a_task_that_is_not_of_the_benchmark_is_refused(tmp_path: Path) -> None:
    image = data.cell(data.picture(0))
    row = data.GEDIT[0] | {"task_type": "colour", "input_image": image, "input_image_raw": image}
    selected = cases(data.arrow_folder(tmp_path, "train", [row | {"Intersection_exist": True}]))
    with pytest.raises(
        ProtocolError, match="row 0 of train: 'colour' is none of the categories background_change"
    ):
        selected[0]


@pytest.mark.parametrize("options", [{"language": "zh"}, {"image": "raw"}])
def test_wrong_options_are_named(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; choose from"):
        GEdit.Options(**options)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.case_rows import check_case
from protocols.published.editbench import EditBench
from protocols.selection import ProtocolError
from tests.protocols.published.masked_layouts import box_mask, write_editbench

pytestmark = pytest.mark.filterwarnings("ignore:editbench. 3 cases")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_editbench(tmp_path_factory.mktemp("editbench"))


def protocol(root: Path, **options: str) -> EditBench:
    return EditBench(EditBench.Options(root=str(root), **options))


def test_the_colour_of_the_hole_must_be_chosen(root: Path) -> None:
    # White is half of the width and half of the height.
    with pytest.raises(ProtocolError, match=r"option hole is missing.*black is 75%.*white 25%"):
        protocol(root)
    white = protocol(root, hole="white").cases()
    black = protocol(root, hole="black").cases()
    expected = box_mask((160, 120), (0, 0, 80, 60))
    assert np.array_equal(np.asarray(white[0].request.mask) == 255, expected)
    assert np.array_equal(np.asarray(black[0].request.mask) == 255, ~expected)
    with pytest.raises(ValueError, match="choose black or white"):
        protocol(root, hole="grey")


def test_cases_are_as_published(root: Path) -> None:
    cases = list(protocol(root, hole="white").cases())
    for case in cases:
        check_case(case)
    assert [case.id for case in cases] == ["natural-7", "natural-12", "generated-3"]
    assert [case.category for case in cases] == ["natural", "natural", "generated"]
    assert cases[1].request.target_prompt == "image 12, in full"
    assert cases[1].request.region_prompt == "a small, red cat"
    simple = protocol(root, hole="white", region_prompt="simple")
    assert simple.cases()[1].request.region_prompt == "a cat"


def test_missing_files_come_before_the_question_for_the_hole(tmp_path: Path) -> None:
    problems = EditBench.problems(EditBench.Options(root=str(tmp_path)))
    assert len(problems) == 6
    assert "annotations_natural.csv: missing" in problems[0]
    assert "240 cases" in problems[0]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write_editbench(tmp_path) / "annotations_natural.csv"
    path.write_text(path.read_text().replace("prompt_full", "prompt"))
    with pytest.raises(ProtocolError, match=r"annotations_natural\.csv: has no column prompt_full"):
        protocol(tmp_path, hole="white").cases()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column aos, prompt_full, prompt_mask-simple, prompt_mask-rich"),
        ("aos,prompt_full,prompt_mask-simple,prompt_mask-rich\n", "has no row"),
        (
            "aos,prompt_full,prompt_mask-simple,prompt_mask-rich\n7,a\n",
            "aos 7: has no proper 'prompt_mask-simple'",
        ),
    ],
)
def test_half_of_the_benchmark_does_not_pass_for_all_of_it(tmp_path: Path, text: str, message: str) -> None:
    (write_editbench(tmp_path) / "annotations_generated.csv").write_text(text)
    with pytest.raises(ProtocolError, match=rf"annotations_generated\.csv: {message}"):
        protocol(tmp_path, hole="white").cases()


@pytest.mark.parametrize(("hole", "state"), [("white", "empty"), ("black", "full")])
def test_a_mask_that_marks_nothing_is_named_with_its_file(tmp_path: Path, hole: str, state: str) -> None:
    path = write_editbench(tmp_path) / "masks_natural" / "7.png"
    with Image.open(path) as mask:
        Image.new("L", mask.size, 0).save(path)
    with pytest.raises(ProtocolError, match=rf"natural/7.png: the mask \(hole: {hole}\) is {state}"):
        list(protocol(tmp_path, hole=hole).cases())


def test_a_mask_of_another_aspect_ratio_is_named_with_its_file(tmp_path: Path) -> None:
    """Its picture has 160x120 pixels. Half of that, rounded, is still the same ratio."""
    path = write_editbench(tmp_path) / "masks_natural" / "7.png"
    mask = Image.new("L", (81, 60))
    mask.paste(255, (0, 0, 40, 30))
    mask.save(path)
    assert protocol(tmp_path, hole="white").cases()[0].request.needed_mask.size == (160, 120)
    mask.rotate(90, expand=True).save(path)
    with pytest.raises(
        ProtocolError, match=r"natural/7\.png: is 60x81, another aspect ratio than .* of 160x120"
    ):
        list(protocol(tmp_path, hole="white").cases())

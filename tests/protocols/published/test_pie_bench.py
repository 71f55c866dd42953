from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.case_rows import case_row, check_case
from bench.errors import BenchWarning
from protocols.published.pie_bench import PieBench, bracketed_words, decode_mask, plain
from protocols.selection import ProtocolError
from tests.protocols.published.masked_layouts import box_mask, write_pie_bench

pytestmark = pytest.mark.filterwarnings("ignore:pie_bench. 3 cases")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pie_bench(tmp_path_factory.mktemp("pie"))


def protocol(root: Path) -> PieBench:
    return PieBench(PieBench.Options(root=str(root)))


def border() -> np.ndarray:
    return ~box_mask((512, 512), (1, 1, 511, 511))


def test_runs_count_from_zero_row_by_row_and_the_border_is_always_edited() -> None:
    # Ten pixels in row 3 from column 20 on.
    expected = border()
    expected[3, 20:30] = True
    assert np.array_equal(decode_mask([3 * 512 + 20, 10]), expected)
    # A run goes on in the next row.
    expected = border()
    expected[5, 500:] = expected[6, :4] = True
    assert np.array_equal(decode_mask([5 * 512 + 500, 16]), expected)
    # The border: four sides, the corners once.
    assert np.count_nonzero(decode_mask([])) == 4 * 512 - 4
    # A run that leaves the image ends with it.
    assert np.array_equal(decode_mask([512 * 512 - 1, 99]), border())


@pytest.mark.parametrize("runs", [[1], [1, -2], [1.0, 2.0], [512 * 512 + 1, 1], ["1", "2"], [True, 3]])
def test_other_lists_are_refused(runs: list[int]) -> None:
    with pytest.raises(ValueError, match=r"run|start"):
        decode_mask(runs)


def test_brackets_mark_words_and_leave_the_prompts() -> None:
    assert plain("a [small dog] on [the] sofa") == "a small dog on the sofa"
    assert bracketed_words("a [small dog] and a [small] cat") == ("small", "dog")
    assert bracketed_words("a dog") == ()


def test_cases_are_as_published(root: Path) -> None:
    cases = list(protocol(root).cases())
    for case in cases:
        check_case(case)
    assert [case.category for case in cases] == ["change_object", "change_background", "change_style"]
    assert [case.tags.get("paper_category") for case in cases] == ["replacement", "background", None]
    request = cases[0].request
    assert request.source_prompt == "a cat on a sofa"
    assert request.target_prompt == "a small dog on a sofa"
    assert request.instruction == "make it a dog"
    assert request.edit_words == ("small", "dog")
    assert cases[0].tags["blended_word"] == "cat dog"
    expected = box_mask((512, 512), (100, 150, 300, 400)) | border()
    assert np.array_equal(np.asarray(request.mask) == 255, expected)
    # Nothing is to be kept where the published mask is full.
    assert cases[2].request.mask is None


def test_ten_categories_and_the_papers_four() -> None:
    assert len(PieBench.categories) == 10


def test_edits_are_exported_beside_where_the_images_lie(root: Path) -> None:
    for case in protocol(root).cases():
        (path,) = PieBench.output_files(case_row(case))
        assert (root / path).is_file()


def test_the_digest_follows_the_content_and_not_the_folder(root: Path, tmp_path: Path) -> None:
    assert protocol(root).digest == protocol(write_pie_bench(tmp_path)).digest
    path = tmp_path / "mapping_file.json"
    items = json.loads(path.read_text())
    next(iter(items.values()))["mask"][1] += 1
    path.write_text(json.dumps(items))
    assert protocol(root).digest != protocol(tmp_path).digest


def test_missing_files_are_named_with_source_licence_and_count(tmp_path: Path) -> None:
    problems = PieBench.problems(PieBench.Options(root=str(tmp_path)))
    assert [Path(text.split(":")[0]).name for text in problems] == ["mapping_file.json", "annotation_images"]
    for text in problems:
        assert "700 cases" in text
        assert "licence" in text
        assert "cure-lab/PnPInversion" in text
    with pytest.raises(ProtocolError, match=r"mapping_file\.json: missing"):
        protocol(tmp_path)


def test_fewer_cases_than_published_are_warned_of(root: Path) -> None:
    with pytest.warns(BenchWarning, match="3 cases.*700.*Do not compare"):
        protocol(root).cases()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mask", [5], "the mask of case"),
        ("mask", "5 6", "no proper 'mask'"),
        ("editing_type_id", "10", "expected 0 to 9"),
        ("editing_prompt", None, "no proper 'editing_prompt'"),
        ("image_path", "../../secret.jpg", "leaves its folder"),
        ("image_path", "9_change_style_80/none.jpg", "no such file"),
    ],
)
def test_a_broken_item_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = write_pie_bench(tmp_path) / "mapping_file.json"
    items = json.loads(path.read_text())
    next(iter(items.values()))[key] = value
    path.write_text(json.dumps(items))
    with pytest.raises(ProtocolError, match=message):
        list(protocol(tmp_path).cases())

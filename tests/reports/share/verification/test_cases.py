"""Stored cases against the protocol's own: also where metrics look elsewhere than methods."""

from __future__ import annotations

from dataclasses import replace

from bench.case_rows import case_row, checked_row
from bench.edit import Region, ScoredAreas
from reports.share.verification.cases import _differing_parts, _files_of
from tests.bench.fakes import make_case, noise, square

EXACT = square(32, (4, 4, 9, 9))
SCORED = ScoredAreas(
    EXACT, (Region(EXACT, "a red ball", ("red",)), Region(square(32, (12, 4, 19, 9)), "a cube"))
)


def test_equal_scored_areas_are_no_difference() -> None:
    case = replace(make_case(0), scored=SCORED)
    assert _differing_parts(case, replace(make_case(0), scored=SCORED)) == []


def test_a_scored_area_that_differs_is_named() -> None:
    case = replace(make_case(0), scored=SCORED)
    moved = Region(square(32, (20, 20, 25, 25)), "a red ball", ("red",))
    other = replace(SCORED, regions=(moved, SCORED.regions[1]))
    assert _differing_parts(case, replace(case, scored=other)) == ["scored region 0"]
    assert _differing_parts(case, replace(case, scored=replace(SCORED, mask=moved.mask))) == ["scored mask"]


def test_scored_areas_on_one_side_alone_are_named() -> None:
    case = replace(make_case(0), scored=SCORED)
    assert _differing_parts(case, make_case(0)) == ["scored"]
    assert _differing_parts(case, replace(case, scored=ScoredAreas(EXACT))) == ["scored"]


def test_the_files_of_a_case_include_its_scored_masks() -> None:
    plain = checked_row(case_row(make_case(0)))
    exact = checked_row(case_row(replace(make_case(0), scored=SCORED)))
    added = set(_files_of(exact)) - set(_files_of(plain))
    assert added == {"scored/case-000/mask.png", "scored/case-000/0.png", "scored/case-000/1.png"}


def test_a_case_without_a_mask_has_no_mask_file_and_differs_from_one_with() -> None:
    bare = make_case(0, mask=None)
    assert "masks/case-000.png" not in _files_of(checked_row(case_row(bare)))
    assert _differing_parts(bare, make_case(0, mask=None)) == []
    assert "mask" in _differing_parts(bare, replace(make_case(0), claims=()))


def test_further_input_images_are_files_of_the_case_and_are_compared() -> None:
    style, other = noise("style", 8), noise("other", 8)
    case = make_case(0, references=(style,))
    assert "references/case-000/0.png" in _files_of(checked_row(case_row(case)))
    assert _differing_parts(case, make_case(0, references=(style,))) == []
    assert _differing_parts(case, make_case(0, references=(other,))) == ["reference 0"]
    assert _differing_parts(case, make_case(0)) == ["references"]

"""The mask-free benchmark of the rendered world: instructions alone, exact answers, no masks for methods."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from bench.case_rows import check_case
from bench.images import mask_array, to_array
from protocols.world.large import WorldFaces, WorldOptions, WorldScenes
from protocols.world.mini_gedit import MiniGEdit, window

# A change of pixels, instructions, masks or selection changes it.
DIGEST = "3ec12147b717"
OPTIONS = MiniGEdit.Options(cases_per_category=3, reference_count=4)


@pytest.fixture(scope="module")
def protocol() -> MiniGEdit:
    return MiniGEdit(OPTIONS)


def test_methods_get_a_source_and_an_instruction_alone(protocol: MiniGEdit) -> None:
    cases = list(protocol.cases())
    assert Counter(case.category for case in cases) == dict.fromkeys(protocol.categories, 3)
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        check_case(case)
        request = case.request
        assert request.instruction
        assert request.mask is None
        prompts = (request.source_prompt, request.target_prompt, request.region_prompt)
        assert not any((*prompts, request.regions, request.edit_words))
        assert request.source.size == ((56, 64) if case.category == "ps_human" else (64, 56))


def test_the_truth_changes_something_and_only_inside_the_scored_mask(protocol: MiniGEdit) -> None:
    for case in protocol.cases():
        assert case.truth is not None
        assert case.scored is not None
        changed = (to_array(case.truth) != to_array(case.request.source)).any(axis=2)
        assert changed.any()
        assert not (changed & ~mask_array(case.scored.mask)).any()


def test_the_cases_are_those_of_the_square_world_cut_around_their_edits(protocol: MiniGEdit) -> None:
    part = WorldOptions(canvas=64, cases_per_category=3, reference_count=2)
    for category, world, kind in (
        ("color_alter", WorldScenes(part), "attribute"),
        ("ps_human", WorldFaces(part), "attribute"),
        ("subject-replace", WorldScenes(part), "replacement"),
    ):
        squares = [case for case in world.cases() if case.category == kind]
        selected = [case for case in protocol.cases() if case.category == category]
        assert len(selected) == len(squares) == 3
        for case, square in zip(selected, squares, strict=True):
            assert case.request.instruction == square.request.instruction
            assert case.claims == square.claims
            assert case.truth is not None
            assert case.scored is not None
            assert square.truth is not None
            width, height = case.request.source.size
            # One window cuts all of the case's images.
            (window,) = [
                (x, y, x + width, y + height)
                for x in range(65 - width)
                for y in range(65 - height)
                if np.array_equal(
                    square.request.source.crop((x, y, x + width, y + height)), case.request.source
                )
            ]
            assert np.array_equal(square.truth.crop(window), case.truth)
            assert np.array_equal(square.request.needed_mask.crop(window), case.scored.mask)
            assert mask_array(case.scored.mask).any()


def test_faces_and_scenes_of_one_number_are_two_sources(protocol: MiniGEdit) -> None:
    for case in protocol.cases():
        assert case.source_id.startswith("faces-" if case.category == "ps_human" else "scenes-")


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        # In the middle of the window where the image allows it.
        ((20, 30, 40, 34), (64, 56), (0, 4, 64, 60)),
        ((20, 26, 34, 30), (48, 64), (3, 0, 51, 64)),
        # At the border of the image, and a mask that is larger than the window.
        ((0, 60, 10, 64), (64, 48), (0, 16, 64, 64)),
        ((0, 0, 64, 64), (48, 64), (8, 0, 56, 64)),
    ],
)
def test_the_window_has_the_edit_in_its_middle(
    box: tuple[int, int, int, int], size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, box)
    assert window(mask, size) == expected


def test_without_areas_nothing_but_the_truth_is_known() -> None:
    bare = MiniGEdit(MiniGEdit.Options(cases_per_category=1, areas=False))
    for case in bare.cases():
        check_case(case)
        assert case.scored is None
        assert not case.claims
        assert case.truth is not None
    assert bare.digest != MiniGEdit(MiniGEdit.Options(cases_per_category=1)).digest


def test_the_digest_is_pinned(protocol: MiniGEdit) -> None:
    assert protocol.digest == DIGEST
    assert len(list(protocol.reference())) == 4

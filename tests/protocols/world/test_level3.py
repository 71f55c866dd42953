"""Level 3: places, references and swaps in words, and small, thin and hidden things."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.case_rows import check_case
from bench.edit import EditCase
from bench.images import mask_array
from protocols import selection
from protocols.masks import bounds, erode
from protocols.prompts import RELATION_WORDS, noun, vocabulary, words_of
from protocols.world.composed import SceneEdit, compose
from protocols.world.level3 import PAPER_CATEGORIES, level_3_edit
from protocols.world.scenes import Scene, render_scene


def edits(kind: str, count: int) -> list[SceneEdit]:
    """The edits of the first seeds that give one."""
    return [edit for seed in range(count) if (edit := level_3_edit(kind, seed)) is not None]


def composed(kind: str, count: int) -> list[tuple[SceneEdit, EditCase]]:
    """The edits of the first seeds that give a case, with it."""
    return [(edit, case) for edit in edits(kind, count) if (case := compose(edit, "x")) is not None]


@pytest.mark.parametrize("kind", PAPER_CATEGORIES)
def test_cases_are_sound_and_no_region_tells_where_the_edit_is(kind: str) -> None:
    words = {*vocabulary(), *RELATION_WORDS}
    for edit, case in composed(kind, 14):
        check_case(case)
        selection.check_case(case)
        request = case.request
        for text in (
            request.source_prompt,
            request.target_prompt,
            request.region_prompt,
            request.instruction,
        ):
            assert set(words_of(text)) <= words, text
        assert request.regions == ()
        assert len(case.areas) == len(edit.parts)
        # Every pixel that differs lies in the mask, and the truth is the re-render there.
        drawn, _ = render_scene(edit.edited)
        inside = mask_array(request.mask)
        assert np.array_equal(np.asarray(case.truth)[inside], drawn[inside])
        assert np.array_equal(np.asarray(case.truth)[~inside], np.asarray(request.source)[~inside])


def test_a_place_in_words_is_the_place_in_the_image() -> None:
    """Measured on the masks: the object that changes is the leftmost, the rightmost, the middle, upper or lower one."""
    places = set()
    for edit in edits("relational", 60):
        _, masks = render_scene(edit.scene)
        rows, columns = zip(*(np.argwhere(mask).mean(axis=0) for mask in masks), strict=True)
        changed = [part.index for part in edit.parts if part.changes]
        assert len(changed) == 1
        alike = [part.index for part in edit.parts]
        place = next(
            word for word in ("left", "right", "middle", "above", "below") if word in edit.texts.instruction
        )
        places.add(place)
        among = {
            "left": lambda i, c=columns: c[i],
            "right": lambda i, c=columns: -c[i],
            "middle": lambda i, c=columns: abs(c[i] - sorted(c)[1]),
            "above": lambda i, r=rows: r[i],
            "below": lambda i, r=rows: -r[i],
        }[place]
        assert min(alike, key=among) == changed[0]
        if place in ("above", "below"):
            # The object that the words name besides stands between the two.
            assert rows[0] < rows[1] < rows[2]
    assert places == {"left", "right", "middle", "above", "below"}


def test_a_caption_with_relations_is_true_before_and_after() -> None:
    for edit in edits("relational", 40):
        for scene, text in ((edit.scene, edit.texts.source), (edit.edited, edit.texts.target)):
            words = words_of(text)
            for side, first_is_left in (("left", True), ("right", False)):
                if side in words:
                    left, right = scene.objects
                    first, second = (left, right) if first_is_left else (right, left)
                    place = words.index(side)
                    assert words[place - 2 : place] == [first.color, noun(first.category)]
                    assert words[place + 3 : place + 5] == [second.color, noun(second.category)]


def test_an_object_that_stays_is_expected_to_stay() -> None:
    for edit, case in composed("relational", 20):
        colors = [claim for claim in case.claims if claim.attribute == "color"]
        assert len(colors) == len(edit.parts)
        assert sum(claim.before != claim.after for claim in colors) == 1


def test_a_swap_is_the_scene_drawn_with_exchanged_colours() -> None:
    for edit, case in composed("swap", 10):
        first, second = edit.scene.objects
        drawn, _ = render_scene(
            replace(
                edit.scene,
                objects=(replace(first, color=second.color), replace(second, color=first.color)),
            )
        )
        assert np.array_equal(np.asarray(case.truth), drawn)
        # The instruction names no colour: the image alone tells which.
        assert not {first.color, second.color} & set(words_of(case.request.instruction))


def test_a_reference_is_visible_outside_the_mask_and_its_colour_is_in_no_prompt() -> None:
    for edit, case in composed("reference", 20):
        target = edit.parts[0].index
        after = edit.edited.objects[target].color
        model = next(i for i, o in enumerate(edit.scene.objects) if o.color == after and i != target)
        name = noun(edit.scene.objects[model].category)
        assert case.request.instruction.endswith(f"the same color as the {name}")
        _, masks = render_scene(edit.scene)
        assert not (mask_array(case.request.mask) & masks[model]).any()
        request = case.request
        for text in (
            request.source_prompt,
            request.target_prompt,
            request.instruction,
            request.region_prompt,
        ):
            assert after not in words_of(text)
        # A third object shows another colour, so copying any colour of the surroundings is not enough.
        assert len({thing.color for thing in edit.scene.objects}) == 3


def test_the_mask_of_a_trim_is_what_its_colour_changes_and_thin() -> None:
    thick = []
    for edit, case in composed("trim", 40):
        mask = mask_array(case.request.mask)
        changed = (np.asarray(case.request.source) != np.asarray(case.truth)).any(axis=2)
        assert np.array_equal(mask, changed)
        # The area holds nothing else of the object, so nothing else is expected of it.
        assert [claim.attribute for claim in case.claims] == ["trim"]
        if edit.scene.objects[0].category != "bottle":
            # A bottle has a label. All others have lines of 1 to 3 px and their blended rims.
            thick.append(erode(mask, 2).sum() / mask.sum())
    # Only where two lines cross is anything left of them.
    assert max(thick) < 0.1


def test_a_hidden_object_is_seen_in_part() -> None:
    for edit in edits("occluded", 40):
        back = edit.parts[0].index
        whole = render_scene(Scene(edit.scene.seed, edit.scene.backdrop, (edit.scene.objects[back],)))[1][0]
        _, masks = render_scene(edit.scene)
        assert 0.4 <= masks[back].sum() / whole.sum() <= 0.85
        # What is hidden belongs to the object in front.
        assert (whole & ~masks[back] & masks[1 - back]).sum() == (whole & ~masks[back]).sum()


def test_small_objects_are_under_12_px() -> None:
    for edit in edits("small", 30):
        _, masks = render_scene(edit.scene)
        assert len(masks) in (3, 4)
        for mask in masks:
            box = bounds(mask)
            assert box is not None
            assert max(box[2] - box[0], box[3] - box[1]) < 12

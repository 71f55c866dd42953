"""Level 2: bindings that only the regions or the image tell, and ground truths that are re-renders."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.case_rows import check_case
from bench.images import mask_array
from protocols import selection
from protocols.prompts import noun, vocabulary, words_of
from protocols.world.composed import compose
from protocols.world.level2 import CEILINGS, PAPER_CATEGORIES, edit_of, level_2_edit
from protocols.world.scenes import render_scene


@pytest.mark.parametrize("kind", PAPER_CATEGORIES)
def test_cases_are_sound_and_say_only_what_level_1_can_say(kind: str) -> None:
    words = set(vocabulary())
    for seed in range(12):
        case = compose(level_2_edit(kind, seed), str(seed))
        if case is None:
            continue
        check_case(case)
        selection.check_case(case)
        request = case.request
        for text in (
            request.source_prompt,
            request.target_prompt,
            request.region_prompt,
            request.instruction,
        ):
            assert set(words_of(text)) <= words
        assert (case.category, case.tags["paper_category"]) == (kind, PAPER_CATEGORIES[kind])
        # Nothing outside the mask differs.
        outside = ~mask_array(request.mask)
        assert np.array_equal(np.asarray(case.truth)[outside], np.asarray(request.source)[outside])


@pytest.mark.parametrize("kind", ["swap2", "perm3", "one_of_3"])
def test_the_truth_of_new_colours_is_the_scene_drawn_with_them(kind: str) -> None:
    """Drawn anew from the objects, with the colours exchanged by hand, and equal in every pixel."""
    for seed in range(6):
        edit = level_2_edit(kind, seed)
        case = compose(edit, "x")
        assert case is not None
        old = [thing.color for thing in edit.scene.objects]
        new = [thing.color for thing in edit.edited.objects]
        if kind == "swap2":
            assert new == old[::-1]
        elif kind == "perm3":
            # Everybody's colour moves, and all colours stay.
            assert sorted(new) == sorted(old)
            assert all(a != b for a, b in zip(old, new, strict=True))
        else:
            assert sum(a != b for a, b in zip(old, new, strict=True)) == 1
            assert len({*old, *new}) == 4
        things = [replace(o, color=color) for o, color in zip(edit.scene.objects, new, strict=True)]
        drawn, _ = render_scene(replace(edit.scene, objects=tuple(things)))
        assert np.array_equal(np.asarray(case.truth), drawn)


def test_crossed_objects_take_each_others_class_and_keep_their_colours() -> None:
    for seed in range(8):
        edit = level_2_edit("cross2", seed)
        (a, b), (c, d) = edit.scene.objects, edit.edited.objects
        assert (c.category, d.category) == (b.category, a.category)
        assert (c.color, d.color) == (a.color, b.color)
        assert (c.x, d.x) == (a.x, b.x)


def test_every_object_of_a_group_is_of_one_class_and_of_its_own_colour() -> None:
    for kind, count in (("swap2", 2), ("perm3", 3), ("one_of_3", 3)):
        for seed in range(50):
            objects = level_2_edit(kind, seed).scene.objects
            assert len(objects) == count
            assert len({thing.category for thing in objects}) == 1
            assert len({thing.color for thing in objects}) == count


@pytest.mark.parametrize("kind", ["swap2", "perm3"])
def test_the_order_of_the_caption_tells_nothing_about_places(kind: str) -> None:
    """Of 600 captions, the leftmost object is named first in its share, by an exact binomial test."""
    hits, total, count = 0, 600, 2 if kind == "swap2" else 3
    for seed in range(total):
        edit = level_2_edit(kind, seed)
        leftmost = min(edit.scene.objects, key=lambda thing: thing.x)
        hits += words_of(edit.texts.source)[1:3] == [leftmost.color, noun(leftmost.category)]
    # A shuffle that does its work fails at one of 10,000 sets of seeds. These seeds are fixed.
    assert binomtest(hits, total, 1 / count).pvalue > 1e-4
    # The test sees what it should: objects named from left to right would fail it.
    assert binomtest(total, total, 1 / count).pvalue < 1e-100


@pytest.mark.parametrize("kind", CEILINGS)
def test_a_ceiling_is_the_share_of_one_answer_among_all_that_look_the_same(kind: str) -> None:
    """For each other order of the colours there is a case that a blind method cannot tell from this one.

    Prompts, mask and everything outside the mask are equal, but the ground truths all differ. The best guess is
    right in one of them.
    """
    edit = level_2_edit(kind, 3)
    order = list(range(len(edit.scene.objects)))
    targets = {o.color: e.color for o, e in zip(edit.scene.objects, edit.edited.objects, strict=True)}
    colors = [thing.color for thing in edit.scene.objects]
    views, truths = set(), set()
    for painted in permutations(colors):
        things = [replace(o, color=color) for o, color in zip(edit.scene.objects, painted, strict=True)]
        scene = replace(edit.scene, objects=tuple(things))
        changes = {index: {"color": targets[thing.color]} for index, thing in enumerate(things)}
        # The same captions: colours in one order, whichever object has which.
        named = sorted(order, key=lambda index: colors.index(painted[index]))
        case = compose(edit_of(kind, scene, changes, named), "x")
        assert case is not None
        request, mask = case.request, mask_array(case.request.mask)
        pixels = np.where(mask[..., None], 0, np.asarray(request.source))
        views.add(
            (
                request.source_prompt,
                request.target_prompt,
                request.instruction,
                mask.tobytes(),
                pixels.tobytes(),
            )
        )
        truths.add(case.truth.tobytes())  # type: ignore[union-attr]
    assert len(views) == 1
    assert CEILINGS[kind] == 1 / len(truths)


def test_regions_name_what_their_object_becomes() -> None:
    edit = level_2_edit("perm3", 5)
    case = compose(edit, "x")
    assert case is not None
    _, masks = render_scene(edit.scene)
    for part, region in zip(edit.parts, case.request.regions, strict=True):
        thing = edit.edited.objects[part.index]
        assert region.words == (thing.color, noun(thing.category))
        # The region covers its own object, and no pixel of another one.
        area = mask_array(region.mask)
        assert (area & masks[part.index]).sum() == masks[part.index].sum()
        assert not any((area & masks[other]).any() for other in range(3) if other != part.index)

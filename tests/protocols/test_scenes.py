from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from bench.edit import CATEGORIES, EditCase
from bench.images import mask_array
from protocols.masks import apart
from protocols.prompts import vocabulary, words_of
from protocols.scenes import MINI_SCENES, EditableScene, SceneOptions, SceneRecord
from protocols.selection import check_case
from tests.protocols.conftest import scene_cases

MakeScene = Callable[..., SceneRecord]
CAR = ("red", "car", (4, 30, 30, 50))
CUP = ("blue", "cup", (40, 34, 56, 52))
UMBRELLA = ("orange", "umbrella", (32, 4, 52, 20))
CAPTION = "A red car, a blue cup and an orange umbrella on a beach."
REAL = SceneOptions(
    canvas=64,
    categories=(
        ("car", "vehicle"), ("bus", "vehicle"), ("boat", "vehicle"),
        ("cup", "kitchen"), ("bottle", "kitchen"), ("dog", "animal"), ("cat", "animal"),
        ("scissors", "indoor"), ("clock", "indoor"),
    ),
)  # fmt: skip


def of_category(cases: list[EditCase], category: str) -> list[EditCase]:
    return [case for case in cases if case.category == category]


def test_every_case_is_sound_and_its_words_are_known(scene: MakeScene) -> None:
    words = set(vocabulary())
    record = scene([CAR, CUP, UMBRELLA], [CAPTION])
    cases = scene_cases(record, MINI_SCENES)
    assert {case.category for case in cases} == set(CATEGORIES)
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        check_case(case)
        request = case.request
        assert re.fullmatch(r"[0-9A-Za-z_-]{1,120}", case.id)
        assert case.source_id == record.id
        assert request.source.size == request.mask.size == (64, 64)
        for text in (
            request.source_prompt,
            request.target_prompt,
            request.region_prompt,
            request.instruction,
        ):
            assert set(words_of(text)) <= words, text
        assert all(0 <= claim.region < max(1, len(request.regions)) for claim in case.claims)


def test_a_colour_edit_in_full(scene: MakeScene) -> None:
    record = scene([CAR, CUP], ["A red car and a blue cup on a beach."])
    editable = EditableScene(record, MINI_SCENES)
    target = next(t for _, i, t in editable.edits("color") if i == 1 and t.value == "orange")
    case = editable.object_case(0, [(1, target)], "attribute")
    assert case is not None
    assert case.id == "000000000007-cup-color-orange"
    assert case.request.source_prompt == "a red car and a blue cup on a beach"
    assert case.request.target_prompt == "a red car and an orange cup on a beach"
    assert case.request.region_prompt == "an orange cup"
    assert case.request.instruction == "make the cup orange"
    assert case.request.edit_words == ("orange", "cup")
    assert [(c.attribute, c.before, c.after, c.region) for c in case.claims] == [
        ("color", "blue", "orange", 0),
        ("category", "cup", "cup", 0),  # an orange blot is no orange cup
    ]
    mask = mask_array(case.request.mask)
    assert mask[34:52, 40:56].all()
    assert mask.sum() < 1.4 * 18 * 16


def test_a_class_edit_keeps_the_colour_and_has_room_for_another_shape(scene: MakeScene) -> None:
    cases = of_category(
        scene_cases(scene([CAR, CUP], ["a red car and a blue cup"]), MINI_SCENES), "replacement"
    )
    case = {case.id: case for case in cases}["000000000007-car-category-boat"]
    assert case.request.target_prompt == "a red boat and a blue cup"
    assert case.request.instruction == "turn the red car into a red boat"
    assert case.request.edit_words == ("red", "boat")
    assert [(c.attribute, c.before, c.after) for c in case.claims] == [
        ("category", "car", "boat"),
        ("color", "red", "red"),
    ]
    mask = mask_array(case.request.mask)
    assert mask[30:50, 4:30].all()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert rows[0] < 29
    assert columns[-1] > 31
    assert not mask[rows[0], columns[0]]  # rounded


def test_colours_named_in_the_caption_or_seen_in_the_pixels_are_no_targets(scene: MakeScene) -> None:
    record = scene(
        [CAR, CUP], ["a purple car and a cup"]
    )  # the car's pixels are red, whatever the caption says
    editable = EditableScene(record, MINI_SCENES)
    values = {i: {t.value for _, index, t in editable.edits("color") if index == i} for i in (0, 1)}
    assert values[0] == {"orange", "yellow", "green", "blue", "pink"}
    assert values[1] == {"red", "orange", "yellow", "green", "purple", "pink"}
    case = next(editable.cases("attribute", "color"))
    before = {"car": "purple", "cup": "blue"}[case.id.split("-")[1]]
    assert case.claims[0].before == before


def test_living_things_and_food_are_not_recoloured(scene: MakeScene) -> None:
    record = scene([("orange", "dog", (4, 20, 30, 50)), CUP], ["a dog beside a cup"])
    cases = scene_cases(record, REAL)
    assert {case.id.split("-")[1] for case in of_category(cases, "attribute")} == {"cup"}
    replaced = {case.id for case in of_category(cases, "replacement")}
    assert "000000000007-dog-category-cat" in replaced


def test_materials_only_where_they_are_wanted(scene: MakeScene) -> None:
    record = scene([CUP], ["a blue cup"])
    cases = {case.id: case for case in scene_cases(record, REAL)}
    wooden = next(case for id, case in cases.items() if "material" in id)
    assert wooden.claims[0].attribute == "material"
    assert wooden.request.instruction.startswith("make the cup out of ")
    assert not [case.id for case in scene_cases(record, MINI_SCENES) if "material" in case.id]


@pytest.mark.parametrize(
    ("objects", "captions", "crowd"),
    [
        ([CAR], ["a red car"], [0]),  # a crowd
        ([CAR, ("blue", "car", (40, 4, 60, 20))], ["a red car"], []),  # two of a class
        ([("red", "car", (4, 4, 10, 10))], ["a red car"], []),  # 36 of 4096 pixels
        ([("red", "car", (2, 2, 62, 40))], ["a red car"], []),  # more than 40 %
        ([CAR], ["many cars"], []),  # not named in the singular
        ([CAR], ["a red vehicle"], []),
        ([CAR], [], []),
    ],
)
def test_instances_that_are_unclear_are_not_edited(
    scene: MakeScene, objects: list[object], captions: list[str], crowd: list[int]
) -> None:
    cases = scene_cases(scene(objects, captions, crowd=crowd), MINI_SCENES)
    assert {case.category for case in cases} <= {"background"}


def test_nobody_flies_a_surfboard(scene: MakeScene) -> None:
    record = scene([("red", "kite", (4, 4, 30, 24))], ["a man flying a red kite"])
    assert {case.category for case in scene_cases(record, MINI_SCENES)} == {"attribute", "background"}


def test_a_class_that_is_in_the_picture_is_no_target(scene: MakeScene) -> None:
    record = scene([CAR, ("green", "bus", (36, 30, 62, 50))], ["a red car and a green bus"])
    replaced = {case.id for case in of_category(scene_cases(record, MINI_SCENES), "replacement")}
    assert replaced == {"000000000007-car-category-boat", "000000000007-bus-category-boat"}


def test_a_replacement_does_not_wipe_out_a_neighbour(scene: MakeScene) -> None:
    inside = ("blue", "cup", (12, 34, 24, 46))
    record = scene([CAR, inside], ["a red car and a blue cup"])
    replaced = {
        case.id.split("-")[1] for case in of_category(scene_cases(record, MINI_SCENES), "replacement")
    }
    assert "car" not in replaced


def test_the_background_is_what_is_left_of_the_salient_objects(scene: MakeScene) -> None:
    small = ("pink", "kite", (2, 2, 8, 8))
    record = scene([CAR, CUP, small], ["a red car and a blue cup on a beach"])
    cases = of_category(scene_cases(record, MINI_SCENES), "background")
    assert {case.tags["target"] for case in cases} == {"meadow", "snow", "desert", "night", "room"}
    case = next(case for case in cases if case.tags["target"] == "snow")
    assert case.request.target_prompt == "a red car and a blue cup in the snow"
    assert case.request.instruction == "change the background to snow"
    assert [(c.attribute, c.before, c.after) for c in case.claims] == [("background", "beach", "snow")]
    mask = mask_array(case.request.mask)
    assert mask[2:8, 2:8].all()  # not salient
    assert not mask[31:49, 5:29].any()
    assert mask[30, 4:30].all()  # the outline may be redrawn


def test_no_background_edit_of_a_crowd(scene: MakeScene) -> None:
    record = scene([CAR, CUP], ["a red car and a blue cup"], crowd=[1])
    assert not of_category(scene_cases(record, MINI_SCENES), "background")


def test_several_edits_at_once_have_a_region_each_in_the_captions_order(scene: MakeScene) -> None:
    record = scene([UMBRELLA, CUP, CAR], [CAPTION])  # annotated in another order
    editable = EditableScene(record, MINI_SCENES)
    for size in ("2", "3"):
        cases = list(editable.cases("multi_object", size))
        assert len(cases) == {"2": 3, "3": 1}[size]
        for case in cases:
            request = case.request
            masks = [mask_array(region.mask) for region in request.regions]
            assert len(masks) == int(size)
            assert apart(masks)
            assert np.array_equal(np.logical_or.reduce(masks), mask_array(request.mask))
            # Each region claims its class and its colour: one changes, the other stays.
            assert [claim.region for claim in case.claims] == [n for n in range(len(masks)) for _ in range(2)]
            assert all(
                {c.attribute for c in case.claims if c.region == n} == {"color", "category"}
                for n in range(len(masks))
            )
            starts = [request.target_prompt.index(region.prompt) for region in request.regions]
            assert starts == sorted(starts)
            targets = list(zip(case.tags["kind"].split("+"), case.tags["target"].split("+"), strict=True))
            assert len(set(targets)) == len(targets)


def test_a_wide_picture_is_cropped_to_what_can_be_edited(scene: MakeScene) -> None:
    record = scene([("red", "car", (96, 20, 122, 44))], ["a red car"], size=(128, 64))
    editable = EditableScene(record, MINI_SCENES)
    assert editable.box == (64, 0, 128, 64)
    for case in scene_cases(record, MINI_SCENES):
        assert case.request.source.size == (64, 64)
        assert case.request.source.tobytes() == editable.image.tobytes()
    centred = EditableScene(
        scene([("red", "car", (52, 20, 76, 44))], ["a red car"], size=(128, 64)), MINI_SCENES
    )
    assert centred.box == (32, 0, 96, 64)
    tall = EditableScene(
        scene([("red", "car", (20, 96, 44, 122))], ["a red car"], size=(64, 128)), MINI_SCENES
    )
    assert tall.box == (0, 64, 64, 128)


def test_what_the_crop_cuts_is_not_edited(scene: MakeScene) -> None:
    far = [("red", "car", (0, 20, 20, 44)), ("blue", "cup", (108, 20, 128, 44))]
    editable = EditableScene(scene(far, ["a red car and a blue cup"], size=(128, 64)), MINI_SCENES)
    assert len(editable.candidates) == 1
    kept = record_category(editable, editable.candidates[0])
    assert {case.id.split("-")[1] for case in editable.cases("attribute", "color")} == {kept}


def record_category(editable: EditableScene, index: int) -> str:
    return editable.record.instances[index].category


def test_masks_and_image_go_to_the_canvas_together(scene: MakeScene) -> None:
    record = scene([CAR, CUP], ["a red car and a blue cup"])
    editable = EditableScene(record, SceneOptions(canvas=128, categories=MINI_SCENES.categories))
    pixels = editable.pixels[editable.masks[0]].astype(int)
    assert editable.masks[0].sum() == 4 * 26 * 20
    assert np.median(pixels, axis=0).tolist() == [212, 44, 40]
    assert editable.color_of(0) == "red"

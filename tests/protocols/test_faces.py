from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from bench.edit import CATEGORIES, EditCase
from bench.images import mask_array
from protocols.faces import (
    EditableFace,
    FaceRecord,
    face_kinds,
    kind_names,
)
from protocols.masks import apart
from protocols.prompts import vocabulary, words_of
from protocols.random_faces import random_face_case
from protocols.selection import check_case
from tests.protocols.conftest import face_cases

MakeFace = Callable[..., FaceRecord]


def by_id(record: FaceRecord) -> dict[str, EditCase]:
    return {case.id: case for case in face_cases(record)}


def test_every_case_is_sound_and_its_words_are_known(face: MakeFace) -> None:
    words = set(vocabulary())
    for record in (face(), face(Male=True, Smiling=False, Gray_Hair=True, Black_Hair=False), face(512)):
        cases = face_cases(record)
        assert {case.category for case in cases} == set(CATEGORIES)
        assert len({case.id for case in cases}) == len(cases)
        for case in cases:
            check_case(case)
            request = case.request
            assert re.fullmatch(r"[0-9A-Za-z_-]{1,120}", case.id)
            assert case.source_id == record.id
            assert request.source is record.image
            for text in (
                request.source_prompt,
                request.target_prompt,
                request.region_prompt,
                request.instruction,
            ):
                assert set(words_of(text)) <= words
            assert all(0 <= claim.region < max(1, len(request.regions)) for claim in case.claims)


def test_a_hair_colour_edit_in_full(face: MakeFace) -> None:
    case = by_id(face())["00012-hair_color-blond"]
    assert case.category == "attribute"
    assert case.request.source_prompt == "a photo of a woman with black hair, smiling"
    assert case.request.target_prompt == "a photo of a woman with blond hair, smiling"
    assert case.request.region_prompt == "blond hair"
    assert case.request.instruction == "make her hair blond"
    assert case.request.edit_words == ("blond", "hair")
    assert case.request.regions == ()
    assert [(c.attribute, c.before, c.after, c.region) for c in case.claims] == [
        ("hair_color", "black", "blond", 0)
    ]
    assert dict(case.tags) == {"kind": "hair_color", "target": "blond"}


@pytest.mark.parametrize(
    ("facts", "absent"),
    [
        ({"Eyeglasses": True}, "eyeglasses"),
        ({"Wearing_Hat": True}, "hat|hair_color"),
        ({"Wearing_Earrings": True}, "earrings"),
        ({"Wearing_Lipstick": True}, "lipstick"),
        ({"Heavy_Makeup": True}, "lipstick"),
        ({"Male": True}, "lipstick"),
        ({"Bald": True}, "hair_color"),
        ({"Black_Hair": False}, "hair_color"),
        ({"Brown_Hair": True}, "hair_color"),  # two colours annotated
        ({}, "mouth-smile|hair_color-black"),
        ({"Smiling": False}, "mouth-neutral"),
        ({"Smiling": False, "Mouth_Slightly_Open": True}, "mouth-open"),
    ],
)
def test_what_is_there_already_is_not_added(face: MakeFace, facts: dict[str, bool], absent: str) -> None:
    pattern = re.compile(f"-({absent})(-|$)")
    assert not [case.id for case in face_cases(face(**facts)) if pattern.search(case.id)]
    rng = np.random.default_rng(0)
    drawn = [random_face_case(face(**facts), rng) for _ in range(60)]
    assert not [case.id for case in drawn if case is not None and pattern.search(case.id)]


@pytest.mark.parametrize(
    ("part", "kind"), [("eye_g", "eyeglasses"), ("hat", "hat"), ("hat", "hair_color"), ("ear_r", "earrings")]
)
def test_a_part_mask_overrules_an_annotation_that_lacks_it(face: MakeFace, part: str, kind: str) -> None:
    patch = np.zeros((64, 64), bool)
    patch[2:8, 20:44] = True
    assert kind in EditableFace(face()).changes
    assert kind not in EditableFace(face(extra={part: patch})).changes
    assert kind in EditableFace(face(extra={part: np.zeros((64, 64), bool)})).changes


@pytest.mark.parametrize(
    ("without", "lost"),
    [
        (["l_eye"], {"eyeglasses", "hat", "mouth", "lipstick"}),
        (["l_ear", "r_ear"], {"earrings"}),
        (["hair"], {"hair_color"}),
        (["mouth"], {"mouth", "lipstick"}),
    ],
)
def test_edits_whose_parts_are_hidden_are_not_made(
    face: MakeFace, without: list[str], lost: set[str]
) -> None:
    whole, partial = set(EditableFace(face()).changes), set(EditableFace(face(without=without)).changes)
    assert whole - partial == lost


def test_one_visible_ear_is_enough(face: MakeFace) -> None:
    mask = EditableFace(face(without=["l_ear"])).mask("earrings")
    assert mask is not None
    assert not mask[:, :32].any()


@pytest.mark.parametrize("size", [64, 256])
def test_masks_lie_where_the_edit_happens(face: MakeFace, size: int) -> None:
    record = face(size)
    editable, unit = EditableFace(record), size // 64
    masks = {kind: editable.mask(kind) for kind in editable.changes}
    features = np.logical_or.reduce([record.parts[p] for p in ("l_eye", "r_eye", "nose", "mouth")])
    hair = masks["hair_color"]
    assert hair is not None
    assert hair[record.parts["hair"]].all()
    assert not (hair & features).any()
    glasses = masks["eyeglasses"]
    assert glasses is not None
    for part in ("l_eye", "r_eye", "l_brow", "r_brow"):
        assert glasses[record.parts[part]].all()
    assert not (glasses & record.parts["mouth"]).any()
    hat = masks["hat"]
    assert hat is not None
    assert hat[0, size // 2]
    assert hat[record.parts["hair"] & (np.mgrid[:size, :size][0] < 28 * unit)].all()
    assert not (hat & features).any()
    for kind in ("mouth", "lipstick"):
        area = masks[kind]
        assert area is not None
        assert area[record.parts["mouth"]].all()
        assert area.sum() > 2 * record.parts["mouth"].sum()
        assert not area[: 38 * unit].any()  # the bridge of the nose
    earrings = masks["earrings"]
    assert earrings is not None
    assert earrings[record.parts["l_ear"] | record.parts["r_ear"]].all()
    assert earrings[46 * unit, 16 * unit]  # below the ear
    assert not (earrings & features).any()


def test_masks_scale_with_the_canvas(face: MakeFace) -> None:
    small, large = EditableFace(face(64)), EditableFace(face(512))
    for kind in ("background", *small.changes):
        one, other = small.mask(kind), large.mask(kind)
        assert one is not None
        assert other is not None
        agreement = np.mean(np.kron(one, np.ones((8, 8), bool)) == other)
        assert agreement > 0.96, kind


def test_the_mouths_mask_does_not_tell_what_the_mouth_does(face: MakeFace) -> None:
    y, x = np.mgrid[:64, :64] + 0.5
    closed = ((x - 32) / 4) ** 2 + ((y - 47) / 1) ** 2 <= 1
    smiling = ((x - 32) / 6) ** 2 + ((y - 47) / 2) ** 2 <= 1
    masks = [EditableFace(face(extra={"mouth": mouth})).mask("mouth") for mouth in (closed, smiling)]
    assert masks[0] is not None
    assert masks[1] is not None
    assert np.array_equal(masks[0], masks[1])


def test_the_background_is_the_complement_of_the_person_with_its_outline(face: MakeFace) -> None:
    record = face()
    person = np.logical_or.reduce(list(record.parts.values()))
    mask = EditableFace(record).mask("background")
    assert mask is not None
    assert mask[~person].all()
    inside = mask & person
    assert 0 < inside.sum() < 0.2 * person.sum()
    case = by_id(record)["00012-background-night"]
    assert case.request.target_prompt == "a photo of a woman with black hair at night, smiling"
    assert case.request.instruction == "make it night"
    assert case.request.region_prompt == "a night sky"
    assert [(c.attribute, c.before, c.after) for c in case.claims] == [("background", "unknown", "night")]


def test_several_edits_at_once_have_a_region_each(face: MakeFace) -> None:
    cases = [case for case in face_cases(face()) if case.category == "multi_object"]
    assert {len(case.request.regions) for case in cases} == {2, 3}
    for case in cases:
        request = case.request
        masks = [mask_array(region.mask) for region in request.regions]
        assert apart(masks)
        assert np.array_equal(np.logical_or.reduce(masks), mask_array(request.mask))
        assert [claim.region for claim in case.claims] == list(range(len(masks)))
        kinds = case.tags["kind"].split("+")
        assert not {"hat", "hair_color"} <= set(kinds)
        assert not {"lipstick", "mouth"} <= set(kinds)
        for region in request.regions:
            assert region.prompt in request.region_prompt
            assert set(region.words) <= set(request.edit_words)


def test_an_instruction_for_several_edits_is_one_sentence(face: MakeFace) -> None:
    editable = EditableFace(face(Male=True))
    changes = [editable.changes["eyeglasses"][0], editable.changes["hat"][0], editable.changes["mouth"][0]]
    case = editable.part_case(changes, "multi_object")
    assert case is not None
    assert case.request.instruction == "close his mouth and give him eyeglasses and a hat"
    assert case.request.region_prompt == "eyeglasses, a hat and a closed mouth"
    assert case.id == "00012-multi-eyeglasses-hat-mouth-neutral"


def test_kinds_by_annotation_hold_all_that_is_made(face: MakeFace) -> None:
    for record in (face(), face(Male=True, Eyeglasses=True), face(Bald=True, Wearing_Hat=True)):
        for category in CATEGORIES:
            kinds = face_kinds(record.attributes, category)
            assert set(kinds) <= set(kind_names(category))
            editable = EditableFace(record)
            for kind in kind_names(category):
                cases = list(editable.cases(category, kind))
                assert all(case.category == category for case in cases)
                assert kind in kinds or not cases


def test_the_same_record_gives_the_same_cases(face: MakeFace) -> None:
    for one, other in zip(face_cases(face()), face_cases(face()), strict=True):
        assert one.id == other.id
        assert one.request.mask.tobytes() == other.request.mask.tobytes()
        assert one.claims == other.claims

"""The mini world: what is drawn, that it is drawn the same everywhere, and that its truths are exact."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.images import mask_array
from protocols.prompts import MINI_CATEGORIES, words_of
from protocols.world.backdrops import BACKDROPS
from protocols.world.faces import CELEBA_ATTRIBUTES, HAIR_COLORS, MOUTHS, render_face, sample_face
from protocols.world.scenes import CATEGORIES, COLORS, TRIMMED, Object, Scene, render_scene, sample_scene
from protocols.world.world import LABELS, MiniWorld, face_case, scene_case

PIXELS = "d7b6b5f629223692"
"""Of 40 faces and 40 scenes. A change of the drawings changes it: raise WORLD_VERSION with it."""


def test_pixels_are_pinned() -> None:
    digest = hashlib.sha256()
    for seed in range(40):
        digest.update(render_face(sample_face(seed))[0].tobytes())
        digest.update(render_scene(sample_scene(seed))[0].tobytes())
    assert digest.hexdigest()[:16] == PIXELS


def test_the_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, again = render_face(sample_face(5))[0], render_face(sample_face(5))[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, render_face(sample_face(6))[0])


@pytest.mark.parametrize(
    ("attribute", "value", "parts"),
    [
        ("Eyeglasses", "yes", {"eye_g"}),
        ("Wearing_Hat", "yes", {"hat"}),
        ("Wearing_Earrings", "yes", {"ear_r"}),
    ],
)
def test_a_changed_attribute_changes_its_part_and_little_else(
    attribute: str, value: str, parts: set[str]
) -> None:
    plain = replace(sample_face(11), eyeglasses=False, hat=False, earrings=False, style="short", male=True)
    before, _ = render_face(plain)
    after, masks = render_face(plain.with_claim(attribute, value))
    changed = (before != after).any(axis=2)
    assert changed.sum() > 20
    inside = np.logical_or.reduce([masks[p] for p in parts])
    # An anti-aliased outline is one pixel wide: everything changed lies within a pixel or two of the part.
    near = inside.copy()
    for dy in (-2, -1, 0, 1, 2):
        for dx in (-2, -1, 0, 1, 2):
            near |= np.roll(inside, (dy, dx), (0, 1))
    assert (changed & ~near).sum() <= 0.1 * changed.sum()


def test_hair_colour_changes_no_pixel_outside_the_hair() -> None:
    face = replace(sample_face(3), style="short", male=True, hat=False, hair="black")
    before, masks = render_face(face)
    after, _ = render_face(face.with_claim("hair_color", "blond"))
    near = masks["hair"].copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            near |= np.roll(masks["hair"], (dy, dx), (0, 1))
    assert not ((before != after).any(axis=2) & ~near).any()


def test_attributes_are_celebas_forty() -> None:
    attributes = sample_face(0).attributes()
    assert tuple(attributes) == CELEBA_ATTRIBUTES
    assert len(CELEBA_ATTRIBUTES) == 40
    assert list(CELEBA_ATTRIBUTES) == sorted(CELEBA_ATTRIBUTES)


def test_sampled_faces_contradict_nothing() -> None:
    for seed in range(500):
        face = sample_face(seed)
        facts = face.attributes()
        assert sum(facts[f"{c.title()}_Hair"] for c in HAIR_COLORS) == (0 if facts["Bald"] else 1)
        assert not (facts["Smiling"] and facts["Mouth_Slightly_Open"])
        assert not (facts["Male"] and facts["Wearing_Lipstick"])
        assert facts["Male"] or facts["No_Beard"]
        assert face.mouth in MOUTHS


def test_categories_are_cocos() -> None:
    assert {c.name: c.supercategory for c in CATEGORIES.values()} == dict(MINI_CATEGORIES)


@pytest.mark.parametrize("name", CATEGORIES)
def test_an_object_stays_in_its_box(name: str) -> None:
    for seed in range(4):
        thing = Object(name, "red", 32.0, 58.0, 16.0, seed)
        _, [mask] = render_scene(Scene(1, "room", (thing,)))
        left, top, right, bottom = thing.box
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert columns[0] >= left - 1.5
        assert columns[-1] + 1 <= right + 1.5
        assert rows[0] >= top - 1.5
        assert rows[-1] + 1 <= bottom + 1.5


@pytest.mark.parametrize("name", COLORS)
@pytest.mark.parametrize("category", ["car", "boat", "umbrella", "suitcase"])
def test_an_object_shows_mostly_its_colour(category: str, name: str) -> None:
    from protocols.colors import dominant_color

    pixels, [mask] = render_scene(Scene(2, "snow", (Object(category, name, 32.0, 58.0, 18.0, 9),)))
    assert dominant_color(pixels[mask], tuple(COLORS)) == name


def test_objects_of_a_scene_neither_touch_nor_repeat() -> None:
    for seed in range(300):
        scene = sample_scene(seed)
        assert 1 <= len(scene.objects) <= 3
        assert len({o.category for o in scene.objects}) == len(scene.objects)
        _, masks = render_scene(scene)
        assert all(0.01 <= mask.mean() <= 0.4 for mask in masks)
        assert np.sum(masks, axis=0).max() == 1


def test_a_background_changes_behind_the_objects_only() -> None:
    scene = Scene(4, "meadow", (Object("suitcase", "red", 30.0, 56.0, 16.0, 7),))
    before, [mask] = render_scene(scene)
    after, _ = render_scene(scene.with_claim("background", "night"))
    core = mask.copy()
    for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        core &= np.roll(mask, (dy, dx), (0, 1))
    assert np.array_equal(before[core], after[core])
    assert (before[~mask] != after[~mask]).any(axis=1).mean() > 0.95


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw Bald=yes"):
        sample_face(0).with_claim("Bald", "yes")
    with pytest.raises(ValueError, match="cannot draw category=zebra"):
        sample_scene(0).with_claim("category", "zebra")


@pytest.mark.parametrize("make", [face_case, scene_case])
def test_the_truth_leaks_nothing_and_changes_something(make) -> None:  # type: ignore[no-untyped-def]
    seen: Counter[str] = Counter()
    for seed in range(120):
        case = make(seed)
        if case is None:
            continue
        seen[case.category] += 1
        source, truth = np.asarray(case.request.source), np.asarray(case.truth)
        mask = mask_array(case.request.mask)
        assert np.array_equal(source[~mask], truth[~mask])
        assert np.abs(source[mask].astype(int) - truth[mask]).mean() > 0.5, case.id
    assert len(seen) == 4


def test_claims_speak_of_what_the_world_labels() -> None:
    world = MiniWorld()
    for index in range(200):
        for claim in world.case(index).claims:
            assert claim.after in LABELS[claim.attribute]
            assert claim.before in (*LABELS[claim.attribute], "unknown")


def test_the_vocabulary_covers_every_prompt() -> None:
    world = MiniWorld()
    known = set(world.words())
    for index in range(200):
        request = world.case(index).request
        for text in (
            request.source_prompt,
            request.target_prompt,
            request.region_prompt,
            request.instruction,
        ):
            assert set(words_of(text)) <= known, text


def test_labels_are_the_pictures_own() -> None:
    world = MiniWorld()
    for index in range(100):
        pixels, region, labels = world.labelled(index)
        assert index % 2 or np.array_equal(pixels, world.picture(index))
        assert region.shape == (64, 64)
        assert region.any()
        assert all(value in LABELS[name] for name, value in labels.items())
        assert labels["background"] in BACKDROPS


def test_a_contrast_differs_from_the_prompt_in_one_attribute() -> None:
    world = MiniWorld()
    for index in range(-20, 0):
        _, text, labels = world.described(index)
        for name, texts in world.contrasts(index).items():
            assert texts[0] == text
            assert len(set(texts)) == len(
                LABELS[name] if name in ("background", "category", "color") else texts
            )
            assert name in labels


def test_held_out_pictures_are_never_trained_on() -> None:
    world = MiniWorld()
    trained = {world.picture(i).tobytes() for i in range(200)}
    assert not trained & {world.picture(-1 - i).tobytes() for i in range(200)}


@pytest.mark.parametrize("category", TRIMMED)
def test_a_trim_changes_thin_parts_of_its_object_alone(category: str) -> None:
    plain = Scene(2, "snow", (Object(category, "red", 32.0, 56.0, 15.0, 9),))
    green, [mask] = render_scene(plain.with_claim("trim", "green"))
    blue, _ = render_scene(plain.with_claim("trim", "blue"))
    changed = (green != blue).any(axis=2)
    # A rim, a stripe or a strap: a part of the object, and its anti-aliased outline.
    assert 0.02 <= (changed & mask).sum() / mask.sum() <= 0.45
    near = mask.copy()
    for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        near |= np.roll(mask, (dy, dx), (0, 1))
    assert not (changed & ~near).any()
    # Fully covered pixels show the colour itself: green has more green than blue, blue more blue than green.
    assert (green[changed].astype(int)[:, 1] > blue[changed][:, 1]).mean() > 0.9


def test_a_trim_can_be_drawn_on_the_classes_that_have_one_alone() -> None:
    scene = Scene(2, "snow", (Object("car", "red", 32.0, 56.0, 15.0, 9),))
    with pytest.raises(ValueError, match="cannot draw trim=green"):
        scene.with_claim("trim", "green")
    # An object that becomes another one loses its trim.
    bus = Scene(2, "snow", (Object("bus", "red", 32.0, 56.0, 15.0, 9, trim="green"),))
    assert bus.with_claim("category", "boat").objects[0].trim is None

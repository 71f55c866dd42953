from __future__ import annotations

import re
from itertools import product

import pytest

from protocols.prompts import (
    BACKGROUNDS,
    COLORS,
    HAIR_COLORS,
    MINI_CATEGORIES,
    MINI_COLORS,
    NOUNS,
    article,
    background_instruction,
    check_backgrounds,
    face_prompt,
    hair_color,
    join,
    mouth,
    noun,
    plural,
    vocabulary,
    with_article,
    words_of,
)


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("orange umbrella", "an orange umbrella"),
        ("umbrella", "an umbrella"),
        ("red umbrella", "a red umbrella"),
        ("airplane", "an airplane"),
        ("elephant", "an elephant"),
        ("oven", "an oven"),
        ("hour", "an hour"),
        ("unicorn", "a unicorn"),
        ("used car", "a used car"),
        ("older woman", "an older woman"),
        ("one-eyed cat", "a one-eyed cat"),
        ("uninvited guest", "an uninvited guest"),
        ("kite", "a kite"),
    ],
)
def test_articles_follow_the_sound(phrase: str, said: str) -> None:
    assert with_article(phrase) == said


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("bus", "buses"),
        ("bench", "benches"),
        ("knife", "knives"),
        ("person", "people"),
        ("sheep", "sheep"),
        ("wine glass", "wine glasses"),
        ("teddy bear", "teddy bears"),
        ("toy", "toys"),
        ("puppy", "puppies"),
        ("toothbrush", "toothbrushes"),
        ("computer mouse", "computer mice"),
        ("skis", "skis"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_lists() -> None:
    assert join(["a hat"]) == "a hat"
    assert join(["eyeglasses", "a hat"]) == "eyeglasses and a hat"
    assert join(["eyeglasses", "a hat", "lipstick"]) == "eyeglasses, a hat and lipstick"
    with pytest.raises(ValueError, match="nothing"):
        join([])


@pytest.mark.parametrize(
    ("facts", "background", "said"),
    [
        (
            {"Male": True, "Brown_Hair": True, "Smiling": True},
            None,
            "a photo of a man with brown hair, smiling",
        ),
        (
            {"Black_Hair": True, "Eyeglasses": True, "Wearing_Hat": True, "Smiling": True},
            "beach",
            "a photo of a woman with black hair on a beach, wearing eyeglasses and a hat, smiling",
        ),
        (
            {"Male": True, "Bald": True, "No_Beard": False, "Mouth_Slightly_Open": True},
            "night",
            "a photo of a bald man with a beard at night, his mouth open",
        ),
        (
            {"Gray_Hair": True, "Young": False, "Wearing_Earrings": True, "Wearing_Lipstick": True},
            None,
            "a photo of an older woman with gray hair, wearing earrings and lipstick, her mouth closed",
        ),
        (
            {"Male": True, "Blond_Hair": True, "No_Beard": False},
            "snow",
            "a photo of a man with blond hair and a beard in the snow, his mouth closed",
        ),
        ({}, None, "a photo of a woman, her mouth closed"),
    ],
)
def test_portraits_are_described_as_a_person_would(
    facts: dict[str, bool], background: str | None, said: str
) -> None:
    assert face_prompt(facts, background) == said


def test_every_portrait_is_said_in_its_own_words_and_grammatically() -> None:
    words = set(vocabulary())
    seen: set[str] = set()
    yes_no = (False, True)
    names = ("Male", "Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Lipstick", "No_Beard", "Young")
    for hair in (*HAIR_COLORS.values(), "Bald", None):
        for state in (None, "Smiling", "Mouth_Slightly_Open"):
            for flags in product(yes_no, repeat=len(names)):
                for background in (None, "room"):
                    facts = dict(zip(names, flags, strict=True)) | {str(hair): True, str(state): True}
                    said = face_prompt(facts, background)
                    seen.add(said)
                    assert set(words_of(said)) <= words
                    assert not re.search(r"  |,,| ,|,$|^ | $|and and|, and", said)
                    for determiner, following in re.findall(r"\b(an?) (\w+)", said):
                        assert determiner == article(following)
    assert len(seen) == 6 * 3 * 2**7 * 2


def test_hair_that_is_not_annotated_or_twice_annotated_has_no_colour() -> None:
    assert hair_color({"Black_Hair": True, "Brown_Hair": True}) is None
    assert hair_color({"Black_Hair": True, "Bald": True}) is None
    assert hair_color({}) is None
    assert hair_color({"Gray_Hair": True, "Black_Hair": False}) == "gray"


def test_a_smile_with_the_mouth_open_is_a_smile() -> None:
    assert mouth({"Smiling": True, "Mouth_Slightly_Open": True}) == "smile"
    assert mouth({"Mouth_Slightly_Open": True}) == "open"
    assert mouth({}) == "neutral"


def test_the_vocabulary_is_small_sorted_and_holds_every_caption() -> None:
    words = vocabulary()
    assert words == sorted(set(words))
    assert len(words) < 100
    for first, second, background in product(MINI_CATEGORIES, MINI_CATEGORIES, [None, *BACKGROUNDS]):
        place = "" if background is None else BACKGROUNDS[background].phrase
        for color in MINI_COLORS:
            objects = join([with_article(f"{color} {noun(category)}") for category in (first, second)])
            assert set(words_of(f"{objects} {place}")) <= set(words)
    assert set(words) < set(vocabulary(NOUNS, COLORS, ["wood"]))
    assert "wooden" in vocabulary(NOUNS, COLORS, ["wood"])


def test_all_classes_of_coco_have_nouns_and_the_rendered_ones_are_among_them() -> None:
    assert len(NOUNS) == 80
    assert set(MINI_CATEGORIES) <= set(NOUNS)
    firsts = [noun(category) for category in NOUNS]
    assert len(set(firsts)) == 80
    assert noun("surprise class") == "surprise class"


def test_instructions_for_backgrounds() -> None:
    assert background_instruction("desert") == "change the background to a desert"
    assert background_instruction("night") == "make it night"


def test_unknown_backgrounds_are_named() -> None:
    check_backgrounds(["beach", "night"])
    with pytest.raises(ValueError, match="moon"):
        check_backgrounds(["moon"])
    with pytest.raises(ValueError, match="choose from meadow"):
        check_backgrounds([])

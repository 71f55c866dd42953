"""Which words belong to which region: by hand-made prompts with known answers, and properties of any prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.edit import EditRequest, Region
from methods.prompt_edit_diff.tags import Tagged, back, render, split, tag, tag_request, to_tokens
from tests.methods.conftest import tiny_tokenizer


def shown(target: str, source: str = "", *regions: tuple[str, tuple[str, ...]]) -> str:
    return render(tag(target, source, regions or (("", ()),)))


def test_named_words_are_found_where_they_stand_together() -> None:
    assert (
        shown("a green cup and a green suitcase in a desert", "", ("", ("green", "suitcase")))
        == "a green cup and a [green suitcase](1) in a desert"
    )


def test_a_word_that_stands_twice_is_taken_where_the_prompts_differ() -> None:
    assert shown("red, blue, red", "red, blue, green", ("", ("red",))) == "red, blue, [red](1)"
    assert shown("red, blue, red", "green, blue, red", ("", ("red",))) == "[red](1), blue, red"
    assert shown("red, blue, red", "", ("", ("red",))) == "[red](1), blue, red"


def test_regions_do_not_take_each_others_words() -> None:
    target = "a purple ball, a green suitcase and a green bus in a desert"
    regions = [("", ("purple", "ball")), ("", ("green", "suitcase")), ("", ("green", "bus"))]
    expected = "a [purple ball](1), a [green suitcase](2) and a [green bus](3) in a desert"
    assert shown(target, "", *regions) == expected
    assert shown("a red car and a red bus", "", ("", ("red",)), ("", ("red",))) == (
        "a [red](1) car and a [red](2) bus"
    )


def test_a_word_that_stands_once_can_serve_two_regions() -> None:
    tagged = tag("red cars", "", [("", ("red",)), ("", ("red",))])
    assert tagged.regions == ((0,), (0,))
    assert render(tagged) == "[red](1,2) cars"


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a blue ball in the snow", "a green ball in the snow", "a [green ball](1) in the snow"),
        (
            "a photo of a woman with brown hair, smiling",
            "a photo of a woman with brown hair in a desert, smiling",
            "a photo of a woman with brown hair in a [desert](1), smiling",
        ),
        ("a man, smiling", "a man, his mouth closed", "a man, his [mouth closed](1)"),
        (
            "a man wearing earrings",
            "a man wearing a hat and earrings",
            "a man wearing a [hat](1) and earrings",
        ),
    ],
)
def test_without_words_the_difference_of_the_prompts_is_taken_with_its_noun_phrases(
    source: str, target: str, expected: str
) -> None:
    tagged = tag(target, source)
    assert render(tagged) == expected
    assert tagged.how == ("difference",)


def test_without_any_difference_noun_phrases_are_taken() -> None:
    of_region = tag("a dog on a red sofa", "", [("a red sofa", ())])
    assert render(of_region) == "a dog on a [red sofa](1)"
    unknown = tag("a dog on a red sofa")
    assert render(unknown) == "a [dog](1) on a [red sofa](1)"
    assert of_region.how == unknown.how == ("noun phrases",)
    removed = tag("a dog", "a dog with a hat")
    assert render(removed) == "a [dog](1)"


def test_nothing_to_say_is_no_tag() -> None:
    for text in ("", "of the and", "?!"):
        tagged = tag(text)
        assert tagged.regions == ((),)
        assert tagged.how == ("nothing",)
        assert render(tagged) == text


def test_several_regions_without_words_go_by_their_own_prompts() -> None:
    target = "an orange bottle and a pink bus in a desert"
    tagged = tag(
        target, "a green bottle and a pink car in a desert", [("an orange bottle", ()), ("a pink bus", ())]
    )
    assert render(tagged) == "an [orange bottle](1) and a [pink bus](2) in a desert"


def test_a_request_with_regions_is_tagged_by_them() -> None:
    picture, mask = Image.new("RGB", (8, 8)), Image.new("L", (8, 8), 255)
    one = EditRequest(picture, mask, "a man", "a man with a hat", "a hat", "give him a hat", ("hat",))
    assert render(tag_request(one)) == "a man with a [hat](1)"
    both = EditRequest(
        picture, mask, "a man", "a man with a hat and a beard", "a hat and a beard", "", ("hat", "beard"),
        (Region(mask, "a beard", ("beard",)), Region(mask, "a hat", ("hat",))),
    )  # fmt: skip
    assert render(tag_request(both)) == "a man with a [hat](2) and a [beard](1)"


def test_the_way_back_tags_what_stood_there() -> None:
    def way_back(target: str, source: str, *words: str) -> str:
        return render(back(tag(target, source, [("", words)]), source))

    assert way_back("a green ball at night", "a blue ball at night", "green", "ball") == (
        "a [blue ball](1) at night"
    )
    assert way_back("a man, his mouth open", "a man, smiling", "mouth", "open") == "a man, [smiling](1)"
    # Something added has nothing that stood there; what stayed alone says nothing.
    assert way_back("a man in a hat", "a man", "hat") == "a man"
    assert way_back("a man with blond hair", "a man with hair", "blond", "hair") == "a man with hair"


def test_many_repeated_words_take_no_time() -> None:
    text = " ".join(["red", "car"] * 200)
    assert tag(text, "", [("", ("red", "car"))]).regions == ((0, 1),)


def test_tokens_follow_their_words() -> None:
    tokenizer = tiny_tokenizer()  # a token for each letter
    tagged = tag("a red car", "", [("", ("red", "car"))])
    # One region in the first prompt, two in the second.
    coded = to_tokens(tokenizer, [tagged, tag("hi", "", [("", ()), ("", ("hi",))])], length=16)
    assert coded.ids.shape == (2, 16)
    # Two regions at most.
    assert coded.member.shape == (2, 2, 16)
    expected = tokenizer(
        ["a red car", "hi"], padding="max_length", max_length=16, truncation=True
    ).input_ids  # the ids of a plain call
    assert coded.ids.tolist() == expected
    # start, a, r, e, d, c, a, r, end, ...
    assert np.flatnonzero(coded.member[0, 0]).tolist() == [2, 3, 4, 5, 6, 7]
    assert np.flatnonzero(coded.words[0]).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert not coded.member[0, 1].any()
    assert np.flatnonzero(coded.member[1, 1]).tolist() == [1, 2]


def test_words_beyond_the_length_are_lost() -> None:
    coded = to_tokens(tiny_tokenizer(), [tag("abcdef xyz", "", [("", ("xyz",))])], length=6)
    assert not coded.member.any()
    assert coded.words.sum() == 4


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="use_fast"):
        to_tokens(Slow(), [tag("a")])


WORDS = st.lists(st.sampled_from(["a", "red", "blue", "car", "and", "hat", "it's", ","]), max_size=12).map(
    " ".join
)


@settings(max_examples=200, deadline=None)
@given(
    WORDS,
    WORDS,
    st.lists(st.tuples(WORDS, st.lists(st.sampled_from(["red", "car"]), max_size=2)), max_size=3),
)
def test_any_prompt_gives_sound_tags(target: str, source: str, regions: list[tuple[str, list[str]]]) -> None:
    tagged = tag(target, source, regions)
    assert len(tagged.regions) == len(tagged.how) == len(regions)
    for region, how, (_, words) in zip(tagged.regions, tagged.how, regions, strict=True):
        assert list(region) == sorted(set(region))
        assert all(0 <= i < len(tagged.words) for i in region)
        assert bool(region) == (how != "nothing")
        # All named words that occur are tagged.
        if how == "words":
            present = {word.text for word in tagged.words} & set(words)
            assert {tagged.words[i].text for i in region} == present
    # Without its marks the rendered text is the prompt.
    plain = render(tagged)
    for number in ("1", "2", "3", "1,2", "1,3", "2,3", "1,2,3"):
        plain = plain.replace(f"]({number})", "")
    assert plain.replace("[", "") == target
    assert isinstance(back(tagged, source), Tagged)
    assert all(target[w.start : w.end].lower() == w.text for w in split(target))

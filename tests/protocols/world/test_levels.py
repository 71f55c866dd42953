"""The protocols of levels 2 and 3, and a training source that mixes levels."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.casefile import CaseFile, protocol_info, write_cases
from bench.edit import EditCase
from bench.errors import BenchError
from bench.images import mask_array
from bench.registry import parse_options
from protocols.colors import dominant_color
from protocols.prompts import RELATION_WORDS, vocabulary, words_of
from protocols.selection import ProtocolError
from protocols.world import level2, level3
from protocols.world.levels import WorldLevel2, WorldLevel3
from protocols.world.scenes import COLORS
from protocols.world.world import MiniWorld

DIGESTS = {WorldLevel2: "d739ee279edf", WorldLevel3: "53bcafdc122f"}
STREAM = "c8472f87b67b175b"
"""Of examples of level 1 as they were before there were other levels."""

KINDS = {*level2.PAPER_CATEGORIES, *level3.PAPER_CATEGORIES}


@pytest.fixture(scope="module", params=[WorldLevel2, WorldLevel3])
def protocol(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    return request.param(parse_options(request.param, {}))


def pixels(case: EditCase) -> bytes:
    assert case.truth is not None
    return case.request.source.tobytes() + case.request.mask.tobytes() + case.truth.tobytes()


def test_fifty_cases_of_each_kind_all_different(protocol) -> None:  # type: ignore[no-untyped-def]
    cases = list(protocol.cases())
    assert Counter(case.category for case in cases) == dict.fromkeys(protocol.categories, 50)
    assert len({case.id for case in cases}) == len(cases)
    assert len({case.request.source.tobytes() for case in cases}) == len(cases)


def test_digests_are_pinned(protocol) -> None:  # type: ignore[no-untyped-def]
    assert protocol.digest == DIGESTS[type(protocol)]


def test_the_same_case_is_drawn_again(protocol) -> None:  # type: ignore[no-untyped-def]
    cases = protocol.cases()
    for index in range(0, len(cases), 37):
        assert pixels(cases[index]) == pixels(cases[index])


def test_more_cases_keep_those_that_there_are(protocol) -> None:  # type: ignore[no-untyped-def]
    cls = type(protocol)
    few = cls(cls.Options(cases_per_category=2)).cases()
    whole = {case.id: case for case in protocol.cases()}
    assert len(few) == 2 * len(protocol.categories)
    assert all(pixels(case) == pixels(whole[case.id]) for case in few)


def test_reference_images_are_no_sources(protocol) -> None:  # type: ignore[no-untyped-def]
    cls = type(protocol)
    reference = {image.tobytes() for image in cls(cls.Options(reference_count=60)).reference()}
    assert len(reference) == 60
    assert not reference & {case.request.source.tobytes() for case in protocol.cases()}


def test_cases_come_back_from_disk_with_their_scored_regions(protocol, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cases = list(protocol.cases())[::25]
    info = protocol_info(protocol)
    assert info.get("ceilings", {}) == dict(protocol.ceilings)
    stored = write_cases(tmp_path / "cases", cases, info)
    assert isinstance(stored, CaseFile)
    for case, again in zip(cases, stored, strict=True):
        assert pixels(case) == pixels(again)
        assert [area.tobytes() for area in case.areas] == [area.tobytes() for area in again.areas]


def test_ceilings_are_of_kinds_that_there_are() -> None:
    assert WorldLevel2.ceilings == {"swap2": 0.5, "perm3": pytest.approx(1 / 6)}
    assert set(WorldLevel2.ceilings) <= set(WorldLevel2.categories)
    assert WorldLevel3.ceilings == {}


@pytest.mark.parametrize("values", [{"cases_per_category": 0}, {"reference_count": 0}, {"colours": 3}])
def test_bad_options_are_named(values: dict[str, int]) -> None:
    with pytest.raises((ValueError, BenchError), match=next(iter(values))):
        parse_options(WorldLevel2, values)


# --- the training source --------------------------------------------------------------------------------


def test_the_stream_of_level_1_is_what_it_was() -> None:
    world, digest = MiniWorld(), hashlib.sha256()
    for index in (*range(12), -1, -2, -3, -4):
        case = world.case(index)
        request = case.request
        texts = [request.source_prompt, request.target_prompt, request.instruction, request.region_prompt]
        digest.update(repr([case.id, *texts, case.claims]).encode())
        for image in (request.source, request.mask, case.truth):
            assert image is not None
            digest.update(image.tobytes())
        shown, region, labels = world.labelled(index)
        digest.update(shown.tobytes() + region.tobytes() + repr(sorted(labels.items())).encode())
        shown, text, labels = world.described(index)
        digest.update(shown.tobytes() + text.encode() + repr(sorted(labels.items())).encode())
        digest.update(world.picture(index).tobytes())
        digest.update(repr(world.contrasts(index)).encode())
    digest.update(repr([world.version, list(world.words()), world.labels()]).encode())
    assert digest.hexdigest()[:16] == STREAM


@pytest.mark.parametrize("levels", [(), (4,), (1, 1), (0, 1)])
def test_other_levels_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match=r"levels is .* name one or more of 1, 2 and 3"):
        MiniWorld(levels)


def test_a_mixed_world_has_faces_and_the_scenes_of_its_levels() -> None:
    world = MiniWorld((1, 2, 3))
    of_even = {world.case(index).category for index in range(0, 40, 2)}
    assert not of_even & KINDS
    of_odd = Counter(world.case(index).category for index in range(1, 400, 2))
    assert set(of_odd) >= KINDS
    composed = sum(of_odd[kind] for kind in KINDS)
    # Two levels of three. Of 200 draws, 2/3 lie within five standard deviations, 0.033 each.
    assert abs(composed / 200 - 2 / 3) < 0.17


def test_a_world_of_composed_levels_alone_has_nothing_of_level_1() -> None:
    world = MiniWorld((2, 3))
    assert {world.case(index).category for index in range(60)} <= KINDS


def test_held_out_examples_of_a_mixed_world_are_never_trained_on() -> None:
    world = MiniWorld((2, 3))
    trained = {world.picture(index).tobytes() for index in range(150)}
    assert not trained & {world.picture(-1 - index).tobytes() for index in range(150)}


def test_labels_of_a_mixed_world_are_what_the_region_shows() -> None:
    world = MiniWorld((2, 3))
    assert world.labels()["trim"] == tuple(COLORS)
    names: Counter[str] = Counter()
    hits: list[bool] = []
    for index in range(200):
        shown, region, labels = world.labelled(index)
        assert region.any()
        assert all(value in world.labels()[name] for name, value in labels.items())
        names.update(labels.keys())
        # The colour that most pixels vote for, by a rule that knows nothing of the world. A region may be a trim alone.
        vote = dominant_color(shown[region], tuple(COLORS))
        if "color" in labels and "trim" not in labels and vote is not None:
            hits.append(vote == labels["color"])
    assert names["trim"] > 15
    assert names["color"] > 150
    # Small objects lie on grass and sand, which vote too. By chance one vote of seven would agree.
    assert len(hits) > 60
    assert np.mean(hits) > 0.7


def test_training_regions_do_not_tell_the_class() -> None:
    world = MiniWorld((2,))
    indices = [index for index in range(250) if world.case(index).category == "cross2"]
    others = 0
    for index in indices:
        _, region, labels = world.labelled(index)
        case = world.case(index)
        # The two regions of the case are the boxes of its objects before the edit. Another class may be shown there.
        for number, one in enumerate(case.request.regions):
            if (region == mask_array(one.mask)).all():
                (old,) = (c.before for c in case.claims if (c.region, c.attribute) == (number, "category"))
                others += labels["category"] != old
    # A fifth of the regions are such boxes. 5 of 50 is two standard deviations less.
    assert len(indices) > 45
    assert others >= 5


def test_prompts_of_a_mixed_world_use_its_words_and_may_name_a_trim() -> None:
    world = MiniWorld((1, 2, 3))
    words = set(world.words())
    trims = 0
    for index in range(1, 120, 2):
        case = world.case(index)
        for text in (case.request.target_prompt, case.request.instruction, case.request.source_prompt):
            assert set(words_of(text)) <= words
        _, text, labels = world.described(index)
        assert set(words_of(text)) <= words
        if "trim" in labels:
            trims += 1
            assert f"with {'an' if labels['trim'] == 'orange' else 'a'} {labels['trim']} trim" in text
            contrasts = world.contrasts(index)
            assert len(set(contrasts["trim"])) == len(COLORS)
            assert all("trim" in other for other in contrasts["category"])
    assert trims > 5


def test_new_words_come_after_all_old_ones_and_move_no_token() -> None:
    from methods.zoo.text import build_tokenizer, merges_for

    old, new = list(MiniWorld().words()), list(MiniWorld((1, 3)).words())
    assert old == vocabulary()
    assert new == [*old, *RELATION_WORDS]
    assert len(set(new)) == len(new)
    assert RELATION_WORDS[:13] == (
        "left", "right", "above", "below", "middle", "same", "color", "colors",
        "as", "swap", "both", "two", "trim",
    )  # fmt: skip
    assert merges_for(new)[: len(merges_for(old))] == merges_for(old)
    before, after = build_tokenizer(old), build_tokenizer(new)
    numbers, special = before.get_vocab(), set(before.all_special_tokens)
    assert all(
        after.get_vocab()[token] == number for token, number in numbers.items() if token not in special
    )
    # Each word is one token: start, word, end.
    assert all(len(after(word).input_ids) == 3 for word in new)
    # The end token keeps the highest number, which OpenCLIP pools by.
    assert after.eos_token_id == max(after.get_vocab().values())


def test_spoiled_edits_of_a_mixed_world_are_read_in_the_scored_regions() -> None:
    from methods.zoo import failures

    world = MiniWorld((3,))
    case = next(case for index in range(50) if (case := world.case(index)).category == "relational")
    assert case.request.regions == ()
    assert failures.regions(case) == len(case.areas) > 1
    example = failures.ideal(case, 1)
    assert np.array_equal(example.region, mask_array(case.areas[1]))

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.edit import Region, Runtime
from methods.attention_maps.words import tokens_of
from methods.dynamic_prompt_learning import losses
from methods.dynamic_prompt_learning.learning import Learner, replaced
from methods.dynamic_prompt_learning.method import DynamicPromptLearning
from methods.dynamic_prompt_learning.nouns import nouns_of, nouns_of_regions
from methods.prompt_edit_diff import tags
from methods.prompt_to_prompt.method import PromptToPrompt
from tests.methods.conftest import box_mask
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> DynamicPromptLearning:
    settings = {"weights": weights, "steps": 2, "map_factor": 2, "learning_steps": 2} | options
    return DynamicPromptLearning(DynamicPromptLearning.Options(**settings), Runtime())


def asked(seed: int = 1, **changes: Any) -> Any:
    return replace(
        small(seed),
        source_prompt="a red cup",
        target_prompt="a blue cup",
        edit_words=("blue", "cup"),
        **changes,
    )


# --- nouns ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer with one token per word."""
    from methods.zoo.text import build_tokenizer

    return build_tokenizer(["a", "red", "blue", "small", "car", "bus", "and", "cup", "in", "the", "snow"])


def positions(nouns: list[Any]) -> list[tuple[list[int], list[list[int]], int | None]]:
    return [(noun.tokens.tolist(), [a.tolist() for a in noun.adjectives], noun.region) for noun in nouns]


def test_nouns_are_the_last_words_of_runs_of_content_words(words: Any) -> None:
    # Token 0 is the start.
    (tokens,) = tokens_of(words, ["a small red car, a cup and a bus in the snow"])
    found = positions(nouns_of(tokens))
    assert found == [([4], [[2], [3]], None), ([7], [], None), ([10], [], None), ([13], [], None)]


def test_nouns_of_regions_stand_where_the_edit_changes_the_prompt(words: Any) -> None:
    source, target = "a red car and a cup in the snow", "a blue bus and a cup in the snow"
    (tokens,) = tokens_of(words, [source])
    tagged = tags.tag(target, source, [("a blue bus", ("blue", "bus"))])
    assert positions(nouns_of_regions(tokens, tags.back(tagged, source))) == [([3], [[2]], 0)]
    # An edit that only adds has no word in the source.
    short = "a red car and a cup"
    added = tags.tag("a red car and a cup and a bus", short, [("a bus", ("bus",))])
    assert nouns_of_regions(tokens_of(words, [short])[0], tags.back(added, short)) == []


# --- losses -----------------------------------------------------------------------------------------


def test_the_losses_have_their_known_values() -> None:
    left, right = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    everywhere = torch.ones(4)
    both = torch.stack([left, right])
    assert losses.disjoint(both).item() == pytest.approx(0, abs=1e-6)
    assert losses.disjoint(torch.stack([left, left])).item() == pytest.approx(1)
    assert losses.disjoint(torch.stack([left, right, left])).item() == pytest.approx(1 / 3)
    assert losses.disjoint(left[None]).item() == 0
    assert losses.similarity(both, both).item() == pytest.approx(0, abs=1e-6)
    assert losses.similarity(everywhere[None], left[None]).item() == pytest.approx(1 - 0.5**0.5)
    assert losses.overlap(everywhere[None], left[None]).item() == pytest.approx(0.5)
    assert losses.overlap(both, both.flip(0)).item() == pytest.approx(1)
    assert losses.binding(everywhere[None], left[None]).item() == pytest.approx(1 - 0.5**0.5)
    assert losses.binding(both[:0], both[:0]).item() == 0


def test_a_word_of_several_tokens_has_the_mean_of_their_maps() -> None:
    maps = torch.arange(12.0).reshape(3, 4)
    result = losses.word_maps(maps, [torch.tensor([1, 2]), torch.tensor([3])])
    assert result.tolist() == [[1.5, 5.5, 9.5], [3.0, 7.0, 11.0]]
    assert losses.word_maps(maps, []).shape == (0, 3)


# --- learning ---------------------------------------------------------------------------------------


def learner_of(method: DynamicPromptLearning, requests: list[Any]) -> tuple[Learner, Tensor, Tensor, Tensor]:
    z = torch.randn(len(requests), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return *method._learner(requests, z), z


def test_learnt_vectors_replace_tokens_while_the_hook_is_set_and_no_longer(tiny_folder: Folder) -> None:
    method = make(tiny_folder(4))
    encoder = method.pipeline.text_encoder
    learner, _, _, _ = learner_of(method, [asked()])
    with torch.no_grad():
        own = encoder(learner.ids)[0]
        initial = learner.initial()
        # The nouns' own embeddings change nothing.
        assert torch.allclose(learner.text(learner.ids, learner.slots, initial), own, atol=1e-6)
        changed = learner.text(learner.ids, learner.slots, initial.flip(2))
        assert (changed - own).abs().max() > 0.01
        with pytest.raises(RuntimeError), replaced(encoder, learner.slots, initial.flip(2)):
            raise RuntimeError
        assert torch.equal(encoder(learner.ids)[0], own)


def test_a_word_that_the_target_keeps_keeps_its_vector(tiny_folder: Folder) -> None:
    learner, ids, slots, _ = learner_of(make(tiny_folder(4)), [asked()])
    # "cup" has one token a letter, and one slot each.
    tokenizer = make(tiny_folder(4)).pipeline.tokenizer
    for side_ids, side_slots in ((learner.ids, learner.slots), (ids, slots)):
        learnt = side_ids[0][side_slots[0] >= 0]
        assert tokenizer.decode(learnt).replace(" ", "") == "cup"
        assert side_slots[0][side_slots[0] >= 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("prior", ["mask", "none"])
def test_learning_lowers_the_losses_of_each_image_by_itself(tiny_folder: Folder, prior: str) -> None:
    method = make(tiny_folder(4), prior=prior, learning_steps=3)
    requests = [asked(1), asked(2, mask=box_mask(16, 16, 32, 32, SMALL))]
    learner, _, _, z = learner_of(method, requests)
    start = learner.initial()
    together = learner.learnt(start, z, 500, 0.0)

    def total(vectors: Tensor) -> list[float]:
        from methods.attention_maps.processor import AttentionRecorder, predicted

        recorder = AttentionRecorder(64)
        with torch.no_grad():
            predicted(learner.unet, z, 500, learner.text(learner.ids, learner.slots, vectors), recorder)
            maps = recorder.mean()
            return [float(sum(learner._losses(n, maps[n]).values())) for n in range(2)]

    assert all(after < before for after, before in zip(total(together), total(start), strict=True))
    for n, one in enumerate(requests):
        alone, _, _, _ = learner_of(method, [one])
        assert torch.allclose(
            alone.learnt(start[n : n + 1], z[n : n + 1], 500, 0.0), together[n : n + 1], atol=2e-4
        )


def test_without_a_noun_to_learn_it_is_prompt_to_prompt(tiny_folder: Folder) -> None:
    one = replace(asked(), source_prompt="a cup", target_prompt="a cup and hat", edit_words=("hat",))
    settings = {"weights": tiny_folder(4), "steps": 2, "map_factor": 2}
    plain = PromptToPrompt(PromptToPrompt.Options(**settings), Runtime()).edit([one])
    learnt = make(tiny_folder(4)).edit([one])
    assert np.abs(np.asarray(plain[0], int) - np.asarray(learnt[0], int)).max() <= 1


def test_every_option_has_an_effect(tiny_folder: Folder) -> None:
    left = box_mask(0, 0, 16, 32, SMALL)
    one = asked(mask=left, regions=(Region(left, "a blue cup", ("blue", "cup")),))
    plain = make(tiny_folder(4), learning_steps=3).edit([one])[0].tobytes()
    for options in ({"prior": "none"}, {"learning_steps": 1}, {"inversion": "null_text", "null_steps": 1}):
        changed = make(tiny_folder(4), **{"learning_steps": 3} | options).edit([one])[0].tobytes()
        assert changed != plain, options


def test_unfit_options_are_named_before_anything_loads(tiny_folder: Folder) -> None:
    settings: dict[str, Any] = {"weights": tiny_folder(4), "map_factor": 2, "learning_steps": 0}
    (problem,) = DynamicPromptLearning.problems(DynamicPromptLearning.Options(**settings))
    assert "learning_steps 0" in problem

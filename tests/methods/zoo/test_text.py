"""The tokenizer: one token for each word, the same after saving, and any other text still encodable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from methods.zoo.text import (
    LENGTH,
    build_text_encoder,
    build_tokenizer,
    load_with_new_words,
    merges_for,
    tokenize,
)
from protocols.world.world import MiniWorld

WORDS = tuple(MiniWorld().words())


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(WORDS)


def test_every_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in WORDS:
        assert len(tokenizer(word).input_ids) == 3, word


def test_words_within_words_stay_whole() -> None:
    words = ["hair", "chair", "air", "hairs", "a", "repair"]
    tokenizer_of_words = build_tokenizer(words)
    assert all(len(tokenizer_of_words(word).input_ids) == 3 for word in words)
    assert len(set(merges_for(words))) == len(merges_for(words))


def test_unknown_words_are_spelt_not_lost(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("zebra naïve").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1] or tokenizer.unk_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["zebra", "naïve"]


def test_saved_and_loaded_it_is_the_same(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(str(tmp_path))
    again = CLIPTokenizer.from_pretrained(str(tmp_path))
    text = "a photo of a woman with black hair, wearing eyeglasses"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == LENGTH


def test_every_prompt_of_the_world_fits(tokenizer: CLIPTokenizer) -> None:
    world = MiniWorld()
    # Start and end included.
    longest = max(
        len(tokenizer(text).input_ids)
        for index in range(300)
        for text in (world.case(index).request.target_prompt, world.case(index).request.instruction)
    )
    assert longest <= LENGTH


def test_padding_is_the_pipelines(tokenizer: CLIPTokenizer) -> None:
    rows = tokenize(tokenizer, ["a red car", ""])
    assert rows.shape == (2, LENGTH)
    assert rows[1, 0] == tokenizer.bos_token_id
    assert (rows[1, 1:] == tokenizer.eos_token_id).all()
    features = build_text_encoder(tokenizer)(rows).last_hidden_state
    assert features.shape == (2, LENGTH, 128)


def test_a_larger_vocabulary_keeps_every_token_of_the_old_one() -> None:
    old, new = build_tokenizer(["a", "red", "car"]), build_tokenizer(["a", "red", "car", "trim"])
    torch.manual_seed(0)
    before, after = build_text_encoder(old).eval(), build_text_encoder(new).eval()
    load_with_new_words(after, before.state_dict(), "embeddings.token_embedding.weight")
    texts = ["a red car", "car car"]
    a, b = (m(tokenize(t, texts)).last_hidden_state for m, t in ((before, old), (after, new)))
    assert torch.equal(a, b)


def test_a_smaller_vocabulary_is_refused() -> None:
    old, new = build_tokenizer(["a", "red", "car", "trim"]), build_tokenizer(["a", "red", "car"])
    with pytest.raises(ValueError, match="train from scratch"):
        load_with_new_words(
            build_text_encoder(new), build_text_encoder(old).state_dict(), "embeddings.token_embedding.weight"
        )

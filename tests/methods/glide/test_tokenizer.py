from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from methods.glide.tokenizer import byte_pairs, words
from methods.weights import WeightsError
from methods.zoo.text import build_tokenizer, byte_symbols

MERGES = [
    ("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("Ġw", "o"), ("r", "l"), ("Ġwo", "rl"), ("hell", "o"),
    ("Ġ", "a"), ("'", "t"), ("Ã", "©"), ("1", "2"), ("Ġ", "hell"), ("a", "a"),
]  # fmt: skip


def save(folder: Path, pairs: list[tuple[str, str]] = MERGES, end: bool = True) -> tuple[Path, Path]:
    """Files of the published form, over a vocabulary of 256 bytes and a few merges."""
    tokens = [*byte_symbols(), *("".join(pair) for pair in pairs), *(["<|endoftext|>"] if end else [])]
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe.gz"
    encoder.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs), ""]
    merges.write_bytes(gzip.compress("\n".join(lines).encode()))
    return encoder, merges


def independent(text: str, pairs: list[tuple[str, str]] = MERGES) -> list[str]:
    """Byte pairs by the definition: in each word, merge every occurrence of the pair of least rank, and again."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    symbols = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
    out = []
    for word in re.findall(pattern, text.lower()):
        pieces = [symbols[b] for b in word.encode()]
        for pair in pairs:
            merged: list[str] = []
            for piece in pieces:
                if merged and (merged[-1], piece) == pair:
                    merged[-1] += piece
                else:
                    merged.append(piece)
            pieces = merged
        out += pieces
    return out


TEXTS = [
    "Hello world", "  HELLO  hello", "don't WON'T", "café Über 東京", "12 123, a_a!", "tab\tnew\nline", "aaaaa",
    "<|endoftext|> a",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_byte_pairs_are_an_independent_implementations(tmp_path: Path, text: str) -> None:
    encoder, merges = save(tmp_path)
    numbers = json.loads(encoder.read_text())
    assert byte_pairs(encoder, merges).split(text) == [numbers[piece] for piece in independent(text)]


def test_prompts_are_cut_and_padded_without_start_or_end(tmp_path: Path) -> None:
    tokenizer = byte_pairs(*save(tmp_path))
    ids, present = tokenizer(["hello", "", "a" * 40], 6)
    end = 256 + len(MERGES)
    assert ids[0].tolist() == [256 + 7, end, end, end, end, end]
    assert present.tolist() == [[True, *[False] * 5], [False] * 6, [True] * 6]
    assert ids[1].tolist() == [end] * 6
    assert tokenizer.vocabulary == end + 1


def test_the_zoos_words_are_single_tokens() -> None:
    visible = build_tokenizer(["a", "red", "car"])
    tokenizer = words(visible)
    ids, present = tokenizer(["a red car", ""], 5)
    assert visible.convert_ids_to_tokens(ids[0, :3].tolist()) == ["a</w>", "red</w>", "car</w>"]
    assert present.sum(1).tolist() == [3, 0]
    assert ids[0, 3:].tolist() == [visible.eos_token_id] * 2


def test_files_that_are_not_the_published_ones_are_named(tmp_path: Path) -> None:
    encoder, merges = save(tmp_path)
    with pytest.raises(WeightsError, match=r"encoder\.json: 271 tokens, expected the 50257"):
        byte_pairs(encoder, merges, 50257)
    wrong = tmp_path / "wrong"
    wrong.write_text("[1]")
    with pytest.raises(WeightsError, match=r"wrong: expected GPT-2's encoder\.json"):
        byte_pairs(wrong, merges)
    wrong.write_text("{")
    with pytest.raises(WeightsError, match=r"wrong: cannot be read as JSON"):
        byte_pairs(wrong, merges)
    wrong.write_text("#version\nh e\nx y z\n")
    with pytest.raises(WeightsError, match=r"wrong: expected GPT-2's vocab\.bpe"):
        byte_pairs(encoder, wrong)
    broken = tmp_path / "vocab.bpe.gz"
    broken.write_bytes(b"no gzip")
    with pytest.raises(WeightsError, match=r"vocab\.bpe\.gz: cannot be read"):
        byte_pairs(encoder, broken)

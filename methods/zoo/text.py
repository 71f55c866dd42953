"""The zoo's tokenizer and text encoder: real CLIP classes, over a vocabulary that the mini world fills.

Every word of the world is one token of a byte-pair tokenizer, so that a text encoder of two layers need not
learn to spell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

LENGTH = 40
"""Tokens per prompt, the two ends included."""
WIDTH = 128

CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": LENGTH,
    "hidden_act": "gelu",
}


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in its order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def merges_for(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make one token of every word (lower-case ASCII), in the order of their rank.

    A merge is appended only where the merges so far leave a word in pieces; as later merges rank lower, a
    word that is whole stays whole.
    """
    merges: list[tuple[str, str]] = []
    rank: dict[tuple[str, str], int] = {}
    for word in sorted(set(words)):
        pieces = _split(word, rank)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            rank[pair] = len(merges)
            merges.append(pair)
            pieces = _split(word, rank)
    return merges


def _split(word: str, rank: dict[tuple[str, str], int]) -> list[str]:
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda p: rank.get(p, len(rank)))
        if best not in rank:
            break
        at = pairs.index(best)
        pieces[at : at + 2] = ["".join(best)]
    return pieces


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A CLIPTokenizer to which each of ``words``, and each punctuation mark, is one token."""
    from transformers import CLIPTokenizer

    merges = merges_for(words)
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(m) for m in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            **CONFIG,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Texts => int64 (N, LENGTH), padded and truncated as diffusers' pipelines do it."""
    out = tokenizer(
        list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    assert isinstance(out, torch.Tensor)
    return out

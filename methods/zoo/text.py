"""The zoo's tokenizer and text encoder: CLIP's classes, over the vocabulary of the mini world.

Every word of the world is one token of a byte-pair tokenizer, so a text encoder of two layers need not learn spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

# Tokens per prompt, start and end included.
LENGTH = 40
WIDTH = 128
# Start and end of a text, the last tokens of the vocabulary.
SPECIAL = 2

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
    # Printable bytes stand for themselves, the others for symbols from 256 on.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def merges_for(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make one token of every word (lower-case ASCII), in the order of their rank.

    Words at the end change no merge of those before them. Their tokens come last, only the special tokens after them.
    """
    # A merge is added only where the merges so far leave a word in pieces. Later merges rank lower, so a word that is
    # one token stays one.
    merges: list[tuple[str, str]] = []
    rank: dict[tuple[str, str], int] = {}
    for word in dict.fromkeys(words):
        pieces = _split(word, rank)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            rank[pair] = len(merges)
            merges.append(pair)
            pieces = _split(word, rank)
    return merges


def _split(word: str, rank: dict[tuple[str, str], int]) -> list[str]:
    """The pieces of a word under the merges, as a byte-pair tokenizer computes them."""
    # CLIP's tokenizer marks the last character of a word.
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        # The pair with the lowest rank merges first.
        best = min(pairs, key=lambda p: rank.get(p, len(rank)))
        if best not in rank:
            break
        first = pairs.index(best)
        pieces[first : first + 2] = ["".join(best)]
    return pieces


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A CLIPTokenizer in which each of ``words``, and each punctuation mark, is one token."""
    from transformers import CLIPTokenizer

    # The vocabulary: bytes, bytes at the end of a word, merged pieces, special tokens.
    merges = merges_for(words)
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(m) for m in merges)]
    # Two merges may give the same piece, which has one id. The order is fixed: checkpoints store embeddings by id.
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A new text encoder for this vocabulary."""
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


def load_with_new_words(network: nn.Module, state: Mapping[str, Tensor], embedding: str) -> None:
    """Load the weights of a network that knew fewer words. New words get random embeddings, the same at every call.

    ``embedding`` names the token embedding in ``state``, (words, width). Raises ValueError where the network knows
    fewer words than ``state``.
    """
    rows = len(network.state_dict()[embedding])
    if rows < len(state[embedding]):
        raise ValueError(
            f"{embedding} has {len(state[embedding])} words, the world only {rows}: train from scratch"
        )
    network.load_state_dict({**state, embedding: with_new_words(state[embedding], rows)})


def with_new_words(embedding: Tensor, rows: int) -> Tensor:
    """An embedding (words, width) with more words: (rows, width). New ones are random, the same at every call."""
    noise = torch.randn(
        (rows - len(embedding), embedding.shape[1]), generator=torch.Generator().manual_seed(0)
    )
    new = (noise * embedding.float().std()).to(embedding)
    # New words stand before the special tokens, and all others keep their places (``merges_for``).
    return torch.cat([embedding[:-SPECIAL], new, embedding[-SPECIAL:]])


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Texts => int64 (N, LENGTH), padded and truncated as in diffusers' pipelines."""
    out = tokenizer(
        list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    assert isinstance(out, torch.Tensor)
    return out

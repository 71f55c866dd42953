"""From prompts to tokens: GPT-2's byte pairs for the published networks, words for the embedded ones.

Neither adds a start or an end. The places behind the prompt are padding, which the network replaces by a learned
vector. The empty prompt is padding alone.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from methods.weights import WeightsError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTokenizer


class Tokens(NamedTuple):
    """The tokens of a batch of prompts."""

    # int64 (B, L)
    ids: Tensor
    # bool (B, L), False for padding.
    present: Tensor


class Tokenizer:
    """``split`` maps a prompt to its ids, without padding. ``padding`` is the id behind its end."""

    def __init__(self, split: Callable[[str], list[int]], padding: int, vocabulary: int) -> None:
        self.split, self.padding, self.vocabulary = split, padding, vocabulary

    def __call__(self, prompts: Sequence[str], length: int) -> Tokens:
        """Cut or padded to ``length`` tokens each."""
        import torch

        ids = torch.full((len(prompts), length), self.padding, dtype=torch.int64)
        present = torch.zeros((len(prompts), length), dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            # A longer prompt loses its end. Without an end token, nothing else must be kept.
            tokens = self.split(prompt)[:length]
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            present[row, : len(tokens)] = True
        return Tokens(ids, present)


def byte_pairs(encoder: Path, merges: Path, vocabulary: int | None = None) -> Tokenizer:
    """GPT-2's tokenizer on lower-cased text, from its published files, plain or gzipped.

    ``encoder`` is JSON, token -> id. ``merges`` holds, after a first line, two tokens a line in order of rank. Raises
    WeightsError for files that are not these, or of another size than ``vocabulary``.
    """
    from transformers import GPT2Tokenizer

    # The two files, which must belong together.
    try:
        vocab = json.loads(_read(encoder))
    except ValueError as error:
        raise WeightsError(f"{encoder}: cannot be read as JSON ({error})") from error
    # Ids without a gap, since they index the rows of the embedding.
    if not isinstance(vocab, dict) or sorted(vocab.values()) != list(range(len(vocab))):
        raise WeightsError(f"{encoder}: expected GPT-2's encoder.json, which maps each token to its number")
    if vocabulary is not None and len(vocab) != vocabulary:
        raise WeightsError(f"{encoder}: {len(vocab)} tokens, expected the {vocabulary} of the network")
    # The first line states the version of the file.
    pairs = [tuple(line.split(" ")) for line in _read(merges).splitlines()[1:] if line]
    if not all(len(pair) == 2 and "".join(pair) in vocab for pair in pairs):
        raise WeightsError(
            f"{merges}: expected GPT-2's vocab.bpe, with two tokens of {encoder.name} on each line"
        )

    # Padding is the last id, GPT-2's "<|endoftext|>".
    last = len(vocab) - 1
    end = next(token for token, number in vocab.items() if number == last)
    tokenizer = GPT2Tokenizer(vocab=vocab, merges=pairs, unk_token=end, bos_token=end, eos_token=end)

    def split(prompt: str) -> list[int]:
        # Special tokens are split too: in a prompt, "<|endoftext|>" is text like any other.
        ids: list[int] = tokenizer(
            prompt.lower(), add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids

    return Tokenizer(split, last, len(vocab))


def words(tokenizer: CLIPTokenizer) -> Tokenizer:
    """The embedded checkpoints' tokenizer, whose tokens are words, without its start and end."""

    def split(prompt: str) -> list[int]:
        ids: list[int] = tokenizer(prompt, add_special_tokens=False).input_ids
        return ids

    # The network replaces the embedding of padding, so its id is never looked at.
    padding = tokenizer.eos_token_id
    assert isinstance(padding, int)
    return Tokenizer(split, padding, len(tokenizer))


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error

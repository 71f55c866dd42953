"""The tokens of a prompt, and the alignment of the tokens of two prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A word, or one punctuation mark. Prompts of data sets have commas, which a split at spaces would glue to words.
_UNIT = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")


@dataclass(frozen=True, eq=False)
class TextTokens:
    """A prompt in tokens, padded to the tokenizer's length L."""

    text: str
    # int64 (L,).
    ids: NDArray[np.int64]
    # int64 (L, 2): the characters of each token, text[a:b]. Start, end and padding have none.
    spans: NDArray[np.int64]
    # Position of the end token. The prompt's own tokens are at 1 to end - 1.
    end: int


@dataclass(frozen=True, eq=False)
class TokenMap:
    """How the tokens of a target prompt take over the attention of a source prompt.

    The map of target token j becomes ``source_maps @ matrix[:, j] + own[j] * target_map``.
    """

    # float32 (L, L): rows are the source's tokens, columns the target's.
    matrix: NDArray[np.float32]
    # float32 (L,): 1 where the target's token keeps its own attention, 0 elsewhere.
    own: NDArray[np.float32]


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> list[TextTokens]:
    """The tokens of each text, as diffusers' pipelines pad and truncate them.

    Raises ValueError for a tokenizer without the positions of its tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError("the tokenizer gives no offsets: load it as a fast one (use_fast=True)")
    encoded = tokenizer(
        list(texts),
        padding="max_length",
        max_length=int(tokenizer.model_max_length),
        truncation=True,
        return_offsets_mapping=True,
    )
    ends = np.asarray(encoded["attention_mask"]).sum(1) - 1
    return [
        TextTokens(text, np.asarray(ids, np.int64), np.asarray(spans, np.int64), int(end))
        for text, ids, spans, end in zip(
            texts, encoded["input_ids"], encoded["offset_mapping"], ends, strict=True
        )
    ]


def token_map(source: TextTokens, target: TextTokens) -> TokenMap:
    """Word swap where the prompts have equally many words, else refinement (Hertz et al. 2022, section 3.2)."""
    return swapped(source, target) or refined(source, target)


def swapped(source: TextTokens, target: TextTokens) -> TokenMap | None:
    """Word swap: the n-th word takes over the attention of the n-th. None where the numbers of words differ.

    Where two words have unequal numbers of tokens, each target token gets an equal share of the source word's maps.
    """
    source_words, target_words = _units(source), _units(target)
    if len(source_words) != len(target_words):
        return None
    matrix = _ends_aligned(source, target)
    for rows, columns in zip(source_words, target_words, strict=True):
        if len(rows) == len(columns):
            matrix[rows, columns] = 1
        else:
            matrix[np.ix_(rows, columns)] = 1 / len(columns)
    return TokenMap(matrix, (matrix.sum(0) == 0).astype(np.float32))


def refined(source: TextTokens, target: TextTokens) -> TokenMap:
    """Refinement: tokens that both prompts have, in order, take over the source's attention. The others keep theirs."""
    matrix = _ends_aligned(source, target)
    own = slice(1, source.end), slice(1, target.end)
    for row, column in alignment(source.ids[own[0]].tolist(), target.ids[own[1]].tolist()):
        matrix[1 + row, 1 + column] = 1
    return TokenMap(matrix, (matrix.sum(0) == 0).astype(np.float32))


def alignment(source: Sequence[int], target: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of equal tokens in a global alignment (Needleman and Wunsch 1970), in order.

    As in the authors' program: a match scores 1, a mismatch -1, a gap 0. Of equally good alignments the one is taken
    whose matches come earliest in the target.
    """
    # best[i, j]: the score of the first i tokens against the first j.
    best = np.zeros((len(source) + 1, len(target) + 1), np.int64)
    for i, a in enumerate(source, start=1):
        for j, b in enumerate(target, start=1):
            best[i, j] = max(best[i, j - 1], best[i - 1, j], best[i - 1, j - 1] + (1 if a == b else -1))

    # Back from the end. A mismatch costs more than two gaps, so a diagonal step is a match.
    pairs = []
    i, j = len(source), len(target)
    while i and j:
        if best[i, j] == best[i, j - 1]:
            j -= 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _ends_aligned(source: TextTokens, target: TextTokens) -> NDArray[np.float32]:
    """A matrix (L, L) that aligns start with start, end with end, and the padding behind the ends."""
    length = len(target.ids)
    matrix = np.zeros((length, length), np.float32)
    matrix[0, 0] = 1
    behind = np.arange(length - max(source.end, target.end))
    matrix[source.end + behind, target.end + behind] = 1
    return matrix


def _units(tokens: TextTokens) -> list[NDArray[np.int64]]:
    """The positions of the tokens of each word or punctuation mark."""
    units = [
        np.flatnonzero((tokens.spans[:, 0] < match.end()) & (tokens.spans[:, 1] > match.start()))
        for match in _UNIT.finditer(tokens.text)
    ]
    # Words behind the tokenizer's length have no token.
    return [unit for unit in units if len(unit)]

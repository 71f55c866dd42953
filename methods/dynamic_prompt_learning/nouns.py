"""The nouns of a prompt, found without a tagger: the last word of a run of content words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from methods.attention_maps.words import TextTokens
from methods.prompt_edit_diff import tags


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun of the source's prompt, and the adjectives before it: "cup" of "a small pink cup"."""

    # Positions of its tokens, and of each adjective's.
    tokens: NDArray[np.int64]
    adjectives: tuple[NDArray[np.int64], ...]
    # Index of the region of the edit that it describes, or None.
    region: int | None = None


def nouns_of(tokens: TextTokens) -> list[Noun]:
    """The nouns of a prompt."""
    # Tagged for nothing in particular, a prompt gives the words of all its noun phrases.
    tagged = tags.tag(tokens.text)
    return _nouns(tokens, tagged, tagged.regions[0], None)


def nouns_of_regions(tokens: TextTokens, tagged: tags.Tagged) -> list[Noun]:
    """The nouns of the source's prompt that stand where the words of an edited region stand in the target's.

    ``tagged`` is the source's prompt, tagged by ``tags.back``.
    """
    return [
        noun for region, words in enumerate(tagged.regions) for noun in _nouns(tokens, tagged, words, region)
    ]


def _nouns(tokens: TextTokens, tagged: tags.Tagged, words: Sequence[int], region: int | None) -> list[Noun]:
    # Runs of neighbouring words without punctuation between them.
    runs: list[list[int]] = []
    for i in words:
        follows = runs and i == runs[-1][-1] + 1
        between = tagged.prompt[tagged.words[i - 1].end : tagged.words[i].start] if follows else ""
        if follows and not between.strip():
            runs[-1].append(i)
        else:
            runs.append([i])

    nouns = []
    for run in runs:
        *adjectives, noun = (_positions(tokens, tagged.words[i]) for i in run)
        # Words behind the tokenizer's length have no token.
        if len(noun):
            nouns.append(Noun(noun, tuple(each for each in adjectives if len(each)), region))
    return nouns


def _positions(tokens: TextTokens, word: tags.Word) -> NDArray[np.int64]:
    return np.flatnonzero((tokens.spans[:, 0] < word.end) & (tokens.spans[:, 1] > word.start))

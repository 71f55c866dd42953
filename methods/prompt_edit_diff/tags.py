"""Token tagging (paper, section 2.C): the words of a prompt that belong to each region of the edit.

The first source that gives words wins: the words that the request names, then the difference between target and source
prompt widened to noun phrases, then noun phrases. The rules work on plain text. numpy holds the result per token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bench.edit import EditRequest

How = Literal["words", "difference", "noun phrases", "nothing"]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# Words that end a noun phrase or describe no region.
_FUNCTION = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "some", "his", "her", "its", "their", "my", "your",
    "our", "he", "she", "it", "they", "him", "them", "and", "or", "but", "nor", "of", "in", "on", "at", "by",
    "to", "from", "with", "without", "into", "onto", "over", "under", "above", "below", "behind", "before",
    "after", "between", "near", "next", "beside", "through", "around", "inside", "outside", "for", "as", "like",
    "is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "do", "does", "wearing", "holding",
    "sitting", "standing", "photo", "picture", "image", "portrait", "painting",
})  # fmt: skip
# Largest number of combined positions that are searched for the words of one region. Above it, only the first
# positions of each word count.
_MAX_COMBINATIONS = 4_000


@dataclass(frozen=True)
class Word:
    """One word of a prompt, at ``prompt[start:end]``. ``text`` is its lower-case form."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Tagged:
    """A prompt with the words of each region."""

    prompt: str
    words: tuple[Word, ...]
    # For each region, the indices of its words, ascending. A word may serve several regions.
    regions: tuple[tuple[int, ...], ...]
    # For each region, the source of its words.
    how: tuple[How, ...]


def split(text: str) -> tuple[Word, ...]:
    """The words of a text. Numbers count, punctuation does not."""
    return tuple(Word(m.group().lower(), m.start(), m.end()) for m in _WORD.finditer(text))


def tag_request(request: EditRequest) -> Tagged:
    """The target prompt of a request, tagged for its regions, or for its one mask."""
    if request.regions:
        return tag(
            request.target_prompt,
            request.source_prompt,
            [(region.prompt, region.words) for region in request.regions],
        )
    return tag(request.target_prompt, request.source_prompt, [(request.region_prompt, request.edit_words)])


def tag(target: str, source: str = "", regions: Sequence[tuple[str, Sequence[str]]] = (("", ()),)) -> Tagged:
    """Tag ``target`` for regions, each a pair (prompt, words). Either may be empty.

    Where a word occurs several times, the preferred occurrence is one that no earlier region has, then the one closest
    to the region's other words, then one where the prompts differ, then the first.
    """
    words = split(target)
    texts = [word.text for word in words]
    changed = difference(texts, [word.text for word in split(source)]) if source.strip() else set()
    phrases = _phrases(target, words)
    indices: list[tuple[int, ...]] = []
    how: list[How] = []
    used: set[int] = set()
    for prompt, region_words in regions:
        own, origin = _region(texts, phrases, changed, used, prompt, region_words, alone=len(regions) == 1)
        indices.append(own)
        how.append(origin)
        used.update(own)
    return Tagged(target, words, tuple(indices), tuple(how))


def _region(
    texts: Sequence[str],
    phrases: Sequence[int],
    changed: set[int],
    used: set[int],
    prompt: str,
    region_words: Sequence[str],
    alone: bool,
) -> tuple[tuple[int, ...], How]:
    """Indices of one region's words, and their source."""
    # The words that the request names.
    request_words = [word.text for phrase in region_words for word in split(phrase)]
    indices = _closest(texts, request_words, changed, used)
    if indices:
        return indices, "words"
    # Of several regions, the difference of the prompts does not tell them apart, but their own prompts do.
    content = [word.text for word in split(prompt) if word.text not in _FUNCTION]
    if not alone:
        indices = _closest(texts, content, changed, used)
        if indices:
            return indices, "noun phrases"
    # The difference, widened to noun phrases: "green" of "a green ball" brings "ball".
    changed_phrases = {phrases[i] for i in changed if texts[i] not in _FUNCTION}
    if changed_phrases:
        return tuple(i for i, phrase in enumerate(phrases) if phrase in changed_phrases), "difference"
    # The region's own prompt, or every noun phrase.
    indices = _closest(texts, content, changed, used)
    if indices:
        return indices, "noun phrases"
    every = tuple(i for i, phrase in enumerate(phrases) if phrase >= 0)
    return every, "noun phrases" if every else "nothing"


def _closest(
    texts: Sequence[str], words: Sequence[str], changed: set[int], used: set[int]
) -> tuple[int, ...]:
    """Indices of ``words`` that lie closest together. Words that do not occur are left out."""
    candidates = []
    for word in dict.fromkeys(words):
        occurrences = [i for i, text in enumerate(texts) if text == word]
        if occurrences:
            candidates.append(occurrences)
    # Prompts that repeat their words would take forever.
    if math.prod(map(len, candidates)) > _MAX_COMBINATIONS:
        candidates = [c[:2] for c in candidates][:10] + [c[:1] for c in candidates][10:]

    def rank(choice: tuple[int, ...]) -> tuple[int, int, int, int]:
        span = max(choice) - min(choice)
        return len(used.intersection(choice)), span, -len(changed.intersection(choice)), min(choice)

    if not candidates:
        return ()
    best = min(product(*candidates), key=rank)
    return tuple(sorted(set(best)))


def difference(target: Sequence[str], source: Sequence[str]) -> set[int]:
    """Indices of the target's words that an alignment with the source does not match."""
    changed: set[int] = set()
    for kind, _, _, start, end in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if kind != "equal":
            changed.update(range(start, end))
    return changed


def _phrases(text: str, words: Sequence[Word]) -> list[int]:
    """For each word, the number of its noun phrase or -1. A phrase is a run of content words without punctuation."""
    numbers: list[int] = []
    number, end = -1, -1
    for i, word in enumerate(words):
        if word.text in _FUNCTION:
            numbers.append(-1)
            continue
        continues = i > 0 and numbers[-1] >= 0 and not text[end : word.start].strip()
        number += not continues
        numbers.append(number)
        end = word.end
    return numbers


def back(tagged: Tagged, source: str) -> Tagged:
    """Tag the source prompt for the way back from an edit to its source.

    A region's words are those that stand where its words stand in the target. Where the target only adds words, there
    are none.
    """
    # Align the prompts: index in the target -> indices in the source.
    words = split(source)
    aligned: dict[int, set[int]] = {}
    target = [word.text for word in tagged.words]
    matcher = SequenceMatcher(None, [word.text for word in words], target, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        for j in range(c, d):
            aligned[j] = {a + j - c} if kind == "equal" else set(range(a, b))
    regions = []
    for region in tagged.regions:
        indices = {i for j in region for i in aligned.get(j, set()) if words[i].text not in _FUNCTION}
        # A word that stayed ("hair" of "blond hair") describes the region only beside one that changed.
        differs = any(words[i].text not in {target[j] for j in region} for i in indices)
        regions.append(tuple(sorted(indices)) if differs else ())
    how: tuple[How, ...] = tuple("difference" if region else "nothing" for region in regions)
    return Tagged(source, words, tuple(regions), how)


def render(tagged: Tagged) -> str:
    """The tags for people: ``a green cup and a [red suitcase](1) in a desert``. Regions count from 1."""
    # Numbers of the regions of each tagged word.
    owners: dict[int, list[int]] = {}
    for number, region in enumerate(tagged.regions, start=1):
        for i in region:
            owners.setdefault(i, []).append(number)

    pieces, position, i = [], 0, 0
    while i < len(tagged.words):
        if i not in owners:
            i += 1
            continue
        # Neighbours of the same regions share one pair of brackets.
        last = i
        while (
            owners.get(last + 1) == owners[i]
            and not tagged.prompt[tagged.words[last].end : tagged.words[last + 1].start].strip()
        ):
            last += 1
        start, end = tagged.words[i].start, tagged.words[last].end
        numbers = ",".join(map(str, owners[i]))
        pieces.append(f"{tagged.prompt[position:start]}[{tagged.prompt[start:end]}]({numbers})")
        position, i = end, last + 1
    return "".join(pieces) + tagged.prompt[position:]


@dataclass(frozen=True, eq=False)
class TokenTags:
    """Tags of a batch per token, as the network takes them."""

    # (N, L): token ids, padded and truncated as in diffusers' pipelines.
    ids: NDArray[np.int64]
    # (N, R, L): whether the token belongs to the region. R is the largest number of regions of a prompt. Unused ones
    # are empty.
    member: NDArray[np.bool_]
    # (N, L): whether the token is a word of the prompt or punctuation, and not its start, end or padding.
    words: NDArray[np.bool_]


def to_tokens(
    tokenizer: Any, tagged: Sequence[Tagged], length: int | None = None, regions: int = 1
) -> TokenTags:
    """Tag tokens by the words that they are part of.

    ``length`` is the length of the sequence (None: the tokenizer's own), ``regions`` the smallest R. Words beyond the
    length are lost, with their tags. Raises ValueError for a tokenizer without the positions of its tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError("the tokenizer gives no offsets: load it as a fast one (use_fast=True)")
    length = length or int(tokenizer.model_max_length)
    encoded = tokenizer(
        [entry.prompt for entry in tagged],
        padding="max_length",
        max_length=length,
        truncation=True,
        return_offsets_mapping=True,
    )
    ids = np.asarray(encoded["input_ids"], np.int64)
    spans = np.asarray(encoded["offset_mapping"], np.int64)
    # Special tokens have empty spans.
    member = np.zeros((len(tagged), max([regions, *(len(e.regions) for e in tagged)]), length), np.bool_)
    words = spans[..., 1] > spans[..., 0]
    for n, entry in enumerate(tagged):
        for r, region in enumerate(entry.regions):
            for i in region:
                word = entry.words[i]
                # The token's characters overlap the word's.
                member[n, r] |= words[n] & (spans[n, :, 0] < word.end) & (spans[n, :, 1] > word.start)
    return TokenTags(ids, member, words)

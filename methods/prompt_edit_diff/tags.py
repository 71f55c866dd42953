"""Which words of the prompt belong to which region of the edit.

Three sources, first that says something: the words that the request names; what the target prompt says and
the source prompt does not, widened to noun phrases; noun phrases. Pure text; numpy holds the result per token.
"""

from __future__ import annotations

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
_FUNCTION = frozenset(
    (
        *(
            "a",
            "an",
            "the",
            "this",
            "that",
            "these",
            "those",
            "some",
            "his",
            "her",
            "its",
            "their",
            "my",
            "your",
        ),
        *(
            "our",
            "he",
            "she",
            "it",
            "they",
            "him",
            "them",
            "and",
            "or",
            "but",
            "nor",
            "of",
            "in",
            "on",
            "at",
            "by",
        ),
        *(
            "to",
            "from",
            "with",
            "without",
            "into",
            "onto",
            "over",
            "under",
            "above",
            "below",
            "behind",
            "before",
        ),
        *(
            "after",
            "between",
            "near",
            "next",
            "beside",
            "through",
            "around",
            "inside",
            "outside",
            "for",
            "as",
        ),
        *("like", "is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "do", "does"),
        *("wearing", "holding", "sitting", "standing", "photo", "picture", "image", "portrait", "painting"),
    )
)
"""Words that end a noun phrase or are not worth a region's attention."""
_MAX_COMBINATIONS = 4_000
"""Places that the words of one region may be sought at together; more are cut to the first of each."""


@dataclass(frozen=True)
class Word:
    """One word of a prompt, as written at ``prompt[start:end]``; ``text`` is its lower-case form."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Tagged:
    """A prompt with the words of each region."""

    prompt: str
    words: tuple[Word, ...]
    regions: tuple[tuple[int, ...], ...]
    """For each region, the indices of its words, ascending. A word may serve several regions."""
    how: tuple[How, ...]
    """For each region, where its words came from."""

    def spoken(self, region: int) -> str:
        """The region's words, in the prompt's order."""
        return " ".join(self.words[i].text for i in self.regions[region])


def split(text: str) -> tuple[Word, ...]:
    """The words of a text; numbers count, punctuation does not."""
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
    """Tags ``target`` for regions given as (prompt, words) each; either may be empty.

    Words that occur several times are taken where no earlier region has taken them, then where they stand
    closest together, then where the prompts differ, then first.
    """
    words = split(target)
    texts = [word.text for word in words]
    changed = difference(texts, [word.text for word in split(source)]) if source.strip() else set()
    phrases = _phrases(target, words)
    found: list[tuple[int, ...]] = []
    how: list[How] = []
    taken: set[int] = set()
    for prompt, asked in regions:
        place, origin = _region(texts, phrases, changed, taken, prompt, asked, alone=len(regions) == 1)
        found.append(place)
        how.append(origin)
        taken.update(place)
    return Tagged(target, words, tuple(found), tuple(how))


def _region(
    texts: Sequence[str],
    phrases: Sequence[int],
    changed: set[int],
    taken: set[int],
    prompt: str,
    asked: Sequence[str],
    alone: bool,
) -> tuple[tuple[int, ...], How]:
    wanted = [word.text for phrase in asked for word in split(phrase)]
    place = _closest(texts, wanted, changed, taken)
    if place:
        return place, "words"
    named = [word.text for word in split(prompt) if word.text not in _FUNCTION]
    if not alone:
        # The difference of the prompts does not tell the regions apart; their own prompts do.
        place = _closest(texts, named, changed, taken)
        if place:
            return place, "noun phrases"
    content = {i for i in changed if texts[i] not in _FUNCTION}
    if content:
        # "green" of "a green ball" brings "ball".
        named_too = {phrases[i] for i in content}
        return tuple(i for i, phrase in enumerate(phrases) if phrase in named_too), "difference"
    place = _closest(texts, named, changed, taken)
    if place:
        return place, "noun phrases"
    every = tuple(i for i, phrase in enumerate(phrases) if phrase >= 0)
    return every, "noun phrases" if every else "nothing"


def _closest(
    texts: Sequence[str], wanted: Sequence[str], changed: set[int], taken: set[int]
) -> tuple[int, ...]:
    """Places of ``wanted`` (words that do not occur are left out) that lie closest together."""
    places = []
    for word in dict.fromkeys(wanted):
        at = [i for i, text in enumerate(texts) if text == word]
        if at:
            places.append(at)
    total = 1
    for at in places:
        total *= len(at)
    if total > _MAX_COMBINATIONS:
        places = [at[:2] for at in places][:10] + [at[:1] for at in places][10:]
    best: tuple[int, ...] = ()
    rank: tuple[int, ...] | None = None
    for choice in product(*places) if places else ():
        span = max(choice) - min(choice)
        new = len(taken.intersection(choice)), span, -len(changed.intersection(choice)), min(choice)
        if rank is None or new < rank:
            best, rank = choice, new
    return tuple(sorted(set(best)))


def difference(target: Sequence[str], source: Sequence[str]) -> set[int]:
    """Indices of the target's words that the source does not have at the same place of its wording."""
    changed: set[int] = set()
    for kind, _, _, start, end in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if kind != "equal":
            changed.update(range(start, end))
    return changed


def _phrases(text: str, words: Sequence[Word]) -> list[int]:
    """For each word the number of its noun phrase, -1 for none: runs of content words without punctuation."""
    found: list[int] = []
    number, end = -1, -1
    for i, word in enumerate(words):
        if word.text in _FUNCTION:
            found.append(-1)
            continue
        goes_on = i > 0 and found[-1] >= 0 and not text[end : word.start].strip()
        number += not goes_on
        found.append(number)
        end = word.end
    return found


def back(tagged: Tagged, source: str) -> Tagged:
    """The source prompt with the words that stand where the target's tagged words stand.

    For learning the way back from an edit to its source. Where the target only adds, there are none.
    """
    words = split(source)
    goes: dict[int, set[int]] = {}
    target = [word.text for word in tagged.words]
    matcher = SequenceMatcher(None, [word.text for word in words], target, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        for j in range(c, d):
            goes[j] = {a + j - c} if kind == "equal" else set(range(a, b))
    regions = []
    for region in tagged.regions:
        there = {i for j in region for i in goes.get(j, set()) if words[i].text not in _FUNCTION}
        # A word that stayed ("hair" of "blond hair") speaks of the region only with one that changed.
        kept = any(words[i].text not in {target[j] for j in region} for i in there)
        regions.append(tuple(sorted(there)) if kept else ())
    how: tuple[How, ...] = tuple("difference" if region else "nothing" for region in regions)
    return Tagged(source, words, tuple(regions), how)


def render(tagged: Tagged) -> str:
    """For people: ``a green cup and a [red suitcase](1) in a desert``. Numbers are regions, from 1."""
    owners: dict[int, list[int]] = {}
    for number, region in enumerate(tagged.regions, start=1):
        for i in region:
            owners.setdefault(i, []).append(number)
    pieces, at = [], 0
    i = 0
    while i < len(tagged.words):
        if i not in owners:
            i += 1
            continue
        last = i
        while (
            owners.get(last + 1) == owners[i]
            and not tagged.prompt[tagged.words[last].end : tagged.words[last + 1].start].strip()
        ):
            last += 1
        start, end = tagged.words[i].start, tagged.words[last].end
        numbers = ",".join(map(str, owners[i]))
        pieces.append(f"{tagged.prompt[at:start]}[{tagged.prompt[start:end]}]({numbers})")
        at, i = end, last + 1
    return "".join(pieces) + tagged.prompt[at:]


@dataclass(frozen=True, eq=False)
class TokenTags:
    """Tags per token of a batch, as the model takes them."""

    ids: NDArray[np.int64]
    """(N, L): the tokens themselves, padded and truncated as diffusers' pipelines do it."""
    member: NDArray[np.bool_]
    """(N, R, L): the token belongs to the region. R is the most regions of any prompt; unused ones are empty."""
    words: NDArray[np.bool_]
    """(N, L): the token is a word of the prompt (punctuation included), not its start, end or padding."""


def to_tokens(
    tokenizer: Any, tagged: Sequence[Tagged], length: int | None = None, regions: int = 1
) -> TokenTags:
    """Tags of tokens from tags of words: a token belongs to the word that it is a part of.

    ``length`` is the sequence's (None: the tokenizer's own); ``regions`` is the least R. Words beyond the length
    are lost, with their tags. Raises ValueError for a tokenizer that cannot say where its tokens stand.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("the tokenizer gives no offsets: load it as a fast one (use_fast=True)")
    length = length or int(tokenizer.model_max_length)
    coded = tokenizer(
        [entry.prompt for entry in tagged],
        padding="max_length",
        max_length=length,
        truncation=True,
        return_offsets_mapping=True,
    )
    ids = np.asarray(coded["input_ids"], np.int64)
    spans = np.asarray(coded["offset_mapping"], np.int64)
    member = np.zeros((len(tagged), max([regions, *(len(e.regions) for e in tagged)]), length), np.bool_)
    words = spans[..., 1] > spans[..., 0]
    for n, entry in enumerate(tagged):
        for r, region in enumerate(entry.regions):
            for i in region:
                word = entry.words[i]
                member[n, r] |= words[n] & (spans[n, :, 0] < word.end) & (spans[n, :, 1] > word.start)
    return TokenTags(ids, member, words)

"""A small grammar of captions. It changes one noun phrase, and refuses a caption where that is not safe.

The rule everywhere: a phrase that the grammar does not fully understand is not changed, and there is no edit that needs
it. COCO has five captions for each image, so enough edits remain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from protocols.prompts import BACKGROUNDS, COLORS, MATERIALS, article, noun, nouns, plural, with_article

_TOKEN = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Other numbers and "some" are missing: the noun behind them is a plural.
DETERMINERS = frozenset({"a", "an", "the", "his", "her", "their", "its", "this", "that", "my", "one"})
# Adjectives that are true of the object before and after the edit.
_ADJECTIVES = _word_set(
    """
    big large small little tiny huge giant tall short long old older new modern vintage antique
    classic empty full parked open closed round square shiny clean dirty beautiful pretty cute
    colorful single lone fancy nice double-decker wet dry broken plain simple striped
    """
)
# A shade belongs to the colour after it and is replaced with it: "a dark red car" becomes "a blue car".
_SHADES = frozenset({"light", "dark", "bright", "pale", "deep"})
# The words that may follow the noun. Any other may be the rest of a compound ("car door").
_AFTER = _word_set(
    """
    in on at by near next beside with without and or that which is are was were sits stands sitting
    standing parked driving under over above below behind from of for to while as into onto around
    against along across through inside outside has filled full made laying lying resting floating
    flying traveling moving leaning hanging placed surrounded covered attached painted between
    before during up down out off going coming riding turning passing stopped waiting pulling
    carrying holding seen shown he she it they , ; :
    """
)
# Verbs that suit only some classes. Beside them the object cannot become another class: nobody flies a surfboard.
_VERBS_BEFORE = _word_set(
    """
    riding rides ride rode driving drives drive flying flies fly wearing wears wear eating eats eat throwing
    throws hitting hits swinging swings catching catches kicking kicks petting feeding walking using playing
    brushing typing sailing rowing paddling surfing opening pouring drinking reading boarding playing
    """
)
_VERBS_AFTER = _word_set(
    """
    parked docked anchored landed docks lands flies drives runs grazes sails floats rolls rings pulled driven
    ridden flown eaten
    """
)
# Participles that suit any class. Others ("driving", "grazing") suit one class and not another.
_NEUTRAL_ING = _word_set(
    "sitting standing laying lying resting leaning hanging being including during featuring"
)
# Wider than COLORS: a phrase with a colour that no edit can name is refused, not misread.
_COLOR_WORDS = frozenset({*COLORS, "grey", "tan", "beige", "silver", "gold", "golden", "teal", "maroon"})
_MATERIAL_WORDS = frozenset({*MATERIALS.values(), "wood", "steel", "ceramic", "paper", "brick", "metallic"})

# A caption that still has one of these words would name two places after a new background is appended.
_PLACE = _word_set(
    """
    street road highway sidewalk city town kitchen bathroom bedroom room living office restaurant
    store shop market station airport runway tarmac park field meadow grass lawn yard garden forest
    woods beach sand ocean sea lake river water wave harbor dock pier snow slope mountain hill
    desert sky night court stadium track tracks bridge garage parking lot house building wall floor
    table counter desk shelf pasture zoo farm outside outdoors indoors
    """
)
_PLACE_NOUNS = (
    "street|road|highway|sidewalk|city street|kitchen|bathroom|bedroom|living room|room|office|restaurant|"
    "store|shop|park|field|meadow|lawn|yard|garden|forest|beach|desert|parking lot|pasture|garage|stadium|"
    "harbor|lake|river"
)
# The place at a caption's end, with at most one adjective. It can be cut off without harm to the rest.
_PLACE_PHRASE = re.compile(
    rf" (?:in|on|at|inside|by|near|along)(?: the side of)? (?:a|an|the) (?:[a-z]+ )?(?:{_PLACE_NOUNS})$"
    r"| (?:in|on) (?:the )?(?:snow|grass|sand)$| at (?:night|the beach)$",
    re.IGNORECASE,
)


def normalise(caption: str) -> str:
    """One line without the full stop at its end. The first word is in lower case, except "I" and "TV"."""
    # Annotators typed line breaks, double spaces, and spaces before the full stop.
    text = re.sub(r"\s+", " ", caption).strip()
    text = re.sub(r" +([,.;:!?])", r"\1", text).rstrip(".!;:, ").strip()
    first = text.split(" ", 1)[0]
    if (len(first) > 1 and first.isupper()) or first == "I":
        return text
    return text[:1].lower() + text[1:]


@dataclass(frozen=True)
class NounPhrase:
    """A phrase such as "a small red car", with its place in a caption and its parts."""

    # Characters of the caption from the determiner to the noun, ``end`` exclusive.
    start: int
    end: int
    determiner: str
    # Words between determiner and noun, without colour and material.
    adjectives: tuple[str, ...]
    # A word of ``COLORS``. None where the phrase names no colour.
    color: str | None
    # An adjective such as "wooden". None where the phrase names no material.
    material: str | None
    noun: str
    category: str
    # True where a verb beside the phrase suits this class alone.
    bound: bool = False

    def __str__(self) -> str:
        return self._render(self.adjectives, self.color, self.material, self.noun)

    def _render(self, adjectives: Sequence[str], color: str | None, material: str | None, word: str) -> str:
        words = [*adjectives, *([color] if color else []), *([material] if material else []), word]
        # "a red car" becomes "an orange car". "the", "his" and so on stay.
        determiner = article(words[0]) if self.determiner in ("a", "an") else self.determiner
        return " ".join([determiner, *words])

    def with_color(self, color: str) -> str:
        return self._render(self.adjectives, color, self.material, self.noun)

    def with_material(self, adjective: str) -> str:
        return self._render(self.adjectives, self.color, adjective, self.noun)

    def with_category(self, category: str) -> str:
        """The phrase with another class. The colour stays, but size, age and material belong to the old object."""
        return self._render((), self.color, None, noun(category))


@dataclass(frozen=True)
class _Modifiers:
    """The words between the determiner and the noun."""

    adjectives: tuple[str, ...]
    color: str | None
    material: str | None


def _read_modifiers(words: Sequence[str]) -> _Modifiers | None:
    """None unless every word is understood and in the usual English order: adjectives, shade, colour, material."""
    adjectives: list[str] = []
    color: str | None = None
    material: str | None = None
    # From the noun to the determiner, so that each word is checked against those closer to the noun.
    for word in reversed(words):
        if word in _COLOR_WORDS:
            # "a red white bus" has two colours.
            if color is not None:
                return None
            color = "gray" if word == "grey" else word
        elif word in _MATERIAL_WORDS:
            if material is not None or color is not None:
                return None
            material = word
        elif word in _SHADES and color is not None:
            # In "a dark big red car", "dark" may belong to another word.
            if adjectives:
                return None
        elif word in _ADJECTIVES:
            adjectives.insert(0, word)
        else:
            return None
    if color is not None and color not in COLORS:
        return None
    return _Modifiers(tuple(adjectives), color, material)


@lru_cache(maxsize=256)
def _forms(category: str) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """(singular names, plural names) of a category, each a tuple of words, longest first."""
    # Longest first, so that "laptop computer" is not read as "laptop" before an unknown word.
    singular = sorted({tuple(name.split()) for name in nouns(category)}, key=len, reverse=True)
    # Without forms such as "sheep", which are singular too: the determiner decides.
    many = sorted(
        {tuple(plural(name).split()) for name in nouns(category)} - set(singular), key=len, reverse=True
    )
    return tuple(singular), tuple(many)


class Caption:
    """A normalised caption and its tokens."""

    def __init__(self, text: str) -> None:
        self.text = normalise(text)
        self._spans = [(m.group(), m.start(), m.end()) for m in _TOKEN.finditer(self.text)]
        self._words = [word.lower() for word, _, _ in self._spans]

    def mentions(self, category: str) -> tuple[list[tuple[int, int]], bool]:
        """(token ranges of the category's singular names, whether a plural name occurs). Ranges do not overlap."""
        singular, many = _forms(category)
        ranges: list[tuple[int, int]] = []
        for i in range(len(self._words)):
            if ranges and i < ranges[-1][1]:
                continue
            for name in singular:
                if tuple(self._words[i : i + len(name)]) == name:
                    ranges.append((i, i + len(name)))
                    break
        has_plural = any(
            tuple(self._words[i : i + len(name)]) == name
            for name in many
            for i in range(len(self._words) - len(name) + 1)
        )
        return ranges, has_plural

    def noun_phrase(self, category: str) -> NounPhrase | None:
        """The one phrase that names the category in the singular. None unless all of it is understood."""
        # Two mentions may be two objects, or one object twice: a change of one would contradict the other.
        ranges, has_plural = self.mentions(category)
        if len(ranges) != 1 or has_plural:
            return None
        first, end = ranges[0]

        # End of the phrase.
        next_word = self._words[end] if end < len(self._words) else ""
        if next_word and next_word not in _AFTER and not next_word.endswith("ing"):
            return None

        # Determiner and modifiers. A noun without a determiner is part of a compound or a heading.
        start = first - 1
        while start >= 0 and self._words[start] not in DETERMINERS:
            start -= 1
        if start < 0:
            return None
        modifiers = _read_modifiers(self._words[start + 1 : first])
        if modifiers is None:
            return None

        return NounPhrase(
            start=self._spans[start][1],
            end=self._spans[end - 1][2],
            determiner=self._words[start],
            adjectives=modifiers.adjectives,
            color=modifiers.color,
            material=modifiers.material,
            noun=" ".join(self._words[first:end]),
            category=category,
            bound=self._is_bound(start, next_word),
        )

    def _is_bound(self, start: int, next_word: str) -> bool:
        """True where a verb before or behind the phrase suits its class alone. ``start``: the determiner's token."""
        previous_word = self._words[start - 1] if start else ""
        participle = next_word.endswith("ing") and next_word not in _NEUTRAL_ING
        return previous_word in _VERBS_BEFORE or next_word in _VERBS_AFTER or participle

    def replace(self, changes: Iterable[tuple[NounPhrase, str]]) -> str:
        """The caption with the phrases replaced. They must not overlap."""
        text = self.text
        # From the last to the first, so that the places of the others stay valid.
        for phrase, new in sorted(changes, key=lambda change: change[0].start, reverse=True):
            text = text[: phrase.start] + new + text[phrase.end :]
        return text

    def background(self) -> str | None:
        """The name of the background whose phrase the caption ends with, None where it ends with none."""
        for name, background in BACKGROUNDS.items():
            if self.text.endswith(f" {background.phrase}"):
                return name
        return None

    def with_background(self, name: str) -> str | None:
        """The caption with this background.

        None where it has this background already, or names a place that cannot be taken out safely.
        """
        before = self.background()
        if before == name:
            return None
        if before is not None:
            stem = self.text.removesuffix(f" {BACKGROUNDS[before].phrase}")
        else:
            stem = _PLACE_PHRASE.sub("", self.text)
        if not stem or _PLACE & set(Caption(stem)._words):
            return None
        return f"{stem} {BACKGROUNDS[name].phrase}"


def region_phrase(phrase: str) -> str:
    """The prompt of a region alone: "the red car" becomes "a red car"."""
    return with_article(phrase.split(" ", 1)[1])

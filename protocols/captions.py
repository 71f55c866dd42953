"""Reading a caption well enough to change one noun phrase in it, and refusing where that is not safe.

The rule throughout: a phrase that the small grammar does not fully understand is left alone, and the
edit that needed it is not made. Five captions an image leave enough to choose from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from protocols.prompts import BACKGROUNDS, COLORS, MATERIALS, article, noun, nouns, plural, with_article

_TOKEN = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = frozenset({"a", "an", "the", "his", "her", "their", "its", "this", "that", "my", "one"})
_ADJECTIVES = _words(
    """
    big large small little tiny huge giant tall short long old older new modern vintage antique
    classic empty full parked open closed round square shiny clean dirty beautiful pretty cute
    colorful single lone fancy nice double-decker wet dry broken plain simple striped
    """
)
_SHADES = frozenset({"light", "dark", "bright", "pale", "deep"})
_AFTER = _words(
    """
    in on at by near next beside with without and or that which is are was were sits stands sitting
    standing parked driving under over above below behind from of for to while as into onto around
    against along across through inside outside has filled full made laying lying resting floating
    flying traveling moving leaning hanging placed surrounded covered attached painted between
    before during up down out off going coming riding turning passing stopped waiting pulling
    carrying holding seen shown he she it they , ; :
    """
)
"""What may follow the noun. Anything else may be the rest of a compound ("car door")."""
_VERBS_BEFORE = _words(
    """
    riding rides ride rode driving drives drive flying flies fly wearing wears wear eating eats eat throwing
    throws hitting hits swinging swings catching catches kicking kicks petting feeding walking using playing
    brushing typing sailing rowing paddling surfing opening pouring drinking reading boarding playing
    """
)
_VERBS_AFTER = _words(
    """
    parked docked anchored landed docks lands flies drives runs grazes sails floats rolls rings pulled driven
    ridden flown eaten
    """
)
_NEUTRAL_ING = _words(
    "sitting standing laying lying resting leaning hanging being including during featuring"
)
"""Said of things of any class; other participles ("driving", "grazing") suit one and not its neighbour."""
_COLOR_WORDS = frozenset({*COLORS, "grey", "tan", "beige", "silver", "gold", "golden", "teal", "maroon"})
_MATERIAL_WORDS = frozenset({*MATERIALS.values(), "wood", "steel", "ceramic", "paper", "brick", "metallic"})

_PLACE = _words(
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
_PLACE_PHRASE = re.compile(
    rf" (?:in|on|at|inside|by|near|along)(?: the side of)? (?:a|an|the) (?:[a-z]+ )?(?:{_PLACE_NOUNS})$"
    r"| (?:in|on) (?:the )?(?:snow|grass|sand)$| at (?:night|the beach)$",
    re.IGNORECASE,
)


def normalise(caption: str) -> str:
    """One line without the closing stop, opening in lower case (but for "I" and "TV")."""
    text = re.sub(r"\s+", " ", caption).strip()
    text = re.sub(r" +([,.;:!?])", r"\1", text).rstrip(".!;:, ").strip()
    first = text.split(" ", 1)[0]
    if (len(first) > 1 and first.isupper()) or first == "I":
        return text
    return text[:1].lower() + text[1:]


@dataclass(frozen=True)
class NounPhrase:
    """A phrase like "a small red car" in a caption: where it stands, and what it says."""

    start: int
    end: int
    """Of the whole phrase in the caption's characters, determiner to noun."""
    determiner: str
    adjectives: tuple[str, ...]
    """Between determiner and noun, but for colour and material."""
    color: str | None
    """A word of ``COLORS``, or None where the phrase names no colour."""
    material: str | None
    noun: str
    category: str
    bound: bool = False
    """Whether a verb beside it suits this class alone: nobody flies a surfboard."""

    def __str__(self) -> str:
        return self._render(self.adjectives, self.color, self.material, self.noun)

    def _render(self, adjectives: Sequence[str], color: str | None, material: str | None, word: str) -> str:
        words = [*adjectives, *([color] if color else []), *([material] if material else []), word]
        determiner = article(words[0]) if self.determiner in ("a", "an") else self.determiner
        return " ".join([determiner, *words])

    def with_color(self, color: str) -> str:
        return self._render(self.adjectives, color, self.material, self.noun)

    def with_material(self, adjective: str) -> str:
        return self._render(self.adjectives, self.color, adjective, self.noun)

    def with_category(self, category: str) -> str:
        """The class changes, the colour stays; size, age and material belonged to the old thing."""
        return self._render((), self.color, None, noun(category))


@lru_cache(maxsize=256)
def _forms(category: str) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """The singular and the plural names of a category, as tuples of words, longest first."""
    singular = sorted({tuple(name.split()) for name in nouns(category)}, key=len, reverse=True)
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
        """The token ranges of the category's singular names, and whether a plural one occurs."""
        singular, many = _forms(category)
        found: list[tuple[int, int]] = []
        for i in range(len(self._words)):
            if found and i < found[-1][1]:
                continue
            for name in singular:
                if tuple(self._words[i : i + len(name)]) == name:
                    found.append((i, i + len(name)))
                    break
        plural_too = any(
            tuple(self._words[i : i + len(name)]) == name
            for name in many
            for i in range(len(self._words) - len(name) + 1)
        )
        return found, plural_too

    def noun_phrase(self, category: str) -> NounPhrase | None:
        """The one phrase that names the category in the singular; None unless all of it is understood."""
        found, plural_too = self.mentions(category)
        if len(found) != 1 or plural_too:
            return None
        first, end = found[0]
        if end < len(self._words):
            after = self._words[end]
            if after not in _AFTER and not after.endswith("ing"):
                return None
        adjectives: list[str] = []
        color: str | None = None
        material: str | None = None
        i = first - 1
        while i >= 0 and self._words[i] not in DETERMINERS:
            word = self._words[i]
            if word in _COLOR_WORDS:
                if color is not None:
                    return None
                color = "gray" if word == "grey" else word
            elif word in _MATERIAL_WORDS:
                if material is not None or color is not None:
                    return None
                material = word
            elif word in _SHADES and color is not None:
                if adjectives:
                    return None
            elif word in _ADJECTIVES:
                adjectives.insert(0, word)
            else:
                return None
            i -= 1
        if i < 0:
            return None
        if color is not None and color not in COLORS:
            return None
        return NounPhrase(
            start=self._spans[i][1],
            end=self._spans[end - 1][2],
            determiner=self._words[i],
            adjectives=tuple(adjectives),
            color=color,
            material=material,
            noun=" ".join(self._words[first:end]),
            category=category,
            bound=self._bound(i, end),
        )

    def _bound(self, determiner: int, end: int) -> bool:
        before = self._words[determiner - 1] if determiner else ""
        after = self._words[end] if end < len(self._words) else ""
        participle = after.endswith("ing") and after not in _NEUTRAL_ING
        return before in _VERBS_BEFORE or after in _VERBS_AFTER or participle

    def replace(self, changes: Iterable[tuple[NounPhrase, str]]) -> str:
        """The caption with the phrases replaced; phrases must not overlap."""
        text = self.text
        for phrase, new in sorted(changes, key=lambda change: change[0].start, reverse=True):
            text = text[: phrase.start] + new + text[phrase.end :]
        return text

    def background(self) -> str | None:
        """The known background that the caption ends with, in the protocol's own phrase."""
        for name, background in BACKGROUNDS.items():
            if self.text.endswith(f" {background.phrase}"):
                return name
        return None

    def with_background(self, name: str) -> str | None:
        """The caption with this background; None where it names a place that cannot be taken out safely."""
        before = self.background()
        if before == name:
            return None
        phrase = BACKGROUNDS[name].phrase
        if before is not None:
            stem = self.text.removesuffix(f" {BACKGROUNDS[before].phrase}")
        else:
            stem = _PLACE_PHRASE.sub("", self.text)
        if not stem or _PLACE & set(Caption(stem)._words):
            return None
        return f"{stem} {phrase}"


def region_phrase(phrase: str) -> str:
    """What a region shows by itself: the phrase with an indefinite article in place of its determiner."""
    return with_article(phrase.split(" ", 1)[1])

"""The words of the raters' pages: one YAML file per language, and what a study replaces in it.

Keys are nested in the file and joined by dots in code: ``words("about.minutes", n=3)``. A study may bring a file of its
own for a further language, or for some of the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.study import StudyError

if TYPE_CHECKING:
    from bench.study.scales import Scale

FOLDER = Path(__file__).parent
# Languages that come with the program. Each is a file of this folder.
LANGUAGES = ("en", "ar", "de", "es", "zh")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class WordsError(StudyError):
    """A language that does not exist, or words that do not fit. The message names the setting and the remedy."""


class Words:
    """The words of one language."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        # A tag for the attribute `lang` of a page: `ar`, `pt-BR`.
        self.language = language
        self._texts = texts

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, with its placeholders filled in. Raises KeyError for a key that does not exist."""
        # Replaced one by one: a text of a study may hold braces of its own.
        return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), self._texts[key])

    @property
    def direction(self) -> str:
        """``ltr`` or ``rtl``."""
        return self._texts["direction"]

    def part(self, name: str) -> dict[str, str]:
        """All texts below a key, by the rest of their keys, with placeholders."""
        start = f"{name}."
        return {key.removeprefix(start): text for key, text in self._texts.items() if key.startswith(start)}

    def error(self, error: StudyError) -> str:
        """The text of an error for a rater: that of its ``word``, its class, or the next class that has one."""
        names = [error.word, *(entry.__name__ for entry in type(error).__mro__)]
        return next(self._texts[f"error.{name}"] for name in names if f"error.{name}" in self._texts)

    def scale(self, scale: Scale) -> Scale:
        """A scale in this language, where it is one that comes with the program. Others stay as they are."""
        from bench.study.scales import BUILT_IN, read_scales

        key = f"scale.{scale.name}.question"
        if key not in self._texts or scale not in read_scales([scale.name], BUILT_IN):
            return scale
        levels = tuple(
            replace(
                level,
                label=self._texts[f"scale.{scale.name}.{number}"],
                means=self._texts.get(f"scale.{scale.name}.{number}_means", ""),
            )
            for number, level in enumerate(scale.levels, 1)
        )
        return replace(scale, question=self._texts[key], levels=levels)


@cache
def load(language: str) -> Mapping[str, str]:
    """All texts of a language that comes with the program, by key. Raises :class:`WordsError`."""
    if language not in LANGUAGES:
        raise WordsError(
            f"setting language: {language!r} does not come with the program ({', '.join(LANGUAGES)} do). Name one of "
            "these, or give a file with all words (setting words_file)."
        )
    return read(FOLDER / f"{language}.yaml")


def read(file: Path) -> Mapping[str, str]:
    """The texts of a YAML file by key. Raises :class:`WordsError`."""
    from bench.suite_yaml import SuiteError, read_yaml_file

    try:
        content = read_yaml_file(file, "words")
    except SuiteError as error:
        raise WordsError(str(error)) from error
    texts: dict[str, str] = {}
    _flatten(file, "", content, texts)
    return texts


def _flatten(file: Path, start: str, content: Any, texts: dict[str, str]) -> None:
    if not isinstance(content, Mapping):
        raise WordsError(
            f"words {file}: {start or 'the file'} is no mapping of keys to texts. Correct the file."
        )
    for name, value in content.items():
        key = f"{start}.{name}" if start else str(name)
        if isinstance(value, str):
            texts[key] = value.strip()
        elif isinstance(value, Mapping):
            _flatten(file, key, value, texts)
        else:
            # YAML reads `Yes` and `No` as truth values.
            raise WordsError(f"words {file}: {key} is no text. Put it in quotes.")


def check(language: str, own: Mapping[str, str]) -> None:
    """Raises :class:`WordsError` where a study's own words have unknown keys, or a language has missing ones."""
    english = {**load("en"), **_scale_texts()}
    for key, text in own.items():
        if key not in english:
            raise WordsError(f"setting words: {key!r} is no key of bench/study/words/en.yaml. Correct it.")
        unknown = set(_PLACEHOLDER.findall(text)) - set(_PLACEHOLDER.findall(english[key]))
        if unknown:
            raise WordsError(f"setting words: {key!r} cannot hold {{{sorted(unknown)[0]}}}. Correct it.")
    if own.get("direction", "ltr") not in ("ltr", "rtl"):
        raise WordsError("setting words: direction is ltr or rtl.")
    if language not in LANGUAGES and (missing := [key for key in load("en") if key not in own]):
        raise WordsError(
            f"setting language: {language!r} does not come with the program, and the study's own words lack "
            f"{', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}. Translate "
            "bench/study/words/en.yaml and name the file by the setting words_file."
        )


def _scale_texts() -> Mapping[str, str]:
    """Keys of translated scales, with the English texts of ``scales.yaml``."""
    from bench.study.scales import BUILT_IN, read_scales

    texts = {}
    for scale in read_scales([], BUILT_IN):
        texts[f"scale.{scale.name}.question"] = scale.question
        for number, level in enumerate(scale.levels, 1):
            texts[f"scale.{scale.name}.{number}"] = level.label
            if level.means:
                texts[f"scale.{scale.name}.{number}_means"] = level.means
    return texts


def words_of(language: str, own: Mapping[str, str]) -> Words:
    """The words of a language with a study's own ones in their place."""
    base = load(language) if language in LANGUAGES else load("en")
    return Words(language, {**base, **own})

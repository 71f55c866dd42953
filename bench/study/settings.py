"""Texts and terms of a study for its raters. They do not change which trials the study has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.files import parse_json
from bench.registry import did_you_mean
from bench.study import StudyError, words
from bench.study.types import QUESTIONS
from bench.study.words import Words, WordsError

# Most characters of a text.
MAX_TEXT = 20_000
# Texts that a study may give as a Markdown file (`consent_file: consent.md`).
FILES = ("consent", "instructions", "thanks")
# Texts that may be Markdown. `questions`: the questions in the researcher's words, their hints and the scales.
MARKDOWN = (*FILES, "questions")
# Questions of the screener. More belong into a questionnaire of their own.
MOST_SCREENERS = 10


class SettingsError(StudyError):
    """A setting that does not exist or has a wrong value. The message names the setting."""


@dataclass(frozen=True)
class ScreenerQuestion:
    """A question before the study with one answer. The field names are keys of the settings."""

    question: str
    options: tuple[str, ...]
    # Answers that let a rater take part. Empty: all, the question is for information.
    accept: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudySettings:
    """Settings of a study. Texts are plain, without markup, unless ``markdown`` names them."""

    # None: the text of the language (`words`). The consent page continues with what is stored of a rater, whatever a
    # study's own text is.
    title: str | None = None
    consent: str | None = None
    instructions: str | None = None
    thanks: str | None = None
    # Names of the texts that are Markdown.
    markdown: tuple[str, ...] = ()
    # Language of the pages: one of `words.LANGUAGES`, or another tag with all words in `words`.
    language: str = "en"
    # Key -> text, in place of the language's.
    words: Mapping[str, str] = field(default_factory=dict)
    # Question -> `pair`, `best`, `hint`, `hint_without_outline` -> text in the researcher's words.
    questions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # True where people may take part without an invitation.
    open_registration: bool = False
    # The code that every rater gets at the end, as Prolific and others require. None: each rater gets another code.
    completion_code: str | None = None
    # Address (https) of the link on the last page. `{code}` is replaced by the completion code, `{rater}` by the
    # recruiting service's id of the rater.
    return_url: str | None = None
    contact: str = ""
    # Asked after consent. Who gives another answer than the accepted ones is screened out.
    screener: tuple[ScreenerQuestion, ...] = ()
    # Codes for raters who are screened out, and for those who fail more attention checks than the exclusion rule
    # allows. None: those who are screened out get no code, and the others the completion code.
    screen_out_code: str | None = None
    failed_check_code: str | None = None
    # True ends a rater's part at the failed check. False lets the rater come to the end.
    stop_at_failed_checks: bool = False
    # Minutes from consent to the last trial. Afterwards no trial is handed out.
    time_limit_minutes: int | None = None
    # Seconds for which the pictures of a trial can be looked at. Then they are covered, and the rater answers all the
    # same. None: no limit.
    trial_seconds: int | None = None
    # What a rater is paid, for the hourly rate that the administrator sees. Raters do not see it.
    reward: float | None = None
    currency: str = "GBP"
    # Name of the study whose second wave this is. Its raters are not taken again.
    continues: str | None = None
    # Seconds for which a trial waits for a rater who does nothing, before another may get it.
    lease_seconds: int = 1800
    # The rule that excludes raters: fields of `votes.exclusion.Exclusion`. It is stated before any vote, so that it
    # cannot be chosen by its effect on the result.
    exclusion: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises :class:`SettingsError` that names the setting."""
        # Texts.
        for name in ("title", "consent", "instructions", "thanks", "contact"):
            value = getattr(self, name)
            if value is None and name != "contact":
                continue
            if not isinstance(value, str) or len(value) > MAX_TEXT or "\x00" in value:
                raise SettingsError(f"setting {name}: expected at most {MAX_TEXT} characters of text.")
        if self.title is not None and not self.title.strip():
            raise SettingsError(
                "setting title: it is empty. Give the study a title, or leave the setting out."
            )
        if unknown := [name for name in self.markdown if name not in MARKDOWN]:
            raise SettingsError(f"setting markdown: {unknown[0]!r} is none of {', '.join(MARKDOWN)}.")
        self._check_words()
        self._check_platform()
        # Numbers and the address.
        if not 10 <= self.lease_seconds <= 7 * 86400:
            raise SettingsError(
                f"setting lease_seconds: {self.lease_seconds}; expected 10 seconds to 7 days (604800)."
            )
        if self.return_url is not None:
            if not self.return_url.startswith("https://"):
                raise SettingsError(
                    f"setting return_url: {self.return_url!r} does not begin with https://. Raters are sent there."
                )
            # The text is a format string: it must not reach any other value.
            try:
                self.return_url.format(code="", rater="")
            except (KeyError, IndexError, ValueError) as error:
                raise SettingsError(
                    f"setting return_url: only {{code}} and {{rater}} can be filled in ({error!r})."
                ) from None

    def _check_words(self) -> None:
        if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", self.language):
            raise SettingsError(
                f"setting language: {self.language!r} is no language tag such as en or pt-BR."
            )
        for name, texts in self.questions.items():
            if name not in QUESTIONS:
                raise SettingsError(
                    f"setting questions: {name!r} is unknown.{did_you_mean(str(name), list(QUESTIONS))} "
                    f"Known: {', '.join(QUESTIONS)}."
                )
            if not isinstance(texts, Mapping):
                raise SettingsError(
                    f"setting questions: {name} is no mapping of pair, best and hint to texts."
                )
        for key, text in self._own_words().items():
            if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT or "\x00" in text:
                raise SettingsError(f"setting words: {key} is no text of at most {MAX_TEXT} characters.")
        words.check(self.language, self._own_words())

    def _check_platform(self) -> None:
        if len(self.screener) > MOST_SCREENERS:
            raise SettingsError(f"setting screener: at most {MOST_SCREENERS} questions.")
        for entry in self.screener:
            if not entry.question.strip() or len(set(entry.options)) < 2 or "" in entry.options:
                raise SettingsError(
                    "setting screener: each question has a text and two or more different options."
                )
            if unknown := [answer for answer in entry.accept if answer not in entry.options]:
                raise SettingsError(
                    f"setting screener: accept {unknown[0]!r} is none of the question's options."
                )
        limit = self.time_limit_minutes
        if limit is not None and not 1 <= limit <= 7 * 24 * 60:
            raise SettingsError(f"setting time_limit_minutes: {limit}; expected 1 minute to 7 days (10080).")
        if self.trial_seconds is not None and not 2 <= self.trial_seconds <= 3600:
            raise SettingsError(f"setting trial_seconds: {self.trial_seconds}; expected 2 to 3600 seconds.")
        # NaN passes no comparison.
        if self.reward is not None and not 0 <= self.reward < 1e6:
            raise SettingsError(f"setting reward: {self.reward}; expected 0 or more.")
        codes = [code for code in self.codes if code is not None]
        if len(set(codes)) != len(codes) or any(not code.strip() or len(code) > 200 for code in codes):
            raise SettingsError(
                "settings completion_code, screen_out_code and failed_check_code: expected different codes."
            )

    @property
    def codes(self) -> tuple[str | None, str | None, str | None]:
        """The codes that several raters get."""
        return self.completion_code, self.screen_out_code, self.failed_check_code

    def _own_words(self) -> dict[str, str]:
        """The study's own words by key, with those of its questions."""
        own = dict(self.words)
        for name, texts in self.questions.items():
            own |= {f"question.{name}.{key}": text for key, text in texts.items()}
            if "hint" in texts:
                own.setdefault(f"question.{name}.hint_without_outline", texts["hint"])
        return own

    @cached_property
    def word_book(self) -> Words:
        """The words of the raters' pages, with the study's own in their place."""
        return words.words_of(self.language, self._own_words())

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> StudySettings:
        """Raises :class:`SettingsError` for a text that is no JSON object of settings."""
        try:
            values = parse_json(text)
        except ValueError as error:
            raise SettingsError(f"the settings are not JSON ({error}). Correct the file.") from None
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> StudySettings:
        """Settings from plain values, as in a YAML file. Raises :class:`SettingsError`."""
        if not isinstance(values, Mapping):
            raise SettingsError("the settings are not a mapping of names to values. Correct the file.")
        available = [entry.name for entry in fields(cls)]
        for name in values:
            if name not in available:
                raise SettingsError(
                    f"setting {name!r}: unknown.{did_you_mean(str(name), available)} Known: {', '.join(available)}."
                )
        # Types. The texts are checked by `check`.
        values = dict(values)
        for name, kind in _TYPES.items():
            if name in values and not _is_of(values[name], kind):
                raise SettingsError(f"setting {name}: {values[name]!r}; expected {_EXPECTED[kind]}.")
        if "markdown" in values:
            values["markdown"] = tuple(values["markdown"])
        if "screener" in values:
            values["screener"] = tuple(_screener(entry) for entry in values["screener"])
        if values.get("reward") is not None:
            values["reward"] = _number("reward", values["reward"])
        for name in ("time_limit_minutes", "trial_seconds"):
            if values.get(name) is not None and not _is_of(values[name], int):
                raise SettingsError(f"setting {name}: {values[name]!r}; expected {_EXPECTED[int]}.")
        for name in ("completion_code", "screen_out_code", "failed_check_code", "return_url", "continues"):
            if values.get(name) is not None and not isinstance(values[name], str):
                raise SettingsError(f"setting {name}: {values[name]!r} is not text. Put it in quotes.")
        # Values that any field can have are checked by `check`.
        settings = cls(**values)
        settings.check()
        return settings


# Field -> type of its value in a file.
_TYPES: Mapping[str, type] = {
    "open_registration": bool,
    "stop_at_failed_checks": bool,
    "lease_seconds": int,
    "exclusion": Mapping,
    "words": Mapping,
    "questions": Mapping,
    "screener": list,
    "markdown": list,
    "language": str,
    "currency": str,
}
_EXPECTED: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    Mapping: "names with their values",
    list: "a list",
    str: "a text. Put it in quotes",
}


def _is_of(value: Any, kind: type) -> bool:
    # True is an int in Python.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _screener(entry: Any) -> ScreenerQuestion:
    """A question of the screener. Raises :class:`SettingsError`."""
    if not isinstance(entry, Mapping) or set(entry) - {"question", "options", "accept"}:
        raise SettingsError("setting screener: each entry has question, options and, if you like, accept.")
    lists = [entry.get("options"), entry.get("accept", ())]
    if not isinstance(entry.get("question"), str) or any(
        not isinstance(texts, (list, tuple)) or any(not isinstance(text, str) for text in texts)
        for texts in lists
    ):
        raise SettingsError(
            "setting screener: question is a text, options and accept are lists of texts. Put numbers, yes and no "
            "in quotes."
        )
    return ScreenerQuestion(entry["question"], tuple(entry["options"]), tuple(entry.get("accept", ())))


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(f"setting {name}: {value!r} is no number.")
    return float(value)


def read_settings(path: Path | None, *, open_registration: bool = False) -> StudySettings:
    """The settings of a YAML file, or the defaults where ``path`` is None.

    ``open_registration`` overrides the file. Raises :class:`SettingsError` that names the file or the setting.
    """
    settings = StudySettings()
    if path is not None:
        from bench.suite_yaml import SuiteError, read_yaml_file

        try:
            values = read_yaml_file(path, "--settings")
        except SuiteError as error:
            raise SettingsError(str(error)) from error
        try:
            # An empty file is read as None.
            settings = StudySettings.from_mapping({} if values is None else _with_files(path, values))
        except (SettingsError, WordsError) as error:
            raise SettingsError(f"--settings {path}: {error}") from error
    return replace(settings, open_registration=True) if open_registration else settings


def _with_files(path: Path, values: Any) -> Any:
    """The settings with the content of the files that they name, relative to the file of the settings.

    ``consent_file: consent.md`` becomes the text ``consent``, and Markdown if its name ends in ``.md``. ``words_file``
    becomes ``words``. Raises :class:`SettingsError`.
    """
    if not isinstance(values, Mapping):
        return values
    values = dict(values)
    markdown = []
    for name in FILES:
        if (file := values.pop(f"{name}_file", None)) is None:
            continue
        if name in values:
            raise SettingsError(f"settings {name} and {name}_file: give one of them.")
        place = path.parent / str(file)
        try:
            values[name] = place.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"setting {name}_file: {place} cannot be read ({error}). Correct the path or file."
            ) from error
        if place.suffix == ".md":
            markdown.append(name)
    # Values of a wrong type stay, and `from_mapping` refuses them.
    if markdown and isinstance(stated := values.get("markdown", []), list):
        values["markdown"] = [*stated, *markdown]
    if (file := values.pop("words_file", None)) is not None:
        texts = words.read(path.parent / str(file))
        if isinstance(own := values.get("words", {}), Mapping):
            values["words"] = {**texts, **own}
    return values

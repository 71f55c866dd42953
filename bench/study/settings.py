"""Texts and terms of a study for its raters. They do not change which trials the study has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bench.files import parse_json
from bench.registry import did_you_mean
from bench.study import StudyError

# Most characters of a text.
MAX_TEXT = 20_000

# The consent page continues with what is stored of a rater (`text.storage_notice`), whatever a study's own text is.
CONSENT = (
    "You will be shown pictures that computer programs have edited, and asked which edit you prefer. "
    "Taking part is voluntary: you may stop at any time by closing the page."
)
INSTRUCTIONS = (
    "Each page shows an original picture. An outline marks where it should change, and a text says what it "
    "should show afterwards. Compare the edited pictures below it and answer the question. "
    "There are no trick questions; if you cannot decide between two pictures, say so where the page lets you."
)


class SettingsError(StudyError):
    """A setting that does not exist or has a wrong value. The message names the setting."""


@dataclass(frozen=True)
class StudySettings:
    """Settings of a study. Texts are plain: a page shows them without markup."""

    title: str = "Which edit is better?"
    consent: str = CONSENT
    instructions: str = INSTRUCTIONS
    thanks: str = "Thank you! Your answers are stored."
    # True where people may take part without an invitation.
    open_registration: bool = False
    # The code that every rater gets at the end, as Prolific and others require. None: each rater gets another code.
    completion_code: str | None = None
    # Address (https) of the link on the last page. `{code}` is replaced by the completion code, `{rater}` by the
    # recruiting service's id of the rater.
    return_url: str | None = None
    contact: str = ""
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
            if not isinstance(value, str) or len(value) > MAX_TEXT or "\x00" in value:
                raise SettingsError(f"setting {name}: expected at most {MAX_TEXT} characters of text.")
        if not self.title.strip():
            raise SettingsError("setting title: it is empty. Give the study a title.")
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
        for name, kind in (("open_registration", bool), ("lease_seconds", int), ("exclusion", Mapping)):
            if name in values and not isinstance(values[name], kind):
                raise SettingsError(f"setting {name}: {values[name]!r} is not {kind.__name__.lower()}.")
        for name in ("completion_code", "return_url"):
            if values.get(name) is not None and not isinstance(values[name], str):
                raise SettingsError(f"setting {name}: {values[name]!r} is not text. Put it in quotes.")
        # Values that any field can have are checked by `check`.
        settings = cls(**values)
        settings.check()
        return settings


def read_settings(path: Path | None, *, open_registration: bool = False) -> StudySettings:
    """The settings of a YAML file, or the defaults where ``path`` is None.

    ``open_registration`` overrides the file. Raises :class:`SettingsError` that names the file or the setting.
    """
    values: Any = None
    if path is not None:
        import yaml

        from bench.suite_yaml import read_yaml

        # Editors on Windows begin UTF-8 files with a byte order mark, which `utf-8-sig` drops.
        try:
            values = read_yaml(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise SettingsError(
                f"--settings {path}: cannot be read ({error}). Correct the path or file."
            ) from error
    # An empty file is read as None.
    settings = StudySettings.from_mapping(values or {})
    return replace(settings, open_registration=True) if open_registration else settings

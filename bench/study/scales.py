"""Scales on which raters rate a single edit, and the answers of such a trial.

Scales are data: ``scales.yaml`` has those that come with the program, and a file of the same form adds others. A study
keeps the scales that it was made with in its design.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.registry import did_you_mean
from bench.study import StudyError

# Scales of a trial. More do not fit beside two pictures.
MOST_SCALES = 6
MOST_LEVELS = 9
BUILT_IN = Path(__file__).with_name("scales.yaml")
DEFAULT = ("sc", "pq")

# What an attention check or a practice trial expects of all ratings: see `meets`.
LOW, HIGH = "low", "high"


class ScaleError(StudyError):
    """A scale that does not exist or is written wrongly. The message names the file and the scale."""


@dataclass(frozen=True)
class Level:
    """One level of a scale. The field names are keys of the file and of the design's JSON."""

    value: float
    # What the rater presses.
    label: str
    # When the level fits. May be empty.
    means: str = ""


@dataclass(frozen=True)
class Scale:
    """One question about a single edit, with levels from the worst to the best."""

    name: str
    question: str
    levels: tuple[Level, ...]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(level.value for level in self.levels)

    @property
    def middle(self) -> float:
        """Half way between the lowest and the highest value."""
        return (self.levels[0].value + self.levels[-1].value) / 2

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Scale:
        """The scale of ``dataclasses.asdict``. Raises KeyError or TypeError for anything else."""
        return cls(row["name"], row["question"], tuple(Level(**level) for level in row["levels"]))


def read_scales(names: Sequence[str], file: Path | None = None) -> tuple[Scale, ...]:
    """The scales of these names, from ``file`` and from those that come with the program.

    Without names: all of the file, or else ``DEFAULT``. Raises :class:`ScaleError`.
    """
    available = dict(_built_in())
    own = _read(file) if file is not None else {}
    available |= own
    chosen = tuple(names) or tuple(own) or DEFAULT
    for name in chosen:
        if name not in available:
            raise ScaleError(
                f"--scale {name!r}: unknown.{did_you_mean(name, list(available))} Known: {', '.join(available)}."
            )
    if len(set(chosen)) != len(chosen) or len(chosen) > MOST_SCALES:
        raise ScaleError(f"--scale: name each scale once, and at most {MOST_SCALES} of them.")
    return tuple(available[name] for name in chosen)


@cache
def _built_in() -> dict[str, Scale]:
    return _read(BUILT_IN)


def _read(file: Path) -> dict[str, Scale]:
    from bench.suite_yaml import SuiteError, read_yaml_file

    try:
        content = read_yaml_file(file, "--scales")
    except SuiteError as error:
        raise ScaleError(str(error)) from error
    if not isinstance(content, Mapping) or not content:
        raise ScaleError(f"--scales {file}: expected names of scales, each with its question and levels.")
    return {str(name): _scale(file, str(name), entry) for name, entry in content.items()}


def _scale(file: Path, name: str, entry: Any) -> Scale:
    """A checked scale of a file. Raises :class:`ScaleError`."""
    where = f"--scales {file}: scale {name!r}"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,19}", name) or name == "all":
        raise ScaleError(
            f"{where}: a name has up to 20 small letters, digits and underscores, and is not 'all'."
        )
    try:
        levels = tuple(
            Level(float(level["value"]), str(level["label"]), str(level.get("means", "")))
            for level in entry["levels"]
        )
        scale = Scale(name, str(entry["question"]), levels)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScaleError(
            f"{where}: expected question and levels, each level with value and label ({error!r})."
        ) from None
    values = scale.values
    rising = all(math.isfinite(value) for value in values) and list(values) == sorted(set(values))
    if not 2 <= len(values) <= MOST_LEVELS or not rising:
        raise ScaleError(f"{where}: expected 2 to {MOST_LEVELS} levels with rising values.")
    texts = [scale.question, *(text for level in levels for text in (level.label, level.means))]
    if not scale.question.strip() or any(not level.label.strip() for level in levels):
        raise ScaleError(f"{where}: a question or label is empty.")
    if any(len(text) > 500 or "\x00" in text for text in texts):
        raise ScaleError(f"{where}: a text has more than 500 characters.")
    return scale


# --- answers of a trial -------------------------------------------------------------------------------------


def to_text(scales: Sequence[Scale], positions: Sequence[int]) -> str:
    """The stored text of a rating: ``{"sc": 0.5, "pq": 1}``. ``positions``: the level of each scale, from 0."""
    values = {
        scale.name: scale.levels[position].value for scale, position in zip(scales, positions, strict=True)
    }
    return json.dumps(values, separators=(",", ":"))


def from_text(text: str) -> dict[str, float]:
    """Name of the scale -> value, of a text of :func:`to_text`."""
    values: dict[str, float] = json.loads(text)
    return values


def positions_of(scales: Sequence[Scale], text: str) -> tuple[int, ...]:
    """The level of each scale, from 0, of a text of :func:`to_text`."""
    values = from_text(text)
    return tuple(scale.values.index(values[scale.name]) for scale in scales)


def meets(expected: str, rating: float, values: Sequence[float]) -> bool:
    """True where a rating on a scale of these ``values`` is what a check expects.

    ``low``: below the middle of the scale. ``high``: not below it.
    """
    below = rating < (values[0] + values[-1]) / 2
    return below if expected == LOW else not below


def chance(expected: str, scales: Sequence[Scale]) -> float:
    """Probability that ratings at random are what a check expects on all scales."""
    return math.prod(
        sum(meets(expected, value, scale.values) for value in scale.values) / len(scale.levels)
        for scale in scales
    )

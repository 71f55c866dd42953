"""Reads the scores in a reply. Whatever is not clearly a score is none: nothing is guessed.

A reply has the scores as a list in JSON (bare, in an object, in a fence of Markdown) or as lines ``Name: score``. A
score may be bold, end with a full stop, or stand with the scale's maximum ("3/5").
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.files import parse_json

Scores = list[float]
Form = Literal["list", "lines", "winner"]

VERSION = "1"
"""Increased whenever a reply is read in another way. It is part of the version of the scores."""


# Brackets of a reply that are tried. A reply has a handful, and reading a hostile one must end soon.
MANY_BRACKETS = 50


UnreadKind = Literal["refused", "truncated", "unparsable", "out of range", "rejected", "transport"]


@dataclass(frozen=True)
class Unread:
    """A reply without scores, and why it has none."""

    kind: UnreadKind
    detail: str
    """A sentence for people. Nothing is decided by its words."""

    @property
    def reason(self) -> str:
        return f"{self.kind}: {self.detail}"


def read_scores(
    text: str,
    form: Form,
    names: Sequence[str],
    scale: tuple[float, float],
    *,
    finish: str | None = None,
    refusal: str | None = None,
) -> Scores | Unread:
    """The scores of a reply in the order of ``names``, each within ``scale``, or why there are none.

    ``finish`` is the server's ``finish_reason``, ``refusal`` what it says to a refused request.
    """
    # What the server itself says comes first.
    if refusal:
        return Unread("refused", _short(refusal))
    if finish == "content_filter":
        return Unread("refused", "the server's content filter")
    if finish in ("length", "max_tokens"):
        return Unread("truncated", "the reply was cut off; raise max_tokens")
    answer = _without_thoughts(text)
    if answer is None:
        return Unread("truncated", "the reply ends within its thoughts; raise max_tokens")
    if not answer.strip():
        return Unread("refused", "the reply is empty")

    # Every list of scores in the reply. Two that differ leave open which one is meant.
    count = len(names)
    if form == "winner":
        candidates = list(_winners(answer))
    else:
        candidates = [*_json_lists(answer, names)]
    if form == "lines" and not candidates:
        candidates = _score_lines(answer, count)
    readings: list[Scores] = []
    for candidate in candidates:
        numbers = [_number(value, scale[1]) for value in candidate]
        scores = [number for number in numbers if number is not None]
        if len(scores) == count and scores not in readings:
            readings.append(scores)
    if len(readings) > 1:
        return Unread("unparsable", f"it has several answers: {readings[0]} and {readings[1]}")
    if not readings:
        kind: Literal["refused", "unparsable"] = "refused" if _REFUSAL.match(answer.strip()) else "unparsable"
        return Unread(kind, _short(answer))

    (scores,) = readings
    outside = [score for score in scores if not scale[0] <= score <= scale[1]]
    if outside:
        return Unread("out of range", f"{outside[0]:g}, on a scale from {scale[0]:g} to {scale[1]:g}")
    return scores


# A reply that begins so and has no scores is a refusal.
_REFUSAL = re.compile(
    r"(i['’]?m|i am) (very |so )?(sorry|unable|not able)|sorry\b|i (can ?not|can['’]t|won['’]t)|as an ai|unfortunately",
    re.IGNORECASE,
)
# A number, perhaps with the maximum of its scale, bold, or with a full stop.
_SCORE = re.compile(r"[*_`\s]*(-?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*(\d+(?:\.\d+)?))?[*_`\s.,;]*")
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)```", re.DOTALL)
# Keys under which an object may have its scores.
_KEYS = ("score", "scores", "output score", "output_score")


def _without_thoughts(text: str) -> str | None:
    """The reply behind the thoughts of a reasoning model. None where the thoughts do not end."""
    # Some servers leave out the opening tag.
    answer = _THOUGHT.sub("", text)
    for tag in ("</think>", "</thinking>"):
        answer = answer.rpartition(tag)[2]
    return None if re.search(r"<think(?:ing)?>", answer) else answer


def _json_lists(text: str, names: Sequence[str]) -> Iterator[list[Any]]:
    """Yields every list of as many scores as ``names`` in the JSON of a reply."""
    for value in _json_values(text):
        # An object has the list under a key, or a score under each name.
        for _ in range(2):
            if isinstance(value, dict):
                entries = {str(key).strip().lower(): entry for key, entry in value.items()}
                by_name = [entries.get(name) for name in names]
                value = (
                    by_name
                    if None not in by_name
                    else next((entries[key] for key in _KEYS if key in entries), None)
                )
        # A single score may stand without a list.
        if len(names) == 1 and isinstance(value, (int, float, str)):
            value = [value]
        if isinstance(value, list) and len(value) == len(names):
            yield value


def _json_values(text: str) -> Iterator[Any]:
    """Yields the values of the JSON parts of a reply: the outermost objects and lists."""
    tries = MANY_BRACKETS
    for part in _FENCE.findall(text) or [text]:
        # "output score = [8, 9]" and "score: [8, 9]" are lists too.
        position = 0
        while (start := _next_bracket(part, position)) >= 0 and tries > 0:
            tries -= 1
            end = _closing(part, start)
            value = None if end < 0 else _json_or_python(part[start : end + 1])
            if isinstance(value, (dict, list)):
                yield value
                position = end + 1
            else:
                position = start + 1


# What stands before the name of an image, as in "Image A".
_WINNER = re.compile(r"(?:(?:image|edit|option)\s+)?(a|b|tie)\.?")
_POSITIONS = {"a": 0.0, "b": 1.0, "tie": 0.5}


def _winners(text: str) -> Iterator[list[Any]]:
    """Yields the winner of every object of a reply that names one: 0 for A, 1 for B, 0.5 for a tie."""
    for value in _json_values(text):
        entries = {str(key).lower(): entry for key, entry in value.items()} if isinstance(value, dict) else {}
        match = _WINNER.fullmatch(str(entries.get("winner", "")).strip().lower())
        if match is not None:
            yield [_POSITIONS[match[1]]]


def _next_bracket(text: str, start: int) -> int:
    positions = [at for at in (text.find("{", start), text.find("[", start)) if at >= 0]
    return min(positions, default=-1)


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at ``start``, -1 where there is none. Strings are passed over."""
    depth, quoted, escaped = 0, False, False
    for at in range(start, len(text)):
        char = text[at]
        if quoted:
            quoted, escaped = escaped or char != '"', char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth == 0:
                return at
    return -1


def _json_or_python(text: str) -> Any:
    """The value of a JSON text, or of a Python literal with quotes of the other kind. None for another text."""
    # A comma before a closing bracket is a common slip.
    for candidate in (text, re.sub(r",\s*([\]}])", r"\1", text)):
        try:
            return parse_json(candidate)
        except ValueError:
            pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _score_lines(text: str, count: int) -> list[list[Any]]:
    """The scores of the lines ``Name: score``, where there are ``count`` of them."""
    scores = []
    for line in text.splitlines():
        # The last colon: a name may hold one. "Name: **4**", "**Name:** 4", "- Name (1-5): 3/5", "... Score: 2."
        name, colon, value = line.rpartition(":")
        if colon and re.search(r"[^\W\d]", name) and _SCORE.fullmatch(value):
            scores.append(value)
    return [scores] if len(scores) == count else []


def _number(value: Any, maximum: float) -> float | None:
    """A score as a number. None for anything else, and for a share of another maximum than the scale's."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if abs(value) < 1e9 else None
    match = _SCORE.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match[2] is not None and float(match[2]) != maximum):
        return None
    return float(match[1])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119] + "…"

"""Rubrics: what a judge is asked, and how the scores of its replies become columns. Each is a file in ``rubrics/``.

A rubric of a public benchmark has no wording of its own: the user gives a folder with the official prompt files. Their
SHA-256 is compared with the one of the rubric, and is part of the version of the scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter

from bench.edit import stable_digest
from bench.errors import BenchError
from bench.files import parse_json, sha256_bytes
from bench.judges.reading import Form
from bench.metrics.types import Pair
from bench.registry import did_you_mean

_FOLDER = Path(__file__).parent / "rubrics"

ImageName = Literal["source", "edited", "mask", "first", "second"]


class RubricError(BenchError):
    """A rubric that does not exist, or whose prompt files cannot be used. The message names the remedy."""


@dataclass(frozen=True)
class Question:
    """One call to the judge."""

    name: str
    images: tuple[ImageName, ...]
    """Images of the call, in order. ``mask`` is white where the edit was asked for, ``first`` and ``second`` are two
    edits."""
    reply: Form
    """``list``: a list of the scores in JSON. ``lines``: one line ``Name: score`` for each. ``winner``: which of two
    edits is better, as the position where it stood."""
    scores: tuple[str, ...]
    """Names of the scores of a reply, in order."""
    prompt: str = ""
    """The wording. Empty where it is in files of the user."""
    files: tuple[str, ...] = ()
    """Prompt files of the user's folder, joined by newlines. A JSON file has a prompt for each category."""
    by_category: bool = False


@dataclass(frozen=True)
class Formula:
    """A column of one edit from its scores, or from other columns. Exactly one of the lists is given."""

    value: tuple[str, ...] = ()
    min: tuple[str, ...] = ()
    mean: tuple[str, ...] = ()
    geometric_mean: tuple[str, ...] = ()
    decimals: int | None = None
    """Decimals to which the value is rounded, half to even as Python does. None: not rounded."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the scores and columns that it needs."""
        return self.value or self.min or self.mean or self.geometric_mean

    def of(self, numbers: Mapping[str, float]) -> float:
        """The value, from the numbers by name."""
        terms = [numbers[name] for name in self.inputs]
        if self.geometric_mean:
            result = math.prod(terms) ** (1 / len(terms))
            # Two terms by the square root, as VIEScore: its last digit may differ from a power's.
            result = math.sqrt(terms[0] * terms[1]) if len(terms) == 2 else result
        elif self.mean:
            result = sum(terms) / len(terms)
        else:
            result = min(terms)
        return result if self.decimals is None else round(result, self.decimals)


@dataclass(frozen=True)
class Rubric:
    """A rubric as its file has it."""

    name: str
    version: str
    scale: tuple[float, float]
    """The lowest and the highest score."""
    questions: tuple[Question, ...]
    columns: Mapping[str, Formula]
    """Metric -> its formula. A later one may use the columns before it. Empty for a rubric of pairs."""
    needs: tuple[str, ...] = ()
    """Fields of ``Pair`` without which a case is not judged."""
    sha256: Mapping[str, str] | None = None
    """Prompt file -> SHA-256 of the official one."""

    @property
    def needs_files(self) -> bool:
        return any(question.files for question in self.questions)

    def value(self, column: str, scores: Mapping[str, float]) -> float:
        """The value of a column, from the scores of the questions that it needs."""
        formula = self.columns[column]
        return formula.of(
            {
                name: self.value(name, scores) if name in self.columns else scores[name]
                for name in formula.inputs
            }
        )

    def questions_of(self, column: str) -> list[Question]:
        """The questions whose replies a column needs."""
        inputs = self.columns[column].inputs
        needed = [question for name in inputs if name in self.columns for question in self.questions_of(name)]
        return [
            question
            for question in self.questions
            if question in needed or set(inputs) & set(question.scores)
        ]


@dataclass(frozen=True)
class CaseText:
    """Texts of a case that a question contains. ``Pair`` has the same fields."""

    category: str
    instruction: str
    target_prompt: str

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> CaseText:
        """The texts in a line of ``cases.jsonl``."""
        return cls(row["category"], row["instruction"], row["target_prompt"])


@dataclass(frozen=True)
class Wording:
    """A rubric with the texts of its questions."""

    rubric: Rubric
    prompts: Mapping[str, str | Mapping[str, str]]
    """Question -> its prompt, or its prompt for each category."""
    files: Mapping[str, str]
    """Prompt file -> SHA-256 of the one that is used."""
    remarks: tuple[str, ...] = ()
    """Files that differ from the official ones."""

    @property
    def digest(self) -> str:
        """12 hex digits over everything that the judge is asked."""
        # The declarations as they are, and the texts: another word is another rubric.
        declared = TypeAdapter(Rubric).dump_python(self.rubric, mode="json")
        return stable_digest([declared, {name: _plain(prompt) for name, prompt in self.prompts.items()}])

    def longest(self, question: Question) -> str:
        """The longest text of a question, with its placeholders."""
        prompt = self.prompts[question.name]
        return prompt if isinstance(prompt, str) else max(prompt.values(), key=len, default="")

    def prompt(self, question: Question, case: CaseText | Pair) -> str:
        """The text of a question about an edit. Raises RubricError where there is none for the case's category."""
        prompt = self.prompts[question.name]
        if not isinstance(prompt, str):
            if case.category not in prompt:
                raise RubricError(
                    f"the rubric has no prompt for edits of the type {case.category!r}, only for {', '.join(prompt)}."
                )
            prompt = prompt[case.category]
        request = case.instruction or f"The image should show: {case.target_prompt}"
        texts = {
            "<request>": request,
            "<instruction>": case.instruction,
            "<edit_prompt>": case.instruction,
        }
        # In one pass: an instruction that contains a placeholder stays as it is.
        return re.sub("|".join(texts), lambda match: texts[match[0]], prompt)


def _plain(prompt: str | Mapping[str, str]) -> str | dict[str, str]:
    return prompt if isinstance(prompt, str) else dict(prompt)


def rubric_names() -> list[str]:
    """Names of the rubrics."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@lru_cache
def load_rubric(name: str) -> Rubric:
    """The rubric of a name. Raises :class:`RubricError` with a suggestion for an unknown one."""
    names = rubric_names()
    if name not in names:
        raise RubricError(f"unknown rubric {name!r}.{did_you_mean(name, names)} Known: {', '.join(names)}.")
    return TypeAdapter(Rubric).validate_python(
        yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    )


def word(rubric: Rubric, folder: str) -> Wording:
    """The rubric with its texts, those of a public benchmark from the user's ``folder``.

    Raises :class:`RubricError` where a file is missing or cannot be read.
    """
    if rubric.needs_files and not folder:
        listed = ", ".join(dict.fromkeys(file for question in rubric.questions for file in question.files))
        raise RubricError(
            f"rubric {rubric.name}: its wording is the benchmark's own. Set prompts to the folder that has {listed}."
        )
    if folder and not rubric.needs_files:
        raise RubricError(f"rubric {rubric.name}: its wording is here. Leave prompts out.")

    # Texts and digests of every file.
    texts: dict[str, str] = {}
    digests: dict[str, str] = {}
    for file in dict.fromkeys(file for question in rubric.questions for file in question.files):
        path = Path(folder).expanduser() / file
        try:
            data = path.read_bytes()
            texts[file], digests[file] = data.decode(), sha256_bytes(data)
        except (OSError, UnicodeDecodeError) as error:
            raise RubricError(
                f"{path}: cannot be read ({error}). Set prompts to the folder that has it."
            ) from None
    prompts = {question.name: _prompt(question, texts, folder) for question in rubric.questions}
    remarks = tuple(
        f"{file}: SHA-256 {digest}, the official one has {(rubric.sha256 or {})[file]}"
        for file, digest in digests.items()
        if (rubric.sha256 or {}).get(file, digest) != digest
    )
    return Wording(rubric, prompts, digests, remarks)


def _prompt(question: Question, texts: Mapping[str, str], folder: str) -> str | dict[str, str]:
    """The prompt of a question, or its prompt for each category."""
    if not question.files:
        return question.prompt
    if not question.by_category:
        return "\n".join(texts[file] for file in question.files)
    (file,) = question.files
    try:
        prompts = parse_json(texts[file])
    except ValueError:
        prompts = None
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise RubricError(
            f"{Path(folder) / file}: expected a JSON object with a prompt for each type of edit."
        )
    return prompts


def unmet(needs: Sequence[str], pair: Pair) -> str | None:
    """Reason why a case cannot be judged, in the words of other metrics. None where it has all."""
    for need in needs:
        value = getattr(pair, need)
        if value is None or (need != "mask" and not value):
            return f"the case has no {need.replace('_', ' ')}"
    return None

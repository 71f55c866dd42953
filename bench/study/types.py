"""What a study is made of: questions, cases with their pictures, trials. Frozen values; stdlib only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["pair", "best"]
Role = Literal["trial", "repeat", "attention", "practice"]

KINDS: tuple[Kind, ...] = ("pair", "best")
"""``pair``: two candidates, and a tie where the study allows one. ``best``: all methods at once, no tie."""

ROLES: tuple[Role, ...] = ("trial", "repeat", "attention", "practice")
"""``trial``: wanted of one rater. ``repeat``: one of the rater's own trials again, sides swapped.
``attention``: its answer is known. ``practice``: comes first, its answer is known, and is shown."""

TIE = "tie"
"""The answer that prefers none; no method may have this title."""

CONTROL = "control:"
TRUTH, SOURCE, NOISE = f"{CONTROL}truth", f"{CONTROL}source", f"{CONTROL}noise"
"""The candidates of attention and practice trials; no method's title may begin with ``control:``."""


@dataclass(frozen=True)
class Question:
    """What a rater is asked. The texts are shown as they are, so they hold no markup."""

    name: str
    pair: str
    best: str
    hint: str

    def text(self, kind: str) -> str:
        return self.best if kind == "best" else self.pair


QUESTIONS: Mapping[str, Question] = {
    question.name: question
    for question in (
        Question(
            "overall",
            "Which edit is better overall?",
            "Which edit is the best overall?",
            "It does what the text asks inside the outline, leaves the rest alone, and looks real.",
        ),
        Question(
            "prompt",
            "Which edit follows the text better?",
            "Which edit follows the text best?",
            "Look only at whether the picture shows what the text asks for.",
        ),
        Question(
            "preserve",
            "Which edit keeps the rest of the picture better?",
            "Which edit keeps the rest of the picture best?",
            "Look only outside the outline: nothing there should differ from the original.",
        ),
        Question(
            "real",
            "Which picture looks more real?",
            "Which picture looks most real?",
            "Look only at whether it could be an untouched photograph; the text does not matter.",
        ),
    )
}
"""The questions by name, in the order in which they are shown and tabled."""


@dataclass(frozen=True)
class PictureRef:
    """One picture of the design: a file of a run folder bound by its SHA-256, or noise bound by its seed."""

    file: str
    """Relative to its run folder, with forward slashes; ``noise:SEED`` for a picture of noise."""
    sha256: str = ""
    """Of the file's bytes, 64 hex digits; empty for noise."""
    run: int = 0
    """Index into the design's run folders."""

    @property
    def is_noise(self) -> bool:
        return self.file.startswith("noise:")


@dataclass(frozen=True)
class StudyCase:
    """One case whose edits are compared."""

    protocol: str
    case: str
    source_id: str
    """Cases of one source image are one cluster."""
    category: str
    source_prompt: str
    target_prompt: str
    region_prompt: str
    instruction: str
    source: PictureRef
    mask: PictureRef
    edits: Mapping[str, PictureRef]
    """Every compared method's edit, by the method's title."""
    truth: PictureRef | None = None

    @property
    def key(self) -> str:
        """Unique in a design."""
        return f"{self.protocol}/{self.case}"


@dataclass(frozen=True)
class Trial:
    """One screen that asks one question about one case."""

    id: str
    """Unique in a design; known to the analysis, never to a browser."""
    role: Role
    kind: Kind
    question: str
    case: str
    """:attr:`StudyCase.key`."""
    candidates: tuple[str, ...]
    """Titles, or controls, in the order in which they are shown: left to right, top to bottom."""
    sheet: int | None = None
    """The rater's sheet that a ``trial`` or its ``repeat`` is on; None for attention and practice."""
    position: int = 0
    """Order within the sheet, or within the list of attention or practice trials."""
    repeat_of: str | None = None
    expected: str | None = None
    """The right answer of an attention or practice trial."""

    @property
    def unit(self) -> str:
        """What is compared, whatever the order: no rater is asked about one unit twice but in a repeat."""
        return "|".join([self.kind, self.question, self.case, *sorted(self.candidates)])

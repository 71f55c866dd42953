"""Questions, cases with their images, and trials: the parts of a study's design. Frozen values, stdlib only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["pair", "best", "rate"]
Role = Literal["trial", "repeat", "attention", "practice"]

# `pair`: two candidates, and a tie where the study allows one. `best`: all methods at once, no tie. `rate`: one edit,
# rated on all scales of the study.
KINDS: tuple[Kind, ...] = ("pair", "best", "rate")
# The question of a `rate` trial, which asks all scales.
RATINGS = "ratings"

# `trial`: a comparison of the design, to be answered by one rater. `repeat`: one of the rater's own trials again,
# sides swapped. `attention`: a check with one right answer. `practice`: comes first, has one right answer, and tells
# the rater which.
ROLES: tuple[Role, ...] = ("trial", "repeat", "attention", "practice")

# The answers that prefer none: there is no difference, or both edits are bad. No method may have such a title.
TIE, BOTH_BAD = "tie", "both bad"
NO_PREFERENCE: tuple[str, ...] = (TIE, BOTH_BAD)

CONTROL = "control:"
# Candidates of attention and practice trials. No method's title may begin with `control:`.
GROUND_TRUTH, SOURCE, NOISE = f"{CONTROL}truth", f"{CONTROL}source", f"{CONTROL}noise"


@dataclass(frozen=True)
class Question:
    """A question to the rater. Its texts are plain: a page shows them without markup."""

    name: str
    pair: str
    best: str
    hint: str
    # The hint for a case without a mask, which has no outline. Empty: the same.
    hint_without_outline: str = ""

    def hint_for(self, case: StudyCase) -> str:
        """The hint that fits this case: that for an outline, or that for a case without a mask."""
        return self.hint if case.mask is not None else self.hint_without_outline or self.hint

    def text(self, kind: str) -> str:
        """The question for a trial of this kind."""
        return self.best if kind == "best" else self.pair


# The questions by name, in the order in which they are shown and tabled.
QUESTIONS: Mapping[str, Question] = {
    question.name: question
    for question in (
        Question(
            "overall",
            "Which edit is better overall?",
            "Which edit is the best overall?",
            "It does what the text asks inside the outline, leaves the rest alone, and looks real.",
            "It does what the text asks, leaves the rest alone, and looks real.",
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
            "Look only at what the text does not ask to change: it should be as in the original.",
        ),
        Question(
            "real",
            "Which picture looks more real?",
            "Which picture looks most real?",
            "Look only at whether it could be an untouched photograph; the text does not matter.",
        ),
    )
}


@dataclass(frozen=True)
class ImageRef:
    """One image of the design: a file of a run folder with its SHA-256, or noise with its seed."""

    # Path relative to its run folder, with forward slashes. `noise:SEED` for an image of noise.
    file: str
    # SHA-256 of the file's bytes, 64 hex digits. Empty for noise.
    sha256: str = ""
    # Index into the design's run folders.
    run: int = 0

    @property
    def is_noise(self) -> bool:
        return self.file.startswith("noise:")


@dataclass(frozen=True)
class StudyCase:
    """One case whose edits are compared. The field names are keys of the design's JSON."""

    protocol: str
    case: str
    # Cases of one source image are one cluster.
    source_id: str
    category: str
    source_prompt: str
    target_prompt: str
    region_prompt: str
    instruction: str
    source: ImageRef
    # None where the case has no mask: raters then see no outline.
    mask: ImageRef | None
    # The edit of every compared method, by the method's title.
    edits: Mapping[str, ImageRef]
    # Ground truth of the edit, where the protocol has one.
    truth: ImageRef | None = None

    @property
    def key(self) -> str:
        """Unique in a design."""
        return f"{self.protocol}/{self.case}"


@dataclass(frozen=True)
class Trial:
    """One screen that asks one question about one case. The field names are keys of the design's JSON."""

    # Unique in a design. The analysis uses it, and no browser gets it.
    id: str
    role: Role
    kind: Kind
    question: str
    # :attr:`StudyCase.key`.
    case: str
    # Titles or controls in the order shown: left to right, top to bottom.
    candidates: tuple[str, ...]
    # The rater's sheet of a `trial` and its `repeat`. None for attention and practice, which all raters share.
    sheet: int | None = None
    # Order within the sheet, or within the list of attention or practice trials.
    position: int = 0
    repeat_of: str | None = None
    # The right answer of an attention or practice trial. For ratings `scales.LOW` or `HIGH`.
    expected: str | None = None

    @property
    def unit(self) -> str:
        """The comparison, whatever the order of its candidates. A rater sees it twice only in a repeat."""
        return "|".join([self.kind, self.question, self.case, *sorted(self.candidates)])


def question_texts(kind: str, question: str, case: StudyCase) -> tuple[str, str]:
    """The question of a trial and its hint."""
    if kind == "rate":
        return "How good is this edit?", "Look at the original and the edit, then answer each question."
    return QUESTIONS[question].text(kind), QUESTIONS[question].hint_for(case)

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


# The questions in the order in which they are shown and tabled. `words` has their texts.
QUESTIONS: tuple[str, ...] = ("overall", "prompt", "preserve", "real")


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

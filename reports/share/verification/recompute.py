"""Functions that compute parts of a run again, and the comparison of their values with stored ones.

Reports import no metric and no protocol, so the caller passes in the functions that compute again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.edit import EditCase, EditRecord, ScoreRecord
from bench.store import RunStore, SetScore

# (protocol, method digest): all edits of a method in a protocol.
EditSets = Sequence[tuple[str, str]]
ScoreEdits = Callable[[RunStore, Sequence[EditRecord]], Iterable[ScoreRecord]]
ScoreSets = Callable[[RunStore, EditSets], Iterable[SetScore]]

# Largest difference of a value computed again, relative to the larger of the stored value and 1 (set scores: 0.1).
# Another batch size, number of threads or device changes a float32 result by less.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class RebuiltReport:
    """A report that was built again from the run."""

    folder: Path
    # True where the stored report names the options that it was made with. If not, the defaults were taken.
    recorded: bool
    # True where this version of the program wrote the stored report. If not, the two may differ without an error.
    same_program: bool


@dataclass(frozen=True)
class Recompute:
    """Functions that compute parts of a run again and store nothing. A part with None is not computed again.

    Each function raises ValueError with the reason where it cannot compute.
    """

    # All cases of a protocol of the run.
    cases: Callable[[str], Iterable[EditCase]] | None = None
    # Scores of the given edits by those of the run's metrics whose weights are present.
    scores: ScoreEdits | None = None
    # Set scores of the given sets by those of the run's metrics whose weights and real images are present.
    sets: ScoreSets | None = None
    # Builds the report of the run below an empty folder.
    report: Callable[[RunStore, Path], RebuiltReport] | None = None


def sample_rank(seed: int, name: str) -> bytes:
    """Sort key that puts names into a pseudo-random order, which depends on the seed alone."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def values_differ(stored: float, recomputed: float, least_scale: float) -> bool:
    """True where two values differ by more than :data:`TOLERANCE`. NaN stands for a missing value."""
    if math.isnan(stored) or math.isnan(recomputed):
        return math.isnan(stored) != math.isnan(recomputed)
    return abs(recomputed - stored) > TOLERANCE * max(least_scale, abs(stored))


def value_text(value: float) -> str:
    return "no value" if math.isnan(value) else f"{value:.6g}"

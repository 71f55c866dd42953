"""The result of measuring an embedded checkpoint, against a threshold where it has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ThresholdCheck:
    """One figure of a checkpoint, and the requirement on it."""

    name: str
    """Checkpoint."""
    figure: float | None
    """None where the checkpoint or the run that decides it is missing."""
    threshold: float | None
    """None for a figure that is reported only."""
    passed: bool
    """True where there is no threshold."""
    detail: str
    training_gap: str = ""
    """``"N of M samples of its recipe"`` where the threshold is missed and the network saw fewer samples than its
    recipe asks for. Such a miss is reported, and does not fail the command."""

    @property
    def state(self) -> Literal["passed", "missed", "under-trained", "measured"]:
        if self.threshold is None:
            return "measured"
        if self.passed:
            return "passed"
        return "under-trained" if self.training_gap else "missed"

    @property
    def full_detail(self) -> str:
        return f"{self.detail}; under-trained: {self.training_gap}" if self.training_gap else self.detail

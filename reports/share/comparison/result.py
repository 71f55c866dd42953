"""Result of the comparison of two runs, A and B. A difference is always B minus A."""

from __future__ import annotations

from dataclasses import dataclass

from bench.edit import ALL
from reports.data.metrics import MAIN_METRICS

# Largest mean difference, relative to values of 1 or more, that float32 arithmetic alone can make.
ROUNDING = 1e-6


@dataclass(frozen=True)
class ConfigurationChange:
    """One setting that differs between the runs. None where a run does not have it."""

    # Dotted name: ``seed``, ``versions.torch``, ``methods.sd_inpainting.steps``, ...
    what: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class MetricDifference:
    """One metric of one method in A and in B, over the cases that have a value in both."""

    protocol: str
    category: str
    method: str
    metric: str
    a: float | None
    b: float | None
    # Mean of B minus A.
    difference: float | None
    low: float | None
    # 95 % interval, clustered on the source image. None for metrics of whole sets.
    high: float | None
    # Number of pairs. For metrics of whole sets, the size of the smaller set.
    n: int
    # Number of values of common cases that only one of the runs has.
    unpaired: int = 0
    higher_is_better: bool | None = None
    # True where the values are equal in every case, or those of the whole set are.
    same: bool = False
    # Reason why nothing is compared, where that is so.
    remark: str = ""

    @property
    def separable(self) -> bool:
        """True where the interval excludes zero, by more than rounding."""
        return self._excludes_zero and not self.rounding

    @property
    def rounding(self) -> bool:
        """True where the interval excludes zero only because arithmetic rounds."""
        if not self._excludes_zero or self.difference is None:
            return False
        return abs(self.difference) <= ROUNDING * max(1.0, abs(self.a or 0), abs(self.b or 0))

    @property
    def _excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def better(self) -> bool | None:
        """True where B is better than A, False where it is worse. None where that is undecided."""
        if not self.separable or self.higher_is_better is None or self.difference is None:
            return None
        return (self.difference > 0) == self.higher_is_better


@dataclass(frozen=True)
class Flip:
    """A case that one run edits with success and the other without."""

    protocol: str
    category: str
    case: str
    method: str
    metric: str
    # True for success in B alone, False for success in A alone.
    gained: bool
    # The target prompt.
    prompt: str


@dataclass(frozen=True)
class Comparison:
    """Everything that differs between two runs."""

    a: str
    b: str
    changes: tuple[ConfigurationChange, ...]
    differences: tuple[MetricDifference, ...]
    flips: tuple[Flip, ...]
    # Notes on what could not be compared, with the reason.
    notes: tuple[str, ...]

    def headline(self) -> list[MetricDifference]:
        """Differences over all categories of the main table's metrics, or of all metrics where it has none."""
        overall = [d for d in self.differences if d.category == ALL]
        return [d for d in overall if d.metric in MAIN_METRICS] or overall

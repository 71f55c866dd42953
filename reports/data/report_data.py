"""The data from which every table and figure of a report is made."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.edit import ALL, CATEGORIES
from bench.errors import BenchError
from reports.data.metrics import metric_info

if TYPE_CHECKING:
    import pandas as pd

    from bench.metrics.types import MetricInfo
    from reports.data.separation import Separation


class ReportError(BenchError):
    """A run that cannot be reported on. The message names the remedy."""


@dataclass(frozen=True, eq=False)
class ReportData:
    """The numbers of a report, and what is needed to lay them out."""

    # The tidy summary. Its columns are ``reports.data.summary.SUMMARY_COLUMNS``.
    frame: pd.DataFrame
    # Metric -> its declaration: unit, direction, one line of meaning.
    metrics: Mapping[str, MetricInfo]
    # Titles of the methods that are controls.
    controls: Container[str] = ()
    # Adjusted p-values against the best method. None: overlapping intervals are marked instead.
    separations: Separation | None = None
    # Decimals of every column. None: about four digits.
    decimals: int | None = None
    # Protocol -> category -> expected success of the best blind guess, as ``bench.edit.EditProtocol.ceilings``.
    ceilings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def with_frame(self, frame: pd.DataFrame) -> ReportData:
        return replace(self, frame=frame)

    def protocols(self) -> list[str]:
        """Protocols of the summary, in order."""
        return list(dict.fromkeys(self.frame["protocol"]))

    def categories(self, protocol: str) -> list[str]:
        """The paper's categories, then those that the protocol has of its own, in order."""
        own = self.frame.loc[self.frame["protocol"] == protocol, "category"]
        return list(dict.fromkeys([*CATEGORIES, *own[own != ALL]]))

    def names(self, protocol: str) -> list[str]:
        """Metrics that a protocol has values of, in order, without those of :meth:`published`."""
        return [name for name in self._scored(protocol) if not self._is_published(name)]

    def published(self, protocol: str) -> list[str]:
        """Metrics of public benchmarks that a protocol has values of, in order."""
        return [name for name in self._scored(protocol) if self._is_published(name)]

    def _scored(self, protocol: str) -> list[str]:
        return list(dict.fromkeys(self.frame.loc[self.frame["protocol"] == protocol, "metric"]))

    def _is_published(self, name: str) -> bool:
        info = metric_info(name, self.metrics)
        return info is not None and bool(info.published)

    def first(self, protocol: str, names: tuple[str, ...]) -> str:
        """The first of these metrics for which the protocol has values, or an empty string."""
        available = set(self.names(protocol))
        return next((name for name in names if name in available), "")

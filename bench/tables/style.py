"""Appearance of tables: columns, number of decimals, intervals, paper layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.errors import BenchError
from bench.registry import did_you_mean

Intervals = Literal["plus-minus", "brackets", "none"]
Layout = Literal["one-column", "two-column"]
Captions = Literal["short", "full"]


class StyleError(BenchError):
    """A style that cannot be applied. The message names the option and the remedy."""


@dataclass(frozen=True)
class Style:
    """The choices that a user has for the look of tables."""

    # Metrics of the main tables, in order. Empty: the suite's own choice.
    columns: tuple[str, ...] = ()
    # Decimals of every column. None: about four digits.
    decimals: int | None = None
    # ``brackets``: [low, high] below the value. ``plus-minus``: distances to both ends, beside the value.
    intervals: Intervals = "brackets"
    # Layout of the paper. In ``two-column``, wide LaTeX tables span the page (``table*``).
    layout: Layout = "two-column"
    # ``short``: title, n and marks. ``full``: all notes and the provenance too.
    captions: Captions = "short"

    def check_columns(self, available: Sequence[str]) -> None:
        """Raises :class:`StyleError` for a column that the run does not have."""
        for column in self.columns:
            if column not in available:
                raise StyleError(
                    f"--columns: no metric {column!r}.{did_you_mean(column, available)} "
                    f"This run has: {', '.join(sorted(available))}."
                )

"""Parts that all tables of an analysis share: the set of raters they show, their size, and cells with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.study.votes.analysis import RATER_NAMES, Analysis
from bench.study.votes.frame import ALL
from bench.tables.numbers import MISSING, cell_text, finite, interval, number
from bench.tables.table import MARK_NOTES, Cell, Column, Row, Table, slug

if TYPE_CHECKING:
    import pandas as pd

# Kind of votes -> its name in titles.
KIND_NAMES = {"pair": "pairs, a tie is half a win", "best": "choice of the best"}

# Formats of values in tables whose rows differ in their unit.
PERCENT = Column("", "", percent=True, decimals=1)
PLAIN = Column("", "", decimals=2)


class View:
    """The results of one set of raters (``analysis.rater_set``), and what every table says of it."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        counts = analysis.counts[analysis.counts["raters"] == analysis.rater_set].iloc[0]
        shares = self.rows("shares")
        self.questions = [name for name in dict.fromkeys(shares["question"]) if name != ALL]
        self.kinds = [kind for kind in KIND_NAMES if (shares["kind"] == kind).any()]
        # A table of one question or kind shows a part of these votes.
        several = len(self.questions) > 1 or len(self.kinds) > 1
        self.size = (
            f"{counts['n_votes'] or counts['n_ratings']} {'votes' if counts['n_votes'] else 'rated trials'} of "
            f"{counts['n_raters']} raters on {counts['n_sources']} source images{' in all' if several else ''}."
        )
        # Every table lists the methods in one order: by their share.
        pooled = shares[in_scope(shares)].sort_values("share", ascending=False, kind="stable")
        rated = self.rows("ratings").sort_values("mean", ascending=False, kind="stable")
        self.methods = list(dict.fromkeys([*pooled["method"], *rated["method"]]))

    def rows(self, name: str) -> pd.DataFrame:
        """The rows of the analysis' table ``name`` for this set of raters."""
        frame: pd.DataFrame = getattr(self.analysis, name)
        # Without scores the table of correlations has no column.
        return frame[frame["raters"] == self.analysis.rater_set] if len(frame) else frame

    @property
    def scopes(self) -> list[str]:
        """The questions that get a table each, or ``"all"`` where there is one: its rows are the pooled ones."""
        # Several questions are not pooled: a share over "realism" and "overall" together means nothing.
        return self.questions if len(self.questions) > 1 else [ALL]

    def kind_scopes(self, frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """(kind, question, rows over all protocols and categories) for each kind and question with votes."""
        for kind in self.kinds:
            for question in self.scopes:
                part = frame[in_scope(frame, question) & (frame["kind"] == kind)]
                if len(part):
                    yield kind, question, part

    def question_words(self, question: str) -> str:
        """``, question “overall”`` for a title. The only question of a study is named too."""
        name = self.questions[0] if question == ALL and self.questions else question
        return f", question “{name}”" if name != ALL else ""

    def table(
        self,
        name: str,
        title: str,
        columns: Sequence[Column],
        cells: Mapping[str, Sequence[Cell]],
        *notes: str,
        question: str = ALL,
        rows_are: str = "method",
    ) -> Table:
        """A finished table. ``cells``: label of a row -> one cell per column.

        ``question`` becomes part of the table's name, unless it is ``"all"``. Empty notes are left out.
        """
        # Rows have no n: votes are counted by question and kind, which a row may span.
        rows = tuple(Row(label, False, tuple(of_row), 0, 0) for label, of_row in cells.items())
        marks = MARK_NOTES[:1] if any(cell.best for row in rows for cell in row.cells) else ()
        analysis = self.analysis
        return Table(
            name if question == ALL else f"{name}-{slug(question)}",
            analysis.warning + title,
            tuple(columns),
            rows,
            notes=(analysis.statement, *marks, *filter(None, notes)),
            provenance=(
                f"Votes of study {', '.join(analysis.studies)}.",
                f"Raters: {RATER_NAMES[analysis.rater_kind]}.",
            ),
            caption=self.size,
            rows_are=rows_are,
            # The numbers of votes stand in columns of their own, or in the caption.
            counts=(),
            level=analysis.level,
        )


def in_scope(frame: pd.DataFrame, question: str = ALL, protocol: str = ALL, category: str = ALL) -> Any:
    """Mask of the rows of one scope, (N,)."""
    return (frame["question"] == question) & (frame["protocol"] == protocol) & (frame["category"] == category)


def ranged(row: Mapping[Any, Any], column: Column, name: str, ends: str = "", *, best: bool = False) -> Cell:
    """The value ``row[name]`` with its interval, from ``row[ends + "low"]`` to ``row[ends + "high"]``.

    Votes do not always bound a strength: an interval with one end reads ``0.40 or more``, one without any a dash.
    """
    value, low, high = (finite(row[key]) for key in (name, f"{ends}low", f"{ends}high"))
    if value is None:
        return Cell(None)
    if low is not None and high is not None:
        return Cell(value, low, high, best=best)
    if low is not None:
        return Cell(value, best=best, span=minus(f"{number(low, column)} or more"))
    if high is not None:
        return Cell(value, best=best, span=minus(f"{number(high, column)} or less"))
    return Cell(value, best=best, span=MISSING)


def as_text(cell: Cell, column: Column) -> Cell:
    """The same cell as text, for a table whose rows have different units."""
    return Cell(None, text=minus(cell_text(cell, column)), span=minus(interval(cell, column)))


def minus(text: str) -> str:
    """``text`` with a typographic minus, for cells that LaTeX does not set as numbers."""
    return text.replace("-", "−")

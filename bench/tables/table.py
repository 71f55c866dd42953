"""A table as data: columns, rows, and cells with intervals and marks.

Marks, groups and notes are decided here. The other modules of this package only print a table: ``terminal``,
``markup`` (Markdown, HTML, CSV) and ``latex``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.edit import ALL
from bench.tables.style import Style

# A method is separable from the best one where the adjusted p-value is below this.
ALPHA = 0.05

# Notes that a terminal leaves out: it marks the best by a star, and the second by nothing.
MARK_NOTES = ("Bold: the best method of the column.", "Underlined: the second best method of the column.")

# Style of intervals -> the note that explains it. The table fills in its level.
_INTERVAL_NOTES: Mapping[str, str] = {
    "brackets": "Below each value: its {level:g} % interval.",
    "plus-minus": (
        "±: from the value to either end of its {level:g} % interval; + and - where they are not equally far."
    ),
    "none": "",
}


@dataclass(frozen=True)
class Column:
    """One column: its heading, and how its values are written."""

    heading: str
    # Identifier of the values, the key of the column in CSV files.
    metric: str
    # Edit category of the values.
    category: str = ALL
    # None: neither direction is better, so nothing is marked.
    higher_is_better: bool | None = None
    # True where values are shares in [0, 1] that are shown times 100.
    percent: bool = False
    decimals: int = 3
    # Protocol of the values, where a table spans several.
    protocol: str = ""
    # Heading above this column and its neighbours of the same group.
    group: str = ""
    # True where the values were copied from a publication. Such a column is never marked and never compared.
    reported: bool = False

    @property
    def arrow(self) -> str:
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def sign(self) -> str:
        """Unit (per cent only) and direction, such as ``% ↑``."""
        return " ".join(part for part in ("%" if self.percent else "", self.arrow) if part)

    @property
    def title(self) -> str:
        return f"{self.heading} {self.sign}".strip()

    @property
    def full_title(self) -> str:
        """Title with the group before it, and ``(reported)`` behind a copied column."""
        group = f"{self.group}: " if self.group else ""
        return group + self.title + (" (reported)" if self.reported else "")


@dataclass(frozen=True)
class Cell:
    """One value with its interval and its marks."""

    # None where nothing could be computed.
    value: float | None
    low: float | None = None
    high: float | None = None
    # Number of samples behind the value.
    n: int = 0
    best: bool = False
    # Not the best, but its interval overlaps the best one's.
    tie: bool = False
    second: bool = False
    # Not separable from the best: its p-value, adjusted for all pairs of methods, is at least ``ALPHA``.
    dagger: bool = False
    # Shown instead of the value, for cells that are no plain number.
    text: str = ""
    # Shown instead of the interval.
    span: str = ""


@dataclass(frozen=True)
class Row:
    """One row, usually of a method."""

    label: str
    # True for a control (a reference method). Controls are last and are never marked.
    control: bool
    cells: tuple[Cell, ...]
    # Largest n of the cells.
    n: int
    # Number of edits that failed or are missing.
    failed: int
    # Printed by LaTeX instead of ``label``.
    display: str = ""
    # BibTeX keys that LaTeX cites after the name.
    cite: str = ""
    # Heading above this row and its neighbours of the same group.
    group: str = ""
    # A setting that readers must know to compare the row with others, shown behind its name.
    setting: str = ""

    @property
    def title(self) -> str:
        """The label with the setting, for people. Files for programs have the label alone."""
        return self._with_setting(self.label)

    @property
    def printed(self) -> str:
        """The name in LaTeX, with the setting."""
        return self._with_setting(self.display or self.label)

    def _with_setting(self, name: str) -> str:
        return f"{name}, {self.setting}" if self.setting else name

    def counts(self, names: Iterable[str]) -> list[int]:
        """Values of the named counts (``n``, ``failed``)."""
        return [{"n": self.n, "failed": self.failed}[name] for name in names]


@dataclass(frozen=True)
class Table:
    """A finished table. Methods stand first, controls after them."""

    # Stem of its files, and its LaTeX label.
    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    # How the intervals were computed.
    interval_notes: tuple[str, ...] = ()
    # True where intervals are shown. CSV files always have them.
    intervals: bool = True
    # Data, weights, seed and versions: one sentence each.
    provenance: tuple[str, ...] = ()
    # Sentence that even a short LaTeX caption holds, besides title, n and marks.
    caption: str = ""
    # Heading of the first column.
    rows_are: str = "method"
    # Counts of a row that are shown at its end.
    counts: tuple[str, ...] = ("n", "failed")
    # Those of ``notes`` that warn of an n too small for any conclusion. The report's page and command repeat them.
    too_small: tuple[str, ...] = ()
    # Confidence level of the intervals.
    level: float = 0.95

    def explained_intervals(self, intervals: str) -> tuple[str, ...]:
        """Sentences on the meaning of the intervals and on their computation. Empty where none are shown."""
        if not self.interval_notes or intervals == "none":
            return ()
        return (_INTERVAL_NOTES[intervals].format(level=100 * self.level), *self.interval_notes)

    def column_n(self, index: int) -> int | None:
        """The n that all values of a column share, where it differs from that of their rows."""
        # Cells without a value have n = 0 and do not count.
        counts = {row.cells[index].n for row in self.rows if row.cells[index].n}
        same = all(row.cells[index].n in (0, row.n) for row in self.rows)
        return None if same or len(counts) != 1 else counts.pop()

    def cell_n(self, row: Row, index: int) -> int | None:
        """The n of a value, where neither its row nor its column says it."""
        n = row.cells[index].n
        return None if n in (0, row.n) or self.column_n(index) is not None else n

    def informative_counts(self) -> list[str]:
        """Counts that differ: ``n`` where rows have different ones, ``failed`` where any edit failed."""
        several = "n" in self.counts and len({row.n for row in self.rows}) > 1
        failures = "failed" in self.counts and any(row.failed for row in self.rows)
        return ["n"] * several + ["failed"] * failures

    def grouped_rows(self) -> list[tuple[str, list[Row]]]:
        """Rows under their headings, controls last. A single group of methods has an empty heading."""
        # Groups in the order of their first method.
        methods: dict[str, list[Row]] = {}
        for row in self.rows:
            if not row.control:
                methods.setdefault(row.group, []).append(row)
        several = len(methods) > 1
        parts = [((group or "other") if several else "", rows) for group, rows in methods.items()]
        controls = [row for row in self.rows if row.control]
        return [*parts, ("controls", controls)] if controls else parts

    def group_spans(self) -> list[tuple[str, int]]:
        """Runs of neighbouring columns of one group: (heading, number of columns)."""
        # A group that is interrupted by another has two headings.
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    def select(self, indices: Sequence[int]) -> Table:
        """The same table with these columns alone."""
        rows = tuple(replace(row, cells=tuple(row.cells[i] for i in indices)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in indices), rows=rows)


def notes(tables: Sequence[Table], style: Style | None = None) -> list[str]:
    """Notes of all tables, each once. Those on intervals come first and follow the style."""
    intervals = (style or Style()).intervals
    on_intervals = dict.fromkeys(note for table in tables for note in table.explained_intervals(intervals))
    # Notes on the values, in the order of the tables.
    on_values = dict.fromkeys(note for table in tables for note in table.notes)
    return [note for note in (*on_intervals, *on_values) if note]


def slug(name: str) -> str:
    """``name`` as part of a file name or LaTeX label: letters, digits and single hyphens."""
    spaced = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())
    return "-".join(part for part in spaced.split("-") if part) or "x"


def mark(
    cells: Sequence[Cell],
    controls: Sequence[bool],
    higher_is_better: bool | None,
    p_values: Sequence[float | None] | None = None,
) -> list[Cell]:
    """Marks the best value of a column, the second, and those that are not separable from the best.

    ``p_values``: adjusted p-value of each method against the best. Without them, a method whose interval overlaps the
    best one's is a tie. Controls are never marked. Nothing is marked where fewer than two methods have a value, or
    where all have the same.
    """
    marked = list(cells)
    rivals = [
        (i, cell.value)
        for i, (cell, control) in enumerate(zip(cells, controls, strict=True))
        if not control and cell.value is not None
    ]
    if higher_is_better is None or len(rivals) < 2:
        return marked
    # Distinct values, best first. Where all are equal, nobody is best.
    ranked = sorted({value for _, value in rivals}, reverse=higher_is_better)
    if len(ranked) < 2:
        return marked
    top = ranked[0]

    # Marks of every rival, against all methods that share the first place.
    best = [i for i, value in rivals if value == top]
    for i, value in rivals:
        p = None if p_values is None else p_values[i]
        marked[i] = replace(
            cells[i],
            best=value == top,
            # Where two methods share the first place, there is no second.
            second=len(best) == 1 and value == ranked[1],
            tie=p_values is None and value != top and any(_overlap(cells[i], cells[b]) for b in best),
            dagger=value != top and p is not None and p >= ALPHA,
        )
    return marked


def _overlap(a: Cell, b: Cell) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    # Intervals that touch in one point overlap.
    return a.low <= b.high and b.low <= a.high

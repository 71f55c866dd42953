r"""Upper estimates of the sizes of LaTeX tables in points, and the division of tables that are too wide.

Widths are those of Computer Modern, in \footnotesize (values) and \scriptsize (intervals).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from functools import lru_cache

from bench.tables.numbers import cell_text, ends, halves
from bench.tables.style import Style
from bench.tables.table import Cell, Column, Row, Table

# 3.25 in, 6.75 in, 5.5 in: a column and a page of most two-column styles, a page of most others.
COLUMN_POINTS, PAGE_POINTS, SINGLE_POINTS = 234.0, 487.0, 397.0
# Height that a table may have beside its caption. A longer one goes over several pages.
BODY_POINTS = 560.0
# Part of the width that the rows' names may take. Longer names are broken into lines.
NAME_SHARE = 0.36
# Width of a sign of overlap, and the space between two columns (twice \tabcolsep).
SIGN_POINTS, GAP_POINTS = 9.0, 8.0

# Points of an em in \footnotesize and \scriptsize.
_EM, _SMALL_EM = 8.5, 8.0


def page_width(style: Style) -> float:
    """Points of the widest line of the paper's layout."""
    return PAGE_POINTS if style.layout == "two-column" else SINGLE_POINTS


def name_limit(style: Style) -> float:
    """Largest width of the column of names, in points."""
    return NAME_SHARE * page_width(style)


def parts(table: Table, style: Style) -> Iterator[Table]:
    """The table, cut between columns into as few parts as fit into the page, each with the rows' names."""
    room = page_width(style)
    cuts = _cuts(table, style, room)
    # The allowed width is reduced as long as the number of parts stays, so that parts become about equally wide.
    while True:
        room *= 0.97
        closer = _cuts(table, style, room)
        if len(closer) > len(cuts):
            break
        if closer == cuts and len(cuts) == 2:
            break
        cuts = closer
    for first, last in itertools.pairwise(cuts):
        yield table.select(range(first, last))


def _cuts(table: Table, style: Style, room: float) -> list[int]:
    """First column of each part, and the number of columns."""
    # Greedy: a part takes columns as long as they fit.
    cuts = [0]
    for last in range(1, len(table.columns)):
        if width(table.select(range(cuts[-1], last + 1)), style) > room:
            cuts.append(last)
    return [*cuts, len(table.columns)]


def width(table: Table, style: Style) -> float:
    """Points of the whole table."""
    # Names and counts, then the columns with their groups.
    names = [text_width(text) for text in (*map(printed_name, table.rows), table.rows_are)]
    counts = sum(text_width(name) + GAP_POINTS for name in table.informative_counts())
    total = min(name_limit(style), max(names)) + counts
    columns = [_column_width(table, i, style) for i in range(len(table.columns))]
    # A group's heading may be wider than its columns.
    index = 0
    for group, span in table.group_spans():
        total += max(sum(columns[index : index + span]), text_width(group) + GAP_POINTS)
        index += span
    return total


def _column_width(table: Table, index: int, style: Style) -> float:
    column = table.columns[index]
    cells = [row.cells[index] for row in table.rows]
    value = max(text_width(_plain(cell_text(cell, column))) for cell in cells)
    # Intervals: below the value or beside it.
    below = beside = 0.0
    if style.intervals == "brackets":
        below = max(text_width(_plain(bracket_text(cell, column)), _SMALL_EM) for cell in cells)
    if style.intervals == "plus-minus":
        widths = [
            text_width(_plain(f"±{up}" if up == down else max(f"+{up}", f"-{down}", key=len)), _SMALL_EM)
            for up, down in (halves(cell, column) for cell in cells)
            if up
        ]
        beside = max(widths, default=0.0) + 3
    # A dagger has no width of its own, but must not touch the next column: GAP_POINTS holds it.
    head = max(text_width(line) for line in head_lines(column))
    return max(value + beside, below, head) + GAP_POINTS + (SIGN_POINTS if signed(table, index, style) else 0)


def bracket_text(cell: Cell, column: Column) -> str:
    """``[low, high]``, or the cell's own span."""
    return cell.span or f"[{', '.join(ends(cell, column))}]"


def head_lines(column: Column) -> list[str]:
    """The heading, in two lines of about equal length where it has three words or more."""
    title = column.title + (" (reported)" if column.reported else "")
    words = title.split(" ")
    if len(words) < 3:
        return [title]
    cut = min(range(1, len(words)), key=lambda i: abs(len(" ".join(words[:i])) - len(title) / 2))
    return [" ".join(words[:cut]), " ".join(words[cut:])]


def signed(table: Table, index: int, style: Style) -> bool:
    """True where the column needs room for signs of overlap. A column with intervals in brackets is wide enough."""
    return style.intervals != "brackets" and any(row.cells[index].tie for row in table.rows)


def paired(table: Table, style: Style) -> list[bool]:
    """Per column: True where a second column beside it has the distances to the interval's ends."""
    beside = style.intervals == "plus-minus"
    return [
        beside and any(row.cells[i].low is not None for row in table.rows) for i in range(len(table.columns))
    ]


def height(table: Table, style: Style) -> float:
    """Points of the rows."""
    limit = name_limit(style)
    total, pairs = 60.0, any(paired(table, style))
    for row in table.rows:
        lines = math.ceil(text_width(printed_name(row)) / limit)
        ranged = style.intervals == "brackets" and any(c.span or c.low != c.high for c in row.cells)
        total += (12.1 if pairs else 9.7) * lines + (6.7 if ranged else 0)
    return total


def printed_name(row: Row) -> str:
    return row.printed + (f" [{row.cite}]" if row.cite else "")


def _plain(text: str) -> str:
    """``text`` with the letters that are printed: ``1.2e-5`` is set as a multiplication."""
    return re.sub(r"e(-?\d+)", r"+10\1", text)


_NARROW = frozenset("il.,:;'|!()[]tfjI ")
_WIDE = frozenset("mwMW@%↑↓≈±+-–")


# Tables are measured again for each number of parts, and methods and headings stand in many tables.
@lru_cache(maxsize=1 << 16)
def text_width(text: str, em: float = _EM) -> float:
    """Points of one line, a little too many."""
    # Em widths of Computer Modern, rounded up: digits, narrow and wide signs, capitals, other letters.
    widths = (
        0.505
        if char.isdigit()
        else 0.33
        if char in _NARROW
        else 0.85
        if char in _WIDE
        else 0.75
        if char.isupper()
        else 0.54
        for char in text
    )
    return em * sum(widths)

"""Tables on a terminal, as Rich renderables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.tables.numbers import DAGGER, TIE, cell_text, interval
from bench.tables.table import MARK_NOTES, Cell, Column, Table, notes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

# Printed behind the best value of a column, because bold is lost in a pipe or a copy.
BEST = "*"
# Characters between two columns.
GAP = 2
# Width of the first column where room is short. Longer names take a second line, beside the intervals.
NAME_WIDTH = 19
# Columns of a table that was narrowed, at most.
_MOST_COLUMNS = 5


def plain_table(**options: Any) -> RichTable:
    """A table of texts without rows yet: a line under its head, no frame. ``options`` are those of rich's ``Table``."""
    from rich import box
    from rich.table import Table as RichTable

    return RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, **options)


def narrowed(table: Table, width: int, families: Sequence[Sequence[str]] = ()) -> Table:
    """``table`` with at most five columns, fewer where ``width`` characters have no room for them.

    ``families``: of each, the first metric that the table has is preferred to the other columns.
    """
    # Preferred columns first, then the others in their order.
    metrics = [column.metric for column in table.columns]
    firsts = (next((m for m in family if m in metrics), None) for family in families)
    main = list(dict.fromkeys(metrics.index(metric) for metric in firsts if metric is not None))
    chosen = [*main, *(i for i in range(len(metrics)) if i not in main)][:_MOST_COLUMNS]

    # Drop columns, the least preferred first, until the rest fits.
    widths, name = _column_widths(table), min(_name_width(table), NAME_WIDTH)
    room = width - name - sum(len(count) + GAP for count in table.informative_counts())
    while len(chosen) > 1 and sum(widths[i] + GAP for i in chosen) > room:
        chosen.pop()
    return table.select(sorted(chosen))


def terminal(tables: Sequence[Table], width: int = 100) -> Iterator[RenderableType]:
    """Each table with its title, in as many parts as ``width`` characters require. The notes follow once."""
    from rich.padding import Padding
    from rich.text import Text

    tables = [table if table.intervals else _without_intervals(table) for table in tables]
    for table in tables:
        # Room for the names and the counts at either side.
        widths, counts = _column_widths(table), table.informative_counts()
        beside = sum(GAP + max(len(count), 4) for count in counts)
        name = _name_width(table)
        if sum(widths) + GAP * len(widths) + name + beside > width:
            name = min(name, NAME_WIDTH)

        # Columns in groups that fit between them.
        groups = list(_fit(widths, width - name - beside))
        shared_n = "n" in table.counts and "n" not in counts and table.rows
        size = f", n = {table.rows[0].n}" if shared_n else ""
        for position, group in enumerate(groups):
            part = f"  ({position + 1} of {len(groups)})" if len(groups) > 1 else ""
            yield Text(f"\n{table.title}{size}{part}", style="bold")
            yield Padding(_grid(table, group, widths, name), (0, 0, 0, 0), expand=False)

    # Notes of all tables, each once.
    yield Text()
    if any(cell.best for table in tables for row in table.rows for cell in row.cells):
        yield Text(f"{BEST}: the best method of the column, bold elsewhere.", style="dim italic")
    for note in notes(tables):
        if note not in MARK_NOTES:
            yield Text(note, style="dim italic")


def _without_intervals(table: Table) -> Table:
    rows = [
        replace(r, cells=tuple(replace(c, low=None, high=None, span="") for c in r.cells)) for r in table.rows
    ]
    return replace(table, rows=tuple(rows))


def _grid(table: Table, group: Sequence[int], widths: Sequence[int], name: int) -> RenderableType:
    """The columns ``group`` of a table."""
    from rich.text import Text

    counts = table.informative_counts()
    grid = plain_table(header_style="", padding=(0, GAP - 1, 0, 0))
    # Headings: name, n, unit and direction, in lines of their own.
    grid.add_column(table.rows_are, vertical="bottom", width=name, overflow="fold")
    for i in group:
        column = table.columns[i]
        lines = [column.heading, n_label(table.column_n(i)), column.sign]
        grid.add_column(
            Text("\n".join(filter(None, lines))),
            justify="right",
            vertical="bottom",
            min_width=widths[i],
            max_width=widths[i],
        )
    for count in counts:
        grid.add_column(count, justify="right", vertical="bottom")

    # Rows: up to three lines (value, interval, n), with a rule before the controls.
    for k, row in enumerate(table.rows):
        last_method = not row.control and k + 1 < len(table.rows) and table.rows[k + 1].control
        # Cells are aligned at the bottom, as the headings are. Empty lines below move a shorter cell up.
        below = {i: [interval(row.cells[i], table.columns[i]), n_label(table.cell_n(row, i))] for i in group}
        lift = "\n" * max((sum(map(bool, lines)) for lines in below.values()), default=0)
        # A name that takes two lines needs one empty line less.
        under_name = lift if len(row.title) <= name else lift[1:]
        beside = [
            Text(f"{value}{lift}", style="red" if count == "failed" and row.failed else "dim")
            for count, value in zip(counts, row.counts(counts), strict=True)
        ]
        grid.add_row(
            Text(_broken(row.title, name) + under_name, style="dim" if row.control else ""),
            *(_cell(row.cells[i], table.columns[i], row.control, below[i], lift) for i in group),
            *beside,
            end_section=last_method,
        )
    return grid


def _cell(cell: Cell, column: Column, control: bool, below: Sequence[str], lift: str) -> RenderableType:
    from rich.text import Text

    style = "bold green" if cell.best else "dim" if control else "underline" if cell.second else ""
    text = Text(TIE + " " if cell.tie else "")
    text.append(cell_text(cell, column), style=style)
    text.append(BEST * cell.best + DAGGER * cell.dagger)
    lines = "".join(f"\n{line}" for line in below if line)
    text.append(lines + lift[lines.count("\n") :], style="not bold dim")
    return text


def n_label(count: int | None) -> str:
    """``n=12``, or the empty string."""
    return "" if count is None else f"n={count}"


def _broken(name: str, width: int) -> str:
    """``name`` over two lines where it is longer than ``width`` characters, after an underscore if it has one."""
    if len(name) <= width:
        return name
    cut = name.rfind("_", 0, width) + 1 or width
    return f"{name[:cut]}\n{name[cut:]}"


# --- widths in characters ----------------------------------------------------------------------------


def _name_width(table: Table) -> int:
    return max([len(table.rows_are), *(len(row.title) for row in table.rows)])


def _column_widths(table: Table) -> list[int]:
    """Widest word of each column. Headings may break between words, values may not break."""
    return [
        max(
            [len(word) for word in (*column.heading.split(" "), n_label(table.column_n(i)))]
            + [
                max(_cell_width(row.cells[i], column), len(n_label(table.cell_n(row, i))))
                for row in table.rows
            ]
        )
        for i, column in enumerate(table.columns)
    ]


def _cell_width(cell: Cell, column: Column) -> int:
    marks = 2 * cell.tie + cell.dagger + cell.best
    return max(len(cell_text(cell, column)) + marks, len(interval(cell, column)))


def _fit(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Groups of neighbouring columns that fit into ``room`` characters, at least one column each."""
    group: list[int] = []
    used = 0
    for i, width in enumerate(widths):
        if group and used + width + GAP > room:
            yield group
            group, used = [], 0
        group.append(i)
        used += width + GAP
    yield group

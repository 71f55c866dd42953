"""Tables as Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import html as html_
import io
from collections.abc import Iterable, Iterator, Sequence

from bench.edit import ALL
from bench.files import csv_cell
from bench.tables.numbers import DAGGER, TIE, cell_text, halves, interval
from bench.tables.style import Style
from bench.tables.table import Cell, Column, Table, notes
from bench.tables.terminal import n_label


def _beside(cell: Cell, column: Column, n: int | None, intervals: bool, style: Style) -> str:
    """Interval and n of one value, in tags that both Markdown and HTML read."""
    below = f"<br><sub>{n_label(n)}</sub>" if n is not None else ""
    if not intervals or style.intervals == "none" or not interval(cell, column):
        return below
    if style.intervals == "plus-minus" and not cell.span:
        up, down = halves(cell, column)
        return f" <sub>{f'±{up}' if up == down else f'+{up} -{down}'}</sub>" + below
    return f"<br><sub>{interval(cell, column)}</sub>" + below


# --- Markdown ----------------------------------------------------------------------------------------


def markdown(table: Table, style: Style | None = None) -> str:
    """A heading and a pipe table. The caller adds the :func:`~bench.tables.table.notes`."""
    style = style or Style()
    # Title, headings, and the alignment of the columns.
    lines = [
        f"### {table.title}",
        "",
        _pipes([table.rows_are, *_headings(table), *table.counts]),
        _pipes([":--", *("--:" for _ in (*table.columns, *table.counts))]),
    ]
    # Rows. A heading of a group is a row whose other cells are empty.
    for group, rows in table.grouped_rows():
        if group:
            blanks = ("" for _ in (*table.columns, *table.counts))
            lines.append(_pipes([f"*{escape_markdown(group)}*", *blanks]))
        for row in rows:
            cells = (
                _markdown_cell(cell, column, table.cell_n(row, i), table.intervals, style)
                for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
            )
            counts = map(str, row.counts(table.counts))
            lines.append(_pipes([escape_markdown(row.title), *cells, *counts]))
    return "\n".join([*lines, ""])


def _headings(table: Table) -> Iterator[str]:
    for i, column in enumerate(table.columns):
        n = n_label(table.column_n(i))
        yield escape_markdown(column.full_title) + (f" ({n})" if n else "")


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell, column: Column, n: int | None, intervals: bool, style: Style) -> str:
    text = escape_markdown(cell_text(cell, column))
    text = f"**{text}**" if cell.best else f"<u>{text}</u>" if cell.second else text
    text = f"{TIE} {text}" if cell.tie else text
    return text + (DAGGER if cell.dagger else "") + _beside(cell, column, n, intervals, style)


def escape_markdown(text: str) -> str:
    for char in "\\`*_|<>[]":
        text = text.replace(char, "\\" + char)
    return text


# --- CSV ---------------------------------------------------------------------------------------------


def csv_text(table: Table) -> str:
    """Unrounded values: per column its value, low, high and n. A missing value is the empty string."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    # Four fields per column. The protocol is part of the key only where the table has several.
    several = len({column.protocol for column in table.columns}) > 1
    keys = [
        (f"{column.protocol}/" if several and column.protocol else "")
        + column.metric
        + ("" if column.category == ALL else f"/{column.category}")
        + (" (reported)" if column.reported else "")
        for column in table.columns
    ]
    fields = (f"{key}{end}" for key in keys for end in ("", "_low", "_high", "_n"))
    writer.writerow(["method", "control", *fields, "n", "failed"])
    for row in table.rows:
        values = [
            value
            for cell in row.cells
            # A value that was copied from a publication has no n.
            for value in (cell.value, cell.low, cell.high, cell.n if cell.n or cell.value is None else None)
        ]
        # repr gives the shortest text that reads back as the same float.
        texts = ("" if value is None else repr(value) for value in values)
        writer.writerow([csv_cell(row.label), int(row.control), *texts, row.n, row.failed])
    return out.getvalue()


# --- HTML --------------------------------------------------------------------------------------------

HTML_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>%s</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1f; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; margin: .4rem 0 }
caption { text-align: left; font-weight: 600; padding: .4rem 0 }
th, td { padding: .25rem .7rem; text-align: right; font-variant-numeric: tabular-nums; vertical-align: top }
th:first-child, td:first-child { text-align: left }
thead tr:last-child th { border-bottom: 1px solid }
thead .group { text-align: center; border-bottom: 1px solid #b9b9c0 }
tr.heading td { border-top: 1px solid; font-style: italic }
tr.control { color: #5f5f68 }
.reported { font-style: italic; background: #f4f4f6 }
sub { color: #5f5f68; font-size: .78em; vertical-align: baseline }
p { color: #44444c; max-width: 60rem }
div { overflow-x: auto }
</style>
"""


def html_page(title: str, tables: Sequence[Table], style: Style | None = None) -> str:
    """A page of its own: every table, and the notes once."""
    parts = [HTML_HEAD % html_.escape(title), f"<h1>{html_.escape(title)}</h1>"]
    parts += [html(table, style) for table in tables]
    parts += [f"<p>{html_.escape(note)}</p>" for note in notes(tables, style)]
    return "\n".join([*parts, ""])


def html(table: Table, style: Style | None = None) -> str:
    """One ``table`` element, in a box that scrolls sideways."""
    style = style or Style()
    lines = [
        f'<div><table id="{html_.escape(table.name)}">',
        f"<caption>{html_.escape(table.title)}</caption>",
        "<thead>",
    ]

    # Headings: the groups of columns, then the columns.
    if any(column.group for column in table.columns):
        groups = "".join(
            f'<th class="group" colspan="{width}">{html_.escape(group)}</th>'
            for group, width in table.group_spans()
        )
        lines.append(f"<tr><th></th>{groups}{'<th></th>' * len(table.counts)}</tr>")
    heads = "".join(
        f"<th{_reported(column)}>{html_.escape(column.title)}{' (reported)' if column.reported else ''}"
        f"{'' if table.column_n(i) is None else f'<br><sub>{n_label(table.column_n(i))}</sub>'}</th>"
        for i, column in enumerate(table.columns)
    )
    counts = "".join(f"<th>{name}</th>" for name in table.counts)
    lines += [f"<tr><th>{html_.escape(table.rows_are)}</th>{heads}{counts}</tr>", "</thead>", "<tbody>"]

    # Rows under the headings of their groups.
    for group, rows in table.grouped_rows():
        if group:
            width = 1 + len(table.columns) + len(table.counts)
            lines.append(f'<tr class="heading"><td colspan="{width}">{html_.escape(group)}</td></tr>')
        for row in rows:
            kind = ' class="control"' if row.control else ""
            cells = "".join(
                f"<td{_reported(column)}>"
                f"{_html_cell(cell, column, table.cell_n(row, i), table.intervals, style)}</td>"
                for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
            )
            counts = "".join(f"<td>{count}</td>" for count in row.counts(table.counts))
            lines.append(f"<tr{kind}><td>{html_.escape(row.title)}</td>{cells}{counts}</tr>")
    return "\n".join([*lines, "</tbody>", "</table></div>"])


def _reported(column: Column) -> str:
    return ' class="reported"' if column.reported else ""


def _html_cell(cell: Cell, column: Column, n: int | None, intervals: bool, style: Style) -> str:
    # Marks: bold, underline, sign of overlap before, dagger behind.
    text = html_.escape(cell_text(cell, column))
    text = f"<b>{text}</b>" if cell.best else f"<u>{text}</u>" if cell.second else text
    text = f"{TIE} {text}" if cell.tie else text
    return text + (f"<sup>{DAGGER}</sup>" if cell.dagger else "") + _beside(cell, column, n, intervals, style)

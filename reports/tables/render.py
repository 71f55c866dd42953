"""One table in its forms: terminal, Markdown, CSV, HTML. What is marked was decided before.

LaTeX has a file of its own, :mod:`reports.tables.latex`.
"""

from __future__ import annotations

import csv
import html as html_
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.files import csv_cell
from reports.tables.style import Style
from reports.tables.table import INTERVAL_NOTES, MARK_NOTES, Cell, Column, Row, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

MISSING = "–"
"""Stands for a value that could not be computed."""

TIE = "≈"
DAGGER = "†"

BEST = "*"
"""Stands behind the best value of a column on a terminal: bold does not survive a pipe or a copy."""

GAP = 2
"""Characters between two columns on a terminal."""

NAME_WIDTH = 19
"""A narrowed table breaks longer names of methods: the interval leaves room for a second line."""

TERMINAL_METRICS: tuple[tuple[str, ...], ...] = (
    ("success_truth", "success_clip", "success_mini_clip"),
    ("leak_lpips",),
    ("leak_psnr",),
    ("clip_target", "mini_clip_target"),
    ("fid", "vgg16_frechet"),
)
"""The main columns on a terminal: of each family the first metric that the table has."""


NOTHING = 1e-8
"""Values nearer to 0 than this are rounding errors of a float32 sum."""


def number(value: float | None, column: Column) -> str:
    """``value`` as the column shows it. What is not 0 is never shown as 0: it has two digits of its own."""
    if value is None:
        return MISSING
    text = _rounded(value, column)
    if text.strip("0.") or abs(value) < NOTHING:
        return text
    value *= 100 if column.percent else 1
    if abs(value) >= 0.001:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _rounded(value: float, column: Column) -> str:
    text = f"{value * (100 if column.percent else 1):.{column.decimals}f}"
    # A rounded negative nothing is nothing.
    return text if text.strip("-0.") else text.lstrip("-")


def halves(cell: Cell, column: Column) -> tuple[str, str]:
    """From the value up and down to the interval's ends, as the column shows it; nothing where no width is."""
    if cell.value is None or cell.low is None or cell.high is None or cell.low == cell.high:
        return "", ""
    up, down = cell.high - cell.value, cell.value - cell.low
    show = number if not _rounded(cell.high - cell.low, column).strip("0.") else _rounded
    return show(up, column), show(down, column)


def ends(cell: Cell, column: Column) -> tuple[str, str]:
    """Low and high as the column shows them, finer where both would be 0 or the value is; or nothing."""
    if cell.low is None or cell.high is None:
        return "", ""
    low, high = _rounded(cell.low, column), _rounded(cell.high, column)
    fine = not (low + high).strip("0.") or number(cell.value, column) != _rounded(cell.value or 0.0, column)
    return (number(cell.low, column), number(cell.high, column)) if fine else (low, high)


def interval(cell: Cell, column: Column) -> str:
    """``0.71–0.83``, or nothing where there is no interval or it is a single point."""
    if cell.low == cell.high:
        return ""
    low, high = ends(cell, column)
    dash = " – " if low.startswith("-") or "e" in low + high else "–"
    return f"{low}{dash}{high}" if low else ""


# --- terminal ----------------------------------------------------------------------------------------


def narrowed(table: Table, width: int, columns: int = 5) -> Table:
    """``table`` with at most so many columns, the main ones first, as far as ``width`` has room for them."""
    metrics = [column.metric for column in table.columns]
    firsts = (next((m for m in family if m in metrics), None) for family in TERMINAL_METRICS)
    main = [metrics.index(metric) for metric in firsts if metric is not None]
    chosen = [*main, *(i for i in range(len(metrics)) if i not in main)][:columns]
    wide, name = _column_widths(table), min(_name_width(table), NAME_WIDTH)
    room = width - name - sum(len(count) + GAP for count in _counts(table))
    while len(chosen) > 1 and sum(wide[i] + GAP for i in chosen) > room:
        chosen.pop()
    chosen.sort()
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in chosen)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in chosen), rows=rows)


def _column_widths(table: Table) -> list[int]:
    return [
        max(
            [len(word) for word in (*column.heading.split(" "), _n(table.column_n(i)))]
            + [max(_cell_width(row.cells[i], column), len(_n(table.cell_n(row, i)))) for row in table.rows]
        )
        for i, column in enumerate(table.columns)
    ]


def _name_width(table: Table) -> int:
    return max([len("method"), *(len(row.method) for row in table.rows)])


def _counts(table: Table) -> list[str]:
    """The columns of counts: n where rows differ in it (else the title says it), failed where any edit is."""
    differ = len({row.n for row in table.rows}) > 1
    return ["n"] * differ + ["failed"] * any(row.failed for row in table.rows)


def terminal(tables: Sequence[Table], width: int = 100) -> Iterator[RenderableType]:
    """Rich renderables: each table, spread over as many as a terminal of ``width`` needs; the notes once."""
    from rich.padding import Padding
    from rich.text import Text

    tables = [table if table.intervals else _without_intervals(table) for table in tables]
    for table in tables:
        wide, counts = _column_widths(table), _counts(table)
        beside = sum(GAP + max(len(count), 4) for count in counts)
        name = _name_width(table)
        if sum(wide) + GAP * len(wide) + name + beside > width:
            name = min(name, NAME_WIDTH)
        groups = list(_fit(wide, width - name - beside))
        size = "" if "n" in counts else f", n = {table.rows[0].n}"
        for position, group in enumerate(groups):
            part = f"  ({position + 1} of {len(groups)})" if len(groups) > 1 else ""
            yield Text(f"\n{table.title}{size}{part}", style="bold")
            yield Padding(_terminal_table(table, group, wide, name), (0, 0, 0, 0), expand=False)
    yield Text()
    if any(cell.best for table in tables for row in table.rows for cell in row.cells):
        yield Text(f"{BEST}: the best method of the column, bold elsewhere.", style="dim italic")
    for note in notes(tables):
        if note not in MARK_NOTES:
            yield Text(note, style="dim italic")


def notes(tables: Sequence[Table], style: Style | None = None) -> list[str]:
    """The notes of all tables, each once. ``style``: how the intervals are shown, below the values by default."""
    intervals = (style or Style()).intervals
    on_intervals = list(dict.fromkeys(note for table in tables for note in table.interval_notes))
    on_intervals = [INTERVAL_NOTES[intervals], *on_intervals] if on_intervals and intervals != "none" else []
    others = dict.fromkeys(note for table in tables for note in table.notes)
    return [note for note in (*on_intervals, *others) if note]


def _without_intervals(table: Table) -> Table:
    rows = [replace(r, cells=tuple(replace(c, low=None, high=None) for c in r.cells)) for r in table.rows]
    return replace(table, rows=tuple(rows))


def _n(count: int | None) -> str:
    return "" if count is None else f"n={count}"


def _terminal_table(table: Table, group: Sequence[int], wide: Sequence[int], name: int) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    counts = _counts(table)
    shown = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="", show_edge=False, padding=(0, GAP - 1, 0, 0)
    )
    shown.add_column("method", vertical="bottom", width=name, overflow="fold")
    for i in group:
        shown.add_column(
            "\n".join(filter(None, [table.columns[i].heading, _n(table.column_n(i)), table.columns[i].sign])),
            justify="right",
            vertical="bottom",
            min_width=wide[i],
            max_width=wide[i],
        )
    for count in counts:
        shown.add_column(count, justify="right", vertical="bottom")
    for k, row in enumerate(table.rows):
        last_method = not row.control and k + 1 < len(table.rows) and table.rows[k + 1].control
        # Cells stand at the bottom for the sake of the headings; empty lines lift the shorter ones up.
        below = {i: [interval(row.cells[i], table.columns[i]), _n(table.cell_n(row, i))] for i in group}
        lift = "\n" * max((sum(map(bool, lines)) for lines in below.values()), default=0)
        # A name that takes two lines needs one empty line less.
        under_name = lift if len(row.method) <= name else lift[1:]
        beside = [
            Text(f"{value}{lift}", style="red" if count == "failed" and row.failed else "dim")
            for count, value in (("n", row.n), ("failed", row.failed))
            if count in counts
        ]
        shown.add_row(
            Text(_broken(row.method, name) + under_name, style="dim" if row.control else ""),
            *(_terminal_cell(row.cells[i], table.columns[i], row.control, below[i], lift) for i in group),
            *beside,
            end_section=last_method,
        )
    return shown


def _broken(name: str, width: int) -> str:
    """``name`` over two lines where it is longer than ``width`` characters, after an underscore if it has one."""
    if len(name) <= width:
        return name
    cut = name.rfind("_", 0, width) + 1 or width
    return f"{name[:cut]}\n{name[cut:]}"


def _cell_width(cell: Cell, column: Column) -> int:
    marks = 2 * cell.tie + cell.dagger + cell.best
    return max(len(number(cell.value, column)) + marks, len(interval(cell, column)))


def _fit(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    group: list[int] = []
    used = 0
    for i, width in enumerate(widths):
        if group and used + width + GAP > room:
            yield group
            group, used = [], 0
        group.append(i)
        used += width + GAP
    yield group


def _terminal_cell(
    cell: Cell, column: Column, control: bool, below: Sequence[str], lift: str
) -> RenderableType:
    from rich.text import Text

    style = "bold green" if cell.best else "dim" if control else "underline" if cell.second else ""
    text = Text(TIE + " " if cell.tie else "")
    text.append(number(cell.value, column), style=style)
    text.append(BEST * cell.best + DAGGER * cell.dagger)
    lines = "".join(f"\n{line}" for line in below if line)
    text.append(lines + lift[lines.count("\n") :], style="not bold dim")
    return text


# --- Markdown ----------------------------------------------------------------------------------------


def markdown(table: Table, style: Style | None = None) -> str:
    """A heading and a pipe table; :func:`notes` are the caller's."""
    style = style or Style()
    lines = [
        f"### {table.title}",
        "",
        _pipes([table.rows_are, *_headings(table), *table.counts]),
        _pipes([":--", *("--:" for _ in (*table.columns, *table.counts))]),
    ]
    for group, rows in grouped_rows(table):
        if group:
            blanks = ("" for _ in (*table.columns, *table.counts))
            lines.append(_pipes([f"*{_markdown_text(group)}*", *blanks]))
        for row in rows:
            cells = (
                _markdown_cell(cell, column, table.cell_n(row, i), table.intervals, style)
                for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
            )
            lines.append(_pipes([_markdown_text(row.method), *cells, *map(str, row.counted(table.counts))]))
    return "\n".join([*lines, ""])


def grouped_rows(table: Table) -> list[tuple[str, list[Row]]]:
    """The rows under their headings, controls last; without a heading where the methods have one group alone."""
    methods: dict[str, list[Row]] = {}
    for row in table.rows:
        if not row.control:
            methods.setdefault(row.group, []).append(row)
    several = len(methods) > 1
    parts = [((group or "other") if several else "", rows) for group, rows in methods.items()]
    controls = [row for row in table.rows if row.control]
    return [*parts, ("controls", controls)] if controls else parts


def _headings(table: Table) -> Iterator[str]:
    for i, column in enumerate(table.columns):
        n = _n(table.column_n(i))
        yield full_title(column) + (f" ({n})" if n else "")


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def full_title(column: Column) -> str:
    """The column's title after its group's."""
    group = f"{column.group}: " if column.group else ""
    return group + column.title + (" (reported)" if column.reported else "")


def _markdown_cell(cell: Cell, column: Column, n: int | None, ranged: bool, style: Style) -> str:
    text = number(cell.value, column)
    text = f"**{text}**" if cell.best else f"<u>{text}</u>" if cell.second else text
    text = f"{TIE} {text}" if cell.tie else text
    return text + (DAGGER if cell.dagger else "") + _beside(cell, column, n, ranged, style)


def _beside(cell: Cell, column: Column, n: int | None, ranged: bool, style: Style) -> str:
    """The interval and the value's own n, in tags that Markdown and HTML both read."""
    below = f"<br><sub>{_n(n)}</sub>" if n is not None else ""
    if not ranged or style.intervals == "none" or cell.low is None or cell.low == cell.high:
        return below
    if style.intervals == "plus-minus":
        up, down = halves(cell, column)
        return f" <sub>{f'±{up}' if up == down else f'+{up} -{down}'}</sub>" + below
    return f"<br><sub>{interval(cell, column)}</sub>" + below


def _markdown_text(text: str) -> str:
    for char in "\\`*_|<>[]":
        text = text.replace(char, "\\" + char)
    return text


# --- CSV ---------------------------------------------------------------------------------------------


def csv_text(table: Table) -> str:
    """Unrounded values: per column its value, low, high and n; the empty string where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    several = len({column.protocol for column in table.columns}) > 1
    keys = [
        (f"{column.protocol}/" if several and column.protocol else "")
        + column.metric
        + ("" if column.category == "all" else f"/{column.category}")
        + (" (reported)" if column.reported else "")
        for column in table.columns
    ]
    writer.writerow(
        [
            *("method", "control"),
            *(f"{k}{end}" for k in keys for end in ("", "_low", "_high", "_n")),
            *("n", "failed"),
        ]
    )
    for row in table.rows:
        values = [
            v
            for cell in row.cells
            # A value that was not measured here has no n.
            for v in (cell.value, cell.low, cell.high, cell.n if cell.n or cell.value is None else None)
        ]
        writer.writerow(
            [
                csv_cell(row.method),
                int(row.control),
                *("" if v is None else repr(v) for v in values),
                row.n,
                row.failed,
            ]
        )
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
    ]
    lines.append("<thead>")
    if any(column.group for column in table.columns):
        groups = "".join(
            f'<th class="group" colspan="{width}">{html_.escape(group)}</th>'
            for group, width in group_spans(table.columns)
        )
        lines.append(f"<tr><th></th>{groups}{'<th></th>' * len(table.counts)}</tr>")
    heads = "".join(
        f"<th{_reported(column)}>{html_.escape(column.title)}{' (reported)' if column.reported else ''}"
        f"{'' if table.column_n(i) is None else f'<br><sub>{_n(table.column_n(i))}</sub>'}</th>"
        for i, column in enumerate(table.columns)
    )
    counts = "".join(f"<th>{name}</th>" for name in table.counts)
    lines += [f"<tr><th>{html_.escape(table.rows_are)}</th>{heads}{counts}</tr>", "</thead>", "<tbody>"]
    for group, rows in grouped_rows(table):
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
            name = html_.escape(row.method)
            counts = "".join(f"<td>{count}</td>" for count in row.counted(table.counts))
            lines.append(f"<tr{kind}><td>{name}</td>{cells}{counts}</tr>")
    return "\n".join([*lines, "</tbody>", "</table></div>"])


def group_spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Runs of neighbours of one group: (heading, columns)."""
    spans: list[tuple[str, int]] = []
    for column in columns:
        if spans and spans[-1][0] == column.group:
            spans[-1] = (column.group, spans[-1][1] + 1)
        else:
            spans.append((column.group, 1))
    return spans


def _reported(column: Column) -> str:
    return ' class="reported"' if column.reported else ""


def _html_cell(cell: Cell, column: Column, n: int | None, ranged: bool, style: Style) -> str:
    text = html_.escape(number(cell.value, column))
    text = f"<b>{text}</b>" if cell.best else f"<u>{text}</u>" if cell.second else text
    text = f"{TIE} {text}" if cell.tie else text
    return text + (f"<sup>{DAGGER}</sup>" if cell.dagger else "") + _beside(cell, column, n, ranged, style)

"""One table, four forms: terminal, Markdown, CSV, LaTeX. What is marked was decided before."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from reports.tables import Cell, Column, Row, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

MISSING = "–"
"""Stands for a value that could not be computed."""

TIE = "≈"

GAP = 3
"""Characters between two columns on a terminal."""


def number(value: float | None, column: Column) -> str:
    """``value`` as the column shows it."""
    if value is None:
        return MISSING
    text = f"{value * (100 if column.percent else 1):.{column.decimals}f}"
    # A rounded negative nothing is nothing.
    return text.lstrip("-") if not text.strip("-0.") else text


def interval(cell: Cell, column: Column) -> str:
    """``0.71–0.83``, or nothing where there is no interval."""
    if cell.low is None or cell.high is None:
        return ""
    dash = "–" if cell.low >= 0 else " – "
    return f"{number(cell.low, column)}{dash}{number(cell.high, column)}"


# --- terminal ----------------------------------------------------------------------------------------


def terminal(tables: Sequence[Table], width: int = 100) -> Iterator[RenderableType]:
    """Rich renderables: each table, spread over as many as a terminal of ``width`` needs; the notes once."""
    from rich.padding import Padding
    from rich.text import Text

    for table in tables:
        wide = [
            max(
                [len(word) for word in column.heading.split(" ")]
                + [_cell_width(row.cells[i], column) for row in table.rows]
            )
            for i, column in enumerate(table.columns)
        ]
        method = max(len(row.method) for row in table.rows)
        groups = list(_fit(wide, width - method - len("   1000   failed")))
        for position, group in enumerate(groups):
            part = f"  ({position + 1} of {len(groups)})" if len(groups) > 1 else ""
            yield Text(f"\n{table.title}{part}", style="bold")
            yield Padding(_terminal_table(table, group, wide), (0, 0, 0, 0), expand=False)
    yield Text()
    for note in notes(tables):
        yield Text(note, style="dim italic")


def notes(tables: Sequence[Table]) -> list[str]:
    """The notes of all tables, each once."""
    return list(dict.fromkeys(note for table in tables for note in table.notes))


def _terminal_table(table: Table, group: Sequence[int], wide: Sequence[int]) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="", show_edge=False)
    shown.add_column("method", vertical="bottom", no_wrap=True)
    for i in group:
        shown.add_column(
            f"{table.columns[i].heading}\n{table.columns[i].sign}",
            justify="right",
            vertical="bottom",
            min_width=wide[i],
            max_width=wide[i],
        )
    shown.add_column("n", justify="right", vertical="bottom")
    shown.add_column("failed", justify="right", vertical="bottom")
    for k, row in enumerate(table.rows):
        last_method = not row.control and k + 1 < len(table.rows) and table.rows[k + 1].control
        # Cells stand at the bottom for the sake of the headings; an empty second line lifts these up.
        lift = "\n" if any(interval(row.cells[i], table.columns[i]) for i in group) else ""
        shown.add_row(
            Text(row.method + lift, style="dim" if row.control else ""),
            *(_terminal_cell(row.cells[i], table.columns[i], row.control, lift) for i in group),
            Text(str(row.n) + lift, style="dim"),
            Text(str(row.failed) + lift, style="red" if row.failed else "dim"),
            end_section=last_method,
        )
    return shown


def _cell_width(cell: Cell, column: Column) -> int:
    return max(len(number(cell.value, column)) + 2 * cell.tie, len(interval(cell, column)))


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


def _terminal_cell(cell: Cell, column: Column, control: bool, lift: str) -> RenderableType:
    from rich.text import Text

    style = "bold green" if cell.best else "dim" if control else ""
    text = Text((TIE + " " if cell.tie else "") + number(cell.value, column), style=style)
    span = interval(cell, column)
    text.append("\n" + span if span else lift, style="not bold dim")
    return text


# --- Markdown ----------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """A heading and a pipe table; :func:`notes` are the caller's."""
    lines = [
        f"### {table.title}",
        "",
        _pipes(["method", *(column.title for column in table.columns), "n", "failed"]),
        _pipes([":--", *("--:" for _ in table.columns), "--:", "--:"]),
    ]
    before_control = False
    for row in table.rows:
        if row.control and not before_control:
            lines.append(_pipes(["*controls*", *("" for _ in table.columns), "", ""]))
        before_control = row.control
        cells = (_markdown_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True))
        lines.append(_pipes([_markdown_text(row.method), *cells, str(row.n), str(row.failed)]))
    return "\n".join([*lines, ""])


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell, column: Column) -> str:
    text = number(cell.value, column)
    text = f"**{text}**" if cell.best else f"{TIE} {text}" if cell.tie else text
    span = interval(cell, column)
    return f"{text}<br><sub>{span}</sub>" if span else text


def _markdown_text(text: str) -> str:
    for char in "\\`*_|<>[]":
        text = text.replace(char, "\\" + char)
    return text


# --- CSV ---------------------------------------------------------------------------------------------


def csv_text(table: Table) -> str:
    """Unrounded values: per column its value, low and high; the empty string where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [
        column.metric if column.category == "all" else f"{column.metric}/{column.category}"
        for column in table.columns
    ]
    writer.writerow(
        ["method", "control", *(f"{k}{end}" for k in keys for end in ("", "_low", "_high")), "n", "failed"]
    )
    for row in table.rows:
        values = [v for cell in row.cells for v in (cell.value, cell.low, cell.high)]
        writer.writerow(
            [row.method, int(row.control), *("" if v is None else repr(v) for v in values), row.n, row.failed]
        )
    return out.getvalue()


# --- LaTeX -------------------------------------------------------------------------------------------

LATEX_HEAD = """% Needs, in the preamble: \\usepackage{booktabs} and \\usepackage{graphicx}
"""

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≈": r"$\approx$",
    "–": "--",
    "é": r"\'e",
}


def latex_text(text: str) -> str:
    """``text`` with everything escaped that LaTeX would read as more than a letter."""
    return "".join(_LATEX.get(char, char) for char in text)


def latex(table: Table) -> str:
    """A floating ``table`` with booktabs; wide ones are scaled to the line."""
    columns = len(table.columns)
    head = ["method", *(column.title for column in table.columns), "$n$", "failed"]
    body = [
        r"\begin{tabular}{@{}l" + "r" * columns + r"rr@{}}",
        r"\toprule",
        " & ".join([head[0], *map(_latex_head, head[1:-2]), *head[-2:]]) + r" \\",
        r"\midrule",
    ]
    for k, row in enumerate(table.rows):
        if row.control and k and not table.rows[k - 1].control:
            body.append(r"\midrule")
        body.append(" & ".join(_latex_row(row, table.columns)) + r" \\")
    body += [r"\bottomrule", r"\end{tabular}"]
    if columns > 4:
        body = [r"\resizebox{\linewidth}{!}{%", *body, "}"]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(table.title)}. {latex_text(' '.join(table.notes))}}}",
            rf"\label{{tab:{table.name}}}",
            *body,
            r"\end{table}",
            "",
        ]
    )


def _latex_head(title: str) -> str:
    """Breaks a heading after its first words, so that columns stay narrow."""
    words = title.split(" ")
    if len(words) < 3:
        return latex_text(title)
    lines = [words[0], " ".join(words[1:])] if len(words) == 3 else [" ".join(words[:2]), " ".join(words[2:])]
    return _stack([latex_text(line) for line in lines])


def _latex_row(row: Row, columns: Sequence[Column]) -> Iterator[str]:
    yield latex_text(row.method)
    for cell, column in zip(row.cells, columns, strict=True):
        text = latex_text(number(cell.value, column))
        text = rf"\textbf{{{text}}}" if cell.best else rf"$\approx$\,{text}" if cell.tie else text
        span = latex_text(interval(cell, column))
        yield _stack([text, rf"{{\scriptsize {span}}}"]) if span else text
    yield str(row.n)
    yield str(row.failed)


def _stack(lines: Sequence[str]) -> str:
    return r"\begin{tabular}[b]{@{}r@{}}" + r" \\ ".join(lines) + r"\end{tabular}"

"""Tables as LaTeX: booktabs, numbers aligned at the decimal point by siunitx, marks that do not disturb it.

The best is bold, the second underlined; a dagger stands for what is not separable from the best. Underline
and dagger are drawn from the number's right end, without width, so that every number stays where siunitx
put it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from reports.render import MISSING, group_spans, half_width, number
from reports.style import Style
from reports.tables import Cell, Column, Table

PACKAGES = ("booktabs", "graphicx", "siunitx")

HEAD = r"""% Needs, in the preamble: \usepackage{booktabs,graphicx,siunitx} (siunitx 3 or later)
\providecommand{\pebsecond}[1]{\llap{\underline{\phantom{#1}}}}
\providecommand{\pebdagger}{\rlap{$^{\dagger}$}}
"""

HEAD_OF_FIGURES = r"""% Needs, in the preamble: \usepackage{graphicx}. Where the pictures lie, seen from the main file:
\providecommand{\pebfigures}{figures}
"""

COLUMN_POINTS, PAGE_POINTS = 234.0, 495.0
"""3.25 in and 6.875 in: the widths of a column and of a page in most two-column styles."""
_CHARACTER, _GAP = 4.3, 12.0
"""Points of an average character at \\footnotesize, and between two columns."""

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
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≈": r"$\approx$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "†": r"$^{\dagger}$",
    "Δ": r"$\Delta$",
    "–": "--",
    "…": r"\ldots{}",
    "é": r"\'e",
}


def escape(text: str) -> str:
    """``text`` with everything escaped that LaTeX would read as more than a letter."""
    return "".join(_LATEX.get(char, char) for char in text)


def document(body: str, style: Style | None = None) -> str:
    """A whole document around tables, which compiles as it is."""
    columns = "twocolumn" if style is None or style.layout == "two-column" else "onecolumn"
    return "\n".join(
        [
            rf"\documentclass[{columns}]{{article}}",
            r"\usepackage[margin=0.8in]{geometry}",
            rf"\usepackage{{{','.join(PACKAGES)}}}",
            r"\begin{document}",
            body,
            r"\end{document}",
            "",
        ]
    )


def figure(name: str, caption: str, *, wide: bool) -> str:
    """A floating ``figure`` around one picture of the report; ``figure*`` where it is as wide as the page."""
    star = "*" if wide else ""
    return "\n".join(
        [
            rf"\begin{{figure{star}}}",
            r"\centering",
            rf"\includegraphics[width=\linewidth]{{\pebfigures/{name}.pdf}}",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{fig:{name}}}",
            rf"\end{{figure{star}}}",
            "",
        ]
    )


def table(shown: Table, style: Style | None = None) -> str:
    """A floating ``table`` (``table*`` in the two-column layout, where it needs the room).

    A table that is wider than its place is scaled to it. Raises nothing: what a table shows was decided
    before.
    """
    style = style or Style()
    several_n = "n" in shown.counts and len({row.n for row in shown.rows}) > 1
    failures = "failed" in shown.counts and any(row.failed for row in shown.rows)
    wide = _points(shown, style, several_n + failures)
    star = "*" if style.layout == "two-column" and wide > COLUMN_POINTS else ""
    body = list(_tabular(shown, style, several_n, failures))
    if wide > (PAGE_POINTS if star or style.layout == "one-column" else COLUMN_POINTS):
        body = [r"\resizebox{\linewidth}{!}{%", *body, "}"]
    caption = shown.caption or " ".join([f"{shown.title}.", *shown.notes])
    return "\n".join(
        [
            rf"\begin{{table{star}}}",
            r"\centering\footnotesize\setlength{\belowcaptionskip}{5pt}",
            r"\sisetup{text-series-to-math=true,reset-math-version=false,table-number-alignment=center}",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{tab:{shown.name}}}",
            *body,
            rf"\end{{table{star}}}",
            "",
        ]
    )


def _tabular(shown: Table, style: Style, several_n: bool, failures: bool) -> Iterator[str]:
    beside = style.intervals == "plus-minus"
    paired = [beside and _ranged(shown, i) for i in range(len(shown.columns))]
    kinds = [
        _format(shown, i) + (r"@{\,}>{\scriptsize}l" if paired[i] else "") for i in range(len(shown.columns))
    ]
    yield r"\begin{tabular}{@{}l" + "".join(kinds) + "r" * (several_n + failures) + "@{}}"
    yield r"\toprule"
    if any(column.group for column in shown.columns):
        yield from _groups(shown.columns, paired, several_n + failures)
    heads = [_head(column, pair) for column, pair in zip(shown.columns, paired, strict=True)]
    tail = ["{$n$}"] * several_n + ["{failed}"] * failures
    yield " & ".join([escape(shown.rows_are), *heads, *tail]) + r" \\"
    yield r"\midrule"
    below = style.intervals == "brackets"
    for k, row in enumerate(shown.rows):
        if row.control and k and not shown.rows[k - 1].control:
            yield r"\midrule"
        cells = [
            _cell(cell, column, pair)
            for cell, column, pair in zip(row.cells, shown.columns, paired, strict=True)
        ]
        counts = [str(row.n)] * several_n + [str(row.failed)] * failures
        yield " & ".join([escape(row.method), *cells, *counts]) + r" \\"
        if below and any(cell.low != cell.high for cell in row.cells):
            spans = [_brackets(cell, column) for cell, column in zip(row.cells, shown.columns, strict=True)]
            yield " & ".join(["", *spans, *("" for _ in counts)]) + r" \\[2pt]"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _ranged(shown: Table, index: int) -> bool:
    return any(row.cells[index].low is not None for row in shown.rows)


def _format(shown: Table, index: int) -> str:
    """``S[table-format=2.3]``: room for the longest number of the column."""
    column = shown.columns[index]
    texts = [number(row.cells[index].value, column) for row in shown.rows]
    digits = [text for text in texts if text != MISSING]
    whole = max((len(text.lstrip("-").partition(".")[0]) for text in digits), default=1)
    sign = "-" if any(text.startswith("-") for text in digits) else ""
    return f"S[table-format={sign}{whole}.{column.decimals}]"


def _groups(columns: Sequence[Column], paired: Sequence[bool], counts: int) -> Iterator[str]:
    cells, rules, position, index = [""], [], 2, 0
    for group, width in group_spans(columns):
        span = width + sum(paired[index : index + width])
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{position}-{position + span - 1}}}")
        position, index = position + span, index + width
    yield " & ".join([*cells, *[""] * counts]) + r" \\"
    yield "".join(rules)


def _head(column: Column, paired: bool) -> str:
    """Broken after its first words, so that columns stay narrow; in braces, for siunitx to leave alone."""
    title = column.title + (" (reported)" if column.reported else "")
    words = title.split(" ")
    if len(words) < 3:
        text = escape(title)
    else:
        cut = min(range(1, len(words)), key=lambda i: abs(len(" ".join(words[:i])) - len(title) / 2))
        lines = [" ".join(words[:cut]), " ".join(words[cut:])]
        text = r"\begin{tabular}[b]{@{}c@{}}" + r" \\ ".join(map(escape, lines)) + r"\end{tabular}"
    return rf"\multicolumn{{2}}{{c}}{{{text}}}" if paired else f"{{{text}}}"


def _cell(cell: Cell, column: Column, paired: bool) -> str:
    if cell.value is None or not math.isfinite(cell.value):
        return "{--}" + (" &" if paired else "")
    text = number(cell.value, column)
    dagger = r"\pebdagger" if cell.dagger else ""
    beside = ""
    if paired:
        half = half_width(cell, column)
        beside = " & " + (rf"$\pm$\,{half}" if half else "") + dagger
        dagger = ""
    line = rf"\pebsecond{{${text}$}}" if cell.second else ""
    after = f" {{{line}{dagger}}}" if line or dagger else ""
    return (r"\bfseries " if cell.best else "") + text + after + beside


def _brackets(cell: Cell, column: Column) -> str:
    if cell.low is None or cell.high is None or cell.low == cell.high:
        return ""
    low, high = (number(end, column).replace("-", "$-$") for end in (cell.low, cell.high))
    return rf"{{\scriptsize [{low}, {high}]}}"


def _points(shown: Table, style: Style, counts: int) -> float:
    """A rough width."""
    total = _CHARACTER * max((len(row.method) for row in shown.rows), default=6) + 30.0 * counts
    for i, column in enumerate(shown.columns):
        longest = max((len(number(row.cells[i].value, column)) for row in shown.rows), default=1)
        head = max(map(len, column.title.split(" ")))
        span = 0
        if style.intervals != "none" and _ranged(shown, i):
            span = 2 * longest + 4 if style.intervals == "brackets" else longest + 3
        inside = max(longest, head, 0.8 * span) if style.intervals != "plus-minus" else longest + span
        total += _GAP + _CHARACTER * inside
    return total

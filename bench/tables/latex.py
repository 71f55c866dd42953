r"""Tables as LaTeX: booktabs, numbers aligned at the decimal point by siunitx, marks that do not disturb it.

The best value is bold, the second underlined. A dagger marks a method that is not separable from the best, the sign ≈
one whose interval overlaps the best one's. Underline, dagger and sign start at the number's right end and have no
width, so that every number stays where siunitx puts it.

Nothing is scaled. A table that is wider than the page is cut into parts of some columns each. One that is longer
than a page is a ``longtable``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bench.latex import escape, unprintable
from bench.tables.latex_sizes import (
    BODY_POINTS,
    COLUMN_POINTS,
    GAP_POINTS,
    SIGN_POINTS,
    bracket_text,
    head_lines,
    height,
    name_limit,
    paired,
    parts,
    printed_name,
    signed,
    text_width,
    width,
)
from bench.tables.numbers import MISSING, cell_text, ends, halves
from bench.tables.style import Style
from bench.tables.table import Cell, Column, Row, Table

HEAD = r"""% Needs, in the preamble: \usepackage{booktabs,longtable,siunitx} (siunitx 3 or later)
\providecommand{\pebsecond}[1]{\llap{\underline{\phantom{#1}}}}
\providecommand{\pebtie}[1]{\llap{$\approx$\,\phantom{#1}}}
\providecommand{\pebdagger}{\rlap{$^{\dagger}$}}
"""

HEAD_OF_FIGURES = r"""% Needs, in the preamble: \usepackage{graphicx}. Folder of the images, seen from the main file:
\providecommand{\pebfigures}{figures}
"""

_SIZES = r"\footnotesize\setlength{\tabcolsep}{4pt}"
_NUMBERS = r"\sisetup{text-series-to-math=true,reset-math-version=false,table-number-alignment=center}"


# --- files -----------------------------------------------------------------------------------------------


def document(body: str, style: Style | None = None) -> str:
    """A whole document around tables, which compiles as it is. Citations show their keys."""
    two = style is None or style.layout == "two-column"
    return "\n".join(
        [
            # Layout of the page.
            rf"\documentclass[{'twocolumn' if two else 'onecolumn'}]{{article}}",
            rf"\usepackage[{'hmargin=0.8in' if two else 'textwidth=5.5in'}]{{geometry}}",
            r"\geometry{vmargin=0.45in,footskip=0.3in}",
            r"\usepackage{booktabs,longtable,siunitx}",
            r"\usepackage[font=footnotesize,skip=3pt]{caption}",
            # Floats stand as close as they can: there is no text between them.
            r"\renewcommand{\topfraction}{0.95}\renewcommand{\dbltopfraction}{0.95}",
            r"\renewcommand{\floatpagefraction}{0.7}\renewcommand{\dblfloatpagefraction}{0.7}",
            r"\makeatletter\setlength{\@fptop}{0pt}\setlength{\@dblfptop}{0pt}\makeatother",
            r"\setlength{\floatsep}{8pt}\setlength{\dblfloatsep}{8pt}",
            r"\setcounter{topnumber}{9}\setcounter{dbltopnumber}{9}\setcounter{totalnumber}{18}",
            r"\renewcommand{\cite}[1]{[\texttt{\detokenize{#1}}]}",
            r"\begin{document}",
            body,
            r"\end{document}",
            "",
        ]
    )


def figure(name: str, caption: str, *, wide: bool) -> str:
    """A floating ``figure`` around one image file. ``wide``: ``figure*``, as wide as the page."""
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


def every(tables: Sequence[Table], style: Style | None = None) -> str:
    """Tables in one file. A table is left out, and named in a comment, if other tables have all of its columns."""
    # From the end, so that the more detailed tables are left out and the main ones stay.
    picked = list(tables)
    for candidate in reversed(tables):
        other_keys = {key for other in picked if other is not candidate for key in _keys(other)}
        if set(_keys(candidate)) <= other_keys:
            picked.remove(candidate)
    left_out = [table.name for table in tables if table not in picked]
    remark = f"% In files of their own, since other tables have all of their columns: {', '.join(left_out)}"
    # One file, with a page break before each long table.
    texts = [_provenance(one) + table(one, style) for one in picked]
    # A float before a long table would be printed after it.
    texts = [("\\clearpage\n" if r"\begin{longtable}" in text else "") + text for text in texts]
    return HEAD + "\n".join([*([remark] if left_out else []), "", *texts])


def _keys(table: Table) -> Iterator[tuple[object, ...]]:
    """Identity of each column: which values it shows, and for which rows."""
    rows = frozenset(row.label for row in table.rows)
    # In tables whose rows are not methods, the metric alone does not identify a column.
    scope = table.name if table.rows_are != "method" else ""
    for column in table.columns:
        heading = column.heading if column.reported else ""
        yield (scope, rows, column.protocol, column.metric, column.category, heading)


def _provenance(table: Table) -> str:
    """One comment line above the table: where its numbers come from."""
    return f"% provenance: {' '.join(' '.join(table.provenance).split())}\n" if table.provenance else ""


def file(one: Table, style: Style | None = None) -> str:
    """A file of one table. Comments above it say how to read it and where its numbers come from."""
    # A line break in a text would end the comment, and print the rest.
    comments = [f"% {' '.join(line.split())}\n" for line in _remarks(one, style or Style())]
    return HEAD + "".join(comments) + _provenance(one) + table(one, style)


def notes(tables: Sequence[Table], style: Style | None = None) -> str:
    """A section with everything that the short captions leave out, each sentence once."""
    style = style or Style()
    on_intervals = [remark for table in tables for remark in table.explained_intervals(style.intervals)]
    on_values = [note for table in tables for note in table.notes]
    lines = [rf"\item {escape(line)}" for line in dict.fromkeys([*on_intervals, *on_values])]
    if not lines:
        return ""
    head = [r"\section*{Notes on the tables}", r"\begin{itemize}\small\raggedright"]
    return "\n".join([*head, *lines, r"\end{itemize}", ""])


def warnings(tables: Iterable[Table]) -> list[str]:
    """A sentence for each text that holds characters which pdflatex cannot print (``bench.latex``)."""
    texts = [text for table in tables for text in _user_texts(table)]
    lines = []
    for text in dict.fromkeys(texts):
        chars = unprintable([text])
        if chars:
            code_points = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in chars)
            lines.append(
                f"LaTeX cannot print {code_points} in {text!r}: the .tex files have the code points instead. Give "
                "the method a display in Latin or Greek letters in the suite."
            )
    return lines


def _user_texts(table: Table) -> Iterator[str]:
    """Everything in a table that its user wrote."""
    yield from (row.printed for row in table.rows)
    yield from (row.group for row in table.rows)
    yield from (column.heading for column in table.columns)
    yield from (column.group for column in table.columns)
    yield table.title


# --- one table -------------------------------------------------------------------------------------------


def table(one: Table, style: Style | None = None) -> str:
    """A floating ``table`` (``table*`` where one column of the page is too narrow), or several, or a ``longtable``."""
    style = style or Style()
    if not one.intervals:
        style = replace(style, intervals="none")
    pieces = list(parts(one, style))
    texts = []
    for index, part in enumerate(pieces):
        # The first part has the caption, the others their title alone.
        title = one.title + (f" ({index + 1} of {len(pieces)})" if len(pieces) > 1 else "")
        caption = f"{title}." if index else " ".join([f"{title}.", *_caption(one, style)])
        label = one.name if not index else f"{one.name}-{index + 1}"
        wide = style.layout == "two-column" and width(part, style) > COLUMN_POINTS
        if height(part, style) > BODY_POINTS:
            texts.append(_long(part, style, caption, label))
        else:
            texts.append(_floating(part, style, caption, label, "table*" if wide else "table"))
    return "\n".join(texts)


def _floating(part: Table, style: Style, caption: str, label: str, environment: str) -> str:
    lines = [
        rf"\begin{{{environment}}}",
        rf"\centering{_sizes(part, style)}\setlength{{\belowcaptionskip}}{{5pt}}",
        _NUMBERS,
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{_column_types(part, style)}}}",
        r"\toprule",
        *_header(part, style),
        r"\midrule",
        *_body(part, style),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
        "",
    ]
    return "\n".join(lines)


def _long(part: Table, style: Style, caption: str, label: str) -> str:
    """A ``longtable`` with its head on each page. In a two-column paper it needs pages of one column."""
    two = style.layout == "two-column"
    lines = [
        # A longtable cannot stand in one of two columns.
        *([r"\onecolumn"] if two else []),
        r"{" + _sizes(part, style) + r"\setlength{\LTcapwidth}{\linewidth}",
        _NUMBERS,
        # Head of the first page, head of the others, foot, rows.
        rf"\begin{{longtable}}{{{_column_types(part, style)}}}",
        rf"\caption{{{escape(caption)}}}\label{{tab:{label}}}\\",
        r"\toprule",
        *_header(part, style),
        r"\midrule",
        r"\endfirsthead",
        rf"\multicolumn{{{_span(part, style)}}}{{@{{}}l}}{{Table \thetable, continued}}\\",
        r"\toprule",
        *_header(part, style),
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *_body(part, style),
        r"\end{longtable}}",
        *([r"\twocolumn"] if two else []),
        "",
    ]
    return "\n".join(lines)


def _sizes(part: Table, style: Style) -> str:
    # Two ends over each other are higher than a line.
    return _SIZES + (r"\renewcommand{\arraystretch}{1.25}" if any(paired(part, style)) else "")


def _span(part: Table, style: Style) -> int:
    """Number of LaTeX columns."""
    return 1 + sum(1 + pair for pair in paired(part, style)) + len(part.informative_counts())


def _column_types(part: Table, style: Style) -> str:
    """The argument of ``tabular``: names, numbers (and distances to their interval's ends), counts."""
    # Names: one line, or a paragraph of limited width with a hanging indent.
    longest = max((text_width(printed_name(row)) for row in part.rows), default=0.0)
    room = name_limit(style)
    names = "l" if longest <= room else rf">{{\raggedright\arraybackslash\hangindent=1em}}p{{{room:.0f}pt}}"
    # Numbers: room for a sign of overlap before, a column of distances after.
    numbers = [
        (rf"@{{\hspace{{{GAP_POINTS + SIGN_POINTS:.0f}pt}}}}" if signed(part, i, style) else "")
        + _number_type(part, i)
        + (r"@{\,}>{\scriptsize}l" if pair else "")
        for i, pair in enumerate(paired(part, style))
    ]
    return "@{}" + names + "".join(numbers) + "r" * len(part.informative_counts()) + "@{}"


def _number_type(part: Table, index: int) -> str:
    """``S[table-format=2.3]``: room for the longest number of the column. ``r`` for a column of texts."""
    column = part.columns[index]
    cells = [row.cells[index] for row in part.rows]
    if any(cell.text for cell in cells):
        return "r"
    # siunitx aligns by the digits before and after the point. Numbers with an exponent stand outside of it.
    texts = [cell_text(cell, column) for cell in cells]
    digits = [text.partition(".") for text in texts if text != MISSING and "e" not in text]
    whole = max((len(before.lstrip("-")) for before, _, _ in digits), default=1)
    after = max((len(part) for _, _, part in digits), default=column.decimals)
    sign = "-" if any(before.startswith("-") for before, _, _ in digits) else ""
    return f"S[table-format={sign}{whole}.{after}]"


def _header(part: Table, style: Style) -> Iterator[str]:
    pairs, counts = paired(part, style), part.informative_counts()
    if any(column.group for column in part.columns):
        yield from _group_lines(part, pairs, len(counts))
    heads = [
        _head(column, part.column_n(i), pair)
        for i, (column, pair) in enumerate(zip(part.columns, pairs, strict=True))
    ]
    tail = ["{$n$}" if name == "n" else f"{{{name}}}" for name in counts]
    yield " & ".join([escape(part.rows_are), *heads, *tail]) + r" \\"


def _group_lines(part: Table, pairs: Sequence[bool], counts: int) -> Iterator[str]:
    """The headings of the groups, each over its columns, and the rules below them."""
    # LaTeX columns count from 1, and the first one holds the names.
    cells, rules, position, index = [""], [], 2, 0
    for group, columns in part.group_spans():
        span = columns + sum(pairs[index : index + columns])
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{position}-{position + span - 1}}}")
        position, index = position + span, index + columns
    yield " & ".join([*cells, *[""] * counts]) + r" \\"
    yield "".join(rules)


def _head(column: Column, n: int | None, pair: bool) -> str:
    """A heading in one or two lines, n below it. Braces keep siunitx from reading it as a number."""
    lines = [escape(line) for line in head_lines(column)]
    if n is not None:
        lines.append(rf"{{\scriptsize $n={n}$}}")
    text = lines[0]
    if len(lines) > 1:
        text = r"\begin{tabular}[b]{@{}c@{}}" + r" \\ ".join(lines) + r"\end{tabular}"
    return rf"\multicolumn{{2}}{{c}}{{{text}}}" if pair else f"{{{text}}}"


def _body(part: Table, style: Style) -> Iterator[str]:
    """Rows under the headings of their groups. Intervals in brackets stand in a line of their own."""
    pairs, counts = paired(part, style), part.informative_counts()
    groups = part.grouped_rows()
    for k, (group, rows) in enumerate(groups):
        if k:
            yield r"\midrule"
        if group and len(groups) > 1:
            yield rf"\multicolumn{{{_span(part, style)}}}{{@{{}}l}}{{\emph{{{escape(group)}}}}} \\*"
        for row in rows:
            cells = [
                _cell(cell, column, pair)
                for cell, column, pair in zip(row.cells, part.columns, pairs, strict=True)
            ]
            line = " & ".join([_name(row), *cells, *map(str, row.counts(counts))])
            spans = [_brackets(cell, column) for cell, column in zip(row.cells, part.columns, strict=True)]
            if style.intervals == "brackets" and any(spans):
                # The star keeps a page break away from the two lines.
                yield line + r" \\*[-2.5pt]"
                yield " & ".join(["", *spans, *("" for _ in counts)]) + r" \\[-0.5pt]"
            else:
                yield line + r" \\"


def _name(row: Row) -> str:
    return escape(row.printed) + (rf"~\cite{{{row.cite}}}" if row.cite else "")


def _cell(cell: Cell, column: Column, pair: bool) -> str:
    if cell.text:
        text = escape(cell.text)
        return "{" + (rf"\bfseries {text}" if cell.best else text) + "}" + (" &" if pair else "")
    if cell.value is None or not math.isfinite(cell.value):
        return "{--}" + (" &" if pair else "")

    # The distances to the interval's ends stand in a column of their own, and the dagger behind them.
    text = cell_text(cell, column)
    dagger = r"\pebdagger" if cell.dagger else ""
    beside = ""
    if pair:
        up, down = (_math(half) for half in halves(cell, column))
        span = rf"$\pm{up}$" if up == down else f"$^{{+{up}}}_{{-{down}}}$"
        beside = " & " + (span if up else "") + dagger
        dagger = ""

    # Marks begin where the number ends. A number with an exponent is set as mathematics.
    formula = f"${_math(text)}$"
    underline = rf"\pebsecond{{{formula}}}" if cell.second else ""
    sign = rf"\pebtie{{{formula}}}" if cell.tie else ""
    after = f"{sign}{underline}{dagger}"
    if "e" in text:
        return (r"{\boldmath" if cell.best else "{") + f"{formula}{after}}}" + beside
    return (r"\bfseries " if cell.best else "") + text + (f" {{{after}}}" if after else "") + beside


def _math(text: str) -> str:
    """``1.2e-5`` as mathematics."""
    return re.sub(r"e(-?\d+)$", r"\\cdot10^{\1}", text)


def _brackets(cell: Cell, column: Column) -> str:
    if cell.span:
        return rf"{{\scriptsize {escape(bracket_text(cell, column))}}}"
    if cell.low is None or cell.high is None or cell.low == cell.high:
        return ""
    low, high = (f"${_math(end)}$" if set(end) & set("-e") else end for end in ends(cell, column))
    return rf"{{\scriptsize [{low}, {high}]}}"


# --- captions --------------------------------------------------------------------------------------------


def _caption(one: Table, style: Style) -> list[str]:
    """The caption after the title: n and the marks. With full captions, all notes and the provenance too."""
    size = _caption_n(one)
    if style.captions == "full":
        return [part for part in (size, *_remarks(one, style), *one.provenance) if part]
    # Only what the table shows is explained.
    cells = [cell for row in one.rows for cell in row.cells]
    ranged = any(cell.low is not None and cell.low != cell.high for cell in cells)
    sign = {"brackets": "In brackets", "plus-minus": "±", "none": ""}[style.intervals]
    explained = f"{sign}: {100 * one.level:g} % intervals." if ranged and sign else ""
    marks = [
        meaning
        for meaning, used in (
            ("bold: the best", any(cell.best for cell in cells)),
            ("underlined: the second", any(cell.second for cell in cells)),
            ("≈: overlaps the best one's interval", any(cell.tie for cell in cells)),
            ("†: not separable from the best (p ≥ .05)", any(cell.dagger for cell in cells)),
        )
        if used
    ]
    meanings = "; ".join(marks)
    sentence = f"{meanings[0].upper()}{meanings[1:]}." if marks else ""
    return [part for part in (size, explained, sentence, one.caption) if part]


def _caption_n(one: Table) -> str:
    """The n of the rows, and of the columns and values that have another."""
    sizes = sorted({row.n for row in one.rows if row.n})
    if not sizes or "n" not in one.counts:
        return ""
    # n of the rows, then of single values that neither their row nor their column explains.
    size = f"n = {_range(sizes)}"
    if any(one.column_n(i) is not None for i in range(len(one.columns))):
        size += " unless the heading says another"
    exceptions = []
    for i, column in enumerate(one.columns):
        own = sorted({n for row in one.rows for n in [one.cell_n(row, i)] if n is not None})
        if own:
            exceptions.append(f"{column.heading} {_range(own)}")
    return size + (f"; of some values: {', '.join(exceptions)}." if exceptions else ".")


def _range(sizes: Sequence[int]) -> str:
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])


def _remarks(one: Table, style: Style) -> list[str]:
    return [*one.explained_intervals(style.intervals), *one.notes]

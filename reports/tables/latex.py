r"""Tables as LaTeX: booktabs, numbers aligned at the decimal point by siunitx, marks that do not disturb it.

The best is bold, the second underlined; a dagger stands for what is not separable from the best, an approximate
sign for what overlaps it. Underline, dagger and sign are drawn from the number's right end, without width, so
that every number stays where siunitx put it.

Nothing is scaled. A table that is wider than its place is cut into parts of some columns each; one that is
longer than a page is a ``longtable``. Widths are estimates from above, of the letters of Computer Modern.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bench.latex import escape, unprintable
from reports.tables.render import MISSING, ends, group_spans, grouped_rows, halves, number
from reports.tables.style import Style
from reports.tables.table import INTERVAL_NOTES, Cell, Column, Row, Table

HEAD = r"""% Needs, in the preamble: \usepackage{booktabs,longtable,siunitx} (siunitx 3 or later)
\providecommand{\pebsecond}[1]{\llap{\underline{\phantom{#1}}}}
\providecommand{\pebtie}[1]{\llap{$\approx$\,\phantom{#1}}}
\providecommand{\pebdagger}{\rlap{$^{\dagger}$}}
"""

HEAD_OF_FIGURES = r"""% Needs, in the preamble: \usepackage{graphicx}. Where the pictures lie, seen from the main file:
\providecommand{\pebfigures}{figures}
"""

COLUMN_POINTS, PAGE_POINTS, SINGLE_POINTS = 234.0, 487.0, 397.0
"""3.25 in, 6.75 in, 5.5 in: a column and a page of most two-column styles, a page of most others."""
BODY_POINTS = 560.0
"""The height that a table may have beside its caption; a longer one goes over several pages."""
NAME_SHARE = 0.36
"""The part of the width that the rows' names may take; longer ones are broken into lines."""

_EM, _SMALL_EM = 8.5, 8.0
"""Points of an em in \\footnotesize and \\scriptsize."""
_GAP = 8.0
"""Points between two columns: twice \\tabcolsep."""
_SIGN = 9.0
"""Points of a sign of overlap."""
_SIZES = r"\footnotesize\setlength{\tabcolsep}{4pt}"
_NUMBERS = r"\sisetup{text-series-to-math=true,reset-math-version=false,table-number-alignment=center}"


# --- files -----------------------------------------------------------------------------------------------


def document(body: str, style: Style | None = None) -> str:
    """A whole document around tables, which compiles as it is; citations show their keys."""
    two = style is None or style.layout == "two-column"
    return "\n".join(
        [
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


def every(shown: Sequence[Table], style: Style | None = None) -> str:
    """Tables in one file, without those whose every column stands in the others, which a comment names."""
    picked = list(shown)
    for one in reversed(shown):
        others = {key for other in picked if other is not one for key in _keys(other)}
        if set(_keys(one)) <= others:
            picked.remove(one)
    left_out = [one.name for one in shown if one not in picked]
    named = [f"% In files of their own, since other tables have all of their columns: {', '.join(left_out)}"]
    texts = [table(one, style) for one in picked]
    # A float before a long table would be printed after it.
    texts = [("\\clearpage\n" if text.startswith("{") else "") + text for text in texts]
    return HEAD + "\n".join([*(named if left_out else []), "", *texts])


def _keys(shown: Table) -> Iterator[tuple[object, ...]]:
    """An identity for each column: what it shows, and for which rows."""
    rows = frozenset(row.method for row in shown.rows)
    # The columns of other tables than those of methods do not say by themselves what they hold.
    alone = shown.name if shown.rows_are != "method" else ""
    for column in shown.columns:
        heading = column.heading if column.reported else ""
        yield (alone, rows, column.protocol, column.metric, column.category, heading)


def file(shown: Table, style: Style | None = None) -> str:
    """A file of one table: what it needs, how to read it and where its numbers come from (as comments), itself."""
    comments = [
        f"% {' '.join(line.split())}" for line in (*_remarks(shown, style or Style()), *shown.provenance)
    ]
    return HEAD + "\n".join([*comments, table(shown, style)])


def notes(shown: Sequence[Table], style: Style | None = None) -> str:
    """A section with everything that the short captions leave out, each sentence once."""
    style = style or Style()
    on_intervals = [remark for table in shown for remark in _on_intervals(table, style)]
    others = [note for table in shown for note in table.notes]
    sources = [line for table in shown for line in table.provenance]
    lines = [rf"\item {escape(line)}" for line in dict.fromkeys([*on_intervals, *others, *sources])]
    if not lines:
        return ""
    head = [r"\section*{Notes on the tables}", r"\begin{itemize}\small\raggedright"]
    return "\n".join([*head, *lines, r"\end{itemize}", ""])


def warnings(shown: Iterable[Table]) -> list[str]:
    """A sentence for the names that hold what pdflatex cannot print; see ``bench.latex``."""
    texts = [text for table in shown for text in _texts(table)]
    lines = []
    for text in dict.fromkeys(texts):
        chars = unprintable([text])
        if chars:
            named = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in chars)
            lines.append(
                f"LaTeX cannot print {named} in {text!r}: the .tex files have the code points instead. Give the "
                "method a display in Latin or Greek letters in the suite."
            )
    return lines


def _texts(shown: Table) -> Iterator[str]:
    """Everything in a table that comes from its user."""
    yield from (row.display or row.method for row in shown.rows)
    yield from (row.group for row in shown.rows)
    yield from (column.heading for column in shown.columns)
    yield from (column.group for column in shown.columns)
    yield shown.title


# --- one table -------------------------------------------------------------------------------------------


def table(shown: Table, style: Style | None = None) -> str:
    """A floating ``table`` (``table*`` where two columns are not enough), or several, or a ``longtable``.

    Raises nothing: what a table shows was decided before.
    """
    style = style or Style()
    if not shown.intervals:
        style = replace(style, intervals="none")
    full = PAGE_POINTS if style.layout == "two-column" else SINGLE_POINTS
    parts = list(_parts(shown, style, full))
    texts = []
    for index, part in enumerate(parts):
        title = shown.title + (f" ({index + 1} of {len(parts)})" if len(parts) > 1 else "")
        caption = f"{title}." if index else " ".join([f"{title}.", *_said(shown, style)])
        label = shown.name if not index else f"{shown.name}-{index + 1}"
        wide = style.layout == "two-column" and _width(part, style) > COLUMN_POINTS
        if _height(part, style) > BODY_POINTS:
            texts.append(_long(part, style, caption, label))
        else:
            texts.append(_floating(part, style, caption, label, "table*" if wide else "table"))
    return "\n".join(texts)


def _floating(shown: Table, style: Style, caption: str, label: str, environment: str) -> str:
    kinds = _kinds(shown, style)
    lines = [
        rf"\begin{{{environment}}}",
        rf"\centering{_sizes(shown, style)}\setlength{{\belowcaptionskip}}{{5pt}}",
        _NUMBERS,
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        *_header(shown, style),
        r"\midrule",
        *_body(shown, style),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
        "",
    ]
    return "\n".join(lines)


def _long(shown: Table, style: Style, caption: str, label: str) -> str:
    """Over several pages, with its head on each; of two-column text it needs pages of one column."""
    kinds = _kinds(shown, style)
    width = 1 + sum(1 + pair for pair in _paired(shown, style)) + len(_counts(shown))
    two = style.layout == "two-column"
    lines = [
        *([r"\onecolumn"] if two else []),
        r"{" + _sizes(shown, style) + r"\setlength{\LTcapwidth}{\linewidth}",
        _NUMBERS,
        rf"\begin{{longtable}}{{{kinds}}}",
        rf"\caption{{{escape(caption)}}}\label{{tab:{label}}}\\",
        r"\toprule",
        *_header(shown, style),
        r"\midrule",
        r"\endfirsthead",
        rf"\multicolumn{{{width}}}{{@{{}}l}}{{Table \thetable, continued}}\\",
        r"\toprule",
        *_header(shown, style),
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *_body(shown, style),
        r"\end{longtable}}",
        *([r"\twocolumn"] if two else []),
        "",
    ]
    return "\n".join(lines)


def _sizes(shown: Table, style: Style) -> str:
    # Two ends over each other are higher than a line.
    return _SIZES + (r"\renewcommand{\arraystretch}{1.25}" if any(_paired(shown, style)) else "")


def _header(shown: Table, style: Style) -> Iterator[str]:
    paired, counts = _paired(shown, style), _counts(shown)
    if any(column.group for column in shown.columns):
        yield from _groups(shown.columns, paired, len(counts))
    heads = [
        _head(column, shown.column_n(i), pair)
        for i, (column, pair) in enumerate(zip(shown.columns, paired, strict=True))
    ]
    tail = ["{$n$}" if name == "n" else f"{{{name}}}" for name in counts]
    yield " & ".join([escape(shown.rows_are), *heads, *tail]) + r" \\"


def _body(shown: Table, style: Style) -> Iterator[str]:
    paired, counts = _paired(shown, style), _counts(shown)
    below = style.intervals == "brackets"
    width = 1 + sum(1 + pair for pair in paired) + len(counts)
    parts = grouped_rows(shown)
    for k, (group, rows) in enumerate(parts):
        if k:
            yield r"\midrule"
        if group and len(parts) > 1:
            yield rf"\multicolumn{{{width}}}{{@{{}}l}}{{\emph{{{escape(group)}}}}} \\*"
        for row in rows:
            cells = [
                _cell(cell, column, pair)
                for cell, column, pair in zip(row.cells, shown.columns, paired, strict=True)
            ]
            ranged = below and any(
                _brackets(c, column) for c, column in zip(row.cells, shown.columns, strict=True)
            )
            line = " & ".join([_name(row), *cells, *map(str, row.counted(counts))])
            yield line + (r" \\*[-2.5pt]" if ranged else r" \\")
            if ranged:
                spans = [_brackets(c, column) for c, column in zip(row.cells, shown.columns, strict=True)]
                yield " & ".join(["", *spans, *("" for _ in counts)]) + r" \\[-0.5pt]"


def _name(row: Row) -> str:
    cited = rf"~\cite{{{row.cite}}}" if row.cite else ""
    return escape(row.display or row.method) + cited


def _counts(shown: Table) -> list[str]:
    """The counts at the end of the rows, where they say something."""
    several = "n" in shown.counts and len({row.n for row in shown.rows}) > 1
    failures = "failed" in shown.counts and any(row.failed for row in shown.rows)
    return ["n"] * several + ["failed"] * failures


def _paired(shown: Table, style: Style) -> list[bool]:
    """Whether each column has a second one beside it, with the distances to the interval's ends."""
    beside = style.intervals == "plus-minus"
    return [
        beside and any(row.cells[i].low is not None for row in shown.rows) for i in range(len(shown.columns))
    ]


def _kinds(shown: Table, style: Style) -> str:
    """The kinds of the columns, as ``tabular`` takes them."""
    longest = max((_text_width(_printed(row)) for row in shown.rows), default=0.0)
    room = NAME_SHARE * (PAGE_POINTS if style.layout == "two-column" else SINGLE_POINTS)
    first = "l" if longest <= room else rf">{{\raggedright\arraybackslash\hangindent=1em}}p{{{room:.0f}pt}}"
    numbers = [
        (rf"@{{\hspace{{{_GAP + _SIGN:.0f}pt}}}}" if _signed(shown, i, style) else "")
        + _format(shown, i)
        + (r"@{\,}>{\scriptsize}l" if pair else "")
        for i, pair in enumerate(_paired(shown, style))
    ]
    return "@{}" + first + "".join(numbers) + "r" * len(_counts(shown)) + "@{}"


def _signed(shown: Table, index: int, style: Style) -> bool:
    """Whether the column needs room for signs of overlap; above an interval there is some."""
    return style.intervals != "brackets" and any(row.cells[index].tie for row in shown.rows)


def _format(shown: Table, index: int) -> str:
    """``S[table-format=2.3]``: room for the longest number of the column."""
    column = shown.columns[index]
    texts = [number(row.cells[index].value, column) for row in shown.rows]
    digits = [text.partition(".") for text in texts if text != MISSING and "e" not in text]
    whole = max((len(before.lstrip("-")) for before, _, _ in digits), default=1)
    after = max((len(part) for _, _, part in digits), default=column.decimals)
    sign = "-" if any(before.startswith("-") for before, _, _ in digits) else ""
    return f"S[table-format={sign}{whole}.{after}]"


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


def _head(column: Column, n: int | None, paired: bool) -> str:
    """Broken after its first words, so that columns stay narrow; in braces, for siunitx to leave alone."""
    lines = [escape(line) for line in _head_lines(column)]
    if n is not None:
        lines.append(rf"{{\scriptsize $n={n}$}}")
    text = lines[0]
    if len(lines) > 1:
        text = r"\begin{tabular}[b]{@{}c@{}}" + r" \\ ".join(lines) + r"\end{tabular}"
    return rf"\multicolumn{{2}}{{c}}{{{text}}}" if paired else f"{{{text}}}"


def _head_lines(column: Column) -> list[str]:
    title = column.title + (" (reported)" if column.reported else "")
    words = title.split(" ")
    if len(words) < 3:
        return [title]
    cut = min(range(1, len(words)), key=lambda i: abs(len(" ".join(words[:i])) - len(title) / 2))
    return [" ".join(words[:cut]), " ".join(words[cut:])]


def _cell(cell: Cell, column: Column, paired: bool) -> str:
    if cell.value is None or not math.isfinite(cell.value):
        return "{--}" + (" &" if paired else "")
    text = number(cell.value, column)
    dagger = r"\pebdagger" if cell.dagger else ""
    beside = ""
    if paired:
        up, down = (_math(half) for half in halves(cell, column))
        span = rf"$\pm{up}$" if up == down else f"$^{{+{up}}}_{{-{down}}}$"
        beside = " & " + (span if up else "") + dagger
        dagger = ""
    # Where the number ends, marks begin; a number of its own digits is set as mathematics.
    ended = f"${_math(text)}$"
    line = rf"\pebsecond{{{ended}}}" if cell.second else ""
    sign = rf"\pebtie{{{ended}}}" if cell.tie else ""
    after = f"{sign}{line}{dagger}"
    if "e" in text:
        return (r"{\boldmath" if cell.best else "{") + f"{ended}{after}}}" + beside
    return (r"\bfseries " if cell.best else "") + text + (f" {{{after}}}" if after else "") + beside


def _math(text: str) -> str:
    """``1.2e-5`` as mathematics."""
    return re.sub(r"e(-?\d+)$", r"\\cdot10^{\1}", text)


def _brackets(cell: Cell, column: Column) -> str:
    if cell.low is None or cell.high is None or cell.low == cell.high:
        return ""
    low, high = (f"${_math(end)}$" if set(end) & set("-e") else end for end in ends(cell, column))
    return rf"{{\scriptsize [{low}, {high}]}}"


# --- captions --------------------------------------------------------------------------------------------


def _said(shown: Table, style: Style) -> list[str]:
    """The caption after the title: n and the marks, or everything, by the style."""
    parts = [_said_of_n(shown)]
    if style.captions == "full":
        return [part for part in (*parts, *_remarks(shown, style), *shown.provenance) if part]
    cells = [cell for row in shown.rows for cell in row.cells]
    if any(cell.low is not None and cell.low != cell.high for cell in cells):
        parts.append(
            {"brackets": "In brackets: 95 % intervals.", "plus-minus": "±: 95 % intervals."}.get(
                style.intervals, ""
            )
        )
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
    if marks:
        sentence = "; ".join(marks) + "."
        parts.append(sentence[0].upper() + sentence[1:])
    return [part for part in (*parts, shown.caption) if part]


def _said_of_n(shown: Table) -> str:
    """The n of the rows, and of the columns and values that have another."""
    counts = sorted({row.n for row in shown.rows if row.n})
    if not counts:
        return ""
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    others = []
    for i, column in enumerate(shown.columns):
        own = sorted({n for row in shown.rows for n in [shown.cell_n(row, i)] if n is not None})
        if own:
            others.append(f"{column.heading} {own[0]}" + (f" to {own[-1]}" if len(own) > 1 else ""))
    headed = any(shown.column_n(i) is not None for i in range(len(shown.columns)))
    said = f"n = {span}" + (" unless the heading says another" if headed else "")
    return said + (f"; of some values: {', '.join(others)}." if others else ".")


def _on_intervals(shown: Table, style: Style) -> list[str]:
    if not shown.interval_notes or style.intervals == "none":
        return []
    return [INTERVAL_NOTES[style.intervals], *shown.interval_notes]


def _remarks(shown: Table, style: Style) -> list[str]:
    return [*_on_intervals(shown, style), *shown.notes]


# --- sizes -----------------------------------------------------------------------------------------------


def _parts(shown: Table, style: Style, room: float) -> Iterator[Table]:
    """The table, cut between columns into as few as fit into ``room``, each with the rows' names.

    Parts are about as wide as each other: the room shrinks as long as no further part is needed.
    """
    cuts = _cuts(shown, style, room)
    while True:
        room *= 0.97
        closer = _cuts(shown, style, room)
        if len(closer) > len(cuts):
            break
        if closer == cuts and len(cuts) == 2:
            break
        cuts = closer
    for first, last in itertools.pairwise(cuts):
        yield _columns(shown, first, last)


def _cuts(shown: Table, style: Style, room: float) -> list[int]:
    """Where parts begin, and the number of columns."""
    cuts = [0]
    for last in range(1, len(shown.columns)):
        if _width(_columns(shown, cuts[-1], last + 1), style) > room:
            cuts.append(last)
    return [*cuts, len(shown.columns)]


def _columns(shown: Table, first: int, last: int) -> Table:
    rows = [replace(row, cells=row.cells[first:last]) for row in shown.rows]
    return replace(shown, columns=shown.columns[first:last], rows=tuple(rows))


def _width(shown: Table, style: Style) -> float:
    """Points, a little too many."""
    limit = NAME_SHARE * (PAGE_POINTS if style.layout == "two-column" else SINGLE_POINTS)
    names = [_text_width(text) for text in (*map(_printed, shown.rows), shown.rows_are)]
    total = min(limit, max(names)) + sum(_text_width(name) + _GAP for name in _counts(shown))
    columns = [_column_width(shown, i, style) for i in range(len(shown.columns))]
    index = 0
    for group, width in group_spans(shown.columns):
        total += max(sum(columns[index : index + width]), _text_width(group) + _GAP)
        index += width
    return total


def _column_width(shown: Table, index: int, style: Style) -> float:
    column = shown.columns[index]
    cells = [row.cells[index] for row in shown.rows]
    value = max(_text_width(_plain(number(cell.value, column))) for cell in cells)
    below = beside = 0.0
    if style.intervals == "brackets":
        below = max(_text_width(_plain(f"[{', '.join(ends(c, column))}]"), _SMALL_EM) for c in cells)
    if style.intervals == "plus-minus":
        widths = [
            _text_width(_plain(f"±{up}" if up == down else max(f"+{up}", f"-{down}", key=len)), _SMALL_EM)
            for up, down in (halves(cell, column) for cell in cells)
            if up
        ]
        beside = max(widths, default=0.0) + 3
    # A dagger has no width of its own, but must not touch the next column.
    head = max(_text_width(line) for line in _head_lines(column))
    return max(value + beside, below, head) + _GAP + (_SIGN if _signed(shown, index, style) else 0)


def _plain(text: str) -> str:
    """With the letters that are printed: ``1.2e-5`` has a multiplication in it."""
    return re.sub(r"e(-?\d+)", r"+10\1", text)


def _printed(row: Row) -> str:
    return (row.display or row.method) + (f" [{row.cite}]" if row.cite else "")


_NARROW = frozenset("il.,:;'|!()[]tfjI ")
_WIDE = frozenset("mwMW@%↑↓≈±+-–")


def _text_width(text: str, em: float = _EM) -> float:
    """Points of a line, a little too many."""
    widths = (
        *(0.505 for char in text if char.isdigit()),
        *(0.33 for char in text if char in _NARROW),
        *(0.85 for char in text if char in _WIDE),
        *(
            0.75 if char.isupper() else 0.54
            for char in text
            if not char.isdigit() and char not in _NARROW | _WIDE
        ),
    )
    return em * sum(widths)


def _height(shown: Table, style: Style) -> float:
    """Points of the rows, a little too many."""
    limit = NAME_SHARE * (PAGE_POINTS if style.layout == "two-column" else SINGLE_POINTS)
    total, paired = 60.0, any(_paired(shown, style))
    for row in shown.rows:
        lines = math.ceil(_text_width(_printed(row)) / limit)
        ranged = style.intervals == "brackets" and any(cell.low != cell.high for cell in row.cells)
        total += (12.1 if paired else 9.7) * lines + (6.7 if ranged else 0)
    return total

"""An analysis as tables to read: on a terminal, and in a folder as Markdown, LaTeX, CSV and JSON.

Every table says how many votes and raters it is made of, which rule left raters out, and, where the raters
were simulated, that they were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import csv_of, write_atomic
from bench.latex import escape
from bench.study.votes.analysis import SIMULATED, Analysis
from bench.study.votes.frame import ALL

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

MISSING = "–"
"""Stands for a value or an interval that could not be computed."""

KINDS = {"pair": "pairs, a tie is half a win", "best": "choice of the best"}


@dataclass(frozen=True)
class Cell:
    """A value as it is shown, its interval below it, and whether it is the best of its column."""

    text: str
    span: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column is text."""

    name: str
    """Of files and labels: letters, digits, hyphens."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    size: str = ""
    """A sentence for a caption: how many votes, raters and source images."""


def tables(analysis: Analysis, realism: pd.DataFrame | None = None) -> list[Table]:
    """All tables of an analysis, of the raters kept (of all, where the rule keeps nobody).

    ``realism``: columns protocol, method (its title), metric (the heading, such as ``FID``), value: one number
    per data set and method, lower is better; it stands in the first table beside the votes.
    """
    view = _View(analysis, analysis.rater_set)
    found = [
        *_by_data_set(view, realism),
        *_preference(view),
        *_strengths(view),
        *_by_category(view),
        *_wins(view),
        _quality(analysis, view),
        _effect(view),
        *_correlation(view),
    ]
    return [table for table in found if table.rows]


def terminal(shown: Sequence[Table]) -> Iterator[RenderableType]:
    """Rich renderables: each table with its title; the notes once, at the end."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in shown:
        yield Text(f"\n{table.title}", style="bold")
        grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="", show_edge=False)
        for i, heading in enumerate(table.columns):
            grid.add_column(Text(heading), justify="right" if i else "left")
        for row in table.rows:
            cells = []
            for cell in row:
                text = Text(cell.text, style="bold green" if cell.best else "")
                cells.append(text.append(f"\n{cell.span}", style="not bold dim") if cell.span else text)
            grid.add_row(*cells)
        yield grid
    yield Text()
    for note in dict.fromkeys(note for table in shown for note in table.notes):
        yield Text(note, style="dim italic")


def markdown(table: Table) -> str:
    """A heading, a pipe table and the notes."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def text(cell: Cell) -> str:
        shown = f"**{_escaped(cell.text)}**" if cell.best else _escaped(cell.text)
        return f"{shown}<br><sub>{cell.span}</sub>" if cell.span else shown

    return "\n".join(
        [
            f"### {table.title}",
            "",
            line(map(_escaped, table.columns)),
            line([":--", *("--:" for _ in table.columns[1:])]),
            *(line(map(text, row)) for row in table.rows),
            "",
            *(f"{_escaped(note)}  " for note in table.notes),
            "",
        ]
    )


LONG_ROWS = 24
"""A LaTeX table with more rows goes over several pages (``longtable``)."""
LINE_POINTS, CHARACTER_POINTS, GAP_POINTS = 345.0, 4.8, 8.0
"""Width of the line of LaTeX's article class, of a character of its footnotes, and between two columns."""
NAME_POINTS = 95
"""Width of the first column where the headings are upright."""


def latex(table: Table) -> str:
    """A floating ``table`` with booktabs, or a ``longtable``. Nothing is scaled; :func:`latex_notes` has the notes."""

    def text(cell: Cell) -> str:
        shown = escape(cell.text)
        shown = rf"\textbf{{{shown}}}" if cell.best else shown
        if not cell.span:
            return shown
        lines = rf"{shown} \\ {{\scriptsize {escape(cell.span)}}}"
        return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{lines}\end{{tabular}}"

    first, *others = _headings(table)
    upright = any("rotatebox" in heading for heading in others)
    name = rf"p{{{NAME_POINTS}pt}}" if upright else "l"
    columns = rf"{{@{{}}{name}{'r' * len(others)}@{{}}}}"
    caption = rf"\caption{{{escape(' '.join(filter(None, [f'{table.title}.', table.size])))}}}"
    label = rf"\label{{tab:{table.name}}}"
    head = [r"\toprule", " & ".join([first, *others]) + r" \\", r"\midrule"]
    body = [" & ".join(map(text, row)) + r" \\" for row in table.rows]
    if upright:
        # Names may be broken after an underscore.
        body = [line.replace(r"\_", r"\_\allowbreak{}") for line in body]
    small = rf"\footnotesize\setlength{{\tabcolsep}}{{{2 if upright else 4}pt}}"
    if len(table.rows) > LONG_ROWS:
        begin = [f"{{{small}", rf"\begin{{longtable}}{columns}", rf"{caption}{label}\\", *head]
        lines = [*begin, r"\endfirsthead", *head, r"\endhead", *body, r"\bottomrule", r"\end{longtable}", "}"]
    else:
        begin = [
            r"\begin{table}",
            rf"\centering{small}",
            caption,
            label,
            rf"\begin{{tabular}}{columns}",
            *head,
        ]
        lines = [*begin, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join([*lines, ""])


def _headings(table: Table) -> list[str]:
    """The headings as LaTeX: a word to a line where they are too wide for the line, upright where words are, too."""

    def points(words: Sequence[Sequence[str]]) -> float:
        cells = list(zip(*table.rows, strict=True)) or [()] * len(words)
        widths = [
            max(map(len, [*of, *(cell.text for cell in column), *(cell.span for cell in column)]))
            for of, column in zip(words, cells, strict=True)
        ]
        return sum(width * CHARACTER_POINTS + GAP_POINTS for width in widths)

    words = [heading.split(" ") for heading in table.columns]
    first, *others = map(escape, table.columns)
    if points([[heading] for heading in table.columns]) <= LINE_POINTS:
        return [first, *others]
    if points(words) <= LINE_POINTS:
        stacked = [r" \\ ".join(map(escape, of)) for of in words[1:]]
        return [first, *(rf"\shortstack[r]{{{lines}}}" for lines in stacked)]
    return [first, *(rf"\rotatebox{{90}}{{{heading}}}" for heading in others)]


def latex_notes(shown: Sequence[Table]) -> str:
    """A section with the notes of all tables, each once: how they were computed, and from which votes."""
    notes = dict.fromkeys(note for table in shown for note in table.notes)
    items = [rf"\item {escape(note)}" for note in notes]
    head = [r"\section*{Notes on the tables}", r"\begin{itemize}\small\raggedright"]
    return "\n".join([*head, *items, r"\end{itemize}", ""])


def write_analysis(analysis: Analysis, folder: Path, realism: pd.DataFrame | None = None) -> list[Path]:
    """Writes the tables as Markdown and LaTeX, ``analysis.json`` and a tidy CSV per table; returns their paths.

    CSV and JSON hold unrounded values; every row of a CSV says in ``rater_kind`` whose votes it is made of.
    """
    folder = Path(folder)
    shown = tables(analysis, realism)
    kind = "simulated" if analysis.simulated else "human"
    head = (
        "% Needs, in the preamble: \\usepackage{booktabs,graphicx,longtable}\n"
        f"% How to read them: tables-notes.tex\n% Raters: {kind}\n"
    )
    title = "# Human preference" if not analysis.simulated else f"# {SIMULATED}preference"
    files = {
        "tables.md": "\n".join([title, "", *map(markdown, shown)]),
        "tables.tex": head + "\n".join(map(latex, shown)),
        "tables-notes.tex": latex_notes(shown),
        "analysis.json": json.dumps(analysis.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, frame in analysis.frames().items():
        said = frame.copy()
        said.insert(0, "rater_kind", [kind] * len(said))
        files[f"{name}.csv"] = csv_of(said)
    for name, text in files.items():
        write_atomic(folder / name, text.encode("utf-8"))
    return [folder / name for name in files]


# --- the tables --------------------------------------------------------------------------------------


class _View:
    """The rows of one selection of raters, and what every table says of them."""

    def __init__(self, analysis: Analysis, who: str) -> None:
        self.analysis, self.who = analysis, who
        self.mark = SIMULATED if analysis.simulated else ""
        self.note = analysis.statement
        counts = analysis.counts[analysis.counts["raters"] == who].iloc[0]
        self.size = f"{counts['n_votes']} votes of {counts['n_raters']} raters on {counts['n_sources']} source images."
        shares = self.rows("shares")
        self.questions = [q for q in dict.fromkeys(shares["question"]) if q != ALL]
        self.kinds = [k for k in KINDS if (shares["kind"] == k).any()]
        pooled = shares[_at(shares)].sort_values("share", ascending=False, kind="stable")
        self.methods = list(dict.fromkeys(pooled["method"]))

    def rows(self, name: str, **where: str) -> pd.DataFrame:
        frame = getattr(self.analysis, name)
        if not len(frame):
            return frame
        chosen = frame["raters"] == self.who
        for column, value in where.items():
            chosen &= frame[column] == value
        return frame[chosen]

    def scopes(self) -> list[tuple[str, str]]:
        """(question, how to call it): one by one where there are several, which are not pooled here."""
        if len(self.questions) < 2:
            return [(ALL, f", question “{self.questions[0]}”" if self.questions else "")]
        return [(question, f", question “{question}”") for question in self.questions]

    def table(
        self,
        name: str,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *notes: str,
    ) -> Table:
        return Table(
            name,
            self.mark + title,
            tuple(columns),
            tuple(map(tuple, rows)),
            (self.note, *(note for note in notes if note)),
            self.size,
        )


def _at(frame: pd.DataFrame, question: str = ALL, protocol: str = ALL, category: str = ALL) -> Any:
    return (frame["question"] == question) & (frame["protocol"] == protocol) & (frame["category"] == category)


def _by_data_set(view: _View, realism: pd.DataFrame | None) -> Iterator[Table]:
    """The shape of the paper's Table 1: realism and human preference, by data set and method."""
    shares = view.rows("shares")
    protocols = [p for p in dict.fromkeys(shares["protocol"]) if p != ALL]
    for kind in view.kinds:
        for question, said in view.scopes():
            columns, cells = ["method"], {method: [Cell(method)] for method in view.methods}
            for protocol in protocols:
                some = shares[_at(shares, question, protocol) & (shares["kind"] == kind)]
                if realism is not None:
                    of = realism[realism["protocol"] == protocol]
                    for metric in dict.fromkeys(of["metric"]):
                        values = dict(zip(of["method"], of["value"], strict=True))
                        columns.append(f"{protocol}: {metric} ↓")
                        least = min(
                            (v for m in view.methods if (v := _real(values.get(m))) is not None), default=None
                        )
                        for method in view.methods:
                            value = _real(values.get(method))
                            cells[method].append(
                                Cell(_decimals(value, 2), best=value is not None and value == least)
                            )
                columns.append(f"{protocol}: preference ↑ (%)")
                values = {row["method"]: row for row in some.to_dict("records")}
                most = max((row["of_all"] for row in values.values()), default=math.nan)
                for method in view.methods:
                    row = values.get(method)
                    cells[method].append(
                        _percent(row, "of_all", best=row["of_all"] == most) if row else Cell(MISSING)
                    )
            yield view.table(
                f"data-sets-{kind}" + (f"-{_slug(question)}" if question != ALL else ""),
                f"Preference by data set and method ({KINDS[kind]}{said})",
                columns,
                cells.values(),
                "Preference: share of all votes on the data set; adds up to 100 % over the methods.",
            )


def _preference(view: _View) -> Iterator[Table]:
    """The shape of the paper's Table 3: user preference by method, one column per question."""
    shares = view.rows("shares")
    for kind in view.kinds:
        asked = view.questions if len(view.questions) > 1 else [ALL]
        columns, cells = ["method"], {method: [Cell(method)] for method in view.methods}
        for question in asked:
            some = shares[_at(shares, question) & (shares["kind"] == kind)]
            values = {row["method"]: row for row in some.to_dict("records")}
            most = max((row["share"] for row in values.values()), default=math.nan)
            named = question if question != ALL else "preferred"
            columns += [f"{named} ↑ (%)", "n"]
            for method in view.methods:
                row = values.get(method)
                cells[method].append(
                    _percent(row, "share", best=row["share"] == most) if row else Cell(MISSING)
                )
                cells[method].append(Cell(str(row["n"]) if row else MISSING))
        yield view.table(
            f"preference-{kind}",
            f"User preference ({KINDS[kind]})",
            columns,
            cells.values(),
            "Share of the votes that showed the method (n): another figure than the share of all votes.",
        )


def _strengths(view: _View) -> Iterator[Table]:
    frame, fits = view.rows("strengths"), view.rows("fits")
    for question, said in view.scopes():
        some = frame[_at(frame, question)].sort_values("rank", kind="stable")
        fit = fits[_at(fits, question)].to_dict("records")
        if not fit:
            continue
        tie = fit[0]["tie"]
        rows = [
            (
                Cell(row["method"]),
                _value(row, "strength", best=row["rank"] == 1),
                _value(row, "behind") if row["rank"] != 1 else Cell(MISSING),
                Cell("yes" if row["separable"] else "no") if row["rank"] != 1 else Cell(MISSING),
            )
            for row in some.to_dict("records")
        ]
        nu = f"Davidson's ν {_decimals(tie, 2)}." if not math.isnan(tie) else ""
        yield view.table(
            "strengths" + (f"-{_slug(question)}" if question != ALL else ""),
            f"Bradley-Terry strengths, log odds{said}",
            ("method", "strength ↑", "behind the best", "separable from it"),
            rows,
            f"A difference of 1 is odds of 2.7 to 1. {nu}".strip(),
            fit[0]["note"],
        )


def _by_category(view: _View) -> Iterator[Table]:
    frame, fits = view.rows("strengths"), view.rows("fits")
    categories = [c for c in dict.fromkeys(frame["category"]) if c != ALL]
    if len(categories) < 2:
        return
    for question, said in view.scopes():
        cells = {method: [Cell(method)] for method in view.methods}
        notes = []
        for category in categories:
            some = frame[_at(frame, question, category=category)].to_dict("records")
            values = {row["method"]: row for row in some}
            for method in view.methods:
                row = values.get(method)
                cells[method].append(_value(row, "strength", best=row["rank"] == 1) if row else Cell(MISSING))
            for note in fits[_at(fits, question, category=category)]["note"]:
                notes.append(f"{category}: {note}" if note else "")
        yield view.table(
            "strengths-by-category" + (f"-{_slug(question)}" if question != ALL else ""),
            f"Bradley-Terry strengths by edit category{said}",
            ("method", *categories),
            cells.values(),
            *notes,
        )


def _wins(view: _View) -> Iterator[Table]:
    frame = view.rows("wins")
    for kind in view.kinds:
        for question, said in view.scopes():
            some = frame[_at(frame, question) & (frame["kind"] == kind)].to_dict("records")
            values = {(row["method"], row["against"]): row for row in some}
            rows = []
            for method in view.methods:
                cells = [Cell(method)]
                for other in view.methods:
                    row = values.get((method, other))
                    counts = f"{row['wins']}/{row['ties']}/{row['losses']}" if row else ""
                    cells.append(Cell(_decimals(100 * row["share"], 1), counts) if row else Cell(MISSING))
                rows.append(cells)
            yield view.table(
                f"wins-{kind}" + (f"-{_slug(question)}" if question != ALL else ""),
                f"How often the row's method was preferred to the column's, % ({KINDS[kind]}{said})",
                ("method", *view.methods),
                rows,
                "Below each share: wins/ties/losses.",
            )


def _quality(analysis: Analysis, view: _View) -> Table:
    """Agreement, consistency, place and attention, with all raters and with those kept."""
    sides = [name for name in ("all", "kept") if (analysis.counts["raters"] == name).any()]
    lines: dict[str, dict[str, Cell]] = {}

    def put(label: str, side: str, cell: Cell) -> None:
        lines.setdefault(label, {})[side] = cell

    for row in analysis.counts.to_dict("records"):
        put("raters", row["raters"], Cell(str(row["n_raters"])))
        put("votes", row["raters"], Cell(str(row["n_votes"])))
    for row in analysis.agreement.to_dict("records"):
        label = f"Krippendorff's α, {row['kind']}, {row['level']}"
        put(label, row["raters"], _value(row, "alpha", plain=True))
        if row["level"] == "nominal":
            label = f"agreeing pairs of raters, {row['kind']} (%)"
            put(label, row["raters"], Cell(_decimals(100 * row["agreement"], 1)))
    for row in analysis.consistency.to_dict("records"):
        if row["kind"] == ALL:
            what = "the same" if row["measure"] == "same" else "reversed"
            put(f"repeated trials answered {what} (%)", row["raters"], _percent(row, "share"))
    for row in analysis.positions.to_dict("records"):
        if row["position"] == 0:
            label = f"leftmost of {row['candidates']} chosen, {row['kind']} (%)"
            put(label, row["raters"], _percent(row, "share"))
            p = "< 0.001" if row["p"] < 0.001 else _decimals(row["p"], 3)
            put(f"p of no effect of the place, {row['kind']} of {row['candidates']}", row["raters"], Cell(p))
    for row in analysis.attention.to_dict("records"):
        put("attention checks failed (%)", row["raters"], _percent(row, "share"))
    rows = [
        (Cell(label), *(cells.get(side, Cell(MISSING)) for side in sides)) for label, cells in lines.items()
    ]
    heading = {"all": "all raters", "kept": "raters kept"}
    out = analysis.raters[analysis.raters["excluded"]]
    reasons = [f"{row['rater']}: {row['why']}." for row in out.to_dict("records")[:20]]
    more = [f"And {len(out) - 20} more (raters.csv)."] if len(out) > 20 else []
    return view.table(
        "quality",
        "Agreement, consistency and attention",
        ("", *(heading[side] for side in sides)),
        rows,
        f"Excluded: {len(out)} of {len(analysis.raters)} raters. {' '.join([*reasons, *more])}".strip(),
        *analysis.notes,
    )


def _effect(view: _View) -> Table:
    effect = view.analysis.effect
    several = len(view.kinds) > 1
    rows = []
    for row in effect[_at(effect)].sort_values("share_all", ascending=False).to_dict("records"):
        sides = [
            _percent({"share": row[f"share_{s}"], "low": row[f"low_{s}"], "high": row[f"high_{s}"]}, "share")
            for s in ("all", "kept")
        ]
        label = f"{row['method']} ({row['kind']})" if several else row["method"]
        change = row["change"]
        sign = "" if math.isnan(change) or round(100 * change, 1) < 0 else "+"
        rows.append((Cell(label), *sides, Cell(sign + _decimals(100 * change, 1))))
    return view.table(
        "exclusion",
        "Preference with all raters and with those kept by the rule, %",
        ("method", "all raters", "raters kept", "change"),
        rows,
    )


def _correlation(view: _View) -> Iterator[Table]:
    frame = view.rows("correlation")
    if not len(frame):
        return
    heading = {
        "agreement": "agreement (%)",
        "kendall": "pairs τ",
        "spearman": "pairs ρ",
        "method_kendall": "methods τ",
        "method_spearman": "methods ρ",
    }
    categories = [ALL, *(c for c in dict.fromkeys(frame["category"]) if c != ALL)]
    for category in categories if len(categories) > 2 else [ALL]:
        some = frame[_at(frame, category=category)]
        values = {(row["metric"], row["measure"]): row for row in some.to_dict("records")}
        rows = []
        for metric in dict.fromkeys(some["metric"]):
            cells = [Cell(str(metric))]
            for measure in heading:
                row = values.get((metric, measure))
                if row is None:
                    cells.append(Cell(MISSING))
                else:
                    cells.append(
                        _percent(row, "value") if measure == "agreement" else _value(row, "value", plain=True)
                    )
            rows.append(cells)
        said = f", category {category}" if category != ALL else ""
        yield view.table(
            "metrics" + (f"-{_slug(category)}" if category != ALL else ""),
            f"Automatic metrics against the votes{said}",
            ("metric", *heading.values()),
            rows,
            "Agreement: of votes that are no tie, how often the edit with the better value was preferred; 50 % is a "
            "coin. Pairs: over votes. Methods: mean value against Bradley-Terry strength.",
        )


# --- cells -------------------------------------------------------------------------------------------


def _real(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _decimals(value: Any, decimals: int) -> str:
    number = _real(value)
    if number is None or math.isinf(number):
        return MISSING
    text = f"{number:.{decimals}f}"
    # A rounded negative nothing is nothing.
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


def _span(low: Any, high: Any, decimals: int) -> str:
    if _real(low) is None and _real(high) is None:
        return MISSING
    if _real(high) is None:
        return f"{_decimals(low, decimals)} or more"
    if _real(low) is None:
        return f"{_decimals(high, decimals)} or less"
    dash = "–" if low >= 0 else " to "
    return f"{_decimals(low, decimals)}{dash}{_decimals(high, decimals)}"


def _percent(row: dict[str, Any], column: str, *, best: bool = False) -> Cell:
    prefix = f"{column}_" if f"{column}_low" in row else ""
    if _real(row[column]) is None:
        return Cell(MISSING)
    ends = [row[f"{prefix}{end}"] for end in ("low", "high")]
    scaled = [None if _real(end) is None else 100 * end for end in ends]
    return Cell(_decimals(100 * row[column], 1), _span(scaled[0], scaled[1], 1), best)


def _value(row: dict[str, Any], column: str, *, best: bool = False, plain: bool = False) -> Cell:
    prefix = f"{column}_" if f"{column}_low" in row and not plain else ""
    if _real(row[column]) is None:
        return Cell(MISSING)
    return Cell(_decimals(row[column], 2), _span(row[f"{prefix}low"], row[f"{prefix}high"], 2), best)


def _escaped(text: str) -> str:
    for char in "\\`*_|<>[]":
        text = text.replace(char, "\\" + char)
    return text


def _slug(text: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in text.lower()).strip("-")

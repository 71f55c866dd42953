"""LaTeX tables: well-formed, compiled as they are, and read back from the PDF."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.tables import latex
from bench.tables.style import Style
from bench.tables.table import Cell, Column, Row, Table
from tests.bench.tables.examples import WORDS

COLUMNS = (
    Column(
        "success", "success_truth", higher_is_better=True, percent=True, decimals=1, group="success (truth)"
    ),
    Column("leak LPIPS", "leak_lpips", higher_is_better=False, decimals=3, group="leakage"),
    Column("CLIP direction", "clip_directional", higher_is_better=True, decimals=2, group="leakage"),
)
TABLE = Table(
    "main-x",
    "x & y: all_categories 100 %",
    COLUMNS,
    (
        Row(
            "a_b",
            False,
            (
                Cell(0.5, 0.25, 0.75, 9, best=True),
                Cell(0.216, 0.1, 0.3, 9, second=True, dagger=True),
                Cell(-0.05),
            ),
            9,
            0,
        ),
        Row("c|d <e>", False, (Cell(None), Cell(0.153, 0.1, 0.2, 8, best=True), Cell(12.34)), 8, 1),
        Row("copy_input", True, (Cell(0.0, 0.0, 0.0, 9), Cell(-1e-9, None, None, 9), Cell(0.5)), 9, 0),
    ),
    ("A note with 95 % & an_underscore; † p ≥ .05.",),
)
STYLES = [
    Style(intervals=intervals, layout=layout)  # type: ignore[arg-type]
    for intervals in ("brackets", "plus-minus", "none")
    for layout in ("one-column", "two-column")
]


def cells(line: str) -> int:
    """Columns that a line of a table fills."""
    bare = re.sub(r"\\begin\{tabular\}\[b\].*?\\end\{tabular\}", "stack", line)
    spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", bare)]
    return len(re.split(r"(?<!\\)&", bare)) + sum(spans) - len(spans)


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_every_row_has_as_many_cells_as_columns(style: Style) -> None:
    text = latex.table(TABLE, style)
    kinds = re.search(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)
    assert kinds is not None
    bare = re.sub(r"@\{[^}]*\}|>\{[^}]*\}|\[[^\]]*\]", "", kinds[1])
    rows = [line for line in text.splitlines() if re.search(r" \\\\(\*?(\[-[\d.]+pt\])?)?$", line)]
    # Two lines of heads, three of values, one that says "controls"; below two of values, their intervals.
    assert len(rows) == 2 + 3 + 1 + (2 if style.intervals == "brackets" else 0)
    assert {cells(row) for row in rows} == {len(bare)}


def test_marks_escapes_and_alignment() -> None:
    text = latex.table(TABLE)
    assert r"x \& y: all\_categories 100 \%" in text
    assert r"a\_b & \bfseries 50.0 & 0.216 {\pebsecond{$0.216$}\pebdagger} & -0.05" in text
    assert r"c$|$d $<$e$>$ & {--} & \bfseries 0.153 & 12.34" in text
    assert "S[table-format=2.1]S[table-format=1.3]S[table-format=-2.2]" in text
    assert r"{\scriptsize [25.0, 75.0]}" in text
    assert r"\multicolumn{1}{c}{success (truth)} & \multicolumn{2}{c}{leakage}" in text
    assert r"\cmidrule(lr){2-2}\cmidrule(lr){3-4}" in text
    assert text.count(r"\midrule") == 2  # under the head, and before the controls
    assert r"$^{\dagger}$: not separable from the best (p $\ge$ .05)" in text
    assert "≥" not in text
    assert "A note" not in text
    for opened, closed in ("{}", "[]"):
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count(opened) == bare.count(closed)


def test_plus_minus_stands_beside_the_value_with_its_dagger() -> None:
    text = latex.table(TABLE, Style(intervals="plus-minus"))
    assert (
        r"\bfseries 50.0 & $\pm25.0$ & 0.216 {\pebsecond{$0.216$}} & $^{+0.084}_{-0.116}$\pebdagger" in text
    )
    assert r"\multicolumn{3}{c}{leakage}" in text


def test_counts_are_shown_where_they_say_something() -> None:
    assert "{$n$} & {failed}" in latex.table(TABLE)
    same = replace(TABLE, rows=tuple(replace(row, n=9, failed=0) for row in TABLE.rows))
    assert "{$n$}" not in latex.table(same)
    assert "{failed}" not in latex.table(same)
    assert "{$n$}" not in latex.table(replace(TABLE, counts=()))


def test_a_short_caption_says_what_the_table_itself_must_say() -> None:
    assert r"(p $\ge$ .05). Not measured here.}" in latex.table(replace(TABLE, caption="Not measured here."))
    full = latex.table(replace(TABLE, provenance=("Seed 7.",)), Style(captions="full"))
    assert r"n = 8 to 9. A note with 95 \% \& an\_underscore; $^{\dagger}$ p $\ge$ .05. Seed 7.}" in full


def test_the_sign_for_overlap_stands_in_the_body_and_in_the_caption() -> None:
    tied = replace(TABLE.rows[1], cells=(Cell(0.4, 0.3, 0.6, 9, tie=True), *TABLE.rows[1].cells[1:]))
    text = latex.table(replace(TABLE, rows=(TABLE.rows[0], tied)))
    assert r"c$|$d $<$e$>$ & 40.0 {\pebtie{$40.0$}} & \bfseries 0.153" in text
    assert r"$\approx$: overlaps the best one's interval" in text
    assert r"\pebtie" not in latex.table(TABLE)


def test_n_is_said_where_it_is_another_than_the_rows() -> None:
    first = replace(TABLE.rows[0], cells=(Cell(0.5, n=9), Cell(0.2, n=2), Cell(0.1, n=9)))
    second = replace(TABLE.rows[1], n=9, cells=(Cell(0.5, n=9), Cell(0.2, n=2), Cell(0.1, n=5)))
    text = latex.table(replace(TABLE, rows=(first, second)))
    assert (
        r"{\begin{tabular}[b]{@{}c@{}}leak \\ LPIPS $\downarrow$ \\ {\scriptsize $n=2$}\end{tabular}}" in text
    )
    assert "n = 9 unless the heading says another; of some values: CLIP direction 5." in text


def test_tiny_values_have_digits_of_their_own() -> None:
    cells = [Cell(1.1e-5, 0.9e-5, 1.3e-5, 4, best=True), Cell(4.04e-5, n=4, second=True), Cell(0.02, n=4)]
    column = Column("leak MSE", "leak_mse", higher_is_better=False, decimals=4)
    rows = tuple(Row(str(i), False, (cell,), 4, 0) for i, cell in enumerate(cells))
    text = latex.table(Table("t", "t", (column,), rows))
    assert r"0 & {\boldmath$1.1\cdot10^{-5}$}" in text
    assert r"{\scriptsize [$9.0\cdot10^{-6}$, $1.3\cdot10^{-5}$]}" in text
    assert r"1 & {$4.0\cdot10^{-5}$\pebsecond{$4.0\cdot10^{-5}$}}" in text
    assert "2 & 0.0200" in text


def test_texts_and_spans_stand_instead_of_numbers_and_intervals() -> None:
    text = latex.table(WORDS)
    # A column of words is no column of siunitx.
    assert r"\begin{tabular}{@{}lS[table-format=2.1]S[table-format=-1.2]r@{}}" in text
    assert r"c & 25.0 & -0.50 & {no} \\*[-2.5pt]" in text
    assert r" & {\scriptsize 3/1/8} & {\scriptsize [$-0.70$, $-0.30$]} &  \\[-0.5pt]" in text
    assert "{\\scriptsize 0.40 or more}" in text
    assert r"preferred. In brackets: 95 \% intervals. Bold: the best. 12 votes of 4 raters.}" in text
    assert r"In brackets: 90 \% intervals." in latex.table(replace(WORDS, level=0.9))


NAMED = replace(
    TABLE,
    rows=(
        replace(TABLE.rows[0], display="Ours", cite="smith2026", group="mask-based"),
        replace(TABLE.rows[1], label="[theirs]", group="mask-free"),
        TABLE.rows[2],
    ),
)


def test_methods_have_their_names_citations_and_groups() -> None:
    lines = latex.table(NAMED, Style(intervals="none")).splitlines()
    first = lines.index(r"\midrule")
    starts = [line.partition(" &")[0] for line in lines[first : lines.index(r"\bottomrule")]]
    assert starts == [
        r"\midrule",
        r"\multicolumn{6}{@{}l}{\emph{mask-based}} \\*",
        r"Ours~\cite{smith2026}",
        r"\midrule",
        r"\multicolumn{6}{@{}l}{\emph{mask-free}} \\*",
        "{[}theirs{]}",
        r"\midrule",
        r"\multicolumn{6}{@{}l}{\emph{controls}} \\*",
        r"copy\_input",
    ]


def test_names_that_cannot_be_printed_are_warned_of() -> None:
    odd = replace(TABLE, rows=(replace(TABLE.rows[0], label="方法 A"), TABLE.rows[2]))
    (warning,) = latex.warnings([odd, odd])
    assert "'方' (U+65B9), '法' (U+6CD5) in '方法 A'" in warning
    assert "Give the method a display" in warning
    assert r"U+65B9U+6CD5 A &" in latex.table(odd)
    assert not latex.warnings([TABLE])


def test_what_other_tables_show_stands_in_no_second_one() -> None:
    part = replace(
        TABLE, name="part", columns=COLUMNS[:1], rows=tuple(replace(r, cells=r.cells[:1]) for r in TABLE.rows)
    )
    fewer = replace(part, name="fewer", rows=part.rows[:2])
    text = latex.every([TABLE, part, fewer])
    assert re.findall(r"label\{tab:(.*?)\}", text) == ["main-x", "fewer"]
    assert "% In files of their own, since other tables have all of their columns: part\n" in text


def test_wide_tables_span_the_page_only_in_two_columns() -> None:
    narrow, wide = replace(TABLE, columns=COLUMNS[:1]), times(4)
    assert r"\begin{table}" in latex.table(narrow, Style(layout="two-column"))
    assert r"\begin{table*}" in latex.table(wide, Style(layout="two-column"))
    one = latex.table(wide, Style(layout="one-column"))
    assert r"\begin{table}" in one
    assert r"\begin{table*}" not in one


def times(columns: int, rows: int = 1) -> Table:
    """The table again and again, sideways and downwards."""
    lines = [
        replace(row, label=f"{row.label} {k}", cells=row.cells * columns)
        for k in range(rows)
        for row in TABLE.rows[:2]
    ]
    return replace(
        TABLE,
        columns=COLUMNS * columns,
        rows=(*lines, replace(TABLE.rows[2], cells=TABLE.rows[2].cells * columns)),
    )


def test_a_table_that_is_too_wide_is_cut_and_not_scaled() -> None:
    text = latex.table(times(6))
    assert "resizebox" not in text
    assert re.findall(r"\((\d) of 3\)", text) == ["1", "2", "3"]
    assert re.findall(r"label\{(.*?)\}", text) == ["tab:main-x", "tab:main-x-2", "tab:main-x-3"]
    values = [line.count("0.216") for line in text.splitlines() if line.startswith(r"a\_b")]
    # Six times, and each a second time for the width of its line.
    assert values == [4, 4, 4]


def test_a_table_that_is_too_long_goes_over_several_pages() -> None:
    text = latex.table(times(1, rows=60))
    assert r"\begin{longtable}" in text
    assert r"\begin{table" not in text
    assert all(rf"a\_b {k} &" in text for k in range(60))
    # It cannot stand in one of two columns.
    assert text.startswith(r"\onecolumn")
    assert not latex.table(times(1, rows=60), Style(layout="one-column")).startswith(r"\onecolumn")
    assert "longtable" not in latex.table(times(1, rows=10))


def tex_file(name: str) -> bool:
    if shutil.which("kpsewhich") is None:
        return False
    return subprocess.run(["kpsewhich", name], capture_output=True, check=False).returncode == 0


def compile_pdf(folder: Path, document: str) -> Path:
    (folder / "t.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Undefined control sequence" not in done.stdout
    return folder / "t.pdf"


needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None or not tex_file("booktabs.sty"),
    reason="pdflatex with booktabs is not installed (texlive-latex-extra)",
)


@needs_latex
@pytest.mark.skipif(not tex_file("siunitx.sty"), reason="siunitx.sty is not installed (texlive-science)")
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed (poppler-utils)")
@pytest.mark.parametrize("style", STYLES, ids=str)
def test_the_tables_compile_and_the_pdf_says_what_they_say(tmp_path: Path, style: Style) -> None:
    pdf = compile_pdf(tmp_path, latex.document(latex.HEAD + latex.table(TABLE, style), style))
    done = subprocess.run(
        ["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True, timeout=60
    )
    # Computer Modern draws the underscore as a rule, which is no letter.
    text = re.sub(r"\s+", "", done.stdout).replace("−", "-")
    for text_part in ("50.0", "0.216", "0.153", "-0.05", "12.34", "copyinput", "categories100%", "leakage"):
        assert text_part in text
    if style.intervals == "brackets":
        assert "[25.0,75.0]" in text
    if style.intervals == "plus-minus":
        assert "±25.0" in text


@needs_latex
@pytest.mark.skipif(not tex_file("siunitx.sty"), reason="siunitx.sty is not installed (texlive-science)")
@pytest.mark.parametrize("style", STYLES, ids=str)
def test_nothing_is_wider_than_its_place(tmp_path: Path, style: Style) -> None:
    long_names = replace(NAMED, rows=tuple(replace(row, display=20 * "a long name ") for row in NAMED.rows))
    tables = [
        TABLE,
        NAMED,
        long_names,
        times(2),
        times(3),
        times(6),
        times(4, rows=60),
        replace(times(2), counts=()),
    ]
    pdf = compile_pdf(
        tmp_path, latex.document(latex.every(tables, style) + latex.notes(tables, style), style)
    )
    assert "Overfull" not in pdf.with_suffix(".log").read_text(errors="replace")


@needs_latex
@pytest.mark.parametrize("style", STYLES, ids=str)
def test_the_tables_compile_without_siunitx_too(tmp_path: Path, style: Style) -> None:
    """Everything but siunitx's own alignment: a plain right-aligned column stands in for its."""
    document = latex.document(latex.HEAD + latex.table(TABLE, style), style)
    plain = re.sub(r"S\[table-format=[^\]]*\]", "r", document.replace(",siunitx", ",array"))
    plain = plain.replace(r"\begin{document}", "\\providecommand{\\sisetup}[1]{}\n\\begin{document}")
    assert compile_pdf(tmp_path, plain).stat().st_size > 5000

"""LaTeX tables: well-formed, compiled as they are, and read back from the PDF."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reports import latex
from reports.style import Style
from reports.tables import Cell, Column, Row, Table

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
    bare = re.sub(r"\\begin\{tabular\}\[b\].*?\\end\{tabular\}", "stack", line.removesuffix(r" \\[2pt]"))
    spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", bare)]
    return len(re.split(r"(?<!\\)&", bare)) + sum(spans) - len(spans)


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_every_row_has_as_many_cells_as_columns(style: Style) -> None:
    text = latex.table(TABLE, style)
    kinds = re.search(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)
    assert kinds is not None
    bare = re.sub(r"@\{[^}]*\}|>\{[^}]*\}|\[[^\]]*\]", "", kinds[1])
    rows = [line for line in text.splitlines() if re.search(r" \\\\(\[2pt\])?$", line)]
    assert len(rows) == 2 + 3 + (2 if style.intervals == "brackets" else 0)
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
    assert r"$^{\dagger}$ p $\ge$ .05" in text
    assert "≥" not in text
    for opened, closed in ("{}", "[]"):
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count(opened) == bare.count(closed)


def test_plus_minus_stands_beside_the_value_with_its_dagger() -> None:
    text = latex.table(TABLE, Style(intervals="plus-minus"))
    assert r"0.216 {\pebsecond{$0.216$}} & $\pm$\,0.100\pebdagger" in text
    assert r"\multicolumn{3}{c}{leakage}" in text


def test_counts_are_shown_where_they_say_something() -> None:
    assert "{$n$} & {failed}" in latex.table(TABLE)
    same = replace(TABLE, rows=tuple(replace(row, n=9, failed=0) for row in TABLE.rows))
    assert "{$n$}" not in latex.table(same)
    assert "{failed}" not in latex.table(same)
    assert "{$n$}" not in latex.table(replace(TABLE, counts=()))


def test_the_caption_is_the_tables_own() -> None:
    assert r"\caption{n = 9, torch 1.}" in latex.table(replace(TABLE, caption="n = 9, torch 1."))


def test_wide_tables_span_the_page_only_in_two_columns() -> None:
    wide = replace(
        TABLE, columns=COLUMNS * 4, rows=tuple(replace(row, cells=row.cells * 4) for row in TABLE.rows)
    )
    assert r"\begin{table*}" in latex.table(wide, Style(layout="two-column"))
    one = latex.table(wide, Style(layout="one-column"))
    assert r"\begin{table}" in one
    assert r"\resizebox{\linewidth}{!}" in one


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
    for shown in ("50.0", "0.216", "0.153", "-0.05", "12.34", "copyinput", "categories100%", "leakage"):
        assert shown in text
    if style.intervals == "brackets":
        assert "[25.0,75.0]" in text
    if style.intervals == "plus-minus":
        assert "±25.0" in text or "±\n25.0" in text


@needs_latex
@pytest.mark.parametrize("style", STYLES, ids=str)
def test_the_tables_compile_without_siunitx_too(tmp_path: Path, style: Style) -> None:
    """Everything but siunitx's own alignment: a plain right-aligned column stands in for its."""
    document = latex.document(latex.HEAD + latex.table(TABLE, style), style)
    plain = re.sub(r"S\[table-format=[^\]]*\]", "r", document.replace(",siunitx", ",array"))
    plain = plain.replace(r"\begin{document}", "\\providecommand{\\sisetup}[1]{}\n\\begin{document}")
    assert compile_pdf(tmp_path, plain).stat().st_size > 5000

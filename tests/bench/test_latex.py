"""Escaping of characters for LaTeX, also as pdflatex compiles it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench import latex

LABELS = {
    "[ours] A": "{[}ours{]} A",
    "*best*": "{*}best{*}",
    "a_b & 100 % #1 {x} $y$": r"a\_b \& 100 \% \#1 \{x\} \$y\$",
    r"C:\x~y^z": r"C:\textbackslash{}x\textasciitilde{}y\textasciicircum{}z",
    "a--b '' `c`": r"a-{}-b '{}' \textasciigrave{}c\textasciigrave{}",
    "λ = 0.5 ≥ β": r"$\lambda$ = 0.5 $\ge$ $\beta$",
    "έ Fréchet, Łódź, ÿ": r"$\acute{\varepsilon}$ Fr\'{e}chet, \L{}\'{o}d\'{z}, \"{y}",
    "two\nlines\tand\u200b an invisible one": "two lines and an invisible one",
    "中文 🎨\ufe0f": "U+4E2DU+6587 U+1F3A8",
    "half \ud83d": "half U+D83D",
}


@pytest.mark.parametrize(("text", "written"), LABELS.items())
def test_a_label_is_written_as_text(text: str, written: str) -> None:
    assert latex.escape(text) == written


def test_what_cannot_be_printed_is_named_once() -> None:
    assert latex.unprintable(["中文中", "🎨\ufe0f é Ω", "Ж"]) == ["中", "文", "🎨", "Ж"]
    assert latex.unprintable(["all of it: é, Ω, ≥, \u200b [x]"]) == []


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_character_compiles_at_the_start_of_a_row(tmp_path: Path) -> None:
    rows = [latex.escape(text) + r" & 1 \\" for text in (*LABELS, *latex._TEXT)]
    body = "\n".join([r"\begin{tabular}{lr}", r"0 & 0 \\", *rows, r"\end{tabular}"])
    document = "\n".join([r"\documentclass{article}", r"\begin{document}", body, r"\end{document}"])
    (tmp_path / "t.tex").write_text(document, encoding="ascii")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-1000:]
    assert b"Missing character" not in (tmp_path / "t.log").read_bytes()

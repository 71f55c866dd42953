"""An analysis as tables to read, and as a folder of Markdown, LaTeX, CSV and JSON.

Every table says how many votes and raters it is made of, which rule left raters out and, where raters were simulated,
that they were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench.files import csv_of, write_atomic
from bench.study.votes import quality_tables, result_tables
from bench.study.votes.analysis import Analysis
from bench.study.votes.view import View
from bench.tables import latex, markup
from bench.tables.table import Table, notes

if TYPE_CHECKING:
    pass


def tables(analysis: Analysis) -> list[Table]:
    """All tables of an analysis, of the raters kept (of all, where the rule keeps nobody)."""
    # What a paper shows comes first, then what a reader needs to trust it.
    view = View(analysis)
    return [
        *result_tables.by_data_set(view),
        *result_tables.preference(view),
        *result_tables.ratings(view),
        *result_tables.both_bad(view),
        *result_tables.strengths(view),
        *result_tables.strengths_by_category(view),
        *result_tables.wins(view),
        quality_tables.quality(view),
        *quality_tables.exclusion_effect(view),
        *quality_tables.correlations(view),
    ]


def write_analysis(analysis: Analysis, folder: Path) -> list[Path]:
    """Writes the tables as Markdown and LaTeX, ``analysis.json`` and a tidy CSV per table. Returns their paths.

    CSV and JSON hold unrounded values. Every row of a CSV says in ``rater_kind`` whose votes it is made of.
    """
    # Texts of the tables. Each says whose votes they are: a file is often passed on alone.
    folder = Path(folder)
    finished = tables(analysis)
    kind = analysis.rater_kind
    remark = f"% Raters: {kind}\n"
    title = f"# {analysis.warning}preference" if analysis.warning else "# Human preference"
    files = {
        "tables.md": "\n".join([title, "", *map(_markdown, finished)]),
        "tables.tex": f"{remark}% How to read the tables: tables-notes.tex\n{latex.every(finished)}",
        "tables-notes.tex": remark + latex.notes(finished),
        "tables-document.tex": remark + latex.document("\\input{tables}\n\\clearpage\n\\input{tables-notes}"),
        "analysis.json": json.dumps(analysis.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }

    # Unrounded values.
    for name, frame in analysis.frames().items():
        # A study of pairs has no ratings, and a study of ratings no pairs.
        if frame.empty:
            continue
        marked = frame.copy()
        marked.insert(0, "rater_kind", [kind] * len(marked))
        files[f"{name}.csv"] = csv_of(marked)
    for name, text in files.items():
        write_atomic(folder / name, text.encode("utf-8"))
    return [folder / name for name in files]


def _markdown(table: Table) -> str:
    """A table with its notes below it, so that it can be copied alone."""
    lines = [f"{markup.escape_markdown(note)}  " for note in notes([table])]
    return "\n".join([markup.markdown(table), *lines, ""])

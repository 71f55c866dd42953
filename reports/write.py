"""Writes the report of a run: tables, statistics and figures.

::

    report/README.md       which file holds what
    report/provenance.md   data, weights, steps, seed, versions
    report/index.html      the page, with its files in page/ beside it
    report/tables/         tables.md, tables.html, tables.tex (with tables-notes.tex, tables-document.tex),
                           and NAME.csv and NAME.tex of each table
    report/figures/        NAME.pdf and NAME.png of each figure, figures.tex, grid.png
    report/data/           summary.csv, comparisons.csv, validity.csv
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.files import csv_of, sha256_file
from bench.registry import did_you_mean
from bench.tables import latex, markup
from bench.tables.style import Style
from bench.tables.table import Table, notes
from reports.build import ReportContent, compute
from reports.data.metrics import OWN_METRICS, heading
from reports.data.report_data import ReportError
from reports.figures.write import ReportFigure, write_figures
from reports.tables.provenance import provenance_page, sentences

if TYPE_CHECKING:
    import pandas as pd

    from bench.metrics.types import MetricInfo
    from bench.store import RunStore
    from reports.data.preference import StudyResults
    from reports.tables.paper import Paper


@dataclass(frozen=True, eq=False)
class ReportFiles:
    """The files of a report, and what they show."""

    directory: Path
    # All but the images.
    files: tuple[Path, ...]
    images: tuple[Path, ...]
    # Name and caption of each figure. The overview ``grid.png`` is none of them.
    figures: tuple[ReportFigure, ...]
    tables: tuple[Table, ...]
    summary: pd.DataFrame
    # For the terminal: where n is too small for a conclusion, and facts that the paper does not state.
    warnings: tuple[str, ...]


def write_report(
    store: RunStore,
    metrics: Mapping[str, MetricInfo],
    *,
    style: Style | None = None,
    paper: Paper | None = None,
    study: StudyResults | None = None,
    baseline: str | None = None,
    cases: Sequence[str] = (),
    with_figures: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> ReportFiles:
    """Writes ``report/`` of a run. The module's docstring lists the files.

    ``metrics``: metric -> its declaration. ``paper``: adds the values that it reported. ``study``: adds its votes.
    ``baseline``: method that the others are compared with, by default the first one that is no control. ``cases``: ids
    for a further grid of edits, per protocol that has any of them.

    Raises :class:`ReportError` where nothing is scored or a case is not in the run, ``StyleError``, ``PaperError``,
    ``VoteError``, ``StatisticsError`` and ``StoreError``.
    """
    # Everything is computed before anything is written: a refused option leaves the old report as it is.
    style = style or Style()
    check_cases(store, cases)
    report = compute(
        store, metrics, style=style, paper=paper, study=study, baseline=baseline, extras=True,
        resamples=resamples, seed=seed,
    )  # fmt: skip
    files = _write(store, _texts(store, report, style))

    # Figures, then the files of an earlier report that this one does not have.
    images: list[Path] = []
    figures: list[ReportFigure] = []
    if with_figures:
        images, figures = write_figures(store, report, cases)
        floats = (latex.figure(one.name, one.caption, wide=one.wide) for one in figures)
        files += _write(store, {"figures/figures.tex": "\n".join([latex.HEAD_OF_FIGURES, *floats])})
        _remove_stale(store, [*files, *images])

    # Warnings of all tables, each once. The terminal shows the main tables alone, without captions.
    too_small = [warning for table in report.tables for warning in table.too_small]
    gaps = [] if paper is None else paper.gaps
    warnings = dict.fromkeys([*too_small, *latex.warnings(report.tables), *gaps])
    return ReportFiles(
        store.report_dir,
        tuple(files),
        tuple(images),
        tuple(figures),
        report.tables,
        report.data.frame,
        tuple(warnings),
    )


def check_cases(store: RunStore, cases: Sequence[str]) -> None:
    """Raises :class:`ReportError` for an id that no protocol of the run has."""
    ids = [row["id"] for protocol in store.protocols() for row in store.cases(protocol).rows]
    for case in cases:
        if case not in ids:
            hint = did_you_mean(case, ids) or " The page's gallery shows the ids."
            raise ReportError(f"--case: the run has no case {case!r}.{hint}")


def _write(store: RunStore, texts: Mapping[str, str]) -> list[Path]:
    return [
        store.write_file(f"report/{name}", text.encode(), f"report/{name}") for name, text in texts.items()
    ]


def _texts(store: RunStore, report: ReportContent, style: Style) -> dict[str, str]:
    """File name below ``report/`` -> content, of every file but the figures."""
    tables = report.tables
    texts = {
        "README.md": readme(store.path.name),
        "provenance.md": provenance_page(store),
        "tables/tables.md": _markdown_page(store, report, style),
        "tables/tables.html": markup.html_page(f"{store.path.name}: tables", tables, style),
        "tables/tables.tex": latex.every(tables, style),
        "tables/tables-notes.tex": latex.notes(tables, style),
        # \clearpage prints the floats that still wait, before the notes begin.
        "tables/tables-document.tex": latex.document(
            "\\input{tables}\n\\clearpage\n\\input{tables-notes}", style
        ),
        # CSV for computing, LaTeX for one table alone in a paper.
        **{f"tables/{table.name}.csv": markup.csv_text(table) for table in tables},
        **{f"tables/{table.name}.tex": latex.file(table, style) for table in tables},
        "data/summary.csv": csv_of(report.data.frame),
    }
    for name, frame in (("comparisons", report.comparisons), ("validity", report.validity)):
        if frame is not None and len(frame):
            texts[f"data/{name}.csv"] = csv_of(frame)
    return texts


README = """# Report of {name}

Open `index.html` in a browser: tables, gallery and viewer. It needs no server. All other files are listed here.

| file | content |
|:--|:--|
| `tables/tables.md`, `tables/tables.html` | every table, to read |
| `tables/tables.tex` | every table for a paper; `tables-notes.tex` explains them, `tables-document.tex` compiles both |
| `tables/NAME.tex`, `tables/NAME.csv` | one table each; the CSV has unrounded values |
| `figures/NAME.pdf`, `figures/NAME.png` | one figure each. `figures.tex` has all of them with captions |
| `figures/grid.png` | overview: source, mask and every method's edit |
| `data/summary.csv` | every mean with its 95 % interval, n and number of failed edits |
| `data/comparisons.csv` | every method against the baseline: differences, tests, effect sizes |
| `data/validity.csv` | agreement of each metric with the ground truth and with votes |
| `provenance.md` | data, weights, sampler steps, seed, versions |
| `report.json` | the options of this report, from which `run_bench.py verify` builds it again |
"""


def readme(name: str) -> str:
    return README.format(name=name)


def _markdown_page(store: RunStore, report: ReportContent, style: Style) -> str:
    """Every table, the notes once, and the meaning of each metric in one line."""
    # One line per metric that any table shows.
    # A plug-in may declare a metric of the same name, and then describes it.
    infos = {**OWN_METRICS, **report.data.metrics}
    columns = dict.fromkeys(column.metric for table in report.tables for column in table.columns)
    legend = [
        f"- **{heading(metric)}** (`{metric}`{', ' + infos[metric].unit if infos[metric].unit else ''}): "
        f"{infos[metric].summary}"
        for metric in columns
        if metric in infos
    ]
    scores = report.scores
    return "\n".join(
        [
            f"# {store.path.name}",
            "",
            *(markup.markdown(table, style) for table in report.tables),
            # Two blanks at the end of a line are Markdown's line break.
            *(f"{note}  " for note in notes(report.tables, style)),
            "",
            *(f"{line}  " for line in sentences(store, scores.protocols, scores.titles.values())),
            "",
            "## Metrics",
            "",
            *legend,
            "",
        ]
    )


def _remove_stale(store: RunStore, written: Sequence[Path]) -> None:
    """Removes files of an earlier report that this one does not have, such as tables of votes.

    A file is removed only if it is unchanged since a report wrote it. The page removes its own files.
    """
    # digests.jsonl has the SHA-256 of every file that a report wrote.
    current = {path.relative_to(store.path).as_posix() for path in written}
    # These are written after the tables, so that they are not yet in `written`.
    page = ("report/page/", "report/index.html", "report/report.json")
    for name, digest in store.digests()[0].items():
        stale = name.startswith("report/") and name not in current and not name.startswith(page)
        path = store.path / name
        if stale and path.is_file() and sha256_file(path) == digest:
            store.write_digest(name, None)
            path.unlink()

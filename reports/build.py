r"""Everything that a run's report consists of, written in one go: tables, statistics, figures.

::

    report/summary.csv        tidy: protocol, category, method, metric, value, low, high, n, failed
    report/tables.{md,html}   every table; tables.tex the same as LaTeX, to be \\input; tables-document.tex whole
    report/tables-notes.tex   how to read the tables, and where their numbers come from
    report/NAME.{csv,tex}     one table each: suite-*, paper-1..5, main-*, success-*, validity-*, reported-*, ...
    report/comparisons.csv    every method against the baseline: differences, intervals, tests, effect sizes
    report/validity.csv       does each metric measure what it should
    report/figures/*.{pdf,png}
    report/figures.tex        every figure with its caption, to be \\input
    report/grid.png           the overview picture
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.files import csv_of, sha256_file
from reports.data.comparisons import compare
from reports.data.power import detectable_differences
from reports.data.preference import StudyResults, checked, preference_summary, shows_votes
from reports.data.scores import ALL, RunScores, load
from reports.data.separation import separations as separate
from reports.figures import grid as figures
from reports.figures.charts import Bounds
from reports.tables import latex, render, shapes
from reports.tables import table as tables
from reports.tables.provenance import with_provenance
from reports.tables.style import Style
from reports.tables.table import Cell, Column, MetricFacts, Row, Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from bench.store import RunStore
    from reports.figures.choice import Rule
    from reports.tables.paper import Paper


@dataclass(frozen=True, eq=False)
class Made:
    """The numbers of a report, before anything is written."""

    scores: RunScores
    frame: pd.DataFrame
    """The summary, with cost and preference."""
    tables: tuple[Table, ...]
    comparisons: pd.DataFrame | None = None
    validity: pd.DataFrame | None = None
    study: StudyResults | None = None


@dataclass(frozen=True)
class Picture:
    """One figure of a report: ``report/figures/NAME.pdf`` and ``.png``."""

    name: str
    caption: str
    wide: bool
    """Made for the width of a page, not of a column."""


@dataclass(frozen=True, eq=False)
class ReportPaths:
    """What was written, and what was in it."""

    directory: Path
    files: tuple[Path, ...]
    figures: tuple[Path, ...]
    pictures: tuple[Picture, ...]
    """Name and caption of each figure; the overview picture ``grid.png`` is none of them."""
    tables: tuple[Table, ...]
    summary: pd.DataFrame
    warnings: tuple[str, ...]
    """Where n is too small for a claim, and what the paper does not state: for the terminal."""


def write_report(
    store: RunStore,
    facts: Mapping[str, MetricFacts],
    *,
    style: Style | None = None,
    paper: Paper | None = None,
    study: StudyResults | None = None,
    baseline: str | None = None,
    bounds: Bounds | None = None,
    cases: Sequence[str] = (),
    with_figures: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> ReportPaths:
    """Writes ``report/`` of a run; see the module.

    ``paper``: adds what it reported (``reports.tables.paper.load``). ``study``: adds its results. ``baseline``: whom
    the others are compared with, the run's first method that is no control if not given. ``bounds``: of the
    success rule. ``cases``: ids of a further picture of edits, per protocol that has any of them.

    Raises ``tables.ReportError`` where nothing is scored or a case is not in the run, ``style.StyleError``,
    ``preference.VoteError``, ``StatisticsError``, ``bench.store.StoreError``.
    """
    check_cases(store, cases)
    made = make(
        store, facts, style=style, paper=paper, study=study, baseline=baseline, extras=True,
        resamples=resamples, seed=seed,
    )  # fmt: skip
    files = write_tables(store, facts, made, style)
    drawn: list[Path] = []
    pictures: list[Picture] = []
    if with_figures:
        drawn, pictures = write_figures(store, made, bounds, cases)
        floats = (latex.figure(picture.name, picture.caption, wide=picture.wide) for picture in pictures)
        body = "\n".join([latex.HEAD_OF_FIGURES, *floats])
        files.append(store.write_file("report/figures.tex", body.encode(), "report/figures.tex"))
        _remove_old(store, [*files, *drawn])
    warnings = [note for table in made.tables for note in table.notes if note.startswith("Too small")]
    warnings += latex.warnings(made.tables)
    gaps = [] if paper is None else paper.gaps
    return ReportPaths(
        store.report_dir,
        tuple(files),
        tuple(drawn),
        tuple(pictures),
        made.tables,
        made.frame,
        tuple(dict.fromkeys([*warnings, *gaps])),
    )


def _remove_old(store: RunStore, written: Sequence[Path]) -> None:
    """Removes the tables and figures of an earlier report that this one does not have, of votes for example.

    Only files that are as a report wrote them; what somebody put there or changed stays. The page has its own files.
    """
    new = {path.relative_to(store.path).as_posix() for path in written}
    page = ("report/page/", "report/index.html", "report/report.json")
    for name, digest in store.digests()[0].items():
        old = name.startswith("report/") and name not in new and not name.startswith(page)
        path = store.path / name
        if old and path.is_file() and sha256_file(path) == digest:
            store.write_digest(name, None)
            path.unlink()


def make(
    store: RunStore,
    facts: Mapping[str, MetricFacts],
    *,
    style: Style | None = None,
    paper: Paper | None = None,
    study: StudyResults | None = None,
    baseline: str | None = None,
    extras: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Made:
    """Reads the run once and computes everything; writes nothing. ``extras``: comparisons and validity too."""
    import pandas as pd

    style = style or Style()
    scores = load(store)
    absent = set() if paper is None else set(paper.baselines.values()) - set(scores.names.values())
    if absent:
        from reports.tables.paper import PaperError

        raise PaperError(
            f"--paper-baseline: {store.path} has no method {', '.join(sorted(absent))}. "
            f"It has: {', '.join(sorted(set(scores.names.values())))}."
        )
    frame = tables.summary(store, facts, resamples=resamples, seed=seed, scores=scores)
    if frame.empty:
        tables.build(frame, facts)  # raises, with the remedy
    parts = [frame, tables.cost_summary(scores, resamples=resamples, seed=seed)]
    if study is not None:
        study = checked(study, scores)
        parts.append(preference_summary(study))
    frame = pd.concat([part for part in parts if len(part)], ignore_index=True)
    style.check_columns([*dict.fromkeys(frame["metric"]), shapes.PASTED_LEAK])
    higher = _directions(scores, facts)
    outcomes = tables.outcomes(scores.metrics, facts)
    separations = separate(scores, higher, seed=seed)
    wide = shapes.with_pasted_leakage(frame)
    of_paper = shapes.paper_tables(wide, facts, scores.controls, separations, style, scores.names)
    made = [
        *shapes.suite_tables(wide, facts, scores.controls, separations, style),
        *of_paper,
        *tables.build(
            _measured(frame), facts, scores.controls, separations, style.decimals, _chosen(wide, style)
        ),
    ]
    measured = len(made)
    comparisons = validity = None
    if extras:
        from reports.data.validity import validity as measure
        from reports.tables.validity import validity_tables

        base = baseline or _first_contender(scores)
        if base is not None:
            comparisons = compare(scores, base, outcomes=outcomes, resamples=resamples, seed=seed)
            made += comparison_tables(comparisons, scores, facts)
        validity = measure(scores, higher, study, seed=seed)
        made += validity_tables(validity)
    left_out = store.left_out()
    made = [_with_left_out(table, left_out) for table in made]
    detectable = detectable_differences(scores, outcomes, seed=seed)
    made = [with_provenance(_noted(table, style, study), store, scores, detectable) for table in made]
    made = [_named(table, store) for table in made]
    if paper is not None:
        from reports.tables.paper import reported_tables, with_reported

        # After the warnings: a reported row is no method that anything was tested against.
        made[:measured] = [with_reported(table, paper, scores.names) for table in made[:measured]]
        made += reported_tables(paper)
    return Made(scores, frame, tuple(made), comparisons, validity, study)


def _noted(table: Table, style: Style, study: StudyResults | None) -> Table:
    """The table with intervals only where the style shows them, and with whose votes it shows."""
    if style.intervals == "none":
        table = replace(table, interval_notes=(), intervals=False)
    if study is not None and ("votes" in table.name or any(shows_votes(c.metric) for c in table.columns)):
        # Whose votes they are stands in every caption, also in a short one.
        votes = f"Votes: {study.statement}"
        table = replace(table, notes=(*table.notes, votes), caption=votes)
    return table


def _named(table: Table, store: RunStore) -> Table:
    """The table with what the suite says of its methods for print: their names, citations and groups."""
    if table.rows_are != "method":
        return table
    specs = {title: store.methods[digest] for digest, title in tables.method_titles(store).items()}
    rows = [
        replace(row, display=spec.display, cite=spec.cite, group=spec.group)
        for row in table.rows
        for spec in [specs[row.method]]
    ]
    return replace(table, rows=tuple(rows))


def _chosen(frame: pd.DataFrame, style: Style) -> pd.DataFrame | None:
    """The rows of the metrics that the style names, in its order; None where it names none."""
    if not style.columns:
        return None
    order = {metric: index for index, metric in enumerate(style.columns)}
    some = frame[frame["metric"].isin(order)]
    return some.sort_values("metric", key=lambda metrics: metrics.map(order), kind="stable")


def _with_left_out(table: Table, left_out: Mapping[str, Sequence[str]]) -> Table:
    """The table with a note for each of its protocols of which stored scores are not shown."""
    notes = [
        f"Left out of {protocol}: {', '.join(names)}. Their networks have seen only the rendered world; the stored "
        "values stay in the run folder."
        for protocol, names in left_out.items()
        if any(column.protocol == protocol for column in table.columns)
    ]
    return replace(table, notes=(*table.notes, *notes)) if notes else table


def _measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The summary without cost and votes, which have tables of their own."""
    own = {*tables.OWN_FACTS}
    return frame[~frame["metric"].isin(own)]


def _directions(scores: RunScores, facts: Mapping[str, MetricFacts]) -> dict[str, bool]:
    """Metric -> whether more is better, pasted ones included, of those that declare a direction."""
    found = {}
    for metric in scores.metrics:
        known = tables.facts_of(metric, facts)
        if known is not None and known.higher_is_better is not None:
            found[metric] = known.higher_is_better
    return found


def _first_contender(scores: RunScores) -> str | None:
    return next((title for title in scores.titles.values() if title not in scores.controls), None)


COMPARED = (
    "success_truth",
    "success_clip",
    "success_mini_clip",
    "leak_lpips",
    "clip_region",
    "clip_directional",
    "mini_clip_region",
    "mini_clip_directional",
    "fid",
    "vgg16_frechet",
)
"""Metrics of the comparison tables; comparisons.csv has all."""


def comparison_tables(
    comparisons: pd.DataFrame, scores: RunScores, facts: Mapping[str, MetricFacts]
) -> list[Table]:
    """Per protocol: every method that is no control against the baseline, metric by metric."""
    made = []
    for protocol in scores.protocols:
        mine = comparisons[
            (comparisons["protocol"] == protocol)
            & (comparisons["category"] == ALL)
            & ~comparisons["method"].isin(scores.controls)
        ]
        rows = []
        metrics = [metric for metric in COMPARED if (mine["metric"] == metric).any()]
        for metric in metrics:
            for row in mine[mine["metric"] == metric].to_dict(orient="records"):
                known = facts.get(metric)
                arrow = {True: " ↑", False: " ↓", None: ""}[known.higher_is_better if known else None]
                n = int(row["n"])
                cells = (
                    Cell(
                        tables.finite(row["difference"]),
                        tables.finite(row["low"]),
                        tables.finite(row["high"]),
                        n,
                    ),
                    Cell(tables.finite(row["p_holm"]), n=n),
                    Cell(tables.finite(row["cohens_d"]), n=n),
                    Cell(tables.finite(row["superiority"]), n=n),
                )
                title = f"{tables.HEADINGS.get(metric, metric)}{arrow}: {row['method']}"
                rows.append(Row(title, False, cells, int(row["n"]), 0))
        if not rows:
            continue
        base = mine["baseline"].iloc[0]
        columns = (
            Column(f"difference from {base}", "difference", protocol=protocol, decimals=3),
            Column("Holm's p", "p_holm", protocol=protocol, decimals=4),
            Column("Cohen's d", "cohens_d", protocol=protocol, decimals=2),
            Column("P(higher)", "superiority", protocol=protocol, decimals=2),
        )
        on_intervals = (
            "Intervals of differences are clustered on the source image (of shares: Newcombe's; of other means: "
            "studentised bootstrap; of sets: as of independent errors)."
        )
        notes = [
            "Differences are paired by case; p: two-sided sign-flip test, Holm's correction over the methods of a "
            "metric; d: mean over standard deviation of the differences; P(higher): share of cases with the higher "
            "value, ties half.",
            *dict.fromkeys(f"{remark[0].upper()}{remark[1:]}." for remark in mine["remark"] if remark),
        ]
        made.append(
            Table(
                f"comparison-{tables.slug(protocol)}",
                f"{protocol}: against {base}",
                columns,
                tuple(rows),
                tuple(notes),
                (on_intervals,),
                rows_are="metric: method",
                counts=("n",),
            )
        )
    return made


# --- writing ---------------------------------------------------------------------------------------------


def write_tables(
    store: RunStore, facts: Mapping[str, MetricFacts], made: Made, style: Style | None = None
) -> list[Path]:
    """Writes every table in every form. Raises ``bench.store.StoreError``."""
    style = style or Style()
    title = f"{store.path.name}: tables"
    texts = {
        "summary.csv": csv_of(made.frame),
        "tables.md": markdown_page(store, made, facts, style),
        "tables.html": render.html_page(title, made.tables, style),
        "tables.tex": latex.every(made.tables, style),
        "tables-notes.tex": latex.notes(made.tables, style),
        "tables-document.tex": latex.document("\\input{tables}\n\\clearpage\n\\input{tables-notes}", style),
        **{f"{table.name}.csv": render.csv_text(table) for table in made.tables},
        **{f"{table.name}.tex": latex.file(table, style) for table in made.tables},
    }
    for name, frame in (("comparisons", made.comparisons), ("validity", made.validity)):
        if frame is not None and len(frame):
            texts[f"{name}.csv"] = csv_of(frame)
    return [
        store.write_file(f"report/{name}", text.encode(), f"report/{name}") for name, text in texts.items()
    ]


def markdown_page(store: RunStore, made: Made, facts: Mapping[str, MetricFacts], style: Style) -> str:
    """Every table, the notes once, and what each metric means in a line."""
    known = {**tables.OWN_FACTS, **facts}
    shown = dict.fromkeys(column.metric for table in made.tables for column in table.columns)
    legend = [
        f"- **{tables.heading(metric)}** (`{metric}`{', ' + known[metric].unit if known[metric].unit else ''}): "
        f"{known[metric].summary}"
        for metric in shown
        if metric in known
    ]
    from reports.tables.provenance import sentences

    return "\n".join(
        [
            f"# {store.path.name}",
            "",
            *(render.markdown(table, style) for table in made.tables),
            *(f"{note}  " for note in render.notes(made.tables, style)),
            "",
            *(f"{line}  " for line in sentences(store, made.scores.protocols, made.scores.titles.values())),
            "",
            "## Metrics",
            "",
            *legend,
            "",
        ]
    )


def check_cases(store: RunStore, cases: Sequence[str]) -> None:
    """Raises ``tables.ReportError`` for an id that no protocol of the run has."""
    known = [row["id"] for protocol in store.protocols() for row in store.cases(protocol).rows]
    for case in cases:
        if case not in known:
            close = difflib.get_close_matches(case, known, 1)
            hint = f"Did you mean {close[0]}?" if close else "The page's gallery shows the ids."
            raise tables.ReportError(f"--case: the run has no case {case!r}. {hint}")


def write_figures(
    store: RunStore, made: Made, bounds: Bounds | None = None, cases: Sequence[str] = ()
) -> tuple[list[Path], list[Picture]]:
    """Draws every figure that the run has the data for. Raises ``bench.store.StoreError``."""
    from reports.figures.pictures import verdicts
    from reports.figures.style import COLUMN_INCHES, save

    succeeded = {
        (protocol, *key): verdict
        for protocol, of in made.scores.protocols.items()
        for key, verdict in verdicts(of).items()
    }
    written = [figures.grid(store, records=made.scores.edits, succeeded=succeeded)]
    pictures = []
    for name, caption, shown in _drawn(store, made, bounds, cases):
        if shown is not None:
            written += save(store, name, shown)
            pictures.append(Picture(name, caption, bool(shown.get_figwidth() > COLUMN_INCHES)))
    return written, pictures


def _drawn(
    store: RunStore, made: Made, bounds: Bounds | None, cases: Sequence[str]
) -> Iterator[tuple[str, str, Figure | None]]:
    """Name, caption and figure; one after the other, so that only one is in memory."""
    from reports.figures import charts
    from reports.figures.choice import RULES, words
    from reports.figures.pictures import heat_maps, judge_of, parts, side_by_side
    from reports.figures.style import looks

    scores, frame = made.scores, made.frame
    style = looks([title for title in scores.titles.values() if title not in scores.controls])
    # Charts.
    interval = "Error bars: 95 % intervals."
    yield (
        "trade-off",
        f"Alignment against leakage; better is up and left. {interval}",
        charts.trade_off(frame, scores, style),
    )
    yield (
        "success-by-category",
        f"Success by category of edit. {interval}",
        charts.success_by_category(frame, scores, style),
    )
    yield (
        "leakage-by-distance",
        f"Change outside the mask by the distance from it. {interval}",
        charts.leakage_by_distance(frame, scores, style),
    )
    simulated = made.study is not None and made.study.simulated
    yield (
        "preference",
        f"Preference of {'SIMULATED ' if simulated else ''}raters. {interval}",
        charts.preference(frame, scores, style),
    )
    yield (
        "success-sensitivity",
        "Success as one bound of the success rule moves and the others stay. Dotted: the rule's own bound.",
        charts.success_sensitivity(scores, style, bounds),
    )
    # Pictures of edits: in several parts where the methods are more than one picture holds.
    votes = None if made.study is None else made.study.votes
    columns = parts(scores)
    pieces = [
        (f"-{k}" if k > 1 else "", f"{k} of {len(columns)}" if len(columns) > 1 else "", titles)
        for k, titles in enumerate(columns, 1)
    ]
    for protocol in scores.protocols:
        edits = figures.last_edits(scores.edits, protocol)
        mine = set(scores.protocols[protocol].cases)
        marks = " Under each edit: whether it succeeded." if judge_of(scores.protocols[protocol]) else ""
        hand = [case for case in dict.fromkeys(cases) if case in mine]
        choices: list[tuple[Rule, list[str]]] = [(rule, []) for rule in RULES]
        if hand:
            choices.insert(0, ("random", hand))
        for rule, picked in choices:
            for suffix, part, titles in pieces:
                name = f"grid-{'chosen' if picked else rule}-{tables.slug(protocol)}{suffix}"
                caption = f"Edits of {protocol}; cases {words(rule, picked)}.{marks}"
                yield (
                    name,
                    caption + (f" Part {part}." if part else ""),
                    side_by_side(
                        store, scores, protocol, rule,
                        cases=picked, methods=titles, votes=votes, edits=edits, part=part,
                    ),
                )  # fmt: skip
        for suffix, part, titles in pieces:
            yield (
                f"leak-heat-{tables.slug(protocol)}{suffix}",
                f"Largest change of a colour channel outside the mask, {protocol}; cases {words('random')}."
                + (f" Part {part}." if part else ""),
                heat_maps(store, scores, protocol, methods=titles, edits=edits, part=part),
            )


__all__ = ["Bounds", "Made", "ReportPaths", "make", "write_report", "write_tables"]

"""Computes the numbers and tables of a report. ``reports.write`` puts them into files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.judges.replies import stored_judges
from bench.tables.style import Style
from bench.tables.table import Table
from reports.data.comparisons import compare
from reports.data.metrics import OWN_METRICS, directions, metric_info, outcomes, value_range
from reports.data.power import detectable_differences
from reports.data.preference import StudyResults, checked, preference_summary, shows_votes
from reports.data.report_data import ReportData
from reports.data.scores import RunScores, load, method_titles
from reports.data.seeds import best_of_notes, with_best_of
from reports.data.separation import separations as separate
from reports.data.summary import cost_summary, summary
from reports.tables.comparison import comparison_tables
from reports.tables.judges import judge_tables
from reports.tables.paper_shapes import paper_tables
from reports.tables.provenance import with_provenance
from reports.tables.published import published_tables
from reports.tables.small_n import without_interval
from reports.tables.standard import (
    detail_tables,
    main_tables,
    spread_tables,
    standard_tables,
    success_tables,
)
from reports.tables.suite import COMPOSITED_LEAK, suite_tables, with_composited_leakage
from reports.tables.tabulate import with_note

if TYPE_CHECKING:
    import pandas as pd

    from bench.edit import MethodSpec
    from bench.metrics.types import MetricInfo
    from bench.store import RunStore
    from reports.tables.paper import Paper


@dataclass(frozen=True, eq=False)
class ReportContent:
    """The numbers and tables of a report, before anything is written."""

    scores: RunScores
    # The summary, with cost and votes.
    data: ReportData
    tables: tuple[Table, ...]
    comparisons: pd.DataFrame | None = None
    validity: pd.DataFrame | None = None
    study: StudyResults | None = None


def compute(
    store: RunStore,
    metrics: Mapping[str, MetricInfo],
    *,
    style: Style | None = None,
    paper: Paper | None = None,
    study: StudyResults | None = None,
    baseline: str | None = None,
    extras: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> ReportContent:
    """Reads the run once and computes everything. Writes nothing.

    ``extras``: comparisons with the baseline and validity of the metrics too. The other arguments and the errors are
    those of ``reports.write.write_report``.
    """
    # Check the options first: a baseline or a vote may not be in the run.
    style = style or Style()
    scores = with_best_of(load(store), store.methods, store.seeds, metrics)
    if paper is not None:
        paper.check_baselines(scores.names.values(), store.path)
    if study is not None:
        study = checked(study, scores)

    # Numbers: the tidy summary, and which methods are separable from the best.
    frame = _summary(scores, metrics, study, resamples, seed)
    # The leakage of composited edits is 0 by construction and enters a table's frame only later.
    style.check_columns([*dict.fromkeys(frame["metric"]), COMPOSITED_LEAK])
    # A metric without a direction has no best method to test against.
    higher = directions(scores.metrics, metrics)
    separations = separate(scores, higher, seed=seed)
    data = ReportData(frame, metrics, scores.controls, separations, style.decimals, scores.ceilings)

    # Tables of what was measured.
    tables = [
        with_note(table, *without_interval(table, scores)) for table in _measured_tables(data, style, scores)
    ]
    judged = _judged_ranges(scores, metrics)
    sentences = dict(pair for judge in stored_judges(store) for pair in judge.sentences())
    if judged:
        tables += judge_tables(data, store.scores(), scores.titles, sentences)
    measured = len(tables)
    if len(store.seeds) > 1:
        tables += spread_tables(data, scores, store.seeds)
        tables = [_with_seeds(table, scores, store) for table in tables]
    shares = outcomes(scores.metrics, metrics)
    comparisons = validity = None
    if extras:
        from reports.data.judge_validity import judge_validity
        from reports.data.validity import validity as measure_validity
        from reports.tables.judges import judge_validity_tables
        from reports.tables.validity import validity_tables

        against = baseline or _first_contender(scores)
        if against is not None:
            comparisons = compare(scores, against, outcomes=shares, resamples=resamples, seed=seed)
            tables += comparison_tables(comparisons, scores, metrics)
        of_judges = judge_validity(store, scores, judged, higher, seed=seed)
        validity = measure_validity(scores, higher, study, judges=of_judges, seed=seed)
        tables += judge_validity_tables(validity, judged, list(sentences.values()))
        tables += validity_tables(validity)

    # Notes and provenance, then the names for print.
    # Scores of embedded networks, which have seen the rendered world alone, on photographs.
    left_out = store.left_out()
    detectable = detectable_differences(scores, shares, seed=seed)
    tables = [_with_style_and_votes(_with_left_out(table, left_out), style, study) for table in tables]
    tables = [with_provenance(table, store, scores, detectable) for table in tables]
    tables = [_with_printed_names(table, store) for table in tables]

    # Reported values come last: a reported row is no method that anything was tested against.
    if paper is not None:
        from reports.tables.paper_columns import reported_tables, with_reported

        # Only tables of measured values: beside differences or correlations a paper's means would be of another
        # quantity.
        tables[:measured] = [with_reported(table, paper, scores.names) for table in tables[:measured]]
        tables += reported_tables(paper)
    return ReportContent(scores, data, tuple(tables), comparisons, validity, study)


def _judged_ranges(scores: RunScores, metrics: Mapping[str, MetricInfo]) -> dict[str, tuple[float, float]]:
    """The scale of each metric of the run that a judge gives."""
    return {
        name: value_range(name, metrics)
        for name in scores.metrics
        if (info := metric_info(name, metrics)) is not None and info.judged
    }


def _summary(
    scores: RunScores,
    metrics: Mapping[str, MetricInfo],
    study: StudyResults | None,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Means with intervals, cost and votes, in the columns of ``reports.data.summary``."""
    import pandas as pd

    # Three sources with the same columns: scores, cost, votes.
    frame = summary(scores, metrics, resamples=resamples, seed=seed)
    if frame.empty:
        standard_tables(ReportData(frame, metrics))  # raises, with the remedy
    parts = [frame, cost_summary(scores, resamples=resamples, seed=seed)]
    if study is not None:
        # The analysis of the study computed these. Nothing is estimated twice.
        parts.append(preference_summary(study))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _measured_tables(data: ReportData, style: Style, scores: RunScores) -> list[Table]:
    """The suite's tables, the paper's and the standard ones."""
    frame = data.frame
    with_leakage = data.with_frame(with_composited_leakage(frame))
    # Cost and votes have tables of their own. The main tables show them only where the user chooses them.
    scored = data.with_frame(frame[~frame["metric"].isin(list(OWN_METRICS))])
    all_metrics = with_leakage.frame
    choosable = data.with_frame(all_metrics[all_metrics["protocol"].isin(scored.protocols())])
    return [
        *suite_tables(with_leakage, style),
        *paper_tables(with_leakage, scores.names),
        *main_tables(choosable if style.columns else scored, style.columns),
        *success_tables(scored),
        *detail_tables(scored),
        *published_tables(scored),
    ]


def _first_contender(scores: RunScores) -> str | None:
    # Titles are in the order in which the methods were added to the run, which is that of the suite file.
    return next((title for title in scores.titles.values() if title not in scores.controls), None)


def _with_left_out(table: Table, left_out: Mapping[str, Sequence[str]]) -> Table:
    """Adds a note for each protocol of the table that has stored scores which are not shown."""
    notes = [
        f"Left out of {protocol}: {', '.join(names)}. Their networks were trained on the rendered world alone; the "
        "stored values stay in the run folder."
        for protocol, names in left_out.items()
        # A note belongs to the tables of its protocol.
        if any(column.protocol == protocol for column in table.columns)
    ]
    return with_note(table, *notes)


def _with_style_and_votes(table: Table, style: Style, study: StudyResults | None) -> Table:
    """Intervals only where the style shows them. Tables of votes say who voted."""
    if style.intervals == "none":
        table = replace(table, interval_notes=(), intervals=False)
    if study is not None and ("votes" in table.name or any(shows_votes(c.metric) for c in table.columns)):
        # The caption begins with the mark, so that it stays with a table that is copied alone.
        raters = study.votes["rater"].nunique()
        mark = "SIMULATED RATERS, not people: " if study.simulated else ""
        size = f"{mark}{len(study.votes)} votes of {raters} raters."
        table = replace(with_note(table, f"Votes: {study.statement}"), caption=size)
    return table


def _with_seeds(table: Table, scores: RunScores, store: RunStore) -> Table:
    """Notes on the seeds and on rows that choose among them."""
    notes = best_of_notes(scores, store.methods, store.seeds)
    return with_note(
        table,
        f"Means over the seeds {', '.join(map(str, store.seeds))}, which are repeats within the cluster of a case.",
        *(note for title, note in notes.items() if any(row.label == title for row in table.rows)),
    )


def _setting(spec: MethodSpec) -> str:
    """The method's remark, and the strength where it is not 1: a smaller one keeps more of the source."""
    strength = spec.options.get("strength", 1)
    stated = f"strength {strength:g}" if isinstance(strength, (int, float)) and strength != 1 else ""
    return ", ".join(text for text in (stated, spec.remark) if text)


def _with_printed_names(table: Table, store: RunStore) -> Table:
    """Names, citations and groups for print, as the suite states them for its methods."""
    # Rows of the other tables, such as metrics, have no citation.
    if table.rows_are != "method":
        return table
    specs = {title: store.methods[digest] for digest, title in method_titles(store).items()}
    # A row that chooses among the edits of a method is printed by its own name.
    rows = [
        replace(row, display=spec.display, cite=spec.cite, group=spec.group, setting=_setting(spec))
        if (spec := specs.get(row.label)) is not None
        else row
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))

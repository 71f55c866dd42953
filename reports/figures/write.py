"""Draws and writes every figure that a run has the data for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.tables.table import slug
from reports.figures import grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.store import RunStore
    from reports.build import ReportContent
    from reports.figures.choice import Rule

    # Name, caption and figure. None where the run lacks the data.
    Drawing = tuple[str, str, Figure | None]


@dataclass(frozen=True)
class ReportFigure:
    """One figure of a report: ``report/figures/NAME.pdf`` and ``.png``."""

    name: str
    caption: str
    # True where it is as wide as a page, False where it is as wide as a column.
    wide: bool


def write_figures(
    store: RunStore, report: ReportContent, cases: Sequence[str] = ()
) -> tuple[list[Path], list[ReportFigure]]:
    """Writes the overview grid and all figures. Returns the paths, and the figures with their captions.

    ``cases``: ids for a further grid. Raises ``bench.store.StoreError``.
    """
    from reports.figures.pictures import verdicts
    from reports.figures.style import COLUMN_INCHES, save

    succeeded = {
        (protocol, *key): verdict
        for protocol, scores in report.scores.protocols.items()
        for key, verdict in verdicts(scores).items()
    }
    paths = [grid.grid(store, records=report.scores.edits, succeeded=succeeded)]
    figures = []
    # One after the other, so that only one figure is in memory.
    for drawings in (_charts(report), _edits(store, report, cases)):
        for name, caption, drawing in drawings:
            if drawing is not None:
                paths += save(store, name, drawing)
                figures.append(ReportFigure(name, caption, bool(drawing.get_figwidth() > COLUMN_INCHES)))
    return paths, figures


def _charts(report: ReportContent) -> Iterator[Drawing]:
    from reports.figures import charts
    from reports.figures.sensitivity import success_sensitivity
    from reports.figures.style import looks

    # The same colour and marker per method in all charts.
    # By position among the methods that are no controls: the page's looks follow the same rule.
    scores, frame = report.scores, report.data.frame
    style = looks([title for title in scores.titles.values() if title not in scores.controls])
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
    # Votes of simulated raters are named so wherever they stand.
    simulated = report.study is not None and report.study.simulated
    yield (
        "preference",
        f"Preference of {'SIMULATED ' if simulated else ''}raters. {interval}",
        charts.preference(frame, scores, style),
    )
    yield (
        "success-sensitivity",
        "Success as one bound of the success rule moves and the others stay. Dotted: the rule's own bound.",
        success_sensitivity(scores, style),
    )


def _edits(store: RunStore, report: ReportContent, cases: Sequence[str]) -> Iterator[Drawing]:
    """Grids of edits and leak heat maps, in several parts where one figure cannot hold all methods."""
    from reports.figures.choice import RULES, words
    from reports.figures.pictures import heat_maps, judge_of, parts, side_by_side

    scores = report.scores
    votes = None if report.study is None else report.study.votes
    columns = parts(scores)
    # (suffix of the name, "K of N", methods) per part.
    pieces = [
        (f"-{k}" if k > 1 else "", f"{k} of {len(columns)}" if len(columns) > 1 else "", titles)
        for k, titles in enumerate(columns, 1)
    ]
    for protocol, protocol_scores in scores.protocols.items():
        edits = grid.last_edits(scores.edits, protocol)
        marks = " Under each edit: whether it succeeded." if judge_of(protocol_scores) else ""
        available = set(protocol_scores.cases)
        # An id belongs to one protocol or several. `check_cases` has refused those that belong to none.
        by_hand = [case for case in dict.fromkeys(cases) if case in available]
        choices: list[tuple[Rule, list[str]]] = [(rule, []) for rule in RULES]
        if by_hand:
            # The rule has no effect where cases are named.
            choices.insert(0, ("random", by_hand))

        # Grids: cases by hand, then by each rule.
        for rule, picked in choices:
            for suffix, part, titles in pieces:
                caption = f"Edits of {protocol}; cases {words(rule, picked)}.{marks}"
                yield (
                    f"grid-{'chosen' if picked else rule}-{slug(protocol)}{suffix}",
                    caption + (f" Part {part}." if part else ""),
                    side_by_side(
                        store, scores, protocol, rule,
                        cases=picked, methods=titles, votes=votes, edits=edits, part=part,
                    ),
                )  # fmt: skip

        # Where each method leaks.
        for suffix, part, titles in pieces:
            caption = (
                f"Largest change of a colour channel outside the mask, {protocol}; cases {words('random')}."
            )
            yield (
                f"leak-heat-{slug(protocol)}{suffix}",
                caption + (f" Part {part}." if part else ""),
                heat_maps(store, scores, protocol, methods=titles, edits=edits, part=part),
            )

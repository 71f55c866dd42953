"""Tables of how far the votes can be trusted: agreement, attention, the exclusion rule, metrics against votes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.study.votes.analysis import Analysis
from bench.study.votes.frame import ALL
from bench.study.votes.view import PERCENT, PLAIN, View, as_text, in_scope, minus, ranged
from bench.tables.numbers import finite
from bench.tables.table import Cell, Column, Table, slug

# Set of raters -> heading of its column.
RATER_SETS = {"all": "all raters", "kept": "raters kept"}

# Excluded raters that a note names. The file raters.csv has all of them.
NAMED_RATERS = 20

# Measure of the correlations -> its column.
CORRELATIONS = {
    "agreement": Column("agreement", "agreement", percent=True, decimals=1),
    "kendall": Column("pairs τ", "kendall", decimals=2),
    "spearman": Column("pairs ρ", "spearman", decimals=2),
    "method_kendall": Column("methods τ", "method_kendall", decimals=2),
    "method_spearman": Column("methods ρ", "method_spearman", decimals=2),
}

# (label of the row, set of raters, value)
Entry = tuple[str, str, Cell]


def quality(view: View) -> Table:
    """Agreement, consistency, position and attention, with all raters and with those that the rule keeps."""
    analysis = view.analysis
    sets = {name: words for name, words in RATER_SETS.items() if (analysis.counts["raters"] == name).any()}
    # A label that one of the two sets lacks (no repeats among those kept) has a dash there.
    by_label: dict[str, dict[str, Cell]] = {}
    entries = (_counts, _agreement, _rating_agreement, _habits)
    for label, rater_set, cell in (entry for part in entries for entry in part(analysis)):
        by_label.setdefault(label, {})[rater_set] = cell
    return view.table(
        "quality",
        "Agreement, consistency and attention",
        [Column(words, name) for name, words in sets.items()],
        {label: [cells.get(name, Cell(None)) for name in sets] for label, cells in by_label.items()},
        _exclusions(analysis),
        *analysis.notes,
        rows_are="measure",
    )


def _counts(analysis: Analysis) -> Iterator[Entry]:
    # Texts: the column has percentages and coefficients too.
    for row in analysis.counts.to_dict("records"):
        yield "raters", row["raters"], Cell(None, text=str(row["n_raters"]))
        yield "votes", row["raters"], Cell(None, text=str(row["n_votes"]))
        if row["n_ratings"]:
            yield "rated trials", row["raters"], Cell(None, text=str(row["n_ratings"]))
        if (over := finite(row["n_over_time"])) is not None:
            yield "answered after the time limit", row["raters"], Cell(None, text=f"{over:.0f}")


def _agreement(analysis: Analysis) -> Iterator[Entry]:
    for row in analysis.agreement.to_dict("records"):
        label = f"Krippendorff's α, {row['kind']}, {row['level']}"
        yield label, row["raters"], as_text(ranged(row, PLAIN, "alpha"), PLAIN)
        # The share of agreeing pairs does not depend on the level of measurement.
        if row["level"] == "nominal":
            share = Cell(finite(row["agreement"]))
            yield f"agreeing pairs of raters, {row['kind']} (%)", row["raters"], as_text(share, PERCENT)


def _rating_agreement(analysis: Analysis) -> Iterator[Entry]:
    for row in analysis.rating_agreement.to_dict("records"):
        label = f"Krippendorff's α, {row['question']}, {row['level']}"
        yield label, row["raters"], as_text(ranged(row, PLAIN, "alpha"), PLAIN)
        share = as_text(Cell(finite(row["agreement"])), PERCENT)
        yield f"equal ratings of two raters, {row['question']} (%)", row["raters"], share


def _habits(analysis: Analysis) -> Iterator[Entry]:
    """Shares of repeats, positions and attention checks."""
    for row in analysis.consistency.to_dict("records"):
        if row["kind"] == ALL:
            answer = "the same" if row["measure"] == "same" else "reversed"
            yield f"repeated trials answered {answer} (%)", row["raters"], _share(row)
    # The leftmost position stands for all: the p-value is of all positions together. positions.csv has the others.
    for row in analysis.positions[analysis.positions["position"] == 0].to_dict("records"):
        yield f"leftmost of {row['candidates']} chosen, {row['kind']} (%)", row["raters"], _share(row)
        p = "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"
        label = f"p of no effect of the place, {row['kind']} of {row['candidates']}"
        yield label, row["raters"], Cell(None, text=p)
    for row in analysis.attention.to_dict("records"):
        yield "attention checks failed (%)", row["raters"], _share(row)


def _share(row: dict[Any, Any]) -> Cell:
    return as_text(ranged(row, PERCENT, "share"), PERCENT)


def _exclusions(analysis: Analysis) -> str:
    """The raters whom the rule excludes, with its reasons."""
    # Reasons, not only a number: a reader must be able to check that the rule was applied as stated.
    excluded = analysis.raters[analysis.raters["excluded"]]
    reasons = [f"{row['rater']}: {row['why']}." for row in excluded.to_dict("records")[:NAMED_RATERS]]
    more = len(excluded) - len(reasons)
    rest = [f"And {more} more (raters.csv)."] if more else []
    return " ".join([f"Excluded: {len(excluded)} of {len(analysis.raters)} raters.", *reasons, *rest])


def exclusion_effect(view: View) -> Iterator[Table]:
    """The share of each method with all raters, with those kept, and the change between the two.

    None in a study of ratings alone.
    """
    effect = view.analysis.effect
    if effect.empty:
        return
    rows = effect[in_scope(effect)].sort_values("share_all", ascending=False).to_dict("records")
    columns = {name: Column(words, name, percent=True, decimals=1) for name, words in RATER_SETS.items()}
    cells: dict[str, list[Cell]] = {}
    for row in rows:
        # A method has a share per kind of votes.
        label = f"{row['method']} ({row['kind']})" if len(view.kinds) > 1 else row["method"]
        sides = [
            ranged(
                {"low": row[f"low_{s}"], "high": row[f"high_{s}"], "share": row[f"share_{s}"]},
                column,
                "share",
            )
            for s, column in columns.items()
        ]
        cells[label] = [*sides, _change(finite(row["change"]))]
    yield view.table(
        "exclusion",
        "Preference with all raters and with those kept by the rule",
        [*columns.values(), Column("change", "change", percent=True, decimals=1)],
        cells,
    )


def _change(change: float | None) -> Cell:
    """A difference of shares in percentage points, with its sign."""
    if change is None:
        return Cell(None)
    text = f"{100 * change:+.1f}"
    # A change that is rounded to 0 has no sign.
    return Cell(None, text=text[1:] if text[1:] == "0.0" else minus(text))


def correlations(view: View) -> Iterator[Table]:
    """Each automatic metric against the votes, over all categories and within each. None without scores."""
    frame = view.rows("correlation")
    if not len(frame):
        return
    categories = [name for name in dict.fromkeys(frame["category"]) if name != ALL]
    # The rows of a single category are those over all of them.
    for category in [ALL, *(categories if len(categories) > 1 else [])]:
        part = frame[in_scope(frame, category=category)]
        by_place = {(row["metric"], row["measure"]): row for row in part.to_dict("records")}
        cells = {
            str(metric): [
                ranged(row, column, "value") if (row := by_place.get((metric, measure))) else Cell(None)
                for measure, column in CORRELATIONS.items()
            ]
            for metric in dict.fromkeys(part["metric"])
        }
        if not cells:
            continue
        yield view.table(
            "metrics" if category == ALL else f"metrics-{slug(category)}",
            "Automatic metrics against the votes" + (f", category {category}" if category != ALL else ""),
            list(CORRELATIONS.values()),
            cells,
            "Agreement: of votes that are no tie, how often the edit with the better value was preferred; 50 % is a "
            "coin. Pairs: over votes. Methods: mean value against Bradley-Terry strength.",
            rows_are="metric",
        )

"""Tables of what the votes say: shares by data set and question, Bradley-Terry strengths, and wins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.study.votes.frame import ALL
from bench.study.votes.ratings import BOTH
from bench.study.votes.view import KIND_NAMES, View, in_scope, ranged
from bench.tables.numbers import finite, number
from bench.tables.table import Cell, Column, Table

if TYPE_CHECKING:
    import pandas as pd

# Columns of the table of strengths. Their identifiers get the question, since two tables may differ in it alone.
STRENGTH = Column("strength", "strength", higher_is_better=True, decimals=2)
ELO = Column("Elo", "elo", decimals=0)
BEHIND = Column("behind the best", "behind", decimals=2)
SEPARABLE = Column("separable from it", "separable")


def by_data_set(view: View) -> Iterator[Table]:
    """Human preference by data set and method. Shares of all votes add up to 100 %, as in the paper's Table 1."""
    shares = view.rows("shares")
    protocols = [name for name in dict.fromkeys(shares["protocol"]) if name != ALL]
    for kind, question, _ in view.kind_scopes(shares):
        columns: list[Column] = []
        cells: dict[str, list[Cell]] = {method: [] for method in view.methods}
        for protocol in protocols:
            column = Column(
                f"{protocol}: preference",
                f"{kind}_votes_{question}",
                higher_is_better=True,
                percent=True,
                decimals=1,
                protocol=protocol,
            )
            columns.append(column)
            part = shares[in_scope(shares, question, protocol) & (shares["kind"] == kind)]
            _add_shares(cells, part, column, "of_all", "of_all_")
        yield view.table(
            f"data-sets-{kind}",
            f"Preference by data set and method ({KIND_NAMES[kind]}{view.question_words(question)})",
            columns,
            cells,
            "Preference: share of all votes on the data set; adds up to 100 % over the methods.",
            question=question,
        )


def _add_shares(
    cells: dict[str, list[Cell]], shares: pd.DataFrame, column: Column, name: str, ends: str
) -> None:
    """Adds the share of each method. ``shares`` has one row per method at most."""
    # Methods that share the largest value are all the best.
    rows = {row["method"]: row for row in shares.to_dict("records")}
    most = max((row[name] for row in rows.values()), default=math.nan)
    for method, of_method in cells.items():
        row = rows.get(method)
        of_method.append(ranged(row, column, name, ends, best=row[name] == most) if row else Cell(None))


def preference(view: View) -> Iterator[Table]:
    """User preference by method, one column per question: the shape of the paper's Table 3.

    Shares of the votes that showed the method do not depend on how often it was shown.
    """
    shares = view.rows("shares")
    for kind in view.kinds:
        columns: list[Column] = []
        cells: dict[str, list[Cell]] = {method: [] for method in view.methods}
        # A question that was asked of the other kind alone has no column.
        for _, question, part in view.kind_scopes(shares[shares["kind"] == kind]):
            column = Column(
                question if question != ALL else "preferred",
                f"{kind}_preference_{question}",
                higher_is_better=True,
                percent=True,
                decimals=1,
            )
            columns += [column, Column("n", f"{kind}_n_{question}", decimals=0)]
            _add_shares(cells, part, column, "share", "")
            sizes = dict(zip(part["method"], part["n"], strict=True))
            for method, of_method in cells.items():
                of_method.append(Cell(sizes.get(method)))
        yield view.table(
            f"preference-{kind}",
            f"User preference ({KIND_NAMES[kind]})",
            columns,
            cells,
            "Share of the votes that showed the method (n): another figure than the share of all votes.",
        )


def ratings(view: View) -> Iterator[Table]:
    """Mean rating of each method, one column per scale. None in a study without ratings."""
    frame = view.rows("ratings")
    pooled = frame[(frame["protocol"] == ALL) & (frame["category"] == ALL)]
    if pooled.empty:
        return
    columns: list[Column] = []
    cells: dict[str, list[Cell]] = {method: [] for method in view.methods}
    for scale, part in pooled.groupby("question", sort=False):
        column = Column(str(scale), f"rating_{scale}", higher_is_better=True, decimals=2)
        columns += [column, Column("n", f"rating_n_{scale}", decimals=0)]
        rows = {row["method"]: row for row in part.to_dict("records")}
        most = max(row["mean"] for row in rows.values())
        for method, of_method in cells.items():
            row = rows.get(method)
            of_method += (
                [ranged(row, column, "mean", best=row["mean"] == most), Cell(row["n"])]
                if row
                else [Cell(None), Cell(None)]
            )
    ends = pooled.drop_duplicates("question").to_dict("records")
    yield view.table(
        "ratings",
        "Mean ratings of single edits",
        columns,
        cells,
        "Scales: "
        + "; ".join(f"{row['question']} from {row['worst']:g} to {row['best']:g}" for row in ends)
        + ".",
        "sc_pq: geometric mean of sc and pq, rating by rater." if BOTH in set(pooled["question"]) else "",
    )


def both_bad(view: View) -> Iterator[Table]:
    """How often raters called a method and its rival bad, by question. None where the study did not offer it."""
    shares = view.rows("shares")
    if not shares["both_bad"].any():
        return
    for _, question, part in view.kind_scopes(shares[shares["kind"] == "pair"]):
        column = Column("both bad", f"both_bad_{question}", higher_is_better=False, percent=True, decimals=1)
        rows = {row["method"]: row for row in part.to_dict("records")}
        least = min(row["both_bad_share"] for row in rows.values())
        yield view.table(
            "both-bad",
            f"Votes that call both edits bad{view.question_words(question)}",
            [column, Column("n", f"both_bad_n_{question}", decimals=0)],
            {
                method: [
                    ranged(row, column, "both_bad_share", "both_bad_", best=row["both_bad_share"] == least),
                    Cell(row["n"]),
                ]
                for method, row in rows.items()
            },
            "Share of the votes that showed the method (n). Preferences count these votes as ties.",
            question=question,
        )


def strengths(view: View) -> Iterator[Table]:
    """Bradley-Terry strengths over all votes, best first, and whether each method is separable from the best."""
    frame, fits = view.rows("strengths"), view.rows("fits")
    for question in view.scopes:
        fit = fits[in_scope(fits, question)].to_dict("records")
        if not fit:
            continue
        rows = frame[in_scope(frame, question)].sort_values("rank", kind="stable").to_dict("records")
        words = view.question_words(question)
        # Several questions share the notes at the end, so each note names its question.
        tie = finite(fit[0]["tie"])
        nu = f"Ties{words}: Davidson's ν is {number(tie, STRENGTH)}." if tie is not None else ""
        yield view.table(
            "strengths",
            f"Bradley-Terry strengths, log odds{words}",
            [
                replace(column, metric=f"{column.metric}_{question}")
                for column in (STRENGTH, ELO, BEHIND, SEPARABLE)
            ],
            {row["method"]: _strength_cells(row) for row in rows},
            "A difference of 1 is odds of 2.7 to 1. Elo is the same on the arenas' scale: mean 1000, 400 for odds of "
            "10 to 1.",
            nu,
            f"Strengths{words}: {fit[0]['note']}" if fit[0]["note"] else "",
            question=question,
        )


def _strength_cells(row: dict[Any, Any]) -> list[Cell]:
    """Strength, Elo, distance to the best, and ``yes`` or ``no``. The best itself has no distance."""
    # The rank, not the value: strengths that differ by rounding alone share the first place.
    best = row["rank"] == 1
    strength, elo = ranged(row, STRENGTH, "strength", best=best), ranged(row, ELO, "elo", "elo_")
    if best:
        return [strength, elo, Cell(None), Cell(None)]
    separable = Cell(None, text="yes" if row["separable"] else "no")
    return [strength, elo, ranged(row, BEHIND, "behind", "behind_"), separable]


def strengths_by_category(view: View) -> Iterator[Table]:
    """Bradley-Terry strengths within each edit category. None where there are fewer than two categories."""
    frame, fits = view.rows("strengths"), view.rows("fits")
    categories = [name for name in dict.fromkeys(frame["category"]) if name != ALL]
    # The strengths of a single category are those over all of them.
    if len(categories) < 2:
        return
    for question in view.scopes:
        cells: dict[str, list[Cell]] = {method: [] for method in view.methods}
        notes: list[str] = []
        for category in categories:
            rows = frame[in_scope(frame, question, category=category)].to_dict("records")
            by_method = {row["method"]: row for row in rows}
            # A method may have no votes in a category.
            for method, of_method in cells.items():
                row = by_method.get(method)
                of_method.append(
                    ranged(row, STRENGTH, "strength", best=row["rank"] == 1) if row else Cell(None)
                )
            of_category = fits[in_scope(fits, question, category=category)]["note"]
            notes += [f"{category}{view.question_words(question)}: {note}" for note in of_category if note]
        yield view.table(
            "strengths-by-category",
            f"Bradley-Terry strengths by edit category{view.question_words(question)}",
            [
                Column(category, f"strength_{question}", category, higher_is_better=True, decimals=2)
                for category in categories
            ],
            cells,
            *notes,
            question=question,
        )


def wins(view: View) -> Iterator[Table]:
    """The matrix of wins: one row and one column per method."""
    for kind, question, part in view.kind_scopes(view.rows("wins")):
        duels = {(row["method"], row["against"]): row for row in part.to_dict("records")}
        yield view.table(
            f"wins-{kind}",
            "How often the row's method was preferred to the column's "
            f"({KIND_NAMES[kind]}{view.question_words(question)})",
            [
                Column(rival, f"{kind}_wins_{question}_{rival}", percent=True, decimals=1)
                for rival in view.methods
            ],
            {
                method: [_duel(duels.get((method, rival))) for rival in view.methods]
                for method in view.methods
            },
            "Below each share: wins/ties/losses.",
            question=question,
        )


def _duel(row: dict[Any, Any] | None) -> Cell:
    """A share of wins above its counts. Empty for two methods that were never shown together."""
    if row is None:
        return Cell(None)
    return Cell(row["share"], span=f"{row['wins']}/{row['ties']}/{row['losses']}")

"""Human votes into rows of the summary: two kinds of share, which are never mixed.

``preference`` is the share of the comparisons in which a method took part that it won, ties counting half:
what "X % of raters prefer it over the baselines" says. ``preference_votes`` is the share of all votes that a
method got, with the votes for neither beside it: these shares sum to 100 %. The first does not depend on how
many methods were compared, the second does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import CATEGORIES
from reports.scores import ALL, RunScores
from reports.statistics import bootstrap_means

if TYPE_CHECKING:
    import pandas as pd

VOTE_COLUMNS: tuple[str, ...] = ("rater", "protocol", "case", "method_a", "method_b", "choice")
"""One row per vote between two edits of one case; methods are digests or titles, ``choice`` is ``a``, ``b`` or
``tie``. Rows of which an optional column ``simulated`` is true are no people's votes and are left out."""

NEITHER = "(no preference)"
"""The row of votes for neither."""
EVERYWHERE = "all protocols"


class VoteError(ValueError):
    """Votes that do not fit the run. The message says which and what to do."""


def checked(votes: pd.DataFrame, scores: RunScores) -> pd.DataFrame:
    """The votes of people, methods by title. Raises :class:`VoteError` for a vote on what the run has not."""
    missing = [column for column in VOTE_COLUMNS if column not in votes.columns]
    if missing:
        raise VoteError(f"votes: no column {', '.join(missing)}. They need {', '.join(VOTE_COLUMNS)}.")
    if "simulated" in votes.columns:
        votes = votes[~votes["simulated"].astype(bool)]
    votes = votes[list(VOTE_COLUMNS)].reset_index(drop=True)
    known = {**{title: title for title in scores.titles.values()}, **scores.titles}
    for column in ("method_a", "method_b"):
        strange = sorted(set(votes[column]) - set(known))
        if strange:
            raise VoteError(
                f"votes: {column} names {strange[0]!r}, which is no method of this run. "
                "Report on the run that the study was made from."
            )
        votes[column] = votes[column].map(known)
    wrong = sorted(set(votes["choice"]) - {"a", "b", "tie"})
    if wrong:
        raise VoteError(f"votes: a choice {wrong[0]!r}. A choice is a, b or tie.")
    cases = {(name, case) for name, of in scores.protocols.items() for case in of.cases}
    for place in zip(votes["protocol"], votes["case"], strict=True):
        if place not in cases:
            raise VoteError(
                f"votes: case {place[1]!r} of {place[0]!r} is not in this run. "
                "Report on the run that the study was made from."
            )
    return votes


def preference_summary(
    votes: pd.DataFrame, scores: RunScores, *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Rows as ``reports.tables.summary`` has them, of checked votes; intervals are clustered on the rater.

    Besides each protocol's own there are rows over all of them, under the protocol ``all protocols``.
    """
    import pandas as pd

    from reports.tables import SUMMARY_COLUMNS

    rows: list[tuple[object, ...]] = []
    category = _categories(votes, scores)
    methods = [t for t in scores.titles.values() if t in set(votes["method_a"]) | set(votes["method_b"])]
    for protocol in (*dict.fromkeys(votes["protocol"]), EVERYWHERE):
        of_protocol = np.ones(len(votes), bool) if protocol == EVERYWHERE else (votes["protocol"] == protocol)
        for name in (ALL, *CATEGORIES):
            chosen = np.asarray(of_protocol) & ((category == name) if name != ALL else True)
            part = votes[chosen]
            if not len(part):
                continue
            rater = pd.factorize(part["rater"])[0].astype(np.intp)
            won, got = points(part, methods)
            for metric, values, titles in (
                ("preference", won, methods),
                ("preference_votes", got, [*methods, NEITHER]),
            ):
                means = bootstrap_means(values, rater, draws=resamples, seed=seed)
                for k, title in enumerate(titles):
                    if means.n[k]:
                        ends = (float(means.value[k]), float(means.low[k]), float(means.high[k]))
                        rows.append((protocol, name, title, metric, *ends, int(means.n[k]), 0))
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})


def points(votes: pd.DataFrame, methods: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """``(V, M)``: 1, 1/2, 0 where a method took part, else NaN; ``(V, M + 1)``: who got the vote, ties last."""
    position = {title: index for index, title in enumerate(methods)}
    a = votes["method_a"].map(position).to_numpy(dtype=np.intp)
    b = votes["method_b"].map(position).to_numpy(dtype=np.intp)
    choice = votes["choice"].to_numpy(dtype=object)
    row = np.arange(len(votes))
    won = np.full((len(votes), len(methods)), np.nan)
    won[row, a] = np.where(choice == "a", 1.0, np.where(choice == "tie", 0.5, 0.0))
    won[row, b] = 1.0 - won[row, a]
    got = np.zeros((len(votes), len(methods) + 1))
    got[row, np.where(choice == "a", a, np.where(choice == "b", b, len(methods)))] = 1.0
    return won, got


def _categories(votes: pd.DataFrame, scores: RunScores) -> np.ndarray:
    names: Mapping[tuple[str, str], str] = {
        (protocol, case): CATEGORIES[code] if code >= 0 else ""
        for protocol, of in scores.protocols.items()
        for case, code in zip(of.cases, of.category, strict=True)
    }
    places = zip(votes["protocol"], votes["case"], strict=True)
    return np.array([names[place] for place in places], dtype=object)

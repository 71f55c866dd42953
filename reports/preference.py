"""Human votes into rows of the summary: two kinds of share, which are never mixed.

``preference`` is the share of the comparisons in which a method took part that it won, ties counting half:
what "X % of raters prefer it over the baselines" says. ``preference_votes`` is the share of all votes that a
method got, with the votes for neither beside it: these shares sum to 100 %. The first is of comparisons of two edits
and does not depend on how many methods were compared; the second is of all votes, those for the best of
several included, and does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import CATEGORIES
from reports.scores import ALL, RunScores
from reports.statistics import shares

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]

VOTE_COLUMNS: tuple[str, ...] = ("rater", "protocol", "case", "candidates", "answer")
"""One row per vote, as ``bench.study`` exports them: ``candidates`` a tuple of two or more methods' titles,
``answer`` one of them or ``tie``. Of a column ``role`` only ``trial`` counts (no practice, no attention checks, no
repeats), of a column ``rater_kind`` only ``human``."""

TIE = "tie"
NEITHER = "(no preference)"
"""The row of votes for neither."""
EVERYWHERE = "all protocols"


class VoteError(ValueError):
    """Votes that do not fit the run. The message says which and what to do."""


def checked(votes: pd.DataFrame, scores: RunScores) -> pd.DataFrame:
    """The votes of people, ``VOTE_COLUMNS``. Raises :class:`VoteError` for a vote on what the run has not."""
    missing = [column for column in VOTE_COLUMNS if column not in votes.columns]
    if missing:
        raise VoteError(f"votes: no column {', '.join(missing)}. They need {', '.join(VOTE_COLUMNS)}.")
    for column, kept in (("role", "trial"), ("rater_kind", "human")):
        if column in votes.columns:
            votes = votes[votes[column] == kept]
    if "question" in votes.columns and votes["question"].nunique() > 1:
        asked = ", ".join(sorted(map(str, set(votes["question"]))))
        raise VoteError(f"votes: they answer several questions ({asked}). Give the votes on one of them.")
    votes = votes[list(VOTE_COLUMNS)].reset_index(drop=True)
    known = {**{title: title for title in scores.titles.values()}, **scores.titles}
    cases = {(name, case) for name, of in scores.protocols.items() for case in of.cases}
    candidates, answers = [], []
    for row in votes.itertuples(index=False):
        shown = tuple(row.candidates)
        strange = [name for name in shown if name not in known]
        if strange or len(set(shown)) < 2:
            what = f"{strange[0]!r} is no method of this run" if strange else f"{shown!r} are no two methods"
            raise VoteError(f"votes: {what}. Report on the run that the study was made from.")
        if (row.protocol, row.case) not in cases:
            raise VoteError(
                f"votes: case {row.case!r} of {row.protocol!r} is not in this run. "
                "Report on the run that the study was made from."
            )
        if row.answer != TIE and row.answer not in shown:
            raise VoteError(f"votes: the answer {row.answer!r} was not shown; it is one of {shown} or {TIE}.")
        candidates.append(tuple(known[name] for name in shown))
        answers.append(known.get(row.answer, row.answer))
    return votes.assign(candidates=candidates, answer=answers)


def pairs(votes: pd.DataFrame) -> pd.DataFrame:
    """The checked votes between two edits, the two in columns ``a`` and ``b``."""
    two = votes[votes["candidates"].map(len) == 2]
    return two.assign(a=two["candidates"].map(lambda c: c[0]), b=two["candidates"].map(lambda c: c[1]))


def preference_summary(votes: pd.DataFrame, scores: RunScores) -> pd.DataFrame:
    """Rows as ``reports.tables.summary`` has them, of checked votes; intervals are clustered on the rater.

    Besides each protocol's own there are rows over all of them, under the protocol ``all protocols``.
    """
    import pandas as pd

    from reports.tables import SUMMARY_COLUMNS

    rows: list[tuple[object, ...]] = []
    category = _categories(votes, scores)
    shown = {title for candidates in votes["candidates"] for title in candidates}
    methods = [title for title in scores.titles.values() if title in shown]
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
                means = shares(values, rater)
                for k, title in enumerate(titles):
                    if means.n[k]:
                        ends = (float(means.value[k]), float(means.low[k]), float(means.high[k]))
                        rows.append((protocol, name, title, metric, *ends, int(means.n[k]), 0))
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})


def points(votes: pd.DataFrame, methods: list[str]) -> tuple[FloatND, FloatND]:
    """``(V, M)``: 1, 1/2, 0 where a method was one of two, else NaN; ``(V, M + 1)``: who got the vote, ties last."""
    position = {title: index for index, title in enumerate(methods)}
    won = np.full((len(votes), len(methods)), np.nan)
    got = np.zeros((len(votes), len(methods) + 1))
    for k, (shown, answer) in enumerate(zip(votes["candidates"], votes["answer"], strict=True)):
        got[k, len(methods) if answer == TIE else position[answer]] = 1.0
        if len(shown) == 2:
            for title in shown:
                won[k, position[title]] = 0.5 if answer == TIE else float(answer == title)
    return won, got


def _categories(votes: pd.DataFrame, scores: RunScores) -> NDArray[np.object_]:
    names: Mapping[tuple[str, str], str] = {
        (protocol, case): CATEGORIES[code] if code >= 0 else ""
        for protocol, of in scores.protocols.items()
        for case, code in zip(of.cases, of.category, strict=True)
    }
    places = zip(votes["protocol"], votes["case"], strict=True)
    return np.array([names[place] for place in places], dtype=object)

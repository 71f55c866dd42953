"""Human votes in a report: their shares and intervals as the study's analysis computed them.

``preference`` is the share of a method's comparisons that it won, ties counting half: what "X % of raters prefer it
over the baselines" says. ``preference_votes`` is the share of all votes that went to it, a tie being half a vote for
either: these shares sum to 100 %. The first does not depend on how many methods were compared; the second does. Of a
study that asked for the best of several, it is the share of those choices.

Results of simulated raters have names of their own, which begin with ``simulated_``: no figure of people holds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.edit import CATEGORIES
from bench.errors import BenchError
from reports.data.scores import ALL, RunScores

if TYPE_CHECKING:
    import pandas as pd

VOTE_COLUMNS: tuple[str, ...] = ("rater", "protocol", "case", "candidates", "answer")
"""One row per vote: ``candidates`` a tuple of two or more methods' titles, ``answer`` one of them or ``tie``."""

TIE = "tie"
EVERYWHERE = "all protocols"
SIMULATED = "simulated_"


class VoteError(BenchError):
    """Votes that do not fit the run. The message says which and what to do."""


@dataclass(frozen=True, eq=False)
class StudyResults:
    """The results of a study on one question, of the raters whom its rule keeps.

    Every number was computed by the study's analysis (``bench.study.votes.analysis``); a report shows it as it is.
    ``protocol`` and ``category`` are ``"all"`` in rows over all of them.
    """

    shares: pd.DataFrame
    """protocol, category, kind (``pair`` or ``best``), method, n, share, low, high, n_votes, of_all, of_all_low,
    of_all_high."""
    correlation: pd.DataFrame
    """protocol, category, metric, measure, value, low, high, n: each metric against the votes."""
    votes: pd.DataFrame
    """``VOTE_COLUMNS``: the votes that the results are made of; which cases are disputed is read from them."""
    statement: str
    """How many votes and raters, the rule that leaves raters out, how intervals are made."""
    simulated: bool = False
    """Whether the raters are simulated, not people."""


def checked(results: StudyResults, scores: RunScores) -> StudyResults:
    """The same, if the run holds what was voted on. Raises :class:`VoteError` for votes on another run's edits."""
    titles = set(scores.titles.values())
    cases = {(name, case) for name, of in scores.protocols.items() for case in of.cases}
    for row in results.votes.itertuples(index=False):
        strange = [name for name in row.candidates if name not in titles]
        if strange:
            raise VoteError(
                f"votes: {strange[0]!r} is no method of this run. Report on the run that the study was made from."
            )
        if (row.protocol, row.case) not in cases:
            raise VoteError(
                f"votes: case {row.case!r} of {row.protocol!r} is not in this run. "
                "Report on the run that the study was made from."
            )
    return replace(results, votes=results.votes[list(VOTE_COLUMNS)].reset_index(drop=True))


def shows_votes(metric: str) -> bool:
    """Whether a column of this metric shows votes."""
    return metric.removeprefix(SIMULATED).startswith("preference")


def pairs(votes: pd.DataFrame) -> pd.DataFrame:
    """The votes between two edits, the two in columns ``a`` and ``b``."""
    two = votes[votes["candidates"].map(len) == 2]
    return two.assign(a=two["candidates"].map(lambda c: c[0]), b=two["candidates"].map(lambda c: c[1]))


def preference_summary(results: StudyResults) -> pd.DataFrame:
    """Rows as ``reports.tables.table.summary`` has them; those over all protocols under ``all protocols``."""
    import pandas as pd

    from reports.tables.table import SUMMARY_COLUMNS

    shares = results.shares
    kinds = set(shares["kind"])
    picked = [("preference", "pair", "share", "", "n")] if "pair" in kinds else []
    picked.append(("preference_votes", "best" if "best" in kinds else "pair", "of_all", "of_all_", "n_votes"))
    order = {name: index for index, name in enumerate((ALL, *CATEGORIES))}
    rows: list[tuple[object, ...]] = []
    for metric, kind, value, prefix, n in picked:
        for row in shares[shares["kind"] == kind].to_dict(orient="records"):
            if row["category"] not in order:
                continue
            protocol = EVERYWHERE if row["protocol"] == "all" else row["protocol"]
            name = SIMULATED + metric if results.simulated else metric
            ends = (row[value], row[f"{prefix}low"], row[f"{prefix}high"])
            rows.append((protocol, row["category"], row["method"], name, *ends, int(row[n]), 0))
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    place = frame.assign(
        pooled=frame["protocol"] == EVERYWHERE, category=frame["category"].map(order)
    ).sort_values(["pooled", "protocol", "category", "metric"], kind="stable")
    frame = frame.loc[place.index].reset_index(drop=True)
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})

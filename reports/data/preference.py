"""Human votes in a report: their shares and intervals as the study's analysis computed them.

``preference`` is the share of a method's comparisons that it won, ties counting half. Papers state it as "X % of raters
prefer it over the baselines". It does not depend on the number of methods. ``preference_votes`` is the share of all
votes that a method got, a tie being half a vote for either. These shares sum to 100 %, so they depend on the number of
methods. Where a study asked for the best of several edits, it is the share of those choices.

Results of simulated raters have names of their own, which begin with ``simulated_``, so no figure of people holds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.edit import ALL, CATEGORIES
from bench.errors import BenchError
from reports.data.scores import RunScores

if TYPE_CHECKING:
    import pandas as pd

# One row per vote. ``candidates`` is a tuple of two or more methods' titles, ``answer`` one of them or ``tie``.
VOTE_COLUMNS: tuple[str, ...] = ("rater", "protocol", "case", "candidates", "answer")

TIE = "tie"
EVERYWHERE = "all protocols"
SIMULATED = "simulated_"


class VoteError(BenchError):
    """Votes that do not fit the run. The message says which and what to do."""


@dataclass(frozen=True, eq=False)
class StudyResults:
    """The results of a study on one question, without the raters that its rule excludes.

    Every number was computed by the study's analysis (``bench.study.votes.analysis``). A report shows it as it is.
    ``protocol`` and ``category`` are ``"all"`` in rows over all of them.
    """

    # protocol, category, kind (``pair`` or ``best``), method, n, share, low, high, n_votes, of_all, of_all_low,
    # of_all_high.
    shares: pd.DataFrame
    # protocol, category, metric, measure, value, low, high, n: each metric against the votes.
    correlation: pd.DataFrame
    # The votes that the results are made of (``VOTE_COLUMNS``). They decide which cases are disputed.
    votes: pd.DataFrame
    # Sentence with the numbers of votes and raters, the rule that excludes raters, and the kind of the intervals.
    statement: str
    # True where the raters are simulated, not people.
    simulated: bool = False


def checked(results: StudyResults, scores: RunScores) -> StudyResults:
    """The same results. Raises :class:`VoteError` for votes on a method or case that the run does not have."""
    # Votes name methods by the titles that the tables show.
    # Votes of another run would otherwise be shown under a method of the same title, or be dropped silently.
    titles = set(scores.titles.values())
    cases = {(name, case) for name, protocol in scores.protocols.items() for case in protocol.cases}
    for row in results.votes.itertuples(index=False):
        unknown = [name for name in row.candidates if name not in titles]
        if unknown:
            raise VoteError(
                f"votes: {unknown[0]!r} is no method of this run. Report on the run that the study was made from."
            )
        if (row.protocol, row.case) not in cases:
            raise VoteError(
                f"votes: case {row.case!r} of {row.protocol!r} is not in this run. "
                "Report on the run that the study was made from."
            )
    return replace(results, votes=results.votes[list(VOTE_COLUMNS)].reset_index(drop=True))


def shows_votes(metric: str) -> bool:
    """True where a column of this metric shows votes."""
    # `preference` and `preference_votes`.
    return metric.removeprefix(SIMULATED).startswith("preference")


def pairs(votes: pd.DataFrame) -> pd.DataFrame:
    """The votes between two edits, which become the columns ``a`` and ``b``."""
    two = votes[votes["candidates"].map(len) == 2]
    return two.assign(a=two["candidates"].map(lambda c: c[0]), b=two["candidates"].map(lambda c: c[1]))


def preference_summary(results: StudyResults) -> pd.DataFrame:
    """The shares as rows of the summary. Shares over all protocols have the protocol ``all protocols``."""
    import pandas as pd

    from reports.data.summary import SUMMARY_COLUMNS

    # (metric, kind of vote, column of the value, prefix of its interval's columns, column of n)
    shares = results.shares
    # A study asks for pairs, for the best of several, or for both.
    kinds = set(shares["kind"])
    sources = [("preference", "pair", "share", "", "n")] if "pair" in kinds else []
    # Both kinds in one share would count a vote among two like a vote among many.
    kind_of_votes = "best" if "best" in kinds else "pair"
    sources.append(("preference_votes", kind_of_votes, "of_all", "of_all_", "n_votes"))

    order = {name: index for index, name in enumerate((ALL, *CATEGORIES))}
    rows: list[tuple[object, ...]] = []
    for metric, kind, value, prefix, n in sources:
        for row in shares[shares["kind"] == kind].to_dict(orient="records"):
            # Categories that the tables do not have, such as those of other protocols.
            if row["category"] not in order:
                continue
            protocol = EVERYWHERE if row["protocol"] == "all" else row["protocol"]
            name = SIMULATED + metric if results.simulated else metric
            ends = (row[value], row[f"{prefix}low"], row[f"{prefix}high"])
            # A vote is never a failed edit: studies show only edits that exist.
            rows.append((protocol, row["category"], row["method"], name, *ends, int(row[n]), 0))

    # Rows over all protocols come last, categories in their own order.
    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    keys = frame.assign(pooled=frame["protocol"] == EVERYWHERE, category=frame["category"].map(order))
    keys = keys.sort_values(["pooled", "protocol", "category", "metric"], kind="stable")
    frame = frame.loc[keys.index].reset_index(drop=True)
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})

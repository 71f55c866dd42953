"""The rule that excludes raters: what it states, and whom it excludes.

A study states its rule before the first vote. Every row of its votes carries the rule in the column ``exclusion``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.study.votes import agreement
from bench.study.votes.frame import VotesError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Exclusion:
    """Rule that excludes raters, to be written down before the first vote. A bound of None is not checked."""

    # Failed attention checks that a rater may have.
    max_attention_failures: int | None = 1
    # Lowest share of repeated trials with the same answer, 0..1. Raters without repeats stay. Off by default: with
    # a handful of repeats, a careful rater of close pairs falls below any useful bound by chance.
    min_self_consistency: float | None = None
    # Lowest median time of a rater's answers, in milliseconds.
    min_median_reaction_ms: float | None = 1_000.0

    def __post_init__(self) -> None:
        """Raises ValueError for a bound outside its range."""
        if self.max_attention_failures is not None and self.max_attention_failures < 0:
            raise ValueError(f"max_attention_failures must be 0 or more, not {self.max_attention_failures}.")
        if self.min_self_consistency is not None and not 0 <= self.min_self_consistency <= 1:
            raise ValueError(f"min_self_consistency is a share, 0 to 1, not {self.min_self_consistency}.")
        # "not >=" refuses NaN too.
        if self.min_median_reaction_ms is not None and not self.min_median_reaction_ms >= 0:
            raise ValueError(f"min_median_reaction_ms must be 0 or more, not {self.min_median_reaction_ms}.")

    def to_json(self) -> str:
        """All bounds, as the column ``exclusion`` of the votes has them."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Exclusion:
        """Reads what :meth:`to_json` writes. Raises VotesError for other text."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise VotesError(
                f"column exclusion: {text[:200]!r} is no exclusion rule ({error}). Export the votes again."
            ) from error

    def reasons(self, rater: Any) -> list[str]:
        """Bounds that one rater violates, in words. ``rater`` is a row of :func:`rater_quality` as a tuple."""
        reasons = []
        # A comparison with NaN is False: raters without repeats or answers pass.
        if self.max_attention_failures is not None and rater.failures > self.max_attention_failures:
            reasons.append(f"{rater.failures} of {rater.attention} attention checks failed")
        if self.min_self_consistency is not None and rater.consistency < self.min_self_consistency:
            reasons.append(f"self-consistency {rater.consistency:.2f}")
        if self.min_median_reaction_ms is not None and rater.median_ms < self.min_median_reaction_ms:
            reasons.append(f"median reaction {rater.median_ms:.0f} ms")
        return reasons

    def __str__(self) -> str:
        """The rule in a sentence."""
        parts = []
        if self.max_attention_failures is not None:
            checks = "check" if self.max_attention_failures == 1 else "checks"
            parts.append(f"more than {self.max_attention_failures} failed attention {checks}")
        if self.min_self_consistency is not None:
            parts.append(f"self-consistency below {self.min_self_consistency:g}")
        if self.min_median_reaction_ms is not None:
            parts.append(f"a median reaction time below {self.min_median_reaction_ms:g} ms")
        return f"Raters are excluded for {', '.join(parts)}." if parts else "No rater is excluded."


def stated_rule(votes: pd.DataFrame) -> Exclusion | None:
    """The exclusion rule that the studies of the votes stated, or None where none of them states one.

    Raises VotesError where studies stated different rules: one table has one rule.
    """
    # One rule per study.
    rules: dict[str, Exclusion | None] = dict.fromkeys(sorted(set(votes["study"])))
    for study, text in votes[["study", "exclusion"]].drop_duplicates().itertuples(index=False):
        if text is None:
            continue
        rule = Exclusion.from_json(text)
        if rules[study] not in (None, rule):
            raise VotesError(
                f"the votes hold two exclusion rules of study {study}: {rules[study]} {rule} "
                "Leave out the file that was changed."
            )
        rules[study] = rule
    if not any(rules.values()):
        return None

    # One rule for all studies. A study without a rule was exported without it, so it may have had any.
    first, *later = rules
    for study in later:
        if rules[study] != rules[first]:
            sentences = [f"{name}: {rules[name] or 'no rule is stated.'}" for name in (first, study)]
            raise VotesError(
                f"the studies stated different exclusion rules. {' '.join(sentences)} Analyse them one by one."
            )
    return rules[first]


def kept_raters(votes: pd.DataFrame, raters: pd.DataFrame) -> NDArray[np.bool_]:
    """Mask of the rows of ``votes`` whose raters the rule does not exclude, (N,).

    ``raters`` is the result of :func:`rater_quality`.
    """
    excluded_rows = raters[raters["excluded"]]
    excluded = set(zip(excluded_rows["study"], excluded_rows["rater"], strict=True))
    pairs = zip(votes["study"], votes["rater"], strict=True)
    return np.array([pair not in excluded for pair in pairs], dtype=bool)


def rater_quality(votes: pd.DataFrame, rule: Exclusion) -> pd.DataFrame:
    """One row per rater: the quantities that the rule looks at, and whether and why it excludes the rater.

    ``votes`` is the result of :func:`bench.study.votes.frame.check_votes`. Columns: study, rater, votes, attention,
    failures, repeats, consistency, median_ms, excluded, why.
    """
    import pandas as pd

    keys = ["study", "rater"]
    answered = votes[votes["role"] == "trial"]
    trials = answered.groupby(keys)
    # A trial of ratings has a row per scale.
    times = answered.drop_duplicates([*keys, "trial"]).groupby(keys)
    checks = agreement.attention(votes).groupby(keys)
    repeats = agreement.repeats(votes).groupby(keys)
    index = pd.MultiIndex.from_frame(votes[keys].drop_duplicates().sort_values(keys))

    def column(values: pd.Series, missing: float) -> pd.Series:
        return values.reindex(index).fillna(missing)

    # A rater without rows of a role has a count of 0 and a mean of NaN.
    raters = pd.DataFrame(
        {
            "votes": column(trials["trial"].nunique(), 0).astype(int),
            "attention": column(checks.size(), 0).astype(int),
            "failures": column(checks["failed"].sum(), 0).astype(int),
            "repeats": column(repeats.size(), 0).astype(int),
            "consistency": column(repeats["same"].mean(), math.nan).astype(float),
            "median_ms": column(times["reaction_ms"].median(), math.nan).astype(float),
        },
        index=index,
    ).reset_index()
    reasons = ["; ".join(rule.reasons(row)) for row in raters.itertuples()]
    raters["excluded"] = [bool(text) for text in reasons]
    raters["why"] = reasons
    return raters

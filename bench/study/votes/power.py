"""Numbers of raters and trials that resolve a given difference between two methods.

The question is whether one of two methods is preferred in more than half of the votes that are no ties. ``share`` is
its part of them, and 0.5 is no difference. The test is the two-sided z test of a proportion against 0.5. Votes by one
rater resemble each other, and so do votes on one case: both make a vote worth less than an independent one, by the
design effect.

=========== ==================================================================================
code        formulas
=========== ==================================================================================
share       p
alpha       two-sided level, divided by the number of pairs (Bonferroni) where all are tested
power       1 - beta
icc_rater   rho_r: correlation of two votes by one rater on different cases
icc_case    rho_c: correlation of two votes on one case by different raters
=========== ==================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from bench.study import StudyError

NORMAL = NormalDist()

# Defaults of the correlations: assumptions, to be replaced by those of a pilot. Taste differs little between raters
# once both sides are random. Whether an edit came out well differs much between cases.
ICC_RATER, ICC_CASE = 0.02, 0.15

# Default share of ties: an assumption too.
TIES = 0.2

# Where more raters would be needed, more cases are needed instead.
_MOST_RATERS = 100_000


class PowerError(StudyError):
    """A share, level or count outside its range. The message names it."""


@dataclass(frozen=True)
class Assumptions:
    """Values that the calculation takes for granted."""

    alpha: float = 0.05
    power: float = 0.8
    # Share of votes that prefer neither. They do not enter the test.
    ties: float = TIES
    icc_rater: float = ICC_RATER
    icc_case: float = ICC_CASE

    def check(self) -> None:
        """Raises :class:`PowerError` for a value outside its range."""
        for name, low, high in (("alpha", 0.0, 0.5), ("power", 0.5, 1.0)):
            value = getattr(self, name)
            if not low < value < high:
                raise PowerError(f"{name} {value}: expected more than {low:g} and less than {high:g}.")
        for name in ("ties", "icc_rater", "icc_case"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise PowerError(f"{name} {value}: expected 0 or more, and less than 1.")
        # They are parts of one variance, and some of it is the single vote's.
        if self.icc_rater + self.icc_case >= 1:
            raise PowerError("icc_rater and icc_case: together they must be less than 1.")


@dataclass(frozen=True)
class Layout:
    """Numbers that say how the votes about one pair of methods fall on raters and cases."""

    raters: int
    # Votes of a rater about one question, on average, without repeats and attention checks.
    trials: float
    methods: int
    cases: int
    # Raters who are asked about each comparison.
    overlap: int = 1

    @property
    def pairs(self) -> int:
        """Pairs of methods."""
        return self.methods * (self.methods - 1) // 2

    @property
    def votes(self) -> float:
        """Votes about one pair. The design spreads all votes evenly over the pairs."""
        return self.raters * self.trials / self.pairs

    @property
    def per_rater(self) -> float:
        """Votes of one rater about one pair, for those who have any."""
        return max(1.0, self.trials / self.pairs)

    @property
    def per_case(self) -> float:
        """Votes on one case about one pair, for those that have any."""
        # Comparisons come in groups of ``overlap`` raters, so a case with one vote about the pair has that many.
        return max(float(self.overlap), self.votes / self.cases)

    def check(self) -> None:
        """Raises :class:`PowerError` for a count below its minimum."""
        for name, low in (("raters", 1), ("methods", 2), ("cases", 1), ("overlap", 1)):
            if getattr(self, name) < low:
                raise PowerError(f"{name} {getattr(self, name)}: expected {low} or more.")
        if not self.trials > 0:
            raise PowerError(f"trials {self.trials}: expected more than 0.")


def design_effect(per_rater: float, per_case: float, icc_rater: float, icc_case: float) -> float:
    """Factor by which clusters multiply the variance of a share. Raters and cases are crossed.

    1 + (m_r - 1) rho_r + (m_c - 1) rho_c: each vote is correlated with m_r - 1 others through its rater and with
    m_c - 1 through its case. With one kind of clusters this is Kish's design effect (Survey Sampling, 1965, section
    5.4).
    """
    return 1 + (per_rater - 1) * icc_rater + (per_case - 1) * icc_case


def effective_votes(layout: Layout, assumptions: Assumptions) -> float:
    """Number of independent votes about one pair that the layout's votes are worth, ties taken off.

    Raises :class:`PowerError` for values outside their ranges.
    """
    layout.check()
    assumptions.check()
    # Ties thin out clusters too: the votes that are left have fewer relatives.
    decided = 1 - assumptions.ties
    effect = design_effect(
        max(1.0, layout.per_rater * decided),
        max(1.0, layout.per_case * decided),
        assumptions.icc_rater,
        assumptions.icc_case,
    )
    return layout.votes * decided / effect


def power_of(share: float, votes: float, *, alpha: float = 0.05) -> float:
    """Probability that the test finds a difference with ``votes`` independent votes. Both tails are counted."""
    _check_share(share, even=True)
    # The share is about normal around its true value. The test's edge is computed under no difference.
    spread = math.sqrt(share * (1 - share) / votes)
    edge = NORMAL.inv_cdf(1 - alpha / 2) * 0.5 / math.sqrt(votes)
    above = 1 - NORMAL.cdf((0.5 + edge - share) / spread)
    below = NORMAL.cdf((0.5 - edge - share) / spread)
    return above + below


def resolvable(layout: Layout, assumptions: Assumptions = Assumptions(), *, all_pairs: bool = True) -> float:
    """The smallest share above 0.5 that a study of this layout tells from 0.5, or 1.0 where it tells none.

    ``all_pairs``: every pair is tested, so the level is divided by their number. Raises :class:`PowerError`.
    """
    votes = effective_votes(layout, assumptions)
    alpha = assumptions.alpha / (layout.pairs if all_pairs else 1)
    low, high = 0.5, 1.0 - 1e-9
    # So few votes that even a unanimous preference could be chance.
    if power_of(high, votes, alpha=alpha) < assumptions.power:
        return 1.0
    # Bisection: power grows with the share. 60 halvings reach the last digit of a float.
    for _ in range(60):
        middle = (low + high) / 2
        if power_of(middle, votes, alpha=alpha) < assumptions.power:
            low = middle
        else:
            high = middle
    return high


def raters_needed(
    share: float,
    *,
    trials: float,
    methods: int,
    cases: int,
    overlap: int = 1,
    assumptions: Assumptions = Assumptions(),
) -> int | None:
    """The fewest raters, of ``trials`` votes each, that tell ``share`` from 0.5 where all pairs of methods are tested.

    None where even 100,000 are not enough.

    With more raters each case is judged more often, which tells less and less of other cases: where votes on a case
    resemble each other (``icc_case``), only more cases help from some point on. Raises :class:`PowerError`.
    """
    _check_share(share)
    # The test has two sides: 0.4 is as far from 0.5 as 0.6.
    top = max(share, 1 - share)

    def enough(raters: int) -> bool:
        layout = Layout(raters, trials, methods, cases, overlap)
        return resolvable(layout, assumptions) <= top

    if not enough(_MOST_RATERS):
        return None
    # Bisection: ``low`` raters are too few, ``high`` are enough.
    low, high = 0, _MOST_RATERS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_share(share: float, *, even: bool = False) -> None:
    if not 0 < share < 1 or (share == 0.5 and not even):
        raise PowerError(f"share {share}: expected between 0 and 1, and other than 0.5.")

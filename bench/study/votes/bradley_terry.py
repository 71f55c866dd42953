"""Bradley-Terry strengths with Davidson's ties and Luce's choice, by maximum likelihood.

============================  =======================================================
paper                         code
============================  =======================================================
log pi_i (strength)           ``beta[i]``, sum 0
log nu (Davidson's tie)       ``beta[-1]`` where a tie was ever seen
============================  =======================================================

Bradley and Terry (Biometrika 39, 1952): P(i over j) = pi_i / (pi_i + pi_j). Davidson (JASA 65, 1970): with ties,

    P(i over j) = pi_i / D,   P(tie) = nu sqrt(pi_i pi_j) / D,   D = pi_i + pi_j + nu sqrt(pi_i pi_j).

Luce (Individual Choice Behavior, 1959): the choice of the best of a set S, P(i of S) = pi_i / sum of pi over S. This is
the first stage of Plackett-Luce, and a choice of the best says no more.

All three are one conditional logit: alternative a of a choice set has utility x_a . beta, where x is a unit vector for
a method and (1/2, 1/2, 1) over (i, j, nu) for a tie. The log-likelihood is concave. Newton with step halving finds its
maximum, for many weightings of the same votes at once.

**Where there is no maximum.** Without ties, a method that never lost or never won has no finite estimate (Ford,
American Mathematical Monthly 64, 1957). With ties there are rarer cases, such as ties and wins of one side alone. Every
method then gets its maximum under a normal prior of mean 0 and standard deviation :data:`PRIOR_SD` on each log strength
(and on log nu). The fit says so (``regularised``) and names the reason. Methods that no chain of votes links cannot be
compared at all: :class:`Unlinked`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.study.votes.frame import TIE

Floats = NDArray[np.float64]

# Prior of a log strength that the votes alone do not bound. Two standard deviations are odds of 50 to 1 against the
# average: weak enough to let a few lost votes decide, strong enough for finite estimates.
PRIOR_SD = 2.0

# Newton converges in under ten steps. More are needed only where the maximum is at infinity.
_STEPS = 40
# Log odds between two methods, or of a tie, beyond which a maximum is taken to be at infinity: 6 x 10^7 to 1.
_FAR = 18.0
# Length of a last step, in log odds.
_TOLERANCE = 1e-9
# Longest step, in log odds. A full Newton step from far away overshoots.
_LONGEST_STEP = 4.0
# Numbers that a block of draws holds at a time, 32 MB: the products of features take columns x P per draw.
_BLOCK = 1 << 22

# (candidates, answer: one of them or ``"tie"``)
Outcome = tuple[tuple[str, ...], str]


class Unlinked(BenchError):
    """No chain of votes links all methods. The message names the groups and the remedy."""


@dataclass(frozen=True, eq=False)
class Choices:
    """The distinct choice sets of some votes. A column is one alternative of one set."""

    methods: tuple[str, ...]
    # Indices of methods, ascending.
    sets: tuple[tuple[int, ...], ...]
    # Whether pairs have a tie as a third alternative.
    ties: bool
    # ``"pair"`` or ``"best"`` for each set. A choice of the best has no tie.
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, outcomes: Iterable[tuple[str, tuple[str, ...], str]]) -> Choices:
        """Takes (kind, candidates, answer) of each vote or each distinct vote. Methods are in alphabetical order."""
        # The order of the candidates on the screen is no part of the model.
        distinct = {(kind, frozenset(candidates), answer) for kind, candidates, answer in outcomes}
        methods = tuple(sorted({title for _, candidates, _ in distinct for title in candidates}))
        number = {title: i for i, title in enumerate(methods)}
        sets = sorted(
            {(kind, tuple(sorted(number[title] for title in candidates))) for kind, candidates, _ in distinct}
        )
        return cls(
            methods,
            tuple(members for _, members in sets),
            any(answer == TIE for _, _, answer in distinct),
            tuple(kind for kind, _ in sets),
        )

    @property
    def parameters(self) -> int:
        """Number P of parameters: a log strength per method and, with ties, log nu."""
        return len(self.methods) + self.ties

    @cached_property
    def column(self) -> Mapping[tuple[str, frozenset[str], str], int]:
        """(kind, candidates, answer) -> column."""
        columns: dict[tuple[str, frozenset[str], str], int] = {}
        for kind, members in zip(self.kinds, self.sets, strict=True):
            candidates = frozenset(self.methods[i] for i in members)
            for i in members:
                columns[kind, candidates, self.methods[i]] = len(columns)
            if kind == "pair" and self.ties:
                columns[kind, candidates, TIE] = len(columns)
        return columns

    @cached_property
    def features(self) -> Floats:
        """Vector x of each column, (columns, P)."""
        rows = []
        for kind, members in zip(self.kinds, self.sets, strict=True):
            for i in members:
                row = np.zeros(self.parameters)
                row[i] = 1
                rows.append(row)
            if kind == "pair" and self.ties:
                # log(nu sqrt(pi_i pi_j)) = log nu + (log pi_i + log pi_j) / 2
                row = np.zeros(self.parameters)
                row[list(members)] = 0.5
                row[-1] = 1
                rows.append(row)
        return np.array(rows).reshape(len(rows), self.parameters)

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """First column of each set, (sets,)."""
        sizes = [
            len(members) + (kind == "pair" and self.ties)
            for kind, members in zip(self.kinds, self.sets, strict=True)
        ]
        return np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.intp)

    @cached_property
    def owner(self) -> NDArray[np.intp]:
        """Set of each column, (columns,)."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.features))))


@dataclass(frozen=True, eq=False)
class Fit:
    """Maximum-likelihood strengths. They are log odds: a difference d wins e^d times as often as it loses."""

    methods: tuple[str, ...]
    # (M,) log strengths, sum 0.
    strengths: Floats
    # Davidson's nu. None where no vote is a tie.
    tie: float | None
    # Whether the votes alone have no maximum, so that the prior decided.
    regularised: bool
    # Reason for the prior in words. Empty where the votes sufficed.
    note: str
    # (M, M) whether a chain of wins leads from the row's method to the column's. Where none does, the prior alone
    # bounds by how much the column's is stronger. All True without the prior.
    reach: NDArray[np.bool_]

    @property
    def above(self) -> NDArray[np.bool_]:
        """Methods whose strength no vote bounds from above, (M,): they beat all that beat them, by chains of wins.

        A group of more than half of the methods is none of these: it holds the zero of the scale, and the others move
        away from it.
        """
        open_: NDArray[np.bool_] = (self.reach >= self.reach.T).all(axis=1) & self._few
        return open_

    @property
    def below(self) -> NDArray[np.bool_]:
        """Methods whose strength no vote bounds from below, (M,)."""
        open_: NDArray[np.bool_] = (self.reach <= self.reach.T).all(axis=1) & self._few
        return open_

    @property
    def _few(self) -> NDArray[np.bool_]:
        """Methods whose group is at most half of all, (M,). Members of a group beat each other by chains of wins."""
        few: NDArray[np.bool_] = 2 * (self.reach & self.reach.T).sum(axis=1) <= len(self.methods)
        return few

    def probability(self, first: str, second: str) -> tuple[float, float, float]:
        """Probabilities of the model: the first is preferred, the second is, a tie."""
        a, b = (self.strengths[self.methods.index(title)] for title in (first, second))
        weights = np.exp([a, b, (a + b) / 2]) * (1, 1, self.tie or 0.0)
        first_wins, second_wins, tie = (weights / weights.sum()).tolist()
        return first_wins, second_wins, tie


def fit_counts(choices: Choices, counts: Floats) -> tuple[Fit, Floats]:
    """The fit and its parameters, (P,), from the votes per column. Raises :class:`Unlinked`."""
    # The maximum of the votes alone, if there is one.
    _check_linked(choices, counts)
    m = len(choices.methods)
    start = np.zeros(choices.parameters)
    beta, failed = _maximise(choices, counts[None], start, prior=0.0)
    reach = np.ones((m, m), dtype=bool)
    note = ""

    # Else the maximum under the prior, and what the votes leave open.
    if failed[0]:
        # A tie bounds both sides, unless ties bound nothing: then wins alone are looked at.
        reach = _reach(_beat(choices, counts, ties=True))
        if reach.all():
            reach = _reach(_beat(choices, counts))
        beta, _ = _maximise(choices, counts[None], start, prior=PRIOR_SD**-2)
        note = (
            f"{_reason(choices, counts)} Strengths are those under a normal prior of standard deviation "
            f"{PRIOR_SD:g} on the log strengths."
        )
    parameters = beta[0]
    result = Fit(
        methods=choices.methods,
        strengths=parameters[:m],
        tie=float(np.exp(parameters[-1])) if choices.ties else None,
        regularised=bool(failed[0]),
        note=note,
        reach=reach,
    )
    return result, parameters


def fit_draws(choices: Choices, counts: Floats, start: Floats, *, regularised: bool) -> tuple[Floats, int]:
    """Parameters of each draw, (B, P), from its votes per column, (B, columns), and how many draws needed the prior.

    A method that a draw has no votes on is NaN in it. ``start``: the parameters of the estimate. ``regularised``:
    whether the estimate needed the prior. Then all draws get it, so that they resample the estimate that is shown.
    """
    rows = max(1, _BLOCK // max(1, len(choices.features) * choices.parameters))
    blocks, n_regularised = [], 0
    for first in range(0, len(counts), rows):
        block = counts[first : first + rows]
        if regularised:
            beta, _ = _maximise(choices, block, start, prior=PRIOR_SD**-2)
            n_regularised += len(block)
        else:
            beta, failed = _maximise(choices, block, start, prior=0.0)
            # Draws without a maximum are the extreme ones: leaving them out would make intervals too narrow.
            if failed.any():
                beta[failed], _ = _maximise(choices, block[failed], start, prior=PRIOR_SD**-2)
                n_regularised += int(failed.sum())
        n_shown = np.add.reduceat(block, choices.starts, axis=1) @ _members(choices)
        beta[:, : len(choices.methods)][n_shown == 0] = np.nan
        blocks.append(beta)
    return np.concatenate(blocks), n_regularised


def influence(choices: Choices, counts: Floats, beta: Floats, *, regularised: bool) -> Floats:
    """Change of each parameter by one more vote in each column, (columns, P).

    This is the influence of an M-estimator: H^-1 times the vote's score x_a - mean of x over its set, where H is the
    negative Hessian of all votes (Huber, Robust Statistics, 1981).
    """
    p = _probabilities(choices, beta[None])
    totals = np.add.reduceat(counts, choices.starts)[None]
    mean = np.add.reduceat(p[0][:, None] * choices.features, choices.starts, axis=0)
    score = choices.features - mean[choices.owner]
    hessian = _information(choices, p, totals, PRIOR_SD**-2 if regularised else 0.0)[0]
    moved: Floats = np.linalg.solve(hessian, score.T).T
    return moved


# --- Newton ------------------------------------------------------------------------------------------


def _maximise(
    choices: Choices, counts: Floats, start: Floats, *, prior: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Parameters (B, P) that maximise each draw's likelihood, and which draws have no finite maximum, (B,).

    ``counts``: votes per column, (B, columns). ``prior``: precision of the normal prior on each parameter, 0 for none.
    """
    x, m = choices.features, len(choices.methods)
    totals = np.add.reduceat(counts, choices.starts, axis=1)  # (B, sets)
    beta = np.tile(start, (len(counts), 1))
    value = _log_likelihood(choices, counts, beta) - prior / 2 * (beta**2).sum(axis=1)
    failed = np.ones(len(counts), dtype=bool)
    # Draws that have neither converged nor gone far.
    active = np.arange(len(counts))
    for _ in range(_STEPS):
        # Newton's step. The gradient of a conditional logit is observed less expected votes, times the features.
        current, n = beta[active], totals[active]
        p = _probabilities(choices, current)
        gradient = (counts[active] - n[:, choices.owner] * p) @ x - prior * current
        step = np.linalg.solve(_information(choices, p, n, prior), gradient[..., None])[..., 0]
        length = np.abs(step).max(axis=1)
        converged = length < _TOLERANCE
        step *= np.minimum(1, _LONGEST_STEP / np.maximum(length, 1e-300))[:, None]

        # The likelihood is concave, so some fraction of the step is an improvement, up to rounding at the top.
        slack = 1e-12 * (1 + np.abs(value[active]))
        for _ in range(20):
            trial = current + step
            new = _log_likelihood(choices, counts[active], trial) - prior / 2 * (trial**2).sum(axis=1)
            worse = new < value[active] - slack
            if not worse.any():
                break
            step[worse] /= 2
        beta[active], value[active] = trial, new

        # Strengths are differences: their mean is 0. Those that went far have no maximum.
        beta[active, :m] -= beta[active, :m].mean(axis=1, keepdims=True)
        failed[active[converged]] = False
        far = _spread(beta[active], m) > _FAR
        failed[active[far]] = True
        active = active[~(converged | far)]
        if not len(active):
            break
    return beta, failed


def _members(choices: Choices) -> Floats:
    """1 where a set shows a method, (sets, M)."""
    shows = np.zeros((len(choices.sets), len(choices.methods)))
    for row, members in enumerate(choices.sets):
        shows[row, list(members)] = 1
    return shows


def _spread(beta: Floats, methods: int) -> Floats:
    """The largest log odds that the parameters (B, P) of so many methods imply, (B,)."""
    strengths, log_nu = beta[:, :methods], beta[:, methods:]
    largest: Floats = np.maximum(np.ptp(strengths, axis=1), np.abs(log_nu).max(axis=1, initial=0))
    return largest


def _probabilities(choices: Choices, beta: Floats) -> Floats:
    """Probability of each column within its set, (B, columns): a softmax of the utilities."""
    utility = beta @ choices.features.T
    # The largest utility of the set is taken off, so that no exponential overflows.
    top = np.maximum.reduceat(utility, choices.starts, axis=1)
    weight = np.exp(utility - top[:, choices.owner])
    p: Floats = weight / np.add.reduceat(weight, choices.starts, axis=1)[:, choices.owner]
    return p


def _log_likelihood(choices: Choices, counts: Floats, beta: Floats) -> Floats:
    """Log-likelihood of each draw, (B,): sum of n_a (u_a - log of the sum of exp u over the set of a)."""
    utility = beta @ choices.features.T
    top = np.maximum.reduceat(utility, choices.starts, axis=1)
    total = np.add.reduceat(np.exp(utility - top[:, choices.owner]), choices.starts, axis=1)
    values: Floats = (counts * (utility - (top + np.log(total))[:, choices.owner])).sum(axis=1)
    return values


def _information(choices: Choices, p: Floats, totals: Floats, prior: float) -> Floats:
    """Negative Hessian, (B, P, P), made regular along the direction that the likelihood does not see.

    ``p``: probabilities, (B, columns). ``totals``: votes per set, (B, sets).
    """
    x, m = choices.features, len(choices.methods)
    size = choices.parameters
    # Votes of the set times the covariance of x within it: E[x x'] - E[x] E[x]'.
    weighted = totals[:, choices.owner] * p
    squares = (weighted @ (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)).reshape(-1, size, size)
    mean = np.add.reduceat(p[..., None] * x, choices.starts, axis=1)
    hessian: Floats = squares - (mean * totals[..., None]).transpose(0, 2, 1) @ mean
    # Adding one to all strengths changes nothing: any curvature along it keeps the step's mean at 0.
    scale = np.maximum(1.0, np.trace(hessian, axis1=1, axis2=2))[:, None, None] / m
    hessian[:, :m, :m] += scale / m
    diagonal = np.arange(size)
    # The second term keeps a flat direction (a draw without a method) solvable. It is far below rounding.
    hessian[:, diagonal, diagonal] += prior + 1e-10
    return hessian


# --- which methods can be compared -----------------------------------------------------------------------------


def _check_linked(choices: Choices, counts: Floats) -> None:
    """Raises :class:`Unlinked` where the sets with votes do not link all methods."""
    # Each method begins as a group of its own. A set with votes joins the groups of its members.
    has_votes = np.add.reduceat(counts, choices.starts) > 0
    group = list(range(len(choices.methods)))
    for members, any_votes in zip(choices.sets, has_votes, strict=True):
        if any_votes:
            joined = {group[i] for i in members}
            group = [min(joined) if g in joined else g for g in group]
    if len(set(group)) > 1:
        names = [
            "{" + ", ".join(t for t, g in zip(choices.methods, group, strict=True) if g == number) + "}"
            for number in sorted(set(group))
        ]
        raise Unlinked(
            f"no votes link {' and '.join(names)}: strengths can only be compared within each. "
            "Show methods of the groups side by side, or analyse them as studies of their own."
        )


def _beat(choices: Choices, counts: Floats, *, ties: bool = False) -> NDArray[np.bool_]:
    """Matrix (M, M): the row's method was preferred to the column's at least once. ``ties`` count both ways."""
    m = len(choices.methods)
    beat = np.zeros((m, m), dtype=bool)
    for (_, candidates, answer), column in choices.column.items():
        if counts[column] > 0:
            members = [choices.methods.index(title) for title in candidates]
            for winner in members:
                if answer == choices.methods[winner] or (answer == TIE and ties):
                    beat[winner, members] = True
    beat[np.arange(m), np.arange(m)] = False
    return beat


def _reach(beat: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Matrix (M, M): a chain of wins leads from the row's method to the column's. One leads from each to itself."""
    m = len(beat)
    reach = beat | np.eye(m, dtype=bool)
    # Each squaring doubles the length of the chains. None needs more than m - 1 wins.
    for _ in range(m.bit_length()):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    return reach


def _reason(choices: Choices, counts: Floats) -> str:
    """Names a method that never lost or never won, or else the groups between which all votes go one way."""
    beat = _beat(choices, counts)
    never_lost = [title for i, title in enumerate(choices.methods) if not beat[:, i].any()]
    never_won = [title for i, title in enumerate(choices.methods) if not beat[i].any()]
    outcomes = ((never_lost, "lost"), (never_won, "won"))
    sentences = [f"{', '.join(titles)} never {outcome}." for titles, outcome in outcomes if titles]
    if sentences:
        return " ".join(sentences)

    # Ford's condition: a maximum exists where chains of wins lead from every method to every other.
    reach = _reach(beat)
    for i in range(len(reach)):
        over = [title for j, title in enumerate(choices.methods) if not reach[j, i]]
        if over:
            under = [title for j, title in enumerate(choices.methods) if reach[j, i]]
            return f"{{{', '.join(over)}}} never won against {{{', '.join(under)}}}."
    if choices.ties:
        return "Wins all go one way wherever there was no tie."
    return "The votes do not bound the strengths."

"""Bradley-Terry strengths with Davidson's ties and Luce's choice, by maximum likelihood.

============================  =======================================================
paper                         code
============================  =======================================================
log pi_i (strength)           ``beta[i]``, sum 0
log nu (Davidson's tie)       ``beta[-1]`` where a tie was ever seen
============================  =======================================================

Bradley and Terry (1952): P(i over j) = pi_i / (pi_i + pi_j). Davidson (1970): with ties,

    P(i over j) = pi_i / D,   P(tie) = nu sqrt(pi_i pi_j) / D,   D = pi_i + pi_j + nu sqrt(pi_i pi_j).

Luce (1959): the choice of the best of a set S, P(i of S) = pi_i / sum of pi over S: the first stage of
Plackett-Luce, which is all that a choice of the best says. All three are one conditional logit: alternative a
of a choice set has utility x_a . beta, where x is a unit vector for a method and (1/2, 1/2, 1) over
(i, j, nu) for a tie. The log-likelihood is concave; Newton with step halving finds its maximum, for many
weightings of the same votes at once.

**Where there is no maximum.** Without ties, a method that never lost, or never won, has no finite estimate
(Ford 1957); with ties there are rarer cases, such as ties and wins of one side alone. Every method then gets
its maximum under a normal prior of mean 0 and standard deviation :data:`PRIOR_SD` on each log strength (and on
log nu), the fit says so (``regularised``), and names why. Methods that no chain of votes links cannot be
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

PRIOR_SD = 2.0
"""Of a log strength, where the votes alone do not bound it: odds of 50 to 1 against the average at two of them."""

_STEPS = 40
_FAR = 18.0
"""Log odds between two methods, or of a tie, beyond which a maximum is taken to be at infinity."""

_TOLERANCE = 1e-9
_BLOCK = 1 << 22

Outcome = tuple[tuple[str, ...], str]
"""The methods shown, and the answer: one of them or ``"tie"``."""


class Unlinked(BenchError):
    """No chain of votes links all methods. The message names the groups and the remedy."""


@dataclass(frozen=True, eq=False)
class Choices:
    """The distinct choice sets of some votes. A column is one alternative of one set."""

    methods: tuple[str, ...]
    sets: tuple[tuple[int, ...], ...]
    """Indices of methods, ascending."""
    ties: bool
    """Whether sets of two have a tie as a third alternative."""
    kinds: tuple[str, ...]
    """Of each set: ``"pair"`` or ``"best"``; a choice of the best has no tie."""

    @classmethod
    def of(cls, outcomes: Iterable[tuple[str, tuple[str, ...], str]]) -> Choices:
        """From (kind, shown, answer) of each vote or each distinct vote; methods in alphabetical order."""
        seen = {(kind, frozenset(shown), answer) for kind, shown, answer in outcomes}
        methods = tuple(sorted({title for _, shown, _ in seen for title in shown}))
        number = {title: i for i, title in enumerate(methods)}
        sets = sorted({(kind, tuple(sorted(number[title] for title in shown))) for kind, shown, _ in seen})
        return cls(
            methods,
            tuple(members for _, members in sets),
            any(answer == TIE for _, _, answer in seen),
            tuple(kind for kind, _ in sets),
        )

    @property
    def parameters(self) -> int:
        """P: a log strength per method and, with ties, log nu."""
        return len(self.methods) + self.ties

    @cached_property
    def column(self) -> Mapping[tuple[str, frozenset[str], str], int]:
        """(kind, shown, answer) -> column."""
        found: dict[tuple[str, frozenset[str], str], int] = {}
        for kind, members in zip(self.kinds, self.sets, strict=True):
            shown = frozenset(self.methods[i] for i in members)
            for i in members:
                found[kind, shown, self.methods[i]] = len(found)
            if kind == "pair" and self.ties:
                found[kind, shown, TIE] = len(found)
        return found

    @cached_property
    def features(self) -> Floats:
        """The x of each column, (columns, P)."""
        rows = []
        for kind, members in zip(self.kinds, self.sets, strict=True):
            for i in members:
                row = np.zeros(self.parameters)
                row[i] = 1
                rows.append(row)
            if kind == "pair" and self.ties:
                row = np.zeros(self.parameters)
                row[list(members)] = 0.5
                row[-1] = 1
                rows.append(row)
        return np.array(rows).reshape(len(rows), self.parameters)

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """First column of each set."""
        sizes = [
            len(members) + (kind == "pair" and self.ties)
            for kind, members in zip(self.kinds, self.sets, strict=True)
        ]
        return np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.intp)

    @cached_property
    def owner(self) -> NDArray[np.intp]:
        """Set of each column."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.features))))


@dataclass(frozen=True, eq=False)
class Fit:
    """Maximum-likelihood strengths. They are log odds: a difference d wins e^d times as often as it loses."""

    methods: tuple[str, ...]
    strengths: Floats
    """Log strengths, sum 0."""
    tie: float | None
    """Davidson's nu; None where no tie was seen."""
    log_likelihood: float
    regularised: bool
    """Whether the votes alone have no maximum, so that the prior decided."""
    note: str
    """Why, in words; empty where the votes sufficed."""
    reach: NDArray[np.bool_]
    """Whether a chain of wins leads from the row's method to the column's, (methods, methods). Where none does, the
    votes do not bound by how much the column's is stronger, and the prior does; all True without the prior."""

    @property
    def above(self) -> NDArray[np.bool_]:
        """Methods whose strength nothing bounds from above, (methods,): all that beat them, they beat too.

        A group of more than half of the methods is none: it holds the zero of the scale, from which others go.
        """
        open_: NDArray[np.bool_] = (self.reach >= self.reach.T).all(axis=1) & self._few
        return open_

    @property
    def below(self) -> NDArray[np.bool_]:
        """The same from below."""
        open_: NDArray[np.bool_] = (self.reach <= self.reach.T).all(axis=1) & self._few
        return open_

    @property
    def _few(self) -> NDArray[np.bool_]:
        """Whether at most half of the methods are in one group with the method: each beats the other by a chain."""
        few: NDArray[np.bool_] = 2 * (self.reach & self.reach.T).sum(axis=1) <= len(self.methods)
        return few

    def probability(self, first: str, second: str) -> tuple[float, float, float]:
        """(first is preferred, second is, tie) as the model has it."""
        a, b = (self.strengths[self.methods.index(title)] for title in (first, second))
        weights = np.exp([a, b, (a + b) / 2]) * (1, 1, self.tie or 0.0)
        first_, second_, tie = (weights / weights.sum()).tolist()
        return first_, second_, tie


def fit(outcomes: Mapping[Outcome, float], *, kind: str = "pair") -> Fit:
    """The strengths from how often each outcome was seen; all of one ``kind`` (``"pair"`` or ``"best"``).

    ``{(("A", "B"), "A"): 7, (("A", "B"), "tie"): 2, ...}``. Raises :class:`Unlinked`, and ValueError for no
    votes.
    """
    return fit_votes({(kind, shown, answer): n for (shown, answer), n in outcomes.items()})


def fit_votes(outcomes: Mapping[tuple[str, tuple[str, ...], str], float]) -> Fit:
    """:func:`fit` for pairs and choices of the best together, keyed (kind, shown, answer)."""
    outcomes = {key: n for key, n in outcomes.items() if n > 0}
    if not outcomes:
        raise ValueError("no votes to fit strengths to.")
    choices = Choices.of(outcomes)
    counts = np.zeros(len(choices.features))
    for (kind, shown, answer), n in outcomes.items():
        counts[choices.column[kind, frozenset(shown), answer]] += n
    return fit_counts(choices, counts)[0]


def fit_counts(choices: Choices, counts: Floats) -> tuple[Fit, Floats]:
    """The fit and its parameters, (P,), from the votes per column. Raises :class:`Unlinked`."""
    _check_linked(choices, counts)
    beta, failed = _maximise(choices, counts[None], np.zeros(choices.parameters), prior=0.0)
    note = ""
    reach = np.ones((len(choices.methods), len(choices.methods)), dtype=bool)
    if failed[0]:
        # A tie bounds both sides, unless ties bound nothing: then wins alone are looked at.
        reach = _reach(_beat(choices, counts, ties=True))
        if reach.all():
            reach = _reach(_beat(choices, counts))
        beta, _ = _maximise(choices, counts[None], np.zeros(choices.parameters), prior=PRIOR_SD**-2)
        note = _why(choices, counts) + (
            f" Strengths are those under a normal prior of standard deviation {PRIOR_SD:g} on the log strengths."
        )
    best = beta[0]
    value = float(_log_likelihood(choices, counts[None], beta)[0])
    m = len(choices.methods)
    tie = float(np.exp(best[-1])) if choices.ties else None
    return Fit(choices.methods, best[:m], tie, value, bool(failed[0]), note, reach), best


def fit_draws(choices: Choices, counts: Floats, start: Floats, *, regularised: bool) -> tuple[Floats, int]:
    """Parameters of each draw, (B, P), from its votes per column, (B, columns); and how many needed the prior.

    A method that a draw has no votes on is NaN there. ``start``: the parameters of the estimate.
    ``regularised``: whether that one needed the prior: then all draws get it.
    """
    rows = max(1, _BLOCK // max(1, len(choices.features) * choices.parameters))
    found, needed = [], 0
    for first in range(0, len(counts), rows):
        block = counts[first : first + rows]
        if regularised:
            beta, failed = _maximise(choices, block, start, prior=PRIOR_SD**-2)
            needed += len(block)
        else:
            beta, failed = _maximise(choices, block, start, prior=0.0)
            if failed.any():
                beta[failed], _ = _maximise(choices, block[failed], start, prior=PRIOR_SD**-2)
                needed += int(failed.sum())
        shown = np.add.reduceat(block, choices.starts, axis=1) @ _members(choices)
        beta[:, : len(choices.methods)][shown == 0] = np.nan
        found.append(beta)
    return np.concatenate(found), needed


def influence(choices: Choices, counts: Floats, beta: Floats, *, regularised: bool) -> Floats:
    """How far one more vote in each column moves each parameter, (columns, P): H^-1 times its score."""
    p = _probabilities(choices, beta[None])
    totals = np.add.reduceat(counts, choices.starts)[None]
    mean = np.add.reduceat(p[0][:, None] * choices.features, choices.starts, axis=0)
    score = choices.features - mean[choices.owner]
    hessian = _information(choices, p, totals, PRIOR_SD**-2 if regularised else 0.0)[0]
    found: Floats = np.linalg.solve(hessian, score.T).T
    return found


# --- Newton ------------------------------------------------------------------------------------------


def _maximise(
    choices: Choices, counts: Floats, start: Floats, *, prior: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Parameters (B, P) that maximise each draw's likelihood, and which draws have no (finite) maximum."""
    x, m = choices.features, len(choices.methods)
    beta = np.tile(start, (len(counts), 1))
    failed = np.ones(len(counts), dtype=bool)
    active = np.arange(len(counts))
    totals = np.add.reduceat(counts, choices.starts, axis=1)
    value = _log_likelihood(choices, counts, beta) - prior / 2 * (beta**2).sum(axis=1)
    for _ in range(_STEPS):
        here, n = beta[active], totals[active]
        p = _probabilities(choices, here)
        gradient = (counts[active] - n[:, choices.owner] * p) @ x - prior * here
        step = np.linalg.solve(_information(choices, p, n, prior), gradient[..., None])[..., 0]
        length = np.abs(step).max(axis=1)
        done = length < _TOLERANCE
        step *= np.minimum(1, 4 / np.maximum(length, 1e-300))[:, None]
        # Concave, so that some fraction of the step is an improvement; rounding stops it at the top.
        slack = 1e-12 * (1 + np.abs(value[active]))
        for _ in range(20):
            trial = here + step
            new = _log_likelihood(choices, counts[active], trial) - prior / 2 * (trial**2).sum(axis=1)
            worse = new < value[active] - slack
            if not worse.any():
                break
            step[worse] /= 2
        beta[active], value[active] = trial, new
        beta[active, :m] -= beta[active, :m].mean(axis=1, keepdims=True)
        failed[active[done]] = False
        far = _spread(beta[active], m) > _FAR
        failed[active[far]] = True
        active = active[~(done | far)]
        if not len(active):
            break
    return beta, failed


def _members(choices: Choices) -> Floats:
    """1 where a set (row) shows a method (column)."""
    found = np.zeros((len(choices.sets), len(choices.methods)))
    for row, members in enumerate(choices.sets):
        found[row, list(members)] = 1
    return found


def _spread(beta: Floats, methods: int) -> Floats:
    """The largest log odds that the parameters (B, P) of so many methods imply."""
    strengths = beta[:, :methods]
    found: Floats = np.maximum(np.ptp(strengths, axis=1), np.abs(beta[:, methods:]).max(axis=1, initial=0))
    return found


def _probabilities(choices: Choices, beta: Floats) -> Floats:
    """P of each column within its set, (B, columns)."""
    utility = beta @ choices.features.T
    top = np.maximum.reduceat(utility, choices.starts, axis=1)
    weight = np.exp(utility - top[:, choices.owner])
    found: Floats = weight / np.add.reduceat(weight, choices.starts, axis=1)[:, choices.owner]
    return found


def _log_likelihood(choices: Choices, counts: Floats, beta: Floats) -> Floats:
    utility = beta @ choices.features.T
    top = np.maximum.reduceat(utility, choices.starts, axis=1)
    total = np.add.reduceat(np.exp(utility - top[:, choices.owner]), choices.starts, axis=1)
    found: Floats = (counts * (utility - (top + np.log(total))[:, choices.owner])).sum(axis=1)
    return found


def _information(choices: Choices, p: Floats, totals: Floats, prior: float) -> Floats:
    """Negative Hessian, (B, P, P), made regular along the direction that the likelihood does not see."""
    x, m = choices.features, len(choices.methods)
    size = choices.parameters
    weighted = totals[:, choices.owner] * p
    squares = (weighted @ (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)).reshape(-1, size, size)
    mean = np.add.reduceat(p[..., None] * x, choices.starts, axis=1)
    found: Floats = squares - (mean * totals[..., None]).transpose(0, 2, 1) @ mean
    # Adding one to all strengths changes nothing: any curvature along it keeps the step's mean at 0.
    scale = np.maximum(1.0, np.trace(found, axis1=1, axis2=2))[:, None, None] / m
    found[:, :m, :m] += scale / m
    diagonal = np.arange(size)
    # The second term keeps a flat direction (a draw without a method) solvable; it is far below rounding.
    found[:, diagonal, diagonal] += prior + 1e-10
    return found


# --- who can be compared -----------------------------------------------------------------------------


def _check_linked(choices: Choices, counts: Floats) -> None:
    seen = np.add.reduceat(counts, choices.starts) > 0
    group = list(range(len(choices.methods)))
    for members, any_votes in zip(choices.sets, seen, strict=True):
        if any_votes:
            joined = {group[i] for i in members}
            group = [min(joined) if g in joined else g for g in group]
    if len(set(group)) > 1:
        names = [
            "{" + ", ".join(t for t, g in zip(choices.methods, group, strict=True) if g == one) + "}"
            for one in sorted(set(group))
        ]
        raise Unlinked(
            f"no votes link {' and '.join(names)}: strengths can only be compared within each. "
            "Show methods of the groups side by side, or analyse them as studies of their own."
        )


def _beat(choices: Choices, counts: Floats, *, ties: bool = False) -> NDArray[np.bool_]:
    """Whether the row's method was ever preferred to the column's, (methods, methods); ``ties`` count both ways."""
    m = len(choices.methods)
    beat = np.zeros((m, m), dtype=bool)
    for (_, shown, answer), column in choices.column.items():
        if counts[column] > 0:
            members = [choices.methods.index(title) for title in shown]
            for winner in members:
                if answer == choices.methods[winner] or (answer == TIE and ties):
                    beat[winner, members] = True
    beat[np.arange(m), np.arange(m)] = False
    return beat


def _reach(beat: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a chain of wins leads from the row's method to the column's; from each to itself."""
    m = len(beat)
    reach = beat | np.eye(m, dtype=bool)
    for _ in range(m.bit_length()):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    return reach


def _why(choices: Choices, counts: Floats) -> str:
    """Names a method that never lost or never won, or else the groups between which all votes go one way."""
    beat = _beat(choices, counts)
    never_lost = [t for i, t in enumerate(choices.methods) if not beat[:, i].any()]
    never_won = [t for i, t in enumerate(choices.methods) if not beat[i].any()]
    parts = [f"{', '.join(t)} never {what}." for t, what in ((never_lost, "lost"), (never_won, "won")) if t]
    if not parts:
        reach = _reach(beat)
        for i in range(len(reach)):
            over = [t for j, t in enumerate(choices.methods) if not reach[j, i]]
            if over:
                under = [t for j, t in enumerate(choices.methods) if reach[j, i]]
                parts.append(f"{{{', '.join(over)}}} never won against {{{', '.join(under)}}}.")
                break
    if not parts and choices.ties:
        parts.append("Wins all go one way wherever there was no tie.")
    return " ".join(parts) or "The votes do not bound the strengths."

"""Adaptive pairing: the next pair of methods is the one whose vote narrows the ranking most.

**Model.** Davidson's (1970) with strengths theta and a tendency to ties, fitted by maximum a posteriori with a normal
prior on the strengths (mean 0, standard deviation ``PRIOR_SD``). The votes on one pair have the Fisher information

    I = (p_i + p_j) / 4 - ((p_i - p_j) / 2)^2

about theta_i - theta_j, where p are the probabilities of a win. Sigma is the inverse of the posterior precision.

**Rule.** If the methods are ranked by their strengths, a pair may be in the wrong order. The expected loss, counted in
log odds by which the worse of the two is ranked higher, is

    W = sum over pairs of s (phi(z) - z Phi(-z)),    s = sd(theta_i - theta_j),  z = |theta_i - theta_j| / s.

One more vote on a pair with contrast d changes Sigma to Sigma - Sigma d d' Sigma / (1 / I + d' Sigma d). The gain of
the pair is how much this lowers W at the present strengths.

**Draw.** With probability ``UNIFORM`` any pair is as likely as any other. Otherwise a pair is drawn in proportion to
the square of its gain. Every pair keeps a probability above 0, which is stored with the trial: an analysis can weight
by it, and raters who vote at the same time get different pairs. Within the pair, a case is drawn at random.

Strengths by maximum likelihood need no weights, because the choice of a pair depends on earlier votes alone. Shares of
votes do: pairs of close methods are shown more often than others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR_SD = 2.0
UNIFORM = 0.2
# Newton steps of the fit. Each about doubles the number of right digits.
_STEPS = 30


@dataclass(frozen=True, eq=False)
class Posterior:
    """Strengths of M methods and what is known about them."""

    # (M,) log odds.
    strengths: Floats
    # (M, M)
    covariance: Floats
    # Davidson's nu. 0 without ties.
    ties: float


def pairs(count: int) -> list[tuple[int, int]]:
    """All pairs of ``count`` methods, (i, j) with i < j."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def probabilities(difference: Floats, ties: float) -> tuple[Floats, Floats]:
    """Probabilities that the first and that the second wins, from theta_i - theta_j (any shape)."""
    # Relative to a weight of 1 for the larger of the two, so that nothing overflows.
    first, second = np.exp(np.minimum(0, difference)), np.exp(np.minimum(0, -difference))
    total = first + second + ties * np.sqrt(first * second)
    return first / total, second / total


def information(difference: Floats, ties: float) -> Floats:
    """Fisher information of one vote about theta_i - theta_j."""
    first, second = probabilities(difference, ties)
    values: Floats = (first + second) / 4 - ((first - second) / 2) ** 2
    return values


def fit(wins: Floats, draws: Floats) -> Posterior:
    """The posterior from votes.

    ``wins``: (M, M), how often row i was preferred to column j. ``draws``: (M, M), symmetric, votes without a
    preference.
    """
    count = len(wins)
    total_draws = draws.sum() / 2
    theta, log_nu = np.zeros(count), -1.0
    has_ties = bool(total_draws)
    compared = wins + wins.T + draws
    for _ in range(_STEPS):
        nu = math.exp(log_nu) if has_ties else 0.0
        difference = theta[:, None] - theta[None, :]
        first, second = probabilities(difference, nu)
        # Score of theta: observed less expected wins and half ties; of log nu: observed less expected ties.
        expected = compared * (first + (1 - first - second) / 2)
        score = (wins + draws / 2 - expected).sum(axis=1) - theta / PRIOR_SD**2
        hessian = _precision(compared, information(difference, nu))
        step = np.linalg.solve(hessian, score)
        theta = theta + np.clip(step, -1, 1)
        change = float(np.abs(step).max())
        if has_ties:
            p_tie = 1 - first - second
            # The diagonal of `compared` is 0. Each vote stands in two places.
            tie_score = total_draws - (compared * p_tie).sum() / 2
            tie_information = (compared * p_tie * (1 - p_tie)).sum() / 2
            tie_step = float(np.clip(tie_score / max(tie_information, 1e-9), -1, 1))
            log_nu += tie_step
            change = max(change, abs(tie_step))
        if change < 1e-9:
            break
    nu = math.exp(log_nu) if has_ties else 0.0
    theta = theta - theta.mean()
    precision = _precision(compared, information(theta[:, None] - theta[None, :], nu))
    covariance = np.linalg.inv(precision).astype(np.float64)
    return Posterior(theta, covariance, nu)


def _precision(compared: Floats, per_vote: Floats) -> Floats:
    """Precision of the strengths, (M, M): of the votes and of the prior."""
    weights = compared * per_vote
    precision: Floats = np.diag(weights.sum(axis=1) + 1 / PRIOR_SD**2) - weights
    return precision


def _loss(posterior: Posterior, variances: Floats) -> Floats:
    """Expected loss W of the ranking. ``variances``: (..., P) of the differences of all pairs."""
    from scipy.special import ndtr

    first, second = np.array(pairs(len(posterior.strengths))).T
    deviation = np.sqrt(np.maximum(variances, 1e-12))
    z = np.abs(posterior.strengths[first] - posterior.strengths[second]) / deviation
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    losses: Floats = (deviation * (density - z * ndtr(-z))).sum(axis=-1)
    return losses


def gains(posterior: Posterior) -> Floats:
    """How much one more vote on each pair lowers the expected loss of the ranking, (P,)."""
    first, second = np.array(pairs(len(posterior.strengths))).T
    contrasts = np.zeros((len(first), len(posterior.strengths)))
    contrasts[np.arange(len(first)), first], contrasts[np.arange(len(first)), second] = 1, -1
    # d_k' Sigma d_l for all pairs k, l.
    cross = contrasts @ posterior.covariance @ contrasts.T
    variances = np.diag(cross)
    per_vote = information(posterior.strengths[first] - posterior.strengths[second], posterior.ties)
    after = variances[None, :] - cross**2 / (1 / np.maximum(per_vote, 1e-9) + variances)[:, None]
    values: Floats = np.maximum(0, _loss(posterior, variances) - _loss(posterior, after))
    return values


def chances(posterior: Posterior, available: NDArray[np.bool_] | None = None) -> Floats:
    """Probability of each pair to be the next, (P,). They add up to 1 over the ``available`` pairs (None: all)."""
    gain = gains(posterior) ** 2
    is_open = np.ones(len(gain), dtype=bool) if available is None else available
    gain = np.where(is_open, gain, 0)
    uniform: Floats = is_open / is_open.sum()
    if gain.sum() <= 0:
        return uniform
    values: Floats = UNIFORM * uniform + (1 - UNIFORM) * gain / gain.sum()
    return values


# --- comparison with a fixed design ------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """Precision after some numbers of votes, averaged over simulated studies."""

    votes: tuple[int, ...]
    # Mean width of the 95 % intervals of the differences between neighbours in the true ranking, log odds.
    widths: tuple[float, ...]
    # Mean number of pairs in the wrong order.
    wrong: tuple[float, ...]


def simulate(
    strengths: Sequence[float],
    *,
    adaptive: bool,
    votes: Sequence[int],
    ties: float = 0.3,
    studies: int = 20,
    seed: int = 0,
) -> Course:
    """Simulated studies of methods with these true strengths, by Davidson's model with independent votes.

    The fixed design shows all pairs in turn. ``votes``: rising numbers of votes at which to look.
    """
    truth = np.asarray(strengths, dtype=np.float64)
    order = np.argsort(-truth)
    every = pairs(len(truth))
    generator = np.random.default_rng(seed)
    widths, wrong = np.zeros((2, studies, len(votes)))
    for study in range(studies):
        wins, draws = np.zeros((2, len(truth), len(truth)))
        cycle = generator.permutation(len(every))
        posterior = fit(wins, draws)
        for vote in range(votes[-1]):
            if adaptive:
                pair = every[generator.choice(len(every), p=chances(posterior))]
            else:
                pair = every[cycle[vote % len(every)]]
            _cast(wins, draws, pair, truth, ties, generator)
            # As in a study: the fit is not renewed for every vote.
            if (adaptive and (vote % 5 == 4)) or vote + 1 in votes:
                posterior = fit(wins, draws)
            if vote + 1 in votes:
                widths[study, votes.index(vote + 1)] = _width(posterior, order)
                wrong[study, votes.index(vote + 1)] = _wrong(posterior.strengths, truth)
    return Course(tuple(votes), tuple(widths.mean(axis=0).tolist()), tuple(wrong.mean(axis=0).tolist()))


def _cast(
    wins: Floats,
    draws: Floats,
    pair: tuple[int, int],
    truth: Floats,
    ties: float,
    generator: np.random.Generator,
) -> None:
    """Adds one simulated vote to the counts."""
    i, j = pair
    first, second = probabilities(truth[i] - truth[j], ties)
    outcome = generator.choice(3, p=[first, second, 1 - first - second])
    if outcome == 0:
        wins[i, j] += 1
    elif outcome == 1:
        wins[j, i] += 1
    else:
        draws[i, j] += 1
        draws[j, i] += 1


def _width(posterior: Posterior, order: NDArray[np.intp]) -> float:
    """Mean width of the 95 % intervals of the differences between neighbours."""
    better, worse = order[:-1], order[1:]
    sigma = posterior.covariance
    variance = sigma[better, better] + sigma[worse, worse] - 2 * sigma[better, worse]
    return float(2 * 1.96 * np.sqrt(variance).mean())


def _wrong(estimate: Floats, truth: Floats) -> int:
    """Number of pairs whose order differs from the true one."""
    return sum((estimate[i] - estimate[j]) * (truth[i] - truth[j]) <= 0 for i, j in pairs(len(truth)))


def votes_for(course: Course, width: float) -> float | None:
    """Votes after which the mean width is ``width``, by interpolation. None where the course never gets there.

    Widths fall with the root of the number of votes, so the interpolation is in logarithms.
    """
    logs = np.log(course.widths)
    if not logs.min() <= math.log(width) <= logs.max():
        return None
    return float(np.exp(np.interp(-math.log(width), -logs, np.log(course.votes))))

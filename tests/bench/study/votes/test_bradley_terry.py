"""Strengths against choix, closed forms, and numeric optimisation; what has no maximum is said to have none."""

from __future__ import annotations

import itertools
import math

import choix
import numpy as np
import pytest
from scipy.optimize import minimize

from bench.study.votes.bradley_terry import (
    PRIOR_SD,
    Choices,
    Fit,
    Unlinked,
    fit_counts,
    fit_draws,
    influence,
)
from tests.bench.study.votes.fits import fit, fit_votes

Counts = dict[tuple[tuple[str, ...], str], float]


def random_pairs(m: int, seed: int, *, ties: bool = False) -> Counts:
    generator = np.random.default_rng(seed)
    titles = [f"M{i}" for i in range(m)]
    counts: Counts = {}
    for pair in itertools.combinations(titles, 2):
        for answer in (*pair, *(("tie",) if ties else ())):
            counts[pair, answer] = int(generator.integers(1, 30))
    return counts


def likelihood(theta: np.ndarray, delta: float, counts: Counts) -> float:
    """Of pairs, written out: Davidson (1970)."""
    value = 0.0
    pi, nu = np.exp(theta), math.exp(delta)
    for ((first, second), answer), n in counts.items():
        a, b = pi[int(first[1:])], pi[int(second[1:])]
        tie = nu * math.sqrt(a * b)
        value += n * math.log({first: a, second: b, "tie": tie}[answer] / (a + b + tie))
    return value


def test_two_methods_by_hand() -> None:
    """30 to 10: log odds log 3. With 10 ties: P(tie) = 1/5 = nu sqrt(3) / (4 + nu sqrt(3))."""
    plain = fit({(("A", "B"), "A"): 30, (("A", "B"), "B"): 10})
    np.testing.assert_allclose(plain.strengths, [math.log(3) / 2, -math.log(3) / 2], atol=1e-9)
    assert plain.tie is None
    tied = fit({(("A", "B"), "A"): 30, (("A", "B"), "B"): 10, (("A", "B"), "tie"): 10})
    np.testing.assert_allclose(np.diff(tied.strengths), -math.log(3), atol=1e-9)
    assert tied.tie == pytest.approx(1 / math.sqrt(3))
    assert tied.probability("A", "B") == pytest.approx((0.6, 0.2, 0.2))
    assert tied.probability("B", "A") == pytest.approx((0.2, 0.6, 0.2))


@pytest.mark.parametrize("m", [3, 6, 12])
def test_against_choix(m: int) -> None:
    counts = random_pairs(m, m)
    games = []
    for ((first, second), answer), n in counts.items():
        winner, loser = (first, second) if answer == first else (second, first)
        games += [(int(winner[1:]), int(loser[1:]))] * int(n)
    fitted = fit(counts)
    assert not fitted.regularised
    order = [int(title[1:]) for title in fitted.methods]
    for theirs in (
        choix.ilsr_pairwise(m, games, max_iter=500, tol=1e-12),
        choix.opt_pairwise(m, games, alpha=0),
    ):
        np.testing.assert_allclose(fitted.strengths, (theirs - theirs.mean())[order], atol=2e-4)


def test_best_of_several_against_choix() -> None:
    generator = np.random.default_rng(2)
    truth = np.array([1.0, 0.3, -0.2, -0.4, -0.7])
    votes: Counts = {}
    top: list[tuple[int, list[int]]] = []
    for _ in range(600):
        candidates = generator.choice(5, size=int(generator.integers(2, 6)), replace=False)
        winner = candidates[(truth[candidates] + generator.gumbel(size=len(candidates))).argmax()]
        key = tuple(f"M{i}" for i in candidates), f"M{winner}"
        votes[key] = votes.get(key, 0) + 1
        top.append((int(winner), [int(i) for i in candidates if i != winner]))
    theirs = choix.ilsr_top1(5, top, max_iter=500, tol=1e-12)
    fitted = fit(votes, kind="best")
    np.testing.assert_allclose(fitted.strengths, theirs - theirs.mean(), atol=1e-5)
    np.testing.assert_allclose(fitted.strengths, truth - truth.mean(), atol=0.35)


@pytest.mark.parametrize("m", [3, 5])
def test_davidson_is_at_the_maximum(m: int) -> None:
    counts = random_pairs(m, 7 + m, ties=True)
    fitted = fit(counts)
    assert fitted.tie is not None
    theirs = minimize(lambda p: -likelihood(p[:m], p[m], counts), np.zeros(m + 1), method="BFGS", tol=1e-10)
    np.testing.assert_allclose(fitted.strengths, theirs.x[:m] - theirs.x[:m].mean(), atol=1e-3)
    assert math.log(fitted.tie) == pytest.approx(theirs.x[m], abs=1e-3)
    # Davidson's own property: as many expected ties as seen.
    expected = sum(
        sum(counts[pair, a] for a in (*pair, "tie")) * fitted.probability(*pair)[2]
        for pair in {pair for pair, _ in counts}
    )
    assert expected == pytest.approx(sum(n for (_, answer), n in counts.items() if answer == "tie"))


def test_pairs_and_choices_of_the_best_share_their_strengths() -> None:
    """A choice of the best of two is a pair without ties."""
    pair = {("A", "B"): (30.0, 10.0), ("A", "C"): (20.0, 11.0), ("B", "C"): (9.0, 12.0)}
    both = {}
    for candidates, (first, second) in pair.items():
        for kind, part in (("pair", 0.5), ("best", 0.5)):
            both[kind, candidates, candidates[0]] = first * part
            both[kind, candidates, candidates[1]] = second * part
    plain: Counts = {}
    for candidates, (first, second) in pair.items():
        plain[candidates, candidates[0]], plain[candidates, candidates[1]] = first, second
    np.testing.assert_allclose(fit_votes(both).strengths, fit(plain).strengths, atol=1e-9)


def test_doubling_every_vote_changes_no_strength() -> None:
    counts = random_pairs(4, 0, ties=True)
    once, twice = fit(counts), fit({key: 2 * n for key, n in counts.items()})
    np.testing.assert_allclose(once.strengths, twice.strengths, atol=1e-9)


class TestWithoutMaximum:
    def test_undefeated(self) -> None:
        counts: Counts = {
            (("A", "B"), "A"): 10,
            (("A", "C"), "A"): 10,
            (("B", "C"), "B"): 6,
            (("B", "C"), "C"): 4,
        }
        fitted = fit(counts)
        assert fitted.regularised
        assert "A never lost" in fitted.note
        assert f"{PRIOR_SD:g}" in fitted.note
        # The maximum under the stated prior, by other means.
        theirs = minimize(
            lambda t: (
                -10 * math.log(1 / (1 + math.exp(t[1] - t[0])))
                - 10 * math.log(1 / (1 + math.exp(t[2] - t[0])))
                - 6 * math.log(1 / (1 + math.exp(t[2] - t[1])))
                - 4 * math.log(1 / (1 + math.exp(t[1] - t[2])))
                + (t**2).sum() / (2 * PRIOR_SD**2)
            ),
            np.zeros(3),
            tol=1e-10,
        )
        np.testing.assert_allclose(fitted.strengths, theirs.x, atol=1e-4)

    def test_two_groups_with_votes_all_one_way(self) -> None:
        counts = {**random_pairs(2, 0), (("M2", "M3"), "M2"): 4, (("M2", "M3"), "M3"): 5}
        counts[("M0", "M2"), "M0"] = 7
        fitted = fit(counts)
        assert fitted.regularised
        assert "never won against" in fitted.note
        assert fitted.strengths[:2].min() > fitted.strengths[2:].max()

    def test_ties_do_not_bound_what_was_never_lost(self) -> None:
        """Wins and ties but no loss: Davidson's likelihood rises without end."""
        fitted = fit({(("A", "B"), "A"): 5, (("A", "B"), "tie"): 5})
        assert fitted.regularised

    def test_nothing_but_ties(self) -> None:
        fitted = fit({(("A", "B"), "tie"): 9})
        assert fitted.regularised
        np.testing.assert_allclose(fitted.strengths, 0, atol=1e-9)

    def test_unlinked(self) -> None:
        with pytest.raises(Unlinked, match=r"\{A, B\} and \{C, D\}"):
            fit({(("A", "B"), "A"): 3, (("A", "B"), "B"): 3, (("C", "D"), "D"): 2, (("C", "D"), "C"): 2})

    def test_no_votes(self) -> None:
        with pytest.raises(ValueError, match="no votes"):
            fit({(("A", "B"), "A"): 0})


class TestDraws:
    @staticmethod
    def setting() -> tuple[Choices, np.ndarray, Fit, np.ndarray]:
        counts = random_pairs(5, 3, ties=True)
        choices = Choices.of([("pair", candidates, answer) for candidates, answer in counts])
        columns = np.zeros(len(choices.features))
        for (candidates, answer), n in counts.items():
            columns[choices.column["pair", frozenset(candidates), answer]] = n
        return choices, columns, *fit_counts(choices, columns)

    def test_each_is_what_a_fit_of_its_own_gives(self) -> None:
        choices, counts, _, beta = self.setting()
        weights = np.random.default_rng(0).poisson(counts, size=(30, len(counts))).astype(float)
        draws, needed = fit_draws(choices, weights, beta, regularised=False)
        assert needed == 0
        for row, draw in zip(draws, weights, strict=True):
            np.testing.assert_allclose(row, fit_counts(choices, draw)[1], atol=1e-7)

    def test_a_draw_without_maximum_gets_the_prior_and_is_counted(self) -> None:
        choices, counts, _, beta = self.setting()
        never = counts.copy()
        for (_, candidates, answer), column in choices.column.items():
            if answer == "M0" or (answer == "tie" and "M0" in candidates):
                never[column] = 0
        draws, needed = fit_draws(choices, np.stack([counts, never]), beta, regularised=False)
        assert needed == 1
        np.testing.assert_allclose(draws[0], beta, atol=1e-8)
        assert np.isfinite(draws).all()
        assert draws[1, 0] < beta[0] - 1

    def test_a_method_without_votes_in_a_draw_has_no_strength_there(self) -> None:
        choices, counts, _, beta = self.setting()
        gone = counts.copy()
        for (_, candidates, _), column in choices.column.items():
            if "M4" in candidates:
                gone[column] = 0
        draws, _ = fit_draws(choices, gone[None], beta, regularised=False)
        assert np.isnan(draws[0, 4])
        assert np.isfinite(draws[0, :4]).all()

    def test_influence_is_the_derivative(self) -> None:
        choices, counts, _, beta = self.setting()
        slope = influence(choices, counts, beta, regularised=False)
        for column in range(len(counts)):
            more = counts.copy()
            more[column] += 1e-4
            moved = (fit_counts(choices, more)[1] - beta) / 1e-4
            np.testing.assert_allclose(slope[column], moved, rtol=2e-3, atol=1e-6)


def test_large_differences_are_found_without_a_prior() -> None:
    """Odds of 10,000 to 1 are data, not a missing maximum."""
    fitted = fit({(("A", "B"), "A"): 10_000, (("A", "B"), "B"): 1})
    assert not fitted.regularised
    assert fitted.strengths[0] - fitted.strengths[1] == pytest.approx(math.log(10_000))

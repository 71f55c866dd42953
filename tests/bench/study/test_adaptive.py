"""Adaptive pairing: the rule against brute force, the draws and their log, and the comparison with a fixed design."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from bench.study import adaptive
from bench.study.build import build
from bench.study.design import DesignError, DesignOptions
from bench.study.exchange import export_votes, import_votes
from bench.study.interface import StudyFull
from bench.study.simulate import Taste, run_raters
from bench.study.store import StudyStore
from bench.study.votes.analysis import analyse
from bench.study.votes.frame import VotesError, check_votes
from tests.bench.study.runs import OPEN, begin

WINS = np.array([[0, 8, 9, 4], [2, 0, 7, 3], [1, 3, 0, 5], [2, 2, 1, 0]], dtype=float)
DRAWS = np.array([[0, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2], [0, 1, 2, 0]], dtype=float)


def log_posterior(parameters: np.ndarray) -> float:
    """Davidson's model, vote by vote, with the prior."""
    *theta, log_nu = parameters
    value = -sum(t**2 for t in theta) / (2 * adaptive.PRIOR_SD**2)
    for i, j in adaptive.pairs(4):
        logits = np.array([theta[i], theta[j], log_nu + (theta[i] + theta[j]) / 2])
        log_p = logits - np.log(np.exp(logits).sum())
        value += WINS[i, j] * log_p[0] + WINS[j, i] * log_p[1] + DRAWS[i, j] * log_p[2]
    return float(value)


def test_the_fit_is_the_maximum_of_the_posterior() -> None:
    found = optimize.minimize(lambda x: -log_posterior(x), np.zeros(5), tol=1e-10)
    theta = found.x[:4] - found.x[:4].mean()
    posterior = adaptive.fit(WINS, DRAWS)
    assert posterior.strengths == pytest.approx(theta, abs=1e-3)
    assert posterior.ties == pytest.approx(np.exp(found.x[4]), rel=1e-3)
    # Without a vote, the prior is all that is known.
    nothing = adaptive.fit(np.zeros((3, 3)), np.zeros((3, 3)))
    assert nothing.strengths.tolist() == [0, 0, 0]
    assert nothing.covariance == pytest.approx(adaptive.PRIOR_SD**2 * np.eye(3))


@pytest.mark.parametrize("ties", [0.0, 0.5])
def test_information_is_minus_the_curvature_of_the_log_likelihood(ties: float) -> None:
    for difference in (-2.0, 0.0, 0.7):
        first, second = adaptive.probabilities(np.array(difference), ties)

        def expected(x: float, p=first, q=second) -> float:
            a, b = adaptive.probabilities(np.array(x), ties)
            tie = 0.0 if ties == 0 else (1 - p - q) * np.log(1 - a - b)
            return float(p * np.log(a) + q * np.log(b) + tie)

        step = 1e-3
        curvature = (
            expected(difference + step) - 2 * expected(difference) + expected(difference - step)
        ) / step**2
        assert adaptive.information(np.array(difference), ties) == pytest.approx(-curvature, rel=1e-3)


def test_gains_are_those_of_one_more_vote() -> None:
    posterior = adaptive.fit(WINS, DRAWS)

    def error(covariance: np.ndarray) -> float:
        total = 0.0
        for i, j in adaptive.pairs(4):
            sd = np.sqrt(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
            # The mean of max(0, -x) for the normal distribution of the difference x, by numerical integration.
            mean = abs(posterior.strengths[i] - posterior.strengths[j])
            x = np.linspace(mean - 12 * sd, 0, 20_001) if mean < 12 * sd else np.zeros(1)
            total += float(np.trapezoid(-x * scipy_stats.norm.pdf(x, mean, sd), x))
        return float(total)

    precision = np.linalg.inv(posterior.covariance)
    for gain, (i, j) in zip(adaptive.gains(posterior), adaptive.pairs(4), strict=True):
        d = np.zeros(4)
        d[i], d[j] = 1, -1
        per_vote = adaptive.information(posterior.strengths[i] - posterior.strengths[j], posterior.ties)
        after = np.linalg.inv(precision + per_vote * np.outer(d, d))
        assert gain == pytest.approx(error(posterior.covariance) - error(after), rel=1e-3)


def test_every_open_pair_keeps_a_chance_and_a_close_pair_has_more() -> None:
    # Two close methods and two far ones.
    wins = np.array([[0, 10, 20, 20], [10, 0, 20, 20], [0, 0, 0, 20], [0, 0, 0, 0]], dtype=float)
    chances = adaptive.chances(adaptive.fit(wins, np.zeros((4, 4))))
    assert chances.sum() == pytest.approx(1)
    assert chances.min() >= adaptive.UNIFORM / 6
    assert int(np.argmax(chances)) == adaptive.pairs(4).index((0, 1))
    available = np.array([False, True, True, False, False, False])
    some = adaptive.chances(adaptive.fit(wins, np.zeros((4, 4))), available)
    assert some.sum() == pytest.approx(1)
    assert (some > 0).tolist() == available.tolist()


@pytest.fixture
def adaptive_store(store: StudyStore, run_folder: Path) -> StudyStore:
    options = DesignOptions(raters=6, trials=12, repeats=2, attention=2, practice=1, adaptive=True)
    store.create("taste", build([run_folder], options), OPEN)
    return store


def test_a_study_draws_from_all_comparisons_and_logs_the_probability(
    adaptive_store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.study.pairing.FRESH", 0.0)
    design = adaptive_store.study("taste").design
    # Twelve cases and six pairs, each once.
    pool = Counter(trial.unit for trial in design.trials if trial.role == "trial")
    assert len(pool) == 72
    assert set(pool.values()) == {1}
    run_raters(adaptive_store, "taste", 6, Taste({"A": 2.0, "B": 0.1, "C": 0.0, "D": -2.0}), seed=1)
    votes = check_votes(adaptive_store.votes("taste", "simulated"))
    trials = votes[votes["role"] == "trial"]
    assert len(trials) == 48
    assert trials["trial"].is_unique
    # The first draw knows nothing: any of 72.
    assert trials["probability"].iloc[0] == pytest.approx(1 / 72)
    assert trials["probability"].map(lambda p: 0 < p <= 1).all()
    assert votes["probability"][votes["role"] != "trial"].isna().all()
    status = adaptive_store.status("taste", "simulated")
    assert (status.planned, status.answered, status.finished) == (48, 48, 6)
    # As many raters as it wants, though the pool is not used up.
    with pytest.raises(StudyFull):
        run_raters(adaptive_store, "taste", 1)
    # The log is in the files, and the analysis says what follows from it.
    for ending in (".csv", ".parquet"):
        export_votes(votes, tmp_path / f"v{ending}")
        again = import_votes(tmp_path / f"v{ending}")
        assert again["probability"].tolist() == votes["probability"].tolist()
    notes = analyse(votes, simulated=True, resamples=50).notes
    assert any("adaptive pairing" in note for note in notes)
    spoilt = votes.copy()
    spoilt.loc[spoilt.index[3], "probability"] = 1.5
    with pytest.raises(VotesError, match="probability"):
        check_votes(spoilt)


def test_the_next_images_are_those_of_the_next_trial(adaptive_store: StudyStore) -> None:
    rater = begin(adaptive_store)
    same = []
    while (trial := adaptive_store.next_trial(rater)) is not None:
        ahead = adaptive_store.upcoming(rater)
        adaptive_store.vote(rater, trial.id, 0)
        following = adaptive_store.next_trial(rater)
        if ahead is not None and following is not None:
            same.append(ahead[0] == following.id)
    assert len(same) > 8
    assert np.mean(same) > 0.8


def test_only_pairs_can_be_chosen_adaptively(run_folder: Path) -> None:
    for wrong in (DesignOptions(adaptive=True, overlap=2), DesignOptions(adaptive=True, kinds=("best",))):
        with pytest.raises(DesignError, match="--adaptive"):
            build([run_folder], wrong)


def test_a_simulation_compares_both_designs() -> None:
    truth = [1.5, 0.2, 0.0, -0.2, -1.5]
    fixed, chosen = (
        adaptive.simulate(truth, adaptive=on, votes=[40, 120], studies=8, seed=2) for on in (False, True)
    )
    for course in (fixed, chosen):
        assert course.widths[0] > course.widths[1] > 0
    # Both know about as much in all. Adaptive pairing spends it on neighbours.
    assert chosen.widths[1] < fixed.widths[1]
    needed = adaptive.votes_for(chosen, fixed.widths[1])
    assert needed is not None
    assert needed < 120
    assert adaptive.votes_for(chosen, 100.0) is None
    # Widths fall with the root of the number of votes.
    course = adaptive.Course((100, 400), (2.0, 1.0), (0.0, 0.0))
    assert adaptive.votes_for(course, 2**0.5) == pytest.approx(200)

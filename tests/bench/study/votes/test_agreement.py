"""Alpha against the krippendorff package and Krippendorff's own example; repeats, place and attention by hand."""

from __future__ import annotations

import itertools

import krippendorff
import numpy as np
import pytest

from bench.study.votes import agreement
from bench.study.votes.frame import check_votes
from tests.bench.study.polls import frame, poll


def ratings(
    seed: int, *, raters: int = 7, units: int = 40, values: int = 4, missing: float = 0.4
) -> np.ndarray:
    """Raters by units, NaN where a rater was absent; raters agree somewhat."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(values, size=units)
    own = np.where(
        generator.random((raters, units)) < 0.6, truth, generator.integers(values, size=(raters, units))
    )
    return np.where(generator.random((raters, units)) < missing, np.nan, own)


def long(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rater, unit = np.nonzero(np.isfinite(table))
    return unit, table[rater, unit].astype(int)


class TestAlpha:
    @pytest.mark.parametrize("level", ["nominal", "ordinal"])
    @pytest.mark.parametrize("seed", range(4))
    def test_against_another_implementation(self, level: agreement.Level, seed: int) -> None:
        table = ratings(seed)
        value = agreement.alpha(agreement.coincidences(*long(table), 4).sum(axis=0), level)
        theirs = krippendorff.alpha(table, level_of_measurement=level, value_domain=range(4))
        assert float(value) == pytest.approx(theirs, abs=1e-12)

    def test_krippendorffs_example(self) -> None:
        """Krippendorff (2011), section C: four observers, twelve units, five values: 0.743 and 0.815."""
        nan = np.nan
        table = np.array(
            [
                [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
                [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
                [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
                [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
            ]
        )
        total = agreement.coincidences(*long(table - 1), 5).sum(axis=0)
        assert float(agreement.alpha(total)) == pytest.approx(0.743, abs=5e-4)
        assert float(agreement.alpha(total, "ordinal")) == pytest.approx(0.815, abs=5e-4)

    def test_perfect_and_absent_agreement(self) -> None:
        same = agreement.coincidences(np.repeat(np.arange(10), 3), np.repeat(np.arange(10) % 3, 3), 3)
        assert float(agreement.alpha(same.sum(axis=0))) == 1.0
        one_value = agreement.coincidences(np.repeat(np.arange(4), 2), np.zeros(8, dtype=int), 3)
        assert np.isnan(agreement.alpha(one_value.sum(axis=0)))

    def test_of_pairs_is_that_of_both_orders(self) -> None:
        """Mirrored copies of every unit, given to the other package, up to its small-sample factor."""
        votes = check_votes(poll(raters=8, cases=15, per_rater=50, case_sd=1.5, seed=4))
        result = agreement.alpha_of_votes(votes, "pair", "nominal", draws=50)
        units = {}
        for vote in votes.itertuples():
            first, second = sorted(vote.candidates)
            value = {first: 0, "tie": 1, second: 2}[vote.answer]
            units.setdefault((vote.case, first, second), []).append(value)
        width = max(map(len, units.values()))
        rows = [
            [*values, *[np.nan] * (width - len(values))]
            for answers in units.values()
            for values in (answers, [2 - v for v in answers])
        ]
        table = np.array(rows).T
        theirs = krippendorff.alpha(table, level_of_measurement="nominal", value_domain=range(3))
        n = result.alpha.n
        corrected = 1 - (1 - theirs) * (n - 1) / n / ((2 * n - 1) / (2 * n))
        assert result.alpha.value == pytest.approx(corrected, abs=1e-9)
        assert result.units == sum(len(v) > 1 for v in units.values())

    def test_of_the_best_is_that_of_all_orders(self) -> None:
        votes = check_votes(poll((1, 0, -1), raters=9, cases=12, per_rater=30, kind="best", shown=3, seed=5))
        result = agreement.alpha_of_votes(votes, "best", "nominal", draws=50)
        units: dict[str, list[int]] = {}
        for vote in votes.itertuples():
            units.setdefault(vote.case, []).append(int(vote.answer[1]))
        width = max(map(len, units.values()))
        rows = [
            [*(order[v] for v in answers), *[np.nan] * (width - len(answers))]
            for answers in units.values()
            for order in itertools.permutations(range(3))
        ]
        theirs = krippendorff.alpha(
            np.array(rows, dtype=float).T, level_of_measurement="nominal", value_domain=range(3)
        )
        n = result.alpha.n
        corrected = 1 - (1 - theirs) * (n - 1) / n / ((6 * n - 1) / (6 * n))
        assert result.alpha.value == pytest.approx(corrected, abs=1e-9)

    def test_does_not_depend_on_names(self) -> None:
        votes = poll(raters=8, cases=15, per_rater=50, seed=6)
        renamed = votes.copy()
        names = {f"M{i}": f"Z{9 - i}" for i in range(5)} | {"tie": "tie"}
        renamed["candidates"] = [tuple(names[t] for t in c) for c in votes["candidates"]]
        renamed["answer"] = votes["answer"].map(names)
        for level in ("nominal", "ordinal"):
            one, other = (
                agreement.alpha_of_votes(check_votes(v), "pair", level, draws=200) for v in (votes, renamed)
            )
            assert one.alpha.value == pytest.approx(other.alpha.value, abs=1e-12)
            assert one.alpha.low == pytest.approx(other.alpha.low, abs=1e-12)

    def test_raters_who_see_one_method_as_better_throughout_agree(self) -> None:
        votes = frame(rater=["x", "y"] * 20, case=[f"c{i // 2}" for i in range(40)], answer=["A"] * 40)
        result = agreement.alpha_of_votes(check_votes(votes), "pair", "nominal", draws=100)
        assert result.alpha.value == 1.0
        assert result.agreement == 1.0
        assert result.alpha.low is None, "no draw differs: there is no interval, not one of width 0"

    def test_coin_flips_are_at_zero_and_inside_the_interval(self) -> None:
        held = 0
        for seed in range(40):
            votes = poll((0, 0, 0), raters=8, cases=20, per_rater=20, seed=seed)
            interval = agreement.alpha_of_votes(check_votes(votes), "pair", "nominal", draws=200).alpha
            assert interval.low is not None
            assert interval.high is not None
            assert abs(interval.value) < 0.3
            held += interval.low <= 0 <= interval.high
        assert 0.82 <= held / 40 <= 1

    def test_one_rater_per_unit_has_nothing_to_compare(self) -> None:
        votes = frame(rater=["x"] * 5, answer=["A", "B", "tie", "A", "A"])
        result = agreement.alpha_of_votes(check_votes(votes), "pair", "nominal")
        assert np.isnan(result.alpha.value)
        assert result.units == 0


def test_repeats_by_hand() -> None:
    votes = frame(
        rater=["x"] * 7 + ["y"],
        trial=["t0", "t1", "t2", "a0", "a1", "a2", "lost", "t0"],
        answer=["A", "B", "tie", "A", "A", "B", "B", "B"],
        role=["trial"] * 3 + ["repeat"] * 4 + ["trial"],
        repeat_of=[None] * 3 + ["t0", "t1", "t2", "never answered", None],
    )
    repeated = agreement.repeats(check_votes(votes))
    assert repeated["same"].tolist() == [True, False, False]
    assert repeated["reversed"].tolist() == [False, True, False]
    assert set(repeated["rater"]) == {"x"}


def test_attention_by_hand() -> None:
    votes = frame(
        answer=["A", "B", "tie", "A"],
        role=["attention", "attention", "attention", "trial"],
        expected=["A", "A", "A", None],
    )
    assert agreement.attention(check_votes(votes))["failed"].tolist() == [False, True, True]


class TestPositions:
    def test_counts_and_exact_test(self) -> None:
        """16 of 20 left: two-sided binomial p = 2 (C(20,16) + ... + C(20,20)) / 2^20 = 0.01182."""
        candidates = [("A", "B"), ("B", "A")] * 12
        answers = [c[0] for c in candidates[:16]] + [c[1] for c in candidates[16:20]] + ["tie"] * 4
        positions = agreement.positions(check_votes(frame(candidates=candidates, answer=answers)))
        assert positions["chosen"].tolist() == [16, 4]
        assert positions["n"].tolist() == [20, 20]
        assert positions["share"].tolist() == [0.8, 0.2]
        assert positions["p"].iloc[0] == pytest.approx(2 * 6196 / 2**20)

    def test_level_of_the_test_and_its_power(self) -> None:
        fair = [
            agreement.positions(check_votes(poll(seed=s, raters=6, per_rater=20)))["p"].iloc[0]
            for s in range(40)
        ]
        assert np.mean(np.array(fair) < 0.05) <= 0.13
        votes = poll(seed=1)
        left = np.random.default_rng(0).random(len(votes)) < 0.15
        votes.loc[left, "answer"] = [c[0] for c in votes.loc[left, "candidates"]]
        assert agreement.positions(check_votes(votes))["p"].iloc[0] < 1e-4

    def test_a_pair_in_both_orders_counts_as_its_two_answers(self) -> None:
        """5 consistent pairs, 8 that name the first twice, 1 the second twice, 1 a tie once: 5 + 16 + 0 + 1 first."""
        both = [('["A", "A"]', "A")] * 3 + [('["B", "B"]', "B")] * 2
        # Candidates are (A, B), and (B, A) in the second order.
        both += [('["A", "B"]', "tie")] * 8 + [('["B", "A"]', "tie"), ('["A", "tie"]', "tie")]
        texts, answers = zip(*both, strict=True)
        votes = check_votes(frame(answer=list(answers), both_orders=list(texts)))
        positions = agreement.positions(votes)
        assert positions["chosen"].tolist() == [22, 7]
        assert positions["n"].tolist() == [29, 29]
        # Without the consistent pairs, 17 first and 2 second: 2 (1 + 19 + 171) / 2^19.
        assert positions["p"].iloc[0] == pytest.approx(2 * 191 / 2**19)
        consistent = check_votes(frame(answer=["A", "B"], both_orders=['["A", "A"]', '["B", "B"]']))
        assert agreement.positions(consistent)["share"].tolist() == [0.5, 0.5]
        assert agreement.positions(consistent)["p"].iloc[0] == 1

    def test_of_the_best_against_scipy(self) -> None:
        from scipy.stats import chisquare

        votes = check_votes(poll(kind="best", shown=4, seed=2))
        positions = agreement.positions(votes)
        assert positions["chosen"].sum() == len(votes)
        assert positions["p"].iloc[0] == pytest.approx(chisquare(positions["chosen"]).pvalue)
        assert positions["expected"].tolist() == [0.25] * 4

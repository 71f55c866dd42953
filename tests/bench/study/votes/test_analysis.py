"""The analysis against answers by hand, other implementations, and raters whose strengths are known."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench.study.votes import show
from bench.study.votes.analysis import Analysis, SimulatedVotes, analyse
from bench.study.votes.bradley_terry import fit_votes
from bench.study.votes.exclusion import Exclusion, rater_quality
from bench.study.votes.frame import VotesError, check_votes
from tests.bench.study.polls import frame, poll

POOLED = {"question": "all", "protocol": "all", "category": "all"}


def rows(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    where = {"raters": "all", **POOLED, **where}
    chosen = np.logical_and.reduce([table[column] == value for column, value in where.items()])
    return table[chosen].reset_index(drop=True)


def small() -> pd.DataFrame:
    """Two raters, three cases; A against B, and once A against C."""
    return frame(
        rater=["x", "x", "x", "y", "y", "y"],
        case=["c0", "c1", "c2", "c0", "c1", "c2"],
        category=["attribute", "attribute", "background"] * 2,
        protocol=["mini-coco", "mini-coco", "mini-celeba-hq"] * 2,
        candidates=[("A", "B"), ("B", "A"), ("A", "C"), ("A", "B"), ("B", "A"), ("C", "A")],
        answer=["A", "tie", "A", "B", "A", "C"],
    )


@pytest.fixture(scope="module")
def mixed() -> Analysis:
    return analyse(mixed_votes(), scores=metric_values(), resamples=300)


def mixed_votes() -> pd.DataFrame:
    """Pairs and choices of the best, two questions, repeats and attention checks; one rater fails them."""
    pairs = poll(raters=10, per_rater=40, seed=1)
    best = poll(raters=10, per_rater=10, seed=2, kind="best")
    best["trial"] = "b" + best["trial"]
    real = poll((0.2, 0.1, 0.0, -0.1, -0.2), raters=10, per_rater=10, seed=3)
    real["trial"], real["question"] = "q" + real["trial"], "real"
    again = pairs.iloc[::10].copy()
    again["repeat_of"], again["trial"], again["role"] = again["trial"], "z" + again["trial"], "repeat"
    check = pairs.iloc[::13].copy()
    check["trial"], check["role"] = "a" + check["trial"], "attention"
    check["expected"] = [c[0] for c in check["candidates"]]
    check["answer"] = [c[r == "r3"] for c, r in zip(check["candidates"], check["rater"], strict=True)]
    return pd.concat([pairs, best, real, again, check], ignore_index=True)


def metric_values(noise: float = 1.0) -> pd.DataFrame:
    """``good`` follows the strengths, ``bad`` is its negative with the direction said, ``dice`` is nothing."""
    generator = np.random.default_rng(9)
    found = []
    for case in range(40):
        for method in range(5):
            value = 1.0 - 0.5 * method + noise * generator.normal()
            for metric, x, up in (
                ("good", value, True),
                ("bad", -value, False),
                ("dice", generator.normal(), True),
            ):
                found.append(("mini-coco", f"M{method}", f"c{case}", metric, x, up))
    return pd.DataFrame(found, columns=["protocol", "method", "case", "metric", "value", "higher_is_better"])


class TestShares:
    def test_by_hand(self) -> None:
        found = rows(analyse(small(), resamples=50).shares).set_index("method")
        assert found.loc["A", ["n", "wins", "ties", "losses"]].tolist() == [6, 3, 1, 2]
        assert found["share"].to_dict() == pytest.approx({"A": 3.5 / 6, "B": 1.5 / 4, "C": 0.5})
        assert found["of_all"].to_dict() == pytest.approx({"A": 3.5 / 6, "B": 1.5 / 6, "C": 1 / 6})
        assert found["of_all"].sum() == pytest.approx(1)
        assert (found["n_raters"] == 2).all()
        assert (found["n_sources"] == 3).all()

    def test_scopes_by_hand(self) -> None:
        shares = analyse(small(), resamples=50).shares
        attribute = rows(shares, category="attribute").set_index("method")
        assert attribute["share"].to_dict() == pytest.approx({"A": 2.5 / 4, "B": 1.5 / 4})
        faces = rows(shares, protocol="mini-celeba-hq").set_index("method")
        assert faces["share"].to_dict() == pytest.approx({"A": 0.5, "C": 0.5})
        assert rows(shares, question="overall")["share"].tolist() == rows(shares)["share"].tolist()

    def test_wilson_against_scipy(self) -> None:
        found = rows(analyse(poll(tie=0.0), resamples=50).shares)
        for row in found.itertuples():
            theirs = scipy_stats.binomtest(row.wins, row.n).proportion_ci(method="wilson")
            assert (row.wilson_low, row.wilson_high) == pytest.approx((theirs.low, theirs.high))

    def test_of_the_best(self) -> None:
        votes = frame(
            kind=["best"] * 4,
            candidates=[("A", "B", "C")] * 4,
            answer=["A", "A", "C", "A"],
            rater=list("xxyy"),
        )
        found = rows(analyse(votes, resamples=50).shares).set_index("method")
        assert found["share"].to_dict() == pytest.approx({"A": 0.75, "B": 0.0, "C": 0.25})
        assert found["of_all"].to_dict() == pytest.approx(found["share"].to_dict())
        assert math.isnan(found.loc["B", "low"]), "never chosen: the bootstrap has no interval"
        assert found.loc["B", "wilson_high"] > 0.3

    def test_only_trials_are_votes(self) -> None:
        votes = mixed_votes()
        whole = analyse(votes, resamples=50)
        alone = analyse(votes[votes["role"] == "trial"], resamples=50)
        for name in ("shares", "wins", "strengths"):
            one, other = (getattr(a, name) for a in (whole, alone))
            pd.testing.assert_frame_equal(one[one["raters"] == "all"], other[other["raters"] == "all"])

    def test_clustering_widens(self) -> None:
        """Raters with tastes of their own: wider than Wilson's; none: about as wide."""
        widths = []
        for sd in (0.0, 1.5):
            found = rows(analyse(poll(rater_sd=sd, seed=1), resamples=500).shares)
            widths.append(
                ((found["high"] - found["low"]) / (found["wilson_high"] - found["wilson_low"])).mean()
            )
        assert 0.75 < widths[0] < 1.25
        assert widths[1] > 1.5

    def test_the_other_side_of_a_pair(self) -> None:
        """Between two methods, one's interval is the other's, mirrored."""
        found = rows(analyse(poll((0.4, -0.4)), resamples=300).shares)
        assert found["share"].sum() == pytest.approx(1)
        assert found["low"][0] == pytest.approx(1 - found["high"][1])


class TestWins:
    def test_by_hand(self) -> None:
        found = rows(analyse(small(), resamples=50).wins).set_index(["method", "against"])
        counts = found[["wins", "ties", "losses", "n"]]
        assert counts.loc[("A", "B")].tolist() == [2, 1, 1, 4]
        assert counts.loc[("B", "A")].tolist() == [1, 1, 2, 4]
        assert counts.loc[("C", "A")].tolist() == [1, 0, 1, 2]
        assert ("B", "C") not in found.index

    def test_of_the_best_by_hand(self) -> None:
        votes = frame(
            kind=["best"] * 3,
            candidates=[("A", "B", "C"), ("A", "B"), ("C", "B", "A")],
            answer=["A", "B", "C"],
        )
        counts = rows(analyse(votes, resamples=50).wins).set_index(["method", "against"])[["wins", "losses"]]
        assert counts.loc[("A", "B")].tolist() == [1, 1]
        assert counts.loc[("A", "C")].tolist() == [1, 1]
        assert counts.loc[("B", "C")].tolist() == [0, 1]

    def test_matrix_is_antisymmetric(self, mixed: Analysis) -> None:
        found = rows(mixed.wins, kind="pair").set_index(["method", "against"])
        for a, b in found.index:
            assert found.loc[(a, b), "share"] == pytest.approx(1 - found.loc[(b, a), "share"])
            assert found.loc[(a, b), "n"] == found.loc[(b, a), "n"]


class TestStrengths:
    def test_are_the_fit_of_the_same_votes(self, mixed: Analysis) -> None:
        votes = mixed_votes()
        votes = votes[votes["role"] == "trial"]
        keys = zip(
            votes["kind"], votes["candidates"].map(lambda c: tuple(sorted(c))), votes["answer"], strict=True
        )
        fitted = fit_votes(pd.Series(list(keys)).value_counts().to_dict())
        found = rows(mixed.strengths)
        assert found["method"].tolist() == list(fitted.methods)
        np.testing.assert_allclose(found["strength"], fitted.strengths, atol=1e-6)
        assert rows(mixed.fits)["tie"][0] == pytest.approx(fitted.tie, abs=1e-6)

    def test_known_strengths_are_recovered_within_their_intervals(self) -> None:
        truth = np.linspace(1, -1, 5)
        found = rows(analyse(poll(truth, raters=60, per_rater=200, cases=100), resamples=300).strengths)
        assert found["rank"].tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(found["strength"], truth, atol=0.12)
        assert ((found["low"] < truth) & (truth < found["high"])).sum() >= 4
        assert found["separable"].tolist() == [False, True, True, True, True]

    @pytest.mark.parametrize("effect", [0.0, 0.8])
    def test_coverage(self, effect: float) -> None:
        """Of the middle method, whose strength is 0 whatever raters and cases add."""
        held = []
        for seed in range(25):
            votes = poll(
                (0.6, 0, -0.6),
                raters=15,
                cases=25,
                per_rater=40,
                rater_sd=effect,
                case_sd=effect,
                categories=1,
                seed=seed,
            )
            found = analyse(votes, resamples=200)
            for table in (found.strengths, found.shares):
                row = rows(table).iloc[1]
                truth = 0.0 if "strength" in row else 0.5
                held.append(row["low"] <= truth <= row["high"])
        assert 0.86 <= np.mean(held) <= 1

    def test_equal_methods_are_not_separable(self) -> None:
        found = [
            rows(analyse(poll((0, 0, 0), seed=s, per_rater=20), resamples=200).strengths) for s in range(10)
        ]
        assert sum(table["separable"].sum() for table in found) <= 4

    def test_an_undefeated_method_is_said_to_be_regularised(self) -> None:
        votes = frame(
            rater=list("xyxyxyxy"),
            candidates=[("A", "B")] * 4 + [("B", "C")] * 4,
            answer=["A"] * 4 + ["B", "B", "C", "B"],
        )
        found = analyse(votes, resamples=100)
        fit = rows(found.fits).iloc[0]
        assert fit["regularised"]
        assert "A never lost" in fit["note"]
        table = rows(found.strengths).set_index("method")
        assert np.isfinite(table["strength"]).all()
        # A's strength and its lead have no upper end; C lost to B and won once, so both of its ends are bounded.
        assert math.isnan(table.loc["A", "high"])
        assert table["high"][["B", "C"]].notna().all()
        assert table["low"].notna().all()
        assert table.loc["A", "low"] > 0
        assert table["behind_high"][["B", "C"]].isna().all()
        assert table["behind_low"][["B", "C"]].notna().all()
        assert table["separable"].tolist() == [False, True, True]
        text = show.markdown({t.name: t for t in show.tables(found)}["strengths"])
        low = f"{table.loc['A', 'low']:.2f}"
        assert f"| **{table.loc['A', 'strength']:.2f}**<br><sub>{low} or more</sub> |" in text
        json.dumps(found.to_dict(), allow_nan=False)

    def test_a_method_that_never_won_has_no_lower_end(self) -> None:
        votes = frame(
            rater=list("xyxyxyxy"),
            candidates=[("A", "B")] * 4 + [("B", "C")] * 4,
            answer=["A", "B", "A", "A"] + ["B"] * 4,
        )
        table = rows(analyse(votes, resamples=100).strengths).set_index("method")
        assert table["low"].isna().tolist() == [False, False, True]
        assert table["high"].notna().all()
        # A and B won against each other: how far B is behind A is bounded, how far C is, is not.
        assert table["behind_high"][["B", "C"]].isna().tolist() == [False, True]

    def test_two_undefeated_methods_that_never_met_are_not_apart(self) -> None:
        votes = frame(
            rater=list("xyxyxy"),
            candidates=[("A", "C")] * 3 + [("B", "C")] * 3,
            answer=["A"] * 3 + ["B", "B", "tie"],
        )
        table = rows(analyse(votes, resamples=100).strengths).set_index("method")
        assert table["separable"].tolist() == [False, False, True]

    def test_equal_strengths_share_a_rank_whatever_the_rounding(self) -> None:
        # B and C have the same votes against A and D; sums in another order differ in the last digit.
        votes = frame(
            rater=list("xy") * 14,
            candidates=[("A", "B"), ("A", "C")] * 7 + [("B", "D"), ("C", "D")] * 7,
            answer=["A", "A"] * 5 + ["B", "C"] * 2 + ["B", "C"] * 4 + ["D", "D"] * 3,
        )
        table = rows(analyse(votes, resamples=50).strengths).set_index("method")
        assert table["rank"].tolist() == [1, 2, 2, 4]
        assert table.loc["B", "strength"] == table.loc["C", "strength"]

    def test_a_circle_of_wins_is_of_one_rank(self) -> None:
        votes = frame(
            rater=list("xy") * 6,
            candidates=[("A", "B"), ("B", "C"), ("C", "A")] * 4,
            answer=["A", "B", "C"] * 3 + ["B", "C", "A"],
        )
        table = rows(analyse(votes, resamples=50).strengths)
        assert table["rank"].tolist() == [1, 1, 1]
        assert table["behind"].tolist() == [0, 0, 0]

    def test_methods_never_compared_have_no_strengths(self) -> None:
        votes = frame(
            candidates=[("A", "B"), ("C", "D")] * 2, answer=["A", "C", "B", "D"], rater=list("xxyy")
        )
        found = analyse(votes, resamples=50)
        assert rows(found.strengths)["strength"].isna().all()
        assert "{A, B} and {C, D}" in rows(found.fits)["note"][0]
        assert rows(found.shares)["share"].tolist() == [0.5] * 4


class TestExclusion:
    def test_by_hand(self) -> None:
        votes = frame(
            rater=["ok"] * 4 + ["fast"] * 4 + ["asleep"] * 4 + ["fickle"] * 4,
            trial=["t", "a", "b", "z"] * 4,
            role=["trial", "attention", "attention", "repeat"] * 4,
            repeat_of=[None, None, None, "t"] * 4,
            expected=[None, "A", "A", None] * 4,
            answer=["A", "A", "B", "A", "A", "A", "A", "A", "A", "B", "tie", "A", "A", "A", "A", "B"],
            reaction_ms=[1000] * 4 + [999] + [5000] * 3 + [3000] * 8,
        )
        rule = Exclusion(max_attention_failures=1, min_self_consistency=0.5, min_median_reaction_ms=1000)
        found = rater_quality(check_votes(votes), rule).set_index("rater")
        assert found["excluded"].to_dict() == {"ok": False, "fast": True, "asleep": True, "fickle": True}
        assert found.loc["asleep", "why"] == "2 of 2 attention checks failed"
        assert found.loc["fickle", "why"] == "self-consistency 0.00"
        assert found.loc["fast", "why"] == "median reaction 999 ms"
        nobody = rater_quality(check_votes(votes), Exclusion(None, None, None))
        assert not nobody["excluded"].any()

    def test_side_by_side(self, mixed: Analysis) -> None:
        votes = mixed_votes()
        assert mixed.raters.set_index("rater")["excluded"].sum() == 1
        alone = analyse(votes[votes["rater"] != "r3"], resamples=300)
        one = mixed.shares[mixed.shares["raters"] == "kept"].reset_index(drop=True)
        other = alone.shares[alone.shares["raters"] == "kept"].reset_index(drop=True)
        pd.testing.assert_frame_equal(one, other)
        effect = mixed.effect[(mixed.effect["category"] == "all") & (mixed.effect["protocol"] == "all")]
        assert (effect["n_kept"] < effect["n_all"]).all()
        np.testing.assert_allclose(effect["change"], effect["share_kept"] - effect["share_all"])

    def test_nobody_and_everybody(self) -> None:
        nobody = analyse(small(), resamples=50)
        assert any("excludes nobody" in note for note in nobody.notes)
        everybody = analyse(small(), resamples=50, exclusion=Exclusion(min_median_reaction_ms=1e9))
        assert any("excludes everybody" in note for note in everybody.notes)
        assert set(everybody.shares["raters"]) == {"all"}
        assert everybody.effect["share_kept"].isna().all()

    @pytest.mark.parametrize(
        "wrong",
        [{"max_attention_failures": -1}, {"min_self_consistency": 50}, {"min_median_reaction_ms": math.nan}],
    )
    def test_impossible_bounds(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Exclusion(**wrong)  # type: ignore[arg-type]

    def test_reads_as_a_sentence(self) -> None:
        assert str(Exclusion(2, 0.5, 800)) == (
            "Raters are excluded for more than 2 failed attention checks, self-consistency below 0.5, "
            "a median reaction time below 800 ms."
        )
        assert str(Exclusion(None, None, None)) == "No rater is excluded."

    def test_the_votes_own_rule_is_applied_unless_another_is_given(self) -> None:
        strict = Exclusion(max_attention_failures=0, min_median_reaction_ms=9000)
        votes = small().assign(exclusion=strict.to_json())
        assert Exclusion.from_json(strict.to_json()) == strict
        assert analyse(votes, resamples=50).exclusion == strict
        assert analyse(votes, resamples=50, exclusion=Exclusion(None, None, None)).exclusion == Exclusion(
            None, None, None
        )
        # Half of the study's rows come from a file that knew no rule.
        votes.loc[3:, "exclusion"] = None
        assert analyse(votes, resamples=50).exclusion == strict

    @pytest.mark.parametrize(
        ("rules", "says"),
        [
            (
                (Exclusion(0).to_json(), Exclusion(2).to_json()),
                "different exclusion rules.*more than 0.*more than 2",
            ),
            ((None, Exclusion(2).to_json()), "no rule is stated"),
            (("{}", '{"max_failures": 1}'), "is no exclusion rule"),
            (("[", "{}"), "is no exclusion rule"),
        ],
    )
    def test_studies_of_different_rules_are_not_analysed_together(
        self, rules: tuple[str | None, str | None], says: str
    ) -> None:
        votes = pd.concat(
            [small().assign(study=name, exclusion=rule) for name, rule in zip("ab", rules, strict=True)]
        )
        with pytest.raises(VotesError, match=says):
            analyse(votes, resamples=50)

    def test_two_rules_of_one_study_are_refused(self) -> None:
        votes = small().assign(exclusion=[Exclusion(0).to_json(), Exclusion(2).to_json()] * 3)
        with pytest.raises(VotesError, match="two exclusion rules of study taste"):
            analyse(votes, resamples=50)


class TestSimulated:
    def test_refused_unless_asked_for(self) -> None:
        votes = poll(raters=4, per_rater=10).assign(rater_kind="simulated")
        with pytest.raises(SimulatedVotes, match="--simulated"):
            analyse(votes)
        found = analyse(votes, simulated=True, resamples=50)
        assert found.simulated
        assert found.to_dict()["simulated"] is True

    def test_never_mixed(self) -> None:
        votes = poll(raters=4, per_rater=10).assign(rater_kind="human")
        votes.loc[3, "rater_kind"] = "simulated"
        for asked in (False, True):
            with pytest.raises(SimulatedVotes, match="never counted together"):
                analyse(votes, simulated=asked)
        with pytest.raises(SimulatedVotes, match="of people"):
            analyse(poll(raters=4, per_rater=10), simulated=True)

    def test_every_table_and_file_says_so(self, tmp_path: Path) -> None:
        votes = mixed_votes().assign(rater_kind="simulated")
        found = analyse(votes, simulated=True, resamples=50, scores=metric_values())
        shown = show.tables(found)
        assert len(shown) > 10
        for table in shown:
            for form in (show.markdown(table), show.latex(table)):
                assert "SIMULATED RATERS" in form
        for path in show.write_analysis(found, tmp_path):
            assert "simulated" in path.read_text(encoding="utf-8").lower(), path.name


class TestMetrics:
    def test_agreement_by_hand(self) -> None:
        votes = small()
        values = {"A": 1.0, "B": 2.0, "C": 1.0}
        scores = pd.DataFrame(
            [
                (protocol, method, case, "m", value)
                for protocol, case in (("mini-coco", "c0"), ("mini-coco", "c1"), ("mini-celeba-hq", "c2"))
                for method, value in values.items()
            ],
            columns=["protocol", "method", "case", "metric", "value"],
        )
        found = analyse(votes, scores=scores, resamples=50)
        table = rows(found.correlation).set_index("measure")
        # B is better: of A, B, A one agrees; of A and C, equal, each counts half.
        assert table.loc["agreement", "value"] == pytest.approx((1 + 0.5 + 0.5) / 5)
        assert table.loc["agreement", "n"] == 5
        assert table.loc["kendall", "value"] == pytest.approx((1 - 2) / math.sqrt(5 * 4))
        assert any("direction" in note for note in found.notes)

    def test_pair_correlations_against_scipy(self) -> None:
        """Both orders of every vote, given to scipy. Kendall: of each pair of edits alone."""
        votes, scores = poll(raters=6, per_rater=20, seed=5), metric_values()
        found = analyse(votes, scores=scores, resamples=50).correlation
        found = rows(found).set_index(["metric", "measure"])["value"]
        value = scores[scores["metric"] == "good"].set_index(["method", "case"])["value"]
        gap = np.array(
            [value[c[0], k] - value[c[1], k] for c, k in zip(votes["candidates"], votes["case"], strict=True)]
        )
        vote = np.array(
            [
                0 if a == "tie" else 1 if a == c[0] else -1
                for a, c in zip(votes["answer"], votes["candidates"], strict=True)
            ]
        )
        theirs = scipy_stats.spearmanr(np.r_[vote, -vote], np.r_[gap, -gap]).statistic
        assert found["good", "spearman"] == pytest.approx(theirs, abs=1e-9)
        by_vote = [
            scipy_stats.kendalltau([v, -v], [g, -g], variant="b").statistic
            for v, g in zip(vote, gap, strict=True)
            if v
        ]
        assert found["good", "kendall"] == pytest.approx(sum(by_vote) / math.sqrt(len(vote) * len(by_vote)))
        assert found["good", "agreement"] == pytest.approx((np.array(by_vote) > 0).mean())

    def test_directions(self, mixed: Analysis) -> None:
        found = rows(mixed.correlation).set_index(["metric", "measure"])["value"]
        good, bad = (found[metric] for metric in ("good", "bad"))
        np.testing.assert_allclose(good, bad)
        assert good["agreement"] > 0.55
        assert good["method_spearman"] == pytest.approx(1.0, abs=0.11)

    def test_dice_are_at_one_half(self, mixed: Analysis) -> None:
        found = rows(mixed.correlation).set_index(["metric", "measure"])
        row = found.loc[("dice", "agreement")]
        assert row["low"] < 0.5 < row["high"]

    def test_method_level_against_scipy(self, mixed: Analysis) -> None:
        scores = metric_values()
        voted = set(mixed_votes()["case"])
        dice = (
            scores[(scores["metric"] == "dice") & scores["case"].isin(voted)]
            .groupby("method")["value"]
            .mean()
        )
        strength = rows(mixed.strengths).set_index("method")["strength"]
        found = rows(mixed.correlation).set_index(["metric", "measure"])["value"]
        of = found["dice"]
        theirs = scipy_stats.spearmanr(dice, strength[dice.index]).statistic
        assert of["method_spearman"] == pytest.approx(theirs)
        assert of["method_kendall"] == pytest.approx(
            scipy_stats.kendalltau(dice, strength[dice.index]).statistic
        )

    def test_edits_without_a_value_are_left_out_and_counted(self) -> None:
        votes, scores = poll(raters=6, per_rater=20, seed=5), metric_values()
        scores.loc[(scores["case"] == "c3") & (scores["metric"] == "good"), "value"] = np.nan
        found = analyse(votes, scores=scores[scores["case"] != "c4"], resamples=50).correlation
        n = rows(found).set_index(["metric", "measure"])["n"]
        assert n["good", "kendall"] == (~votes["case"].isin(["c3", "c4"])).sum()
        assert n["dice", "kendall"] == (votes["case"] != "c4").sum()

    def test_two_values_of_one_edit_are_refused(self) -> None:
        scores = metric_values()
        with pytest.raises(VotesError, match="two values of 'good'"):
            analyse(poll(raters=4, per_rater=10), scores=pd.concat([scores, scores.head(1)]))
        with pytest.raises(VotesError, match="metric"):
            analyse(poll(raters=4, per_rater=10), scores=scores.drop(columns="metric"))


class TestWhole:
    def test_without_two_votes_on_a_comparison_the_missing_alpha_is_explained(self) -> None:
        alone = analyse(frame(answer=["A", "B", "A"]), resamples=50)
        assert any("--overlap 2" in note for note in alone.notes)
        assert not any("--overlap" in note for note in analyse(small(), resamples=50).notes)

    def test_is_a_function_of_votes_and_seed(self) -> None:
        votes = poll(raters=6, per_rater=20)
        one, other, third = (analyse(votes, resamples=100, seed=s) for s in (1, 1, 2))
        assert json.dumps(one.to_dict()) == json.dumps(other.to_dict())
        assert rows(one.shares)["low"].tolist() != rows(third.shares)["low"].tolist()

    def test_names_of_methods_do_not_matter(self) -> None:
        votes = poll(raters=8, per_rater=30)
        names = {f"M{i}": f"Z{9 - i}" for i in range(5)} | {"tie": "tie"}
        renamed = votes.copy()
        renamed["candidates"] = [tuple(names[t] for t in c) for c in votes["candidates"]]
        renamed["answer"] = votes["answer"].map(names)
        one, other = (analyse(v, resamples=100) for v in (votes, renamed))
        for table, columns in (
            ("shares", ["share", "low", "high"]),
            ("strengths", ["strength", "low", "high"]),
        ):
            first = rows(getattr(one, table)).set_index("method")[columns]
            second = (
                rows(getattr(other, table))
                .set_index("method")[columns]
                .rename(index={v: k for k, v in names.items()})
            )
            pd.testing.assert_frame_equal(first, second.loc[first.index], rtol=1e-6)

    def test_counts(self, mixed: Analysis) -> None:
        found = mixed.counts.set_index("raters").loc["all"]
        assert found[["n_raters", "n_votes", "n_pairs", "n_best"]].tolist() == [10, 600, 500, 100]

    def test_is_frozen_and_plain_json(self, mixed: Analysis) -> None:
        with pytest.raises(FrozenInstanceError):
            mixed.seed = 3  # type: ignore[misc]
        text = json.dumps(mixed.to_dict(), allow_nan=False)
        assert json.loads(text)["shares"][0]["raters"] == "all"

    def test_no_votes(self) -> None:
        with pytest.raises(VotesError, match="no votes yet"):
            analyse(frame(answer=["A"], role=["practice"]))
        with pytest.raises(VotesError, match="no votes yet"):
            analyse(small().iloc[:0])


class TestShow:
    def test_tables_hold_the_figures(self, mixed: Analysis, tmp_path: Path) -> None:
        realism = pd.DataFrame(
            [("mini-coco", f"M{i}", "FID", 12.5 + i) for i in range(5)],
            columns=["protocol", "method", "metric", "value"],
        )
        shown = {table.name: table for table in show.tables(mixed, realism)}
        first = shown["data-sets-pair-overall"]
        assert first.columns == ("method", "mini-coco: FID ↓", "mini-coco: preference ↑ (%)")
        best = rows(mixed.shares, raters="kept", question="overall", protocol="mini-coco", kind="pair")
        best = best.set_index("method").loc["M0"]
        row = next(r for r in first.rows if r[0].text == "M0")
        assert [cell.text for cell in row] == ["M0", "12.50", f"{100 * best['of_all']:.1f}"]
        assert row[1].best
        assert row[2].best
        assert row[2].span == f"{100 * best['of_all_low']:.1f}–{100 * best['of_all_high']:.1f}"
        third = shown["preference-pair"]
        assert third.columns == ("method", "overall ↑ (%)", "n", "real ↑ (%)", "n")
        rule = "more than 1 failed attention check"
        assert all(rule in table.notes[0] for table in shown.values())
        paths = {path.name for path in show.write_analysis(mixed, tmp_path, realism)}
        assert {"tables.md", "tables.tex", "analysis.json", "shares.csv", "strengths.csv"} <= paths
        back = pd.read_csv(tmp_path / "shares.csv")
        np.testing.assert_allclose(back["share"], mixed.shares["share"])
        assert set(back["rater_kind"]) == {"human"}

    def test_terminal(self, mixed: Analysis) -> None:
        from rich.console import Console

        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        for part in show.terminal(show.tables(mixed)):
            console.print(part)
        text = console.export_text()
        assert "User preference" in text
        assert "Excluded: 1 of 10 raters. r3:" in text

    def test_latex_compiles_with_awkward_titles(self, tmp_path: Path) -> None:
        import shutil
        import subprocess

        if shutil.which("pdflatex") is None:
            pytest.skip("pdflatex is not installed")
        votes = poll(raters=4, per_rater=20)
        names = {"M0": r"A_b & 50% {x} \y", "M1": "C~d^e<f>|#$"}
        names |= {f"M{i}": f"blended_latent_diffusion_{i}" for i in (2, 3, 4)}
        votes["candidates"] = [tuple(names[t] for t in c) for c in votes["candidates"]]
        votes["answer"] = votes["answer"].map(names | {"tie": "tie"})
        good = metric_values().query("metric == 'good'")
        scores = pd.concat([good.assign(metric=f"mini_clip_directional_{i}_pasted") for i in range(30)])
        scores["method"] = scores["method"].map(names)
        show.write_analysis(analyse(votes, resamples=50, scores=scores), tmp_path)
        tables = (tmp_path / "tables.tex").read_text(encoding="utf-8")
        captions = [line for line in tables.splitlines() if line.startswith(r"\caption")]
        assert captions
        assert all(len(caption.split()) <= 40 for caption in captions)
        assert r"\begin{longtable}" in tables
        (tmp_path / "whole.tex").write_text(
            "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx,longtable}"
            "\\begin{document}\\input{tables}\\clearpage\\input{tables-notes}\\end{document}",
            encoding="utf-8",
        )
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "whole.tex"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout
        assert "too large" not in done.stdout

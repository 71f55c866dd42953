"""Metrics against votes: by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench.study.votes.analysis import Analysis, analyse
from bench.study.votes.frame import VotesError
from tests.bench.study.polls import metric_values, mixed_votes, poll, rows, small

POOLED = {"question": "all", "protocol": "all", "category": "all"}


@pytest.fixture(scope="module")
def mixed() -> Analysis:
    return analyse(mixed_votes(), scores=metric_values(), resamples=300)


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
        analysis = analyse(votes, scores=scores, resamples=50)
        table = rows(analysis.correlation).set_index("measure")
        # B is better: of A, B, A one agrees; of A and C, equal, each counts half.
        assert table.loc["agreement", "value"] == pytest.approx((1 + 0.5 + 0.5) / 5)
        assert table.loc["agreement", "n"] == 5
        assert table.loc["kendall", "value"] == pytest.approx((1 - 2) / math.sqrt(5 * 4))
        assert any("direction" in note for note in analysis.notes)

    def test_pair_correlations_against_scipy(self) -> None:
        """Both orders of every vote, given to scipy. Kendall: of each pair of edits alone."""
        votes, scores = poll(raters=6, per_rater=20, seed=5), metric_values()
        correlation = analyse(votes, scores=scores, resamples=50).correlation
        correlation = rows(correlation).set_index(["metric", "measure"])["value"]
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
        assert correlation["good", "spearman"] == pytest.approx(theirs, abs=1e-9)
        by_vote = [
            scipy_stats.kendalltau([v, -v], [g, -g], variant="b").statistic
            for v, g in zip(vote, gap, strict=True)
            if v
        ]
        assert correlation["good", "kendall"] == pytest.approx(
            sum(by_vote) / math.sqrt(len(vote) * len(by_vote))
        )
        assert correlation["good", "agreement"] == pytest.approx((np.array(by_vote) > 0).mean())

    def test_directions(self, mixed: Analysis) -> None:
        correlation = rows(mixed.correlation).set_index(["metric", "measure"])["value"]
        good, bad = (correlation[metric] for metric in ("good", "bad"))
        np.testing.assert_allclose(good, bad)
        assert good["agreement"] > 0.55
        assert good["method_spearman"] == pytest.approx(1.0, abs=0.11)

    def test_dice_are_at_one_half(self, mixed: Analysis) -> None:
        correlation = rows(mixed.correlation).set_index(["metric", "measure"])
        row = correlation.loc[("dice", "agreement")]
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
        correlation = rows(mixed.correlation).set_index(["metric", "measure"])["value"]
        dice_row = correlation["dice"]
        theirs = scipy_stats.spearmanr(dice, strength[dice.index]).statistic
        assert dice_row["method_spearman"] == pytest.approx(theirs)
        assert dice_row["method_kendall"] == pytest.approx(
            scipy_stats.kendalltau(dice, strength[dice.index]).statistic
        )

    def test_edits_without_a_value_are_left_out_and_counted(self) -> None:
        votes, scores = poll(raters=6, per_rater=20, seed=5), metric_values()
        scores.loc[(scores["case"] == "c3") & (scores["metric"] == "good"), "value"] = np.nan
        correlation = analyse(votes, scores=scores[scores["case"] != "c4"], resamples=50).correlation
        n = rows(correlation).set_index(["metric", "measure"])["n"]
        assert n["good", "kendall"] == (~votes["case"].isin(["c3", "c4"])).sum()
        assert n["dice", "kendall"] == (votes["case"] != "c4").sum()

    def test_two_values_of_one_edit_are_refused(self) -> None:
        scores = metric_values()
        with pytest.raises(VotesError, match="two values of 'good'"):
            analyse(poll(raters=4, per_rater=10), scores=pd.concat([scores, scores.head(1)]))
        with pytest.raises(VotesError, match="metric"):
            analyse(poll(raters=4, per_rater=10), scores=scores.drop(columns="metric"))

"""The rule that excludes raters, by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from bench.study.votes.analysis import Analysis, analyse
from bench.study.votes.exclusion import Exclusion, rater_quality
from bench.study.votes.frame import VotesError, check_votes
from tests.bench.study.polls import frame, metric_values, mixed_votes, small

POOLED = {"question": "all", "protocol": "all", "category": "all"}


@pytest.fixture(scope="module")
def mixed() -> Analysis:
    return analyse(mixed_votes(), scores=metric_values(), resamples=300)


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
        quality = rater_quality(check_votes(votes), rule).set_index("rater")
        assert quality["excluded"].to_dict() == {"ok": False, "fast": True, "asleep": True, "fickle": True}
        assert quality.loc["asleep", "why"] == "2 of 2 attention checks failed"
        assert quality.loc["fickle", "why"] == "self-consistency 0.00"
        assert quality.loc["fast", "why"] == "median reaction 999 ms"
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

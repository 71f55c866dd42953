"""The analysis against answers by hand, other implementations, and raters whose strengths are known."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench.study.votes.analysis import Analysis, OtherRaters, analyse
from bench.study.votes.frame import VotesError
from tests.bench.study.polls import frame, metric_values, mixed_votes, poll, rows, small
from tests.bench.study.votes.fits import fit_votes

POOLED = {"question": "all", "protocol": "all", "category": "all"}


@pytest.fixture(scope="module")
def mixed() -> Analysis:
    return analyse(mixed_votes(), scores=metric_values(), resamples=300)


class TestShares:
    def test_by_hand(self) -> None:
        shares = rows(analyse(small(), resamples=50).shares).set_index("method")
        assert shares.loc["A", ["n", "wins", "ties", "losses"]].tolist() == [6, 3, 1, 2]
        assert shares["share"].to_dict() == pytest.approx({"A": 3.5 / 6, "B": 1.5 / 4, "C": 0.5})
        assert shares["of_all"].to_dict() == pytest.approx({"A": 3.5 / 6, "B": 1.5 / 6, "C": 1 / 6})
        assert shares["of_all"].sum() == pytest.approx(1)
        assert (shares["n_raters"] == 2).all()
        assert (shares["n_sources"] == 3).all()

    def test_scopes_by_hand(self) -> None:
        shares = analyse(small(), resamples=50).shares
        attribute = rows(shares, category="attribute").set_index("method")
        assert attribute["share"].to_dict() == pytest.approx({"A": 2.5 / 4, "B": 1.5 / 4})
        faces = rows(shares, protocol="mini-celeba-hq").set_index("method")
        assert faces["share"].to_dict() == pytest.approx({"A": 0.5, "C": 0.5})
        assert rows(shares, question="overall")["share"].tolist() == rows(shares)["share"].tolist()

    def test_wilson_against_scipy(self) -> None:
        shares = rows(analyse(poll(tie=0.0), resamples=50).shares)
        for row in shares.itertuples():
            theirs = scipy_stats.binomtest(row.wins, row.n).proportion_ci(method="wilson")
            assert (row.wilson_low, row.wilson_high) == pytest.approx((theirs.low, theirs.high))

    def test_of_the_best(self) -> None:
        votes = frame(
            kind=["best"] * 4,
            candidates=[("A", "B", "C")] * 4,
            answer=["A", "A", "C", "A"],
            rater=list("xxyy"),
        )
        shares = rows(analyse(votes, resamples=50).shares).set_index("method")
        assert shares["share"].to_dict() == pytest.approx({"A": 0.75, "B": 0.0, "C": 0.25})
        assert shares["of_all"].to_dict() == pytest.approx(shares["share"].to_dict())
        assert math.isnan(shares.loc["B", "low"]), "never chosen: the bootstrap has no interval"
        assert shares.loc["B", "wilson_high"] > 0.3

    def test_both_are_bad_is_half_a_win_and_reported_apart(self) -> None:
        votes = poll(raters=6, per_rater=30, cases=12)
        ties = votes["answer"] == "tie"
        called_bad = votes.copy()
        called_bad.loc[ties & (votes.index % 3 == 0), "answer"] = "both bad"
        plain, apart = (analyse(v, resamples=50) for v in (votes, called_bad))
        # Preference, wins, strengths and agreement are those of ties.
        for name in ("wins", "strengths", "fits", "agreement", "positions"):
            pd.testing.assert_frame_equal(getattr(plain, name), getattr(apart, name))
        added = [column for column in apart.shares if column.startswith("both_bad")]
        pd.testing.assert_frame_equal(plain.shares.drop(columns=added), apart.shares.drop(columns=added))
        # Counts by hand.
        bad = called_bad[called_bad["answer"] == "both bad"]
        assert len(bad) > 10
        counts = apart.counts.iloc[0]
        assert (counts["n_ties"], counts["n_both_bad"]) == (ties.sum() - len(bad), len(bad))
        for row in rows(apart.shares).itertuples():
            n_bad = sum(row.method in candidates for candidates in bad["candidates"])
            assert (row.both_bad, row.both_bad_share) == (n_bad, pytest.approx(n_bad / row.n))
            assert row.both_bad_low < row.both_bad_share < row.both_bad_high

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
            shares = rows(analyse(poll(rater_sd=sd, seed=1), resamples=500).shares)
            widths.append(
                ((shares["high"] - shares["low"]) / (shares["wilson_high"] - shares["wilson_low"])).mean()
            )
        assert 0.75 < widths[0] < 1.25
        assert widths[1] > 1.5

    def test_the_other_side_of_a_pair(self) -> None:
        """Between two methods, one's interval is the other's, mirrored."""
        shares = rows(analyse(poll((0.4, -0.4)), resamples=300).shares)
        assert shares["share"].sum() == pytest.approx(1)
        assert shares["low"][0] == pytest.approx(1 - shares["high"][1])


class TestWins:
    def test_by_hand(self) -> None:
        wins = rows(analyse(small(), resamples=50).wins).set_index(["method", "against"])
        counts = wins[["wins", "ties", "losses", "n"]]
        assert counts.loc[("A", "B")].tolist() == [2, 1, 1, 4]
        assert counts.loc[("B", "A")].tolist() == [1, 1, 2, 4]
        assert counts.loc[("C", "A")].tolist() == [1, 0, 1, 2]
        assert ("B", "C") not in wins.index

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
        wins = rows(mixed.wins, kind="pair").set_index(["method", "against"])
        for a, b in wins.index:
            assert wins.loc[(a, b), "share"] == pytest.approx(1 - wins.loc[(b, a), "share"])
            assert wins.loc[(a, b), "n"] == wins.loc[(b, a), "n"]


class TestStrengths:
    def test_are_the_fit_of_the_same_votes(self, mixed: Analysis) -> None:
        votes = mixed_votes()
        votes = votes[votes["role"] == "trial"]
        keys = zip(
            votes["kind"], votes["candidates"].map(lambda c: tuple(sorted(c))), votes["answer"], strict=True
        )
        fitted = fit_votes(pd.Series(list(keys)).value_counts().to_dict())
        strengths = rows(mixed.strengths)
        assert strengths["method"].tolist() == list(fitted.methods)
        np.testing.assert_allclose(strengths["strength"], fitted.strengths, atol=1e-6)
        assert rows(mixed.fits)["tie"][0] == pytest.approx(fitted.tie, abs=1e-6)

    def test_known_strengths_are_recovered_within_their_intervals(self) -> None:
        truth = np.linspace(1, -1, 5)
        strengths = rows(analyse(poll(truth, raters=60, per_rater=200, cases=100), resamples=300).strengths)
        assert strengths["rank"].tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(strengths["strength"], truth, atol=0.12)
        # Elo's own formula: the expected share against another is 1 / (1 + 10^(difference / 400)).
        share = 1 / (1 + 10 ** ((strengths["elo"][4] - strengths["elo"][0]) / 400))
        odds = np.exp(strengths["strength"][0] - strengths["strength"][4])
        assert share / (1 - share) == pytest.approx(odds)
        assert strengths["elo"].mean() == pytest.approx(1000)
        assert ((strengths["low"] < truth) & (truth < strengths["high"])).sum() >= 4
        assert strengths["separable"].tolist() == [False, True, True, True, True]

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
            analysis = analyse(votes, resamples=200)
            for table in (analysis.strengths, analysis.shares):
                row = rows(table).iloc[1]
                truth = 0.0 if "strength" in row else 0.5
                held.append(row["low"] <= truth <= row["high"])
        assert 0.86 <= np.mean(held) <= 1

    def test_equal_methods_are_not_separable(self) -> None:
        strengths = [
            rows(analyse(poll((0, 0, 0), seed=s, per_rater=20), resamples=200).strengths) for s in range(10)
        ]
        assert sum(table["separable"].sum() for table in strengths) <= 4

    def test_an_undefeated_method_is_said_to_be_regularised(self) -> None:
        votes = frame(
            rater=list("xyxyxyxy"),
            candidates=[("A", "B")] * 4 + [("B", "C")] * 4,
            answer=["A"] * 4 + ["B", "B", "C", "B"],
        )
        analysis = analyse(votes, resamples=100)
        fit = rows(analysis.fits).iloc[0]
        assert fit["regularised"]
        assert "A never lost" in fit["note"]
        table = rows(analysis.strengths).set_index("method")
        assert np.isfinite(table["strength"]).all()
        # A's strength and its lead have no upper end; C lost to B and won once, so both of its ends are bounded.
        assert math.isnan(table.loc["A", "high"])
        assert table["high"][["B", "C"]].notna().all()
        assert table["low"].notna().all()
        assert table.loc["A", "low"] > 0
        assert table["behind_high"][["B", "C"]].isna().all()
        assert table["behind_low"][["B", "C"]].notna().all()
        assert table["separable"].tolist() == [False, True, True]
        json.dumps(analysis.to_dict(), allow_nan=False)

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
        analysis = analyse(votes, resamples=50)
        assert rows(analysis.strengths)["strength"].isna().all()
        assert "{A, B} and {C, D}" in rows(analysis.fits)["note"][0]
        assert rows(analysis.shares)["share"].tolist() == [0.5] * 4


class TestSimulated:
    def test_refused_unless_asked_for(self) -> None:
        votes = poll(raters=4, per_rater=10).assign(rater_kind="simulated")
        with pytest.raises(OtherRaters, match="--simulated"):
            analyse(votes)
        analysis = analyse(votes, simulated=True, resamples=50)
        assert analysis.simulated
        assert analysis.to_dict()["simulated"] is True

    def test_never_mixed(self) -> None:
        votes = poll(raters=4, per_rater=10).assign(rater_kind="human")
        votes.loc[3, "rater_kind"] = "simulated"
        for asked in (False, True):
            with pytest.raises(OtherRaters, match="never counted together"):
                analyse(votes, simulated=asked)
        with pytest.raises(OtherRaters, match="of people"):
            analyse(poll(raters=4, per_rater=10), simulated=True)


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
        counts = mixed.counts.set_index("raters").loc["all"]
        assert counts[["n_raters", "n_votes", "n_pairs", "n_best"]].tolist() == [10, 600, 500, 100]

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

"""Ratings against answers by hand and other implementations."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench.study.exchange import export_votes, import_votes
from bench.study.votes import show
from bench.study.votes.analysis import analyse
from bench.study.votes.frame import VotesError, check_votes
from tests.bench.study.polls import frame, poll

FIVE = "[1, 2, 3, 4, 5]"
THREE = "[0, 0.5, 1]"


def rated(
    means: tuple[float, ...] = (4.0, 3.0, 2.0),
    *,
    raters: int = 6,
    cases: int = 12,
    rater_sd: float = 0.0,
    noise: float = 0.8,
    seed: int = 0,
    scale: str = FIVE,
    question: str = "overall",
) -> pd.DataFrame:
    """Every rater rates every edit: the method's mean, a taste of the rater, and noise, rounded to the scale."""
    generator = np.random.default_rng(seed)
    values = np.array([1, 2, 3, 4, 5] if scale == FIVE else [0, 0.5, 1])
    taste = generator.normal(0, rater_sd, raters)
    rows = list(itertools.product(range(raters), range(cases), range(len(means))))
    raw = np.array([means[m] + taste[r] for r, _, m in rows]) + generator.normal(0, noise, len(rows))
    nearest = values[np.abs(raw[:, None] - values).argmin(axis=1)]
    return frame(
        rater=[f"r{r}" for r, _, _ in rows],
        trial=[f"t{c}-{m}" for _, c, m in rows],
        case=[f"c{c}" for _, c, _ in rows],
        kind=["rate"] * len(rows),
        candidates=[(f"M{m}",) for _, _, m in rows],
        question=[question] * len(rows),
        answer=[f"{value:g}" for value in nearest],
        scale=[scale] * len(rows),
    )


def ordinal_alpha(table: list[list[float]]) -> float:
    """Krippendorff's ordinal alpha by its definition: pairs of ratings one by one. ``table``: ratings of each unit."""
    units = [unit for unit in table if len(unit) > 1]
    pooled = sorted(value for unit in units for value in unit)
    count = {value: pooled.count(value) for value in pooled}

    def distance(a: float, b: float) -> float:
        low, high = min(a, b), max(a, b)
        between = sum(n for value, n in count.items() if low <= value <= high)
        return float((between - (count[a] + count[b]) / 2) ** 2)

    n = len(pooled)
    observed = sum(
        distance(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)
    )
    expected = sum(distance(a, b) for a, b in itertools.permutations(pooled, 2))
    return 1 - (n - 1) * observed / expected


def test_means_are_those_of_pandas_and_categories_add_up() -> None:
    votes = rated()
    table = analyse(votes, resamples=50).ratings
    pooled = table[(table["raters"] == "all") & (table["protocol"] == "all") & (table["category"] == "all")]
    plain = votes.assign(method=[c[0] for c in votes["candidates"]], value=votes["answer"].astype(float))
    expected = plain.groupby("method")["value"].agg(["mean", "std", "size"])
    for row in pooled.itertuples():
        assert (row.mean, row.sd, row.n) == (
            pytest.approx(expected.loc[row.method, "mean"]),
            pytest.approx(expected.loc[row.method, "std"]),
            expected.loc[row.method, "size"],
        )
    assert set(pooled["question"]) == {"overall"}
    assert pooled[["worst", "best", "n_raters", "n_sources"]].drop_duplicates().to_numpy().tolist() == [
        [1, 5, 6, 12]
    ]


def test_intervals_of_independent_ratings_are_those_of_students_t() -> None:
    # Without tastes of raters and with alike cases, ratings are independent.
    table = analyse(rated(raters=20, cases=30, seed=3), resamples=1000).ratings
    pooled = table[(table["raters"] == "all") & (table["category"] == "all") & (table["protocol"] == "all")]
    for row in pooled.itertuples():
        half = scipy_stats.t.ppf(0.975, row.n - 1) * row.sd / np.sqrt(row.n)
        assert (row.high - row.low) / (2 * half) == pytest.approx(1, abs=0.3)


def test_tastes_of_raters_widen_the_intervals_to_those_of_the_raters_means() -> None:
    votes = rated(raters=10, cases=40, rater_sd=1.0, noise=0.5, seed=1)
    table = analyse(votes, resamples=1000).ratings
    row = table[(table["raters"] == "all") & (table["method"] == "M1") & (table["category"] == "all")].iloc[0]
    own = votes[[c == ("M1",) for c in votes["candidates"]]]
    by_rater = own["answer"].astype(float).groupby(own["rater"]).mean()
    half = scipy_stats.t.ppf(0.975, 9) * by_rater.std() / np.sqrt(10)
    assert (row["high"] - row["low"]) / (2 * half) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("noise", [0.3, 0.8, 3.0])
def test_alpha_is_that_of_the_definition(noise: float) -> None:
    votes = rated(noise=noise, cases=8, seed=2)
    # Some ratings are missing, and one edit has a single one.
    votes = votes.drop(index=votes.index[::7]).reset_index(drop=True)
    one = (votes["trial"] == "t0-0") & (votes["rater"] != "r1")
    votes = votes[~one].reset_index(drop=True)
    result = analyse(votes, resamples=200).rating_agreement
    row = result[result["raters"] == "all"].iloc[0]
    table = votes.groupby("trial")["answer"].apply(lambda answers: [float(a) for a in answers]).tolist()
    assert row["alpha"] == pytest.approx(ordinal_alpha(table))
    assert row["low"] < row["alpha"] < row["high"]
    equal = [a == b for unit in table for a, b in itertools.combinations(unit, 2) if len(unit) > 1]
    assert 0 < row["agreement"] < 1
    assert row["agreement"] == pytest.approx(np.mean(equal), abs=0.05)


def test_imagenhubs_overall_score_is_the_geometric_mean_of_a_raters_two_ratings() -> None:
    parts = [rated((0.9, 0.4), scale=THREE, noise=0.3, seed=s, question=q) for s, q in ((0, "sc"), (1, "pq"))]
    table = analyse(pd.concat(parts, ignore_index=True), resamples=50).ratings
    pooled = table[(table["raters"] == "all") & (table["protocol"] == "all") & (table["category"] == "all")]
    assert set(pooled["question"]) == {"sc", "pq", "sc_pq"}
    both = parts[0].merge(parts[1], on=["rater", "trial"])
    product = np.sqrt(both["answer_x"].astype(float) * both["answer_y"].astype(float))
    expected = product.groupby([c[0] for c in both["candidates_x"]]).mean().to_dict()
    overall = pooled[pooled["question"] == "sc_pq"].set_index("method")["mean"].to_dict()
    assert overall == pytest.approx(expected)


def test_ratings_are_compared_with_pairs_of_the_same_edits() -> None:
    pairs = poll((1.0, 0.0, -1.0), raters=8, cases=12, per_rater=40, tie=0.0)
    ratings = rated(seed=4)
    found = analyse(pd.concat([pairs, ratings], ignore_index=True), resamples=100).correlation
    pooled = found[(found["raters"] == "all") & (found["protocol"] == "all") & (found["category"] == "all")]
    pooled = pooled[(pooled["question"] == "all") & (pooled["metric"] == "rating overall")].set_index(
        "measure"
    )
    # By hand, with scipy: the difference of the mean ratings of both edits, against the vote.
    value = ratings["answer"].astype(float)
    edits = value.groupby([ratings["case"], [c[0] for c in ratings["candidates"]]]).mean()
    difference = [
        edits[case, a] - edits[case, b]
        for case, (a, b) in zip(pairs["case"], pairs["candidates"], strict=True)
    ]
    vote = [
        1 if answer == c[0] else -1 for answer, c in zip(pairs["answer"], pairs["candidates"], strict=True)
    ]
    agree = np.where(np.array(difference) == 0, 0.5, np.sign(difference) == vote).mean()
    assert pooled.loc["agreement", "value"] == pytest.approx(agree)
    by_method = value.groupby([c[0] for c in ratings["candidates"]]).mean()
    assert pooled.loc["method_spearman", "value"] == pytest.approx(
        scipy_stats.spearmanr(by_method.loc[["M0", "M1", "M2"]], [1.0, 0.0, -1.0])[0]
    )


def test_a_study_of_ratings_alone_has_tables_and_files(tmp_path: Path) -> None:
    votes = rated()
    analysis = analyse(votes, resamples=50)
    assert "ratings in 216 trials of 6 raters" in analysis.statement
    tables = {table.name: table for table in show.tables(analysis)}
    assert set(tables) == {"ratings", "quality"}
    best = tables["ratings"].rows[0]
    assert (best.label, best.cells[0].best, best.cells[1].value) == ("M0", True, 72)
    assert "ratings.csv" in {path.name for path in show.write_analysis(analysis, tmp_path)}
    # A file of votes holds ratings as they are.
    for ending in (".csv", ".parquet"):
        export_votes(votes, tmp_path / f"votes{ending}")
        again = import_votes(tmp_path / f"votes{ending}")
        pd.testing.assert_frame_equal(
            again[again.columns], check_votes(votes)[again.columns], check_dtype=False
        )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("answer", "6", "is no value of its scale"),
        ("answer", "good", "is no value of its scale"),
        ("scale", "[1]", "is no JSON list"),
        ("scale", None, "does not fit the kind"),
        ("candidates", ("A", "B"), "number of methods of its kind"),
    ],
)
def test_ratings_that_cannot_be_counted_are_refused(column: str, value: object, message: str) -> None:
    votes = rated()
    votes.at[3, column] = value
    with pytest.raises(VotesError, match=message):
        check_votes(votes)

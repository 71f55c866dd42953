"""Votes into shares: known votes, known shares."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from reports import preference, scores
from reports.preference import NEITHER, VoteError
from tests.reports import fake

N = len(fake.cases())
A, B, C = "sd_inpainting", "instruct_pix2pix", "oracle"


@pytest.fixture
def run(tmp_path: Path) -> scores.RunScores:
    return scores.load(fake.run(tmp_path / "r", {"my": {"oracle": [0.0] * N}}))


def votes(*rows: tuple[str, str, tuple[str, ...], str]) -> pd.DataFrame:
    made = [(rater, "mini-coco", *rest) for rater, *rest in rows]
    return pd.DataFrame(made, columns=list(preference.VOTE_COLUMNS))


KNOWN = (
    ("r1", "attribute-0", (A, B), A),
    ("r1", "attribute-1", (A, B), "tie"),
    ("r2", "background-0", (B, A), A),
    ("r2", "background-1", (C, B), B),
)


def share(frame: pd.DataFrame, metric: str, method: str, category: str = "all") -> pd.Series:
    found = frame[
        (frame["metric"] == metric)
        & (frame["method"] == method)
        & (frame["category"] == category)
        & (frame["protocol"] == "mini-coco")
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_two_kinds_of_share(run: scores.RunScores) -> None:
    frame = preference.preference_summary(preference.checked(votes(*KNOWN), run), run)
    # Of the three comparisons that it was in, A won two and shared one.
    assert share(frame, "preference", A)["value"] == pytest.approx(2.5 / 3)
    assert share(frame, "preference", B)["value"] == pytest.approx(1.5 / 4)
    assert share(frame, "preference", C)["value"] == 0
    assert share(frame, "preference", B)["n"] == 4
    # Of all four votes A got two, B one, none went to neither but one.
    got = {m: share(frame, "preference_votes", m)["value"] for m in (A, B, C, NEITHER)}
    assert got == {A: 0.5, B: 0.25, C: 0.0, NEITHER: 0.25}
    assert share(frame, "preference", A, "attribute")["value"] == pytest.approx(0.75)
    assert set(frame["protocol"]) == {"mini-coco", preference.EVERYWHERE}


def test_the_best_of_several_is_a_vote_and_no_comparison(run: scores.RunScores) -> None:
    some = votes(*KNOWN, ("r3", "attribute-0", (A, B, C), C))
    frame = preference.preference_summary(preference.checked(some, run), run)
    assert share(frame, "preference_votes", C)["value"] == pytest.approx(0.2)
    assert share(frame, "preference", C)["n"] == 1


def test_intervals_are_clustered_on_the_rater(run: scores.RunScores) -> None:
    one = tuple((f"r{i % 2}", f"attribute-{i % 4}", (A, B), A if i % 2 else B) for i in range(40))
    many = tuple((f"r{i}", f"attribute-{i % 4}", (A, B), A if i % 2 else B) for i in range(40))
    wide, narrow = (
        share(preference.preference_summary(preference.checked(votes(*v), run), run), "preference", A)
        for v in (one, many)
    )
    # Two raters who always say the same are two observations, not forty.
    assert wide["high"] - wide["low"] > 0.9
    assert narrow["high"] - narrow["low"] < 0.4


def test_digests_stand_for_methods_and_simulated_raters_are_no_people(run: scores.RunScores) -> None:
    digest = {title: d for d, title in run.titles.items()}
    shown = (digest[A], digest[B])
    some = votes(*(("r1", "attribute-0", shown, digest[A]) for _ in range(4)))
    some["rater_kind"] = ["human", "simulated", "human", "human"]
    some["role"] = ["trial", "trial", "attention", "repeat"]
    kept = preference.checked(some, run)
    assert kept.to_numpy().tolist() == [["r1", "mini-coco", "attribute-0", (A, B), A]]


def test_votes_on_two_questions_are_not_added_up(run: scores.RunScores) -> None:
    with pytest.raises(VoteError, match=r"several questions \(overall, realism\)"):
        preference.checked(votes(*KNOWN).assign(question=["overall", "realism"] * 2), run)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("r", "attribute-0", ("nobody", B), B), "nobody"),
        (("r", "attribute-0", (A, A), A), "no two methods"),
        (("r", "attribute-0", (A, B), C), "was not shown"),
        (("r", "elsewhere", (A, B), A), "elsewhere"),
    ],
)
def test_votes_on_another_run_are_refused(run: scores.RunScores, row: tuple[str, ...], says: str) -> None:
    with pytest.raises(VoteError, match=says):
        preference.checked(votes(row), run)  # type: ignore[arg-type]


def test_missing_columns_are_named(run: scores.RunScores) -> None:
    with pytest.raises(VoteError, match="answer"):
        preference.checked(votes(*KNOWN).drop(columns="answer"), run)

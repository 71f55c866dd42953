"""Scales as data, and trials in which single edits are rated on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench.study.build import build
from bench.study.design import Design, DesignError, DesignOptions
from bench.study.interface import VoteRefused
from bench.study.scales import BUILT_IN, HIGH, LOW, ScaleError, chance, meets, read_scales
from bench.study.simulate import Taste, run_raters
from bench.study.store import StudyStore
from bench.study.types import NOISE
from bench.study.votes.exclusion import Exclusion, rater_quality
from bench.study.votes.frame import check_votes
from tests.bench.study.runs import OPEN, begin

OWN = """
harm:
  question: Is there anything in it that could offend?
  levels:
    - {value: -1, label: "Yes"}
    - {value: 1, label: "No"}
"""


def options(**others: object) -> DesignOptions:
    values = {"raters": 4, "trials": 10, "repeats": 2, "attention": 2, "practice": 1} | others
    return DesignOptions(kinds=("rate",), scales=read_scales(["sc", "overall"]), **values)


@pytest.fixture
def rated(store: StudyStore, run_folder: Path) -> StudyStore:
    """A store with the study `taste`, in which edits are rated on two scales."""
    store.create("taste", build([run_folder], options()), OPEN)
    return store


def test_the_scales_that_come_with_the_program() -> None:
    scales = {
        scale.name: scale for scale in read_scales(["sc", "pq", "overall", "prompt", "preserve", "real"])
    }
    assert scales["sc"].values == scales["pq"].values == (0, 0.5, 1)
    assert all(level.means for level in (*scales["sc"].levels, *scales["pq"].levels))
    assert {scales[name].values for name in ("overall", "prompt", "preserve", "real")} == {(1, 2, 3, 4, 5)}
    assert [scale.name for scale in read_scales([])] == ["sc", "pq"]


def test_a_file_adds_scales(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    assert [scale.values for scale in read_scales([], file)] == [(-1, 1)]
    assert [scale.name for scale in read_scales(["pq", "harm"], file)] == ["pq", "harm"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "expected names of scales"),
        ("Harm: {}", "a name has up to 20 small letters"),
        ("harm: {question: x}", "expected question and levels"),
        ("harm: {question: x, levels: [{value: 1, label: a}]}", "2 to 9 levels"),
        ("harm: {question: x, levels: [{value: 1, label: a}, {value: 0, label: b}]}", "rising values"),
        ("harm: {question: x, levels: [{value: .nan, label: a}, {value: 0, label: b}]}", "rising values"),
        ("harm: {question: ' ', levels: [{value: 0, label: a}, {value: 1, label: b}]}", "is empty"),
        ("harm: {question: x, levels: [{value: 0, label: ''}, {value: 1, label: b}]}", "is empty"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_file_that_holds_no_scales_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ScaleError, match=message):
        read_scales([], file)


def test_an_unknown_scale_or_one_named_twice_is_refused() -> None:
    with pytest.raises(ScaleError, match=r"unknown.*overall"):
        read_scales(["overal"])
    with pytest.raises(ScaleError, match="each scale once"):
        read_scales(["sc", "sc"])
    assert BUILT_IN.is_file()


def test_a_check_wants_the_lower_half_or_not_the_lower_half() -> None:
    three, five = read_scales(["sc", "overall"])
    assert [meets(LOW, value, three.values) for value in three.values] == [True, False, False]
    assert [meets(HIGH, value, five.values) for value in five.values] == [False, False, True, True, True]
    # At random: a third of three levels and two fifths of five, or the rest.
    assert chance(LOW, (three, five)) == pytest.approx(1 / 3 * 2 / 5)
    assert chance(HIGH, (three, five)) == pytest.approx(2 / 3 * 3 / 5)


def test_every_edit_is_rated_equally_often(run_folder: Path) -> None:
    design = build([run_folder], options(raters=6, trials=12))
    trials = [trial for trial in design.trials if trial.role == "trial"]
    assert len(trials) == 48
    # Twelve cases and four methods: every edit once.
    assert set(Counter((trial.case, trial.candidates) for trial in trials).values()) == {1}
    # The scales are part of the design and of its digest.
    assert Design.from_json(design.to_json()) == design
    assert (
        build([run_folder], DesignOptions(kinds=("rate",), scales=read_scales(["pq"]))).digest
        != design.digest
    )


def test_a_single_edit_does_not_count_as_shown_first(run_folder: Path) -> None:
    assert "shown first" not in build([run_folder], options(raters=6, trials=12)).describe()
    both = build([run_folder], replace(options(raters=6, trials=12), kinds=("rate", "pair")))
    pairs = [trial for trial in both.trials if trial.role == "trial" and trial.kind == "pair"]
    for title, share in both.describe()["shown first"].items():
        shown = [trial for trial in pairs if title in trial.candidates]
        assert share == sum(trial.candidates[0] == title for trial in shown) / len(shown)


def test_scales_belong_to_ratings(run_folder: Path) -> None:
    for wrong in (DesignOptions(kinds=("rate",)), DesignOptions(scales=read_scales([]))):
        with pytest.raises(DesignError, match="scales belong to --kind rate"):
            build([run_folder], wrong)


def test_a_rating_answers_all_scales_and_is_a_row_for_each(rated: StudyStore) -> None:
    rater = begin(rated)
    practice = rated.next_trial(rater)
    assert practice is not None
    assert (practice.kind, practice.candidates, len(practice.scales)) == ("rate", 1, 2)
    # Practice shows noise: low ratings are right.
    assert rated.unblinded(rater, practice.id).trial.candidates == (NOISE,)
    assert rated.vote(rater, practice.id, (0, 1)).correct
    trial = rated.next_trial(rater)
    assert trial is not None
    for wrong in (0, "tie", (0,), (0, 5), (0, -1), (0, True), (0, 1, 1)):
        with pytest.raises(VoteRefused, match="a position on each of 2 scales"):
            rated.vote(rater, trial.id, wrong)  # type: ignore[arg-type]
    assert rated.vote(rater, trial.id, (1, 4), 900).answer == (1, 4)
    answered = rated.last_answered(rater)
    assert answered is not None
    assert answered.answer == (1, 4)
    assert rated.correct(rater, trial.id, (2, 4), 100).new
    votes = check_votes(rated.votes("taste"))
    rows = votes[votes["role"] != "practice"]
    assert rows["question"].tolist() == ["sc", "overall"]
    assert rows["answer"].tolist() == ["1", "5"]
    assert rows["first_answer"].tolist() == ["0.5", "5"]
    assert rows["scale"].tolist() == ["[0.0, 0.5, 1.0]", "[1.0, 2.0, 3.0, 4.0, 5.0]"]
    assert rated.status("taste").votes == 2


def test_attentive_raters_pass_the_checks_of_a_rating(rated: StudyStore) -> None:
    run_raters(rated, "taste", 2)
    run_raters(rated, "taste", 2, Taste(inattentive_slow=1.0), seed=5)
    votes = check_votes(rated.votes("taste", "simulated"))
    by_rater = {entry.rater: entry for entry in rated.quality("taste", "simulated")}
    table = rater_quality(votes, Exclusion())
    # Both counts of failed checks agree, and trials count once, however many scales they have.
    for row in table.itertuples():
        assert row.failures == by_rater[row.rater].attention_failed
        assert (row.votes, row.attention) == (6, 2)
    failed = [by_rater[entry.rater].attention_failed > 0 for entry in rated.quality("taste", "simulated")]
    assert failed == [False, False, True, True]

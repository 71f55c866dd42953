from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.study.build import build
from bench.study.design import Design, DesignOptions
from bench.study.interface import StudyFull
from bench.study.simulate import SimulatedRater, SimulationError, Taste, probabilities, run_raters
from bench.study.store import StudyStore
from bench.study.types import GROUND_TRUTH, NOISE, Trial
from bench.study.votes.analysis import analyse
from tests.bench.study.runs import answer_all


def pair(left: str, right: str) -> Trial:
    return Trial("t", "trial", "pair", "overall", "c", (left, right))


def test_probabilities_are_davidsons() -> None:
    # pi = (3, 1), nu = 0.5: 3 : 1 : 0.5 sqrt(3).
    total = 4 + 0.5 * math.sqrt(3)
    assert probabilities([math.log(3), 0.0], 0.5) == pytest.approx(
        [3 / total, 1 / total, 0.5 * math.sqrt(3) / total]
    )
    assert probabilities([0.0, 0.0], None, bias=math.log(4)) == pytest.approx([0.8, 0.2])
    assert probabilities([0.0, 0.0], 1.0)[2] == pytest.approx(1 / 3)
    assert probabilities([1000.0, 0.0, 0.0], None) == pytest.approx([1, 0, 0])
    # Luce: of three, in proportion.
    assert probabilities([math.log(2), 0.0, 0.0], None) == pytest.approx([0.5, 0.25, 0.25])


def test_a_raters_answers_have_those_frequencies() -> None:
    rater = SimulatedRater(Taste({"a": math.log(3)}, ties=0.5, position_bias=0.4), ["a", "b"], 0, 0)
    answers = Counter(rater.answer(pair("b", "a"), True)[0] for _ in range(20_000))
    expected = probabilities([0.0, math.log(3)], 0.5, 0.4)
    for answer, chance in zip((0, 1, "tie"), expected, strict=True):
        # Five standard deviations.
        assert abs(answers[answer] / 20_000 - chance) < 5 * math.sqrt(chance * (1 - chance) / 20_000)


def test_the_inattentive_answer_anything_and_the_attentive_pass_checks() -> None:
    raters = [SimulatedRater(Taste(inattentive=0.3), ["a", "b"], 1, number) for number in range(500)]
    share = np.mean([not rater.attentive for rater in raters])
    assert abs(share - 0.3) < 5 * math.sqrt(0.21 / 500)
    for rater in raters[:100]:
        right = [rater.answer(pair(NOISE, GROUND_TRUTH), False)[0] == 1 for _ in range(40)]
        assert all(right) if rater.attentive else 0 < sum(right) < 40


def test_the_default_rule_excludes_fast_clickers_by_their_time_and_slow_ones_by_the_checks(
    store: StudyStore, run_folder: Path
) -> None:
    options = DesignOptions(raters=40, trials=20, repeats=2, practice=0)
    store.create("taste", build([run_folder], options))
    taste = Taste({"A": 1.0}, inattentive=0.25, inattentive_slow=0.25)
    run_raters(store, "taste", 40, taste, seed=3)
    minds = [SimulatedRater(taste, ["A", "B", "C", "D"], 3, number) for number in range(40)]
    raters = analyse(store.votes("taste", "simulated"), resamples=50, simulated=True).raters
    numbers = {entry.rater: entry.number for entry in store.quality("taste", "simulated")}
    reasons: dict[str, list[str]] = {"fast": [], "slow": [], "attentive": []}
    for row in raters.to_dict("records"):
        mind = minds[numbers[row["rater"]]]
        reasons["attentive" if mind.attentive else "fast" if mind.fast else "slow"].append(row["why"])
    assert min(map(len, reasons.values())) >= 5
    assert all("median reaction" in why for why in reasons["fast"])
    # Of 3-way guessers at six checks, 1.8 % pass.
    assert all("attention checks failed" in why and "median" not in why for why in reasons["slow"])
    assert set(reasons["attentive"]) == {""}


def test_simulated_votes_are_kept_apart_from_peoples(store: StudyStore, design: Design) -> None:
    store.create("taste", design)
    before = [store.register("taste").rater for _ in range(3)]
    first = store.next_trial(before[0])
    stored = run_raters(store, "taste", 6, Taste({"A": 1.0}), threads=6)
    assert stored == 6 * 13
    # People's trials, sheets and counts are as if nobody had been there.
    assert store.next_trial(before[0]) == first
    assert len(store.votes("taste")) == 0
    assert store.quality("taste")[0].votes == 0
    status = store.status("taste")
    assert (status.raters, status.votes, status.answered, status.simulated_votes) == (3, 0, 0, stored)
    answer_all(store, before[0])
    for rater in [*before[1:], *(store.register("taste").rater for _ in range(3))]:
        answer_all(store, rater)
    assert store.status("taste").answered == 48
    people, simulated = store.votes("taste"), store.votes("taste", "simulated")
    assert set(people["rater_kind"]) == {"human"}
    assert set(simulated["rater_kind"]) == {"simulated"}
    assert len(simulated) == stored
    assert not set(people["rater"]) & set(simulated["rater"])
    with pytest.raises(StudyFull):
        run_raters(store, "taste", 1)


def test_the_same_seed_gives_the_same_votes(store: StudyStore, design: Design) -> None:
    for name in ("one", "two", "three"):
        store.create(name, design)
        run_raters(store, name, 3, Taste({"A": 1.0}, spread=0.5), seed=7 if name != "three" else 8)
    one, two, three = (list(store.votes(n, "simulated")["answer"]) for n in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize(
    ("taste", "raters", "named"),
    [
        (Taste({"Z": 1.0}), 1, "Z"),
        (Taste(inattentive=1.5), 1, "--inattentive 1.5"),
        (Taste(inattentive_slow=math.nan), 1, "--inattentive-slow nan"),
        (Taste(inattentive=0.6, inattentive_slow=0.6), 1, "more than 1"),
        (Taste(ties=-1), 1, "ties"),
        (Taste(spread=math.nan), 1, "spread"),
        (Taste(), 0, "--raters"),
    ],
)
def test_raters_that_cannot_be_are_refused(
    store: StudyStore, design: Design, taste: Taste, raters: int, named: str
) -> None:
    store.create("taste", design)
    with pytest.raises(SimulationError, match=named):
        run_raters(store, "taste", raters, taste)

"""Are judges judged right: against scipy, by hand, and from stored replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from bench.edit import MethodSpec
from bench.judges.pairwise import judge_pairs
from bench.judges.pointwise import judge_run
from reports.data import scores, validity
from reports.data.judge_validity import judge_validity, pair_agreement
from reports.tables.judges import judge_validity_tables
from reports.tables.validity import validity_tables
from tests.bench.endpoints.fake_server import FakeApi
from tests.bench.fakes import make_case
from tests.bench.judges.chats import chat, judge
from tests.bench.judges.chats import scores as reply
from tests.bench.judges.conftest import api as api
from tests.bench.scored import OTHER, SPEC, add_edits, scored_run
from tests.reports import fake

N = len(fake.cases())
NAN = float("nan")


def agreement(score: Any, truth: Any, cluster: Any = None) -> dict[str, tuple[Any, ...]]:
    arrays = np.array(score, dtype=float), np.array(truth, dtype=float)
    owner = np.arange(len(arrays[0])) if cluster is None else np.array(cluster)
    return {measure: tuple(values) for measure, *values in pair_agreement(*arrays, owner)}


def test_tau_of_one_case_is_scipys_and_accuracy_is_counted_by_hand() -> None:
    generator = np.random.default_rng(0)
    score, truth = generator.integers(0, 4, 9).astype(float), generator.integers(0, 4, 9).astype(float)
    result = agreement([score], [truth])
    assert result["pair kendall"][0] == pytest.approx(kendalltau(score, truth).statistic)
    points = [
        0.5 if score[i] == score[j] else float((score[i] > score[j]) == (truth[i] > truth[j]))
        for i in range(9)
        for j in range(i)
        if truth[i] != truth[j]
    ]
    assert result["pair accuracy"][0] == pytest.approx(np.mean(points))
    assert result["pair accuracy"][3] == len(points)
    # One cluster has no interval.
    assert np.isnan(result["pair kendall"][1:3]).all()


def test_only_edits_of_one_case_are_compared() -> None:
    """Scores that are higher on harder cases order no pair wrongly."""
    result = agreement([[1, 2, NAN], [8, 9, 7], [5, 4, 3]], [[0, 1, 1], [0, 1, 0], [1, 0, 0]])
    # The pairs that the truth orders: one in the first case, two in each other.
    assert result["pair accuracy"][0] == 1
    assert result["pair accuracy"][3:] == (5, 3)
    # Pairs: 1 + 3 + 3. The truth ties two of them, the judge none.
    assert result["pair kendall"][0] == pytest.approx(5 / np.sqrt(7 * 5))


@pytest.mark.parametrize(("factor", "accuracy", "tau"), [(1, 1, 1), (-1, 0, -1), (0, 0.5, NAN)])
def test_the_truth_its_reverse_and_a_constant(factor: int, accuracy: float, tau: float) -> None:
    truth = np.random.default_rng(1).random((12, 4))
    result = agreement(factor * truth, truth)
    assert result["pair accuracy"][0] == accuracy
    assert result["pair kendall"][0] == pytest.approx(tau, nan_ok=True)


def test_repeated_cases_in_one_cluster_do_not_narrow_the_interval() -> None:
    generator = np.random.default_rng(2)
    truth = generator.random((10, 3))
    score = truth + generator.normal(0, 0.5, (10, 3))
    once = agreement(score, truth)
    again = agreement(np.tile(score, (5, 1)), np.tile(truth, (5, 1)), np.tile(np.arange(10), 5))
    for measure in once:
        assert again[measure][0] == pytest.approx(once[measure][0])
        assert again[measure][1:3] == pytest.approx(once[measure][1:3], abs=0.02)


SCALES = {"judge_follow": (0.0, 10.0)}
HIGHER = {"judge_follow": True, "judge_truth": True, "truth_lpips": False}


def controls(tmp_path: Path, follow: dict[str, list[float]]) -> tuple[Any, scores.RunScores]:
    methods = (*fake.METHODS, MethodSpec("jpeg", {}, is_control=True))
    generator = np.random.default_rng(3)
    truth = {name: generator.random(N).round().tolist() for name in ("sd_inpainting", "instruct_pix2pix")}
    values = {
        "judge_follow": {name: [10 * value for value in row] for name, row in truth.items()} | follow,
        "judge_truth": truth,
        "truth_lpips": {name: [0.5 - value / 4 for value in row] for name, row in truth.items()},
    }
    store = fake.run(tmp_path / "run", values, methods=methods)
    return store, scores.load(store)


def test_controls_noise_and_agreement_of_a_run(tmp_path: Path) -> None:
    follow = {"oracle": [10.0] * (N - 2) + [0.0] * 2, "copy_input": [0.0, 2.0] * (N // 2), "jpeg": [1.0] * N}
    store, run = controls(tmp_path, follow)
    rows = judge_validity(store, run, SCALES, HIGHER)
    frame = validity.validity(run, HIGHER, judges=rows)
    every = frame[(frame["category"] == "all") & (frame["metric"] == "judge_follow")]
    value = every.set_index(["against", "measure"])["value"]
    assert value["itself", "oracle"] == 8.75
    assert value["itself", "copy_input"] == 1
    assert value["itself", "noise"] == 1
    # A mean of scores lies on their scale, and so do the ends of its interval.
    of_oracle = every.set_index("measure").loc["oracle"]
    assert 0 <= of_oracle["low"] < 8.75 < of_oracle["high"] == 10
    # The requests of these cases have one length, which can correlate with nothing.
    assert ("itself", "length") not in value.index
    for truth in ("judge_truth", "truth_lpips"):
        assert value[truth, "pair accuracy"] == value[truth, "pair kendall"] == 1
    # Categories have intervals of their own.
    of_truth = frame[(frame["against"] == "judge_truth") & (frame["measure"] == "pair accuracy")]
    assert {"all", "attribute", "replacement"} <= set(of_truth["category"])
    (table,) = judge_validity_tables(frame, SCALES, ["Judge: a model"])
    assert (table.name, table.rows[0].label) == ("validity-judges-mini-coco", "judge_follow")
    assert table.rows[0].cells[0].value == 8.75
    assert "Judge: a model" in table.notes
    names = [table.name for table in validity_tables(frame)]
    assert "validity-judge-truth-pair-accuracy-mini-coco" in names
    assert "validity-truth-lpips-pair-kendall-mini-coco" in names


def test_a_judge_that_likes_long_requests_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "reports.data.judge_validity._words", lambda store, of_protocol: np.arange(N, dtype=float)
    )

    def length(follow: dict[str, list[float]], name: str) -> tuple[float, float]:
        store, run = controls(tmp_path / name, follow)
        rows = judge_validity(store, run, SCALES, HIGHER)
        (row,) = [row for row in rows if row[4] == "length"]
        return float(str(row[5])), float(str(row[6]))

    rising = [i / 10 for i in range(N)]
    assert length({"oracle": [9.0 + r for r in rising], "copy_input": rising}, "long")[0] > 0.8
    assert length({"oracle": [9.0 - r for r in rising], "copy_input": [0.0] * N}, "short")[0] < -0.5
    value, low = length({"oracle": [9.0] * N, "copy_input": [0.0] * N}, "same")
    assert value == 0
    assert np.isnan(low)


def test_words_are_those_of_the_request(tmp_path: Path) -> None:
    from reports.data.judge_validity import _words

    store, run = controls(tmp_path, {})
    assert set(_words(store, run.protocols["mini-coco"])) == {2.0}


def test_retest_deviation_and_positions_come_from_the_stored_replies(api: FakeApi, tmp_path: Path) -> None:
    cases = [make_case(i) for i in range(3)]
    with scored_run(tmp_path / "run", cases) as store:
        add_edits(store, cases, OTHER)
        api.default = lambda form: reply(form.json["seed"], 5, 10 - form.json["seed"])
        judge_run(store, judge(passes=3, seed=4))
        api.default = lambda form: chat('{"winner": "A"}')
        judge_pairs(store, judge(rubric="pairs"), {SPEC.digest: "one", OTHER.digest: "two"})
        scales = dict.fromkeys(("judge_follow", "judge_keep", "judge_real"), (0.0, 10.0))
        rows = judge_validity(store, scores.load(store), scales, {})
    value = {(row[2], row[4]): row[5] for row in rows}
    # Scores of 4, 5 and 6 in the three passes.
    assert value["judge_follow", "retest"] == pytest.approx(1)
    assert value["judge_keep", "retest"] == 0
    assert value["pairs by judge-2025", "flips"] == value["pairs by judge-2025", "first"] == 1

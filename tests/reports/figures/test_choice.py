"""Which cases a picture shows: by rule, on runs where the rule's answer is known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from reports.data import preference, scores
from reports.figures import choice as figures_choice
from reports.figures import grid as figures
from tests.reports import fake

CASES = [case.id for case in fake.cases()]
N = len(CASES)
A, B = "sd_inpainting", "instruct_pix2pix"


def run(
    tmp_path: Path, success: dict[str, list[float]], leak: list[float] | None = None
) -> scores.ProtocolScores:
    values: dict[str, dict[str, list[float]]] = {"success_truth": success}
    if leak is not None:
        values["leak_lpips"] = {A: leak, B: leak, "copy_input": [9.0 - x for x in leak]}
    return scores.load(fake.run(tmp_path / "r", values)).protocols["mini-coco"]


def flat(value: float) -> list[float]:
    return [value] * N


def test_random_is_the_grids_own_rule(tmp_path: Path) -> None:
    protocol_scores = run(tmp_path, {A: flat(0.0)})
    pairs = [(case.id, case.category) for case in fake.cases()]
    assert figures_choice.choose(protocol_scores, "random") == figures.chosen(pairs)
    assert figures_choice.choose(protocol_scores, "random", 2) == figures.chosen(pairs, 2)


def test_best_and_worst_are_by_success_then_leakage(tmp_path: Path) -> None:
    # Two cases of one category succeed with one method. Leakage grows within each category.
    success = flat(0.0)
    success[2] = success[3] = 1.0  # attribute-2 and -3
    leak = [0.1 * (k % 4) for k in range(N)]
    protocol_scores = run(tmp_path, {A: success, B: flat(0.0), "oracle": [1.0 - s for s in success]}, leak)
    assert figures_choice.choose(protocol_scores, "best") == [
        "attribute-2",
        "replacement-0",
        "background-0",
        "multi_object-0",
    ]
    assert figures_choice.choose(protocol_scores, "worst") == [
        "attribute-1",
        "replacement-3",
        "background-3",
        "multi_object-3",
    ]
    assert figures_choice.choose(protocol_scores, "best", 2)[:2] == ["attribute-2", "attribute-3"]


def test_disputed_is_where_methods_differ(tmp_path: Path) -> None:
    a, b = flat(1.0), flat(1.0)
    for k in (1, 6, 8, 15):
        b[k] = 0.0
    protocol_scores = run(tmp_path, {A: a, B: b})
    assert figures_choice.choose(protocol_scores, "disputed") == [
        "attribute-1",
        "replacement-2",
        "background-0",
        "multi_object-3",
    ]


def test_votes_decide_first_what_is_disputed(tmp_path: Path) -> None:
    loaded = scores.load(
        fake.run(tmp_path / "r", {"success_truth": {A: flat(1.0), B: [0.0, *flat(1.0)[1:]]}})
    )
    # Two of four raters prefer either edit of attribute-3. All prefer the same edit of attribute-2.
    rows = [
        (f"r{r}", "mini-coco", "attribute-3", (A, B) if r > 1 else (B, A), A if r % 2 else B)
        for r in range(4)
    ]
    rows += [(f"r{r}", "mini-coco", "attribute-2", (A, B), A) for r in range(4)]
    people = pd.DataFrame(rows, columns=list(preference.VOTE_COLUMNS))
    protocol_scores = loaded.protocols["mini-coco"]
    assert figures_choice.choose(protocol_scores, "disputed")[0] == "attribute-0"
    assert figures_choice.choose(protocol_scores, "disputed", votes=people)[0] == "attribute-3"


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rule 'nicest'"):
        figures_choice.choose(run(tmp_path, {A: flat(0.0)}), "nicest")  # type: ignore[arg-type]


def test_a_choice_by_hand_is_said_to_be_one() -> None:
    assert figures_choice.words("best", ["attribute-0"]) == "chosen by hand"
    assert "rule" in figures_choice.words("best")

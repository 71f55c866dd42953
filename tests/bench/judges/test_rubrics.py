from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bench.judges.rubrics import RubricError, load_rubric, rubric_names, unmet, word
from bench.metrics import METRICS
from bench.metrics.choice import metric_registry
from bench.metrics.types import Pair, RgbImage


def pair(**changes: object) -> Pair:
    image = RgbImage(np.zeros((4, 4, 3), np.uint8))
    fields = {"instruction": "make it red", "target_prompt": "a red car", "category": "style"} | changes
    return Pair(image, image, np.ones((4, 4), bool), **fields)  # type: ignore[arg-type]


def vie_folder(tmp_path: Path) -> str:
    rubric = load_rubric("viescore")
    for file in rubric.sha256 or {}:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {path.stem}" + " <instruction>" * (path.stem == "tie_rule_SC"))
    return str(tmp_path)


def test_every_column_is_a_metric_with_the_scale_as_its_unit() -> None:
    registry = metric_registry()
    columns = set()
    for name in rubric_names():
        rubric = load_rubric(name)
        for column in rubric.columns:
            cls = registry.load(column)
            assert cls.judged
            assert cls.unit == f"{rubric.scale[0]:g}..{rubric.scale[1]:g}"
            assert bool(cls.published) == rubric.needs_files
            columns.add(column)
    assert columns == {name for name in METRICS if METRICS[name].startswith("bench.judges")}


@pytest.mark.parametrize("scores", [(8, 9, 7, 6), (0, 10, 10, 10), (3, 3, 5, 4), (10, 7, 9, 2)])
def test_viescore_is_the_minimum_and_the_root_of_each_edit(scores: tuple[int, ...]) -> None:
    """As the published code computes it: min, min, sqrt of the product."""
    rubric = load_rubric("viescore")
    named = dict(zip(("success", "minimal", "natural", "artifacts"), scores, strict=True))
    sc, pq = min(scores[:2]), min(scores[2:])
    assert rubric.value("vie_sc", named) == sc
    assert rubric.value("vie_pq", named) == pq
    assert rubric.value("vie_o", named) == math.sqrt(sc * pq)
    assert [question.name for question in rubric.questions_of("vie_sc")] == ["SC"]
    assert [question.name for question in rubric.questions_of("vie_pq")] == ["PQ"]
    assert [question.name for question in rubric.questions_of("vie_o")] == ["SC", "PQ"]


@pytest.mark.parametrize(
    ("scores", "mean"), [((4, 5, 3), 4.0), ((1, 4, 4), 3.0), ((5, 5, 3), 4.33), ((1, 2, 2), 1.67)]
)
def test_imgedits_score_is_the_mean_to_two_decimals(scores: tuple[int, ...], mean: float) -> None:
    rubric = load_rubric("imgedit")
    named = dict(zip(("first", "second", "third"), scores, strict=True))
    assert rubric.value("imgedit_score", named) == mean
    assert [rubric.value(f"imgedit_{i + 1}", named) for i in range(3)] == list(scores)


def test_our_wording_asks_what_the_case_asks() -> None:
    wording = word(load_rubric("masked-edit"), "")
    (question,) = wording.rubric.questions
    assert "The request: make it red\n" in wording.prompt(question, pair())
    assert "The request: The image should show: a red car\n" in wording.prompt(question, pair(instruction=""))
    # A text that looks like a placeholder is the case's own.
    odd = pair(instruction="<request> <instruction>")
    assert "The request: <request> <instruction>\n" in wording.prompt(question, odd)
    assert wording.files == {}


def test_published_wording_is_the_users_and_its_hashes_are_compared(tmp_path: Path) -> None:
    wording = word(load_rubric("viescore"), vie_folder(tmp_path))
    first, second = wording.rubric.questions
    assert wording.prompt(first, pair()) == (
        "text of context_no_delimit\ntext of two_image_edit_rule\ntext of tie_rule_SC make it red"
    )
    assert wording.prompt(second, pair()) == "text of context_no_delimit\ntext of rule_PQ"
    assert len(wording.files) == len(wording.remarks) == 4
    assert "the official one has 446482c9035af150" in wording.remarks[0]
    # Another word is another rubric.
    (tmp_path / "context_no_delimit.txt").write_text("other")
    assert word(load_rubric("viescore"), str(tmp_path)).digest != wording.digest


def test_a_published_rubric_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RubricError, match=r"Set prompts to the folder that has context_no_delimit\.txt, prompts_0"
    ):
        word(load_rubric("viescore"), "")
    with pytest.raises(RubricError, match=r"prompts\.json: cannot be read"):
        word(load_rubric("imgedit"), str(tmp_path))
    (tmp_path / "prompts.json").write_text("[1]")
    with pytest.raises(RubricError, match="expected a JSON object with a prompt for each type"):
        word(load_rubric("imgedit"), str(tmp_path))
    with pytest.raises(RubricError, match="Leave prompts out"):
        word(load_rubric("masked-edit"), str(tmp_path))
    with pytest.raises(RubricError, match=r"unknown rubric 'viscore'\. Did you mean 'viescore'"):
        load_rubric("viscore")


def test_imgedit_asks_by_the_type_of_the_edit(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"style": "is <edit_prompt> in style?", "add": "x"}))
    wording = word(load_rubric("imgedit"), str(tmp_path))
    (question,) = wording.rubric.questions
    assert wording.prompt(question, pair()) == "is make it red in style?"
    with pytest.raises(RubricError, match="no prompt for edits of the type 'motion', only for style, add"):
        wording.prompt(question, pair(category="motion"))


def test_a_case_that_lacks_what_a_rubric_needs_has_a_reason() -> None:
    without = pair(instruction="")
    assert unmet(("instruction",), without) == "the case has no instruction"
    assert unmet(("mask",), without) is None
    image = RgbImage(np.zeros((4, 4, 3), np.uint8))
    assert unmet(("mask",), Pair(image, image, None)) == "the case has no mask"

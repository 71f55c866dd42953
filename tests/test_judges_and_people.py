"""Votes end to end, by commands: people's votes are imported, a model judges, and each judge has its validity."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.endpoints.fake_server import Answer, FakeApi, Form
from tests.bench.judges.chats import chat, images_of, scores
from tests.bench.judges.conftest import api as api
from tests.command_line import run

SUITE = """
name: judged
protocols: [dots]
methods: [copy_input, oracle, jpeg]
metrics: [leak_mse]
"""
PLUGIN = ("--plugin", "cli_plugin")
OPTIONS = ("--model", "m", "-o", "requests_per_minute=1.0e+9", "-o", "retries=0")


def redness(image: Any) -> int:
    """How red the inside of the mask is, in six steps: what JPEG changes is none."""
    return round(float(np.asarray(image.convert("RGB"))[4:16, 4:16, 0].mean()) / 51)


def by_redness(form: Form) -> Answer:
    """A judge that likes red, of one edit and of two."""
    images = images_of(form)
    if "edit A" in form.json["messages"][0]["content"][0]["text"]:
        first, second = redness(images[1]), redness(images[2])
        winner = "tie" if first == second else "A" if first > second else "B"
        return chat(json.dumps({"winner": winner}))
    return scores(2 * redness(images[1]), 10, 10)


def arena_votes(file: Path, wrong: int) -> None:
    """People's votes as arenas publish them: the ground truth wins, but for the first ``wrong`` cases."""
    rows = []
    for case in range(6):
        for rater in ("ann", "bob"):
            for a, b in combinations(("copy_input", "oracle", "jpeg"), 2):
                better = "oracle" if "oracle" in (a, b) else None
                winner = (
                    "tie" if better is None else "model_a" if (a == better) == (case >= wrong) else "model_b"
                )
                category = ("attribute", "background")[case % 2]
                rows.append(
                    {
                        "model_a": a,
                        "model_b": b,
                        "winner": winner,
                        "question_id": f"dot-{case}",
                        "judge": rater,
                        "category": category,
                    }
                )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_each_judge_has_its_agreement_with_people_by_category(
    place: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.default = by_redness
    (place / "judged.yaml").write_text(SUITE)
    assert run("run", "judged.yaml", *PLUGIN, "--device", "cpu") == 0
    assert run("judge", "edits", "runs/judged", "--rubric", "masked-edit", *OPTIONS) == 0
    assert run("judge", "pairs", "runs/judged", *OPTIONS) == 0
    # People disagree with the ground truth on one of six cases.
    arena_votes(place / "people.jsonl", wrong=1)
    arguments = ("--arena", "--rater-kind", "human", "--protocol", "dots", "--question", "better")
    assert run("study", "import", "people.jsonl", *arguments, "--out", "people.csv") == 0
    assert run("report", "runs/judged", "--votes", "people.csv", "--question", "better", *PLUGIN) == 0
    capsys.readouterr()

    report = place / "runs" / "judged" / "report"
    rows = [row for row in csv.DictReader((report / "data/validity.csv").open()) if row["against"] == "votes"]
    values: Mapping[tuple[str, str, str], Mapping[str, str]] = {
        (row["metric"], row["category"], row["measure"]): row for row in rows
    }
    for judge in ("judge_follow", "pairs by m"):
        # Two raters on six cases and two pairs that are no tie: 4 of 24 votes go against the judge.
        assert float(values[judge, "all", "agreement"]["value"]) == pytest.approx(20 / 24)
        # The wrong case is of the category attribute, as half of the cases.
        assert float(values[judge, "attribute", "agreement"]["value"]) == pytest.approx(8 / 12)
        assert float(values[judge, "background", "agreement"]["value"]) == 1.0
        # The judge sees no difference where people vote for none: tau-b over the decided pairs.
        assert float(values[judge, "all", "kendall"]["value"]) == pytest.approx(16 / 24)
        for category in ("all", "attribute"):
            for measure in ("agreement", "kendall"):
                row = values[judge, category, measure]
                assert float(row["low"]) < float(row["value"]) < float(row["high"])
    table = {
        row["method"]: row for row in csv.DictReader((report / "tables/validity-judges-dots.csv").open())
    }
    assert float(table["pairs by m"]["votes_agreement"]) == pytest.approx(20 / 24)
    assert math.isclose(float(table["judge_follow"]["votes_kendall"]), 16 / 24)
    assert "pairs as votes" in (report / "tables/tables.md").read_text()
    # The report is the same again, with the file of votes as it is.
    assert run("verify", "runs/judged", *PLUGIN) == 0


def test_votes_of_models_are_no_votes_of_people(
    place: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.default = by_redness
    (place / "judged.yaml").write_text(SUITE)
    assert run("edit", "judged.yaml", *PLUGIN, "--device", "cpu") == 0
    assert run("score", "runs/judged", *PLUGIN) == 0
    assert run("judge", "pairs", "runs/judged", *OPTIONS) == 0
    capsys.readouterr()
    report = ("report", "runs/judged", "--question", "better", *PLUGIN)
    assert run(*report, "--votes", "runs/judged/judge/votes.csv") == 2
    assert "model" in capsys.readouterr().err
    assert run(*report, "--votes", "missing.csv") == 2
    assert "missing.csv" in capsys.readouterr().err
    assert run(*report, "--votes", "runs/judged/judge/votes.csv", "--study", "taste") == 2
    assert "give one of them" in capsys.readouterr().err
    # The command that reads them.
    assert run("study", "analyse", "--votes", "runs/judged/judge/votes.csv", "--rater-kind", "model") == 0
    output = capsys.readouterr().out
    assert "VOTES OF MODELS, not people" in output
    assert "Elo" in output

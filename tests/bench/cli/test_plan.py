"""``--dry-run``: the plan of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import SUITE, run


def test_dry_run_prints_counts_and_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "dots.yaml", "--plugin", "cli_plugin", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "12" in out
    assert "moody" in out
    assert not (place / "runs").exists()


def test_outputs_of_no_case_are_told_by_the_dry_run_and_refused_before_any_edit(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "theirs").mkdir()
    Image.new("RGB", (32, 32)).save(place / "theirs" / "1.png")
    (place / "theirs.yaml").write_text(
        "name: theirs\nprotocols: [dots]\nmethods: [copy_input, {method: outputs, options: {path: theirs}}]\n"
    )
    arguments = ("run", "theirs.yaml", "--plugin", "cli_plugin", "--device", "cpu")
    run(*arguments, "--dry-run")
    assert "none of its images (1) is named by one of the 6 cases" in " ".join(capfd.readouterr().out.split())
    assert run(*arguments) == 2
    assert "none of its images (1) is named by one of the 6 cases" in capfd.readouterr().err
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("suite", "cases", "methods"),
    [
        ("demo", {"mini-celeba-hq": 48, "mini-coco": 48, "world-level-2": 32}, 15),
        (
            "mini-paper",
            {"mini-celeba-hq": 400, "mini-coco": 400, "world-level-2": 400, "world-level-3": 402},
            12,
        ),
    ],
)
def test_the_plans_of_the_suites_of_the_rendered_world(
    suite: str, cases: dict[str, int], methods: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", suite, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert {row["protocol"]: row["cases"] for row in plan["rows"]} == cases
    assert plan["edits"] == methods * sum(cases.values())
    assert plan["not_ready"] == []


def test_the_plan_of_a_suite_without_its_data_counts_edits_bytes_and_hours(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods.prompt_edit_diff import cost

    (place / "big.yaml").write_text(
        "name: big\nlimit: 50\n"
        "protocols: [{name: coco, options: {root: nowhere, canvas: 512}}, {name: dots}]\n"
        "methods: [copy_input, {method: sd_inpainting, options: {steps: 40}}]\n"
    )
    assert run("run", "big.yaml", "--dry-run", "--json", "--plugin", "cli_plugin") == 0
    captured = capsys.readouterr()
    plan = json.loads(captured.out)
    # Four categories of 50 cases at 512 px, and the six dots at 32 px, by two methods.
    assert plan["edits"] == 2 * (4 * 50 + 6)
    assert plan["gigabytes_at_most"] == pytest.approx(2 * 3 * (200 * 512**2 + 6 * 32**2) / 1e9)
    assert plan["untimed_model_steps"] == 200 * 40
    # Steps x two passes of the U-Net / speed.
    gpu = cost.GPUS[0]
    seconds = 200 * 40 * 2 * cost.forward_flops() / (cost.UTILISATION * gpu.peak)
    assert plan["gpu_hours"][gpu.name] == pytest.approx(seconds / 3600)
    assert any("nowhere: missing" in problem for problem in plan["not_ready"])
    assert "412 edits to make; their PNG files take at most 0.31 GB" in captured.err


def test_brackets_of_labels_and_paths_are_shown_as_they_are(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = SUITE.replace("- copy_input", '- {method: copy_input, label: "nothing [/w mask] [ours]"}')
    (place / "dots.yaml").write_text(suite % "")
    arguments = ("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--out", "run [a][/b]")
    assert run(*arguments, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "nothing [/w mask] [ours]" in out
    assert "run folder: run [a][/b]" in out
    assert run(*arguments) == 0
    assert "page: run [a][/b]/report/index.html" in capsys.readouterr().out


def test_the_suite_of_current_editors_says_what_it_lacks(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten models, each with its size, and the one command that gets them."""
    assert run("run", "editors", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert len({row["method"] for row in plan["rows"]}) == 11
    missing = [problem for problem in plan["not_ready"] if problem.startswith("weights ")]
    assert len(missing) == 10
    assert all(" GB, licence: " in problem for problem in missing)
    assert plan["fetch"] == "python run_bench.py fetch editors"
    run("run", "editors", "--dry-run")
    assert "has no pinned commit" in " ".join(capsys.readouterr().out.split())

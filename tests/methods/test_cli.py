"""Commands of the methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.thresholds import ThresholdCheck
from methods.zoo.data import World
from tests.command_line import run


@pytest.mark.parametrize(("gap", "code"), [("", 1), ("68 of 160 samples of its recipe", 0)])
def test_zoo_check_fails_for_a_missed_threshold_unless_the_network_is_under_trained(
    gap: str, code: int, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods.zoo import thresholds
    from reports.data import zoo

    beside = ThresholdCheck("glide", 0.25, None, True, "level 2, swap2, 98 edits")
    missed = ThresholdCheck("blended_diffusion", 0.53, 0.65, False, "target shown", gap)
    monkeypatch.setattr(
        thresholds,
        "check",
        lambda world, **_: [ThresholdCheck("lama", 0.0, 0.0, True, "leak"), missed, beside],
    )
    monkeypatch.setattr(zoo, "run_thresholds", lambda folder: [])
    (place / "README.md").write_text("<!-- zoo-gates:start -->\n<!-- zoo-gates:end -->\n")
    assert run("zoo", "check", "--readme", "README.md") == code
    row = f"under-trained | target shown; under-trained: {gap} |" if gap else "**no** | target shown |"
    assert row in (place / "README.md").read_text()
    # A figure without a threshold passes nothing and misses nothing.
    assert "| `glide` | 0.25 | – |  | level 2, swap2, 98 edits |" in (place / "README.md").read_text()
    printed = capsys.readouterr().out
    assert ("under-trained" if gap else "missed") in printed
    assert "measured" in printed


def test_levels_reach_the_world_of_zoo_check_and_of_train(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods.zoo import publish, thresholds
    from methods.zoo.job import Job
    from reports.data import zoo

    versions: list[str] = []

    def check(world: World, **_: Any) -> list[ThresholdCheck]:
        versions.append(world.version)
        return []

    jobs: list[Job] = []

    def recipe(task: Job) -> Path:
        jobs.append(task)
        return place

    monkeypatch.setattr(thresholds, "check", check)
    monkeypatch.setattr(zoo, "run_thresholds", lambda folder: [])
    monkeypatch.setattr(publish, "autoencoder", recipe)
    for levels in ([], ["--levels", "3, 1"]):
        assert run("zoo", "check", *levels) == 0
        assert run("train", "autoencoder", "--device", "cpu", *levels) == 0
    # Thresholds are measured on level 1, and the shipped networks learned all levels.
    assert versions == ["1", "1, levels 1 3"]
    assert [task.world.version for task in jobs] == ["1, levels 1 2 3", "1, levels 1 3"]
    # A corpus of one mixture is of no use to another, so the folders are apart.
    assert [str(task.work) for task in jobs] == [".work/zoo/autoencoder", ".work/zoo-levels-1-3/autoencoder"]
    capsys.readouterr()
    for wrong in ("4", "1,1", "", "1;2"):
        assert run("train", "autoencoder", "--levels", wrong) == 2
        assert "write one or more of 1, 2 and 3" in capsys.readouterr().err


def test_zoo_check_measures_the_checkpoints_that_are_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods.zoo import thresholds

    measured: list[tuple[str, int]] = []

    def measure(name: str) -> Callable[[World, Path, int], list[ThresholdCheck]]:
        def of_checkpoint(world: World, root: Path, cases: int) -> list[ThresholdCheck]:
            measured.append((name, cases))
            return [ThresholdCheck(name, 1.0, 0.5, True, "share")]

        return of_checkpoint

    monkeypatch.setattr(thresholds, "_MEASURES", {name: measure(name) for name in ("lama", "glide", "clip")})
    assert run("zoo", "check", "--checkpoint", "clip", "--checkpoint", "lama", "--cases", "7", "--json") == 0
    assert measured == [("lama", 7), ("clip", 7)]
    # Neither the size of all checkpoints nor the demo's thresholds.
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["lama", "clip"]
    assert run("zoo", "check", "--checkpoint", "lamma") == 2
    assert "lamma has no thresholds. Known: lama, glide, clip." in " ".join(capsys.readouterr().err.split())
    assert run("zoo", "check", "--checkpoint", "lama", "--readme", "README.md") == 2
    assert "leave --checkpoint out" in " ".join(capsys.readouterr().err.split())

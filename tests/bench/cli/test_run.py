"""``run``, ``edit`` and ``score``: what they print, store and repeat."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.store import RunStore
from tests.command_line import SUITE, run


def test_run_edits_scores_and_reports(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu") == 0
    report = place / "runs" / "dots" / "report"
    frame = pd.read_csv(report / "data/summary.csv")
    assert list(frame.columns) == [
        "protocol", "category", "method", "metric", "value", "low", "high", "n", "failed",
    ]  # fmt: skip
    # Values that follow by hand: a copy changes nothing, a negative every pixel.
    rows = frame.set_index(["category", "method", "metric"])
    assert rows.loc[("all", "copy_input", "leak_mse"), "value"] == 0
    assert rows.loc[("all", "moody", "leak_changed"), "value"] == 1
    assert rows.loc[("attribute", "moody", "leak_changed"), "n"] == 3
    names = {path.name for path in report.iterdir()}
    assert {"README.md", "provenance.md", "index.html", "tables", "figures", "data"} <= names
    assert "copy_input" in capsys.readouterr().out


def test_a_warning_that_the_tables_have_is_printed_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With two methods, the two source images are too few for a comparison.
    methods = "  - {method: moody, label: another, options: {fail: none of these dots}}\n"
    suite = (SUITE % "").replace("metrics:", f"{methods}metrics:") + "limit: 1\n"
    (place / "dots.yaml").write_text(suite)
    for command in (("run", "dots.yaml", "--device", "cpu"), ("report", "runs/dots", "--all")):
        capsys.readouterr()
        assert run(*command, "--plugin", "cli_plugin") == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.count("Too small for the claim (dots): 2 source images are too few") == 1
        # The report's files have it beside the table.
        assert "Too small for the claim (dots)" in (place / "runs/dots/report/tables/tables.md").read_text()


def test_a_repeated_run_makes_and_scores_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu")
    assert run(*arguments) == 0
    # The journal stays byte for byte.
    before = (place / "runs" / "dots" / "edits.jsonl").read_bytes()
    capsys.readouterr()
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert "edits: 0 made, 12 there already, 0 failed" in out
    assert "scores: 0 computed" in out
    assert (place / "runs" / "dots" / "edits.jsonl").read_bytes() == before


def test_failed_edits_exit_1_are_counted_and_tried_again(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "dots.yaml").write_text(SUITE % "dot 3")
    arguments = ("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--batch-size", "1")
    assert run(*arguments) == 1
    captured = capfd.readouterr()
    assert "dot-3: RuntimeError: no mood" in captured.out
    assert "error: 1 edit failed" in captured.err
    frame = pd.read_csv(place / "runs" / "dots" / "report" / "data" / "summary.csv").set_index(
        ["category", "method", "metric"]
    )
    assert frame.loc[("all", "moody", "leak_mse"), ["n", "failed"]].tolist() == [5, 1]
    assert frame.loc[("attribute", "moody", "leak_mse"), ["n", "failed"]].tolist() == [3, 0]
    assert run(*arguments) == 1
    assert "edits: 0 made, 11 there already, 1 failed" in capfd.readouterr().out


MIXED = """
name: mixed
protocols: [dots, drawn]
methods: [copy_input, moody]
metrics: [mini_clip_target, leak_mse]
"""


def test_a_mixed_run_has_the_embedded_clip_on_the_rendered_protocol_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    (place / "mixed.yaml").write_text(MIXED)
    assert run("run", "mixed.yaml", "--dry-run", *plugin) == 0
    plan = " ".join(capsys.readouterr().out.split())
    assert "metrics of drawn: 2" in plan
    assert "dots: left out: mini_clip_target: " in plan
    assert "Ask for clip_target." in plan
    assert run("run", "mixed.yaml", "--device", "cpu", *plugin) == 0
    assert "dots: left out: mini_clip_target: " in capsys.readouterr().out
    frame = pd.read_csv(place / "runs" / "mixed" / "report" / "data" / "summary.csv")
    assert set(frame.loc[frame["metric"] == "mini_clip_target", "protocol"]) == {"drawn"}
    assert set(frame.loc[frame["metric"] == "leak_mse", "protocol"]) == {"dots", "drawn"}
    # By its own name: only where a protocol of the run can have it.
    assert run("score", "runs/mixed", "--metric", "mini_clip_target", "--device", "cpu", *plugin) == 0
    assert "scores: 0 computed" in capsys.readouterr().out


@pytest.mark.usefixtures("finished_run")
def test_a_stand_in_asked_for_by_its_name_on_photographs_is_an_error(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    capfd.readouterr()
    assert run("score", "runs/dots", "--metric", "mini_clip_target", *plugin) == 2
    err = capfd.readouterr().err
    assert "mini_clip_target: an embedded network" in err
    assert "Ask for clip_target." in err


def test_edit_then_score_then_report_is_run(place: Path) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--out", "whole", "--device", "cpu", *plugin) == 0
    assert run("edit", "dots.yaml", "--out", "parts", "--device", "cpu", *plugin) == 0
    assert not (place / "parts" / "report").exists()
    assert run("score", "parts", "--device", "cpu", *plugin) == 0
    assert run("report", "parts", *plugin) == 0
    # Everything is equal but the seconds.
    one, two = (place / folder / "report" for folder in ("whole", "parts"))
    assert (one / "figures/grid.png").read_bytes() == (two / "figures/grid.png").read_bytes()

    def untimed(report: Path) -> list[str]:
        return [
            line for line in (report / "data/summary.csv").read_text().splitlines() if ",seconds" not in line
        ]

    assert untimed(one) == untimed(two)
    assert (one / "tables/tables.tex").exists()
    assert (two / "tables/tables.tex").exists()


def test_deterministic_is_one_edit_at_a_time_on_one_thread(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    thread_counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", thread_counts.append)
    suite = ["dots.yaml", "--device", "cpu", "--batch-size", "4", "--plugin", "cli_plugin"]
    assert run("edit", *suite, "--out", "usual") == 0
    assert thread_counts == []
    assert run("edit", *suite, "--out", "repeatable", "--deterministic") == 0
    assert thread_counts == [1]
    # The run folder says how it was made.
    for name, size in (("usual", 4), ("repeatable", 1)):
        entries = json.loads((place / name / "run.json").read_text())["methods"].values()
        assert [entry["batch_sizes"] for entry in entries] == [[size]] * len(entries)


def test_weights_that_are_missing_are_told_before_anything_runs(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "big.yaml").write_text(
        "name: big\nprotocols: [dots]\nmethods:\n"
        "  - method: sd_inpainting\n    options: {weights: nobody/nothing}\n"
    )
    assert run("run", "big.yaml", "--plugin", "cli_plugin") == 2
    assert "nobody/nothing" in capfd.readouterr().err
    assert not (place / "runs").exists()


@pytest.mark.usefixtures("finished_run")
def test_without_its_weights_a_score_is_another_under_its_own_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.metrics.realism import Fid
    from bench.store import RunStore

    monkeypatch.setattr(Fid, "problems", classmethod(lambda cls, features: ["the weights are absent"]))
    plugin = ("--plugin", "cli_plugin")
    assert run("score", "runs/dots", "--metric", "fid", "--device", "cpu", *plugin) == 0
    stored = set(RunStore.open("runs/dots").set_scores()["metric"])
    assert {name.removesuffix("_pasted") for name in stored} == {"vgg16_frechet"}


@pytest.mark.usefixtures("finished_run")
def test_a_score_that_nothing_can_stand_in_for_is_refused_with_the_remedy(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from bench.metrics.leakage import LeakLpips

    monkeypatch.setattr(LeakLpips, "problems", classmethod(lambda cls, features: ["absent. Fetch them."]))
    plugin = ("--plugin", "cli_plugin")
    assert run("score", "runs/dots", "--metric", "leak_lpips", "--device", "cpu", *plugin) == 2
    assert "leak_lpips: absent. Fetch them." in capfd.readouterr().err


def test_a_run_that_could_compute_no_score_is_refused_before_it_edits(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from bench.downloads import MissingFiles, WebFile
    from bench.metrics.leakage import LeakLpips

    problem = MissingFiles("alex.pt is not on this machine", [WebFile("https://x/alex.pt", Path("alex.pt"))])
    monkeypatch.setattr(LeakLpips, "problems", classmethod(lambda cls, features: [problem]))
    suite = (place / "dots.yaml").read_text()
    (place / "only.yaml").write_text(re.sub("metrics: .*", "metrics: [leak_lpips]", suite))
    plugin = ("--plugin", "cli_plugin", "--device", "cpu")
    remedy = "leak_lpips: alex.pt is not on this machine (licence: see its page). Get it with: "
    remedy += "python run_bench.py fetch leak_lpips"
    assert run("run", "only.yaml", *plugin) == 2
    assert remedy in " ".join(capfd.readouterr().err.split())
    assert not (place / "runs").exists()
    # Edits without scores are allowed. Scoring and running them say the same.
    assert run("edit", "only.yaml", *plugin) == 0
    (folder,) = (place / "runs").iterdir()
    for command, code in (("score", 0), ("run", 2)):
        capfd.readouterr()
        assert run(command, str(folder) if command == "score" else "only.yaml", *plugin) == code
        captured = capfd.readouterr()
        assert remedy in " ".join((captured.out + captured.err).split())


def test_a_quiet_run_prints_nothing_and_reports(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--quiet")
    assert run(*arguments) == 0
    assert capfd.readouterr() == ("", "")
    assert (place / "runs" / "dots" / "report" / "data" / "summary.csv").exists()


def test_a_run_as_json_says_what_was_done_and_every_value(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert {key: result["edits"][key] for key in ("made", "skipped", "failed")} == {
        "made": 12,
        "skipped": 0,
        "failed": 0,
    }
    # The rows of summary.csv.
    values = {(row["category"], row["method"], row["metric"]): row["value"] for row in result["summary"]}
    assert values["all", "copy_input", "leak_mse"] == 0
    assert values["attribute", "moody", "leak_changed"] == 1
    assert "copy_input" in captured.err


def test_a_limited_run_has_its_own_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = ("--plugin", "cli_plugin", "--device", "cpu")
    assert run("edit", "dots.yaml", "--limit", "2", *plugin) == 0
    assert "edits: 8 made" in capsys.readouterr().out
    assert not (place / "runs" / "dots").exists()
    assert run("edit", "dots.yaml", "--limit", "2", *plugin) == 0
    assert "edits: 0 made, 8 there already" in capsys.readouterr().out
    assert (place / "runs" / "dots-limit-2" / "run.json").exists()


def test_a_key_on_the_command_line_is_refused_without_repeating_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "suite.yaml", "--dry-run", "--key", "sk-of-a-user") == 2
    error = capsys.readouterr().err
    assert "HOST=VARIABLE" in error
    assert "sk-of" not in error


def without_threads(store: RunStore) -> dict[str, Any]:
    return {
        digest: {name: value for name, value in entry.items() if name != "threads"}
        for digest, entry in store.manifest["methods"].items()
    }


def test_a_run_on_two_devices_stores_what_a_run_on_one_does(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("dots.yaml", "--plugin", "cli_plugin", "--batch-size", "2")
    stores = []
    for name, device in (("one", ("--device", "cpu")), ("two", ("--devices", "cpu,cpu"))):
        assert run("edit", *options, "--out", f"runs/{name}", *device) == 0
        assert run("score", f"runs/{name}", "--plugin", "cli_plugin", *device) == 0
        stores.append(RunStore.open(place / "runs" / name))
    one, two = stores
    assert [(r.key, r.sha256, r.error) for r in two.edits()] == [
        (r.key, r.sha256, r.error) for r in one.edits()
    ]
    assert len(two.scores()) == 24
    assert two.scores().equals(one.scores())
    # Device and conditions too, but for threads: this process has loaded torch, and the workers have no need to.
    assert {**two.manifest, "name": "one", "methods": without_threads(two)} == {
        **one.manifest,
        "methods": without_threads(one),
    }
    capsys.readouterr()
    # Refused before anything is loaded.
    assert run("edit", *options, "--devices", "cpu,cpu", "--ray", "local") == 2
    assert "--devices and --ray: one of them is expected" in capsys.readouterr().err
    assert run("score", "runs/one", "--workers", "2") == 2
    assert "--workers 2: a number from 1 on is expected, together with --ray" in capsys.readouterr().err

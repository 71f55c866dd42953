"""The command line, as a person uses it: what it prints, what it exits with, what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import run_bench
from bench.cli import info
from reports import record

ROOT = Path(__file__).resolve().parent.parent

PLUGIN = '''
import time
import warnings
from dataclasses import dataclass
from PIL import Image, ImageDraw
from bench.errors import BenchError, BenchWarning
from bench.edit import EditCase, EditMethod, EditProtocol, EditRequest, stable_digest


class Dots(EditProtocol):
    name, version, categories, canvas = "dots", "1", ("attribute", "background"), 32
    summary = "dots"
    digest = stable_digest("dots")

    @dataclass(frozen=True)
    class Options:
        pass

    def __init__(self, options):
        pass

    def cases(self):
        made = []
        for i in range(6):
            source = Image.new("RGB", (32, 32), (40 * i, 90, 200))
            mask = Image.new("L", (32, 32))
            ImageDraw.Draw(mask).rectangle([4, 4, 15, 15], fill=255)
            request = EditRequest(source, mask, "a wall", f"a wall with a dot {i}", "a dot", "paint a dot")
            truth = source.copy()
            truth.paste((255, 0, 0), mask=mask)
            made.append(EditCase(f"dot-{i}", self.categories[i % 2], request, f"s{i}", truth=truth))
        return made

    def reference(self):
        return iter(case.request.source for case in self.cases())


class Drawn(Dots):
    name, rendered = "drawn", True


class Fussy(Dots):
    """Its constructor warns, and refuses a canvas of no size."""

    name = "fussy"

    @dataclass(frozen=True)
    class Options:
        canvas: int = 32

    def __init__(self, options):
        warnings.warn("the dots are few.", BenchWarning)
        warnings.warn("a library's own concern")
        if options.canvas < 1:
            raise FussyError("fussy: canvas 0: expected 1 or more.")


class FussyError(BenchError):
    pass


class Moody(EditMethod):
    """Fails on the dots it is told to."""

    summary = "fails where it is told to"
    needs = frozenset({"source"})

    @dataclass(frozen=True)
    class Options:
        fail: str = ""
        seconds: float = 0.0

    def __init__(self, options, runtime):
        self.options = options

    def edit(self, requests):
        time.sleep(self.options.seconds)
        if any(self.options.fail and r.target_prompt.endswith(self.options.fail) for r in requests):
            raise RuntimeError("no mood")
        return [r.source.point(lambda v: 255 - v) for r in requests]


METHODS = {"moody": "cli_plugin:Moody"}
PROTOCOLS = {"dots": "cli_plugin:Dots", "drawn": "cli_plugin:Drawn", "fussy": "cli_plugin:Fussy"}
'''

SUITE = """
name: dots
protocols: [dots]
methods:
  - copy_input
  - method: moody
    options: {fail: "%s"}
metrics: [leak_mse, leak_changed]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEB_DEBUG", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cli_plugin.py").write_text(PLUGIN)
    (tmp_path / "dots.yaml").write_text(SUITE % "")
    yield tmp_path
    sys.modules.pop("cli_plugin", None)


def run(*arguments: str) -> int:
    return run_bench.main(arguments)


# --- help and errors -----------------------------------------------------------------------------------

COMMANDS = [
    ["list"],
    ["doctor"],
    ["cases"],
    ["run"],
    ["edit"],
    ["score"],
    ["report"],
    ["demo"],
    ["train"],
    ["train-sd15"],
    ["tags"],
    ["zoo"],
    ["zoo", "check"],
    ["zoo", "sheet"],
    ["compare"],
    ["verify"],
    ["export"],
    ["study"],
    ["study", "create"],
    ["study", "analyse"],
    ["measure"],
    [],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "top")
def test_every_help_shows_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    out = capsys.readouterr().out
    assert "Examples" in out
    assert f"python run_bench.py {' '.join(command)}".strip() in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu", "demo"], "Did you mean 'run'?"),
        (["run", "demo", "--devise", "cpu"], "--device"),
        (["run", "dmeo"], "Did you mean 'demo'?"),
        (["run", "nowhere/suite.yaml"], "nowhere/suite.yaml: no such suite file"),
        (["list", "method"], "Did you mean 'methods'?"),
        (["run", "demo", "--device", "tpu"], "--device 'tpu': one of auto, cpu, cuda"),
        (["cases", "mini-cocoa", "--out", "x"], "Did you mean 'mini-coco'?"),
        (["cases", "mini-coco", "--out", "x", "-o", "seed"], "write KEY=VALUE"),
        (["cases", "coco", "--out", "x", "-o", "root=nowhere"], "nowhere"),
        (["score", "runs/none"], "no such run folder"),
        (["report", "runs/none"], "no such run folder"),
        (["report"], "name a run folder"),
        (["verify", "runs/none"], "no such run folder"),
        (["compare", "runs/none", "runs/none"], "no such run folder"),
        (["export", "runs/none", "--out", "x.json"], "no such run folder"),
        (["run", "demo", "--plugin", "no_such_plugin"], "no_such_plugin"),
        (["measure", "a.png", "b.png", "--mask", "m.png"], "a.png"),
        (["train", "nothing"], "unknown recipe 'nothing'"),
        (["train-sd15"], "name --coco, --celeba or both"),
        (["train-sd15", "--coco", "nowhere"], "nowhere: missing. Expected a folder with train2017"),
        (["train-sd15", "promt_edit_diff", "--dry-run"], "expected one of prompt_edit_diff"),
        (["zoo", "check", "--readme", "none.md"], "--readme none.md: no such file"),
        (["train-sd15", "promt_edit_diff", "--coco", "nowhere"], "expected one of prompt_edit_diff"),
        (["tags"], "name a prompt or --protocol"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_red_line_and_exit_code_2(
    arguments: list[str], says: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if arguments[:1] == ["run"] and "--device" in arguments:
        arguments = ["run", "dots.yaml", "--plugin", "cli_plugin", *arguments[2:]]
    assert run(*arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err


def test_a_misspelt_method_in_a_suite_is_named_with_a_suggestion(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "dots.yaml").write_text("name: x\nprotocols: [dots]\nmethods: [moodie]\n")
    assert run("run", "dots.yaml", "--plugin", "cli_plugin") == 2
    assert "Did you mean 'moody'?" in capfd.readouterr().err


def test_an_unknown_key_in_a_suite_is_refused_with_its_line(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "dots.yaml").write_text("name: x\nprotocols: [dots]\nmethods: [copy_input]\nsede: 3\n")
    assert run("run", "dots.yaml", "--plugin", "cli_plugin") == 2
    err = capfd.readouterr().err
    assert "dots.yaml:4" in err
    assert "Did you mean 'seed'?" in err


def test_debug_shows_the_traceback(place: Path) -> None:
    with pytest.raises(ValueError, match="no such run folder"):
        run("--debug", "report", "runs/none")


def test_a_defect_is_never_dressed_up_as_a_user_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.store import RunStore

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(RunStore, "open", broken)
    with pytest.raises(KeyError):
        run("report", "runs/none")


# --- list, cases, measure ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("methods", {"sd_inpainting", "instruct_pix2pix", "copy_input", "oracle", "jpeg"}),
        ("protocols", {"celeba_hq", "coco", "mini-celeba-hq", "mini-coco"}),
        ("metrics", {"leak_lpips", "clip_target", "fid", "success_truth"}),
        ("suites", {"demo", "mini", "paper"}),
    ],
)
def test_list_as_json_names_everything(
    what: str, names: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", what, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert names <= {row["name"] for row in rows}
    assert all(row.get("summary", row.get("methods")) for row in rows)


def test_list_shows_a_plug_ins_method(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "methods", "--plugin", "cli_plugin") == 0
    assert "fails where it is told to" in capsys.readouterr().out


def test_cases_exports_what_others_can_read(place: Path) -> None:
    assert run("cases", "dots", "--out", "exported", "--plugin", "cli_plugin", "--limit", "2") == 0
    rows = [json.loads(line) for line in (place / "exported" / "cases.jsonl").read_text().splitlines()]
    assert [row["category"] for row in rows].count("attribute") == 2
    assert [row["category"] for row in rows].count("background") == 2
    with Image.open(place / "exported" / rows[0]["mask"]) as mask:
        assert mask.mode == "L"
        assert np.asarray(mask).sum() == 255 * 12 * 12


def test_measure_gives_the_values_that_follow_by_hand(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[16:32, 16:32] = 250  # inside: no leakage
    after[:, 60:] += 51  # 4 of 64 columns outside, by a fifth of the range
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 255
    for name, array in (("a", before), ("b", after), ("m", mask)):
        Image.fromarray(array).save(place / f"{name}.png")
    assert run("measure", "a.png", "b.png", "--mask", "m.png", "--device", "cpu", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    from scipy.ndimage import distance_transform_edt

    outside = distance_transform_edt(mask == 0) > 64 / 64
    expected = float((0.2**2 * (after[..., 0] != before[..., 0]))[outside].mean())
    assert found["leak_mse"]["value"] == pytest.approx(expected, rel=1e-6)
    assert found["leak_changed"]["value"] == pytest.approx(expected / 0.2**2, rel=1e-6)
    assert found["edit_change"]["value"] == pytest.approx(150 / 255, rel=1e-6)


def test_measure_reads_a_photo_that_is_transparent_where_to_edit(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    after = colours.copy()
    after[16:32, 16:32] = 255 - after[16:32, 16:32]
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 255
    Image.fromarray(colours).save(place / "a.png")
    Image.fromarray(after).save(place / "b.png")
    Image.fromarray(mask).save(place / "m.png")
    Image.fromarray(np.dstack([colours, 255 - mask])).save(place / "hole.png")
    values = []
    for name in ("m.png", "hole.png"):
        assert run("measure", "a.png", "b.png", "--mask", name, "--device", "cpu", "--json") == 0
        values.append(json.loads(capsys.readouterr().out))
    assert values[0] == values[1]
    assert values[0]["leak_mse"]["value"] == 0


def test_measure_hints_at_an_inverted_mask(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[16:48, 16:48] = 250
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    for name, array in (
        ("a", before),
        ("b", after),
        ("m", mask),
        ("inverted", 255 - mask),
        ("all", 255 - after),
    ):
        Image.fromarray(array).save(place / f"{name}.png")
    hints = {}
    for edited, region in (("b", "m"), ("b", "inverted"), ("a", "m"), ("all", "m")):
        assert run("measure", "a.png", f"{edited}.png", "--mask", f"{region}.png", "--json") == 0
        out, hints[edited, region] = capsys.readouterr()
        json.loads(out)
    assert hints.pop(("b", "inverted")) == (
        "0.0% of the area inside the mask was repainted, 100.0% of the area outside: is inverted.png inverted? "
        "White is where to edit.\n"
    )
    assert set(hints.values()) == {""}


def test_measure_refuses_a_prompt_that_is_no_text(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # What Python makes of an argument's bytes that are no UTF-8.
    assert run("measure", "a.png", "b.png", "--mask", "m.png", "--target-prompt", "a car \udcff") == 2
    assert r"--target-prompt holds half a character ('\udcff' at character 7)" in capfd.readouterr().err


def test_measure_refuses_transparent_images(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(place / "a.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 32, 32))
    mask.save(place / "m.png")
    Image.merge("LA", (mask, mask)).save(place / "cutout.png")
    for pair in (("a.png", "cutout.png"), ("cutout.png", "a.png")):
        assert run("measure", *pair, "--mask", "m.png") == 2
        assert "cutout.png: 93.8% of its pixels are transparent" in capfd.readouterr().err


@pytest.mark.parametrize(("level", "says"), [(0, "m.png is empty"), (255, "m.png is full")])
def test_measure_refuses_a_mask_that_leaves_nothing_to_edit_or_to_keep(
    level: int, says: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((64, 64, 3), 100, np.uint8)).save(place / f"{name}.png")
    Image.fromarray(np.full((64, 64), level, np.uint8)).save(place / "m.png")
    assert run("measure", "a.png", "b.png", "--mask", "m.png") == 2
    assert says in capfd.readouterr().err


def test_measure_lets_the_embedded_clip_judge_only_what_is_said_to_be_rendered(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.metrics.networks.clip import ClipSpec

    published = ClipSpec.problems
    monkeypatch.setattr(
        ClipSpec, "problems", lambda self: published(self) if self.folder else ["fetch ViT-L-14.pt"]
    )
    for name, level in (("a", 100), ("b", 200)):
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(place / f"{name}.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:32, 16:32] = 255
    Image.fromarray(mask).save(place / "m.png")
    asked = ("measure", "a.png", "b.png", "--mask", "m.png", "--target-prompt", "a red car", "--json")
    assert run(*asked) == 0
    photograph = json.loads(capsys.readouterr().out)
    assert not any("mini_clip" in name for name in photograph)
    assert photograph["clip_target"]["value"] is None
    assert photograph["clip_target"]["reason"] == "fetch ViT-L-14.pt"
    assert run(*asked, "--rendered") == 0
    rendered = json.loads(capsys.readouterr().out)
    assert rendered["mini_clip_target"]["value"] is not None
    assert "clip_target" not in rendered


# --- run, resume, report -------------------------------------------------------------------------------


def test_run_edits_scores_and_reports(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu") == 0
    report = place / "runs" / "dots" / "report"
    frame = pd.read_csv(report / "summary.csv")
    assert list(frame.columns) == [
        "protocol", "category", "method", "metric", "value", "low", "high", "n", "failed",
    ]  # fmt: skip
    rows = frame.set_index(["category", "method", "metric"])
    assert rows.loc[("all", "copy_input", "leak_mse"), "value"] == 0
    assert rows.loc[("all", "moody", "leak_changed"), "value"] == 1
    assert rows.loc[("attribute", "moody", "leak_changed"), "n"] == 3
    assert {"tables.md", "tables.tex", "grid.png", "summary.csv"} <= {path.name for path in report.iterdir()}
    assert "copy_input" in capsys.readouterr().out


def test_a_repeated_run_makes_and_scores_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu")
    assert run(*arguments) == 0
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
    frame = pd.read_csv(place / "runs" / "dots" / "report" / "summary.csv").set_index(
        ["category", "method", "metric"]
    )
    assert frame.loc[("all", "moody", "leak_mse"), ["n", "failed"]].tolist() == [5, 1]
    assert frame.loc[("attribute", "moody", "leak_mse"), ["n", "failed"]].tolist() == [3, 0]
    assert run(*arguments) == 1
    assert "edits: 0 made, 11 there already, 1 failed" in capfd.readouterr().out


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
    frame = pd.read_csv(place / "runs" / "mixed" / "report" / "summary.csv")
    assert set(frame.loc[frame["metric"] == "mini_clip_target", "protocol"]) == {"drawn"}
    assert set(frame.loc[frame["metric"] == "leak_mse", "protocol"]) == {"dots", "drawn"}
    # By its own name: only where a protocol of the run can have it.
    assert run("score", "runs/mixed", "--metric", "mini_clip_target", "--device", "cpu", *plugin) == 0
    assert "scores: 0 computed" in capsys.readouterr().out


def test_a_stand_in_asked_for_by_its_name_on_photographs_is_an_error(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    capfd.readouterr()
    assert run("score", "runs/dots", "--metric", "mini_clip_target", *plugin) == 2
    err = capfd.readouterr().err
    assert "mini_clip_target: an embedded network" in err
    assert "Ask for clip_target." in err


def test_stored_scores_of_a_stand_in_on_photographs_stay_and_are_not_shown(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.edit import ScoreRecord
    from bench.store import RunStore, SetScore

    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    with RunStore.open(place / "runs" / "dots") as store:
        # As an earlier version left them.
        keys = [record.key for record in store.edits()]
        store.append_scores([ScoreRecord(key, "mini_clip_target", "1", 70.0) for key in keys])
        store.append_set_scores(
            [SetScore("dots", "1", keys[0].method, "all", "mini_clip_cmmd_pasted", "2", 0.5, 6)]
        )
    capsys.readouterr()
    assert run("report", "runs/dots", *plugin) == 0
    assert "dots: not shown: mini_clip_cmmd_pasted, mini_clip_target" in " ".join(
        capsys.readouterr().out.split()
    )
    report = place / "runs" / "dots" / "report"
    assert "mini_clip" not in (report / "summary.csv").read_text()
    tables = (report / "tables.md").read_text()
    assert "Left out of dots: mini_clip_cmmd_pasted, mini_clip_target." in tables
    assert "70.0" not in tables
    assert run("export", "runs/dots", "--out", "entry.json", *plugin) == 0
    assert "mini_clip" not in (place / "entry.json").read_text()
    with RunStore.open(place / "runs" / "dots") as store:
        assert (store.scores()["metric"] == "mini_clip_target").sum() == len(keys)
        assert len(store.set_scores()) == 1


def test_a_grid_of_named_cases_is_drawn_and_can_be_rebuilt(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    folder = place / "runs" / "dots"
    case = json.loads((folder / "cases/dots/cases.jsonl").read_text().splitlines()[1])["id"]
    assert run("report", "runs/dots", "--case", case, *plugin) == 0
    assert (folder / "report/figures/grid-chosen-dots.pdf").is_file()
    assert json.loads((folder / "report/report.json").read_text())["options"]["case"] == [case]
    assert run("report", "runs/dots", "--case", f"{case}x", *plugin) != 0
    assert f"Did you mean {case}?" in capsys.readouterr().err


def test_edit_then_score_then_report_is_run(place: Path) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--out", "whole", "--device", "cpu", *plugin) == 0
    assert run("edit", "dots.yaml", "--out", "parts", "--device", "cpu", *plugin) == 0
    assert not (place / "parts" / "report").exists()
    assert run("score", "parts", "--device", "cpu", *plugin) == 0
    assert run("report", "parts", *plugin) == 0
    one, two = (place / folder / "report" for folder in ("whole", "parts"))
    assert (one / "grid.png").read_bytes() == (two / "grid.png").read_bytes()

    def untimed(report: Path) -> list[str]:
        return [line for line in (report / "summary.csv").read_text().splitlines() if ",seconds" not in line]

    assert untimed(one) == untimed(two)
    assert (one / "tables.tex").exists()
    assert (two / "tables.tex").exists()


def test_report_before_scoring_says_what_to_do(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("edit", "dots.yaml", "--device", "cpu", *plugin) == 0
    assert run("report", "runs/dots", *plugin) == 2
    assert "Score it first" in capfd.readouterr().err


def test_report_fills_a_readme_between_its_markers_again_and_again(place: Path) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    readme = place / "README.md"
    readme.write_text("before\n<!-- dots-table:start -->\nold\n<!-- dots-table:end -->\nafter\n")
    assert run("report", "runs/dots", "--readme", "README.md", *plugin) == 0
    first = readme.read_text()
    assert first.startswith("before\n")
    assert first.endswith("after\n")
    assert "old" not in first
    assert "| copy\\_input |" in first
    assert "](docs/dots-grid.png)" in first
    assert (place / "docs" / "dots-grid.png").read_bytes() == (
        place / "runs" / "dots" / "report" / "grid.png"
    ).read_bytes()
    assert run("report", "runs/dots", "--readme", "README.md", *plugin) == 0
    assert readme.read_text() == first


def test_a_run_is_compared_verified_exported_and_merged(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    for folder in ("one", "two"):
        assert run("run", "dots.yaml", "--out", folder, "--device", "cpu", *plugin) == 0
    assert run("compare", "one", "two", "--out", "difference.md", *plugin) == 0
    assert (place / "difference.md").read_text()
    assert run("verify", "one", "--sample", "2", "--device", "cpu", *plugin) == 0
    assert run("export", "two", "--out", "entry.json", *plugin) == 0
    assert run("report", "one", "--merge", "entry.json", *plugin) == 0
    merged = {path.name: path.read_text(encoding="utf-8") for path in (place / "one/report").glob("merged.*")}
    assert set(merged) == {"merged.md", "merged.tex", "merged.csv"}
    assert "[two]" in merged["merged.csv"]
    assert r"{[}two{]} &" in merged["merged.tex"]
    assert (place / "one" / "report" / "index.html").exists()
    # A refused entry leaves the report as it is.
    before = {path: path.stat().st_mtime_ns for path in (place / "one" / "report").rglob("*")}
    (place / "entry.json").write_text("{}")
    assert run("report", "one", "--merge", "entry.json", "--style", "decimals=1", *plugin) == 2
    assert {path: path.stat().st_mtime_ns for path in (place / "one" / "report").rglob("*")} == before
    changed = next((place / "one" / "edits").rglob("*.png"))
    changed.write_bytes(changed.read_bytes() + b"x")
    capsys.readouterr()
    assert run("verify", "one", "--sample", "0", *plugin) == 1
    assert changed.name in capsys.readouterr().out


def verified(capsys: pytest.CaptureFixture[str], folder: str, *more: str) -> dict[str, Any]:
    """What ``verify --json`` prints; its exit code says the same."""
    capsys.readouterr()
    code = run("verify", folder, "--device", "cpu", "--json", "--plugin", "cli_plugin", *more)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (0 if result["ok"] else 1)
    return result


def test_deterministic_is_one_edit_at_a_time_on_one_thread(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    suite = ["dots.yaml", "--device", "cpu", "--batch-size", "4", "--plugin", "cli_plugin"]
    assert run("edit", *suite, "--out", "usual") == 0
    assert asked == []
    assert run("edit", *suite, "--out", "repeatable", "--deterministic") == 0
    assert asked == [1]
    for name, size in (("usual", 4), ("repeatable", 1)):
        entries = json.loads((place / name / "run.json").read_text())["methods"].values()
        assert [entry["batch_sizes"] for entry in entries] == [[size]] * len(entries)


def test_a_run_is_verified_by_making_all_of_it_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "dots.yaml").write_text((SUITE % "").replace("leak_changed", "leak_changed, vgg16_frechet"))
    assert run("run", "dots.yaml", "--device", "cpu", "--plugin", "cli_plugin") == 0
    whole = verified(capsys, "runs/dots")
    assert whole["problems"] == []
    assert {check["what"]: check["checked"] == check["total"] for check in whole["checks"]} == dict.fromkeys(
        (
            *(
                "methods in run.json",
                "files",
                "cases of dots",
                "records of edits",
                "edits",
                "records of scores",
            ),
            *("edits scored again", "set scores", "files of the report"),
        ),
        True,
    )
    assert whole["verdict"] == "runs/dots: is what it claims."
    # A renamed folder is the same run.
    shutil.move("runs/dots", "runs/moved")
    assert verified(capsys, "runs/moved")["ok"]
    # A report with options of its own is built anew with them.
    assert (
        run("report", "runs/moved", "--style", "intervals=plus-minus", "--paper", "--plugin", "cli_plugin")
        == 0
    )
    assert verified(capsys, "runs/moved")["ok"]
    # An edit replaced with its record, a value of a set, a number of a table: all by someone who mends digests.
    edit = sorted(Path("runs/moved/edits").rglob("*.png"))[0]
    Image.new("RGB", (32, 32), "white").save(edit)
    forged = hashlib.sha256(edit.read_bytes()).hexdigest()
    log = Path("runs/moved/edits.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        if row["file"] == edit.relative_to("runs/moved").as_posix():
            row["sha256"] = forged
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = Path("runs/moved/scores/set.json")
    values = json.loads(sets.read_text())
    values[0]["value"] += 1
    sets.write_text(json.dumps(values))
    table = Path("runs/moved/report/main-dots.tex")
    table.write_text(table.read_text().replace("toprule", "midrule"))
    Path("runs/moved/digests.jsonl").unlink()
    problems = "\n".join(verified(capsys, "runs/moved")["problems"])
    assert f"leak_mse of {edit.stem}" in problems
    assert "scores/set.json" in problems
    assert "report/main-dots.tex: differs" in problems


def test_a_report_writes_down_no_address_of_a_database() -> None:
    assert record.without_address("postgresql://ann:secret@host/votes") == record.NOT_RECORDED
    assert record.without_address("votes.db") == "votes.db"
    assert record.without_address(None) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ".."}, "'..' is no folder's name"),
        ({"name": "a/b"}, "'a/b' is no folder's name"),
        ({"options": {"study": "taste", "store": "postgresql://host/votes"}}, "database whose address"),
    ],
)
def test_the_record_of_a_report_is_data(
    place: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], says: str
) -> None:
    """It names no place outside the folder to build in, and no server to talk to."""
    assert run("run", "dots.yaml", "--device", "cpu", "--plugin", "cli_plugin") == 0
    path = Path("runs/dots") / record.RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = verified(capsys, "runs/dots", "--sample", "0", "--sets", "0")
    how = {check["what"]: check["how"] for check in result["checks"]}
    assert says in how["files of the report"]


def test_what_cannot_be_made_again_here_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "dots.yaml", "--device", "cpu", "--plugin", "cli_plugin") == 0
    plugin = place / "cli_plugin.py"
    plugin.write_text(plugin.read_text().replace('stable_digest("dots")', 'stable_digest("later")'))
    sys.modules.pop("cli_plugin", None)
    result = verified(capsys, "runs/dots", "--sample", "0", "--sets", "0")
    how = {check["what"]: check["how"] for check in result["checks"]}
    assert result["ok"]
    assert "digests alone" in how["cases of dots"]
    assert "the installed protocol dots 1 has the digest" in how["cases of dots"]


def test_report_and_analysis_of_a_study_print_the_same_numbers(place: Path) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    settings = place / "study.yaml"
    settings.write_text("exclusion: {max_attention_failures: 0, min_median_reaction_ms: null}\n")
    assert (
        run(
            *("study", "create", "runs/dots", "--name", "taste", "--settings", "study.yaml"),
            *("--method", "copy_input", "--method", "moody", "--raters", "8", "--trials", "10"),
            *("--attention", "3", "--repeats", "1", "--practice", "0"),
        )
        == 0
    )
    assert (
        run("study", "simulate", "taste", "--raters", "8", "--strength", "moody=1.5", "--inattentive", "0.4")
        == 0
    )
    # A stand-in's scores of photographs, as an earlier version left them, are compared with no vote.
    from bench.edit import ScoreRecord
    from bench.store import RunStore

    with RunStore.open(place / "runs" / "dots") as store:
        keys = [record.key for record in store.edits()]
        store.append_scores([ScoreRecord(key, "mini_clip_target", "1", 70.0) for key in keys])
    analyse = ("study", "analyse", "taste", "--simulated", "--scores", "runs/dots", "--out", "analysis")
    assert run(*analyse, *plugin) == 0
    assert "mini_clip_target" not in set(pd.read_csv("analysis/correlation.csv")["metric"])
    assert "leak_mse" in set(pd.read_csv("analysis/correlation.csv")["metric"])
    assert run("report", "runs/dots", "--study", "taste", *plugin) == 2  # people have not voted
    assert run("report", "runs/dots", "--study", "taste", "--simulated", *plugin) == 0
    raters = pd.read_csv("analysis/raters.csv")
    assert raters["excluded"].any()
    shares = pd.read_csv("analysis/shares.csv")
    shares = shares[(shares["raters"] == "kept") & (shares["question"] == "all")]
    summary = pd.read_csv("runs/dots/report/summary.csv").set_index(
        ["metric", "protocol", "category", "method"]
    )
    for row in shares.to_dict("records"):
        protocol = "all protocols" if row["protocol"] == "all" else row["protocol"]
        for metric, columns in (
            ("simulated_preference", ("share", "low", "high")),
            ("simulated_preference_votes", ("of_all", "of_all_low", "of_all_high")),
        ):
            printed = summary.loc[(metric, protocol, row["category"], row["method"])]
            np.testing.assert_array_equal(
                printed[["value", "low", "high"]].to_numpy(float), [row[column] for column in columns]
            )
    assert "SIMULATED RATERS" in Path("runs/dots/report/tables.md").read_text()
    # The votes are part of what is verified, as long as they are here.
    assert run("verify", "runs/dots", "--sample", "0", *plugin) == 0


@pytest.mark.parametrize(("gap", "code"), [("", 1), ("68 of 160 samples of its recipe", 0)])
def test_zoo_check_fails_for_a_missed_gate_unless_the_network_is_under_trained(
    gap: str, code: int, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods.zoo import gates
    from reports.data import zoo

    missed = gates.Gate("blended_diffusion", 0.53, 0.65, False, "target shown", gap)
    monkeypatch.setattr(gates, "check", lambda world: [gates.Gate("lama", 0.0, 0.0, True, "leak"), missed])
    monkeypatch.setattr(zoo, "run_gates", lambda folder: [])
    (place / "README.md").write_text("<!-- zoo-gates:start -->\n<!-- zoo-gates:end -->\n")
    assert run("zoo", "check", "--readme", "README.md") == code
    told = f"under-trained | target shown; under-trained: {gap} |" if gap else "**no** | target shown |"
    assert told in (place / "README.md").read_text()
    assert ("under-trained" if gap else "missed") in capsys.readouterr().out


def test_where_the_paper_contradicts_itself_and_leaves_gaps_is_told_without_a_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("report", "--check-paper") == 0
    out = capsys.readouterr().out
    assert "FID of PromptEditDiff on COCO: 7.9 in Table 1, but 7.1 in Table 2" in out.splitlines()
    assert "no interval or test is given for abstract, Table 1" in out


def test_an_unnamed_baseline_needs_a_method_of_the_run(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    capfd.readouterr()
    assert run("report", "runs/dots", "--paper-baseline", "GAN-Inpainting=lama", *plugin) == 2
    assert "has no method lama. It has: copy_input, moody." in " ".join(capfd.readouterr().err.split())


def test_a_study_without_votes_adds_nothing_to_a_report(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    assert run("report", "runs/dots", "--study", "taste", *plugin) == 2
    assert "studies.db" in capfd.readouterr().err


def test_a_readme_without_markers_is_left_alone(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    (place / "README.md").write_text("nothing here\n")
    report = place / "runs" / "dots" / "report" / "tables.md"
    before = report.stat().st_mtime_ns
    assert run("report", "runs/dots", "--readme", "README.md", *plugin) == 2
    assert "dots-table:start" in capfd.readouterr().err
    assert (place / "README.md").read_text() == "nothing here\n"
    assert report.stat().st_mtime_ns == before, "refused before the report is made"


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


def test_without_its_weights_a_score_is_another_under_its_own_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.metrics.realism import Fid
    from bench.store import RunStore

    monkeypatch.setattr(Fid, "problems", classmethod(lambda cls, features: ["the weights are absent"]))
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    assert run("score", "runs/dots", "--metric", "fid", "--device", "cpu", *plugin) == 0
    stored = set(RunStore.open("runs/dots").set_scores()["metric"])
    assert {name.removesuffix("_pasted") for name in stored} == {"vgg16_frechet"}


def test_a_score_that_nothing_can_stand_in_for_is_refused_with_the_remedy(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from bench.metrics.leakage import LeakLpips

    monkeypatch.setattr(LeakLpips, "problems", classmethod(lambda cls, features: ["absent. Fetch them."]))
    plugin = ("--plugin", "cli_plugin")
    assert run("run", "dots.yaml", "--device", "cpu", *plugin) == 0
    assert run("score", "runs/dots", "--metric", "leak_lpips", "--device", "cpu", *plugin) == 2
    assert "leak_lpips: absent. Fetch them." in capfd.readouterr().err


# --- what people look at -------------------------------------------------------------------------------


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert run("--version") == 0
    assert capsys.readouterr().out == f"prompteditbench {declared}\n"


def test_a_quiet_run_prints_nothing_and_reports(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--quiet")
    assert run(*arguments) == 0
    assert capfd.readouterr() == ("", "")
    assert (place / "runs" / "dots" / "report" / "summary.csv").exists()


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


def test_doctor_says_where_the_cache_cannot_be_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(place / "cache"))
    assert info.folder_problems(run_bench.PROGRAM.cache_folder()) == []
    assert not (place / "cache").exists()
    monkeypatch.setenv("PROMPTEDITBENCH_CACHE", str(place / "dots.yaml" / "cache"))
    (problem,) = info.folder_problems(run_bench.PROGRAM.cache_folder())
    assert f"cannot be written ({place / 'dots.yaml'}: Not a directory)" in problem
    assert "PROMPTEDITBENCH_CACHE" in problem


def test_doctor_has_a_line_for_each_missing_thing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(name: str, *remedies: str) -> dict[str, Any]:
        return {"name": name, "ok": not remedies, "detail": "", "remedies": list(remedies)}

    found = {"data": [check("a", "fetch x", "fetch y"), check("b", "fetch x"), check("c")]}
    monkeypatch.setattr(info, "diagnose", lambda session: found)
    assert run("doctor") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["ok", "c"],
        ["no", "a,", "b:", "fetch", "x"],
        ["no", "a:", "fetch", "y"],
    ]


@pytest.mark.parametrize("name", ["entry.tar", "entry", "entry.JSON.gz"])
def test_an_entry_has_a_name_that_says_its_kind(
    name: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "runs/dots", "--out", name) == 2
    assert f"--out {name}: the name of an entry ends in .json or .zip" in capfd.readouterr().err
    assert not (place / name).exists()


# --- as a process --------------------------------------------------------------------------------------

SCRIPT = [sys.executable, str(ROOT / "run_bench.py")]
LONG = "n" * 300


def process(
    *arguments: str, shell: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the script as a user does; ``shell`` is put behind the command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    environment.pop("PEB_DEBUG", None)
    command = f"{shlex.join([*SCRIPT, *arguments])} {shell}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report"], "error: name a run folder, such as runs/demo.\n"),
        (["study", "analyse"], "error: study analyse: name either a study or a file of votes (--votes).\n"),
        (["cases", "mini-coco", "--out", "x", "-o", "seed"], "error: --option 'seed': write KEY=VALUE"),
        (["run", LONG], "File name too long. Give a shorter name."),
        (["export", "runs/dots", "--out", "dots.yaml/x.json"], "dots.yaml: Not a directory. Check the path."),
        (["compare", "runs/dots", "runs/dots", "--out", "/dev/full"], "/dev/full: is no regular file."),
        (["report", "runs/dots", "--readme", "none.md"], "error: --readme none.md: no such file."),
        (["study", "import", "none.csv", "--out", "o.csv"], "none.csv: No such file or directory."),
        (
            ["cases", "fussy", "--out", "x", "-o", "canvas=0", "--plugin", "cli_plugin"],
            "error: fussy: canvas 0: expected 1 or more.\n",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_users_fault_is_one_line_without_a_traceback(arguments: list[str], says: str, place: Path) -> None:
    done = process(*arguments)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("group", [[], ["study"], ["zoo"]])
def test_without_a_command_there_is_help(group: list[str]) -> None:
    done = process(*group)
    assert "Usage: run_bench.py" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_a_warning_is_one_line_and_those_of_libraries_are_left_out(place: Path) -> None:
    done = process("cases", "fussy", "--out", "x", "--plugin", "cli_plugin")
    told = [line for line in done.stderr.splitlines() if "dots are few" in line or "concern" in line]
    assert told == ["warning: the dots are few."]
    assert ".py" not in done.stderr


def test_a_run_goes_on_when_nobody_reads_it(place: Path) -> None:
    done = process("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", shell="| head -1")
    assert done.returncode == 0
    assert done.stdout.startswith("edits: 12 made")
    assert "note: standard output was closed early; the command ran to its end." in done.stderr
    assert (place / "runs" / "dots" / "report" / "index.html").exists()


def test_a_full_disk_under_standard_output_is_told_at_the_end(place: Path) -> None:
    done = process("list", "suites", shell="> /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: No space left on device. Free some space")
    assert done.stderr.count("\n") == 1


def test_a_closed_standard_output_stops_nothing(place: Path) -> None:
    done = process("cases", "dots", "--out", "x", "--plugin", "cli_plugin", shell=">&- 2>&-")
    assert done.returncode == 0
    rows = [json.loads(line) for line in (place / "x" / "cases.jsonl").read_text().splitlines()]
    assert len(rows) == 6


def test_a_full_disk_is_told_with_the_file_and_the_remedy(place: Path) -> None:
    assert run("run", "dots.yaml", "--device", "cpu", "--plugin", "cli_plugin", "--quiet") == 0
    # No file may grow beyond a block.
    export = [*SCRIPT, "export", "runs/dots", "--out", "e.json", "--plugin", "cli_plugin"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *export],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: e.json: File too large. Free some space and give the same command again; what is stored is kept.\n"
    )
    assert not [path for path in place.iterdir() if path.suffix in (".json", ".tmp")]


def test_a_terminal_of_any_encoding_gets_the_tables(place: Path) -> None:
    assert run("run", "dots.yaml", "--device", "cpu", "--plugin", "cli_plugin", "--quiet") == 0
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = subprocess.run(
            [*SCRIPT, "report", "runs/dots", "--plugin", "cli_plugin"],
            capture_output=True, check=False, timeout=300, env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding)
        assert "copy_input" in text
        assert ("↓" in text) == (encoding == "utf-8")
        assert "?" not in text


def test_json_loses_no_letter_on_a_terminal_that_lacks_it(place: Path) -> None:
    suite = SUITE.replace("- copy_input", "- {method: copy_input, label: nichts é 中}")
    (place / "dots.yaml").write_text(suite % "", encoding="utf-8")
    asked = ("run", "dots.yaml", "--plugin", "cli_plugin", "--dry-run", "--json")
    done = process(*asked, environment={"PYTHONIOENCODING": "ascii"})
    assert "nichts é 中" in {row["method"] for row in json.loads(done.stdout)["rows"]}


def test_ctrl_c_says_what_is_kept(place: Path) -> None:
    (place / "dots.yaml").write_text((SUITE % "").replace('fail: ""', "seconds: 0.5"))
    command = [*SCRIPT, "edit", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--batch-size", "1"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        log = place / "runs" / "dots" / "edits.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and "moody" in log.read_text()):
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "error: stopped. What is stored is kept; the same command goes on from there." in err
    assert "Traceback" not in err
    done = process("edit", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--batch-size", "1")
    made, kept = (int(n) for n in re.findall(r"edits: (\d+) made, (\d+) there already", done.stdout)[0])
    assert made + kept == 12
    assert kept >= 7


def test_the_script_and_a_closed_pipe() -> None:
    done = subprocess.run(
        f"{sys.executable} {ROOT / 'run_bench.py'} list metrics | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("name")
    assert "Traceback" not in done.stderr

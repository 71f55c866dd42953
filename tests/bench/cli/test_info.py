"""``list`` and ``doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import run_bench
from bench.cli import info
from tests.command_line import run


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

    sections = {"data": [check("a", "fetch x", "fetch y"), check("b", "fetch x"), check("c")]}
    monkeypatch.setattr(info, "diagnose", lambda session: sections)
    assert run("doctor") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["ok", "c"],
        ["no", "a,", "b:", "fetch", "x"],
        ["no", "a:", "fetch", "y"],
    ]

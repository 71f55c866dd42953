"""An entry holds only if its summary follows from its scores and its images are the recorded ones."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pandas as pd

from bench.store import RunStore
from reports.data.scores import load
from reports.data.summary import summary
from reports.share.entries.check import verify_entry
from reports.share.entries.export import export_entry
from reports.share.entries.reading import load_entry
from tests.reports import fake
from tests.reports.share.entries.samples import N, rewrite


def test_an_entry_holds_and_gives_the_summary_of_its_run(store: RunStore, tmp_path: Path) -> None:
    loaded = load_entry(export_entry(store, tmp_path / "e.json", facts=fake.METRICS))
    check = verify_entry(loaded)
    assert check.problems == []
    frame = summary(load(store), fake.METRICS)
    assert check.rows == len(frame)
    said = pd.DataFrame([row.model_dump() for row in loaded.entry.summary])
    pd.testing.assert_frame_equal(said, frame, check_dtype=False)
    assert loaded.entry.metrics["leak_lpips"].higher_is_better is False
    part = next(p for p in loaded.entry.edits if p.errors)
    assert part.errors == {"background-1": "RuntimeError: no"}


def test_pictures_are_those_of_the_run(store: RunStore, tmp_path: Path) -> None:
    loaded = load_entry(export_entry(store, tmp_path / "e.zip", images=True))
    check = verify_entry(loaded)
    assert check.ok
    assert check.images == 4 * N - 1
    record = next(r for r in store.edits() if r.sha256)
    assert record.sha256 is not None
    assert loaded.image(record.sha256) == store.image_path(record).read_bytes()
    assert loaded.image("0" * 64) is None


def test_a_summary_that_does_not_follow_is_named(store: RunStore, tmp_path: Path) -> None:
    def better(content: dict[str, Any]) -> None:
        row = next(r for r in content["summary"] if r["metric"] == "leak_lpips" and r["category"] == "all")
        row["value"] -= 0.01

    path = rewrite(export_entry(store, tmp_path / "e.json"), better)
    check = verify_entry(load_entry(path))
    assert len(check.problems) == 1
    assert "leak_lpips: value is said to be" in check.problems[0]
    assert not check.ok


def test_changed_scores_are_named(store: RunStore, tmp_path: Path) -> None:
    def better(content: dict[str, Any]) -> None:
        part = next(p for p in content["scores"] if p["metric"] == "leak_lpips")
        part["values"][0] = 9.0

    path = rewrite(export_entry(store, tmp_path / "e.json"), better)
    assert verify_entry(load_entry(path)).problems


def test_a_row_left_out_is_named(store: RunStore, tmp_path: Path) -> None:
    path = rewrite(export_entry(store, tmp_path / "e.json"), lambda c: c["summary"].pop())
    assert [p for p in verify_entry(load_entry(path)).problems if p.endswith("left out")]


def test_a_score_of_an_edit_that_does_not_exist_is_named(store: RunStore, tmp_path: Path) -> None:
    def hide(content: dict[str, Any]) -> None:
        content["edits"][0]["sha256"][5] = None

    path = rewrite(export_entry(store, tmp_path / "e.json"), hide)
    assert any("1 values of edits that do not exist" in p for p in verify_entry(load_entry(path)).problems)


def test_a_changed_picture_is_named(store: RunStore, tmp_path: Path) -> None:
    path = export_entry(store, tmp_path / "e.zip", images=True)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    # One image is replaced, one is missing.
    victim = next(name for name in members if name.startswith("images/"))
    missing = [name for name in members if name.startswith("images/")][1]
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if name != missing:
                file.writestr(name, b"other" if name == victim else data)
    problems = verify_entry(load_entry(path)).problems
    assert any(victim in problem for problem in problems)
    assert any("have a hash and no image" in problem for problem in problems)

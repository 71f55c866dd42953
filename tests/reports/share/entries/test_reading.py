"""A changed, damaged or malicious entry is refused, with its place."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.edit import MethodSpec
from bench.store import RunStore
from reports.share.entries.check import verify_entry
from reports.share.entries.export import export_entry
from reports.share.entries.format import EntryError, content_digest
from reports.share.entries.reading import load_entry
from tests.reports import fake
from tests.reports.share.entries.samples import rewrite

BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "other format": (lambda c: c.update(format="x"), "not a leaderboard entry"),
    "earlier version": (lambda c: c.update(format_version=2), "this version reads 3"),
    "later version": (lambda c: c.update(format_version=4), "this version reads 3"),
    "unknown key": (lambda c: c.update(surprise=1), r"surprise: Extra inputs"),
    "text for a number": (lambda c: c["scores"][0]["values"].__setitem__(0, "1"), r"scores\.0\.values\.0"),
    "column too short": (lambda c: c["scores"][0]["values"].pop(), "15 values for 16 cases"),
    "no hash": (lambda c: c["edits"][0]["sha256"].__setitem__(0, "abc"), r"edits\.0\.sha256\.0"),
    "other options": (
        lambda c: next(iter(c["methods"].values())).update(options={"steps": 99}),
        "its name and options make the digest",
    ),
    "unknown metric": (lambda c: c["scores"][0].update(metric="x"), "does not describe"),
    "unknown method": (lambda c: c["scores"][0].update(method="0" * 12), "does not have"),
    "twice": (lambda c: c["scores"].append(c["scores"][0]), "there twice"),
    "path as an id": (
        lambda c: c["protocols"]["mini-coco"]["cases"].__setitem__(0, "../../x"),
        r"protocols\.mini-coco\.cases\.0",
    ),
    "case twice": (
        lambda c: c["protocols"]["mini-coco"]["cases"].__setitem__(0, "attribute-1"),
        "a case occurs twice",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_entry_is_refused_with_its_place(store: RunStore, tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    path = rewrite(export_entry(store, tmp_path / "e.json"), change)
    with pytest.raises(EntryError, match=message) as caught:
        load_entry(path)
    assert str(path) in str(caught.value)


def test_a_changed_entry_without_a_new_digest_is_refused(store: RunStore, tmp_path: Path) -> None:
    path = export_entry(store, tmp_path / "e.json")
    rewrite(path, lambda c: c.update(name="another"), sealed=False)
    with pytest.raises(EntryError, match="its digest is"):
        load_entry(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"format": "prompteditbench-entry", "a": NaN}', "NaN is no number"),
        ('{"a": 1, "a": 2}', "given twice"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a leaderboard entry"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "e.json"
    path.write_text(text)
    with pytest.raises(EntryError, match=message):
        load_entry(path)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match="cannot be read"):
        load_entry(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "member", ["../evil", "/etc/evil", "images/../../evil.png", "images/x.png", "run.py", "images\\..\\evil"]
)
def test_a_zip_with_other_names_is_refused_and_unpacks_nothing(
    store: RunStore, tmp_path: Path, member: str
) -> None:
    path = export_entry(store, tmp_path / "in" / "e.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(member, b"evil")
    with pytest.raises(EntryError, match="which no entry holds"):
        load_entry(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "e.zip"]


@pytest.mark.parametrize("text", ["a\x1b[2J", "a\n# Heading", "a\u202eb"])
def test_an_entry_with_more_than_a_printable_line_for_a_label_is_refused(
    store: RunStore, tmp_path: Path, text: str
) -> None:
    content = json.loads(export_entry(store, tmp_path / "e.json").read_text())
    digest = next(iter(content["methods"]))
    content["methods"][digest]["label"] = text
    content["digest"] = content_digest(content)
    (tmp_path / "e.json").write_text(json.dumps(content))
    with pytest.raises(EntryError, match=r"e\.json: methods\..*label: .*one line of printable characters"):
        load_entry(tmp_path / "e.json")


def test_a_run_whose_label_has_two_lines_can_be_exported(tmp_path: Path) -> None:
    spec = MethodSpec("sd_inpainting", {"steps": 2}, "two\nlines \x1b[2J")
    assert spec.title == "two lines [2J"
    scores = {"leak_lpips": {"sd_inpainting": [0.5] * len(fake.cases())}}
    run = fake.run(tmp_path / "r", scores, methods=[spec])
    loaded = load_entry(export_entry(run, tmp_path / "e.json", facts=fake.METRICS))
    assert verify_entry(loaded).ok
    assert {row.method for row in loaded.entry.summary} == {"two lines [2J"}


def test_a_damaged_zip_is_one_error(store: RunStore, tmp_path: Path) -> None:
    path = export_entry(store, tmp_path / "e.zip")
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("entry.json").header_offset + 30 + len("entry.json")
    # Damage in the compressed data of the entry.
    data = bytearray(path.read_bytes())
    for change in (slice(start, start + 1), slice(start + 20, start + 40)):
        damaged = data.copy()
        damaged[change] = b"\xff" * (change.stop - change.start)
        path.write_bytes(damaged)
        with pytest.raises(EntryError, match=r"e\.zip: cannot be read"):
            load_entry(path)


def test_a_picture_that_unpacks_to_too_much_is_refused(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_entry(store, tmp_path / "e.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"images/{'0' * 64}.png", b"\0" * 5_000_000)
    monkeypatch.setattr("reports.share.entries.reading.MAX_IMAGE_BYTES", 1_000_000)
    with pytest.raises(EntryError, match="larger than 1,000,000 bytes"):
        load_entry(path).image("0" * 64)

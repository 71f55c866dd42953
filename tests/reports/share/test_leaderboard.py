"""Entries: what is written is what is read, what was changed is refused, what is alike is merged."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.edit import MethodSpec
from bench.store import RunStore
from reports.share.entry import SCHEMA, EntryError, content_digest, json_schema, load_entry
from reports.share.leaderboard import export_entry, merge_entries, verify_entry
from reports.tables import table as tables
from tests.reports import fake

N = len(fake.cases())


def values(shift: float = 0.0) -> dict[str, dict[str, list[float | None]]]:
    return {
        "success_truth": {spec.name: [float(k % 2) for k in range(N)] for spec in fake.METHODS},
        "leak_lpips": {
            "sd_inpainting": [shift + 0.01 * k for k in range(N)],
            "instruct_pix2pix": [None if k == 3 else 0.3 for k in range(N)],
            "copy_input": [0.0] * N,
        },
    }


SETS: dict[str, tuple[float, float | None, float | None]] = {
    "sd_inpainting": (40.0, 38.0, 42.0),
    "copy_input": (1.0, None, None),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return fake.run(
        tmp_path_factory.mktemp("mine") / "mine",
        values(),
        failed=[("instruct_pix2pix", "background-1")],
        sets=SETS,
    )


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    methods = (MethodSpec("lama", {"a": 1}), MethodSpec("copy_input", {}, is_control=True))
    found = {name: {"lama": of["sd_inpainting"]} for name, of in values(0.5).items()}
    return fake.run(tmp_path_factory.mktemp("theirs") / "theirs", found, methods=methods)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> Path:
    """Changes an entry; ``sealed`` makes its digest right again, as a forger would."""
    content = json.loads(path.read_text())
    change(content)
    if sealed:
        content["digest"] = content_digest(content)
    path.write_text(json.dumps(content))
    return path


def test_the_shipped_schema_is_that_of_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(json_schema()))


def test_an_entry_fits_its_schema_by_another_implementation(store: RunStore, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    content = json.loads(export_entry(store, tmp_path / "e.json", facts=fake.FACTS).read_text())
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert list(validator.iter_errors(content)) == []
    content["scores"][0]["values"][0] = "high"
    content["surprise"] = 1
    assert len(list(validator.iter_errors(content))) >= 2


def test_the_same_run_is_the_same_file(store: RunStore, tmp_path: Path) -> None:
    one = export_entry(store, tmp_path / "one.zip", images=True)
    other = export_entry(store, tmp_path / "other.zip", images=True)
    assert one.read_bytes() == other.read_bytes()


def test_an_entry_holds_and_gives_the_summary_of_its_run(store: RunStore, tmp_path: Path) -> None:
    loaded = load_entry(export_entry(store, tmp_path / "e.json", facts=fake.FACTS))
    check = verify_entry(loaded)
    assert check.problems == []
    frame = tables.summary(store, fake.FACTS)
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


def test_pictures_need_a_zip(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(EntryError, match=r"ends in \.zip"):
        export_entry(store, tmp_path / "e.json", images=True)


def test_a_zip_without_pictures_is_smaller_and_holds(store: RunStore, tmp_path: Path) -> None:
    loaded = load_entry(export_entry(store, tmp_path / "e.zip"))
    assert not loaded.images
    assert verify_entry(loaded).ok
    assert loaded.path.stat().st_size < export_entry(store, tmp_path / "e.json").stat().st_size / 3


def test_a_run_without_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match="no scores yet"):
        export_entry(fake.run(tmp_path / "r", {}), tmp_path / "e.json")


def test_an_edit_that_is_not_the_recorded_one_is_not_exported(tmp_path: Path) -> None:
    broken = fake.run(tmp_path / "r", values())
    broken.image_path(broken.edits()[0]).write_bytes(b"other")
    with pytest.raises(EntryError, match="not the file that was recorded"):
        export_entry(broken, tmp_path / "e.zip", images=True)
    assert not (tmp_path / "e.zip").exists()


# --- what is refused on reading ------------------------------------------------------------------------

BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "other format": (lambda c: c.update(format="x"), "not a leaderboard entry"),
    "earlier version": (lambda c: c.update(format_version=1), "this version reads 2"),
    "later version": (lambda c: c.update(format_version=3), "this version reads 2"),
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
    loaded = load_entry(export_entry(run, tmp_path / "e.json", facts=fake.FACTS))
    assert verify_entry(loaded).ok
    assert {row.method for row in loaded.entry.summary} == {"two lines [2J"}


def test_a_damaged_zip_is_one_error(store: RunStore, tmp_path: Path) -> None:
    path = export_entry(store, tmp_path / "e.zip")
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("entry.json").header_offset + 30 + len("entry.json")
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
    monkeypatch.setattr("reports.share.entry.MAX_IMAGE", 1_000_000)
    with pytest.raises(EntryError, match="larger than 1,000,000 bytes"):
        load_entry(path).image("0" * 64)


# --- what is refused on checking -----------------------------------------------------------------------


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
    victim = next(name for name in members if name.startswith("images/"))
    missing = [name for name in members if name.startswith("images/")][1]
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if name != missing:
                file.writestr(name, b"other" if name == victim else data)
    problems = verify_entry(load_entry(path)).problems
    assert any(victim in problem for problem in problems)
    assert any("have a hash and no picture" in problem for problem in problems)


# --- merging -------------------------------------------------------------------------------------------


def test_merged_tables_have_both_and_one_best(store: RunStore, theirs: RunStore, tmp_path: Path) -> None:
    path = export_entry(theirs, tmp_path / "e.json")
    merged = merge_entries([load_entry(path)], store, fake.FACTS)
    main = next(table for table in merged.tables if table.name == "main-mini-coco")
    names = [row.method for row in main.rows]
    # Controls are the own run's, once; they stand last.
    assert names == ["sd_inpainting", "instruct_pix2pix", "lama [theirs]", "copy_input", "oracle"]
    leak = [column.metric for column in main.columns].index("leak_lpips")
    cells = {row.method: row.cells[leak] for row in main.rows}
    assert cells["lama [theirs]"].value == pytest.approx(0.5 + 0.01 * 7.5)
    assert [name for name, cell in cells.items() if cell.best] == ["sd_inpainting"]
    assert main.notes[-1].startswith("Methods with a name in brackets")
    # The own rows are what they are without the entry.
    own = tables.summary(store, fake.FACTS)
    kept = merged.frame[~merged.frame["method"].str.contains("theirs")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, own)


def test_two_entries_of_one_name_stay_two(store: RunStore, theirs: RunStore, tmp_path: Path) -> None:
    path = export_entry(theirs, tmp_path / "e.json")
    merged = merge_entries([path, path], store, fake.FACTS)
    assert {"lama [theirs]", "lama [theirs 2]"} <= set(merged.frame["method"])


def other_digest(folder: Path) -> None:
    for name in ("run.json", "cases/mini-coco/protocol.json"):
        path = folder / name
        path.write_text(path.read_text().replace("d" * 12, "e" * 12))


def test_another_protocol_digest_is_refused(store: RunStore, tmp_path: Path) -> None:
    other = fake.run(tmp_path / "other", values())
    other_digest(other.path)
    path = export_entry(RunStore.open(other.path), tmp_path / "e.json")
    with pytest.raises(EntryError, match="has the digest eeeeeeeeeeee, in this run 1 has dddddddddddd"):
        merge_entries([path], store, fake.FACTS)


def test_other_cases_are_refused(store: RunStore, tmp_path: Path) -> None:
    few = fake.cases(2)
    other = fake.run(tmp_path / "other", {"leak_lpips": {"sd_inpainting": [0.1] * 8}}, picked=few)
    path = export_entry(other, tmp_path / "e.json")
    with pytest.raises(EntryError, match="8 of this run's cases are not in it"):
        merge_entries([path], store, fake.FACTS)


def test_no_protocol_in_common_is_refused(store: RunStore, tmp_path: Path) -> None:
    other = fake.run(tmp_path / "other", values(), protocol="elsewhere")
    path = export_entry(other, tmp_path / "e.json")
    with pytest.raises(EntryError, match="no protocol in common"):
        merge_entries([path], store, fake.FACTS)


def test_another_metric_version_is_refused(store: RunStore, tmp_path: Path) -> None:
    def newer(content: dict[str, Any]) -> None:
        content["metrics"]["leak_lpips"]["version"] = "2"

    path = rewrite(export_entry(store, tmp_path / "e.json"), newer)
    with pytest.raises(EntryError, match="leak_lpips is of version 2, in this run of version 1"):
        merge_entries([path], store, fake.FACTS)


def test_an_entry_that_does_not_hold_is_not_merged(store: RunStore, tmp_path: Path) -> None:
    path = rewrite(export_entry(store, tmp_path / "e.json"), lambda c: c["summary"].pop())
    with pytest.raises(EntryError, match="does not hold"):
        merge_entries([path], store, fake.FACTS)

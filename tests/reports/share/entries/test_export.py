"""The export of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.store import RunStore
from reports.share.entries.check import verify_entry
from reports.share.entries.export import export_entry
from reports.share.entries.format import EntryError
from reports.share.entries.reading import load_entry
from tests.reports import fake
from tests.reports.share.entries.samples import values


def test_the_same_run_is_the_same_file(store: RunStore, tmp_path: Path) -> None:
    one = export_entry(store, tmp_path / "one.zip", images=True)
    other = export_entry(store, tmp_path / "other.zip", images=True)
    assert one.read_bytes() == other.read_bytes()


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

"""Opening a run, its cases and its edits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.edit import MethodSpec
from bench.store import RunStore, StoreError
from tests.bench.fakes import make_case, noise
from tests.bench.store.records import INFO, SPEC, configure, edited, key, not_edited


def test_open_makes_only_where_asked_and_never_takes_a_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such run folder.*Run a suite"):
        RunStore.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="holds other files"):
        RunStore.open(tmp_path / "other", create=True)
    with pytest.raises(StoreError, match=r"no run\.json"):
        RunStore.open(tmp_path / "other")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        RunStore.open(tmp_path / "file", create=True)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_records_come_back_and_the_last_one_counts(store: RunStore) -> None:
    first, second = not_edited(), replace(edited(store), peak_memory=12345)
    store.append_edits([first, edited(store, "case-001")])
    assert store.edits()[0] == first
    assert store.done() == {key("case-001").digest}
    store.append_edits([second])
    assert RunStore.open(store.path).edits() == [second, edited(store, "case-001")]
    assert store.done() == {key().digest, key("case-001").digest}


def test_a_refused_case_is_told_by_its_field_and_not_by_its_text(store: RunStore) -> None:
    # A closed system may answer with this very word: its edit has failed.
    failed = replace(not_edited("case-000"), error="refused: against our policy")
    refused = replace(not_edited("case-001"), error="refused: the case has no mask", is_refused=True)
    store.append_edits([failed, refused])
    assert [record.is_refused for record in RunStore.open(store.path).edits()] == [False, True]
    # Lines without it stay as earlier versions wrote them.
    first, second = (store.path / "edits.jsonl").read_text().splitlines()
    assert "is_refused" not in first
    assert '"is_refused"' in second


def test_an_edit_is_done_only_while_its_file_is_there(store: RunStore) -> None:
    record = edited(store)
    store.append_edits([record])
    store.image_path(record).unlink()
    assert store.done() == set()
    with pytest.raises(StoreError, match=r"cannot be read.*Run the suite again"):
        store.image(record)


def test_image_is_the_recorded_one_or_an_error(store: RunStore) -> None:
    record = edited(store)
    assert (np.asarray(store.image(record)) == np.asarray(noise("case-000", 16))).all()
    store.write_edit(str(record.file), noise("else", 16))
    with pytest.raises(StoreError, match="not the file that was recorded"):
        store.image(record)
    with pytest.raises(StoreError, match="case-000 was not edited: ZeroDivisionError"):
        store.image(not_edited())


def test_a_record_from_elsewhere_cannot_point_outside(store: RunStore) -> None:
    record = replace(edited(store), file="edits/../../secret.png")
    store.append_edits([record, not_edited("case-001")])
    with pytest.raises(StoreError, match=r"edits\.jsonl:1: .*leaves its folder"):
        store.edits()


@pytest.mark.parametrize("bad", ["../../evil", "a/b", "", "x" * 300])
def test_ids_are_checked_before_they_become_paths(store: RunStore, bad: str) -> None:
    for arguments in [("fakes", SPEC, bad), (bad, SPEC, "c"), ("fakes", MethodSpec(bad), "c")]:
        with pytest.raises(StoreError, match="cannot become a file name"):
            store.edit_file(*arguments)
    with pytest.raises(StoreError, match="cannot become a file name"):
        store.cases(bad)


def test_cases_are_stored_and_found(store: RunStore) -> None:
    store.write_cases([make_case(0), make_case(1)], INFO)
    configure(store)
    assert store.protocols() == ["fakes"]
    assert store.cases("fakes").ids == ["case-000", "case-001"]
    with pytest.raises(StoreError, match=r"holds no cases of 'other'\. It has: fakes"):
        store.cases("other")


def test_cases_and_edits_are_read_again_where_their_files_changed(store: RunStore) -> None:
    configure(store)
    store.write_cases([make_case(0)], INFO)
    cases = store.cases(INFO["name"])
    assert store.cases(INFO["name"]) is cases
    store.write_cases([make_case(0), make_case(1)], INFO)
    assert [len(cases), len(store.cases(INFO["name"]))] == [1, 2]
    store.append_edits([not_edited("case-000")])
    first = store.edits()
    first.clear()
    store.append_edits([not_edited("case-001")])
    assert [record.key.case for record in store.edits()] == ["case-000", "case-001"]
    # Another process, or a hand, counts too.
    path = store.path / "cases" / INFO["name"] / "cases.jsonl"
    path.write_text(path.read_text().splitlines()[1] + "\n")
    assert [row["id"] for row in store.cases(INFO["name"]).rows] == ["case-001"]

"""Logs with torn and broken lines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bench.store import RunStore, StoreError
from tests.bench.store.records import edited, not_edited


@pytest.mark.parametrize("name", ["run.json", "edits.jsonl", "scores/set.json", "digests.jsonl"])
def test_nesting_without_end_is_one_error(store: RunStore, name: str) -> None:
    path = store.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("[" * 100_000 + "]" * 100_000 + "\n{}\n")
    with pytest.raises(StoreError, match=r"nested too deeply|Extra data"):
        _ = [RunStore.open(store.path).edits(), store.set_scores(), store.digests()]


@pytest.mark.parametrize(
    "tail", [b'{"protocol": "fakes", "protoc', b"\0" * 40, b"\0" * 40 + b"\n", b"{}{}\n", b"["]
)
def test_a_torn_tail_is_passed_over_and_cut_by_the_next_append(store: RunStore, tail: bytes) -> None:
    # A process was killed in the middle of a line.
    records = [edited(store, f"case-{i:03d}") for i in range(3)]
    store.append_edits(records[:2])
    store.close()
    with (store.path / "edits.jsonl").open("ab") as file:
        file.write(tail)
    # Readers pass over the torn line, and the next append cuts it.
    assert store.edits() == records[:2]
    store.append_edits(records[2:])
    assert store.edits() == records
    assert (store.path / "edits.jsonl").read_bytes().count(b"\n") == 3


def test_a_log_that_is_nothing_but_torn_is_empty(store: RunStore) -> None:
    (store.path / "edits.jsonl").write_bytes(b'{"protocol"')
    assert store.edits() == []
    store.append_edits([edited(store)])
    assert len(store.edits()) == 1


def test_a_long_line_before_a_torn_tail_survives(store: RunStore) -> None:
    # Both lines are longer than the pieces of 64 KiB in which the end of the file is read.
    long = replace(not_edited(), error="x" * 200_000)
    store.append_edits([not_edited("case-001"), long])
    store.close()
    with (store.path / "edits.jsonl").open("ab") as file:
        file.write(b"y" * 100_000)
    store.append_edits([not_edited("case-002")])
    assert store.edits() == [not_edited("case-001"), long, not_edited("case-002")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "protocol, protocol_version, method, case, seed, file, sha256, seconds, error: missing"),
        ("[]", "protocol, protocol_version, method, case, seed, file, sha256, seconds, error: missing"),
        ({"seed": "0"}, "seed: missing or of a wrong type"),
        ({"seed": True}, "seed: missing or of a wrong type"),
        ({"case": ["case-000"]}, "case: missing or of a wrong type"),
        ({"file": 5}, "file: missing or of a wrong type"),
        ({"file": "../../x.png"}, "leaves its folder"),
        ({"sha256": 7, "seconds": "1"}, "sha256, seconds: missing or of a wrong type"),
        ({"error": {}}, "error: missing or of a wrong type"),
        ({"peak_memory": "much"}, "peak_memory: of a wrong type"),
        ({"is_refused": 1}, "is_refused: of a wrong type"),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_whole_line_that_is_no_record_is_an_error_wherever_it_stands(
    store: RunStore, line: Any, message: str, last: bool
) -> None:
    store.append_edits([edited(store)])
    store.close()
    path = store.path / "edits.jsonl"
    good = path.read_text()
    # A whole JSON text, or a good line with other values.
    bad = line if isinstance(line, str) else json.dumps({**json.loads(good), **line})
    path.write_text(good + bad + "\n" + ("" if last else good))
    with pytest.raises(StoreError) as caught:
        store.edits()
    assert str(caught.value).startswith(f"{path}:2: not an edit record (")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{}", "[]", '{"file": 1, "sha256": null}', '{"file": "a"}', '{"complete": 1}']
)
def test_a_whole_line_that_is_no_digest_is_an_error(store: RunStore, line: str) -> None:
    store.close()
    with (store.path / "digests.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StoreError, match="not a digest"):
        store.digests()


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(store: RunStore) -> None:
    store.append_edits([edited(store)])
    store.close()
    path = store.path / "edits.jsonl"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(StoreError, match=r"edits\.jsonl:1: not an edit record.*Delete that line"):
        store.edits()

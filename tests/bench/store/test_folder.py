"""The lock of a run folder, its whole files and their digests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.edit import ScoreRecord
from bench.store import RunStore, SetScore, StoreError
from tests.bench.fakes import make_case
from tests.bench.store.records import INFO, SPEC, configure, edited, full_disk, key


def test_every_file_has_the_digest_of_what_it_holds(store: RunStore) -> None:
    # Write one file of every kind, and one twice.
    configure(store)
    store.write_cases([make_case(i) for i in range(3)], INFO)
    store.append_scores([ScoreRecord(key(), "m", "1", 0.5)])
    store.append_set_scores([SetScore("fakes", "1", SPEC.digest, "all", "fid", "1", 2.0, 3)])
    store.write_file("report/x.csv", b"1")
    store.write_file("report/x.csv", b"2")
    edited(store)  # an edit has its digest in its record
    # Every file but edits, the lock and the log itself has the digest of its content.
    digests, complete = store.digests()
    files = {p.relative_to(store.path).as_posix() for p in store.path.rglob("*") if p.is_file()}
    assert complete
    assert set(digests) == {f for f in files if not f.startswith(("edits/", "lock", "digests"))}
    for name, digest in digests.items():
        assert digest == hashlib.sha256((store.path / name).read_bytes()).hexdigest()


def test_a_folder_from_before_digests_goes_on_and_does_not_claim_to_be_complete(store: RunStore) -> None:
    configure(store)
    store.close()
    (store.path / "digests.jsonl").unlink()
    with RunStore.open(store.path) as again:
        assert again.digests() == ({}, False)
        again.write_file("report/x.csv", b"2")
        digests, complete = again.digests()
    assert (list(digests), complete) == (["report/x.csv"], False)


def test_digests_outlive_a_full_disk_and_a_torn_line(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_file("report/x.csv", b"1")
    # The disk fills up in the middle of a line of the log.
    with monkeypatch.context() as patch:
        full_disk(patch, after=10)
        with pytest.raises(StoreError, match="disk is full"):
            store.write_file("report/y.csv", b"2")
    before = store.digests()
    assert "report/y.csv" not in before[0]
    # The torn line is cut, and the file written again.
    store.write_file("report/y.csv", b"2")
    assert set(store.digests()[0]) == {*before[0], "report/y.csv"}
    # A removed file has no digest.
    store.write_digest("report/y.csv", None)
    assert store.digests() == before


def test_one_process_writes_and_others_read(store: RunStore) -> None:
    configure(store)
    store.append_edits([edited(store)])
    code = (
        "import sys; from bench.store import RunStore, StoreError\n"
        "store = RunStore.open(sys.argv[1])\n"
        "print(len(store.edits()))\n"
        "try: store.lock()\n"
        "except StoreError as error: print(error)\n"
        "else: print('locked')"
    )
    command = [sys.executable, "-c", code, str(store.path)]
    # The lock is held here, so that the other process can only read.
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert first.startswith("1\n")
    assert f"another process is writing this run (process {os.getpid()} on " in first
    # After close it can lock.
    store.close()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\nlocked\n"


def test_the_lock_of_a_killed_process_is_no_obstacle_and_its_leftovers_are_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from bench.store import RunStore\n"
        "store = RunStore.open(sys.argv[1], create=True)\n"
        "(store.temp_dir / '.half.png.tmp').write_bytes(b'x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    # A kill while a file was being written.
    run = tmp_path / "run"
    assert subprocess.run([sys.executable, "-c", code, str(run)], check=False).returncode == -9
    assert (run / "tmp" / ".half.png.tmp").exists()
    with RunStore.open(run) as store:
        store.lock()
        assert list(store.temp_dir.iterdir()) == []

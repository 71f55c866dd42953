"""Full and read-only disks, simulated and real."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.edit import ScoreRecord
from bench.store import RunStore, StoreError
from tests.bench.store.records import SPEC, configure, edited, full_disk, key, not_edited


def test_a_full_disk_keeps_every_record_and_takes_more_once_there_is_space(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [edited(store, f"case-{i:03d}") for i in range(4)]
    store.append_edits(records[:2])
    # 100 bytes are less than one record.
    full_disk(monkeypatch, after=100)
    with pytest.raises(
        StoreError, match=r"cannot record edits: the disk is full.*What is stored is kept.*Free some"
    ):
        store.append_edits(records[2:])
    # Nothing of the failed append is left, and the next one is whole.
    assert store.edits() == records[:2]
    monkeypatch.undo()
    store.append_edits(records[2:])
    assert store.edits() == records


def test_a_full_disk_that_cannot_even_be_cut(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [edited(store, f"case-{i:03d}") for i in range(3)]
    store.append_edits(records[:1])
    line = (store.path / "edits.jsonl").stat().st_size

    def broken(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", broken)
    # The disk takes one and a half records, and the half one cannot be cut off.
    full_disk(monkeypatch, after=line + line // 2)
    with pytest.raises(StoreError, match="disk is full"):
        store.append_edits(records[1:])
    monkeypatch.undo()
    assert (store.path / "edits.jsonl").stat().st_size == 2 * line + line // 2
    assert store.edits() == records[:2], "the half line counts for nothing"
    store.append_edits(records[2:])
    assert store.edits() == records


def test_a_failed_fsync_is_no_success(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append_edits([edited(store)])

    def broken(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    # Each kind of write reports it.
    with pytest.raises(StoreError, match="cannot record edits: the disk is full"):
        store.append_edits([not_edited("case-001")])
    with pytest.raises(StoreError, match="cannot write an edit: the disk is full"):
        edited(store, "case-002")
    with pytest.raises(StoreError, match="cannot write scores: the disk is full"):
        store.append_scores([ScoreRecord(key(), "m", "1", 1.0)])
    monkeypatch.undo()
    # None of them counts.
    assert len(store.edits()) == 1
    assert len(store.scores()) == 0
    assert not (store.path / "edits/fakes" / f"fake-{SPEC.digest}" / "case-002.png").exists()


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # A file system of 256 KiB in memory.
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system can only be mounted by root on Linux; the simulated ones ran")
    try:
        store = RunStore.open(disk / "run", create=True)
        stored = []

        # Edit until the disk is full.
        def fill() -> None:
            for i in range(1000):
                record = edited(store, f"case-{i:03d}")
                store.append_edits([record])
                stored.append(record)

        with pytest.raises(StoreError, match="the disk is full"):
            fill()
        # Every recorded edit is there, with its file.
        assert 5 < len(stored) < 1000
        assert store.edits() == stored
        assert all(store.image(record) is not None for record in stored)
        # With some space again, the same store goes on.
        store.image_path(stored[0]).unlink()
        store.image_path(stored[1]).unlink()
        store.append_edits([not_edited("late")])
        assert store.edits() == [*stored, not_edited("late")]
        store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder(store: RunStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    configure(store)
    store.append_edits([edited(store)])
    store.close()
    real = os.open

    # Whatever opens a file for writing fails.
    def closed(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", closed)
    with pytest.raises(
        StoreError, match=r"cannot lock the run: the run folder is read-only.*Make it writable"
    ):
        store.lock()
    with pytest.raises(StoreError, match="read-only"):
        RunStore.open(store.path.parent / "new", create=True)
    assert len(store.edits()) == 1, "reading needs no lock"


def test_a_really_read_only_folder(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with RunStore.open(disk / "run", create=True) as store:
        store.append_edits([edited(store)])
    # Root may write anywhere, except on a file system that is mounted read-only.
    if os.geteuid() != 0:
        for path in (disk / "run", disk / "run" / "lock"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        undo = [["chmod", "-R", "u+w", str(disk)]]
    else:
        done = subprocess.run(["mount", "--bind", str(disk), str(disk)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("root without the right to mount can write everywhere; the simulated ones ran")
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        undo = [["umount", str(disk)]]
    try:
        store = RunStore.open(disk / "run")
        with pytest.raises(StoreError, match="the run folder is read-only"):
            store.append_edits([not_edited("case-001")])
        assert len(store.edits()) == 1
    finally:
        for command in undo:
            subprocess.run(command, check=True)

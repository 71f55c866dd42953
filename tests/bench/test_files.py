from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.files import (
    UnsafeName,
    atomic_file,
    atomic_folder,
    csv_of,
    parse_json,
    safe_part,
    safe_relative,
    sha256_bytes,
    sha256_file,
    write_atomic,
)


@pytest.mark.parametrize("name", ["0", "case-001", "a.b_c+d=e@f", "x" * 120])
def test_safe_part_passes_plain_names_unchanged(name: str) -> None:
    assert safe_part(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "a..b",
        ".hidden",
        "-rf",
        "a\0b",
        "a\nb",
        "a ",
        "a.",
        "x" * 121,
        "ä",
        "c:x",
        "~root",
        "a%2e",
    ],
)
def test_safe_part_refuses_and_names_what_could_leave_the_folder(name: str) -> None:
    with pytest.raises(UnsafeName, match="case id"):
        safe_part(name, "case id")


@given(st.text(max_size=200))
def test_whatever_safe_part_passes_is_one_part_inside_its_folder(name: str) -> None:
    try:
        safe_part(name)
    except UnsafeName:
        return
    root = Path("/root/folder")
    assert Path(os.path.normpath(root / name)).parent == root


@pytest.mark.parametrize("name", ["../x", "a/../b", "/a", "a//b", "a/", "", "a/./b", "a\\..\\b"])
def test_safe_relative_refuses_what_leaves(name: str) -> None:
    with pytest.raises(UnsafeName):
        safe_relative(name)


def test_safe_relative_splits() -> None:
    assert safe_relative("sources/a~12.png") == ("sources", "a~12.png")


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == expected


def test_write_atomic_makes_folders_replaces_and_honours_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]
    # mkstemp makes files that their owner alone may read.
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.txt"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_a_spreadsheet_would_run_is_text() -> None:
    frame = pd.DataFrame(
        {
            "method": ['=HYPERLINK("http://x")', "+1", "-x", "@SUM(1)", "plain", None],
            "value": [-0.5, 1, 2, 3, 4, None],
            "control": [True] + [False] * 5,
        }
    )
    assert csv_of(frame).splitlines() == [
        "method,value,control",
        '"\'=HYPERLINK(""http://x"")",-0.5,True',
        "'+1,1.0,False",
        "'-x,2.0,False",
        "'@SUM(1),3.0,False",
        "plain,4.0,False",
        ",,False",
    ]
    assert frame.loc[0, "method"] == '=HYPERLINK("http://x")'


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_nesting_without_end_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text)


def test_a_folder_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    # os.replace would put a file in place of the pipe.
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(FileExistsError, match="no regular file"):
            write_atomic(path, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    write_atomic(tmp_path / "x", b"0123456789")
    monkeypatch.undo()
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_library_writes_a_whole_file_or_none(tmp_path: Path) -> None:
    path = tmp_path / "a" / "arrays.npz"
    with atomic_file(path) as temporary:
        np.savez(temporary, one=np.arange(3))
    with np.load(path) as stored:
        assert stored["one"].tolist() == [0, 1, 2]

    def fail() -> None:
        with atomic_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"

    def fail() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(path.parent.iterdir()) == []
    with atomic_folder(path) as temporary:
        assert not path.exists()
        (temporary / "file").touch()
    assert [file.name for file in path.iterdir()] == ["file"]
    with pytest.raises(OSError, match="not empty"), atomic_folder(path):
        pass
    assert [file.name for file in path.parent.iterdir()] == ["folder"]

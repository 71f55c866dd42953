"""Streams of any encoding, and the words for what the system refuses."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.terminal import check_folder, check_target, console, system_error


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "Change its permissions"),
        (errno.EROFS, "Change its permissions"),
        (errno.ENOENT, "Check the path."),
        (errno.ENAMETOOLONG, "Give a shorter name."),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "--debug"),
    ],
)
def test_a_system_error_names_file_cause_and_remedy(number: int, remedy: str) -> None:
    text = system_error(OSError(number, os.strerror(number), "runs/a.json"))
    assert text.startswith(f"runs/a.json: {os.strerror(number)}. ")
    assert remedy in text


def test_a_system_error_without_a_number_keeps_its_words() -> None:
    assert system_error(OSError("no such server.")).startswith("no such server. ")


def test_a_long_path_is_shortened_in_the_middle() -> None:
    text = system_error(OSError(errno.ENAMETOOLONG, "too long", "a" * 150 + "b" * 150))
    assert f"{'a' * 120}...{'b' * 60}: too long." in text


def test_text_that_an_encoding_lacks_is_one_plain_character_each() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="prompteditbench")
    stream.write("↓ 0.1–0.3 ≈ † é \udcff")
    stream.flush()
    assert raw.getvalue() == b"v 0.1-0.3 ~ + ? ?"


def test_a_console_takes_no_text_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("runs/[a][/b] :smile: [red]x")
    assert capsys.readouterr().out == "runs/[a][/b] :smile: [red]x\n"


def test_a_target_is_checked_before_anything_is_computed(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "deep" / "a.json", "--out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    check_target(tmp_path / "file", "--out")
    for path, says in (
        (tmp_path, "is no regular file"),
        (Path("/dev/full"), "is no regular file"),
        (tmp_path / "file" / "a.json", f"--out {tmp_path / 'file'}: Not a directory"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        with pytest.raises(BenchError, match=says):
            check_target(path, "--out")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError) as caught:
        check_folder(tmp_path / "file" / "cache")
    assert caught.value.filename == str(tmp_path / "file")

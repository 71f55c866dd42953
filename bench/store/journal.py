"""Append-only files of JSON lines that survive a kill and a full disk."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.files import parse_json, write_all
from bench.store.errors import StoreError


class Journal:
    """One file of JSON lines. A line counts once its newline is on disk.

    A killed process or a full disk can leave a torn last line. Readers pass over it, and the next append cuts it.
    """

    def __init__(self, path: Path, what: str, remedy: str = "") -> None:
        """``what`` is the name of a line in messages, ``remedy`` what to do about a broken one."""
        self.path = path
        self._what = what
        self._remedy = remedy
        self._descriptor: int | None = None

    def close(self) -> None:
        """Closes the file. The next append opens it again."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def append(self, rows: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
        """Appends one line per row, with ``sync`` on disk when this returns. Raises OSError, and then stores none."""
        # Open, and cut what a killed process left.
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
            _cut_torn_tail(self._descriptor)

        # Write all rows, or none.
        end = os.fstat(self._descriptor).st_size
        try:
            write_all(self._descriptor, "".join(json.dumps(row) + "\n" for row in rows).encode())
            if sync:
                os.fsync(self._descriptor)
        except OSError:
            # Part of a line may be in the file. Cutting it needs no space. Where that fails too, the part is a torn
            # tail to every reader, and the next append starts by cutting it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, end)
            self.close()
            raise

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Line number and JSON value of every line. Empty where the file is missing.

        Raises :class:`StoreError` for a file that cannot be read, or a line other than the last that is no JSON.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read ({error.strerror}).") from error
        lines = data.split(b"\n")[:-1]  # after the last newline comes nothing, or a torn line
        # A line that is no JSON is torn where it is the last, and damage anywhere else.
        for number, line in enumerate(lines, 1):
            try:
                row = parse_json(line)
            except ValueError as error:
                if number == len(lines):
                    # A torn line that got its newline, as after a crash of the system.
                    return
                raise self.broken(number, str(error)) from error
            yield number, row

    def broken(self, number: int, problem: str) -> StoreError:
        """The error of one line."""
        return StoreError(f"{self.path}:{number}: not {self._what} ({problem}). {self._remedy}".rstrip())


def _cut_torn_tail(descriptor: int) -> None:
    """Ends the file after its last newline, or before its last line where that line is no JSON."""
    size = os.fstat(descriptor).st_size
    tail = b""
    start = size
    # Read backwards in pieces of 64 KiB: the log of a long run need not be read whole for its last line.
    while start > 0 and tail.count(b"\n") < 2:
        step = min(1 << 16, start)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    # Positions in ``tail``: after its last newline, and where the line before that begins.
    end = tail.rfind(b"\n") + 1
    line_start = tail.rfind(b"\n", 0, max(end - 1, 0)) + 1
    try:
        parse_json(tail[line_start:end])
    except ValueError:
        end = line_start
    if start + end < size:
        os.ftruncate(descriptor, start + end)

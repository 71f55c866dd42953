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

    A killed process or a full disk can leave an incomplete last line. Readers ignore it, and the next append removes
    it.
    """

    def __init__(self, path: Path, what: str, remedy: str = "") -> None:
        """``what`` says in messages what a line is, and ``remedy`` what to do about a broken line."""
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
        """Appends one line per row. After an OSError none is stored. ``sync`` waits until the lines are on disk."""
        # Open the file, and remove an incomplete line that a killed process left.
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
            # Part of a line may be in the file. Truncating needs no space. If that fails too, readers ignore the
            # incomplete line, and the next append removes it.
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
            raise StoreError(
                f"{self.path}: cannot be read ({error.strerror}). Check its permissions."
            ) from error
        lines = data.split(b"\n")[:-1]  # after the last newline comes nothing, or an incomplete line
        # The last line may be incomplete. Any other line that is no JSON is damaged.
        for number, line in enumerate(lines, 1):
            try:
                row = parse_json(line)
            except ValueError as error:
                if number == len(lines):
                    # After a crash of the system, an incomplete line may end with a newline.
                    return
                raise self.broken(number, str(error)) from error
            yield number, row

    def broken(self, number: int, problem: str) -> StoreError:
        """The error of one line."""
        return StoreError(f"{self.path}:{number}: not {self._what} ({problem}). {self._remedy}".rstrip())


def _cut_torn_tail(descriptor: int) -> None:
    """Truncates the file after its last newline, or before its last line where that line is no JSON."""
    size = os.fstat(descriptor).st_size
    tail = b""
    start = size
    # Read backwards in pieces of 64 KiB, because the log of a long run is large and only its end is needed.
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

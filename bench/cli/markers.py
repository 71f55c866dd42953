"""Writes generated text into Markdown files, between ``<!-- NAME:start -->`` and ``<!-- NAME:end -->``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.terminal import check_target


def check_markers(readme: Path | None, *names: str) -> None:
    """Raises BenchError for a file that has none of the pairs of markers ``names``, before anything is computed."""
    if readme is not None:
        check_target(readme, "--readme")
        if not readme.exists():
            raise BenchError(f"--readme {readme}: no such file. Give one that has the markers of the tables.")
        if not any(has_markers(readme, name) for name in names):
            _split(readme, names[0])


def has_markers(file: Path, name: str) -> bool:
    """True where the file has both markers ``name``."""
    text = file.read_text(encoding="utf-8")
    return f"<!-- {name}:start -->" in text and f"<!-- {name}:end -->" in text


def fill_between(file: Path, name: str, lines: Sequence[str]) -> None:
    """Replaces the text between the markers ``name`` by ``lines``."""
    from bench.files import write_atomic

    # Whole or not at all: a README is never left half written.
    before, after = _split(file, name)
    write_atomic(file, "\n".join([before, "", *lines, "", after]).encode())


def _split(file: Path, name: str) -> tuple[str, str]:
    """The text up to the first marker and from the second one on, both markers included."""
    first, last = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, start, rest = file.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    # The second marker counts only behind the first one.
    if not start or not end:
        raise BenchError(f"{file}: has no {first} followed by {last}. Put both where the tables belong.")
    return before + start, end + after

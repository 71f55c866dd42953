"""Two builds of one report, file by file: what is not the same.

A build on another processor may differ in a number's last digits, and another version of a library may compress a
picture otherwise. So numbers in texts are compared to nine digits, and PNGs by their pixels; PDFs byte by byte.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

TEXTS = (".csv", ".tex", ".md", ".html", ".js", ".css", ".json")
DIGITS = 1e-9
"""By how much two numbers may differ, relative to the larger one."""

_NUMBER = re.compile(r"(?<![0-9A-Za-z])-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![0-9A-Za-z])")


def files(folder: Path) -> set[str]:
    """The files of a folder and its subfolders, by name relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def differences(stored: Path, fresh: Path) -> dict[str, str]:
    """Name of each file of ``fresh`` that ``stored`` lacks or holds otherwise -> what is wrong, in a few words."""
    wrong = {}
    for name in sorted(files(fresh)):
        if not (stored / name).is_file():
            wrong[name] = "missing; the run's report has it"
        elif not _same(stored / name, fresh / name):
            wrong[name] = "differs from what the run's scores give"
    return wrong


def _same(stored: Path, fresh: Path) -> bool:
    one, two = stored.read_bytes(), fresh.read_bytes()
    if one == two:
        return True
    if fresh.suffix in TEXTS:
        return _same_text(one.decode("utf-8", "replace"), two.decode("utf-8", "replace"))
    return fresh.suffix == ".png" and _same_pixels(stored, fresh)


def _same_text(one: str, two: str) -> bool:
    if _NUMBER.split(one) != _NUMBER.split(two):
        return False
    numbers = zip(_NUMBER.findall(one), _NUMBER.findall(two), strict=True)
    return all(a == b or math.isclose(float(a), float(b), rel_tol=DIGITS) for a, b in numbers)


def _same_pixels(one: Path, two: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(one) as a, Image.open(two) as b:
            return a.size == b.size and a.mode == b.mode and a.tobytes() == b.tobytes()
    except (OSError, ValueError, Image.DecompressionBombError):
        return False

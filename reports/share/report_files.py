"""Compares two builds of one report, file by file.

A build on another processor may differ in a number's last digits, and another version of a library may compress an
image differently. So numbers in texts are compared to nine digits and PNGs by their pixels, PDFs byte by byte.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

TEXT_SUFFIXES = (".csv", ".tex", ".md", ".html", ".js", ".css", ".json")
# Largest difference of two equal numbers, relative to the larger one.
RELATIVE_TOLERANCE = 1e-9

# A number that touches a letter is part of a name or a hash, such as `vgg16` or `0e12ab`: compared as text.
_NUMBER = re.compile(r"(?<![0-9A-Za-z])-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![0-9A-Za-z])")


def file_names(folder: Path) -> set[str]:
    """Names of all files in a folder and its subfolders, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def different_files(stored: Path, rebuilt: Path) -> dict[str, str]:
    """Name of each file of ``rebuilt`` that is missing or different in ``stored`` -> a few words that say which."""
    different = {}
    for name in sorted(file_names(rebuilt)):
        if not (stored / name).is_file():
            different[name] = "missing; the run's report has it"
        elif not _same_file(stored / name, rebuilt / name):
            different[name] = "differs from what the run's scores give"
    return different


def _same_file(stored: Path, rebuilt: Path) -> bool:
    one, other = stored.read_bytes(), rebuilt.read_bytes()
    if one == other:
        return True
    # Different bytes may still mean the same.
    if rebuilt.suffix in TEXT_SUFFIXES:
        return _same_text(one.decode("utf-8", "replace"), other.decode("utf-8", "replace"))
    return rebuilt.suffix == ".png" and _same_pixels(stored, rebuilt)


def _same_text(one: str, other: str) -> bool:
    # Everything between the numbers must be equal, and then each number to nine digits.
    if _NUMBER.split(one) != _NUMBER.split(other):
        return False
    numbers = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(a == b or math.isclose(float(a), float(b), rel_tol=RELATIVE_TOLERANCE) for a, b in numbers)


def _same_pixels(one: Path, other: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(one) as a, Image.open(other) as b:
            return a.size == b.size and a.mode == b.mode and a.tobytes() == b.tobytes()
    # The stored file may be damaged. That is a difference and no error.
    except (OSError, ValueError, Image.DecompressionBombError):
        return False

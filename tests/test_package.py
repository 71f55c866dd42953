"""An installed package has the same data files as a clone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATTERNS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]["package-data"]
# Files for readers and trainers of a clone, which no program opens.
CLONE_ONLY = ("methods/zoo/TRAINING.md",)


@pytest.mark.parametrize("package", sorted(PATTERNS))
def test_every_data_file_is_installed(package: str) -> None:
    folder = ROOT / package
    installed = {path for pattern in PATTERNS[package] for path in folder.glob(pattern)}
    present = {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    missing = {path.relative_to(ROOT).as_posix() for path in present - installed}
    assert {name for name in missing if not name.startswith(CLONE_ONLY)} == set()

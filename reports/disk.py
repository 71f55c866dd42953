"""Files outside the run folder, only where their names may lead."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@~-]*")


def is_relative(name: object) -> bool:
    """Whether ``name`` is a path with forward slashes that cannot leave its root on any system."""
    if not isinstance(name, str):
        return False
    return all(_PART.fullmatch(part) and ".." not in part for part in name.split("/"))


def sha256_bytes(data: bytes) -> str:
    """64 hex digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """64 hex digits of SHA-256 of a file's bytes, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Files outside the run folder: whole or not at all, and only where their names may lead."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from contextlib import suppress
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


def write_whole(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path``, whole or not at all; the parent folder is made.

    Raises OSError that names ``path``; also for a folder or a device, which a file must not replace.
    """
    try:
        _write_whole(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_whole(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # mkstemp makes private files; a report is for whoever may read its folder.
            os.fchmod(descriptor, 0o644)
            file.write(data)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise

"""The error class of run folders, and messages for failed writes."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError

# EDQUOT: a quota is used up. EFBIG: the file system allows no larger file.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class StoreError(BenchError):
    """A run folder that cannot be used or written. The message names it and the remedy."""


@contextlib.contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Turns an OSError into a :class:`StoreError`. ``what`` is the failed action, such as ``record edits``."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            problem = f"the disk is full ({error.strerror})"
            remedy = "Free some space and repeat the command."
        elif error.errno in _READ_ONLY:
            problem = f"the run folder is read-only ({error.strerror})"
            remedy = "Make it writable, or give another folder."
        else:
            problem, remedy = str(error.strerror or error), "Fix that and repeat the command."
        raise StoreError(f"{folder}: cannot {what}: {problem}. What is stored is kept. {remedy}") from error


def wrong_types(row: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> list[str]:
    """The keys of ``types`` that ``row`` lacks or has with another type. A bool passes only as bool, never as int."""
    # Python counts True as an int, so bool needs a check of its own.
    return [
        name
        for name, allowed in types.items()
        if name not in row
        or not isinstance(row[name], allowed)
        or (isinstance(row[name], bool) and bool not in allowed)
    ]


# Types of JSON values, for wrong_types.
TEXT, TEXT_OR_NONE = (str,), (str, type(None))
NUMBER_OR_NONE = (int, float, type(None))

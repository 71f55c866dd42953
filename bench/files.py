"""Atomic writing of files, checks of names that become paths, digests, and safe parsing of JSON and CSV."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd

PathLike = str | os.PathLike[str]

MAX_PART = 120
"""Characters in a name that becomes a file name. It leaves room for affixes under the usual 255 bytes."""

# A name from data. It has no ~, which is reserved for suffixes that this project adds to file names.
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*")

# A part of a file name that this project wrote.
_FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@~-]*")


def cache_folder() -> Path:
    """``$PROMPTEDITBENCH_CACHE``, else ``prompteditbench`` in the user's cache folder."""
    folder = os.environ.get("PROMPTEDITBENCH_CACHE")
    return Path(folder).expanduser() if folder else user_cache() / "prompteditbench"


def user_cache() -> Path:
    """``$XDG_CACHE_HOME``, else ``~/.cache``, as the freedesktop convention has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


class UnsafeName(BenchError):
    """A name from data that must not become part of a path."""


def safe_part(name: str, what: str = "id") -> str:
    """``name`` itself. Raises :class:`UnsafeName` where it cannot be one part of a path on every system.

    Allowed are 1 to 120 of ``A-Z a-z 0-9 _ . + = @ -``, with a letter, digit or ``_`` first, without ``..`` and without
    a dot at the end. ``what`` says in the message what the name belongs to, such as ``case id``.
    """
    # Only the first problem is reported, in the order in which a user would fix them.
    problem = ""
    if not isinstance(name, str):
        problem = f"it is {type(name).__name__}, not text"
    elif not name:
        problem = "it is empty"
    elif len(name) > MAX_PART:
        problem = f"it has {len(name)} characters, at most {MAX_PART} are allowed"
    elif not _SAFE_PART.fullmatch(name) or ".." in name or name.endswith("."):
        problem = (
            "only letters, digits and _ . + = @ - are allowed, starting with a letter, digit or _, "
            "without '..' and without a dot at the end"
        )
    if problem:
        quoted = repr(name) if len(repr(name)) <= 200 else repr(name)[:200] + "…"
        raise UnsafeName(f"{what} {quoted} cannot become a file name: {problem}. Rename it in its source.")
    return name


def safe_relative(name: str, what: str = "file name") -> tuple[str, ...]:
    """The parts of a relative path with forward slashes. Raises :class:`UnsafeName` where it could leave its root."""
    if not is_relative(name):
        raise UnsafeName(
            f"{what} {name!r} leaves its folder or is not portable. Correct it in the file that contains it."
        )
    return tuple(name.split("/"))


def is_relative(name: object) -> bool:
    """True where ``name`` is a path with forward slashes that cannot leave its root on any system."""
    return isinstance(name, str) and all(
        _FILE_PART.fullmatch(part) and ".." not in part for part in name.split("/")
    )


class BrokenText(BenchError):
    """Text that cannot be written as UTF-8."""


def whole_text(text: str, what: str) -> str:
    """``text`` itself. Raises :class:`BrokenText`, naming ``what``, where it has half a character.

    JSON can escape half of an emoji, a lone surrogate, which UTF-8 cannot encode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BrokenText(
            f"{what} holds half a character ({text[error.start]!a} at character {error.start + 1}), such as one half "
            "of a split emoji. Remove it."
        ) from None
    return text


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """64 hex digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: PathLike) -> str:
    """64 hex digits of SHA-256 of a file, read in pieces. Raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for a text that is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file. Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def csv_of(frame: pd.DataFrame) -> str:
    """A data frame as CSV. Texts go through :func:`csv_cell`."""
    # Numbers stay as they are: a negative one begins with a sign and is no formula.
    texts = frame.select_dtypes(exclude=["number", "bool"])
    safe = frame.assign(**{str(name): texts[name].map(csv_cell) for name in texts.columns})
    text: str = safe.to_csv(index=False, lineterminator="\n")
    return text


def write_all(descriptor: int, data: bytes) -> None:
    """Calls ``os.write`` until everything is written. After an OSError, the file may have a part of the data."""
    # One call may write only a part, for example on a disk that is nearly full.
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_atomic(path: PathLike, data: bytes, *, temp_dir: PathLike | None = None) -> None:
    """Writes ``data`` to ``path``, whole or not at all: temporary file, fsync, rename.

    Missing parent folders are created. ``temp_dir`` (default: the parent) must be on the same file system. A process
    that is killed meanwhile leaves its temporary file there. Raises OSError that names ``path``, which then stays as
    it was. A folder or a device is not replaced.
    """
    path = Path(path)
    with _replacing(path, Path(temp_dir or path.parent), ".tmp") as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_file(path: PathLike) -> Iterator[Path]:
    """Does the same as :func:`write_atomic` for a library that writes to a path itself.

    Yields the path of an empty temporary file beside ``path``, with the same suffix. After the block, the temporary
    file replaces ``path``. After an exception it is removed, and ``path`` stays as it was.
    """
    path = Path(path)
    with _replacing(path, path.parent, path.suffix) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path, temp_dir: Path, suffix: str) -> Iterator[Path]:
    temporary: Path | None = None
    try:
        # Create the temporary file, on the file system of ``path``: a rename is atomic only there.
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "it is no regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:MAX_PART]}.", suffix=suffix, dir=temp_dir)
        os.close(descriptor)
        temporary = Path(name)

        # The caller writes.
        yield temporary

        # Put it in place. Opened again, since a library may have put another file in place of the empty one.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # mkstemp makes files that only their owner can read. Results get the usual permissions of the umask.
            os.fchmod(descriptor, 0o666 & ~_UMASK)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        # Errors of writing and syncing name no file, and the user does not know the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        # After the rename there is nothing left to remove.
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path`` to fill, and then renames it to ``path``.

    After an exception it is removed. Missing parent folders are created. Raises OSError where ``path`` exists already
    and is not an empty folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:MAX_PART]}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_UMASK)
        temporary.replace(path)
    finally:
        # After the rename there is nothing left to remove.
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    # The umask can be read only by setting it. That is safe before any thread runs, so it is done at import.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


_UMASK = _umask()

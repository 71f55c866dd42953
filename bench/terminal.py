"""The command line's terminal: output streams that never raise, and readable messages for system errors."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bench.errors import BenchError, BenchWarning

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120
"""Characters in a line where the output is a file or a pipe, which has no width of its own."""

# --- streams -------------------------------------------------------------------------------------------

_PLAIN = {"–": "-", "—": "-", "≈": "~", "†": "+", "↑": "^", "↓": "v", "±": "+", "×": "x", "…": "~", "•": "*"}
"""One ASCII character for each symbol of the tables, so that columns stay aligned."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The error handler of the streams: it replaces characters that the terminal's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(char, "?") for char in text), error.end


codecs.register_error("prompteditbench", _plain)


class _Patient(io.FileIO):
    """A file descriptor whose ``write`` never raises. After the first error it drops everything."""

    lost: OSError | None = None
    """The error after which everything is dropped."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return len(data)


@contextmanager
def patient_streams() -> Iterator[_Patient | None]:
    """Makes standard output and standard error never raise during one command. Yields the file of the output.

    A run goes on when its output is piped into ``head``, is closed, or goes to a full disk. Characters that the
    terminal's encoding lacks are replaced by ASCII ones. Streams that a notebook or a test has replaced stay as they
    are, and None is yielded.
    """
    # Python would reuse a closed descriptor for the next file that it opens, and print into that file.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Streams that a notebook or a test has replaced stay.
    before = sys.stdout, sys.stderr
    output = None
    if sys.stdout is sys.__stdout__:
        output = _Patient(1, "w", closefd=False)
        sys.stdout = _text(output, before[0])
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Patient(2, "w", closefd=False), before[1])
    try:
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _text(raw: io.FileIO, like: TextIO | None) -> TextIO:
    encoding = getattr(like, "encoding", None) or "utf-8"
    by_line = bool(getattr(like, "line_buffering", False))
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="prompteditbench", line_buffering=by_line
    )


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that does not interpret markup: brackets in labels and paths are shown as they are."""
    from rich.console import Console

    # A file or a pipe has no width. rich would assume 80.
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, quiet=quiet, markup=False, emoji=False, highlight=False)


def encodable(text: str) -> bool:
    """True where standard output can show ``text`` as it is."""
    # A pipe may have no encoding; Python then writes UTF-8.
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- errors and warnings -------------------------------------------------------------------------------

_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "Free some space and repeat the command. What is stored is kept.",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "Change its permissions, or give another place."
    ),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ELOOP), "Check the path."),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), "Give another name."),
    errno.ENAMETOOLONG: "Give a shorter name.",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files (ulimit -n 4096)."),
    errno.EADDRINUSE: "Give another port.",
}


def system_error(error: OSError) -> str:
    """One sentence for an error of the operating system, with the file where it is known, and a remedy."""
    # A move has two files. The first is the one that the user named.
    place = error.filename if error.filename is not None else error.filename2
    cause = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "See where it happened with --debug.")
    where = f"{_short(os.fsdecode(place))}: " if isinstance(place, str | bytes) else ""
    return f"{where}{cause.rstrip('.')}. {remedy}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def check_target(path: Path, option: str) -> None:
    """Raises :class:`BenchError` for a file that cannot be written, before anything is computed for it."""
    try:
        if path.exists() and not path.is_file():
            raise BenchError(f"{option} {path}: is no regular file. Give the name of a file.")
        check_folder(path.parent)
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise BenchError(f"{option} {system_error(error)}") from error


def check_folder(folder: Path) -> None:
    """Raises OSError where ``folder``, or its nearest parent that exists, cannot be written into."""
    # The nearest folder that exists.
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # Permissions alone do not tell: the file system may be read-only or full.
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def worded_warnings(*, debug: bool) -> Iterator[None]:
    """Prints warnings of this project as one line. Warnings of libraries appear only where ``debug`` is set."""
    # For developers: all warnings, as Python prints them.
    if debug:
        yield
        return

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        # A user cannot act on the warnings of a library.
        if issubclass(category, BenchWarning):
            from rich.text import Text

            console(stderr=True).print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield

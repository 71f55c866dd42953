"""The command line's terminal: streams that never stop the work, and sentences for system errors."""

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
    """The error handler of the streams: no text is refused by a terminal that cannot show it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(char, "?") for char in text), error.end


codecs.register_error("prompteditbench", _plain)


class _Patient(io.FileIO):
    """A file descriptor that takes everything, also when nothing can be written any more."""

    lost: OSError | None = None
    """Why nothing is written any more."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return len(data)


@contextmanager
def patient_streams() -> Iterator[_Patient | None]:
    """Standard output and error that never raise, for the time of one command. Yields that of the output.

    A run goes on when its output is piped into ``head``, goes to a full disk, or is closed, and text that the
    terminal's encoding lacks is shown in plain letters. Streams that somebody has replaced (a notebook, a test)
    stay as they are, and None is yielded.
    """
    # A closed descriptor would be given to the next file that is opened, which then gets what we print.
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
    """A console that takes no text for markup: brackets of labels and paths are shown as they are."""
    from rich.console import Console

    # A file or a pipe has no width; rich would take 80.
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
        "Free some space and give the same command again; what is stored is kept.",
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
    """One sentence for what the system refused, with the file where it is known, and a remedy."""
    # A move has two files; the first is the one that the user named.
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
    """Raises OSError where nothing can be written into ``folder``, or into the one that it would be made in."""
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
    """Warnings of this project as a line of text. Those of libraries appear only where ``debug`` is set."""
    # For developers: all warnings, as Python prints them.
    if debug:
        yield
        return

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        # Warnings of libraries concern their authors.
        if issubclass(category, BenchWarning):
            from rich.text import Text

            console(stderr=True).print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield

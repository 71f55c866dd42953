"""Downloads one file over HTTP so that nothing is lost: what has arrived stays on disk, and the next call continues.

The bytes go into ``NAME.incomplete`` beside their place. The file gets its name only when its size and its digest are
the published ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bench.errors import BenchError

if TYPE_CHECKING:
    import httpx2

# Attempts in a row that bring no byte, before the download gives up.
ATTEMPTS = 6
# Seconds before the second attempt. They double with each further one.
_FIRST_WAIT = 1.0
# Seconds without a byte after which a connection counts as broken.
_TIMEOUT = 30.0


class DownloadError(BenchError):
    """A file could not be downloaded. The message names it, and says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file to download."""

    url: str
    path: Path
    """Its place on this machine."""
    name: str
    """Its name in messages."""
    size: int | None = None
    """Bytes, exactly. None where the server alone knows."""
    sha256: str = ""
    """Leading hex digits of its SHA-256, as many as are published."""
    git_sha1: str = ""
    """40 hex digits of the SHA-1 that git names the file by, for files that have no published SHA-256."""
    token: str | None = None
    """Sent to the host of ``url`` alone."""

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.incomplete")

    @property
    def arrived(self) -> int:
        """Bytes that an earlier call has left on disk."""
        return self.partial.stat().st_size if self.partial.is_file() else 0


def download(
    file: RemoteFile,
    advance: Callable[[int], object] = lambda count: None,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Downloads ``file`` to its place. Does nothing where it lies there already.

    ``advance`` gets the number of bytes that came, also those of an earlier call, and a negative number where they are
    dropped. A broken connection, a time-out and the status 408, 429 and 5xx are tried again as long as bytes come.
    Raises :class:`DownloadError` for any other status, for a file that is not the published one, and where another
    process downloads it. Raises OSError where the disk is full.
    """
    if file.path.exists():
        return
    file.path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file) as partial:
        if file.path.exists():
            # Another process was faster.
            return
        advance(file.arrived)
        _receive(file, partial, advance, sleep)
        wrong = _difference(file)
        if wrong:
            # What is wrong would be continued for ever.
            partial.truncate(0)
            raise DownloadError(
                f"{file.name} from {file.url} is not the published file: {wrong}. Nothing of it was kept. Try again, "
                "and if it stays so, do not use the file."
            )
        os.fsync(partial.fileno())
        file.partial.replace(file.path)
    _validator(file).unlink(missing_ok=True)


def content_length(file: RemoteFile) -> int | None:
    """Size in bytes as the server states it, or None. Raises :class:`DownloadError` where it does not answer."""
    import httpx2

    try:
        with _client(file) as client:
            response = client.head(file.url)
    except httpx2.HTTPError as error:
        raise DownloadError(
            f"{file.name}: {file.url} does not answer ({type(error).__name__}: {error}). Try again later."
        ) from error
    # Some servers answer to GET alone.
    length = response.headers.get("Content-Length", "")
    return int(length) if response.is_success and length.isdigit() else None


@contextlib.contextmanager
def _locked(file: RemoteFile) -> Iterator[BinaryIO]:
    """Opens the partial file for appending, for this process alone. The lock ends with the process."""
    # Without a buffer: what came is on disk, whatever happens to the process.
    with file.partial.open("ab", buffering=0) as partial:
        # Windows has no such module. Two downloads at once then cost time, and the digest tells.
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(partial, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(
                    f"{file.path}: another process downloads it. Wait until it ends."
                ) from None
        try:
            yield partial
        finally:
            # A refused request leaves nothing behind.
            if not file.arrived:
                file.partial.unlink(missing_ok=True)


# --- receiving -------------------------------------------------------------------------------------------


def _receive(
    file: RemoteFile,
    partial: BinaryIO,
    advance: Callable[[int], object],
    sleep: Callable[[float], object],
) -> None:
    """Appends what is missing, over as many connections as it takes."""
    import httpx2

    failures, most = 0, file.arrived
    with _client(file) as client:
        while True:
            try:
                _one_connection(client, file, partial, advance)
                return
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}".strip(": ")
            except httpx2.HTTPError as error:
                # Such as a circle of redirects, which no repetition changes.
                raise DownloadError(
                    f"{file.name}: {file.url}: {type(error).__name__}: {error}. Get the file from its publisher's page."
                ) from error
            except _Busy as error:
                reason = str(error)
            # More is here than ever before: the line works, and the count begins anew.
            failures = 0 if file.arrived > most else failures + 1
            most = max(most, file.arrived)
            if failures == ATTEMPTS:
                raise DownloadError(
                    f"{file.name}: {file.url} does not answer ({reason}). The {file.arrived:,} bytes that came are "
                    "kept. The same command continues."
                )
            sleep(_FIRST_WAIT * 2 ** max(failures - 1, 0))


class _Busy(DownloadError):
    """The server cannot answer now."""


def _one_connection(
    client: httpx2.Client, file: RemoteFile, partial: BinaryIO, advance: Callable[[int], object]
) -> None:
    """Appends what one answer of the server has. Raises what httpx2 raises for a broken connection."""
    # What is on disk counts only where it is certain to be of the same file.
    start = file.arrived
    validator = _read_validator(file)
    identified = len(file.sha256) == 64 or bool(file.git_sha1)
    if start and not identified and not validator:
        _drop(partial, start, advance)
        start = 0
    if file.size is not None and start >= file.size:
        return

    # Ask for the rest.
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and not identified:
        # The server then sends the whole file where it is another one by now.
        headers["If-Range"] = validator
    with client.stream("GET", file.url, headers=headers) as response:
        _check_redirects(file, response)
        if start and response.status_code == 416:
            # Nothing follows: either all is here, or what is here is wrong. The digest tells.
            return
        _check_status(file, response)
        if start and response.status_code != 206:
            # The server sends it from its beginning.
            _drop(partial, start, advance)
        elif start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DownloadError(
                f"{file.name}: {file.url} sends another part than was asked for. Try again later."
            )
        if response.status_code != 206 and not identified:
            _validator(file).write_text(response.headers.get("ETag", ""), encoding="utf-8")

        # Receive.
        for chunk in response.iter_bytes():
            partial.write(chunk)
            advance(len(chunk))
            if file.size is not None and file.arrived > file.size:
                # A server that never stops must not fill the disk.
                return


def _drop(partial: BinaryIO, count: int, advance: Callable[[int], object]) -> None:
    partial.truncate(0)
    advance(-count)


def _client(file: RemoteFile) -> httpx2.Client:
    import httpx2

    # Uncompressed, so that positions count the file's own bytes. httpx2 sends a token on to no other host.
    headers = {"Accept-Encoding": "identity", "User-Agent": "prompteditbench"}
    if file.token:
        headers["Authorization"] = f"Bearer {file.token}"
    return httpx2.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True)


def _check_redirects(file: RemoteFile, response: httpx2.Response) -> None:
    # A file without a published digest is protected by the connection alone.
    schemes = {answer.url.scheme for answer in (*response.history, response)}
    if file.url.startswith("https:") and schemes != {"https"}:
        raise DownloadError(
            f"{file.name}: {file.url} leads to an address without encryption. Nothing was read."
        )


def _check_status(file: RemoteFile, response: httpx2.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    if status in (408, 429) or status >= 500:
        raise _Busy(f"status {status}")
    if status in (401, 403):
        remedy = (
            "A gated file wants an account that has accepted its licence, and a token of that account in the "
            "environment variable HF_TOKEN."
        )
    else:
        remedy = "The file is not there any more: get it from its publisher's page."
    raise DownloadError(f"{file.name}: {file.url} answers with status {status}. {remedy}")


# --- checking --------------------------------------------------------------------------------------------


def _validator(file: RemoteFile) -> Path:
    """Where the server's mark of the partial file's version is kept."""
    return file.path.with_name(f"{file.path.name}.incomplete.etag")


def _read_validator(file: RemoteFile) -> str:
    """The mark of the version, empty for none. A weak mark (W/...) does not say that the bytes are the same."""
    try:
        mark = _validator(file).read_text(encoding="utf-8")
    except OSError:
        return ""
    return mark if re.fullmatch(r'"[^"\r\n]+"', mark) else ""


def _difference(file: RemoteFile) -> str:
    """The difference between the partial file and the published one, in words. Empty where there is none."""
    size = file.arrived
    if file.size is not None and size != file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    if file.sha256:
        actual = _digest(file.partial, hashlib.sha256())
        if not actual.startswith(file.sha256):
            return f"SHA-256 {actual[:12]}… instead of {file.sha256[:12]}…"
    elif file.git_sha1:
        # A blob's name in git is the SHA-1 over this header and the content.
        actual = _digest(file.partial, hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False))
        if actual != file.git_sha1:
            return f"git's SHA-1 {actual[:12]}… instead of {file.git_sha1[:12]}…"
    return ""


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

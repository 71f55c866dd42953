"""Published weight files: where each may lie on this machine, its SHA-256, and how to get it.

Nothing is fetched unless :func:`fetch` is called. A file counts only when its SHA-256 is the published one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bench.files import sha256_file, write_atomic
from bench.metrics.types import MetricError


@dataclass(frozen=True)
class WeightFile:
    """One published file."""

    name: str
    sha256: str
    url: str
    folders: tuple[str, ...]
    """Where its own package keeps it, looked into after :func:`weights_folder`."""

    def candidates(self) -> list[Path]:
        return [
            weights_folder() / self.name,
            *(Path(place).expanduser() / self.name for place in self.folders),
        ]

    def find(self) -> Path | None:
        """The first copy with the right SHA-256."""
        for path in self.candidates():
            if path.is_file() and cached_sha256(path) == self.sha256:
                return path
        return None

    def problem(self) -> str | None:
        """None where the file is at hand, else what is missing and the remedy in one line."""
        if self.find() is not None:
            return None
        for path in self.candidates():
            if path.is_file():
                return (
                    f"{path} is not the published file (SHA-256 {cached_sha256(path)[:12]}…, expected "
                    f"{self.sha256}). Delete it and fetch {self.url}."
                )
        return (
            f"{self.name} is not on this machine. Fetch {self.url} (SHA-256 {self.sha256}) and put it into "
            f"{weights_folder()}."
        )

    def own(self) -> Path:
        """The file in :func:`weights_folder`, brought there from another place where it is not yet.

        For files that run code when they are loaded: what is checked there cannot be exchanged by other users before
        it is loaded, as it can in a shared folder. Raises :class:`MetricError` where it is missing or cannot be kept.
        """
        found = self.find()
        if found is None:
            raise MetricError(str(self.problem()))
        target = weights_folder() / self.name
        if found != target:
            try:
                write_atomic(target, found.read_bytes())
            except OSError as error:
                raise MetricError(
                    f"{found} cannot be copied to {target} ({error.strerror}). Make that folder writable, or name "
                    "another one with the environment variable PROMPTEDITBENCH_WEIGHTS."
                ) from error
            if cached_sha256(target) != self.sha256:
                target.unlink()
                raise MetricError(f"{found} changed while it was copied. Fetch {self.url} again.")
        return target


INCEPTION = WeightFile(
    name="inception-2015-12-05.pt",
    # FID's Inception as StyleGAN's authors traced it; the file that clean-fid uses.
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    folders=("." if os.name == "nt" else "/tmp",),
)


def weights_folder() -> Path:
    """``$PROMPTEDITBENCH_WEIGHTS``, else ``prompteditbench/weights`` in the user's cache folder."""
    named = os.environ.get("PROMPTEDITBENCH_WEIGHTS")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "prompteditbench" / "weights"


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once per process while its size and times stay the same. Raises OSError."""
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, _size: int, _modified: int, _changed: int) -> str:
    return sha256_file(path)


def fetch(file: WeightFile, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """The file's path, after fetching it where it is missing. ``progress(bytes so far, total)``.

    Raises :class:`MetricError` where the host cannot be reached or sends another file; a partial or wrong
    file is never left behind.
    """
    import urllib.request

    found = file.find()
    if found is not None:
        return found
    folder = weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(file.url, timeout=60) as response:
            length = response.headers.get("Content-Length")
            done = 0
            while block := response.read(1 << 20):
                out.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, int(length) if length else None)
            out.flush()
            os.fsync(out.fileno())
        digest = sha256_file(temporary)
        if digest != file.sha256:
            raise MetricError(
                f"{file.url} sent a file with SHA-256 {digest}, not {file.sha256}. Fetch {file.name} by hand."
            )
        Path(temporary).replace(target)
    except OSError as error:
        raise MetricError(
            f"{file.url} cannot be fetched ({error}). Put {file.name} into {folder}."
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target

"""A run folder as files: one writer at a time, whole files, and a digest of each."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import Any, Self

from bench.files import sha256_bytes, write_atomic
from bench.store.errors import TEXT, TEXT_OR_NONE, StoreError, writing, wrong_types
from bench.store.journal import Journal

DIGESTS = "digests.jsonl"
"""Name of the log of digests."""

_DIGEST_LINE = {"file": TEXT, "sha256": TEXT_OR_NONE}


class RunFolder:
    """Locks a folder, writes whole files into it, and records their SHA-256.

    Reading takes no lock. The first write does, and holds it until :meth:`close`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Descriptor of the locked file, while this process is the writer.
        self._lock: int | None = None
        self._digest_journal = Journal(path / DIGESTS, "a digest")
        # Edits are written by several threads at once.
        self._digest_mutex = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock. The folder can still be read, and is locked again by the next write."""
        # The lock is released last: until then no other process may append.
        self._digest_journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def temp_dir(self) -> Path:
        """Folder of files that are being written, before they are moved. It is emptied when the lock is taken."""
        return self.path / "tmp"

    @property
    def report_dir(self) -> Path:
        """Folder of the reports. It may not exist yet."""
        return self.path / "report"

    def lock(self) -> bool:
        """Makes this process the writer. Returns False where it is the writer already.

        Raises :class:`StoreError` where another process is the writer. The operating system releases a lock when its
        process ends, even after a kill, so no lock is ever stale.
        """
        if self._lock is not None:
            return False
        # Imported here: Windows, where runs can be read, has no such module.
        import fcntl

        # Take the lock.
        with writing(self.path, "lock the run"):
            # O_CLOEXEC: a child process must not inherit the lock and keep it after this process has ended.
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # The writing process has put its name into the file. Reading needs no lock.
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreError(
                    f"{self.path}: another process is writing this run ({holder or 'unknown'}). "
                    "Wait until it ends, or give this run another folder."
                ) from None
            raise StoreError(
                f"{self.path}: its file system cannot lock files ({error.strerror}). Use a local folder."
            ) from error
        self._lock = descriptor

        # Write this process's name into the lock file, and remove files that a killed process left.
        with writing(self.path, "lock the run"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            self.temp_dir.mkdir(exist_ok=True)
            for leftover in self.temp_dir.iterdir():
                leftover.unlink()
        return True

    def write_file(self, name: str, data: bytes, what: str | None = None) -> Path:
        """Writes one file of the folder, whole or not at all, and its digest. Raises :class:`StoreError`.

        ``what`` is the file's name in messages.
        """
        # The digest first: after a kill in between, a file is missing, and the same command writes it again.
        self.write_digest(name, data)
        return self.write_without_digest(name, data, what or name)

    def write_without_digest(self, name: str, data: bytes, what: str) -> Path:
        """Does the same as :meth:`write_file` for files whose digest is recorded elsewhere."""
        self.lock()
        with writing(self.path, f"write {what}"):
            write_atomic(self.path / name, data, temp_dir=self.temp_dir)
        return self.path / name

    def write_digest(self, name: str, data: bytes | None) -> None:
        """Records the SHA-256 of a file of the folder. ``data`` None records that the file was removed.

        Safe to call from several threads once the folder is locked.
        """
        self._append_digest({"file": name, "sha256": None if data is None else sha256_bytes(data)})

    def _append_digest(self, line: dict[str, Any]) -> None:
        self.lock()
        with self._digest_mutex, writing(self.path, "write a digest"):
            self._digest_journal.append([line])

    def digests(self) -> tuple[dict[str, str], bool]:
        """SHA-256 of each file as last written, and True where they cover all files ever written into the folder.

        Removed files are left out. Edits have their digests in ``edits.jsonl``. Folders of early versions have no
        digests. Raises :class:`StoreError` for a line that is no digest.
        """
        # The last line of a file counts. None: it was removed.
        written: dict[str, str | None] = {}
        complete = False
        for number, row in self._digest_journal.rows():
            # The first line of a new folder says that digests are complete from the start.
            if isinstance(row, dict) and isinstance(row.get("complete"), bool):
                complete = row["complete"]
            elif isinstance(row, dict) and not wrong_types(row, _DIGEST_LINE):
                written[row["file"]] = row["sha256"]
            else:
                raise self._digest_journal.broken(number, f"{row!r:.80}")
        return {name: digest for name, digest in written.items() if digest is not None}, complete

"""Stores edits and their records in threads, while the next edits are made."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bench.edit import EditKey, EditRecord, MethodSpec
from bench.editor import EditOutcome
from bench.images import unfit
from bench.plan import PlannedProtocol
from bench.progress import Progress
from bench.registry import describe
from bench.store import RunStore, StoreError
from bench.suite import ConfiguredMethod

# Largest number of batches that are edited but not yet recorded. It limits memory use when the disk is slow.
BATCHES_IN_FLIGHT = 16


@dataclass(frozen=True, eq=False)
class _Entry:
    """One outcome that waits to be recorded."""

    key: EditKey
    file: str
    outcome: EditOutcome
    # SHA-256 of the PNG, once it is written. None for a failed edit.
    written: Future[str] | None


class Recorder:
    """Stores outcomes. Records are appended in the order of :meth:`put`.

    A pool of threads encodes and writes PNGs. Another thread waits for the PNGs of a batch and then appends its
    records, so that no record exists before its file.
    """

    def __init__(self, store: RunStore, writers: int, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="write")
        self._appender = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._room = threading.BoundedSemaphore(BATCHES_IN_FLIGHT)
        self._storage_error: Exception | None = None
        self.done = 0
        """Edits recorded without an error."""
        self.failures: list[EditRecord] = []

    def put(
        self,
        outcomes: Sequence[EditOutcome],
        protocol: PlannedProtocol,
        method: ConfiguredMethod,
        seed: int,
    ) -> None:
        """Queues a batch for storing. Blocks while too many are queued. Raises the error of storing an earlier one."""
        # A full disk stops the run here, at the next batch.
        self.check()
        # Released once the batch's records are appended.
        self._room.acquire()
        entries = []
        for outcome in outcomes:
            key = protocol.edit_key(method, outcome.case_id, seed)
            file = self._store.edit_file(protocol.name, method.spec, outcome.case_id, seed)
            written = self._writers.submit(self._write, file, outcome) if outcome.image is not None else None
            entries.append(_Entry(key, file, outcome, written))
        self._appender.submit(self._append, entries, method.spec)

    def check(self) -> None:
        """Raises the error of storing, if there was one."""
        if self._storage_error is not None:
            raise self._storage_error

    def close(self) -> None:
        """Waits until every queued batch is stored, or storing has failed."""
        self._appender.shutdown()
        self._writers.shutdown()

    def _write(self, file: str, outcome: EditOutcome) -> str:
        assert outcome.image is not None
        # Back to the source's size, which undoes the resizing to the native size.
        image = outcome.image if outcome.size is None else unfit(outcome.image, outcome.size)
        return self._store.write_edit(file, image)

    def _append(self, entries: Sequence[_Entry], spec: MethodSpec) -> None:
        """Appends the records of one batch. Nothing is appended once storing has failed."""
        records = []
        storage_error: Exception | None = None
        try:
            for entry in entries:
                try:
                    records.append(_record(entry))
                except StoreError as failure:
                    # The disk failed, not the edit: it gets no record, and the next run makes it again.
                    storage_error = failure
                    break
            if self._storage_error is None:
                self._store.append_edits(records)
                self._count(records, spec)
        except Exception as failure:
            storage_error = failure
        finally:
            self._storage_error = self._storage_error or storage_error
            self._room.release()

    def _count(self, records: Sequence[EditRecord], spec: MethodSpec) -> None:
        # Only the appending thread calls this, so counting needs no lock.
        for record in records:
            if record.error is None:
                self.done += 1
            else:
                self.failures.append(record)
                self._progress.note(f"{spec.title}: case {record.key.case} failed: {record.error}")
        self._progress.advance(len(records))


def _record(entry: _Entry) -> EditRecord:
    """The record of an outcome, once its PNG is written. Raises StoreError where the disk failed."""
    outcome = entry.outcome
    # Waits for the writing thread.
    sha256, error = None, outcome.error
    if entry.written is not None:
        try:
            sha256 = entry.written.result()
        except StoreError:
            raise
        except Exception as failure:
            error = f"could not be stored: {describe(failure)}"
    return EditRecord(
        key=entry.key,
        file=None if error else entry.file,
        sha256=sha256,
        seconds=None if outcome.seconds is None else round(outcome.seconds, 6),
        error=error,
        peak_memory=outcome.peak_memory,
    )

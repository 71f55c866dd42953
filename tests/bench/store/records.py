"""Records and configurations for the tests of the store."""

from __future__ import annotations

import errno
import os

import pytest

from bench.casefile import protocol_info
from bench.edit import EditKey, EditRecord, MethodSpec
from bench.store import RunStore
from tests.bench.fakes import Fakes, noise

SPEC = MethodSpec("fake", {"strength": 1.0}, "Fake")
INFO = protocol_info(Fakes(Fakes.Options()))


def key(case: str = "case-000", method: str = SPEC.digest) -> EditKey:
    return EditKey("fakes", "1", method, case, 0)


def edited(store: RunStore, case: str = "case-000", seconds: float = 0.5) -> EditRecord:
    file = store.edit_file("fakes", SPEC, case)
    return EditRecord(key(case), file, store.write_edit(file, noise(case, 16)), seconds)


def not_edited(case: str = "case-000") -> EditRecord:
    return EditRecord(key(case), None, None, 0.1, error="ZeroDivisionError: x")


def configure(store: RunStore, **changes: object) -> None:
    arguments: dict[str, object] = {"protocols": {"fakes": INFO}, "methods": [SPEC], **changes}
    store.configure(**arguments)  # type: ignore[arg-type]


def full_disk(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Lets ``after`` more bytes be written, in part, then raises what a full disk raises."""
    write, left = os.write, [after]

    def limited(descriptor: int, data: bytes) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(descriptor, bytes(data)[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", limited)

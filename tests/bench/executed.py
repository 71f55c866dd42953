"""Plans and runs of small fake methods, for tests of the runner."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.executors import LocalExecutor
from bench.plan import make_plan
from bench.runner import RunSummary, run
from bench.store import RunStore
from bench.suite import ConfiguredMethod
from tests.bench.fakes import protocol


def execute(
    path: Path,
    *methods: ConfiguredMethod,
    protocols: tuple[str, ...] = ("fakes",),
    count: int = 8,
    limit: int | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 3,
    executor: LocalExecutor | None = None,
    **options: Any,
) -> RunSummary:
    with RunStore.open(path, create=True) as store:
        configured = [protocol(name, count=count) for name in protocols]
        plan = make_plan(configured, methods, seeds=seeds, limit=limit, store=store)
        return run(plan, store, executor or LocalExecutor(batch_size=batch_size), **options)


def facts(path: Path) -> list[tuple[Any, ...]]:
    """Every record but its seconds, and the bytes of its file."""
    store = RunStore.open(path)
    return [
        (
            record.key,
            record.file,
            record.sha256,
            record.error,
            None if record.file is None else hashlib.sha256((path / record.file).read_bytes()).hexdigest(),
        )
        for record in store.edits()
    ]

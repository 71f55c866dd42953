"""Plan, skip what is done, edit, record.

The same command resumes: an edit counts as done once its PNG and its record are on disk. Failed edits are
recorded with their error and made again by the next run. Edits depend on the suite's seed, the case and
the method, never on where the run was interrupted. The machine adds rounding: dtype, device, batch size and number of
threads may make single samples a level lighter or darker, so the run's manifest holds all four.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import __version__
from bench.case_rows import case_row, check_case
from bench.casefile import CaseFile, protocol_info, provided_fields
from bench.edit import EditCase, EditKey, EditRecord, MethodSpec
from bench.editor import EditOutcome, torch_threads
from bench.errors import BenchError
from bench.executors import Executor, Task
from bench.images import resize
from bench.progress import Progress, Silent
from bench.registry import PluginError, describe, options_dict, plugin_code
from bench.store import RunStore, StoreError
from bench.suite import ConfiguredMethod, ConfiguredProtocol, Suite, limited

__all__ = [
    "Plan",
    "PlanError",
    "PlanRow",
    "PlannedProtocol",
    "Progress",
    "RunSummary",
    "Silent",
    "image_seed",
    "make_plan",
    "run",
]

_BATCHES_IN_FLIGHT = 16
"""Edited but not yet recorded; bounds the memory that a slow disk can take."""


class PlanError(BenchError):
    """What keeps a plan from running, all of it, each with its remedy; known before any model loads."""


def image_seed(seed: int, case_id: str) -> int:
    """The seed of one image's generator, 63 bits: the same on every machine, for every method.

    ``EditRecord.key.seed`` is the suite's ``seed``; this is what ``EditRequest.seed`` was.
    """
    digest = hashlib.sha256(f"{seed}/{case_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# The plan


@dataclass(frozen=True, eq=False)
class PlannedProtocol:
    """A protocol's part in a plan."""

    name: str
    info: Mapping[str, Any]
    """``casefile.protocol_info``, with ``options`` and ``limit``."""
    rows: tuple[Mapping[str, Any], ...]
    """The selected cases as ``cases.jsonl`` has them."""
    cases: Sequence[EditCase] | None
    """The protocol's cases, or None where the run folder has all that is needed."""

    @property
    def key(self) -> tuple[str, str]:
        return self.name, str(self.info["version"])


@dataclass(frozen=True)
class PlanRow:
    """One method on one protocol."""

    protocol: str
    method: str
    """Its title."""
    digest: str
    total: int
    done: int
    by_category: Mapping[str, int]
    """Edits to make, per category."""
    seconds: float | None
    """An estimate of the time to go, from the edits recorded so far."""

    @property
    def todo(self) -> int:
        return self.total - self.done


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that a run will do; making it writes nothing and loads no model."""

    protocols: tuple[PlannedProtocol, ...]
    methods: tuple[ConfiguredMethod, ...]
    seed: int
    rows: tuple[PlanRow, ...]
    problems: tuple[str, ...]

    @property
    def todo(self) -> int:
        return sum(row.todo for row in self.rows)


def make_plan(
    protocols: Sequence[ConfiguredProtocol],
    methods: Sequence[ConfiguredMethod],
    *,
    seed: int = 0,
    limit: int | None = None,
    store: RunStore | None = None,
) -> Plan:
    """The plan of every method on every protocol, less what ``store`` has.

    ``limit``: cases per category and protocol, the first by hash of the id, so that a greater limit adds
    cases and exchanges none. What cannot run is listed in ``problems`` and keeps the rest of the plan.
    Raises what a protocol raises for missing or broken data.
    """
    problems = [problem for protocol in protocols for problem in protocol.problems]
    problems += [problem for method in methods for problem in method.problems]
    planned = [_plan_protocol(entry, limit, store) for entry in protocols if not entry.problems]
    names = Counter(entry.name for entry in planned)
    problems += [
        f"two protocols call themselves {name!r}: give them separate suites"
        for name, count in names.items()
        if count > 1
    ]
    problems += [problem for entry in planned for method in methods for problem in _unmet(entry, method)]
    done = store.done() if store is not None else set()
    pace = _pace(store)
    rows = []
    for protocol in planned:
        for method in methods:
            todo = [
                row for row in protocol.rows if _key(protocol, method, row["id"], seed).digest not in done
            ]
            each = pace.get((protocol.name, method.spec.digest))
            rows.append(
                PlanRow(
                    protocol=protocol.name,
                    method=method.spec.title,
                    digest=method.spec.digest,
                    total=len(protocol.rows),
                    done=len(protocol.rows) - len(todo),
                    by_category=Counter(row["category"] for row in todo),
                    seconds=None if each is None else each * len(todo),
                )
            )
    return Plan(tuple(planned), tuple(methods), seed, tuple(rows), tuple(dict.fromkeys(problems)))


def _plan_protocol(entry: ConfiguredProtocol, limit: int | None, store: RunStore | None) -> PlannedProtocol:
    protocol = entry.create()
    who = f"protocol {entry.name!r}"
    with plugin_code(entry.cls, who):
        info = _checked_info(protocol_info(protocol), who)
    info = {
        **info,
        "registered": entry.name,
        "options": options_dict(entry.options),
        "limit": limit,
    }
    name = protocol.name
    if store is not None and name in store.protocols():
        stored = store.cases(name)
        if stored.info.get("digest") == info["digest"] and _covers(stored.info.get("limit"), limit):
            return PlannedProtocol(name, info, tuple(_select(stored.rows, limit)), None)
    rows = []
    with plugin_code(entry.cls, f"{who}: cases()"):
        cases = protocol.cases()
        for case in cases:
            check_case(case)
            rows.append(case_row(case))
    return PlannedProtocol(name, info, tuple(_select(rows, limit)), cases)


def _checked_info(info: Mapping[str, Any], who: str) -> Mapping[str, Any]:
    """``info`` itself, checked. Raises PluginError for a value of a wrong type."""
    good = {
        **{name: isinstance(info[name], str) and bool(info[name]) for name in ("name", "version", "digest")},
        "canvas": isinstance(info["canvas"], int) and info["canvas"] > 0,
        "categories": all(isinstance(name, str) for name in info["categories"]),
    }
    wrong = [name for name, fits in good.items() if not fits]
    if wrong:
        raise PluginError(f"{who}: {', '.join(wrong)}: missing or of a wrong type. Mend the class.")
    return info


def _covers(stored: int | None, wanted: int | None) -> bool:
    return stored is None or (wanted is not None and wanted <= stored)


def _select(rows: Iterable[Mapping[str, Any]], limit: int | None) -> list[Mapping[str, Any]]:
    rows = list(rows)
    chosen = limited({row["id"]: row["category"] for row in rows}, limit)
    return [row for row in rows if row["id"] in chosen]


def _unmet(protocol: PlannedProtocol, method: ConfiguredMethod) -> list[str]:
    if not protocol.rows:
        return [f"protocol {protocol.name} has no cases: look at its options and its data"]
    found = []
    missing = method.needs - provided_fields(protocol.rows)
    if missing:
        found.append(
            f"method {method.spec.title} needs {', '.join(sorted(missing))}, "
            f"which protocol {protocol.name} does not provide: leave one of the two out"
        )
    if method.wants_truth and not any(row["truth"] for row in protocol.rows):
        found.append(
            f"method {method.spec.title} needs the ideal results, "
            f"which protocol {protocol.name} does not have: leave one of the two out"
        )
    if not method.problems:
        ids = [row["id"] for row in protocol.rows]
        found += [
            f"method {method.spec.title} on protocol {protocol.name}: {problem}"
            for problem in method.cls.case_problems(method.options, ids)
        ]
    return found


def _pace(store: RunStore | None) -> dict[tuple[str, str], float]:
    """Mean seconds per edit by protocol and method digest, so far."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for record in store.edits() if store is not None else ():
        if record.seconds is not None and record.error is None:
            seconds.setdefault((record.key.protocol, record.key.method), []).append(record.seconds)
    return {key: sum(values) / len(values) for key, values in seconds.items()}


def _key(protocol: PlannedProtocol, method: ConfiguredMethod, case: str, seed: int) -> EditKey:
    name, version = protocol.key
    return EditKey(name, version, method.spec.digest, case, seed)


# The run


@dataclass(frozen=True)
class RunSummary:
    """What a run did."""

    done: int
    """Edits made and stored."""
    skipped: int
    """Edits that were there already."""
    failed: int
    seconds: float
    failures: tuple[EditRecord, ...] = ()
    """The record of each failed edit."""

    @property
    def ok(self) -> bool:
        return self.failed == 0


def run(
    plan: Plan,
    store: RunStore,
    executor: Executor,
    *,
    progress: Progress | None = None,
    suite: Suite | None = None,
    writers: int = 2,
) -> RunSummary:
    """Makes and records every edit of the plan that the store lacks; ``writers`` threads encode and write.

    One model is loaded at a time, for all protocols, and freed before the next. Raises :class:`PlanError`
    for a plan with problems and ``StoreError`` for a folder that cannot be written or belongs to another
    configuration, both before any model loads; also ``StoreError`` where the disk fails later: what was
    recorded until then stays. What a method raises is an error in its record.
    """
    if plan.problems:
        raise PlanError("this cannot run:\n" + "\n".join(f"- {problem}" for problem in plan.problems))
    progress = progress or Silent()
    start = time.perf_counter()
    store.lock()
    done = store.done()
    todo = {method.spec.digest: _missing(plan, method, done) for method in plan.methods}
    store.configure(
        seed=plan.seed,
        protocols={protocol.name: protocol.info for protocol in plan.protocols},
        methods=[method.spec for method in plan.methods],
        dtype=executor.runtime.dtype,
        device=executor.runtime.device,
        idle={digest for digest, parts in todo.items() if not parts},
        suite=None if suite is None else suite.model_dump(mode="json"),
        versions=versions(),
    )
    case_files = {protocol.name: _store_cases(protocol, store) for protocol in plan.protocols}
    recorder = _Recorder(store, writers, progress)
    try:
        for method in plan.methods:
            if parts := todo[method.spec.digest]:
                progress.start(sum(len(ids) for _, ids in parts), method.spec.title)
                _run_method(method, parts, case_files, plan.seed, executor, recorder, progress)
    finally:
        # Also when interrupted: what has been edited is recorded.
        recorder.close()
        progress.stop()
    recorder.check()
    return RunSummary(
        done=recorder.done,
        skipped=sum(len(entry.rows) for entry in plan.protocols) * len(plan.methods)
        - sum(len(ids) for parts in todo.values() for _, ids in parts),
        failed=len(recorder.failures),
        seconds=time.perf_counter() - start,
        failures=tuple(recorder.failures),
    )


def versions() -> dict[str, str]:
    """Versions of what pixels may depend on; only what is installed, nothing imported."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"prompteditbench": __version__, "python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _missing(plan: Plan, method: ConfiguredMethod, done: set[str]) -> list[tuple[PlannedProtocol, list[str]]]:
    """The cases that a method has still to edit, by protocol; without the protocols where there are none."""
    found = []
    for protocol in plan.protocols:
        ids = [row["id"] for row in protocol.rows]
        ids = [name for name in ids if _key(protocol, method, name, plan.seed).digest not in done]
        if ids:
            found.append((protocol, ids))
    return found


def _store_cases(protocol: PlannedProtocol, store: RunStore) -> CaseFile:
    """The cases as stored: what is edited is what others can read there."""
    if protocol.cases is None:
        return store.cases(protocol.name)
    chosen = {row["id"] for row in protocol.rows}
    return store.write_cases((case for case in protocol.cases if case.id in chosen), protocol.info)


def _run_method(
    method: ConfiguredMethod,
    todo: Sequence[tuple[PlannedProtocol, Sequence[str]]],
    case_files: Mapping[str, CaseFile],
    seed: int,
    executor: Executor,
    recorder: _Recorder,
    progress: Progress,
) -> None:
    title = method.spec.title
    try:
        session = executor.open(method, lambda message: progress.note(f"{title}: {message}"))
    except Exception as failure:
        error = f"could not be loaded: {describe(failure)}"
        for protocol, ids in todo:
            outcomes = [EditOutcome.failed(name, error) for name in ids]
            recorder.put(outcomes, protocol, method, seed)
        return
    try:
        # Now that the model is loaded, torch is where it is used at all.
        recorder.store.note_conditions(method.spec.digest, executor.batch_size, torch_threads())
        for protocol, ids in todo:
            cases = case_files[protocol.name]
            tasks = (Task(name, image_seed(seed, name), partial(cases.get, name)) for name in ids)
            for outcomes in session.edits(tasks):
                recorder.put(outcomes, protocol, method, seed)
    finally:
        session.close()


class _Recorder:
    """Writes edits and their records behind the editing thread's back, records in the order of ``put``.

    A pool encodes and writes PNGs; one more thread waits for those of a batch and then appends its records.
    """

    def __init__(self, store: RunStore, writers: int, progress: Progress) -> None:
        self.store = store
        self._progress = progress
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="write")
        self._appender = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._room = threading.BoundedSemaphore(_BATCHES_IN_FLIGHT)
        self._broken: Exception | None = None
        self.done = 0
        self.failures: list[EditRecord] = []

    def put(
        self,
        outcomes: Sequence[EditOutcome],
        protocol: PlannedProtocol,
        method: ConfiguredMethod,
        seed: int,
    ) -> None:
        """Takes a batch; waits only where too many are under way. Raises what storing an earlier one did."""
        self.check()
        self._room.acquire()
        entries = []
        for outcome in outcomes:
            key = _key(protocol, method, outcome.case_id, seed)
            file = self.store.edit_file(protocol.name, method.spec, outcome.case_id)
            written = self._writers.submit(self._write, file, outcome) if outcome.image is not None else None
            entries.append((key, file, outcome, written))
        self._appender.submit(self._append, entries, method.spec)

    def check(self) -> None:
        """Raises what storing has raised."""
        if self._broken is not None:
            raise self._broken

    def close(self) -> None:
        """Waits until all that was put is stored, or has failed to be."""
        self._appender.shutdown()
        self._writers.shutdown()

    def _write(self, file: str, outcome: EditOutcome) -> str:
        assert outcome.image is not None
        image = outcome.image if outcome.size is None else resize(outcome.image, outcome.size)
        return self.store.write_edit(file, image)

    def _append(
        self, entries: Sequence[tuple[EditKey, str, EditOutcome, Future[str] | None]], spec: MethodSpec
    ) -> None:
        records = []
        broken: Exception | None = None
        try:
            for key, file, outcome, written in entries:
                sha256, error = None, outcome.error
                if written is not None:
                    try:
                        sha256 = written.result()
                    except StoreError as failure:
                        # The disk, not the edit: nothing is said of it, and the next run makes it again.
                        broken = failure
                        break
                    except Exception as failure:
                        error = f"could not be stored: {describe(failure)}"
                seconds = None if outcome.seconds is None else round(outcome.seconds, 6)
                records.append(
                    EditRecord(
                        key=key,
                        file=None if error else file,
                        sha256=sha256,
                        seconds=seconds,
                        error=error,
                        peak_memory=outcome.peak_memory,
                    )
                )
            if self._broken is None:
                self.store.append_edits(records)
                self._count(records, spec)
        except Exception as failure:
            broken = failure
        finally:
            self._broken = self._broken or broken
            self._room.release()

    def _count(self, records: Sequence[EditRecord], spec: MethodSpec) -> None:
        for record in records:
            if record.error is None:
                self.done += 1
            else:
                self.failures.append(record)
                self._progress.note(f"{spec.title}: case {record.key.case} failed: {record.error}")
        self._progress.advance(len(records))

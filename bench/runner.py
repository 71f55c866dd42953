"""Makes the edits of a plan that are not stored yet, and records them.

The same command resumes: an edit counts as done once its PNG and its record are on disk. Failed edits are
recorded with their error, and the next run makes them again. Edits depend on the suite's seed, the case and
the method, never on where the run was interrupted. Rounding depends on the machine: dtype, device, batch size and
number of threads may change single pixel values by one level. The run's manifest records all four.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench import __version__
from bench.casefile import CaseFile
from bench.edit import EditRecord, image_seed
from bench.editor import EditOutcome
from bench.executors import Executor, Task
from bench.plan import Plan, PlanError, PlannedProtocol
from bench.progress import Progress, Silent
from bench.recorder import Recorder
from bench.registry import describe
from bench.store import RunStore
from bench.suite import ConfiguredMethod, Suite


@dataclass(frozen=True)
class RunSummary:
    """Counts of a run."""

    done: int
    """Edits made and stored."""
    skipped: int
    """Edits that were stored already."""
    failed: int
    seconds: float
    failures: tuple[EditRecord, ...] = ()
    """Record of each failed edit."""
    refused: int = 0
    """Edits that a method cannot make, because the case lacks what it needs. They are no failures."""

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
    """Makes and records every edit of the plan that the store lacks. ``writers`` threads encode and write.

    One model is loaded at a time, for all protocols, and freed before the next. An error that a method raises goes
    into its record. Raises :class:`PlanError` for a plan with problems, and ``StoreError`` for a folder that cannot
    be written or belongs to another configuration, both before any model is loaded. ``StoreError`` is also raised
    where the disk fails later. The edits recorded until then stay.
    """
    if plan.problems:
        raise PlanError("this cannot run:\n" + "\n".join(f"- {problem}" for problem in plan.problems))
    progress = progress or Silent()
    start = time.perf_counter()

    # The run folder: locked, its configuration checked, its cases written.
    store.lock()
    # Edits made since the plan, by another process say, are skipped too.
    done = store.done()
    todo = {method.spec.digest: _cases_to_edit(plan, method, done) for method in plan.methods}
    store.configure(
        seeds=plan.seeds,
        protocols={protocol.name: protocol.info for protocol in plan.protocols},
        methods=[method.spec for method in plan.methods],
        dtype=executor.runtime.dtype,
        device=executor.runtime.device,
        idle={digest for digest, parts in todo.items() if not parts},
        suite=None if suite is None else suite.model_dump(mode="json"),
        versions=versions(),
    )
    case_files = {protocol.name: _store_cases(protocol, store) for protocol in plan.protocols}
    refused = _record_refused(plan, store, progress)

    # Edits, method by method.
    recorder = Recorder(store, writers, progress)
    try:
        for method in plan.methods:
            if parts := todo[method.spec.digest]:
                progress.start(sum(len(ids) for _, _, ids in parts), method.spec.title)
                _run_method(method, parts, case_files, executor, store, recorder, progress)
    finally:
        # Finished edits are recorded even when the run is interrupted.
        recorder.close()
        progress.stop()
    recorder.check()

    # Counts for the summary.
    planned = sum(len(protocol.rows) for protocol in plan.protocols) * len(plan.methods) * len(plan.seeds)
    edited = sum(len(ids) for parts in todo.values() for _, _, ids in parts)
    return RunSummary(
        done=recorder.done,
        skipped=planned - edited - refused,
        failed=len(recorder.failures),
        seconds=time.perf_counter() - start,
        failures=tuple(recorder.failures),
        refused=refused,
    )


def versions() -> dict[str, str]:
    """Versions of installed packages that pixels may depend on. Imports none of them."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    # From package metadata, which is read without importing.
    installed = {"prompteditbench": __version__, "python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers", "numpy", "pillow"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def _cases_to_edit(
    plan: Plan, method: ConfiguredMethod, done: set[str]
) -> list[tuple[PlannedProtocol, int, list[str]]]:
    """Ids of the cases that a method has still to edit, by protocol and seed. Those without any are left out."""
    parts = [
        (protocol, seed, protocol.case_ids_to_edit(method, seed, done))
        for protocol in plan.protocols
        for seed in plan.seeds
    ]
    return [(protocol, seed, ids) for protocol, seed, ids in parts if ids]


def _record_refused(plan: Plan, store: RunStore, progress: Progress) -> int:
    """Records the reason of every edit that its method cannot make, once. Returns the number of such edits."""
    recorded = {record.key.digest for record in store.edits() if record.is_refused}
    count = 0
    for protocol in plan.protocols:
        for method in plan.methods:
            reasons = protocol.refused(method)
            count += len(reasons) * len(plan.seeds)
            records = [
                EditRecord(protocol.edit_key(method, case_id, seed), None, None, None, error, is_refused=True)
                for seed in plan.seeds
                for case_id, error in reasons.items()
            ]
            store.append_edits([record for record in records if record.key.digest not in recorded])
            for error, times in Counter(reasons.values()).items():
                progress.note(f"{method.spec.title} on {protocol.name}: {times} cases {error}")
    return count


def _store_cases(protocol: PlannedProtocol, store: RunStore) -> CaseFile:
    """Stores a protocol's cases and returns them as stored. Methods then edit exactly what the run folder has."""
    if protocol.cases is None:
        return store.cases(protocol.name)
    # Only the cases within the limit are written.
    chosen = {row["id"] for row in protocol.rows}
    return store.write_cases((case for case in protocol.cases if case.id in chosen), protocol.info)


def _run_method(
    method: ConfiguredMethod,
    todo: Sequence[tuple[PlannedProtocol, int, Sequence[str]]],
    case_files: Mapping[str, CaseFile],
    executor: Executor,
    store: RunStore,
    recorder: Recorder,
    progress: Progress,
) -> None:
    # If a method cannot be loaded, all of its edits fail, and the run goes on with the next method.
    title = method.spec.title
    try:
        session = executor.open(method, lambda message: progress.note(f"{title}: {message}"))
    except Exception as failure:
        error = f"could not be loaded: {describe(failure)}"
        for protocol, seed, ids in todo:
            recorder.put([EditOutcome.failed(name, error) for name in ids], protocol, method, seed)
        return
    try:
        # A method that uses torch has imported it by now.
        store.note_conditions(method.spec.digest, executor.batch_size, session.torch_threads)
        for protocol, seed, ids in todo:
            cases = case_files[protocol.name]
            # Tasks decode their case when an executor's thread asks for it.
            tasks = (Task(name, image_seed(seed, name), partial(cases.get, name)) for name in ids)
            for outcomes in session.edits(tasks):
                recorder.put(outcomes, protocol, method, seed)
    finally:
        session.close()

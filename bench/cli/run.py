"""Commands that make a run: ``run``, ``edit``, ``score``, ``demo``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.adhoc import (
    AdHoc,
    MethodNames,
    MethodOption,
    MetricNames,
    OptionalSuiteName,
    Preset,
    ProtocolName,
    Seeds,
)
from bench.cli.console import complain, print_json, progress_bar, warn
from bench.cli.judge import judge_and_print
from bench.cli.options import (
    AllColumns,
    BatchSize,
    Deterministic,
    Device,
    Devices,
    DryRun,
    Dtype,
    Json,
    Key,
    Limit,
    Out,
    Plugin,
    ProtocolOption,
    Quiet,
    Ray,
    RunFolder,
    SuiteName,
    WorkerCount,
    examples,
    open_session,
    several,
)
from bench.cli.plan import describe_plan, method_notes, print_plan
from bench.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

    from bench.runner import RunSummary
    from bench.session import Report, Session, SuiteJob
    from bench.store import RunStore
    from bench.workers import Workers

run_app = typer.Typer()


@run_app.command(
    epilog=examples(
        "run demo",
        "run demo --limit 2",
        "run paper --out runs/paper --device cuda --batch-size 16",
        "run paper --devices cuda:0,cuda:1",
        "run my-suite.yaml --dry-run",
        "run my-suite.yaml --plugin my_package.my_methods",
        "run --protocol coco -o root=data/coco --method sd_inpainting -m steps=20 --limit 10",
    )
)
def run(
    context: typer.Context,
    suite: OptionalSuiteName = None,
    protocol: ProtocolName = None,
    option: ProtocolOption = None,
    method: MethodNames = None,
    method_option: MethodOption = None,
    preset: Preset = None,
    metric: MetricNames = None,
    seeds: Seeds = None,
    out: Out = None,
    device: Device = "auto",
    devices: Devices = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    batch_size: BatchSize = 8,
    deterministic: Deterministic = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    everything: AllColumns = False,
    quiet: Quiet = False,
    as_json: Json = False,
    key: Key = None,
    plugin: Plugin = None,
) -> None:
    """Edit, score and report a suite, or one protocol and method. The same command goes on where it was stopped."""
    from bench.metrics.choice import check_metrics

    # With JSON on standard output, text for people goes to standard error.
    screen = console(stderr=as_json, quiet=quiet)
    session = open_session(context, plugin)
    ad_hoc = AdHoc(protocol, option, method, method_option, preset, metric, seeds, limit)
    job = _configure(session, suite, ad_hoc, screen, out)
    if dry_run:
        plan = describe_plan(session, job)
        print_plan(plan, screen)
        if as_json:
            print_json(plan.as_json())
        return
    # Refused before it edits for hours.
    check_metrics(session, job)
    # The run folder stays open, and locked, from the first edit to the last table.
    with ExitStack() as stack:
        with several(device, devices, ray, workers, deterministic=deterministic) as opened:
            size = None if deterministic else batch_size
            store, edits = _edit(session, job, screen, device, dtype, size, opened)
            stack.enter_context(store)
            is_stopped = judge_and_print(session, store, job.judges, screen)
            scores = _score(session, store, screen, device, workers=opened)
        session.hide_foreign_scores(store, lambda line: warn(screen, line))
        report = session.program.write_report(session, store)
    # Text for people, then JSON for programs.
    print_report(report, screen, everything=everything, first=metric or ())
    if as_json:
        print_json(
            {
                "folder": str(store.path),
                "edits": {
                    "made": edits.done,
                    "skipped": edits.skipped,
                    "failed": edits.failed,
                    "refused": edits.refused,
                    "seconds": edits.seconds,
                },
                "scores": scores,
                "report": str(report.folder),
                "page": str(report.page),
                "warnings": list(report.warnings),
                "summary": report.summary.astype(object)
                .where(report.summary.notna(), None)
                .to_dict("records"),
            }
        )
    _exit_for_failures(store.path, edits.failed)
    if is_stopped:
        raise typer.Exit(1)


@run_app.command(epilog=examples("edit demo", "edit paper --device cuda --batch-size 16"))
def edit(
    context: typer.Context,
    suite: SuiteName,
    out: Out = None,
    device: Device = "auto",
    devices: Devices = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    dtype: Dtype = "auto",
    batch_size: BatchSize = 8,
    deterministic: Deterministic = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    key: Key = None,
    plugin: Plugin = None,
) -> None:
    """Make a suite's edits and stop before scoring."""
    screen = console(quiet=quiet)
    session = open_session(context, plugin)
    job = session.configure(suite, out=out, limit=limit)
    if dry_run:
        print_plan(describe_plan(session, job), screen)
        return
    with several(device, devices, ray, workers, deterministic=deterministic) as opened:
        size = None if deterministic else batch_size
        store, edits = _edit(session, job, screen, device, dtype, size, opened)
        store.close()
    _exit_for_failures(store.path, edits.failed)


@run_app.command(
    epilog=examples(
        "score runs/demo", "score runs/paper --device cuda --metric leak_lpips --metric clip_target"
    )
)
def score(
    context: typer.Context,
    folder: RunFolder,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this metric. May be repeated. [default: the suite's]")
    ] = None,
    device: Device = "auto",
    devices: Devices = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Score a run's stored edits. Stored scores are not computed again."""
    from bench.store import RunStore

    session = open_session(context, plugin)
    # A misspelt metric is reported before the run folder is opened.
    for name in metric or ():
        session.metrics.check(name)
    with RunStore.open(folder) as store, several(device, devices, ray, workers) as opened:
        _score(session, store, console(quiet=quiet), device, metric, workers=opened)


@run_app.command(epilog=examples("demo", "demo --limit 2", "demo --out runs/again"))
def demo(
    context: typer.Context,
    out: Out = None,
    device: Device = "auto",
    limit: Limit = None,
    dry_run: DryRun = False,
    everything: AllColumns = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the embedded benchmark: small rendered worlds, small real models. It takes minutes on two cores."""
    # float32 on every device, so that the numbers are those of the documentation.
    run(
        context,
        "demo",
        out=out,
        device=device,
        dtype="float32",
        batch_size=16,
        limit=limit,
        dry_run=dry_run,
        everything=everything,
        quiet=quiet,
        as_json=as_json,
    )


def print_report(report: Report, screen: Console, *, everything: bool, first: Sequence[str] = ()) -> None:
    """Prints the main tables of a report, its warnings and its paths. ``first``: metrics that the user named."""
    # Tables, then warnings, then paths.
    for part in report.terminal(screen.width, everything=everything, first=first):
        screen.print(part)
    for warning in report.warnings:
        screen.print(warning, style="yellow")
    screen.print(f"tables and figures: {report.folder}", soft_wrap=True)
    screen.print(f"page: {report.page}", soft_wrap=True)


def _configure(
    session: Session, suite: str | None, ad_hoc: AdHoc, screen: Console, out: Path | None
) -> SuiteJob:
    """Configures a named suite, or the one that the options stand for, which is printed first."""
    if suite is not None:
        ad_hoc.check_absent(suite)
        return session.configure(suite, out=out, limit=ad_hoc.limit)
    from bench.suite_yaml import write_yaml

    # Printed before it is checked, because messages name its lines. It works as a suite file.
    values = ad_hoc.suite()
    screen.print(write_yaml(values), markup=False, highlight=False, soft_wrap=True)
    return session.configure(values, out=out)


def _edit(
    session: Session,
    job: SuiteJob,
    screen: Console,
    device: str,
    dtype: str,
    batch_size: int | None,
    workers: Workers | None,
) -> tuple[RunStore, RunSummary]:
    """Makes the missing edits and prints what was done. Returns the run folder, still open."""
    for heading, lines in method_notes(job):
        for line in lines:
            warn(screen, f"{heading} {line}")
    # The summary follows once the bar is gone.
    with progress_bar(screen) as progress:
        store, edits = session.edit(
            job, device=device, dtype=dtype, batch_size=batch_size, progress=progress, workers=workers
        )
    # A few failures in full; all of them are in the journal.
    for record in edits.failures[:5]:
        screen.print(f"failed {record.key.case}: {record.error or ''}", style="red")
    if len(edits.failures) > 5:
        screen.print(f"... and {len(edits.failures) - 5} more, all in {job.folder}/edits.jsonl", style="red")
    refused = f", {edits.refused} refused" if edits.refused else ""
    screen.print(
        f"edits: {edits.done} made, {edits.skipped} there already, {edits.failed} failed{refused}; "
        f"{edits.seconds:.0f} s"
    )
    return store, edits


def _score(
    session: Session,
    store: RunStore,
    screen: Console,
    device: str,
    only: list[str] | None = None,
    *,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Scores a run, prints what was done, and returns it as ``run --json`` has it."""
    with progress_bar(screen) as progress:
        scores = session.score(
            store,
            device=device,
            only=only,
            progress=progress,
            note=lambda line: warn(screen, line),
            workers=workers,
        )
    # Warnings that begin alike, such as one per method, are printed once.
    kinds: dict[str, list[str]] = {}
    for warning in dict.fromkeys(scores.warnings):
        kinds.setdefault(warning.partition(":")[0], []).append(warning)
    for alike in kinds.values():
        more = f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""
        screen.print(f"{alike[0]}{more}", style="yellow")
    # Values without a number have a reason. The most frequent ones are printed.
    screen.print(f"scores: {scores.scored} computed, {scores.skipped} there already")
    for reason, count in Counter(scores.missing).most_common(5):
        screen.print(f"  {count} without a value: {reason}", style="dim")
    return {
        "computed": scores.scored,
        "skipped": scores.skipped,
        "without_value": scores.missing,
        "warnings": list(kinds),
    }


def _exit_for_failures(folder: Path, failed: int) -> None:
    # A run with failures has a report, and exit code 1.
    if failed:
        complain(
            f"{failed} edit{'s' * (failed > 1)} failed (see {folder}/edits.jsonl). "
            "The same command tries again."
        )
        raise typer.Exit(1)

"""The command ``fetch``: shows what a suite, a method or a metric lacks, asks, and downloads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.adhoc import MethodOption, Preset
from bench.cli.console import progress_bar, warn
from bench.cli.options import DryRun, Plugin, examples, key_values, open_session
from bench.downloads import Download, HubFiles, MissingFiles, WebFile, missing_downloads, size_text
from bench.errors import BenchError
from bench.terminal import console
from bench.transfer import DownloadError, RemoteFile, content_length, download

if TYPE_CHECKING:
    from rich.console import Console

    from bench.hub import HubListing
    from bench.progress import Progress
    from bench.session import Session

fetch_app = typer.Typer()

_MEGABYTE = 1_000_000


@fetch_app.command(
    epilog=examples(
        "fetch paper",
        "fetch my-suite.yaml --yes",
        "fetch sd_inpainting lama --dry-run",
        "fetch sd_inpainting -m weights=somebody/model",
        "fetch clip_target fid",
    )
)
def fetch(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE|METHOD|METRIC...", help="Suites (names or YAML files), methods and metrics."
        ),
    ],
    preset: Preset = None,
    method_option: MethodOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    dry_run: DryRun = False,
    plugin: Plugin = None,
) -> None:
    """Download the published weights that are missing on this machine, after showing them.

    A broken or stopped download is continued by the same command. A token of the hub is read from the environment
    variable HF_TOKEN alone. Data sets are not downloaded: it says where to get them.
    """
    session = open_session(context, plugin)
    settings = (preset, key_values(method_option, "--method-option", "steps=20"))
    if len(names) > 1 and any(settings):
        raise BenchError("--method-option and --preset need a single method. Give one name.")
    problems = [problem for name in names for problem in problems_of_name(session, name, *settings)]

    # What can be downloaded, and what cannot.
    screen = console()
    plan = make_fetch_plan(missing_downloads(problems))
    _show(plan, screen)
    for problem in dict.fromkeys(problem for problem in problems if not isinstance(problem, MissingFiles)):
        warn(screen, f"not downloaded: {problem}")
    for error in plan.refused:
        warn(screen, f"not downloaded: {error}")
    if not plan.files and not plan.refused:
        screen.print("nothing to download: " + ("all files are here" if not problems else "see above"))

    # Ask, then download.
    if plan.files and not dry_run:
        check_room(plan.files)
        if not yes and not typer.confirm("Download?", err=True):
            screen.print("nothing was downloaded")
            raise typer.Exit(1)
        failures = carry_out(plan)
        for failure in failures:
            warn(screen, f"failed: {failure}")
        screen.print(f"{len(plan.files) - len(failures)} of {len(plan.files)} files downloaded and checked")
        if failures:
            raise typer.Exit(1)
    if plan.refused and not dry_run:
        raise typer.Exit(1)


# --- what a name lacks -----------------------------------------------------------------------------------


def problems_of_name(
    session: Session, name: str, preset: str | None = None, options: Mapping[str, Any] | None = None
) -> list[str]:
    """List what a suite, method, metric or protocol lacks on this machine.

    Raises :class:`BenchError` for an unknown name, and for a preset or options of something that is no method.
    """
    from bench.metrics.choice import metric_problems
    from bench.registry import UnknownName, did_you_mean
    from bench.suite import configure_method, configure_protocol, shipped_suites

    if name in session.methods:
        return list(configure_method(name, session.methods, preset=preset, options=options).problems)
    if preset or options:
        raise BenchError(f"{name!r} is no method: leave out --preset and --method-option.")
    if name in shipped_suites() or Path(name).suffix in (".yaml", ".yml"):
        return _suite_problems(session, name)
    if name in session.metrics:
        return metric_problems([name], _features(session), session.metrics).get(name, [])
    if name in session.protocols:
        return list(configure_protocol(name, session.protocols).problems)
    names = [*shipped_suites(), *session.methods.names(), *session.metrics.names()]
    raise UnknownName(
        f"{name!r} is no suite, method or metric.{did_you_mean(name, names)} `python run_bench.py list "
        "suites|methods|metrics` prints them."
    )


def _suite_problems(session: Session, name: str) -> list[str]:
    """List what a suite's protocols, methods and metrics lack."""
    job = session.configure(name)
    owned = [(f"protocol {entry.name}", entry.problems) for entry in job.protocols]
    owned += [(f"method {entry.spec.title}", entry.problems) for entry in job.methods]
    # A missing file is told by its own name. For any other problem its owner matters.
    problems = [
        problem if isinstance(problem, MissingFiles) else f"{owner}: {problem}"
        for owner, of_one in owned
        for problem in of_one
    ]
    # Metrics that lack no file, but cannot score this suite's images, are no matter of downloads.
    protocols: dict[str, dict[str, Any]] = {entry.name: {} for entry in job.protocols}
    for choice in session.metric_choices(_features(session), protocols, job.suite.metrics).values():
        reasons = [*choice.left_out.values(), *(reasons for _, reasons in choice.stand_ins.values())]
        problems += [reason for lines in reasons for reason in lines if isinstance(reason, MissingFiles)]
    return problems


def _features(session: Session) -> Any:
    # No network is loaded: this only checks which files exist.
    return session.program.make_features("cpu", None)


# --- what will be downloaded -----------------------------------------------------------------------------


@dataclass(frozen=True)
class FetchPlan:
    """The files to download, by what they belong to."""

    parts: Sequence[tuple[Download, HubListing | None, Mapping[str, RemoteFile]]]
    """Each download with the hub's listing, if it is on the hub, and name -> file to download."""
    refused: Sequence[str]
    """Reasons why some of it cannot be downloaded, each with its remedy."""

    @property
    def files(self) -> list[RemoteFile]:
        return [file for _, _, files in self.parts for file in files.values()]


def make_fetch_plan(downloads: Sequence[Download]) -> FetchPlan:
    """Asks the servers which files there are, and how large. Nothing is downloaded."""
    from bench import hub

    parts: list[tuple[Download, HubListing | None, Mapping[str, RemoteFile]]] = []
    refused = []
    for item in downloads:
        # One server that does not answer does not stop the others.
        try:
            if isinstance(item, WebFile):
                file = RemoteFile(item.url, item.path, item.title, sha256=item.sha256)
                parts.append((item, None, {item.title: replace(file, size=content_length(file))}))
                continue
            listing = hub.list_files(item)
        except DownloadError as error:
            refused.append(str(error))
            continue
        if listing.gated and not hub.token():
            refused.append(hub.gated_remedy(item.repository))
            continue
        # One method may need a part of what another needs.
        planned = {file.url for _, _, files in parts for file in files.values()}
        missing = {name: file for name, file in listing.missing.items() if file.url not in planned}
        parts.append((item, listing, missing))
    return FetchPlan(parts, tuple(dict.fromkeys(refused)))


def _show(plan: FetchPlan, screen: Console) -> None:
    """Prints each download with licence, access and place, its files with their sizes, and the sum."""
    for item, listing, files in plan.parts:
        if isinstance(item, HubFiles):
            assert listing is not None
            title = f"{item.repository} at {listing.commit[:12]}"
            licence, gated = listing.licence, listing.gated
            folder = next((file.path.parent.parent for file in files.values()), None)
        else:
            title, licence, gated, folder = item.url, item.licence, item.gated, item.path.parent
        access = "gated" if gated else "open to everybody"
        _line(screen, f"{title}  (licence: {licence or 'see its page'}; {access})")
        for name, file in files.items():
            arrived = f", {size_text(file.arrived)} of it here already" if file.arrived else ""
            _line(screen, f"  {name}  {size_text(_size(item, file))}{arrived}")
        if folder is not None:
            _line(screen, f"  into {folder}", style="dim")
    if plan.files:
        sizes = [_size(item, file) for item, _, files in plan.parts for file in files.values()]
        rest = sum(size or 0 for size in sizes) - sum(file.arrived for file in plan.files)
        unknown = " and the files of unknown size" if None in sizes else ""
        _line(screen, f"to download: {size_text(max(rest, 0))}{unknown} in {len(plan.files)} files")


def _line(screen: Console, text: str, style: str = "") -> None:
    # Licences and names come from the hub: brackets in them are no markup.
    screen.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _size(item: Download, file: RemoteFile) -> int | None:
    """The file's size, or the rounded one where the server does not state it."""
    return file.size if file.size is not None or isinstance(item, HubFiles) else item.size


def check_room(files: Sequence[RemoteFile]) -> None:
    """Raises :class:`BenchError` where a disk has no room for what is missing."""
    # Disk -> (a folder of it, bytes).
    needed: dict[int, tuple[Path, int]] = {}
    for file in files:
        folder = next(parent for parent in file.path.absolute().parents if parent.exists())
        disk = folder.stat().st_dev
        _, before = needed.get(disk, (folder, 0))
        needed[disk] = (folder, before + max((file.size or 0) - file.arrived, 0))
    for folder, count in needed.values():
        free = shutil.disk_usage(folder).free
        if count > free:
            raise BenchError(
                f"{folder}: {size_text(count)} are needed and {size_text(free)} are free. Make room, or name another "
                "cache with HF_HUB_CACHE or PROMPTEDITBENCH_CACHE."
            )


# --- downloading -----------------------------------------------------------------------------------------


def carry_out(plan: FetchPlan) -> list[str]:
    """Downloads every file of the plan. Returns the reasons of those that failed: one does not stop the others."""
    from bench import hub

    failures = []
    with progress_bar() as progress:
        advance = _megabytes(progress, plan.files)
        for _, listing, files in plan.parts:
            for name, file in files.items():
                try:
                    download(file, advance)
                    if listing is not None:
                        hub.link(listing, name)
                except DownloadError as error:
                    failures.append(str(error))
    return failures


def _megabytes(progress: Progress, files: Sequence[RemoteFile]) -> Callable[[int], None]:
    """Starts a bar of megabytes. Returns a function that takes the number of bytes that came."""
    progress.start(max(1, sum(file.size or 0 for file in files) // _MEGABYTE), "megabytes")
    came = 0

    def advance(count: int) -> None:
        nonlocal came
        before = came // _MEGABYTE
        came += count
        if came // _MEGABYTE != before:
            progress.advance(came // _MEGABYTE - before)

    return advance

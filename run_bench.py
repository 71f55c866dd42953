"""The command line's entry: wires the parts together and mounts their command groups.

``bench`` is the engine and imports none of ``methods``, ``protocols`` and ``reports``. These import ``bench`` alone.
What one part needs of another is handed over here, as a :class:`~bench.session.Program`.

Nothing heavy is imported before a command needs it: ``--help`` and ``list`` answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import __version__
from bench.cli.data import data_app
from bench.cli.fetch import fetch_app
from bench.cli.info import info_app
from bench.cli.judge import judge_app
from bench.cli.main import run_command
from bench.cli.options import examples
from bench.cli.run import run_app
from bench.files import cache_folder
from bench.session import GpuTime, Program, Report, Session
from bench.study.cli import study_app
from methods import METHODS
from methods.cli import methods_app
from methods.zoo.features import make_features
from protocols import PROTOCOLS
from reports.cli import reports_app

if TYPE_CHECKING:
    import pandas as pd

    from bench.store import RunStore
    from bench.thresholds import ThresholdCheck

# --- the parts, each imported on use ---------------------------------------------------------------------


def _write_report(session: Session, store: RunStore) -> Report:
    from reports.record import write_report

    return write_report(session, store)


def _make_tables(session: Session, store: RunStore) -> Mapping[str, pd.DataFrame]:
    from reports.record import table_frames

    return table_frames(session, store)


def _make_world(levels: Sequence[int]) -> Any:
    from protocols.world.world import MiniWorld

    return MiniWorld(levels)


def _run_thresholds(folder: Path) -> Sequence[ThresholdCheck]:
    from reports.data.zoo import run_thresholds

    return run_thresholds(folder)


def _recipes() -> Mapping[str, str]:
    from methods.zoo.recipes import RECIPES

    return RECIPES


def _checkpoint_problems() -> Mapping[str, Sequence[str]]:
    from methods.zoo.features import checkpoint_problems

    return checkpoint_problems()


def _gpu_time(steps: int) -> GpuTime:
    from methods.cli import gpu_time

    return gpu_time(steps)


# The one value that every command and the public API get.
PROGRAM = Program(
    methods=METHODS,
    protocols=PROTOCOLS,
    make_features=make_features,
    write_report=_write_report,
    make_tables=_make_tables,
    make_world=_make_world,
    run_thresholds=_run_thresholds,
    recipes=_recipes,
    checkpoint_problems=_checkpoint_problems,
    cache_folder=cache_folder,
    gpu_time=_gpu_time,
)

# --- the command line ------------------------------------------------------------------------------------

app = typer.Typer(
    name="prompteditbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A benchmark suite for prompt-guided, mask-localised image editing.",
    epilog=examples("demo", "run paper --dry-run", "list methods", "doctor"),
)
# Groups without a name: their commands stand at the top level, in this order.
for group in (run_app, reports_app, data_app, info_app, fetch_app, methods_app):
    app.add_typer(group)
app.add_typer(judge_app, name="judge")
app.add_typer(study_app, name="study")


def _print_version(requested: bool) -> None:
    # Before any command: --version needs none.
    if requested:
        typer.echo(f"prompteditbench {__version__}")
        raise typer.Exit


@app.callback()
def _shared(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (PEB_DEBUG=1 does too).")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # The environment variable reaches the front door, which decides about tracebacks.
    if debug:
        os.environ["PEB_DEBUG"] = "1"
    else:
        # matplotlib logs an error where its cache folder cannot be written, and works without one.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one command and returns its exit code, as :func:`bench.cli.main.run_command` says."""
    return run_command(app, PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())

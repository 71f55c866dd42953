"""Commands of the embedded checkpoints: ``zoo check``, ``zoo strength``, ``zoo leakage``, ``zoo sheet``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.console import print_json
from bench.cli.markers import check_markers, fill_between
from bench.cli.options import Device, Json, examples, open_session, program
from bench.errors import BenchError
from bench.tables.terminal import plain_table
from bench.terminal import check_target, console

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditCase, EditMethod
    from bench.thresholds import ThresholdCheck

zoo_app = typer.Typer(no_args_is_help=True, help="The embedded checkpoints.", epilog=examples("zoo check"))

# The levels of the rendered world, of which the shipped checkpoints learned all three.
Levels = Annotated[
    str, typer.Option(metavar="N,N,...", help="Levels of difficulty of the rendered world, of 1, 2 and 3.")
]
LEVEL_1 = "1"
ALL_LEVELS = "1,2,3"

_STATE_COLORS = {"passed": "green", "missed": "red", "under-trained": "yellow", "measured": ""}
_STATE_MARKS = {"passed": "yes", "missed": "**no**", "under-trained": "under-trained", "measured": ""}


def level_numbers(levels: str) -> tuple[int, ...]:
    """The numbers in a value of ``--levels``, sorted. Raises BenchError for anything but 1, 2 and 3, each once."""
    numbers = [text.strip() for text in levels.split(",")]
    if len(set(numbers)) < len(numbers) or not set(numbers) <= {"1", "2", "3"}:
        raise BenchError(f"--levels {levels}: write one or more of 1, 2 and 3, each once, such as 1,2,3.")
    return tuple(sorted(map(int, numbers)))


@zoo_app.command(
    "check",
    epilog=examples(
        "zoo check",
        "zoo check --json",
        "zoo check --readme docs/checkpoints.md",
        "zoo check --levels 1,2,3 --checkpoint prompt_edit_diff --cases 200",
    ),
)
def zoo_check(
    context: typer.Context,
    as_json: Json = False,
    readme: Annotated[
        Path | None, typer.Option(help="Also write the table into this file, between its markers.")
    ] = None,
    run: Annotated[Path, typer.Option(help="Folder of the finished demo, for two thresholds.")] = Path(
        "runs/demo"
    ),
    levels: Levels = LEVEL_1,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Only this network or method. May be repeated. [default: all]")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Held-out edits of each level.")] = 400,
) -> None:
    """Measure each embedded checkpoint against its thresholds. Exit code 1 if one is missed.

    All of them take more than half an hour on one core: some methods need gradients for each step.

    Thresholds are measured on level 1. On levels 2 and 3 each editor has a figure per kind of edit without a
    threshold, and the attribute classifier must read 98 % of the ground truths.

    A threshold that is missed by a network with fewer training samples than its recipe asks for says so. It does not
    fail the check.
    """
    from dataclasses import asdict

    if checkpoint and readme is not None:
        raise BenchError("--readme writes the table of all checkpoints: leave --checkpoint out.")
    check_markers(readme, "zoo-gates")
    from methods.zoo.thresholds import check

    world = program(context).make_world(level_numbers(levels))
    with console(stderr=True).status("measuring") as status:
        checks = check(
            world,
            cases=cases,
            names=checkpoint or (),
            report=lambda name: status.update(f"measuring {name}"),
        )
    if not checkpoint:
        checks += program(context).run_thresholds(run)
    # On the terminal, then in the README.
    if as_json:
        print_json([asdict(one) for one in checks])
    else:
        _print_checks(checks)
    if readme is not None:
        rows = [
            f"| `{one.name}` | {_figure(one.figure)} | {_figure(one.threshold)} | "
            f"{_STATE_MARKS[one.state]} | {one.full_detail} |"
            for one in checks
        ]
        head = [
            "| checkpoint | figure | threshold | passed | what it is |",
            "| :-- | --: | --: | :-: | :-- |",
        ]
        fill_between(readme, "zoo-gates", [*head, *rows])
    if any(one.state == "missed" for one in checks):
        raise typer.Exit(1)


def _print_checks(checks: Sequence[ThresholdCheck]) -> None:
    from rich.text import Text

    table = plain_table()
    for heading in ("checkpoint", "figure", "threshold", ""):
        table.add_column(heading, justify="right" if heading in ("figure", "threshold") else "left")
    table.add_column("what it is", style="dim")
    for one in checks:
        mark = Text(one.state, style=_STATE_COLORS[one.state])
        table.add_row(one.name, _figure(one.figure), _figure(one.threshold), mark, one.full_detail)
    console().print(table)


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else "–"


@zoo_app.command(
    "strength",
    epilog=examples("zoo strength", "zoo strength prompt_edit_diff --strength 1 --strength 0.9 --cases 32"),
)
def zoo_strength(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint of PromptEditDiff.")] = "prompt_edit_diff",
    strength: Annotated[
        list[float] | None,
        typer.Option(min=0.1, max=1, help="May be repeated. [default: 1, 0.85, 0.7, 0.5]"),
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Held-out edits.")] = 96,
    as_json: Json = False,
) -> None:
    """Compare the option strength of PromptEditDiff on held-out edits.

    RMSE is from the ground truth inside the mask. Its change is from the first strength, on the same edits.
    """
    from methods.zoo.measures import strengths

    with console(stderr=True).status("editing; this takes minutes"):
        values = tuple(strength or (1.0, 0.85, 0.7, 0.5))
        rows = strengths(program(context).make_world((1,)), values, checkpoint, cases)
    _print_measures(
        rows,
        as_json,
        {
            "strength": lambda row: f"{row.strength:g}",
            "category": lambda row: row.category,
            "edits": lambda row: str(row.edits),
            "target shown %": lambda row: f"{100 * row.shown:.1f}",
            "RMSE": lambda row: f"{row.rmse:.4f}",
            "change": lambda row: f"{row.difference:+.4f}",
            "standard error": lambda row: f"{row.error:.4f}",
        },
    )


@zoo_app.command("leakage", epilog=examples("zoo leakage", "zoo leakage prompt_edit_diff --cases 32 --json"))
def zoo_leakage(
    context: typer.Context,
    checkpoint: Annotated[
        list[str] | None,
        typer.Argument(help="Latent editors of the zoo. [default: the autoencoder and four editors]"),
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Held-out edits.")] = 160,
    as_json: Json = False,
) -> None:
    """Measure raw edits outside the mask, by the distance from the latent cells that the mask touches.

    "cells" are the pixels within those cells.
    """
    from methods.zoo.measures import LEAKAGE_OF, leakage

    with console(stderr=True).status("editing; this takes minutes"):
        rows = leakage(program(context).make_world((1,)), checkpoint or LEAKAGE_OF, cases)
    _print_measures(
        rows,
        as_json,
        {
            "checkpoint": lambda row: row.editor,
            "ring": lambda row: row.ring,
            "PSNR dB": lambda row: f"{row.psnr:.1f}",
            "of the pixels %": lambda row: f"{100 * row.pixels:.0f}",
            "of the error %": lambda row: f"{100 * row.error:.0f}",
        },
    )


def _print_measures(rows: Sequence[Any], as_json: bool, columns: Mapping[str, Callable[[Any], str]]) -> None:
    """Prints dataclasses as JSON, or as a table with one text column per function."""
    from dataclasses import asdict

    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = plain_table()
    for heading in columns:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(text(row) for text in columns.values()))
    console().print(table)


@zoo_app.command("sheet", epilog=examples("zoo sheet", "zoo sheet --seed 7 --cases 6 --out sheet.png"))
def zoo_sheet(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="The image to write.")] = Path("docs/contact-sheet.png"),
    seed: Annotated[int, typer.Option(help="Seed that selects the cases.")] = 0,
    cases: Annotated[int, typer.Option(min=1, help="Number of cases.")] = 10,
    device: Device = "auto",
) -> None:
    """Draw held-out cases, chosen by seed, as every embedded method edits them.

    A method whose checkpoint is missing is left out, with the reason.
    """
    from bench.devices import resolve_device
    from bench.edit import Runtime
    from bench.suite import configure_method
    from methods.zoo.contact import contact_sheet

    check_target(out, "--out")
    registry = open_session(context).methods
    runtime = Runtime(resolve_device(device), "float32")
    # Every embedded checkpoint except the autoencoder belongs to a method that edits.
    editors = {}
    for name in registry.names():
        if "mini" not in registry.load(name).PRESETS or name == "autoencoder_round_trip":
            continue
        configured = configure_method(name, registry, preset="mini")
        if configured.problems:
            console(stderr=True).print(f"left out: {name}: {configured.problems[0]}", style="yellow")
            continue
        heading = f"{name}, {configured.spec.remark}" if configured.spec.remark else name
        editors[heading] = _editor(configured.create(runtime))
    # The seed alone chooses the cases, so nobody can pick the best ones.
    numbers = contact_sheet(program(context).make_world((1,)), editors, out, seed=seed, cases=cases)
    console().print(f"{out}: held-out cases {', '.join(map(str, numbers))}")


def _editor(method: EditMethod) -> Callable[[Sequence[EditCase]], Sequence[Image]]:
    # A contact sheet asks for cases, a method for requests.
    def edit_cases(cases: Sequence[EditCase]) -> Sequence[Image]:
        return method.edit([case.request for case in cases])

    return edit_cases

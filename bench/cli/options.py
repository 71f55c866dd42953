"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bench.errors import BenchError
from bench.session import Program, Session

if TYPE_CHECKING:
    from bench.workers import Workers

# Output.
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
# Where and how models run.
Device = Annotated[
    str,
    typer.Option(help="Where models run: auto, cpu, cuda, cuda:1, mps. auto takes the best one there is."),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE,...",
        help="Several devices of this machine, such as cuda:0,cuda:1, in place of --device: a process on each.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A Ray cluster to work on, or local for one of this machine alone."),
]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=1, help="Workers on the Ray cluster. [default: one per GPU]")
]
Dtype = Annotated[
    str, typer.Option(help="float32, float16 or bfloat16. auto is float16 on cuda and float32 elsewhere.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Edits per batch. It is halved where memory runs out.")]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Batches of one edit on one thread, whatever --batch-size says: exact repeats on one kind of machine.",
    ),
]


def _bind_keys(pairs: list[str] | None) -> list[str] | None:
    from bench.endpoints.servers import bind_key

    for pair in pairs or ():
        bind_key(pair)
    return pairs


# Servers. The keys are bound before the command begins, so commands do not read the value.
Key = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="HOST=VARIABLE",
        callback=_bind_keys,
        help="The environment variable that has a server's key, such as openrouter.ai=ROUTER_KEY. May be repeated.",
    ),
]
# Extensions and protocols.
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A module that adds methods, protocols or metrics. May be repeated."),
]
ProtocolOption = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the protocol. May be repeated."),
]
# Suites and run folders.
Out = Annotated[Path | None, typer.Option("--out", help="The run folder. [default: runs/SUITE]")]
SuiteName = Annotated[
    str, typer.Argument(metavar="SUITE", help="A shipped suite (demo, mini, paper) or a YAML file.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan: counts and estimated work.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Cases per category, fewer than the suite's. The folder is then SUITE-limit-N."),
]
# What is printed.
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and warnings.")]
AllColumns = Annotated[bool, typer.Option("--all", help="Print every column, not only the five main ones.")]


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    # rich's markup; typer prints the epilog under the options.
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(
        f"[cyan]python run_bench.py {line}[/cyan]" for line in lines
    )


def program(context: typer.Context) -> Program:
    """Returns the program that ``run_bench.py`` passes to every command."""
    return cast(Program, context.obj)


def open_session(context: typer.Context, plugins: Sequence[str] | None = None) -> Session:
    """Starts a session with the plug-ins of ``--plugin``."""
    return program(context).session(plugins)


def several(
    device: str, devices: str | None, ray: str | None, count: int | None, *, deterministic: bool = False
) -> AbstractContextManager[Workers | None]:
    """The workers of ``--devices`` or ``--ray``, which end with the context. None where neither is given."""
    from bench.workers import open_workers

    # An empty name among the devices is refused as every wrong name.
    names = () if devices is None else tuple(name.strip() for name in devices.split(","))
    threads = 1 if deterministic else None
    return open_workers(device=device, devices=names, ray=ray, count=count, threads=threads) or nullcontext()


def key_values(
    pairs: Sequence[str] | None, option: str = "--option", example: str = "root=data/coco"
) -> dict[str, Any]:
    """Parses the ``KEY=VALUE`` texts of an option. Values are read as YAML does."""
    import yaml

    from bench.suite_yaml import read_yaml

    # The last of two equal keys counts, as on other command lines.
    values: dict[str, Any] = {}
    for pair in pairs or ():
        # The value may hold further equals signs.
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BenchError(f"{option} {pair!r}: write KEY=VALUE, such as {example}.")
        # 3 is a number, true a boolean, [a, b] a list.
        try:
            values[key] = read_yaml(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BenchError(
                f"{option} {pair!r}: {value!r} is not a YAML value. Put it in quotes."
            ) from error
    return values

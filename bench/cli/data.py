"""Commands about single cases: ``cases`` exports them, ``measure`` scores one pair of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import print_json, progress_bar, warn
from bench.cli.options import Device, Json, Plugin, ProtocolOption, examples, key_values, open_session
from bench.errors import BenchError
from bench.tables.terminal import plain_table
from bench.terminal import check_target, console

if TYPE_CHECKING:
    from bench.edit import EditCase
    from bench.progress import Progress
    from bench.session import Session

data_app = typer.Typer()


@data_app.command(
    epilog=examples(
        "cases mini-coco --out cases/mini-coco",
        "cases celeba_hq --out cases/celeba -o root=data/CelebAMask-HQ",
        "cases pie_bench --outputs runs/pie --out pie-results",
        "cases --outputs runs/mini-gedit --layout gedit --out gedit-results",
    )
)
def cases(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    protocol: Annotated[
        str | None,
        typer.Argument(
            metavar="PROTOCOL",
            help="A name that `list protocols` prints. With --outputs, it may be left out for a run of one protocol.",
            show_default=False,
        ),
    ] = None,
    option: ProtocolOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Cases per category. [default: all]")] = None,
    outputs: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Export the edits of this run instead, in the benchmark's own layout for its official scorer.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="BENCHMARK",
            help="With --outputs: the published benchmark whose layout is taken. [default: that of the run's protocol]",
        ),
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Export a protocol's cases as JSONL and PNG, for use without this code."""
    from bench.casefile import protocol_info, write_cases

    if outputs is not None:
        if option or limit is not None:
            raise BenchError("--outputs takes the cases of the run: leave --option and --limit out.")
        _export_outputs(open_session(context, plugin), outputs, protocol, out, layout)
        return
    if layout is not None:
        raise BenchError("--layout goes with --outputs RUN, whose edits it arranges.")
    if protocol is None:
        raise BenchError("Name a PROTOCOL: `list protocols` prints them.")
    check_target(out / "cases.jsonl", "--out")
    # Cases are made one by one while they are written.
    created = open_session(context, plugin).protocol(protocol, key_values(option))
    selected = limited_cases(created.cases(), limit)
    with progress_bar() as progress:
        progress.start(len(selected), f"cases of {protocol}")
        write_cases(out, _counted(selected, progress), protocol_info(created))
    console().print(f"{len(selected)} cases in {out}")


def _export_outputs(session: Session, run: Path, protocol: str | None, out: Path, layout: str | None) -> None:
    """Writes a run's edits in the layout of a benchmark, and prints one line for each method."""
    from bench.output_layout import protocol_to_export, write_outputs

    store = session.open_run(run)
    protocol = protocol or protocol_to_export(session, store, layout)
    for folder, count in write_outputs(session, store, protocol, out, layout).items():
        console().print(f"{count.written} edits in {out / folder}")
        if count.missing:
            warn(
                console(stderr=True),
                f"{out / folder}: {count.missing} cases have no edit: it failed, or the case lacks what the method "
                "needs. The official scorer may stop at them. Running the suite again makes failed edits.",
            )


def limited_cases(cases: Sequence[EditCase], limit: int | None) -> list[EditCase]:
    """Selects ``limit`` cases per category by the hash of their ids, as a suite's ``limit`` does."""
    from bench.suite import limited

    # Cases stay in the order of the protocol, with and without a limit.
    if limit is None:
        return list(cases)
    selected = limited({case.id: case.category for case in cases}, limit)
    return [case for case in cases if case.id in selected]


def _counted(cases: Iterable[EditCase], progress: Progress) -> Iterator[EditCase]:
    # The case counts once the writer asks for the next one.
    for case in cases:
        yield case
        progress.advance()


@data_app.command(
    epilog=examples(
        "measure before.png after.png --mask mask.png --json",
        "measure before.png after.png --mask mask.png --target-prompt 'a red car on a road'",
    )
)
def measure(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The image before.")],
    edited: Annotated[Path, typer.Argument(metavar="EDITED", help="The image after, of the same size.")],
    mask: Annotated[
        Path,
        typer.Option(
            help="The mask, of the same size: white where to edit. Or the photo itself, transparent where to edit."
        ),
    ],
    target_prompt: Annotated[str, typer.Option(help="What the edited image shall show.")] = "",
    source_prompt: Annotated[str, typer.Option(help="What the source shows.")] = "",
    region_prompt: Annotated[str, typer.Option(help="What the region shall show.")] = "",
    rendered: Annotated[
        bool,
        typer.Option(
            "--rendered", help="The images show the rendered world, so the embedded CLIP may score them."
        ),
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Compute all metrics of single edits for one pair.

    A metric whose weights are missing has no value. The reason is printed with its remedy.
    """
    from bench.api import measure_pair

    scores = measure_pair(
        open_session(context, plugin),
        source,
        edited,
        mask,
        target_prompt=target_prompt,
        source_prompt=source_prompt,
        region_prompt=region_prompt,
        rendered=rendered,
        device=device,
    )
    # An inverted mask is the most frequent mistake. Then mostly the area outside the mask was repainted.
    inside, outside = (scores[name].value if name in scores else None for name in ("edit_area", "leak_area"))
    if inside is not None and outside is not None and outside >= 0.2 and inside <= 0.1 * outside:
        warn(
            console(stderr=True),
            f"{inside:.1%} of the area inside the mask was repainted, {outside:.1%} of the area outside: "
            f"is {mask} inverted? White is where to edit.",
        )
    # Every metric with its value, or with the reason why it has none.
    if as_json:
        print_json(
            {
                name: {"value": score.value, "reason": score.reason, "unit": score.unit}
                for name, score in scores.items()
            }
        )
        return
    # A metric without a value shows its reason in place of its description.
    table = plain_table()
    table.add_column("metric", style="bold", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("what it is", style="dim")
    for name, score in scores.items():
        value = f"{score.value:.4f}" if score.value is not None else "–"
        table.add_row(name, value, score.unit, score.reason or score.summary)
    console().print(table)

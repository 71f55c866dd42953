"""``judge``: scores a run's edits by a vision-language model behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import complain, progress_bar, warn
from bench.cli.options import DryRun, Key, Plugin, Quiet, RunFolder, examples, key_values, open_session
from bench.errors import BenchError
from bench.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

    from bench.judges.options import JudgeOptions
    from bench.session import Session
    from bench.store import RunStore

judge_app = typer.Typer(no_args_is_help=True, help="Judge edits by a vision-language model behind a server.")

Rubric = Annotated[
    str | None, typer.Option(help="masked-edit, viescore or imgedit. [default: the suite's judges]")
]
Model = Annotated[str | None, typer.Option(help="The model that the server is asked for.")]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="An option of the judge, such as passes=3. May be repeated.",
    ),
]


@judge_app.callback()
def _group() -> None:
    """Judge edits by a vision-language model behind a server."""


@judge_app.command(
    epilog=examples(
        "judge edits runs/demo --rubric masked-edit --model gpt-4.1-2025-04-14 -o server=openai --dry-run",
        "judge edits runs/demo --rubric masked-edit --model Qwen/Qwen3-VL-8B-Instruct -o passes=3",
        "judge edits runs/gedit --rubric viescore --model gpt-4.1 -o server=openai -o prompts=VIEScore/prompts_raw",
    )
)
def edits(
    context: typer.Context,
    folder: RunFolder,
    rubric: Rubric = None,
    model: Model = None,
    option: JudgeOption = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    key: Key = None,
    plugin: Plugin = None,
) -> None:
    """Score each edit by a rubric. Stored replies are not asked for again; the same command goes on."""
    from bench.store import RunStore

    screen = console(quiet=quiet)
    session = open_session(context, plugin)
    with RunStore.open(folder) as store:
        judges = _judges(store, rubric, model, option)
        if dry_run:
            for options in judges:
                print_estimate(session, store, options, screen)
                print_warnings(session, store, options, screen)
            return
        if judge_and_print(session, store, judges, screen):
            raise typer.Exit(1)


@judge_app.command(
    epilog=examples(
        "judge pairs runs/demo --model gpt-4.1-2025-04-14 -o server=openai --dry-run",
        "judge pairs runs/demo --model Qwen/Qwen3-VL-8B-Instruct",
        "study analyse --votes runs/demo/judge/votes.csv --rater-kind model",
    )
)
def pairs(
    context: typer.Context,
    folder: RunFolder,
    model: Annotated[str, typer.Option(help="The model that the server is asked for.")],
    option: JudgeOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file of the votes, .csv or .parquet. [default: RUN/judge/votes.csv]"),
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    key: Key = None,
    plugin: Plugin = None,
) -> None:
    """Ask which of two edits is better, in both orders, and write votes for study analyse."""
    from bench.judges.options import parse_judge
    from bench.judging import judge_pairs_of_edits
    from bench.store import RunStore
    from bench.study.exchange import check_ending, export_votes

    if out is not None:
        check_ending(out)
    screen = console(quiet=quiet)
    session = open_session(context, plugin)
    values = key_values(option, example="server=openai")
    options = parse_judge({**values, "rubric": "pairs", "model": model}, "judge pairs")
    # The calls are counted, and made, for the pairs that have no reply yet.
    with RunStore.open(folder) as store:
        if dry_run or not options.is_world:
            print_estimate(session, store, options, screen)
        file = out or store.path / "judge" / "votes.csv"
        _warn_of_other_votes(file, session, store, options, screen)
        if dry_run:
            return
        with progress_bar(screen) as progress:
            votes, summary = judge_pairs_of_edits(session, store, options, progress=progress)
        for line in summary.lines():
            screen.print(line, soft_wrap=True)
        if len(votes):
            export_votes(votes, file)
            screen.print(f"votes: {file}", soft_wrap=True)
    if summary.stopped:
        complain(f"judge pairs was stopped before its end: {summary.stopped}")
        raise typer.Exit(1)


def _warn_of_other_votes(
    file: Path, session: Session, store: RunStore, options: JudgeOptions, screen: Console
) -> None:
    """Warns where a file has votes of another judge, which those of this one will replace."""
    from bench.judges.pairwise import study_of_votes
    from bench.judging import ready_judge
    from bench.study.exchange import ExchangeError, import_votes

    try:
        studies = set(import_votes(file)["study"]) if file.exists() else set()
    except ExchangeError:
        # A damaged file is written anew.
        studies = set()
    judge, _ = ready_judge(session, store, options)
    if studies - {study_of_votes(judge)}:
        warn(screen, f"{file} has votes of another judge, which these replace. To keep both, set --out")


def print_estimate(session: Session, store: RunStore, options: JudgeOptions, screen: Console) -> None:
    """Prints calls, least time and cost of the questions that have no reply."""
    from bench.judging import estimate_calls

    calls = estimate_calls(session, store, options)
    screen.print(f"judge {options.rubric} by {options.model}: {calls}", soft_wrap=True)


def print_warnings(session: Session, store: RunStore, options: JudgeOptions, screen: Console) -> None:
    """Prints what a user must know before the judge is asked."""
    from bench.judging import judge_warnings

    for warning in judge_warnings(session, [options], store):
        warn(screen, warning)


def judge_and_print(
    session: Session, store: RunStore, judges: Sequence[JudgeOptions], screen: Console
) -> bool:
    """Judges a run and prints what was done. True where a ceiling stopped a judge before its end."""
    from bench.judging import judge_edits

    stopped = False
    for options in judges:
        # What it may cost, before the first call.
        if not options.is_world:
            print_estimate(session, store, options, screen)
        print_warnings(session, store, options, screen)
        with progress_bar(screen) as progress:
            _, summary = judge_edits(session, store, options, progress=progress)
        shared = f", {summary.shared} from the cache" if summary.shared else ""
        bill = f"; {summary.bill}" if summary.bill else ""
        screen.print(
            f"judge {options.rubric}: {summary.calls} replies, {summary.stored} there already{shared}{bill}",
            soft_wrap=True,
        )
        for name, deviation in summary.retest.items():
            screen.print(f"  {name}: standard deviation between passes {deviation:.2f}", style="dim")
        for remark in summary.remarks():
            warn(screen, f"judge {options.rubric}: {remark}")
        if summary.stopped:
            complain(f"judge {options.rubric} was stopped before its end: {summary.stopped}")
            stopped = True
    return stopped


def _judges(
    store: RunStore, rubric: str | None, model: str | None, option: list[str] | None
) -> list[JudgeOptions]:
    """The judge of the options, or those of the run's suite."""
    from bench.judges.options import check_judges, parse_judge

    if rubric is None:
        entries = (store.manifest.get("suite") or {}).get("judges") or []
        if model is not None or option:
            raise BenchError(
                "--model and --option need --rubric, which names what the judge is asked. Add it."
            )
        if not entries:
            raise BenchError(f"{store.path}: its suite has no judges. Name one with --rubric and --model.")
    else:
        if model is None:
            raise BenchError("--rubric needs --model, the model that judges. Add it.")
        values = key_values(option, example="passes=3")
        entries = [{**values, "rubric": rubric, "model": model}]
    judges = [parse_judge(values, f"judges[{index}]") for index, values in enumerate(entries)]
    check_judges(judges)
    return judges

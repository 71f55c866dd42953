"""``run_bench.py study ...``: makes and serves studies, invites raters, and passes the votes to the analysis.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bench.cli.console import plain_value, print_json, print_rows
from bench.cli.options import Json, Plugin, open_session
from bench.study import StudyError
from bench.study.cli_options import (
    Adaptive,
    BothBad,
    Kinds,
    Methods,
    MostCases,
    Name,
    OpenRegistration,
    Overlap,
    Questions,
    Scales,
    ScalesFile,
    SettingsFile,
    Share,
    Store,
    examples,
)
from bench.study.cli_raters import raters_app
from bench.study.serving import (
    ADDRESS,
    PASSWORD_VARIABLE,
    STORE,
    become_server,
    changed_files_remark,
    check_server_installed,
    open_store,
    served_at,
)
from bench.terminal import console

if TYPE_CHECKING:
    from bench.study.design import Design
    from bench.study.settings import StudySettings
    from bench.study.types import Kind
    from bench.study.votes.exclusion import Exclusion


study_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Human preference: make a study of stored edits, collect votes, analyse them.",
    epilog=examples(
        "create runs/demo --name taste", "invite taste --count 20", "serve taste", "analyse taste"
    ),
)


@study_app.command(
    epilog=examples(
        "create runs/demo --name taste",
        "create runs/paper --name paper --raters 20 --trials 60 --question overall --question prompt",
        "create runs/a runs/b --name best --kind best --method 'Blended Diffusion' --method GLIDE",
        "create runs/paper --name ratings --kind rate --scale sc --scale pq --overlap 3",
        "create runs/paper --name paper --settings study.yaml --dry-run",
    )
)
def create(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders with stored edits.")],
    name: Annotated[str, typer.Option(help="Name of the study.")],
    # Which edits are compared, and what is asked.
    method: Methods = None,
    kind: Kinds = None,
    question: Questions = None,
    scale: Scales = None,
    scales: ScalesFile = None,
    # How many trials each rater gets.
    raters: Annotated[int, typer.Option(help="Number of raters. Each answers --trials trials.")] = 20,
    trials: Annotated[int, typer.Option(help="Answers per rater, with repeats and attention checks.")] = 40,
    repeats: Annotated[int, typer.Option(help="Of these, trials shown a second time.")] = 4,
    attention: Annotated[int, typer.Option(help="Of these, trials whose answer is known.")] = 6,
    practice: Annotated[int, typer.Option(help="Trials that come first and do not count.")] = 2,
    cases: MostCases = None,
    overlap: Overlap = 1,
    ties: Annotated[bool, typer.Option("--ties/--no-ties", help="Allow ties in pairs, or not.")] = True,
    both_bad: BothBad = False,
    adaptive: Adaptive = False,
    seed: Annotated[int, typer.Option(help="The same seed and edits give the same study.")] = 0,
    # Texts and admission.
    settings: SettingsFile = None,
    open_registration: OpenRegistration = False,
    # What is printed and stored.
    share: Share = 0.6,
    store: Store = STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the design and its power only.")] = False,
) -> None:
    """Make a study of stored edits, and print which differences it can detect."""
    from bench.study.build import build
    from bench.study.design import DesignOptions
    from bench.study.results import exclusion_rule
    from bench.study.scales import read_scales
    from bench.study.settings import read_settings

    # An exclusion rule that cannot be read is refused before anyone votes.
    study_settings = read_settings(settings, open_registration=open_registration)
    rule = exclusion_rule(study_settings.exclusion)
    # The design reads every image of the runs once, for its hash.
    design = build(
        runs,
        DesignOptions(
            methods=tuple(method or ()),
            kinds=cast("tuple[Kind, ...]", tuple(kind or ("pair",))),
            questions=tuple(question or ("overall",)),
            raters=raters,
            trials=trials,
            repeats=repeats,
            attention=attention,
            practice=practice,
            cases_per_category=cases,
            ties=ties,
            seed=seed,
            overlap=overlap,
            both_bad=both_bad,
            adaptive=adaptive,
            scales=read_scales(scale or (), scales) if "rate" in (kind or ()) or scale or scales else (),
        ),
    )
    _print_design(design, rule, share)
    if not dry_run:
        _store_study(store, name, design, study_settings)


def _print_design(design: Design, rule: Exclusion, share: float) -> None:
    from bench.study.forecast import power_lines, quality_lines

    for figure, value in design.describe().items():
        typer.echo(f"{figure}: {plain_value(value)}")
    for line in (*power_lines(design, share), *quality_lines(design, rule)):
        typer.echo(line)


def _store_study(store: str, name: str, design: Design, settings: StudySettings) -> None:
    # The password is optional here: a script sets it by the variable, a person by `study password`.
    admin_password = os.environ.get(PASSWORD_VARIABLE)
    with open_store(store, create=True) as opened:
        opened.create(name, design, settings, admin_password=admin_password)
        typer.echo(f"study {name} is in {opened.name}")
    if admin_password is None:
        typer.echo(f"its admin page needs a password: run_bench.py study password {name}")


@study_app.command(
    epilog=examples("invite taste --count 20", "invite taste --count 5 --url https://study.example.org")
)
def invite(
    study: Name,
    count: Annotated[int, typer.Option(help="Number of links. Each is valid for one rater.")] = 1,
    days: Annotated[float, typer.Option(help="Days for which the links are valid.")] = 30,
    note: Annotated[str, typer.Option(help="A note of yours, stored with the invitations.")] = "",
    url: Annotated[
        str | None,
        typer.Option(help="Address of the study. [default: where `study serve` last served it]"),
    ] = None,
    store: Store = STORE,
) -> None:
    """Print invitation links, one per line."""
    with open_store(store) as opened:
        address = url or opened.address(study)
        # On standard error, so that the links alone can be piped into a file.
        if address is None:
            address = ADDRESS
            typer.echo(
                f"The study has not been served yet: the links lead to {ADDRESS}, where `study serve {study}` "
                "serves it without options. Name another place with --url.",
                err=True,
            )
        for token in opened.invite(study, count, days=days, note=note):
            typer.echo(f"{address.rstrip('/')}/?invitation={token}")


@study_app.command(epilog=examples("password taste", "serve taste"))
def password(study: Name, store: Store = STORE) -> None:
    """Set the password of a study's admin page. You are asked for it, or PEB_STUDY_PASSWORD has it."""
    with open_store(store) as opened:
        # Raises for an unknown study before the question is asked.
        opened.study(study)
        admin_password = os.environ.get(PASSWORD_VARIABLE)
        if admin_password is None:
            admin_password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        opened.set_admin_password(study, admin_password)
    typer.echo(f"the password of {study} is set")


@study_app.command(epilog=examples("serve taste", "serve taste --port 80 --address 0.0.0.0"))
def serve(
    study: Name,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 8501,
    address: Annotated[
        str, typer.Option(help="Network to listen on: 0.0.0.0 is every network, localhost this machine only.")
    ] = "localhost",
    url: Annotated[
        str | None,
        typer.Option(
            help="The address that raters use, if it differs, such as https://study.example.org behind a proxy."
        ),
    ] = None,
    store: Store = STORE,
) -> None:
    """Serve a study to raters' browsers until it is stopped. `invite` makes links that lead there."""
    check_server_installed()
    with open_store(store) as opened:
        if remark := changed_files_remark(opened.study(study).design):
            typer.echo(remark, err=True)
        # `study invite` makes links that lead here.
        opened.set_address(study, served_at(address, port) if url is None else url.rstrip("/"))
    become_server(study, store, port, address)


@study_app.command(epilog=examples("status", "status taste", "status taste --json"))
def status(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="[default: all]")] = None,
    as_json: Json = False,
    store: Store = STORE,
) -> None:
    """Show the progress of studies, and the quality of each rater's answers in one."""
    from dataclasses import asdict

    with open_store(store) as opened:
        names = [study] if study else opened.studies()
        counts = {name: opened.status(name) for name in names}
        raters = [asdict(rater) for rater in opened.quality(study)] if study else []
    if as_json:
        print_json({"studies": {name: one.to_dict() for name, one in counts.items()}, "raters": raters})
        return
    print_rows([{"study": name, **asdict(one)} for name, one in counts.items()])
    if raters:
        # Times are for programs, and only recruited raters have an id of a service.
        hidden = {"first_vote", "last_vote"}
        if not any(row["external"] for row in raters):
            hidden.add("external")
        print_rows([{key: value for key, value in row.items() if key not in hidden} for row in raters])


@study_app.command(
    "export",
    epilog=examples("export taste votes.csv", "export taste votes.parquet --anonymous"),
)
def export_(
    study: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv or .parquet.")],
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Replace raters by pseudonyms that cannot be traced back.")
    ] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="Votes of simulated raters.")] = False,
    store: Store = STORE,
) -> None:
    """Write a study's votes to a file."""
    from bench.study import exchange
    from bench.study.results import stored_votes

    with open_store(store) as opened:
        votes = stored_votes(opened, study, simulated=simulated)
    if anonymous:
        # The key is not stored, so nobody can find a rater by trying names.
        votes = exchange.anonymise(votes)
    exchange.export_votes(votes, file)
    typer.echo(f"{len(votes)} votes in {file}")


@study_app.command(
    "import",
    epilog=examples(
        "import site-a.csv site-b.parquet --out all.parquet",
        "import judge.jsonl --arena --rater-kind model --protocol gedit --out judge.parquet",
    ),
)
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="As `study export` writes them.")],
    out: Annotated[Path, typer.Option(help="File for the votes of all: .csv or .parquet.")],
    arena: Annotated[
        bool,
        typer.Option(
            "--arena", help="The files have columns model_a, model_b and winner, as arenas publish them."
        ),
    ] = False,
    rater_kind: Annotated[
        str | None, typer.Option(help="With --arena: human or model. Whose votes the files hold.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="With --arena: the data set that the edits are of.")
    ] = "arena",
    question: Annotated[str, typer.Option(help="With --arena: the question that was asked.")] = "overall",
) -> None:
    """Check exported votes and join them in one file. A vote that is in two of them counts once."""
    from bench.study.arena import Origin, import_arena
    from bench.study.exchange import export_votes
    from bench.study.results import join_votes, read_votes

    if arena != (rater_kind in ("human", "model")):
        raise StudyError("--arena and --rater-kind human or model belong together: name both or neither.")
    if arena:
        assert rater_kind is not None
        origins = [Origin(file.stem, rater_kind, protocol, question, rater=file.stem) for file in files]
        parts = [import_arena(file, origin) for file, origin in zip(files, origins, strict=True)]
        votes = join_votes([(str(file), part) for file, part in zip(files, parts, strict=True)])
    else:
        votes = read_votes(files)
    export_votes(votes, out)
    typer.echo(f"{len(votes)} votes in {out}")


@study_app.command(
    epilog=examples(
        "analyse taste",
        "analyse taste --scores runs/paper --out runs/paper/report/study",
        "analyse --votes all.parquet --out report",
        "analyse taste taste-2",
        "analyse taste --simulated",
    )
)
def analyse(
    context: typer.Context,
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY...]", help="A study, or several waves of one, which are counted together."
        ),
    ] = None,
    votes: Annotated[Path | None, typer.Option(help="A file of exported votes, in place of STUDY.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="The run whose metrics are compared with the votes.")
    ] = None,
    plugin: Plugin = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the tables. [default: runs/study-STUDY]")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 2000,
    seed: Annotated[int, typer.Option()] = 0,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Analyse simulated raters, to try the analysis.")
    ] = False,
    rater_kind: Annotated[
        str, typer.Option(help="With --votes: human, simulated or model. Kinds are never counted together.")
    ] = "human",
    store: Store = STORE,
) -> None:
    """Compute preference shares, win matrix, strengths, agreement and attention, with intervals."""
    from bench.study import results
    from bench.study.exchange import import_votes
    from bench.study.votes import show
    from bench.study.votes.analysis import analyse as analyse_votes
    from bench.tables.terminal import terminal

    if (not studies) == (votes is None):
        raise StudyError("study analyse: name either a study or a file of votes (--votes).")
    # The session leaves out scores that embedded networks gave to photographs.
    metric_scores = None
    if scores is not None:
        metric_scores = results.run_scores(open_session(context, plugin).open_run(scores))

    # The analysis, of a study in the store or of a file.
    common: dict[str, Any] = {
        "scores": metric_scores,
        "simulated": simulated,
        "resamples": resamples,
        "seed": seed,
    }
    if studies:
        source = "-".join(studies)
        analysis, _ = results.analyse_studies(studies, store, **common)
    else:
        assert votes is not None
        source = votes.stem
        analysis = analyse_votes(import_votes(votes), rater_kind=rater_kind, **common)

    # On the screen, and as files.
    screen = console()
    for part in terminal(show.tables(analysis), screen.width):
        screen.print(part)
    folder = out or Path("runs") / f"study-{source}"
    show.write_analysis(analysis, folder)
    typer.echo(f"tables: {folder}")


@study_app.command(
    "continue", epilog=examples("continue taste --name taste-2 --raters 10", "analyse taste taste-2")
)
def continue_(
    study: Name,
    name: Annotated[str, typer.Option(help="Name of the second wave.")],
    raters: Annotated[int | None, typer.Option(help="Number of raters. [default: as before]")] = None,
    store: Store = STORE,
) -> None:
    """Make a second wave of a study: the same edits, questions and terms, other comparisons and other raters."""
    from dataclasses import replace

    from bench.study.build import build
    from bench.study.results import exclusion_rule

    with open_store(store) as opened:
        first = opened.study(study)
        options = first.design.options
        # Another seed gives other comparisons. A wave of a wave has a seed of its own too.
        design = build(
            first.design.runs,
            replace(
                options,
                methods=first.design.methods,
                seed=options.seed + 1,
                raters=options.raters if raters is None else raters,
            ),
        )
        if design.method_digests != first.design.method_digests:
            raise StudyError(
                f"{study}: its run folders hold other methods now than when it was made. Restore them, or create a "
                "study of its own."
            )
        settings = replace(first.settings, continues=study)
        _print_design(design, exclusion_rule(settings.exclusion), 0.6)
        opened.create(name, design, settings, admin_password=os.environ.get(PASSWORD_VARIABLE))
    typer.echo(f"{name} continues {study}: raters of {study} are not taken again")


# Commands about single raters.
study_app.add_typer(raters_app)


@study_app.command("close", epilog=examples("close taste"))
def close(study: Name, store: Store = STORE) -> None:
    """End a study: no new raters and no new trials. Answers that are under way still count."""
    with open_store(store) as opened:
        opened.close_study(study)
    typer.echo(f"{study} is closed")

"""``run_bench.py study ...``: makes studies, invites, serves, and hands the votes to the analysis.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bench.cli.options import open_session
from bench.study import StudyError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from bench.store import RunStore
    from bench.study.design import Design
    from bench.study.interface import RaterRecord
    from bench.study.store import StudyStore
    from bench.study.votes.analysis import Analysis
    from bench.study.votes.exclusion import Exclusion

STORE = "runs/studies.db"
STORE_VARIABLE = "PEB_STUDY_STORE"
"""The environment variable that names the store; the app reads it too."""
NAME_VARIABLE = "PEB_STUDY_NAME"
"""The environment variable by which ``serve`` tells the app which study to show."""
ADDRESS = "http://localhost:8501"
"""Where ``serve`` serves without options."""
PASSWORD_VARIABLE = "PEB_STUDY_PASSWORD"
APP = Path(__file__).parent / "app" / "site" / "app.py"
"""Script for ``streamlit run``. It has a folder of its own, which Streamlit puts first in ``sys.path``."""
MANY_RANDOM = 0.2
"""Share of random raters that pass the attention checks, above which ``create`` asks for more checks."""


class UsageError(StudyError):
    """A command that cannot be carried out as it was given."""


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(
        f"[cyan]python run_bench.py study {line}[/cyan]" for line in lines
    )


study_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Human preference: make a study of stored edits, collect votes, analyse them.",
    epilog=_examples(
        "create runs/demo --name taste", "invite taste --count 20", "serve taste", "analyse taste"
    ),
)

Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar=STORE_VARIABLE,
        help="A SQLite file, or a PostgreSQL URL such as postgresql://user@host/name.",
    ),
]
Name = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name, as `study status` lists it.")]
Who = Annotated[
    str,
    typer.Argument(
        metavar="RATER",
        help="A completion code, what a recruiting service calls the rater (PROLIFIC_PID), their personal link, or "
        "the rater's id, as `study status` lists it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@study_app.command(
    epilog=_examples(
        "create runs/demo --name taste",
        "create runs/paper --name paper --raters 20 --trials 60 --question overall --question prompt",
        "create runs/a runs/b --name best --kind best --method 'Blended Diffusion' --method GLIDE",
        "create runs/paper --name paper --settings study.yaml --dry-run",
    )
)
def create(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders with stored edits.")],
    name: Annotated[str, typer.Option(help="What the study is called.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method to compare. May be repeated; [default: all but controls]"),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="pair (two, or a tie) or best (of all). [default: pair]")
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(help="overall, prompt, preserve or real. May be repeated; [default: overall]"),
    ] = None,
    raters: Annotated[int, typer.Option(help="Raters who answer everything.")] = 20,
    trials: Annotated[int, typer.Option(help="Answers per rater, with repeats and attention checks.")] = 40,
    repeats: Annotated[int, typer.Option(help="Of these, trials shown a second time.")] = 4,
    attention: Annotated[int, typer.Option(help="Of these, trials whose answer is known.")] = 6,
    practice: Annotated[int, typer.Option(help="Trials that come first and do not count.")] = 2,
    cases: Annotated[
        int | None, typer.Option(help="At most so many cases per category. [default: all]")
    ] = None,
    overlap: Annotated[
        int, typer.Option(help="Raters per comparison; 2 or more measure how far raters agree.")
    ] = 1,
    ties: Annotated[bool, typer.Option("--ties/--no-ties", help="Whether a pair may be a tie.")] = True,
    seed: Annotated[int, typer.Option(help="The same seed and edits give the same study.")] = 0,
    settings: Annotated[
        Path | None,
        typer.Option(help="YAML: title, consent, instructions, completion_code, return_url, exclusion, ..."),
    ] = None,
    open_registration: Annotated[
        bool, typer.Option("--open", help="Anyone may take part, without an invitation.")
    ] = False,
    share: Annotated[
        float, typer.Option(help="The preference to resolve: 0.6 is 60 of 100 votes that are no ties.")
    ] = 0.6,
    store: Store = STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the design and its power only.")] = False,
) -> None:
    """Make a study of stored edits, and say which differences it can resolve."""
    from dataclasses import replace
    from typing import cast

    from bench.study.build import build
    from bench.study.design import DesignOptions
    from bench.study.types import Kind

    options = DesignOptions(
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
    )
    given = _settings(settings)
    if open_registration:
        given = replace(given, open_registration=True)
    rule = _exclusion(given.exclusion)  # a rule that cannot be read is refused before anyone votes
    design = build(runs, options)
    console = _console()
    for key, value in design.describe().items():
        console.print(f"{key}: {_plain(value)}", highlight=False, markup=False, soft_wrap=True)
    for line in (*power_lines(design, share), *quality_lines(design, rule)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if dry_run:
        return
    password = os.environ.get(PASSWORD_VARIABLE)
    with _open(store, create=True) as opened:
        opened.create(name, design, given, admin_password=password)
        console.print(f"study {name} is in {opened.name}", highlight=False, markup=False)
    if password is None:
        console.print(f"its admin page needs a password: run_bench.py study password {name}", markup=False)


@study_app.command(
    epilog=_examples("invite taste --count 20", "invite taste --count 5 --url https://study.example.org")
)
def invite(
    study: Name,
    count: Annotated[int, typer.Option(help="How many; each is good for one rater.")] = 1,
    days: Annotated[float, typer.Option(help="How long they are good.")] = 30,
    note: Annotated[str, typer.Option(help="Kept with them, for you.")] = "",
    url: Annotated[
        str | None,
        typer.Option(help="Where the study is served. [default: where `study serve` last served it]"),
    ] = None,
    store: Store = STORE,
) -> None:
    """Print invitation links, one per line."""
    with _open(store) as opened:
        served = opened.address(study)
        if url is None and served is None:
            typer.echo(
                f"The study has not been served yet: the links lead to {ADDRESS}, where `study serve {study}` "
                "serves it without options. Name another place with --url.",
                err=True,
            )
        url = url or served or ADDRESS
        for token in opened.invite(study, count, days=days, note=note):
            typer.echo(f"{url.rstrip('/')}/?invitation={token}")


@study_app.command(epilog=_examples("password taste", "serve taste"))
def password(
    study: Name,
    store: Store = STORE,
) -> None:
    """Set the password of a study's admin page: asked for, or taken from PEB_STUDY_PASSWORD."""
    with _open(store) as opened:
        opened.study(study)
        given = os.environ.get(PASSWORD_VARIABLE)
        if given is None:
            given = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        opened.set_admin_password(study, given)
    _console().print(f"the password of {study} is set", markup=False)


@study_app.command(epilog=_examples("serve taste", "serve taste --port 80 --address 0.0.0.0"))
def serve(
    study: Name,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    address: Annotated[
        str, typer.Option(help="0.0.0.0 for every network; this machine alone otherwise.")
    ] = "localhost",
    url: Annotated[
        str | None,
        typer.Option(
            help="The address that raters use, where it is another: https://study.example.org behind a proxy."
        ),
    ] = None,
    store: Store = STORE,
) -> None:
    """Serve a study to raters' browsers until it is stopped. `invite` makes links that lead there."""
    from importlib.util import find_spec

    if find_spec("streamlit") is None:
        raise UsageError("study serve needs streamlit: pip install 'prompteditbench[study]'")
    with _open(store) as opened:
        design = opened.study(study).design
    if problems := design.changed_files():
        said = "\n".join(
            [*problems[:5], f"{len(problems)} of the study's files are not what it was made of."]
        )
        if len(problems) == sum(1 for _ in design.images()):
            raise UsageError(f"{said} Bring the run folder back.")
        typer.echo(
            f"{said} The study is served without the trials that need them. Restore the files to have all.",
            err=True,
        )
    with _open(store) as opened:
        opened.set_address(study, served_at(address, port) if url is None else url.rstrip("/"))
    become_server(study, store, port, address)


@study_app.command(epilog=_examples("status", "status taste", "status taste --json"))
def status(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="[default: all]")] = None,
    as_json: Json = False,
    store: Store = STORE,
) -> None:
    """How far studies are, and how well each rater of one answers."""
    from dataclasses import asdict

    with _open(store) as opened:
        names = [study] if study else opened.studies()
        found = {name: asdict(opened.status(name)) for name in names}
        raters = [asdict(entry) for entry in opened.quality(study)] if study else []
    if as_json:
        _print_json({"studies": found, "raters": raters})
        return
    console = _console()
    _table(console, [{"study": name, **counts} for name, counts in found.items()])
    if raters:
        hidden = {"first_vote", "last_vote"}
        if not any(row["external"] for row in raters):
            hidden.add("external")
        _table(console, [{k: v for k, v in row.items() if k not in hidden} for row in raters])


@study_app.command(
    "rater",
    epilog=_examples("rater taste 5f3c1b2a9d8e7f6a5b4c3d2e", "rater taste QK7Z4MWX2B --json"),
)
def rater_(study: Name, who: Who, as_json: Json = False, store: Store = STORE) -> None:
    """Look a rater up, to settle what they are owed: how far they came, their codes and ids."""
    from dataclasses import asdict

    with _open(store) as opened:
        records = [asdict(record) for record in _raters(opened, study, who)]
    if as_json:
        _print_json(records)
        return
    for record in records:
        for key, value in record.items():
            _console().print(
                f"{key.replace('_', ' ')}: {_plain(value)}", highlight=False, markup=False, soft_wrap=True
            )


@study_app.command(
    epilog=_examples("withdraw taste QK7Z4MWX2B", "withdraw taste --yes 5f3c1b2a9d8e7f6a5b4c3d2e")
)
def withdraw(
    study: Name,
    who: Who,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: Store = STORE,
) -> None:
    """Delete a rater's answers, and what a recruiting service called them. Others get the trials."""
    with _open(store) as opened:
        records = _raters(opened, study, who)
        if len(records) > 1:
            raise UsageError(
                f"{who}: means {len(records)} raters of {study}: {', '.join(record.rater for record in records)}. "
                "Name one of these."
            )
        record = records[0]
        if not yes:
            typer.confirm(
                f"Delete the {record.answers} answers of rater {record.rater}? This cannot be undone.",
                abort=True,
            )
        deleted = opened.withdraw(record.rater)
    _console().print(
        f"{deleted} votes of rater {record.rater} are deleted. Files that were exported before still hold them.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@study_app.command(
    epilog=_examples(
        "simulate taste --raters 20",
        "simulate taste --raters 50 --strength 'GLIDE=0.8' --inattentive 0.1 --inattentive-slow 0.1 --threads 50",
    )
)
def simulate(
    study: Name,
    raters: Annotated[int, typer.Option(help="How many simulated raters.")] = 10,
    strength: Annotated[
        list[str] | None, typer.Option(metavar="METHOD=LOG", help="A log strength. May be repeated.")
    ] = None,
    ties: Annotated[float, typer.Option(help="Davidson's nu, the tendency to ties.")] = 0.3,
    position_bias: Annotated[float, typer.Option(help="Log odds in favour of the left.")] = 0.0,
    inattentive: Annotated[float, typer.Option(help="Share of raters who answer at random, and fast.")] = 0.0,
    inattentive_slow: Annotated[
        float, typer.Option(help="Share of raters who answer at random, as slowly as the attentive.")
    ] = 0.0,
    spread: Annotated[float, typer.Option(help="How much raters differ in taste.")] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="Raters at once.")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    store: Store = STORE,
) -> None:
    """Let simulated raters vote. They are stored as such; no figure of people ever counts them."""
    from bench.study.simulate import Taste
    from bench.study.simulate import simulate as run

    taste = Taste(
        strengths=_strengths(strength),
        ties=ties,
        position_bias=position_bias,
        inattentive=inattentive,
        inattentive_slow=inattentive_slow,
        spread=spread,
    )
    with _open(store) as opened:
        stored = run(opened, study, raters, taste, seed=seed, threads=threads)
    _console().print(f"{stored} simulated votes stored", markup=False)


@study_app.command(
    "export",
    epilog=_examples("export taste votes.csv", "export taste votes.parquet --anonymous"),
)
def export_(
    study: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv or .parquet.")],
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Raters by numbers that lead back to nobody.")
    ] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="Votes of simulated raters.")] = False,
    store: Store = STORE,
) -> None:
    """Write a study's votes to a file."""
    import secrets

    from bench.study import exchange

    with _open(store) as opened:
        votes = _stored_votes(opened, study, simulated=simulated)
    if anonymous:
        # Forgotten at once: nobody can find a rater by trying names.
        votes = exchange.anonymise(votes, secrets.token_hex(32))
    exchange.export_votes(votes, file)
    _console().print(f"{len(votes)} votes in {file}", markup=False, highlight=False)


@study_app.command("import", epilog=_examples("import site-a.csv site-b.parquet --out all.parquet"))
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="As `study export` writes them.")],
    out: Annotated[Path, typer.Option(help="Where the votes of all go: .csv or .parquet.")],
) -> None:
    """Check exported votes and join them in one file; a vote that is in two of them counts once."""
    from bench.study import exchange

    votes = merge([(str(file), exchange.import_votes(file)) for file in files])
    exchange.export_votes(votes, out)
    _console().print(f"{len(votes)} votes in {out}", markup=False, highlight=False)


@study_app.command(
    epilog=_examples(
        "analyse taste",
        "analyse taste --scores runs/paper --out runs/paper/report/study",
        "analyse --votes all.parquet --out report",
        "analyse taste --simulated",
    )
)
def analyse(
    context: typer.Context,
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]")] = None,
    votes: Annotated[Path | None, typer.Option(help="A file of exported votes, in place of STUDY.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="The run whose metrics are compared with the votes.")
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", help="A module that adds protocols to the run. May be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the tables. [default: runs/study-STUDY]")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 2000,
    seed: Annotated[int, typer.Option()] = 0,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Of simulated raters, to try the analysis out.")
    ] = False,
    store: Store = STORE,
) -> None:
    """Preference shares, win matrix, strengths, agreement and attention, with intervals."""
    from bench.study import exchange
    from bench.study.votes import analysis, show
    from bench.tables.terminal import terminal

    of_run = None
    if scores is not None:
        # The program hides scores that embedded networks gave to photographs.
        of_run = run_scores(open_session(context, plugin).open_run(scores))
    if (study is None) == (votes is None):
        raise UsageError("study analyse: name either a study or a file of votes (--votes).")
    if study is not None:
        found, _ = analyse_study(
            study, store, scores=of_run, simulated=simulated, resamples=resamples, seed=seed
        )
    else:
        assert votes is not None
        found = analysis.analyse(
            exchange.import_votes(votes), scores=of_run, resamples=resamples, seed=seed, simulated=simulated
        )
    console = _console()
    for part in terminal(show.tables(found), console.width):
        console.print(part)
    folder = out or Path("runs") / f"study-{study or votes.stem if votes else study}"
    show.write_analysis(found, folder)
    console.print(f"tables: {folder}", markup=False, highlight=False)


@study_app.command("close", epilog=_examples("close taste"))
def close(study: Name, store: Store = STORE) -> None:
    """End a study: no new raters and no new trials. Answers that are under way still count."""
    with _open(store) as opened:
        opened.close_study(study)
    _console().print(f"{study} is closed", markup=False)


# --- what the commands are made of ------------------------------------------------------------------------


def become_server(study: str, store: str, port: int, address: str) -> NoReturn:
    """Replaces this process by the study's server. How Streamlit is set up: ``app/.streamlit/config.toml``."""
    # Streamlit puts only the app's own folder into the path, so the project's has to be named.
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        STORE_VARIABLE: store if "://" in store else str(Path(store).absolute()),
        NAME_VARIABLE: study,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    where = ["--server.port", str(port), "--server.address", address]
    os.execve(sys.executable, [sys.executable, "-m", "streamlit", "run", str(APP), *where], environment)


def _stored_votes(opened: StudyStore, study: str, *, simulated: bool) -> pd.DataFrame:
    """The votes of people, or of simulated raters. Raises UsageError where the study has the other kind alone."""
    votes = opened.votes(study, "simulated" if simulated else "human")
    other = opened.votes(study, "human" if simulated else "simulated") if votes.empty else votes.iloc[:0]
    if not other.empty:
        remedy = "leave out --simulated" if simulated else "say --simulated to read them"
        who, others = ("simulated raters", "people") if simulated else ("people", "simulated raters")
        raise UsageError(f"{study}: no votes of {who}, but {len(other)} of {others}: {remedy}.")
    return votes


def analyse_study(
    study: str,
    store: str,
    *,
    scores: pd.DataFrame | None = None,
    simulated: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Analysis, pd.DataFrame]:
    """The analysis of a study's stored votes under its own exclusion rule, and those votes.

    ``study analyse`` and ``report --study`` both print what this returns. Raises :class:`StudyError`.
    """
    from bench.study.votes.analysis import analyse

    with _open(store) as opened:
        rule = opened.study(study).settings.exclusion
        votes = _stored_votes(opened, study, simulated=simulated)
    found = analyse(
        votes,
        exclusion=_exclusion(rule),
        scores=scores,
        resamples=resamples,
        seed=seed,
        simulated=simulated,
    )
    return found, votes


def _raters(opened: StudyStore, study: str, who: str) -> list[RaterRecord]:
    """The raters whom ``who`` means. Raises :class:`UsageError` where it means nobody."""
    if who == opened.study(study).settings.completion_code:
        raise UsageError(
            f"{who!r} is the completion code of all raters of {study}. Name one by what the recruiting service calls "
            "them, or by the id that `study status` lists."
        )
    records = opened.find_raters(study, who)
    if not records:
        raise UsageError(
            f"{who!r} is no rater of {study}: no id, no completion code, and nothing that a recruiting service sent. "
            f"Known raters: study status {study}."
        )
    return records


def served_at(address: str, port: int) -> str:
    """The URL at which raters reach an app that listens on ``address``; the machine's name for all addresses."""
    import socket

    host = socket.gethostname() if address in ("0.0.0.0", "::") else address
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"


def power_lines(design: Design, share: float) -> list[str]:
    """What a design can resolve, and how many raters it would take to resolve ``share``; with the assumptions."""
    from bench.study.votes.power import Assumptions, Layout, raters_needed, resolvable

    options = design.options
    votes = design.pair_votes().values()
    if not votes:
        return ["power: computed for pairs only"]
    # The pairs with the fewest votes decide.
    least, most = min(votes), max(votes)
    assumed = Assumptions() if options.ties else Assumptions(ties=0.0)
    methods, cases = len(design.methods), len(design.cases)
    trials = least * (methods * (methods - 1) // 2) / options.raters
    layout = Layout(options.raters, trials, methods, cases, options.overlap)
    share_resolved = resolvable(layout, assumed)
    needed = raters_needed(
        share, trials=trials, methods=methods, cases=cases, overlap=options.overlap, assumptions=assumed
    )
    taken = (
        f"{assumed.power:.0%} power, level {assumed.alpha:g} divided by {layout.pairs} pairs; assumed: "
        f"{assumed.ties:.0%} ties, correlation {assumed.icc_rater:g} within raters and {assumed.icc_case:g} "
        "within cases"
    )
    each = f"{least} votes" if least == most else f"{least} (the fewest of {least} to {most}) votes"
    resolves = (
        f"a share of {share_resolved:.3f} or more"
        if share_resolved < 0.9995
        else "no difference: there are too few votes"
    )
    return [
        f"power: {each} per question and pair resolve {resolves} ({taken})",
        f"power: a share of {share:g} takes "
        + (f"{needed} such raters" if needed is not None else "more cases: no number of raters is enough"),
    ]


def quality_lines(design: Design, rule: Exclusion) -> list[str]:
    """How well the design's attention checks work, and whether agreement between raters can be measured."""
    from bench.study.votes.quality import random_pass

    count, most = design.options.attention, rule.max_attention_failures
    if not count or most is None:
        why = "there are no attention checks" if not count else "the exclusion rule does not look at them"
        lines = [f"attention: {why}, so no rater who answers at random is excluded for failing them"]
    else:
        passed = random_pass(design, most)
        line = (
            f"attention: {passed:.1%} of raters who choose a candidate at random pass the {count} checks "
            f"(at most {most} failed)"
        )
        if design.options.ties and "pair" in design.options.kinds:
            line += f"; {random_pass(design, most, ties=True):.1%} of those who choose ties at random too"
        lines = [line + (". Ask for more with --attention" if passed > MANY_RANDOM else "")]
    if design.describe()["votes per comparison"][1] == 1:
        lines.append(
            "agreement: each comparison gets one vote, so Krippendorff's alpha cannot be computed; --overlap 2 "
            "asks two raters about each"
        )
    return lines


def merge(parts: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """The votes of several files. Raises :class:`UsageError` where two say different things of one vote."""
    import pandas as pd

    frame = pd.concat([part.assign(file=name) for name, part in parts], ignore_index=True)
    key = ["study", "rater", "trial"]
    for _, same in frame[frame.duplicated(key, keep=False)].groupby(key):
        if same["answer"].nunique() > 1:
            row = same.iloc[0]
            raise UsageError(
                f"{' and '.join(dict.fromkeys(same['file']))} hold different answers of rater {row['rater']} "
                f"to trial {row['trial']} of {row['study']}. Leave out the file that was changed."
            )
    return frame.drop_duplicates(key).drop(columns="file").reset_index(drop=True)


def run_scores(run: Path | RunStore) -> pd.DataFrame:
    """A run's scores as the analysis takes them: protocol, method (title), case, metric, value, direction.

    Those that an opened run passes over (``RunStore.leave_out``) are not among them.
    """
    from bench.metrics import METRICS, info_of
    from bench.registry import Registry
    from bench.store import RunStore
    from bench.study.build import method_titles

    store = run if isinstance(run, RunStore) else RunStore.open(run)
    frame = store.scores()
    titles = method_titles([store])
    registry = Registry("metric", METRICS)
    told = {name: info_of(registry.load(name)).higher_is_better for name in registry.names()}
    known = {name: higher for name, higher in told.items() if higher is not None}
    base = frame["metric"].str.removesuffix("_pasted")
    frame = frame[base.isin(known)].assign(
        method=frame["method"].map(titles), higher_is_better=base[base.isin(known)].map(known)
    )
    return frame[["protocol", "method", "case", "metric", "value", "higher_is_better"]]


def _open(store: str, *, create: bool = False) -> StudyStore:
    try:
        from bench.study.store import StudyStore
    except ModuleNotFoundError as error:
        raise UsageError(f"study needs {error.name}: pip install 'prompteditbench[study]'") from error
    return StudyStore.open(store, create=create)


def _settings(path: Path | None) -> Any:
    from bench.study.settings import StudySettings

    if path is None:
        return StudySettings()
    import yaml

    from bench.suite import read_yaml

    try:
        values = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--settings {path}: cannot be read ({error}).") from error
    return StudySettings.from_mapping(values or {})


def _exclusion(rule: Mapping[str, Any]) -> Any:
    """Raises :class:`UsageError` for a rule with a bound that the analysis does not know."""
    from dataclasses import fields

    from bench.registry import did_you_mean
    from bench.study.votes.exclusion import Exclusion

    known = [entry.name for entry in fields(Exclusion)]
    for name in rule:
        if name not in known:
            raise UsageError(
                f"setting exclusion: {name!r} is unknown.{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
    try:
        return Exclusion(**rule)
    except (TypeError, ValueError) as error:
        raise UsageError(f"setting exclusion: {error} Give numbers, or null for no bound.") from error


def _strengths(pairs: Sequence[str] | None) -> dict[str, float]:
    found = {}
    for pair in pairs or ():
        # A method's title may hold an equals sign, a number does not.
        title, equals, value = pair.rpartition("=")
        try:
            found[title] = float(value)
        except ValueError:
            equals = ""
        if not equals or not title:
            raise UsageError(f"--strength {pair!r}: write METHOD=NUMBER, such as 'GLIDE=0.8'.")
    return found


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _table(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for key in rows[0] if rows else ():
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_plain(value).replace("[", r"\[") for value in row.values()))
    console.print(table)


def _plain(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return str(value)


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))

"""``run_bench.py study ...``: the commands about single raters, their payment, and simulated raters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import plain_value, print_json
from bench.cli.options import Json
from bench.study import StudyError
from bench.study.cli_options import Name, Store, Who, examples
from bench.study.serving import STORE, open_store

if TYPE_CHECKING:
    from bench.study.interface import RaterRecord
    from bench.study.store import StudyStore

raters_app = typer.Typer()


@raters_app.command(
    "rater",
    epilog=examples("rater taste 5f3c1b2a9d8e7f6a5b4c3d2e", "rater taste QK7Z4MWX2B --json"),
)
def rater_(study: Name, who: Who, as_json: Json = False, store: Store = STORE) -> None:
    """Show a rater's progress, completion code and ids, for example to pay them."""
    from dataclasses import asdict

    with open_store(store) as opened:
        records = [asdict(record) for record in _find_raters(opened, study, who)]
    if as_json:
        print_json(records)
        return
    # One line per value: an id or a link is copied whole.
    for record in records:
        for key, value in record.items():
            typer.echo(f"{key.replace('_', ' ')}: {plain_value(value)}")


@raters_app.command(
    epilog=examples("withdraw taste QK7Z4MWX2B", "withdraw taste --yes 5f3c1b2a9d8e7f6a5b4c3d2e")
)
def withdraw(
    study: Name,
    who: Who,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    store: Store = STORE,
) -> None:
    """Delete a rater's answers and the recruiting service's ids of them. Other raters get the trials."""
    with open_store(store) as opened:
        records = _find_raters(opened, study, who)
        # The id of a recruiting service's study means all of its raters.
        if len(records) > 1:
            raise StudyError(
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
    typer.echo(
        f"{deleted} votes of rater {record.rater} are deleted. Files that were exported before still hold them."
    )


def _find_raters(opened: StudyStore, study: str, who: str) -> list[RaterRecord]:
    """The raters whom ``who`` means. Raises :class:`StudyError` where it means nobody."""
    from bench.study.screening import shared_codes

    # A completion code that raters share does not identify one.
    if who in shared_codes(opened.study(study).settings):
        raise StudyError(
            f"{who!r} is a completion code of several raters of {study}. Name one by the recruiting service's id of "
            "them, or by the id that `study status` lists."
        )
    records = opened.find_raters(study, who)
    if not records:
        raise StudyError(
            f"{who!r} is no rater of {study}: no id, no completion code, and nothing that a recruiting service sent. "
            f"Known raters: study status {study}."
        )
    return records


@raters_app.command(
    epilog=examples(
        "simulate taste --raters 20",
        "simulate taste --raters 50 --strength 'GLIDE=0.8' --inattentive 0.1 --inattentive-slow 0.1 --threads 50",
    )
)
def simulate(
    study: Name,
    raters: Annotated[int, typer.Option(help="Number of simulated raters.")] = 10,
    strength: Annotated[
        list[str] | None, typer.Option(metavar="METHOD=LOG", help="A log strength. May be repeated.")
    ] = None,
    ties: Annotated[float, typer.Option(help="Davidson's nu, the tendency to ties.")] = 0.3,
    both_bad: Annotated[
        float, typer.Option(help="Share of the answers without a preference that call both bad.")
    ] = 0.5,
    position_bias: Annotated[float, typer.Option(help="Log odds in favour of the left.")] = 0.0,
    inattentive: Annotated[float, typer.Option(help="Share of raters who answer at random, and fast.")] = 0.0,
    inattentive_slow: Annotated[
        float, typer.Option(help="Share of raters who answer at random, as slowly as the attentive.")
    ] = 0.0,
    spread: Annotated[float, typer.Option(help="Standard deviation of log strengths between raters.")] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="Raters who vote at the same time.")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    store: Store = STORE,
) -> None:
    """Let simulated raters vote. Their votes are marked, and no figure of people counts them."""
    from bench.study.simulate import Taste, parse_strengths, run_raters

    taste = Taste(
        strengths=parse_strengths(strength or ()),
        ties=ties,
        both_bad=both_bad,
        position_bias=position_bias,
        inattentive=inattentive,
        inattentive_slow=inattentive_slow,
        spread=spread,
    )
    with open_store(store) as opened:
        stored = run_raters(opened, study, raters, taste, seed=seed, threads=threads)
    typer.echo(f"{stored} simulated votes stored")


@raters_app.command(epilog=examples("outcomes taste outcomes.csv"))
def outcomes(
    study: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv. It holds ids of people.")],
    store: Store = STORE,
) -> None:
    """Write whom to approve, to ask to return the study, or to reject at the recruiting platform, and why."""
    from collections import Counter

    from bench.files import write_atomic
    from bench.study.outcomes import hourly_pay, to_csv
    from bench.study.results import rater_outcomes

    if file.suffix.lower() != ".csv":
        raise StudyError(f"{file.name}: the name must end in .csv.")
    with open_store(store) as opened:
        currency = opened.study(study).settings.currency
        entries = rater_outcomes(opened, study)
    write_atomic(file, to_csv(entries).encode("utf-8"))
    counts = Counter(entry.outcome for entry in entries)
    typer.echo(f"{file}: " + (", ".join(f"{count} {name}" for name, count in counts.items()) or "nobody yet"))
    if (pay := hourly_pay(entries)) is not None:
        typer.echo(f"median of those to approve: {pay[0]:.1f} minutes, {pay[1]:.2f} {currency} per hour")


@raters_app.command(epilog=examples("pairing --methods 8 --spread 3", "pairing --methods 12 --ties 0"))
def pairing(
    methods: Annotated[int, typer.Option(min=3, max=40, help="Number of methods.")] = 8,
    spread: Annotated[
        float, typer.Option(help="Distance of the best from the worst, log odds, in equal steps.")
    ] = 3.0,
    ties: Annotated[float, typer.Option(min=0, help="Davidson's nu, the tendency to ties.")] = 0.3,
    votes: Annotated[int, typer.Option(min=10, help="Votes of the fixed design.")] = 240,
    studies: Annotated[int, typer.Option(min=1, help="Simulated studies to average over.")] = 20,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Simulate how many votes adaptive pairing takes for the intervals of a fixed design."""
    from bench.study.adaptive import simulate, votes_for

    truth = [spread * (0.5 - index / (methods - 1)) for index in range(methods)]
    looks = sorted({max(1, round(votes * share)) for share in (0.25, 0.5, 0.75, 1.0)})
    courses = {
        name: simulate(truth, adaptive=adaptive, votes=looks, ties=ties, studies=studies, seed=seed)
        for name, adaptive in (("fixed", False), ("adaptive", True))
    }
    for name, course in courses.items():
        for count, width, wrong in zip(course.votes, course.widths, course.wrong, strict=True):
            typer.echo(
                f"{name}, {count} votes: mean interval {width:.2f} log odds, {wrong:.2f} pairs in the wrong order"
            )
    width = courses["fixed"].widths[-1]
    needed = votes_for(courses["adaptive"], width)
    typer.echo(
        f"an interval of {width:.2f} log odds between neighbours takes {votes} votes of a fixed design and "
        + (
            f"{needed:.0f} of an adaptive one"
            if needed is not None
            else "more than as many of an adaptive one"
        )
    )

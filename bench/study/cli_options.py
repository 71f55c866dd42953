"""Arguments and options of the study's commands, and their examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.study.serving import STORE_VARIABLE


def examples(*lines: str) -> str:
    return options.examples(*(f"study {line}" for line in lines))


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
        help="A completion code, a recruiting service's id of the rater (PROLIFIC_PID), the rater's personal link, or "
        "the rater's id, as `study status` lists it.",
    ),
]

# Options of `study create`.
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="A method to compare. May be repeated; [default: all but controls]"),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", help="pair (two, or a tie), best (of all) or rate (one, on scales). [default: pair]"
    ),
]
Questions = Annotated[
    list[str] | None,
    typer.Option("--question", help="overall, prompt, preserve or real. May be repeated; [default: overall]"),
]
Scales = Annotated[
    list[str] | None,
    typer.Option(
        "--scale",
        help="With --kind rate: sc, pq (0, ½, 1), overall, prompt, preserve, real (1 to 5), or one of --scales. "
        "May be repeated; [default: sc and pq]",
    ),
]
ScalesFile = Annotated[
    Path | None,
    typer.Option("--scales", help="YAML with scales of your own, in the form of bench/study/scales.yaml."),
]
MostCases = Annotated[
    int | None, typer.Option("--cases", help="Most cases per protocol and category. [default: all]")
]
Overlap = Annotated[
    int,
    typer.Option("--overlap", help="Raters per comparison; 2 or more measure how far raters agree."),
]
BothBad = Annotated[bool, typer.Option("--both-bad", help="Offer “both are bad” in pairs, apart from a tie.")]
Adaptive = Annotated[
    bool,
    typer.Option("--adaptive", help="Choose each next pair by the votes so far, to narrow the ranking."),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="YAML: language, title, consent_file, screener, completion_code, return_url, exclusion, ...",
    ),
]
OpenRegistration = Annotated[
    bool, typer.Option("--open", help="Anyone may take part, without an invitation.")
]
Share = Annotated[
    float,
    typer.Option("--share", help="The preference to detect: 0.6 is 60 of 100 votes that are no ties."),
]

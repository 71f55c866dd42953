"""Arguments and options that the study's commands share, and their examples."""

from __future__ import annotations

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

"""``make study-demo``: a study of the demo's edits, served.

The first time, makes the study and prints the password of its admin page, which is stored nowhere else. Every
time, prints a fresh invitation link and serves until it is stopped.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.study import StudyError
from bench.study.build import build
from bench.study.cli import STORE, STORE_VARIABLE, become_server, served_at
from bench.study.design import DesignOptions
from bench.study.store import StudyStore

NAME = "demo"
RATERS, TRIALS = 10, 24
ENDS = ("copy_input", "oracle")
"""Controls that are compared too: everyone can tell them apart, so the outcome shows that the study works."""


def options(run: Path) -> DesignOptions:
    """``RATERS`` raters of ``TRIALS`` answers; all methods of the run, and the two controls at its ends."""
    from bench.store import RunStore

    with RunStore.open(run) as store:
        specs = store.methods.values()
    chosen = tuple(dict.fromkeys(spec.name for spec in specs if not spec.is_control or spec.name in ENDS))
    return DesignOptions(methods=chosen, raters=RATERS, trials=TRIALS, repeats=2, attention=6, practice=2)


def prepare(run: Path, target: str, url: str) -> tuple[str, str | None]:
    """An invitation to the demo's study, and its new password where the study had to be made.

    ``url``: where it is about to be served.
    """
    with StudyStore.open(target) as store:
        password = None
        if NAME not in store.studies():
            if not (run / "run.json").exists():
                raise StudyError(f"{run}: there is no run. Make it first: run_bench.py demo.")
            password = secrets.token_urlsafe(12)
            store.create(NAME, build([run], options(run)), admin_password=password)
        store.set_address(NAME, url)
        return store.invite(NAME)[0], password


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares, prints and becomes the server. Returns 1 with a message where there is nothing to serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.study.demo", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--store", default=os.environ.get(STORE_VARIABLE, STORE))
    parser.add_argument("--port", type=int, default=8501)
    given = parser.parse_args(arguments)
    url = served_at("localhost", given.port)
    try:
        invitation, password = prepare(given.run, given.store, url)
    except StudyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    lines = [
        f"Take part:   {url}/?invitation={invitation}",
        f"Administer:  {url}/admin",
        f"Password:    {password}  (shown this once)"
        if password
        else f"Password:    as printed when the study was made; a new one: run_bench.py study password {NAME}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    become_server(NAME, given.store, given.port, "localhost")


if __name__ == "__main__":
    sys.exit(main())

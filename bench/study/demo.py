"""``make study-demo``: a study of the demo's edits, served.

The first call makes the study and prints the password of its admin page, which is stored nowhere else. Every call
prints a fresh invitation link and serves until it is stopped.
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
from bench.study.design import DesignOptions
from bench.study.serving import STORE, STORE_VARIABLE, become_server, served_at
from bench.study.store import StudyStore

NAME = "demo"
RATERS, TRIALS = 10, 24
# Controls that are compared too. Everyone can tell them apart, so the outcome shows that the study works.
COMPARED_CONTROLS = ("copy_input", "oracle")


def demo_options(run: Path) -> DesignOptions:
    """``RATERS`` raters of ``TRIALS`` answers about all methods of the run and ``COMPARED_CONTROLS``."""
    from bench.store import RunStore

    with RunStore.open(run) as store:
        specs = store.methods.values()
    # Two settings of a method share its name, which stands for both.
    methods = tuple(
        dict.fromkeys(spec.name for spec in specs if not spec.is_control or spec.name in COMPARED_CONTROLS)
    )
    return DesignOptions(methods=methods, raters=RATERS, trials=TRIALS, repeats=2, attention=6, practice=2)


def prepare(run: Path, target: str, url: str) -> tuple[str, str | None]:
    """An invitation to the demo's study, and its password where the study is new.

    ``target`` is the store, ``url`` the address at which the study is about to be served. Raises :class:`StudyError`
    where the run does not exist.
    """
    with StudyStore.open(target) as store:
        password = None
        if NAME not in store.studies():
            if not (run / "run.json").exists():
                raise StudyError(f"{run}: there is no run. Make it first: run_bench.py demo.")
            # 96 random bits. The store keeps a hash, so the password is printed once.
            password = secrets.token_urlsafe(12)
            store.create(NAME, build([run], demo_options(run)), admin_password=password)
        store.set_address(NAME, url)
        return store.invite(NAME)[0], password


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares, prints and becomes the server. Returns 1 with a message where there is nothing to serve."""
    # Options.
    parser = argparse.ArgumentParser(prog="python -m bench.study.demo", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--store", default=os.environ.get(STORE_VARIABLE, STORE))
    parser.add_argument("--port", type=int, default=8501)
    options = parser.parse_args(arguments)

    # The study and one invitation.
    url = served_at("localhost", options.port)
    try:
        invitation, password = prepare(options.run, options.store, url)
    except StudyError as error:
        sys.stderr.write(f"{error}\n")
        return 1

    # Flushed by hand: the process is replaced, so Python never flushes at its exit.
    lines = [
        f"Take part:   {url}/?invitation={invitation}",
        f"Administer:  {url}/admin",
        f"Password:    {password}  (shown this once)"
        if password
        else f"Password:    as printed when the study was made; a new one: run_bench.py study password {NAME}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    become_server(NAME, options.store, options.port, "localhost")


if __name__ == "__main__":
    sys.exit(main())

"""Where a study is stored and served: defaults, environment variables, and the server's process.

It imports only the standard library until a function needs more: ``--help`` and the app's first page stay fast.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bench.study import StudyError

if TYPE_CHECKING:
    from bench.study.design import Design
    from bench.study.store import StudyStore

# SQLite file of all studies, below the working directory.
STORE = "runs/studies.db"
# Environment variable that names the store. The commands and the app read it.
STORE_VARIABLE = "PEB_STUDY_STORE"
# Environment variable by which `serve` tells the app which study to show.
NAME_VARIABLE = "PEB_STUDY_NAME"
# Environment variable with the password of the admin page. There is no option for it, because other users of a
# machine can read the command line of a process.
PASSWORD_VARIABLE = "PEB_STUDY_PASSWORD"
# Address at which `serve` serves without options.
ADDRESS = "http://localhost:8501"
# Script for `streamlit run`. It has a folder of its own, because Streamlit puts that folder first in `sys.path`.
APP = Path(__file__).parent / "app" / "site" / "app.py"
# Changed files that a message lists. Further ones are counted.
_LISTED_FILES = 5


def open_store(store: str, *, create: bool = False) -> StudyStore:
    """Opens the database of studies. ``create`` makes a SQLite file that does not exist yet.

    Raises :class:`StudyError` where a package is missing or the store cannot be opened.
    """
    # The database's packages belong to an extra that a plain installation lacks.
    try:
        from bench.study.store import StudyStore
    except ModuleNotFoundError as error:
        raise StudyError(f"study needs {error.name}: pip install 'prompteditbench[study]'") from error
    return StudyStore.open(store, create=create)


def check_server_installed() -> None:
    """Raises :class:`StudyError` where Streamlit is missing."""
    from importlib.util import find_spec

    # Only looked up, because the import takes a second and the server's own process repeats it.
    if find_spec("streamlit") is None:
        raise StudyError("study serve needs streamlit: pip install 'prompteditbench[study]'")


def changed_files_remark(design: Design) -> str | None:
    """Names the first of the study's files that are missing or changed. None where all are as they were.

    Raises :class:`StudyError` where no file is left, because the study has no trial to show then.
    """
    problems = design.changed_files()
    if not problems:
        return None
    lines = [
        *problems[:_LISTED_FILES],
        f"{len(problems)} of the study's files are not what it was made of.",
    ]
    remark = "\n".join(lines)
    if len(problems) == sum(1 for _ in design.images()):
        raise StudyError(f"{remark} Bring the run folder back.")
    return f"{remark} The study is served without the trials that need them. Restore the files to have all."


def served_at(address: str, port: int) -> str:
    """The URL at which raters reach an app that listens on ``address``."""
    import socket

    # An app that listens on all networks is reached by the machine's name.
    host = socket.gethostname() if address in ("0.0.0.0", "::") else address
    # RFC 3986, section 3.2.2: an IPv6 address stands in brackets, since it holds colons itself.
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"


def become_server(study: str, store: str, port: int, address: str) -> NoReturn:
    """Replaces this process by the study's server. ``app/site/.streamlit/config.toml`` configures Streamlit."""
    # Streamlit puts only the app's own folder into the path, so the project's has to be named.
    project = str(Path(__file__).resolve().parents[2])
    paths = [project, os.environ.get("PYTHONPATH", "")]
    # The store's URL may hold a password: it goes by the environment, not by the command line.
    environment = {
        **os.environ,
        STORE_VARIABLE: store if "://" in store else str(Path(store).absolute()),
        NAME_VARIABLE: study,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    options = ["--server.port", str(port), "--server.address", address]
    # Replaced, not started as a child: signals of a service manager reach the server itself.
    os.execve(sys.executable, [sys.executable, "-m", "streamlit", "run", str(APP), *options], environment)

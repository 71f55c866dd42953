"""Published files that this machine may lack: where they come from, where they belong, and under which licence.

Methods and metrics list them among their ``problems``, as :class:`MissingFiles`. ``run_bench.py fetch`` downloads them.
Nothing is downloaded from here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError


@dataclass(frozen=True)
class WebFile:
    """One file at a public address."""

    url: str
    path: Path
    """Where methods and metrics look for it on this machine."""
    licence: str = ""
    """Empty where nobody states one."""
    size: int | None = None
    """Bytes, rounded. None where unknown."""
    sha256: str = ""
    """Leading hex digits of its SHA-256, as many of the 64 as its publisher states. Empty where none is stated."""

    # Every address in this project is open to everybody.
    gated = False

    @property
    def title(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class HubFiles:
    """Files of one model repository on the hub, at one revision. They belong into the hub's local cache."""

    repository: str
    revision: str
    """Commit, tag or branch."""
    patterns: tuple[str, ...]
    """Shell patterns of the files' names, such as ``vae/*``. Of several forms of the same tensors in a folder, one is
    taken."""
    licence: str = ""
    """Empty where it is not known here. The model's page then states it."""
    size: int | None = None
    """Bytes in total, rounded. None where unknown."""
    gated: bool = False
    """True where the hub wants an account that has accepted the licence."""

    @property
    def title(self) -> str:
        return self.repository


Download = WebFile | HubFiles


class MissingFiles(str):
    """A problem that a download solves: its text, and what to download.

    It is a string, so that whatever lists problems can list it.
    """

    cause: str
    downloads: tuple[Download, ...]

    def __new__(cls, cause: str, downloads: Sequence[Download], name: str = "") -> MissingFiles:
        """``cause`` says what is missing, such as ``weights 'a/b' are not on this machine``.

        ``name`` is the suite, method or metric that needs it, for the command that gets it.
        """
        remedy = f"Get it with: {command(name)}" if name else f"{command('SUITE|METHOD|METRIC')} gets it"
        problem = super().__new__(cls, f"{cause} ({describe(downloads)}). {remedy}")
        problem.cause, problem.downloads = cause, tuple(downloads)
        return problem

    def without_command(self) -> str:
        """The missing files, with size and licence alone."""
        return f"{self.cause} ({describe(self.downloads)})"

    def needed_by(self, name: str) -> MissingFiles:
        """The same problem with the command for one suite, method or metric."""
        return MissingFiles(self.cause, self.downloads, name)


def command(names: str) -> str:
    """The command that downloads what ``names`` lack."""
    return f"python run_bench.py fetch {names}"


def missing_downloads(problems: Iterable[str]) -> list[Download]:
    """The downloads that solve some of the problems, each once."""
    return list(
        dict.fromkeys(
            download
            for problem in problems
            if isinstance(problem, MissingFiles)
            for download in problem.downloads
        )
    )


def needed_by(name: str, problem: str) -> str:
    """``problem`` with the command for one suite, method or metric, where a download solves it."""
    return problem.needed_by(name) if isinstance(problem, MissingFiles) else problem


def fetch_words(method: str, preset: str | None, options: Mapping[str, Any]) -> str:
    """The words after ``fetch`` that mean a method with this preset and these options."""
    words = [method, *(["--preset", preset] if preset else [])]
    for name, value in options.items():
        # The command line reads values as YAML, which JSON is too. Words need no quotes there.
        is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./:-]*", value)
        words += ["-m", f"{name}={value if is_word else json.dumps(value, default=str)}"]
    return shlex.join(words)


def with_one_command(name: str, problems: Iterable[str]) -> tuple[list[str], str]:
    """The problems without commands, and the one command that gets all files that they miss, for the suite ``name``.

    The command is empty where no file is missing. Without a name, each problem keeps its command.
    """
    lines = list(problems)
    if not name or not missing_downloads(lines):
        return lines, ""
    plain = [line.without_command() if isinstance(line, MissingFiles) else line for line in lines]
    return plain, command(name)


def check_ready(problems: Sequence[tuple[str, Sequence[str]]], suite: str = "") -> None:
    """Raises one :class:`BenchError` that lists every problem with its owner. Does nothing without problems.

    ``suite`` is the suite's name or file, for the command that gets what can be downloaded.
    """
    owners = [owner for owner, of_one in problems for _ in of_one]
    texts, command = with_one_command(suite, [problem for _, of_one in problems for problem in of_one])
    lines = [f"{owner}: {text}" if owner else text for owner, text in zip(owners, texts, strict=True)]
    remedy = [f"Get what can be downloaded with: {command}"] if command else []
    # One problem is a sentence, several are a list.
    if len(lines) == 1:
        raise BenchError("\n".join([*lines, *remedy]))
    if lines:
        raise BenchError("\n".join(["not ready:", *(f"- {line}" for line in lines), *remedy]))


def describe(downloads: Sequence[Download]) -> str:
    """Size, licence and access in one phrase: ``2.13 GB, licence: MIT, gated``."""
    sizes = [download.size for download in downloads]
    licences = dict.fromkeys(download.licence for download in downloads)
    facts = []
    # An unknown part makes the sum unknown.
    if None not in sizes:
        facts.append(size_text(sum(size for size in sizes if size is not None)))
    facts.append(f"licence: {' and '.join(name or 'see its page' for name in licences)}")
    if any(download.gated for download in downloads):
        facts.append("gated")
    return ", ".join(facts)


def size_text(size: float | None) -> str:
    """Bytes in GB, MB or kB. ``?`` for None."""
    if size is None:
        return "?"
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        # 0.17 GB, but 86.0 MB.
        if size >= 0.1 * unit:
            return f"{size / unit:.{2 if name == 'GB' else 1}f} {name}"
    return f"{max(size / 1e3, 0.1):.1f} kB"

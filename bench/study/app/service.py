"""What the app's pages share: the opened store, the pictures, and a record of what went wrong. No Streamlit.

One per process and study: Streamlit runs the script anew for every click, in threads of many visitors.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.files import parse_json
from bench.study import StudyError, security
from bench.study.cli import NAME_VARIABLE, STORE, STORE_VARIABLE
from bench.study.images import ImageChanged, ImageServer, ServedImage
from bench.study.interface import RaterSession, Study
from bench.study.store import StudyStore

LOG = logging.getLogger("bench.study.app")
MAX_INCIDENTS = 2 * 2**20
"""Bytes of the file of incidents; past it, only the log is written."""
VOID_SECONDS = 600
"""How long a trial with a changed file stays void before its files are looked at again."""


@dataclass(frozen=True)
class Incident:
    """Something that a rater met and an administrator should know."""

    at: str
    """UTC, ISO 8601."""
    kind: str
    """``picture`` (a changed or missing file), ``database`` or ``error``."""
    study: str
    rater: str
    trial: str
    message: str
    """May name files and methods: for the administrator alone."""


class Incidents:
    """Kept in a file of JSON lines beside the database, so that a restart does not lose them. Threads may share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: set[tuple[str, str, str, str]] = set()
        self._lock = threading.Lock()

    def record(self, kind: str, study: str, message: str, rater: str = "", trial: str = "") -> None:
        """Once per process for each rater and trial, however often the page is reloaded. Never raises."""
        with self._lock:
            key = (kind, rater, trial, message)
            if key in self._seen:
                return
            self._seen.add(key)
            LOG.error("%s: rater %s, trial %s: %s", kind, rater or "-", trial or "-", message)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            line = json.dumps(asdict(Incident(now, kind, study, rater, trial, message[:2000])))
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # It names raters and files: for its owner alone.
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                with open(descriptor, "ab") as file:  # noqa: PTH123
                    if file.tell() < MAX_INCIDENTS:
                        file.write(line.encode() + b"\n")
            except OSError as error:
                LOG.error("%s: cannot be written (%s)", self.path, error.strerror)

    def read(self, study: str) -> list[Incident]:
        """Of one study, the latest first. A line that was cut short is passed over."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                incident = Incident(**parse_json(line))
            except (ValueError, TypeError):
                continue
            if incident.study == study:
                found.append(incident)
        return found[::-1]


class AllPicturesAway(StudyError):
    """A run folder of the study is missing: an unmounted disk, or a folder that was moved."""

    public = "We cannot show pictures at the moment. Your answers so far are stored. Try again in a minute."


@dataclass(frozen=True)
class Service:
    """A served study."""

    store: StudyStore
    pictures: ImageServer
    name: str
    incidents: Incidents
    _void: dict[str, float] = field(default_factory=dict)
    """``OpenTrial.id`` of void trials, and when (of ``time.monotonic``) each was found to be void."""

    @property
    def void(self) -> frozenset[str]:
        """The trials that nobody is shown at the moment, since a file of theirs was changed."""
        since = time.monotonic() - VOID_SECONDS
        return frozenset(trial for trial, at in tuple(self._void.items()) if at > since)

    def set_void(self, rater: str, trial: str, error: ImageChanged) -> None:
        """Voids a trial for all raters, and reports it.

        Raises :class:`StudyError` where a whole run folder is away: raters then wait until it is back.
        """
        self.incidents.record("picture", self.name, str(error), rater, trial)
        for run in self.study.design.runs:
            if not Path(run).is_dir():
                raise AllPicturesAway(f"{run}: there is no such folder. Bring the run folder back.")
        self._void[trial] = time.monotonic()

    def picture(self, group: str, picture: str) -> ServedImage:
        """``ImageServer.find``; a trial whose file was changed since it was prepared is void from now on."""
        rater, trial = self.pictures.owner(group)
        try:
            return self.pictures.find(group, picture)
        except ImageChanged as error:
            self.set_void(rater, trial, error)
            raise

    @property
    def study(self) -> Study:
        return self.store.study(self.name)

    def resume(self, session: str) -> RaterSession:
        """``StudyStore.resume``; a session of another study in the same store is none of ours."""
        self._ours(session)
        return self.store.resume(session)

    def next_addresses(self, rater: str) -> tuple[str, ...]:
        """The addresses of the pictures of the trial that most likely comes next; none where there is none."""
        try:
            upcoming = self.store.upcoming(rater, self.void)
            if upcoming is None:
                return ()
            trial, shown = upcoming
            return self.pictures.prepare(rater, trial, shown).addresses
        except StudyError:
            return ()  # Reported when the trial is drawn.

    def check_invitation(
        self, invitation: str, external: str = "", recruited: Mapping[str, str] | None = None
    ) -> None:
        """``StudyStore.check_invitation``, of this study alone."""
        self._ours(invitation)
        self.store.check_invitation(invitation, external=external, recruited=recruited)

    def redeem(
        self, invitation: str, external: str = "", recruited: Mapping[str, str] | None = None
    ) -> RaterSession:
        """``StudyStore.redeem``; an invitation to another study is left as it is."""
        self._ours(invitation)
        return self.store.redeem(invitation, external=external, recruited=recruited)

    def _ours(self, token: str) -> None:
        if security.study_of(token) != self.name:
            raise security.TokenForged(
                "This link is not valid: it was altered or was not made by this study."
            )


_SERVICES: dict[tuple[str, str], Service] = {}
_LOCK = threading.Lock()


def service(target: str, name: str) -> Service:
    """The one service of a study in this process. Raises :class:`StudyError`."""
    with _LOCK:
        found = _SERVICES.get((target, name))
        if found is None:
            store = StudyStore.open(target, create=False)
            store.study(name)
            found = Service(store, ImageServer(store), name, Incidents(incidents_path(target)))
            _SERVICES[target, name] = found
        return found


def incidents_path(target: str) -> Path:
    """Beside a SQLite file; for a database elsewhere, in the folder where studies lie by default."""
    if "://" in target:
        return Path(STORE).with_name("study-incidents.jsonl")
    path = Path(target)
    return path.with_name(f"{path.stem}-incidents.jsonl")


@dataclass(frozen=True)
class Asked:
    """Which study to serve."""

    store: str
    study: str


def asked(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Asked:
    """From ``-- --store STORE --study NAME``, or from the environment, as ``study serve`` sets it.

    Raises :class:`StudyError` where no study is named.
    """
    parser = argparse.ArgumentParser(prog="app.py", exit_on_error=False, add_help=False)
    parser.add_argument("--store", default=environment.get(STORE_VARIABLE, STORE))
    parser.add_argument("--study", default=environment.get(NAME_VARIABLE, ""))
    try:
        given, unknown = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise StudyError(f"app.py: {error}") from None
    if unknown:
        raise StudyError(f"app.py: unknown option {unknown[0]}. Known: --store, --study.")
    if not given.study:
        raise StudyError(
            f"app.py: no study is named. Start it with run_bench.py study serve NAME, or set {NAME_VARIABLE}."
        )
    return Asked(given.store, given.study)

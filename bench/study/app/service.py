"""The served study behind the pages: its store, its images, a record of incidents, and the address of images.

There is one service per process and study. Streamlit runs the script of a page anew for every click, in threads of many
visitors. Nothing here imports Streamlit before the server starts.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.files import parse_json
from bench.study import StudyError, security
from bench.study.images import ImageChanged, ImageServer
from bench.study.interface import RaterSession, Study
from bench.study.registration import FORGED
from bench.study.serving import APP, NAME_VARIABLE, STORE, STORE_VARIABLE
from bench.study.store import StudyStore

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("bench.study.app")
# Bytes of the file of incidents. Past it, only the log is written.
MAX_INCIDENTS = 2 * 2**20
# Seconds for which a trial with a changed file is void, before its files are looked at again.
VOID_SECONDS = 600
# First part of an image's address.
IMAGES = "pictures"

# --- incidents --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Incident:
    """A fault that a rater met, for the administrator. The field names are keys of the file's lines."""

    # UTC, ISO 8601.
    at: str
    # `picture` (a changed or missing file), `database` or `error`.
    kind: str
    study: str
    rater: str
    trial: str
    # It may name files and methods: for the administrator alone.
    message: str


class Incidents:
    """A file of JSON lines beside the database, so that a restart does not lose incidents. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._recorded: set[tuple[str, str, str, str]] = set()
        self._lock = threading.Lock()

    def record(self, kind: str, study: str, message: str, rater: str = "", trial: str = "") -> None:
        """Records an incident once per process, rater and trial, however often a page is reloaded. Never raises."""
        with self._lock:
            # One line for a fault, however often it recurs.
            key = (kind, rater, trial, message)
            if key in self._recorded:
                return
            self._recorded.add(key)
            LOG.error("%s: rater %s, trial %s: %s", kind, rater or "-", trial or "-", message)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            line = json.dumps(asdict(Incident(now, kind, study, rater, trial, message[:2000])))
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Readable by the owner alone, since it names raters and files.
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                # Appended in one write, so that lines of several processes do not mix.
                with open(descriptor, "ab") as file:  # noqa: PTH123
                    if file.tell() < MAX_INCIDENTS:
                        file.write(line.encode() + b"\n")
            except OSError as error:
                LOG.error("%s: cannot be written (%s)", self.path, error.strerror)

    def read(self, study: str) -> list[Incident]:
        """The incidents of one study, the latest first. Skips a line that was cut short."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        # Lines of all studies of the database.
        incidents = []
        for line in lines:
            try:
                incident = Incident(**parse_json(line))
            except (ValueError, TypeError):
                continue
            if incident.study == study:
                incidents.append(incident)
        return incidents[::-1]


def incidents_path(target: str) -> Path:
    """Path beside a SQLite file. For a database server, in the folder where studies are stored by default."""
    if "://" in target:
        return Path(STORE).with_name("study-incidents.jsonl")
    path = Path(target)
    return path.with_name(f"{path.stem}-incidents.jsonl")


# --- the served study -------------------------------------------------------------------------------------


class RunFolderMissing(StudyError):
    """A run folder of the study is missing: a disk that is not mounted, or a folder that was moved."""


@dataclass(frozen=True)
class Service:
    """A served study."""

    store: StudyStore
    images: ImageServer
    name: str
    incidents: Incidents
    # OpenTrial.id of void trials -> time.monotonic() when the changed file was noticed.
    _void: dict[str, float] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        return self.store.study(self.name)

    @property
    def void(self) -> frozenset[str]:
        """The trials that are shown to nobody at the moment, because a file of theirs was changed."""
        since = time.monotonic() - VOID_SECONDS
        # The copy protects the loop from other threads.
        return frozenset(trial for trial, at in tuple(self._void.items()) if at > since)

    def set_void(self, rater: str, trial: str, error: ImageChanged) -> None:
        """Makes a trial void for all raters, and records the incident.

        Raises :class:`RunFolderMissing` where a whole run folder is missing. Raters then wait until it is back.
        """
        self.incidents.record("picture", self.name, str(error), rater, trial)
        # If a folder is missing, every trial would become void, and raters would finish without an answer.
        for run in self.study.design.runs:
            if not Path(run).is_dir():
                raise RunFolderMissing(f"{run}: there is no such folder. Bring the run folder back.")
        self._void[trial] = time.monotonic()

    def image(self, group: str, image_id: str) -> bytes:
        """:meth:`ImageServer.find`. A trial whose file was changed after it was prepared becomes void."""
        rater, trial = self.images.owner(group)
        try:
            return self.images.find(group, image_id)
        except ImageChanged as error:
            self.set_void(rater, trial, error)
            raise

    def next_addresses(self, rater: str) -> tuple[str, ...]:
        """Addresses of the images of the trial that will most likely come next. Empty where there is none."""
        try:
            upcoming = self.store.upcoming(rater, self.void)
            if upcoming is None:
                return ()
            trial, unblinded = upcoming
            return self.images.prepare(rater, trial, unblinded).addresses
        except StudyError:
            return ()  # The error is reported when the trial is handed out.

    # A store may hold several studies, and each has its own server and terms. Tokens of another study are refused here,
    # and stay unused.

    def resume(self, session: str) -> RaterSession:
        """:meth:`StudyStore.resume`, for sessions of this study alone."""
        # An error for a token of another study, before the store looks at it.
        self._check_study(session)
        return self.store.resume(session)

    def check_invitation(
        self, invitation: str, external: str = "", recruited: Mapping[str, str] | None = None
    ) -> None:
        """:meth:`StudyStore.check_invitation`, for invitations to this study alone."""
        self._check_study(invitation)
        self.store.check_invitation(invitation, external=external, recruited=recruited)

    def redeem(
        self, invitation: str, external: str = "", recruited: Mapping[str, str] | None = None
    ) -> RaterSession:
        """:meth:`StudyStore.redeem`, for invitations to this study alone."""
        self._check_study(invitation)
        return self.store.redeem(invitation, external=external, recruited=recruited)

    def _check_study(self, token: str) -> None:
        if security.study_of(token) != self.name:
            raise security.TokenForged(FORGED)


# (store, study) -> its service. Several scripts may ask for it at once.
_SERVICES: dict[tuple[str, str], Service] = {}
_LOCK = threading.Lock()


def get_service(target: str, name: str) -> Service:
    """The one service of a study in this process. Raises :class:`StudyError`."""
    with _LOCK:
        service = _SERVICES.get((target, name))
        if service is None:
            store = StudyStore.open(target, create=False)
            # Raises for an unknown study, before a service is stored for it.
            store.study(name)
            service = Service(store, ImageServer(store), name, Incidents(incidents_path(target)))
            _SERVICES[target, name] = service
        return service


class StudyTarget(NamedTuple):
    """The store and the name of the study to serve."""

    store: str
    study: str


def study_target(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> StudyTarget:
    """The study of ``-- --store STORE --study NAME``, or of the environment, as ``study serve`` sets it.

    Raises :class:`StudyError` where no study is named.
    """
    return _read_target(
        tuple(arguments), environment.get(STORE_VARIABLE, STORE), environment.get(NAME_VARIABLE, "")
    )


# Every page and every picture asks for it, with the same arguments.
@lru_cache(maxsize=8)
def _read_target(arguments: tuple[str, ...], store: str, study: str) -> StudyTarget:
    """``store`` and ``study``: those that are served where the arguments name no others."""
    # The store's secrets may be in a URL, so `study serve` uses the environment and not the command line.
    parser = argparse.ArgumentParser(prog="app.py", exit_on_error=False, add_help=False)
    parser.add_argument("--store", default=store)
    parser.add_argument("--study", default=study)
    try:
        options, unknown = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise StudyError(f"app.py: {error}") from None
    if unknown:
        raise StudyError(f"app.py: unknown option {unknown[0]}. Known: --store, --study.")
    if not options.study:
        raise StudyError(
            f"app.py: no study is named. Start it with run_bench.py study serve NAME, or set {NAME_VARIABLE}."
        )
    return StudyTarget(options.store, options.study)


# --- the server beside Streamlit's own pages --------------------------------------------------------------


def routes() -> list[Route]:
    """``/pictures/GROUP/IMAGE``, below Streamlit's own base path where there is one."""
    import streamlit as st
    from starlette.routing import Route

    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return [Route(f"{'/' + base if base else ''}/{IMAGES}/{{group}}/{{image_id}}", image_response)]


def image_response(request: Request) -> Response:
    """An image of a trial. 404 where nothing has this address, 410 where the file was changed. Runs in a thread."""
    from starlette.responses import Response

    try:
        png = get_service(*study_target(sys.argv[1:])).image(**request.path_params)
    except ImageChanged:
        return Response(status_code=410)
    except StudyError as error:
        LOG.warning("%s", error)
        return Response(status_code=404)
    headers = {
        # Cached for a reload of the page. Not compressed, since the compressed length would depend on the image.
        "Cache-Control": "private, max-age=3600, immutable",
        "Content-Encoding": "identity",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(png, media_type="image/png", headers=headers)


def middleware() -> list[Middleware]:
    from starlette.middleware import Middleware

    return [Middleware(HideFolder)]


class HideFolder:
    """ASGI middleware that hides the project's folder. Streamlit sends the path of its script to every browser."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_folder(message: Message) -> None:
            if message["type"] == "websocket.send" and message.get("bytes"):
                message = {**message, "bytes": without_folder(message["bytes"])}
            await send(message)

        await self.app(scope, receive, send_without_folder if scope["type"] == "websocket" else send)


def without_folder(frame: bytes) -> bytes:
    """A message of Streamlit's without the folder of its script."""
    # Most messages do not name the folder, so they need no parsing.
    if str(APP.parent).encode() not in frame:
        return frame
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    message = ForwardMsg.FromString(frame)
    if message.HasField("new_session"):
        message.new_session.main_script_path = Path(message.new_session.main_script_path).name
    return bytes(message.SerializeToString())

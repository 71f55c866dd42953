"""A local server that speaks the file API of the hub, serves plain files, and cuts connections where it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
# Files of at least this size are "large": named by SHA-256 and served from another host, as on the hub.
LARGE = 1000


@dataclass
class HubServer:
    """Repositories and plain files, and a record of what was asked for."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Repository -> name -> content."""
    plain: dict[str, bytes] = field(default_factory=dict)
    """Path -> content."""
    gated: set[str] = field(default_factory=set)
    """Repositories that want the token ``good``."""
    etags: dict[str, str] = field(default_factory=dict)
    """Path of a plain file -> its mark. Without an entry, the server sends none."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers with content breaks off, the first first."""
    statuses: list[int] = field(default_factory=list)
    """Statuses of the next answers to GET, in place of content."""
    hold: threading.Event | None = None
    """After a cut, the connection stays open and silent until this is set."""
    ignores_ranges: bool = False
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(method, path, Range, Authorization) of every request."""
    url: str = ""
    storage: str = ""
    """The other host, to which large files are redirected."""

    def ranges(self) -> list[str]:
        """The Range headers of the requests for content, the first first. Empty for a request of the whole."""
        return [
            part
            for method, path, part, _ in self.requests
            if method == "GET" and not path.startswith("/api/") and "/resolve/" not in path
        ]


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    """Serves ``hub`` on two ports of this machine: the hub itself, and the host of the large files."""

    class Handler(_Handler):
        server_state = hub

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    hub.url, hub.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        if hub.hold is not None:
            hub.hold.set()
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(content=False)

    def do_GET(self) -> None:
        self._answer(content=True)

    def _answer(self, content: bool) -> None:
        hub, path = self.server_state, urlsplit(self.path).path
        token = self.headers.get("Authorization", "")
        hub.requests.append((self.command, path, self.headers.get("Range", ""), token))
        self.close_connection = True
        if path.startswith("/api/models/"):
            repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._info(repository, revision)
        if "/resolve/" in path:
            repository, _, rest = path[1:].partition("/resolve/")
            return self._resolve(repository, rest.partition("/")[2], token, content)
        if path.startswith("/large/"):
            blobs = (body for files in hub.repositories.values() for body in files.values())
            digest = path.removeprefix("/large/")
            return self._send(
                next(body for body in blobs if hashlib.sha256(body).hexdigest() == digest), content
            )
        if path in hub.plain:
            return self._send(hub.plain[path], content, hub.etags.get(path, ""))
        return self._head(404)

    def _info(self, repository: str, revision: str) -> None:
        files = self.server_state.repositories.get(repository)
        if files is None:
            return self._head(404, {"X-Error-Code": "RepoNotFound"})
        if revision not in (COMMIT, "main"):
            return self._head(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for name, body in files.items():
            sibling = {"rfilename": name, "size": len(body), "blobId": git_sha1(body)}
            if len(body) >= LARGE:
                sha256 = hashlib.sha256(body).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 130}
            siblings.append(sibling)
        info = {
            "id": repository,
            "sha": COMMIT,
            "gated": "auto" if repository in self.server_state.gated else False,
            "cardData": {"license": "openrail"},
            "siblings": siblings,
        }
        self._body(json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: str, name: str, token: str, content: bool) -> None:
        hub = self.server_state
        body = hub.repositories.get(repository, {}).get(name)
        if repository in hub.gated and token != "Bearer good":
            return self._head(401 if not token else 403, {"X-Error-Code": "GatedRepo"})
        if body is None:
            return self._head(404, {"X-Error-Code": "EntryNotFound"})
        if len(body) < LARGE:
            return self._send(body, content, f'"{git_sha1(body)}"')
        sha256 = hashlib.sha256(body).hexdigest()
        return self._head(
            302,
            {
                "Location": f"{hub.storage}/large/{sha256}",
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(body)),
            },
        )

    def _send(self, body: bytes, content: bool, etag: str = "") -> None:
        """A file or a part of it. Breaks off where the state says so."""
        hub = self.server_state
        headers = {"ETag": etag} if etag else {}
        if content and hub.statuses:
            return self._head(hub.statuses.pop(0))
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0])
        other = self.headers.get("If-Range", etag) != etag
        status = 206 if "Range" in self.headers and not other and not hub.ignores_ranges else 200
        if status == 206 and start >= len(body):
            return self._head(416)
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        cut = hub.cuts.pop(0) if content and hub.cuts else None
        self._body(body, headers, status, content=content, cut=cut)

    def _body(
        self,
        body: bytes,
        headers: dict[str, str],
        status: int = 200,
        *,
        content: bool = True,
        cut: int | None = None,
    ) -> None:
        self._start(status, {**headers, "Content-Length": str(len(body))})
        if content:
            self.wfile.write(body[:cut])
            self.wfile.flush()
        if cut is not None and self.server_state.hold is not None:
            self.server_state.hold.wait(30)

    def _head(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._start(status, {**(headers or {}), "Content-Length": "0"})

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

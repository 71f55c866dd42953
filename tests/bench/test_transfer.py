"""Downloads over HTTP: what came stays, what is wrong is refused."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import transfer
from bench.transfer import DownloadError, RemoteFile, download
from tests.bench.hub_server import HubServer, git_sha1, serving

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving(HubServer(plain={"/net.pt": CONTENT})) as server:
        yield server


def file_of(hub: HubServer, folder: Path, **known: object) -> RemoteFile:
    return RemoteFile(f"{hub.url}/net.pt", folder / "below" / "net.pt", "net.pt", **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "known", [{"sha256": SHA256}, {"sha256": SHA256[:8]}, {"git_sha1": git_sha1(CONTENT)}, {}]
)
def test_a_file_arrives_whole_over_connections_that_break(
    hub: HubServer, tmp_path: Path, known: dict[str, str]
) -> None:
    hub.etags["/net.pt"] = '"v1"'
    hub.cuts = [3000, 1, 4000]
    file, came, seconds = file_of(hub, tmp_path, **known), [], []
    download(file, came.append, seconds.append)
    assert file.path.read_bytes() == CONTENT
    # Each connection began where the one before broke off.
    assert hub.ranges() == ["", "bytes=3000-", "bytes=3001-", "bytes=7001-"]
    assert sum(came) == len(CONTENT)
    # Nothing else is left in the folder.
    assert [path.name for path in file.path.parent.iterdir()] == ["net.pt"]
    # Bytes came each time, so the waits do not grow.
    assert seconds == [1, 1, 1]
    download(file)
    assert len(hub.ranges()) == 4, "a file that is here is not asked for"


def test_the_next_process_continues_after_a_kill(hub: HubServer, tmp_path: Path) -> None:
    """A download that hangs in the middle is killed. What came is used by the next one."""
    hub.cuts, hub.hold = [6000], threading.Event()
    file = file_of(hub, tmp_path, sha256=SHA256)
    code = (
        "import sys; from pathlib import Path; from bench.transfer import RemoteFile, download\n"
        "download(RemoteFile(sys.argv[1], Path(sys.argv[2]), 'net.pt', sha256=sys.argv[3]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, "-c", code, file.url, str(file.path), SHA256], env=environment)
    try:
        deadline = time.monotonic() + 60
        while file.arrived < 6000 and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(DownloadError, match="another process downloads it"):
            download(file)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert file.arrived == 6000
    assert not file.path.exists()
    hub.hold.set()
    hub.hold = None
    download(file)
    assert hub.ranges() == ["", "bytes=6000-"]
    assert file.path.read_bytes() == CONTENT


def test_a_partial_file_counts_only_where_it_is_of_the_same_version(hub: HubServer, tmp_path: Path) -> None:
    file = file_of(hub, tmp_path)
    hub.etags["/net.pt"] = '"v1"'
    hub.cuts = [5000]
    other = CONTENT[::-1]

    # The publisher exchanges the file while the download waits.
    def exchange(_: float) -> None:
        hub.plain["/net.pt"], hub.etags["/net.pt"] = other, '"v2"'

    came: list[int] = []
    download(file, came.append, exchange)
    assert file.path.read_bytes() == other
    assert hub.ranges() == ["", "bytes=5000-"]
    assert sum(came) == len(other)


def test_without_a_digest_and_a_mark_the_download_begins_anew(hub: HubServer, tmp_path: Path) -> None:
    hub.cuts = [5000]
    file = file_of(hub, tmp_path)
    download(file, sleep=lambda _: None)
    assert hub.ranges() == ["", ""]
    assert file.path.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_from_the_beginning(hub: HubServer, tmp_path: Path) -> None:
    hub.cuts, hub.ignores_ranges = [5000], True
    file = file_of(hub, tmp_path, sha256=SHA256)
    came: list[int] = []
    download(file, came.append, lambda _: None)
    assert file.path.read_bytes() == CONTENT
    assert sum(came) == len(CONTENT)


def test_another_content_than_the_published_one_is_refused_and_dropped(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.plain["/net.pt"] = CONTENT[:-1] + b"?"
    for known in (
        {"sha256": SHA256},
        {"sha256": SHA256[:8]},
        {"git_sha1": git_sha1(CONTENT)},
        {"size": len(CONTENT) - 1},
    ):
        file = file_of(hub, tmp_path, **known)
        with pytest.raises(DownloadError, match="is not the published file"):
            download(file)
        assert not file.path.exists()
        assert file.arrived == 0
    hub.plain["/net.pt"] = CONTENT
    download(file_of(hub, tmp_path, sha256=SHA256))


def test_a_server_that_is_busy_is_asked_again_with_longer_waits(hub: HubServer, tmp_path: Path) -> None:
    hub.statuses = [503, 429, 500]
    seconds: list[float] = []
    download(file_of(hub, tmp_path, sha256=SHA256), sleep=seconds.append)
    assert seconds == [1, 2, 4]
    hub.statuses = [503] * transfer.ATTEMPTS
    second = RemoteFile(f"{hub.url}/net.pt", tmp_path / "b.pt", "b.pt")
    with pytest.raises(DownloadError, match=r"status 503.*The same command continues"):
        download(second, sleep=seconds.append)


@pytest.mark.parametrize(
    ("status", "remedy"), [(404, "publisher's page"), (403, "HF_TOKEN"), (401, "HF_TOKEN")]
)
def test_a_refusal_is_told_at_once(hub: HubServer, tmp_path: Path, status: int, remedy: str) -> None:
    hub.statuses = [status]
    with pytest.raises(DownloadError, match=rf"status {status}.*{remedy}"):
        download(file_of(hub, tmp_path), sleep=lambda _: pytest.fail("it waited"))
    assert not list((tmp_path / "below").iterdir())


def test_an_encrypted_address_never_leads_to_an_open_one(hub: HubServer, tmp_path: Path) -> None:
    import httpx2

    file = RemoteFile("https://example.org/net.pt", tmp_path / "net.pt", "net.pt")
    open_answer = httpx2.Response(200, request=httpx2.Request("GET", f"{hub.url}/net.pt"))
    with pytest.raises(DownloadError, match="without encryption"):
        transfer._check_redirects(file, open_answer)

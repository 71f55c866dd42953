"""Checks that a freshly started study survives many first visitors at once.

Each start is a new server. Twenty visitors open their invitations at the same moment, like raters who were mailed
together, and each waits for the consent page. Then one more visitor comes. If this one gets no page either, the server
is dead, whatever its health check says. Exits with 1 if any start died.

    python tests/perf/crowd.py
    python tests/perf/crowd.py --starts 2 --visitors 50
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Seconds that a start or a page may take on a machine that has other things to do.
PATIENCE = 120.0


def page(port: int, invitation: str, together: Barrier | None = None) -> str:
    """The HTML for a new visitor, by Streamlit's own protocol, without a browser."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.sync.client import connect

    # The message with which a browser asks for the page.
    begin = BackMsg()
    begin.rerun_script.query_string = f"invitation={invitation}"
    address = f"ws://127.0.0.1:{port}/_stcore/stream"
    with connect(address, subprotocols=["streamlit"], max_size=None, open_timeout=PATIENCE) as opened:  # type: ignore[list-item]
        if together is not None:
            together.wait(PATIENCE)
        opened.send(begin.SerializeToString())
        # Everything that the page shows, until its script ends.
        parts = []
        while True:
            data = opened.recv(PATIENCE)
            message = ForwardMsg.FromString(data if isinstance(data, bytes) else data.encode())
            kind = message.WhichOneof("type")
            if kind == "delta":
                parts.append(message.delta.new_element.html.body)
                parts.append(message.delta.new_element.exception.message)
            elif kind == "script_finished":
                return "\n".join(filter(None, parts))


def start(port: int, target: str | Path, folder: Path, study: str = "crowd") -> subprocess.Popen[bytes]:
    """A new server of a study, once its health check says ok."""
    command = "from bench.study.cli import study_app; study_app()"
    server = subprocess.Popen(
        [sys.executable, "-c", command, "serve", study, "--store", str(target), "--port", str(port),
         "--address", "127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    # Ask for its health until it answers.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).read()
            return server
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server does not start") from None
            time.sleep(0.1)


def crowd(folder: Path, visitors: int) -> tuple[int, bool]:
    """Number of first visitors without a consent page, and whether the next visitor gets none either."""
    from bench.study.build import build
    from bench.study.design import DesignOptions
    from bench.study.settings import StudySettings
    from bench.study.store import StudyStore
    from tests.bench.study.runs import make_run

    # A text that only the consent page has.
    mark = "I agree to be one of a crowd."
    run = make_run(folder / "run", cases=4, strengths=(1.0, 0.5))
    target = folder / "crowd.db"
    # A small study, with an invitation for each visitor and one more.
    with StudyStore.open(target) as store:
        design = build([run], DesignOptions(raters=2, trials=4, repeats=0, attention=0, practice=0))
        store.create("crowd", design, StudySettings(consent=mark))
        invitations = store.invite("crowd", visitors + 1)
    with socket.socket() as free:
        # A port that is free.
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(port, target, folder)
    try:
        # All first visitors at once, then the last one.
        together = Barrier(visitors)
        with ThreadPoolExecutor(visitors) as pool:
            pages = list(pool.map(lambda token: page(port, token, together), invitations[1:]))
        return sum(mark not in text for text in pages), mark not in page(port, invitations[0])
    finally:
        server.terminate()
        server.wait(30)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--visitors", type=int, default=20)
    options = parser.parse_args()
    died = 0
    for number in range(options.starts):
        with tempfile.TemporaryDirectory() as folder:
            failed, dead = crowd(Path(folder), options.visitors)
        died += dead
        print(
            f"start {number + 1}: {failed} of {options.visitors} first visitors got no page; "
            f"{'dead' if dead else 'alive'}",
            flush=True,
        )
    print(f"{died} of {options.starts} starts died")
    return int(died > 0)


if __name__ == "__main__":
    sys.exit(main())

"""A worker on a device of this machine: a process of its own, asked through a pipe."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe

from bench.workers.host import Answer, Host, WorkerLost

# A fresh interpreter, not a fork: CUDA cannot be used after a fork. It does not import the caller's main module again,
# as multiprocessing would, so that scripts and notebooks need no guard.
_COMMAND = "import sys; from bench.workers.process import serve; serve(*sys.argv[1:])"


class ProcessWorker:
    """A worker process. Requests are answered in order. It ends together with its parent."""

    def __init__(self, device: str, threads: int | None) -> None:
        self._device = device
        self._pipe, theirs = Pipe()
        with theirs:
            # The worker imports what this process can import, plug-ins included.
            paths = os.pathsep.join(path or os.curdir for path in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(theirs.fileno()), device, str(threads or "")],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
            )
        # One thread sends a request and waits for its answer. Then comes the next request.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"worker-{device}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: tuple[str, object]) -> Future[Answer]:
        """The future of the answer. It raises :class:`WorkerLost` where the process ends before."""
        return self._thread.submit(self._exchange, request)

    def stop(self) -> None:
        """Ends the process at once, whatever it does."""
        self._process.kill()
        self._process.wait()
        # The thread, if it waits for an answer, gets the end of the pipe now.
        self._thread.shutdown(cancel_futures=True)
        self._pipe.close()

    def _exchange(self, request: tuple[str, object]) -> Answer:
        message = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            self._pipe.send_bytes(message)
            answer: Answer = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            code = self._process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerLost(f"the worker process on {self._device} ended ({how})") from None
        return answer


def serve(handle: str, device: str, threads: str) -> None:
    """Answers requests until the pipe is closed. This is the main function of the process.

    ``handle`` is the inherited file descriptor of the pipe, ``threads`` a number or empty.
    """
    # Ctrl-C goes to all processes of the terminal. The parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host = Host(device, int(threads) if threads else None)
    with Connection(int(handle)) as pipe:
        while True:
            try:
                request = pipe.recv_bytes()
                pipe.send_bytes(pickle.dumps(host.answer(request), protocol=pickle.HIGHEST_PROTOCOL))
            except (EOFError, OSError):
                # The parent has ended or does not listen any more.
                return

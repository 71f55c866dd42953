"""Models for tests of workers. Worker processes import this module, so it imports little."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.edit import EditRequest
from bench.registry import Registry
from bench.suite import ConfiguredMethod, configure_method
from tests.bench.fakes import Fake


class Doubles:
    """Doubles numbers. The aside is the process and the size of the batch."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, batch: Sequence[Any]) -> tuple[list[Any], tuple[int, int]]:
        if "deadly" in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        if "wrong" in batch:
            raise TwoPartError("no", "number")
        return [2 * item for item in batch], (os.getpid(), len(batch))


class TwoPartError(Exception):
    """It is pickled without complaint and cannot be read back."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def cannot_load(device: str) -> Doubles:
    raise FileNotFoundError(f"no weights for {device}")


def dies_while_loading(device: str) -> Doubles:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Deadly(Fake):
    """A fake method that ends its process at one case, or, with ``once``, the first time only."""

    @dataclass(frozen=True)
    class Options(Fake.Options):
        deadly: str = ""
        once: str = ""

    def edit(self, requests: Sequence[EditRequest]) -> list[Any]:
        assert isinstance(self.options, Deadly.Options)
        if any(request.target_prompt == self.options.deadly for request in requests):
            marker = Path(self.options.once)
            if not self.options.once or not marker.exists():
                if self.options.once:
                    marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().edit(requests)


def deadly(**options: Any) -> ConfiguredMethod:
    registry = Registry("method", {"deadly": "tests.bench.workers.work:Deadly"}, "")
    return configure_method("deadly", registry, options=options)

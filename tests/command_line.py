"""A small benchmark for tests of the command line: protocols of dots, a method that can fail, a suite."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import run_bench

ROOT = Path(__file__).resolve().parent.parent

PLUGIN = '''
import time
import warnings
from dataclasses import dataclass
from PIL import Image, ImageDraw
from bench.errors import BenchError, BenchWarning
from bench.edit import EditCase, EditMethod, EditProtocol, EditRequest, stable_digest


class Dots(EditProtocol):
    name, version, categories, canvas = "dots", "1", ("attribute", "background"), 32
    summary = "dots"
    digest = stable_digest("dots")

    @dataclass(frozen=True)
    class Options:
        pass

    def __init__(self, options):
        pass

    def cases(self):
        made = []
        for i in range(6):
            source = Image.new("RGB", (32, 32), (40 * i, 90, 200))
            mask = Image.new("L", (32, 32))
            ImageDraw.Draw(mask).rectangle([4, 4, 15, 15], fill=255)
            request = EditRequest(source, mask, "a wall", f"a wall with a dot {i}", "a dot", "paint a dot")
            truth = source.copy()
            truth.paste((255, 0, 0), mask=mask)
            made.append(EditCase(f"dot-{i}", self.categories[i % 2], request, f"s{i}", truth=truth))
        return made

    def reference(self):
        return iter(case.request.source for case in self.cases())


class Drawn(Dots):
    name, rendered = "drawn", True


class Fussy(Dots):
    """Its constructor warns, and refuses a canvas of no size."""

    name = "fussy"

    @dataclass(frozen=True)
    class Options:
        canvas: int = 32

    def __init__(self, options):
        warnings.warn("the dots are few.", BenchWarning)
        warnings.warn("a library's own concern")
        if options.canvas < 1:
            raise FussyError("fussy: canvas 0: expected 1 or more.")


class FussyError(BenchError):
    pass


class Moody(EditMethod):
    """Fails on the dots it is told to."""

    summary = "fails where it is told to"
    needs = frozenset({"source"})

    @dataclass(frozen=True)
    class Options:
        fail: str = ""
        seconds: float = 0.0

    def __init__(self, options, runtime):
        self.options = options

    def edit(self, requests):
        time.sleep(self.options.seconds)
        if any(self.options.fail and r.target_prompt.endswith(self.options.fail) for r in requests):
            raise RuntimeError("no mood")
        return [r.source.point(lambda v: 255 - v) for r in requests]


METHODS = {"moody": "cli_plugin:Moody"}
PROTOCOLS = {"dots": "cli_plugin:Dots", "drawn": "cli_plugin:Drawn", "fussy": "cli_plugin:Fussy"}
'''

SUITE = """
name: dots
protocols: [dots]
methods:
  - copy_input
  - method: moody
    options: {fail: "%s"}
metrics: [leak_mse, leak_changed]
"""


def run(*arguments: str) -> int:
    return run_bench.main(arguments)


SCRIPT = [sys.executable, str(ROOT / "run_bench.py")]


def process(
    *arguments: str, shell: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the script as a user does. ``shell`` is put behind the command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    environment.pop("PEB_DEBUG", None)
    command = f"{shlex.join([*SCRIPT, *arguments])} {shell}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip

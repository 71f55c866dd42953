"""A suite from options of the command line, for runs without a YAML file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from bench.cli.options import key_values
from bench.errors import BenchError

OptionalSuiteName = Annotated[
    str | None,
    typer.Argument(
        metavar="[SUITE]",
        help="A shipped suite (demo, mini, paper) or a YAML file. Leave it out with --protocol and --method.",
    ),
]
# Options of ``run`` that replace a suite file.
ProtocolName = Annotated[
    str | None,
    typer.Option("--protocol", metavar="NAME", help="Run this protocol without a suite file, with --method."),
]
MethodNames = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="NAME", help="A method of a run without a suite file. May be repeated."),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method-option",
        "-m",
        metavar="KEY=VALUE",
        help="An option of the only --method. May be repeated.",
    ),
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="The preset of the only --method.")
]
MetricNames = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME", help="With --protocol: only this metric. May be repeated."),
]

Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds", metavar="N,N,...", help="With --protocol: every edit once with each of these seeds."
    ),
]


@dataclass(frozen=True)
class AdHoc:
    """The options that replace a suite file, as the command line gives them. None and empty: not given."""

    protocol: str | None
    protocol_options: Sequence[str] | None
    methods: Sequence[str] | None
    method_options: Sequence[str] | None
    preset: str | None
    metrics: Sequence[str] | None
    seeds: str | None
    limit: int | None

    def suite(self) -> dict[str, Any]:
        """The suite that the options stand for, with the keys of a suite file.

        Its name ends with a digest of its content, so that the same command resumes and another one gets a folder of
        its own. Raises :class:`BenchError` that names the option to correct.
        """
        if not self.protocol or not self.methods:
            raise BenchError("name a suite, or give both --protocol and --method.")
        if len(self.methods) > 1 and (self.method_options or self.preset):
            raise BenchError(
                "--method-option and --preset need a single --method. Write a suite file for several."
            )
        values: dict[str, Any] = {}
        if self.seeds is not None:
            values["seeds"] = _whole_numbers(self.seeds)
        if self.limit is not None:
            values["limit"] = self.limit
        values["protocols"] = [_entry("name", self.protocol, options=key_values(self.protocol_options))]
        options = key_values(self.method_options, "--method-option", "steps=20")
        values["methods"] = [
            _entry("method", method, preset=self.preset, options=options) for method in self.methods
        ]
        if self.metrics:
            values["metrics"] = list(self.metrics)
        return {"name": _name(self.protocol, self.methods, values), **values}

    def check_absent(self, suite: str) -> None:
        """Raises :class:`BenchError` where an option is given beside a suite. ``limit`` may be."""
        options = {
            "--protocol": self.protocol,
            "--option": self.protocol_options,
            "--method": self.methods,
            "--method-option": self.method_options,
            "--preset": self.preset,
            "--metric": self.metrics,
            "--seeds": self.seeds,
        }
        chosen = [option for option, value in options.items() if value]
        if chosen:
            raise BenchError(
                f"suite {suite!r} and {', '.join(chosen)}: give a suite, or --protocol and --method without a suite."
            )


def _whole_numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise BenchError(f"--seeds {seeds!r}: give whole numbers, such as 0,1.") from None


def _entry(key: str, name: str, **settings: Any) -> dict[str, Any]:
    """An entry of a suite without empty settings."""
    return {key: name, **{setting: value for setting, value in settings.items() if value}}


def _name(protocol: str, methods: Sequence[str], values: Mapping[str, Any]) -> str:
    from bench.suite_yaml import write_yaml

    words = [protocol, *(methods if len(methods) <= 2 else [f"{len(methods)}-methods"])]
    # Any name of a plug-in becomes part of a folder's name.
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", "-".join(words)).strip("-")[:80]
    digest = hashlib.sha256(write_yaml(values).encode()).hexdigest()
    return f"{readable or 'run'}-{digest[:6]}"

"""Runs one command of the command line, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from bench.cli.console import complain
from bench.errors import BenchError
from bench.session import Program
from bench.terminal import patient_streams, system_error, worded_warnings

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def run_command(app: typer.Typer, program: Program, arguments: Sequence[str] | None = None) -> int:
    """Runs one command. ``arguments`` None takes those of the process.

    Returns the exit code: 0 done, 1 a part of the work failed, 2 the command was refused.
    """
    # Read before the command line is parsed, since parsing may fail.
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.get("PEB_DEBUG")) or "--debug" in command_line
    with patient_streams() as output, worded_warnings(debug=debug):
        code = _carry_out(app, program, command_line)
        # A closed pipe or a full disk behind standard output may raise only at the last flush.
        if output is not None:
            sys.stdout.flush()
            if isinstance(output.lost, BrokenPipeError):
                complain("standard output was closed early; the command ran to its end.", "note")
            elif output.lost is not None:
                complain(f"standard output: {system_error(output.lost)}")
                code = code or 1
        return code


def _carry_out(app: typer.Typer, program: Program, arguments: list[str]) -> int:
    try:
        code = app(arguments, standalone_mode=False, obj=program)
    except Exception as error:
        message = _user_message(error)
        if message == "":
            # No command was named, and the help has been printed.
            return 0
        if message is None or os.environ.get("PEB_DEBUG"):
            raise
        # One line, without a traceback.
        complain(message)
        return 2
    # typer turns Ctrl-C into this code.
    if code == INTERRUPTED:
        complain("stopped. What is stored is kept; the same command goes on from there.")
    return code if isinstance(code, int) else 0


def _user_message(error: Exception) -> str | None:
    """The message of an error that a user can cause or fix. None for a defect, which keeps its traceback."""
    # Errors of this project and of plug-ins.
    if isinstance(error, BenchError):
        return str(error)
    # A full disk, a missing file, a folder without permission.
    if isinstance(error, OSError):
        return system_error(error)
    # Standard input ended while the program waited for an answer.
    if isinstance(error, typer.Abort):
        return "the input ended before the question was answered. Give the answer as an option."
    # Errors of a mistyped command line: their class is not exported by typer, so their method identifies them.
    if hasattr(error, "format_message"):
        return str(error.format_message())
    return None

"""Output of the commands: progress bars, JSON, plain tables, error lines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bench.tables.terminal import plain_table
from bench.terminal import console, encodable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


# Most characters in a line of a pipe.
_LONGEST_LINE = 10_000


def print_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Prints a table with a line per mapping. Its columns are the keys of the first, which all of them have."""
    table = plain_table()
    for position, key in enumerate(rows[0] if rows else ()):
        # The first column names the row. A name that wraps over two lines cannot be copied.
        table.add_column(
            key.replace("_", " "),
            no_wrap=position == 0,
            overflow="ellipsis" if position == 0 else "fold",
            style="bold" if position == 0 else "",
        )
    for row in rows:
        table.add_row(*map(plain_value, row.values()))
    screen = console()
    # In a file or a pipe, rows are not wrapped, so that they can be searched.
    if not screen.is_terminal:
        screen.width = _LONGEST_LINE
        screen.width = max(screen.measure(table).maximum, 1)
    screen.print(table)


def plain_value(value: object) -> str:
    """A value as text. None and NaN become a dash, floats get three digits, lists and mappings are joined."""
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        # Without an exponent: `4023`, not `4.02e+03`.
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_value(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(plain_value, value)) or "none"
    return str(value)


def complain(message: str, kind: str = "error") -> None:
    """Prints an error in red, or another ``kind`` of message in yellow, on standard error."""
    from rich.text import Text

    # Text, not a string: rich would read brackets in a path as markup.
    style = "red" if kind == "error" else "yellow"
    console(stderr=True).print(Text(f"{kind}: {message}", style=style), soft_wrap=True)


def warn(screen: Console, line: str) -> None:
    """Prints a line in yellow. The terminal wraps it, so that a command in it can be copied whole."""
    screen.print(line, style="yellow", soft_wrap=True)


# --- JSON ------------------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """Prints JSON on standard output. A number that JSON lacks (infinity, NaN) becomes null, a time becomes text."""
    plain = _json_value(value)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    # Where the terminal's encoding lacks a letter, escapes keep the JSON valid.
    sys.stdout.write((text if encodable(text) else json.dumps(plain, indent=2)) + "\n")


def _json_value(value: Any) -> Any:
    # Containers are copied. Values that JSON cannot express are replaced.
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, datetime):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- progress --------------------------------------------------------------------------------------------


class Bar:
    """Implements ``bench.progress.Progress`` with rich's bars. On a pipe it prints a line per piece of work."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        # A label may hold brackets, which are no markup here.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console(stderr=True, quiet=quiet),
            disable=quiet,
        )
        self._open: list[TaskID] = []
        self._started = False

    def start(self, total: int, label: str) -> None:
        # The display starts only when work begins, so that a refused command prints nothing but its error.
        self._progress.start()
        self._started = True
        # The previous bar stays open, because its last steps may still be reported.
        self._open.append(self._progress.add_task(label, total=total))

    def advance(self, steps: int = 1) -> None:
        # Another thread reports the steps in order. The last steps of a bar may arrive after the next bar has begun.
        while len(self._open) > 1 and self._progress._tasks[self._open[0]].finished:
            self._open.pop(0)
        if self._open:
            self._progress.advance(self._open[0], steps)

    def show(self, label: str, done: int, total: int) -> None:
        """Shows the state of work that counts its own steps."""
        # Trainers report totals; the first report opens the bar.
        if not self._open:
            self.start(total, label)
        self._progress.update(self._open[0], description=label, completed=done, total=total)

    def note(self, message: str) -> None:
        self._progress.console.print(message, style="yellow")

    def stop(self) -> None:
        # The elapsed time stands still from here on.
        for task in self._open:
            self._progress.stop_task(task)
        self._open.clear()

    def close(self) -> None:
        """Ends the display. rich prints an empty line at its end, also where nothing was shown."""
        if self._started:
            self._progress.stop()


@contextmanager
def progress_bar(screen: Console | None = None) -> Iterator[Bar]:
    """Yields a bar on standard error. It shows nothing where ``screen`` is quiet."""
    # On standard error, so that standard output can be piped.
    bar = Bar(quiet=screen is not None and screen.quiet)
    try:
        yield bar
    finally:
        bar.close()


class TrainingBar:
    """Progress of a trainer: a bar with the latest figures (loss, learning rate) beside its name."""

    def __init__(self, bar: Bar, name: str) -> None:
        self._bar, self._name = bar, name

    def __call__(self, samples: int, total: int, figures: Mapping[str, float]) -> None:
        # Four digits are enough to see a trend.
        values = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.show(f"{self._name}  {values}", samples, total)

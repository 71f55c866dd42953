"""Output of the commands: progress bars, JSON, plain tables, error lines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.terminal import console, encodable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table


def plain_table(**options: Any) -> Table:
    """A table with a line under its head and no frame. ``options`` are those of rich's ``Table``."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, **options)


def complain(message: str, kind: str = "error") -> None:
    """Prints an error in red, or another ``kind`` of message in yellow, on standard error."""
    from rich.text import Text

    # Text, not a string: brackets in a path are no markup.
    style = "red" if kind == "error" else "yellow"
    console(stderr=True).print(Text(f"{kind}: {message}", style=style), soft_wrap=True)


def warn(screen: Console, line: str) -> None:
    """Prints a line in yellow. The terminal wraps it, so that a command in it can be copied whole."""
    screen.print(line, style="yellow", soft_wrap=True)


# --- JSON ------------------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """Prints JSON on standard output. A number that JSON cannot express (infinity, NaN) becomes null."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # With escapes it is the same JSON, for a terminal whose encoding lacks a letter.
    sys.stdout.write((text if encodable(text) else json.dumps(_finite(value), indent=2)) + "\n")


def _finite(value: Any) -> Any:
    # Containers are copied, numbers replaced.
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
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
        # Not before there is work: a command that is refused prints its error alone.
        self._progress.start()
        self._started = True
        # The bar before it stays: its last steps may still come.
        self._open.append(self._progress.add_task(label, total=total))

    def advance(self, steps: int = 1) -> None:
        # Another thread reports steps, in order: the last ones may come after the next piece of work has begun.
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

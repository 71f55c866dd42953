"""Result of a verification: problems, notes and one line per check, for a terminal and for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

# Lines of one kind that are written out. Further lines are counted.
MOST_LINES = 20


@dataclass(frozen=True)
class Check:
    """One line of the table: what was checked, how much of it, how, and with which result."""

    what: str
    checked: int
    total: int
    how: str
    problems: int = 0

    @property
    def result(self) -> str:
        if self.problems:
            return f"{self.problems} wrong"
        return "holds" if self.checked or not self.total else "not checked"

    @property
    def extent(self) -> str:
        if self.checked == self.total:
            return f"all {self.total:,}"
        return f"{self.checked:,} of {self.total:,}"


@dataclass
class Verification:
    """Everything that the checks of a run report.

    ``problems`` contradict what the folder says. ``notes`` only add information.
    """

    path: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    # Largest difference of a score of a single edit, relative to the larger of 1 and the stored value.
    largest_difference: float | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def check(self, what: str) -> Check:
        """The check with this name. Raises KeyError."""
        return {check.what: check for check in self.checks}[what]

    @property
    def verdict(self) -> str:
        """One sentence. It names what was checked in part or not at all."""
        if not self.ok:
            count = len(self.problems)
            return f"{self.path}: is not what it claims: {count} discrepanc{'y' if count == 1 else 'ies'}."
        partial = [f"{check.what} ({check.extent})" for check in self.checks if check.checked < check.total]
        if not partial:
            return f"{self.path}: is what it claims."
        return f"{self.path}: is what it claims as far as it was checked; not wholly: {', '.join(partial)}."

    def terminal(self) -> Iterator[RenderableType]:
        """Problems and notes, the checks as a table, and the verdict last."""
        from rich.text import Text

        from bench.tables.terminal import plain_table

        for line in _first_lines(self.problems, "problem"):
            yield Text(line, style="red")
        for line in _first_lines(self.notes, "note"):
            yield Text(line, style="yellow")
        table = plain_table()
        for heading in ("what", "checked", "result", "how"):
            table.add_column(heading, justify="right" if heading == "checked" else "left")
        styles = {"holds": "green", "not checked": "yellow"}
        for check in self.checks:
            result = Text(check.result, style=styles.get(check.result, "red"))
            table.add_row(Text(check.what), check.extent, result, Text(check.how))
        yield table
        yield Text(self.verdict, style="bold green" if self.ok else "bold red")

    def to_dict(self) -> dict[str, Any]:
        """``ok``, ``verdict``, ``problems``, ``notes``, ``checks`` and ``largest_difference``, ready for JSON."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "problems": self.problems,
            "notes": self.notes,
            "checks": [{**asdict(check), "result": check.result} for check in self.checks],
            "largest_difference": self.largest_difference,
        }


def _first_lines(lines: Sequence[str], label: str) -> Iterator[str]:
    """At most ``MOST_LINES`` lines of each kind, then the number of the others."""
    # Lines are of one kind if they begin with the same file or folder.
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(line.partition(":")[0].partition("/")[0], []).append(line)
    for same_kind in kinds.values():
        yield from (f"{label}: {line}" for line in same_kind[:MOST_LINES])
        if len(same_kind) > MOST_LINES:
            yield f"{label}: ... and {len(same_kind) - MOST_LINES} more such lines"

"""A comparison as text: a summary for the terminal, and all of it as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bench.edit import ALL, CATEGORIES
from reports.data.metrics import full_heading
from reports.share.comparison.result import Comparison, Flip, MetricDifference

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

ABSENT = "–"
SAME = "the same"
# Flips that the terminal lists. Markdown lists all.
MOST_FLIPS = 20
COLUMNS = ("method", "metric", "A", "B", "B - A", "95 % interval", "n", "")
_RIGHT_ALIGNED = ("A", "B", "B - A", "95 % interval", "n")
# Style of a verdict on the terminal. The others are dim.
_STYLES = {"better": "bold green", "worse": "bold red", "differs": "bold"}


# --- cells -----------------------------------------------------------------------------------------------


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return ABSENT
    return f"{value:+.3g}" if sign and value else f"{value:.4g}"


def _interval(entry: MetricDifference) -> str:
    if entry.low is None or entry.high is None:
        return ""
    return f"{_number(entry.low, sign=True)} to {_number(entry.high, sign=True)}"


def _verdict(entry: MetricDifference) -> str:
    """The last column: "better" or "worse" for B, or the reason why this is undecided."""
    if entry.remark:
        return entry.remark
    if entry.same:
        return SAME
    if entry.low is None:
        return ""
    if entry.rounding:
        return "the same but for rounding"
    if not entry.separable:
        return "not separable"
    return {True: "better", False: "worse", None: "differs"}[entry.better]


def _blocks(entries: Iterable[MetricDifference]) -> Iterator[tuple[str, list[MetricDifference]]]:
    """Heading and rows of each table: one table per protocol and category, protocols in order of appearance."""
    entries = list(entries)
    for protocol in dict.fromkeys(entry.protocol for entry in entries):
        for category in (ALL, *CATEGORIES):
            rows = [e for e in entries if e.protocol == protocol and e.category == category]
            name = "all categories" if category == ALL else category.replace("_", "-")
            if rows:
                yield f"{protocol}: {name}", rows


def _flip_line(comparison: Comparison) -> str:
    gained = sum(flip.gained for flip in comparison.flips)
    return f"Cases that flipped: {gained} gained in B, {len(comparison.flips) - gained} lost"


def _flip(flip: Flip) -> str:
    way = "gained" if flip.gained else "lost"
    return (
        f"{way}: {flip.case} ({flip.category.replace('_', '-')}, {flip.protocol}) by {flip.method}, "
        f"{full_heading(flip.metric)}: {flip.prompt}"
    )


def _notes(comparison: Comparison) -> list[str]:
    return [
        f"A: {comparison.a}; B: {comparison.b}. Differences are B minus A, paired by case; their 95 % intervals"
        " are clustered on source images (of shares: Newcombe's; of other means: studentised bootstrap) and not"
        " corrected for their number.",
        *comparison.notes,
    ]


# --- terminal --------------------------------------------------------------------------------------------


def terminal(comparison: Comparison, *, everything: bool = False) -> Iterator[RenderableType]:
    """Parts of the comparison for ``rich``. ``everything``: every category and metric, equal values too."""
    from rich.text import Text

    # Settings.
    if comparison.changes:
        table = _rich_table("What was asked differently", "what", "in A", "in B")
        for change in comparison.changes:
            table.add_row(Text(change.what), Text(change.a or ABSENT), Text(change.b or ABSENT))
        yield table
    else:
        yield Text("The configurations are the same.", style="bold")
    yield Text()

    # Differences. Equal values are counted only.
    entries = comparison.differences if everything else comparison.headline()
    listed = [entry for entry in entries if everything or _verdict(entry) != SAME]
    for heading, rows in _blocks(listed):
        yield _difference_table(heading, rows)
        yield Text()
    if len(listed) < len(entries):
        count = len(entries) - len(listed)
        yield Text(f"The same in both: {count} of {len(entries)} values of the main metrics.")

    # Flips and notes.
    yield Text(_flip_line(comparison), style="bold")
    for flip in comparison.flips[:MOST_FLIPS]:
        yield Text(f"  {_flip(flip)}", style="green" if flip.gained else "red")
    if len(comparison.flips) > MOST_FLIPS:
        yield Text(f"  ... and {len(comparison.flips) - MOST_FLIPS} more", style="dim")
    for note in _notes(comparison):
        yield Text(note, style="dim italic")


def _difference_table(heading: str, rows: Iterable[MetricDifference]) -> RichTable:
    from rich.text import Text

    table = _rich_table(heading, *COLUMNS)
    previous = ""
    for entry in rows:
        verdict = _verdict(entry)
        table.add_row(
            # A method's name stands in its first row alone.
            Text(entry.method if entry.method != previous else ""),
            Text(full_heading(entry.metric)),
            _number(entry.a),
            _number(entry.b),
            _number(entry.difference, sign=True),
            _interval(entry),
            str(entry.n),
            Text(verdict, style=_STYLES.get(verdict, "dim")),
        )
        previous = entry.method
    return table


def _rich_table(title: str, *columns: str) -> RichTable:
    from rich.text import Text

    from bench.tables.terminal import plain_table

    table = plain_table(title=Text(title, style="bold"), title_justify="left")
    for column in columns:
        right = column in _RIGHT_ALIGNED
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right)
    return table


# --- Markdown --------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """The whole comparison: settings, every difference, every flip."""
    # Settings.
    lines = [f"# {_escaped(comparison.a)} and {_escaped(comparison.b)}", ""]
    lines += ["## What was asked differently", ""]
    if comparison.changes:
        lines += ["| what | A | B |", "| :-- | :-- | :-- |"]
        for change in comparison.changes:
            cells = (change.what, change.a or ABSENT, change.b or ABSENT)
            lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    else:
        lines.append("Nothing.")

    # Differences. Those that are separable from zero are bold.
    lines += ["", "## Differences", ""]
    for heading, rows in _blocks(comparison.differences):
        lines += [f"### {_escaped(heading)}", ""]
        lines += [f"| {' | '.join(COLUMNS[:-1])} | |"]
        lines += ["| :-- | :-- | --: | --: | --: | --: | --: | :-- |"]
        for entry in rows:
            gap = _number(entry.difference, sign=True)
            lines.append(
                f"| {_escaped(entry.method)} | {_escaped(full_heading(entry.metric))} | {_number(entry.a)} "
                f"| {_number(entry.b)} | {f'**{gap}**' if entry.separable else gap} | {_interval(entry)} "
                f"| {entry.n} | {_escaped(_verdict(entry))} |"
            )
        lines.append("")

    # Flips and notes.
    lines += ["## Flips", "", f"{_flip_line(comparison)}.", ""]
    lines += [f"- {_escaped(_flip(flip))}" for flip in comparison.flips]
    lines += ["", *(f"{_escaped(note)}  " for note in _notes(comparison)), ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """``text`` on one line, with every character escaped that Markdown would interpret."""
    for char in "\\`*_|<>[]":
        text = text.replace(char, "\\" + char)
    return " ".join(text.split())

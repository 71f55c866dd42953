"""Parts that several charts share: rows of the summary, panels, legends, bars with intervals, the noise floor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.edit import ALL
from reports.data.scores import RunScores
from reports.figures.style import COLUMN_INCHES, INK, PAGE_INCHES, RULE, Look, label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SummaryRow = Mapping[Any, Any]
# (protocol, method, metric, category) -> row of the summary.
SummaryRows = Mapping[tuple[str, str, str, str], SummaryRow]

# Controls that only store and restore the image. The smallest leakage among them is the noise floor.
ROUND_TRIPS = ("jpeg", "resize_round_trip", "autoencoder_round_trip")

# Height of a legend's line in inches.
# Estimates for 7 pt letters. Measuring the text would draw the figure once more.
_LEGEND_LINE = 0.145
# Width of a letter and of a key in a legend, in inches.
_CHARACTER, _KEY = 0.042, 0.4


def rows_of(frame: pd.DataFrame) -> SummaryRows:
    """The rows of a summary that have a value."""
    return {
        (row["protocol"], row["method"], row["metric"], row["category"]): row
        for row in frame.to_dict(orient="records")
        if not math.isnan(row["value"])
    }


def width_for(style: Mapping[str, Look]) -> float:
    """Width in inches: a column of a paper, or the page for more than six methods."""
    return PAGE_INCHES if len(style) > 6 else COLUMN_INCHES


def panels(chart: Figure, protocols: Sequence[str], **options: Any) -> list[Axes]:
    """One panel per protocol, side by side. ``options``: those of ``Figure.subplots``."""
    axes = chart.subplots(1, len(protocols), squeeze=False, **options)[0]
    for axis, protocol in zip(axes, protocols, strict=True):
        axis.set_title(protocol, color=INK, pad=4)
        grid_behind(axis, "y")
    return list(axes)


def grid_behind(axis: Axes, direction: str) -> None:
    axis.grid(axis=direction, color=RULE, linewidth=0.4)  # type: ignore[arg-type]
    axis.set_axisbelow(True)


def add_legend(chart: Figure, handles: Mapping[str, Any], width: float, remarks: Mapping[str, str]) -> None:
    """A legend under the panels, in as many columns as fit. The figure grows by its height."""
    if not handles:
        return
    # As many columns as fit the width, four at most.
    names = [label(name, remarks) for name in handles]
    fitting = (n for n in range(min(len(names), 4), 1, -1) if sum(_column_widths(names, n)) <= width)
    columns = next(fitting, 1)
    rows = math.ceil(len(names) / columns)
    # Grown, so that a long legend does not squeeze the panels.
    chart.set_figheight(chart.get_figheight() + _LEGEND_LINE * rows + 0.06)
    chart.legend(handles.values(), names, loc="outside lower center", ncols=columns)


def _column_widths(names: Sequence[str], columns: int) -> list[float]:
    """Width in inches of each column of a legend, which is filled column by column."""
    rows = math.ceil(len(names) / columns)
    parts = [names[start : start + rows] for start in range(0, len(names), rows)]
    return [_CHARACTER * max(map(len, part)) + _KEY for part in parts]


def methods_first(handles: Mapping[str, Any], style: Mapping[str, Look]) -> dict[str, Any]:
    """Legend entries of methods, then those of controls and of the noise floor."""
    names = [*(name for name in style if name in handles), *(name for name in handles if name not in style)]
    return {name: handles[name] for name in names}


def whiskers(row: SummaryRow, scale: float = 1.0) -> list[list[float]] | None:
    """Lengths of the two halves of an interval, as ``Axes.errorbar`` takes them. None without an interval."""
    # Both ends are NaN, or none.
    if math.isnan(row["low"]):
        return None
    value = row["value"]
    # matplotlib refuses negative lengths. A jackknife's interval is about another value and need not hold this one.
    return [[max(0.0, value - row["low"]) * scale], [max(0.0, row["high"] - value) * scale]]


def draw_bar(
    axis: Axes, x: float, row: SummaryRow, look: Look, width: float, *, horizontal: bool = False
) -> Any:
    """Draws a bar in per cent, its interval, and the method's marker at its end. Returns the legend's handle."""
    from matplotlib.patheffects import withStroke

    # Bar.
    value, interval = 100 * row["value"], whiskers(row, 100)
    # A hatch has the colour of the edge.
    edge = "white" if look.hatch else look.color
    style: dict[str, Any] = {"color": look.color, "hatch": look.hatch, "edgecolor": edge, "linewidth": 0.3}
    (axis.barh if horizontal else axis.bar)(x, value, 0.9 * width, **style)
    place = (value, x) if horizontal else (x, value)
    # Interval, with a light rim, so that it stands out from a bar of any colour.
    if interval is not None:
        ends: dict[str, Any] = {"xerr" if horizontal else "yerr": interval, "fmt": "none"}
        _, caps, lines = axis.errorbar(
            *place, **ends, ecolor=INK, elinewidth=0.7, capsize=1.4, capthick=0.6, zorder=3
        )
        for line in (*caps, *lines):
            line.set_path_effects([withStroke(linewidth=1.9, foreground="white")])
            # An interval that ends at 0 or 100 % is drawn whole, beyond the axes' border.
            line.set_clip_on(False)
    # Marker, which is all that a bar of height 0 shows.
    return axis.plot(
        *place, color=look.color, linewidth=4, zorder=4, clip_on=False, solid_capstyle="butt", **look.mark(3.2),
    )[0]  # fmt: skip


def noise_floor(rows: SummaryRows, scores: RunScores, protocol: str, metric: str) -> float:
    """The smallest leakage of a control that only stores and restores the image. NaN without such a control."""
    values = [
        rows[protocol, title, metric, ALL]["value"]
        for title, name in scores.names.items()
        if name in ROUND_TRIPS and (protocol, title, metric, ALL) in rows
    ]
    return min(values, default=math.nan)


def title_of(scores: RunScores, name: str) -> str:
    """Title of the method that is registered under a name. Empty where the run does not have it."""
    return next((title for title, registered in scores.names.items() if registered == name), "")

"""Charts of a report: leakage by distance, success by category, the trade-off, preference.

Each function draws one figure with a panel per protocol, or returns None where the run lacks its data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.edit import ALL, CATEGORIES
from reports.data.metrics import HEADINGS, SUCCESS
from reports.data.preference import SIMULATED
from reports.data.scores import RunScores
from reports.figures.chart_parts import (
    SummaryRow,
    SummaryRows,
    add_legend,
    draw_bar,
    grid_behind,
    methods_first,
    noise_floor,
    panels,
    rows_of,
    title_of,
    whiskers,
    width_for,
)
from reports.figures.style import COLUMN_INCHES, GRAY, INK, PAGE_INCHES, RULE, Look, drawing, figure, label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Metric of each band outside the mask, from the mask outwards, and its name.
DISTANCES: Sequence[tuple[str, str]] = (
    ("leak_lpips_edge", "edge"),
    ("leak_lpips_near", "near"),
    ("leak_lpips_mid", "mid"),
    ("leak_lpips_far", "far"),
)
ALIGNMENT = ("clip_region", "mini_clip_region", "clip_target", "mini_clip_target")
LEAK = ("leak_lpips", "leak_lpips_vgg")
# A chart shows the first metric of a group that the protocol has.
VOTED = ("preference", "preference_votes", f"{SIMULATED}preference", f"{SIMULATED}preference_votes")


def _first_metrics(scores: RunScores, metrics: Sequence[str]) -> dict[str, str]:
    """Protocol -> the first of these metrics that it has, without protocols that have none."""
    first = {
        name: next((metric for metric in metrics if metric in protocol.metrics), "")
        for name, protocol in scores.protocols.items()
    }
    return {name: metric for name, metric in first.items() if metric}


# --- leakage by distance ---------------------------------------------------------------------------------


def leakage_by_distance(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """LPIPS outside the mask, in bands outwards from it. Values below the gentlest round trip's are noise."""
    rows = rows_of(frame)
    protocols = [p for p in scores.protocols if any((p, m, "leak_lpips_near", ALL) in rows for m in style)]
    if not protocols:
        return None
    width = width_for(style)
    with drawing():
        chart = figure(width, 1.75)
        handles: dict[str, Any] = {}
        for axis, protocol in zip(panels(chart, protocols, sharey=True), protocols, strict=True):
            floor = [noise_floor(rows, scores, protocol, metric) for metric, _ in DISTANCES]
            if not all(map(math.isnan, floor)):
                handles["noise floor"] = axis.fill_between(
                    range(4), 0, floor, color=RULE, alpha=0.7, linewidth=0, zorder=0
                )
            handles.update(_distance_lines(axis, rows, protocol, style))
            axis.set_xticks(range(4), [name for _, name in DISTANCES])
            axis.set_xlim(-0.45, 3.45)
            axis.set_xlabel("distance from mask")
        # The panels share their scale, so it may start at 0 only when all of them are drawn.
        chart.axes[0].set_ylim(bottom=0)
        chart.axes[0].set_ylabel("LPIPS outside ↓")
        add_legend(chart, methods_first(handles, style), width, scores.remarks)
    return chart


def _distance_lines(
    axis: Axes, rows: SummaryRows, protocol: str, style: Mapping[str, Look]
) -> Iterator[tuple[str, Any]]:
    """Draws a line per method. Returns its title and its handle."""
    # Methods stand side by side within each band, so that their intervals do not overlap.
    spread = 0.6 / max(1, len(style))
    for k, (method, look) in enumerate(style.items()):
        points = [
            (i + (k - (len(style) - 1) / 2) * spread, rows[protocol, method, metric, ALL])
            for i, (metric, _) in enumerate(DISTANCES)
            if (protocol, method, metric, ALL) in rows
        ]
        if not points:
            continue
        x, y = [i for i, _ in points], [row["value"] for _, row in points]
        (handle,) = axis.plot(x, y, look.line, color=look.color, clip_on=False, **look.mark())
        # One call per point, since the halves of an interval may be absent at some of them.
        for i, row in points:
            axis.errorbar([i], [row["value"]], yerr=whiskers(row), color=look.color, linewidth=0.8)
        yield method, handle


# --- success by category ---------------------------------------------------------------------------------


def success_by_category(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """Bars of success per category with intervals. A dashed line marks the oracle."""
    # A protocol with categories of its own has tables per category instead.
    judges = {
        protocol: judge
        for protocol, judge in _first_metrics(scores, SUCCESS).items()
        if any(len(scores.protocols[protocol].units(category)) for category in CATEGORIES)
    }
    if not judges or not style:
        return None
    rows, width = rows_of(frame), width_for(style)
    with drawing():
        chart = figure(width, 1.35 * len(judges) + 0.2)
        handles: dict[str, Any] = {}
        axes = chart.subplots(len(judges), 1, squeeze=False, sharex=True)[:, 0]
        for axis, (protocol, judge) in zip(axes, judges.items(), strict=True):
            axis.set_title(f"{protocol}: {HEADINGS.get(judge, judge)}", pad=4)
            grid_behind(axis, "y")
            _success_bars(axis, rows, protocol, judge, style, handles)
            _oracle_lines(axis, rows, (protocol, title_of(scores, "oracle"), judge), handles)
            # A line between the categories and their mean, which is no fifth category.
            axis.axvline(len(CATEGORIES) - 0.5, color=RULE, linewidth=0.6)
            # Room above 100 % for the markers of bars that reach it.
            axis.set_ylim(0, 105)
            axis.set_yticks([0, 25, 50, 75, 100])
            axis.set_ylabel("success % ↑")
            axis.set_xticks(range(5), [c.replace("_", "-") for c in (*CATEGORIES, ALL)])
        add_legend(chart, handles, width, scores.remarks)
    return chart


def _success_bars(
    axis: Axes,
    rows: SummaryRows,
    protocol: str,
    judge: str,
    style: Mapping[str, Look],
    handles: dict[str, Any],
) -> None:
    bar = 0.8 / len(style)
    for k, (method, look) in enumerate(style.items()):
        for i, category in enumerate((*CATEGORIES, ALL)):
            row = rows.get((protocol, method, judge, category))
            if row is not None:
                # The group of bars is centred on its tick.
                x = i + (k - (len(style) - 1) / 2) * bar
                handles[method] = draw_bar(axis, x, row, look, bar)


def _oracle_lines(
    axis: Axes, rows: SummaryRows, place: tuple[str, str, str], handles: dict[str, Any]
) -> None:
    """``place``: protocol, title of the oracle, metric."""
    for i, category in enumerate((*CATEGORIES, ALL)):
        row = rows.get((*place, category))
        if row is not None:
            (handles["oracle"],) = axis.plot(
                [i - 0.44, i + 0.44],
                [100 * row["value"]] * 2,
                color=GRAY,
                linewidth=0.9,
                linestyle=(0, (3, 1.5)),
            )


# --- trade-off -------------------------------------------------------------------------------------------


def trade_off(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """Alignment against leakage.

    The untouched image and the oracle bound the alignment. Left of the noise floor, leakage is no larger than that of
    storing the image.
    """
    rows = rows_of(frame)
    alignment, leak = _first_metrics(scores, ALIGNMENT), _first_metrics(scores, LEAK)
    protocols = [p for p in scores.protocols if p in alignment and p in leak]
    if not protocols or not style:
        return None
    with drawing():
        chart = figure(COLUMN_INCHES, 1.85)
        handles: dict[str, Any] = {}
        for axis, protocol in zip(panels(chart, protocols), protocols, strict=True):
            x_metric, y_metric = leak[protocol], alignment[protocol]
            axis.grid(axis="x", color=RULE, linewidth=0.4)
            # Bounds.
            for control, dashes in (("oracle", (4, 1.5)), ("copy_input", (1, 1.2))):
                row = rows.get((protocol, title_of(scores, control), y_metric, ALL))
                if row is not None:
                    handles[control] = axis.axhline(
                        row["value"], color=GRAY, linewidth=0.9, linestyle=(0, dashes)
                    )
            floor = noise_floor(rows, scores, protocol, x_metric)
            if not math.isnan(floor):
                handles["noise floor"] = axis.axvspan(0, floor, color=RULE, alpha=0.6, linewidth=0, zorder=0)
            # Methods.
            for method, look in style.items():
                x, y = (rows.get((protocol, method, metric, ALL)) for metric in (x_metric, y_metric))
                # A method without one of the two values has no place in the plane.
                if x is not None and y is not None:
                    handles[method] = _point(axis, x, y, look)
            # Room on the left for the whole markers of methods that leak nothing.
            # Leakage is not negative, so the axis begins just left of 0.
            right = axis.get_xlim()[1]
            axis.set_xlim(-0.05 * right, right)
            axis.margins(y=0.12)
            axis.set_xlabel(f"{HEADINGS.get(x_metric, x_metric)} ↓")
        headings = {HEADINGS.get(alignment[p], alignment[p]) for p in protocols}
        chart.axes[0].set_ylabel(f"alignment, {' / '.join(sorted(headings))} ↑")
        add_legend(chart, methods_first(handles, style), COLUMN_INCHES, scores.remarks)
    return chart


def _point(axis: Axes, x: SummaryRow, y: SummaryRow, look: Look) -> Any:
    return axis.errorbar(
        x["value"], y["value"], xerr=whiskers(x), yerr=whiskers(y),
        color=look.color, elinewidth=0.8, linestyle="none", **look.mark(),
    )  # fmt: skip


# --- preference ------------------------------------------------------------------------------------------


def preference(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """Bars of how often people preferred each method, ties half, with intervals. A dotted line marks chance.

    Controls with votes stand below the methods, in gray. None without votes.
    """
    rows = rows_of(frame)
    metric = next((name for name in VOTED if (frame["metric"] == name).any()), "")
    voted = frame[(frame["metric"] == metric) & (frame["category"] == ALL) & frame["value"].notna()]
    protocols = list(dict.fromkeys(voted["protocol"]))
    if not protocols:
        return None
    # Methods, then controls.
    with_votes = set(voted["method"])
    ordered = sorted(scores.titles.values(), key=lambda title: title in scores.controls)
    # Controls are not in `style`, and people may still have voted on them.
    gray = Look(GRAY, "o", "", "-")
    methods = {title: style.get(title, gray) for title in ordered if title in with_votes}
    with drawing():
        chart = figure(COLUMN_INCHES if len(protocols) < 3 else PAGE_INCHES, 0.17 * len(methods) + 0.6)
        axes = chart.subplots(1, len(protocols), squeeze=False, sharey=True)[0]
        for axis, protocol in zip(axes, protocols, strict=True):
            axis.set_title(protocol, color=INK, pad=4)
            grid_behind(axis, "x")
            for k, (method, look) in enumerate(methods.items()):
                row = rows.get((protocol, method, metric, ALL))
                if row is not None:
                    draw_bar(axis, k, row, look, 0.8, horizontal=True)
            # Chance is 50 % between two edits. A share of all votes has another chance for each number of methods.
            if metric.endswith("preference"):
                axis.axvline(50, color=GRAY, linewidth=0.9, linestyle=(0, (1, 1.2)), zorder=0.5)
            axis.set_xlim(0, 100)
            # The axis points downwards, so that the first method is at the top, as in the tables.
            axis.set_ylim(len(methods) - 0.5, -0.5)
            axis.set_yticks(range(len(methods)), [label(method, scores.remarks) for method in methods])
            axis.set_xticks([0, 50, 100])
        whose = "simulated raters: " if metric.startswith(SIMULATED) else ""
        what = "preferred, % of comparisons" if metric.endswith("preference") else "% of all votes"
        chart.supxlabel(f"{whose}{what} ↑", fontsize=8)
    return chart

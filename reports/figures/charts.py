"""Charts of a report: leakage by distance, success by category, the trade-off, sensitivity to the bounds.

Each function draws one figure with a panel per protocol, or returns None where the run lacks what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.edit import ALL, CATEGORIES
from reports.data.metrics import HEADINGS
from reports.data.preference import SIMULATED
from reports.data.scores import ProtocolScores, RunScores
from reports.figures.style import (
    COLUMN_INCHES,
    GRAY,
    INK,
    PAGE_INCHES,
    RULE,
    Look,
    drawing,
    figure,
    label,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]

DISTANCES: Sequence[tuple[str, str]] = (
    ("leak_lpips_edge", "edge"),
    ("leak_lpips_near", "near"),
    ("leak_lpips_mid", "mid"),
    ("leak_lpips_far", "far"),
)
SUCCESS = ("success_truth", "success_clip", "success_mini_clip")
ALIGNMENT = ("clip_region", "mini_clip_region", "clip_target", "mini_clip_target")
LEAK = ("leak_lpips", "leak_lpips_vgg")
VOTED = ("preference", "preference_votes", f"{SIMULATED}preference", f"{SIMULATED}preference_votes")
FLOOR = ("jpeg", "resize_round_trip", "autoencoder_round_trip")


@dataclass(frozen=True)
class Bounds:
    """The bounds of the success rule: those of ``bench.metrics.options.SuccessRule``."""

    min_edit_area: float = 0.1
    max_leak_area: float = 0.05
    min_leak_psnr: float = 22.0


Found = Mapping[tuple[str, str, str, str], Mapping[Any, Any]]
"""(protocol, method, metric, category) -> row of the summary."""


def found(frame: pd.DataFrame) -> Found:
    return {
        (row["protocol"], row["method"], row["metric"], row["category"]): row
        for row in frame.to_dict(orient="records")
        if not math.isnan(row["value"])
    }


def _panels(shown: Figure, protocols: Sequence[str], **options: Any) -> list[Axes]:
    axes = shown.subplots(1, len(protocols), squeeze=False, **options)[0]
    for axis, protocol in zip(axes, protocols, strict=True):
        axis.set_title(protocol, color=INK, pad=4)
        axis.grid(axis="y", color=RULE, linewidth=0.4)
        axis.set_axisbelow(True)
    return list(axes)


def _legend(shown: Figure, handles: Mapping[str, Any], width: float) -> None:
    """Under the panels, in as many columns as fit; the figure grows by its height."""
    if not handles:
        return
    names = [label(name) for name in handles]
    columns = next(
        (count for count in range(min(len(names), 4), 1, -1) if sum(_widths(names, count)) <= width), 1
    )
    rows = math.ceil(len(names) / columns)
    shown.set_figheight(shown.get_figheight() + _LEGEND_LINE * rows + 0.06)
    shown.legend(handles.values(), names, loc="outside lower center", ncols=columns)


_LEGEND_LINE = 0.145


def _widths(names: Sequence[str], columns: int) -> list[float]:
    """Inches of each column of a legend, which is filled column by column."""
    rows = math.ceil(len(names) / columns)
    parts = [names[start : start + rows] for start in range(0, len(names), rows)]
    return [0.042 * max(map(len, part)) + 0.4 for part in parts]


def _whiskers(row: Mapping[Any, Any], scale: float = 1.0) -> list[list[float]] | None:
    if math.isnan(row["low"]):
        return None
    value = row["value"]
    return [[max(0.0, value - row["low"]) * scale], [max(0.0, row["high"] - value) * scale]]


def _bar(
    axis: Axes, x: float, row: Mapping[Any, Any], look: Look, width: float, *, across: bool = False
) -> Any:
    """One bar in per cent with its interval and, at its end, the method's marker; returns the legend's handle.

    The interval has a light rim, so that it stands out from a bar of any colour. ``across``: the bar lies.
    """
    from matplotlib.patheffects import withStroke

    value, whiskers = 100 * row["value"], _whiskers(row, 100)
    edge = "white" if look.hatch else look.color
    style: dict[str, Any] = {"color": look.color, "hatch": look.hatch, "edgecolor": edge, "linewidth": 0.3}
    (axis.barh if across else axis.bar)(x, value, 0.9 * width, **style)
    place = (value, x) if across else (x, value)
    if whiskers is not None:
        ends: dict[str, Any] = {"xerr" if across else "yerr": whiskers, "fmt": "none"}
        _, caps, lines = axis.errorbar(
            *place, **ends, ecolor=INK, elinewidth=0.7, capsize=1.4, capthick=0.6, zorder=3
        )
        for line in (*caps, *lines):
            line.set_path_effects([withStroke(linewidth=1.9, foreground="white")])
            line.set_clip_on(False)
    # A bar of nothing has its marker alone.
    return axis.plot(
        *place, color=look.color, linewidth=4, zorder=4, clip_on=False, solid_capstyle="butt", **look.mark(3.2),
    )[0]  # fmt: skip


def leakage_by_distance(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """LPIPS outside the mask, band by band outwards; the gentlest round trip's below is noise."""
    rows = found(frame)
    protocols = [p for p in scores.protocols if any((p, m, "leak_lpips_near", ALL) in rows for m in style)]
    if not protocols:
        return None
    width = _width(style)
    with drawing():
        shown = figure(width, 1.75)
        handles: dict[str, Any] = {}
        for axis, protocol in zip(_panels(shown, protocols, sharey=True), protocols, strict=True):
            floor = [_floor(rows, scores, protocol, metric) for metric, _ in DISTANCES]
            if not all(map(math.isnan, floor)):
                handles["noise floor"] = axis.fill_between(
                    range(4), 0, floor, color=RULE, alpha=0.7, linewidth=0, zorder=0
                )
            spread = 0.6 / max(1, len(style))
            for k, (method, look) in enumerate(style.items()):
                points = [
                    (i, rows.get((protocol, method, metric, ALL))) for i, (metric, _) in enumerate(DISTANCES)
                ]
                there = [
                    (i + (k - (len(style) - 1) / 2) * spread, row) for i, row in points if row is not None
                ]
                if not there:
                    continue
                x, y = [i for i, _ in there], [row["value"] for _, row in there]
                handles[method] = axis.plot(x, y, look.line, color=look.color, clip_on=False, **look.mark())[
                    0
                ]
                for i, row in there:
                    axis.errorbar([i], [row["value"]], yerr=_whiskers(row), color=look.color, linewidth=0.8)
            axis.set_xticks(range(4), [name for _, name in DISTANCES])
            axis.set_xlim(-0.45, 3.45)
            axis.set_xlabel("distance from mask")
        # The panels share their scale: it starts at 0 once all of them have been drawn.
        shown.axes[0].set_ylim(bottom=0)
        shown.axes[0].set_ylabel("LPIPS outside ↓")
        _legend(shown, _ordered(handles, style), width)
    return shown


def _width(style: Mapping[str, Look]) -> float:
    """A column of a paper, or the page where more than six methods need the room."""
    return PAGE_INCHES if len(style) > 6 else COLUMN_INCHES


def _ordered(handles: Mapping[str, Any], style: Mapping[str, Look]) -> dict[str, Any]:
    """Methods first, then what they are held against."""
    names = [*(name for name in style if name in handles), *(name for name in handles if name not in style)]
    return {name: handles[name] for name in names}


def _floor(rows: Found, scores: RunScores, protocol: str, metric: str) -> float:
    """The least that storing and restoring the image costs, over the controls that do so; NaN without any."""
    values = [
        rows[protocol, title, metric, ALL]["value"]
        for title, name in scores.names.items()
        if name in FLOOR and (protocol, title, metric, ALL) in rows
    ]
    return min(values, default=math.nan)


def _of(scores: RunScores, name: str) -> str:
    """The title of a registered method; empty where the run has it not."""
    return next((title for title, of in scores.names.items() if of == name), "")


def success_by_category(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """Bars of success per category with intervals; the controls' range as a gray line each."""
    rows = found(frame)
    judge = {p: next((m for m in SUCCESS if m in of.metrics), "") for p, of in scores.protocols.items()}
    protocols = [p for p, metric in judge.items() if metric]
    if not protocols or not style:
        return None
    width = _width(style)
    with drawing():
        shown = figure(width, 1.35 * len(protocols) + 0.2)
        handles: dict[str, Any] = {}
        axes = shown.subplots(len(protocols), 1, squeeze=False, sharex=True)[:, 0]
        for axis, protocol in zip(axes, protocols, strict=True):
            axis.set_title(f"{protocol}: {HEADINGS.get(judge[protocol], judge[protocol])}", pad=4)
            axis.grid(axis="y", color=RULE, linewidth=0.4)
            axis.set_axisbelow(True)
            bar = 0.8 / len(style)
            for k, (method, look) in enumerate(style.items()):
                for i, category in enumerate((*CATEGORIES, ALL)):
                    row = rows.get((protocol, method, judge[protocol], category))
                    if row is None:
                        continue
                    x = i + (k - (len(style) - 1) / 2) * bar
                    handles[method] = _bar(axis, x, row, look, bar)
            for i, category in enumerate((*CATEGORIES, ALL)):
                top = rows.get((protocol, _of(scores, "oracle"), judge[protocol], category))
                if top is not None:
                    handles["oracle"] = axis.plot(
                        [i - 0.44, i + 0.44],
                        [100 * top["value"]] * 2,
                        color=GRAY,
                        linewidth=0.9,
                        linestyle=(0, (3, 1.5)),
                    )[0]
            axis.axvline(len(CATEGORIES) - 0.5, color=RULE, linewidth=0.6)
            axis.set_ylim(0, 105)
            axis.set_yticks([0, 25, 50, 75, 100])
            axis.set_ylabel("success % ↑")
            axis.set_xticks(range(5), [c.replace("_", "-") for c in (*CATEGORIES, ALL)])
        _legend(shown, handles, width)
    return shown


def trade_off(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """Alignment against leakage. Between untouched image and oracle lies what alignment can be; left of the
    noise floor leakage cannot be told from storing the image.
    """
    rows = found(frame)
    alignment = {p: next((m for m in ALIGNMENT if m in of.metrics), "") for p, of in scores.protocols.items()}
    leak = {p: next((m for m in LEAK if m in of.metrics), "") for p, of in scores.protocols.items()}
    protocols = [p for p in scores.protocols if alignment[p] and leak[p]]
    if not protocols or not style:
        return None
    with drawing():
        shown = figure(COLUMN_INCHES, 1.85)
        handles: dict[str, Any] = {}
        for axis, protocol in zip(_panels(shown, protocols), protocols, strict=True):
            x_metric, y_metric = leak[protocol], alignment[protocol]
            axis.grid(axis="x", color=RULE, linewidth=0.4)
            for control, style_of_line in (("oracle", (0, (4, 1.5))), ("copy_input", (0, (1, 1.2)))):
                row = rows.get((protocol, _of(scores, control), y_metric, ALL))
                if row is not None:
                    handles[control] = axis.axhline(
                        row["value"], color=GRAY, linewidth=0.9, linestyle=style_of_line
                    )
            floor = _floor(rows, scores, protocol, x_metric)
            if not math.isnan(floor):
                handles["noise floor"] = axis.axvspan(0, floor, color=RULE, alpha=0.6, linewidth=0, zorder=0)
            for method, look in style.items():
                x = rows.get((protocol, method, x_metric, ALL))
                y = rows.get((protocol, method, y_metric, ALL))
                if x is None or y is None:
                    continue
                handles[method] = axis.errorbar(
                    x["value"], y["value"], xerr=_whiskers(x), yerr=_whiskers(y),
                    color=look.color, elinewidth=0.8, linestyle="none", **look.mark(),
                )  # fmt: skip
            # Room on the left for the whole markers of methods that leak nothing.
            right = axis.get_xlim()[1]
            axis.set_xlim(-0.05 * right, right)
            axis.margins(y=0.12)
            axis.set_xlabel(f"{HEADINGS.get(x_metric, x_metric)} ↓")
        wanted = {HEADINGS.get(alignment[p], alignment[p]) for p in protocols}
        shown.axes[0].set_ylabel(f"alignment, {' / '.join(sorted(wanted))} ↑")
        _legend(shown, _ordered(handles, style), COLUMN_INCHES)
    return shown


def preference(frame: pd.DataFrame, scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """Bars of how often people preferred each method, ties half, with intervals; a line marks chance.

    Controls that were voted on stand below the methods, in gray. None without votes.
    """
    rows = found(frame)
    shown_as = next((m for m in VOTED if (frame["metric"] == m).any()), "")
    voted = frame[(frame["metric"] == shown_as) & (frame["category"] == ALL) & frame["value"].notna()]
    protocols = list(dict.fromkeys(voted["protocol"]))
    if not protocols:
        return None
    present = set(voted["method"])
    gray = Look(GRAY, "o", "", "-")
    methods = {title: style.get(title, gray) for title in _methods_first(scores) if title in present}
    with drawing():
        shown = figure(COLUMN_INCHES if len(protocols) < 3 else PAGE_INCHES, 0.17 * len(methods) + 0.6)
        axes = shown.subplots(1, len(protocols), squeeze=False, sharey=True)[0]
        for axis, protocol in zip(axes, protocols, strict=True):
            axis.set_title(protocol, color=INK, pad=4)
            axis.grid(axis="x", color=RULE, linewidth=0.4)
            axis.set_axisbelow(True)
            for k, (method, look) in enumerate(methods.items()):
                row = rows.get((protocol, method, shown_as, ALL))
                if row is not None:
                    _bar(axis, k, row, look, 0.8, across=True)
            if shown_as.endswith("preference"):
                axis.axvline(50, color=GRAY, linewidth=0.9, linestyle=(0, (1, 1.2)), zorder=0.5)
            axis.set_xlim(0, 100)
            axis.set_ylim(len(methods) - 0.5, -0.5)
            axis.set_yticks(range(len(methods)), [label(method) for method in methods])
            axis.set_xticks([0, 50, 100])
        whose = "simulated raters: " if shown_as.startswith(SIMULATED) else ""
        what = "preferred, % of comparisons" if shown_as.endswith("preference") else "% of all votes"
        shown.supxlabel(f"{whose}{what} ↑", fontsize=8)
    return shown


def _methods_first(scores: RunScores) -> list[str]:
    return sorted(scores.titles.values(), key=lambda title: title in scores.controls)


# --- sensitivity -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """Success of one method as a function of one bound, the others as in the rule."""

    bound: str
    at: FloatND
    success: FloatND
    """Share of ``n``."""
    n: int


def sensitivity(
    scores: ProtocolScores, method: int, judge: str, bounds: Bounds, at: Mapping[str, FloatND]
) -> list[Curve]:
    """Success at each value of each bound. ``judge``: ``truth``, ``clip`` or ``mini_clip``.

    As ``bench.metrics.options.SuccessRule`` has it; an edit whose case has no outside cannot leak. Edits of
    which a part was not scored are left out.
    """
    needed = (f"judge_{judge}", "edit_area", "leak_area", "leak_psnr")
    if any(name not in scores.metrics for name in needed):
        return []
    judged, area, leak, ratio = (scores.metric(name)[:, method] for name in needed)
    answered = [scores.recorded[:, method, scores.metrics.index(name)] for name in needed[2:]]
    there = ~np.isnan(judged) & ~np.isnan(area) & answered[0] & answered[1]
    n = int(there.sum())
    if not n:
        return []
    yes, area = judged[there] > 0.5, area[there]
    leak, ratio = np.nan_to_num(leak[there], nan=0.0), np.nan_to_num(ratio[there], nan=np.inf, posinf=np.inf)
    # Values x edits: which edits pass this one bound.
    passes = {
        "min_edit_area": area > at["min_edit_area"][:, None],
        "max_leak_area": leak <= at["max_leak_area"][:, None],
        "min_leak_psnr": ratio >= at["min_leak_psnr"][:, None],
    }
    rule = {
        "min_edit_area": area > bounds.min_edit_area,
        "max_leak_area": leak <= bounds.max_leak_area,
        "min_leak_psnr": ratio >= bounds.min_leak_psnr,
    }
    curves = []
    for bound, passed in passes.items():
        others = [rule[other] for other in rule if other != bound]
        success = (passed & yes & others[0] & others[1]).sum(axis=1) / n
        curves.append(Curve(bound, at[bound], success, n))
    return curves


def success_sensitivity(
    scores: RunScores, style: Mapping[str, Look], bounds: Bounds | None = None
) -> Figure | None:
    """Success as each bound moves; a dotted line marks the rule's own."""
    bounds = bounds or Bounds()
    judge = {
        p: next((m for m in SUCCESS if m.replace("success", "judge") in of.metrics), "").removeprefix(
            "success_"
        )
        for p, of in scores.protocols.items()
    }
    at = {
        "min_edit_area": np.linspace(0.0, 1.0, 61),
        "max_leak_area": np.linspace(0.0, 0.5, 61),
        "min_leak_psnr": np.linspace(10.0, 40.0, 61),
    }
    curves = {
        protocol: {
            of.titles[m]: sensitivity(of, m, judge[protocol], bounds, at) for m in of.contenders
        }
        for protocol, of in scores.protocols.items()
        if judge[protocol]
    }  # fmt: skip
    curves = {p: drawn for p, drawn in curves.items() if any(drawn.values())}
    if not curves:
        return None
    names = {
        "min_edit_area": "area inside >",
        "max_leak_area": "area outside ≤",
        "min_leak_psnr": "PSNR outside ≥",
    }
    with drawing():
        shown = figure(COLUMN_INCHES, 1.3 * len(curves) + 0.35)
        axes = shown.subplots(len(curves), len(names), squeeze=False, sharey=True, sharex="col")
        handles: dict[str, Any] = {}
        for line, (protocol, of_method) in zip(axes, curves.items(), strict=True):
            for axis, (k, bound) in zip(line, enumerate(names), strict=True):
                axis.grid(axis="y", color=RULE, linewidth=0.4)
                for j, (method, drawn) in enumerate(of_method.items()):
                    if drawn:
                        look = style[method]
                        # Markers at other places for each method, so that equal curves show both.
                        every = (4 + 3 * j % 20, 20)
                        handles[method] = axis.plot(
                            drawn[k].at, 100 * drawn[k].success, look.line, color=look.color,
                            markevery=every, clip_on=False, **look.mark(),
                        )[0]  # fmt: skip
                rule = getattr(bounds, bound)
                handles["the rule's bound"] = axis.axvline(
                    rule, color=GRAY, linewidth=0.8, linestyle=(0, (1, 1.2))
                )
                axis.set_xlim(at[bound][0], at[bound][-1])
                axis.set_ylim(0, 105)
            line[0].set_ylabel("success % ↑")
            line[0].set_title(f"{protocol}, judge: {judge[protocol].replace('_', ' ')}", loc="left", pad=4)
        for axis, text in zip(axes[-1], names.values(), strict=True):
            axis.set_xlabel(text)
        _legend(shown, handles, COLUMN_INCHES)
    return shown

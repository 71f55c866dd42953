"""Sensitivity of success to the bounds of the success rule: curves, and their chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.options import SuccessRule
from reports.data.metrics import SUCCESS
from reports.data.scores import ProtocolScores, RunScores
from reports.figures.chart_parts import add_legend
from reports.figures.style import COLUMN_INCHES, GRAY, RULE, Look, drawing, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]

# Bound of `SuccessRule` -> label of its axis, and the ends of the axis.
BOUNDS: Mapping[str, tuple[str, float, float]] = {
    "min_edit_area": ("area inside >", 0.0, 1.0),
    "max_leak_area": ("area outside ≤", 0.0, 0.5),
    "min_leak_psnr": ("PSNR outside ≥", 10.0, 40.0),
}
# Points of a curve.
_POINTS = 61


@dataclass(frozen=True, eq=False)
class Curve:
    """Success of one method as a function of one bound, with the other bounds as in the rule."""

    bound: str
    # Values of the bound, ``(P,)``.
    at: FloatND
    # Share of the ``n`` edits that succeed, ``(P,)``.
    success: FloatND
    n: int


def sensitivity(
    scores: ProtocolScores, method: int, judge: str, rule: SuccessRule, at: Mapping[str, FloatND]
) -> list[Curve]:
    """Success at each value ``at`` of each bound, by the rule of ``bench.metrics.options.SuccessRule``.

    ``judge``: ``truth``, ``clip`` or ``mini_clip``. Edits without all scores are left out.
    """
    # A run without one of the four parts of the rule has no curve.
    needed = (f"judge_{judge}", "edit_area", "leak_area", "leak_psnr")
    if any(name not in scores.metrics for name in needed):
        return []
    verdict, area, leak, psnr = (scores.metric(name)[:, method] for name in needed)  # (U,) each
    # A missing leakage can be an answer: the mask covers the whole image. Only what was never scored is left out.
    recorded = [scores.recorded[:, method, scores.metrics.index(name)] for name in needed[2:]]
    scored = ~np.isnan(verdict) & ~np.isnan(area) & recorded[0] & recorded[1]
    n = int(scored.sum())
    if not n:
        return []
    # Stored verdicts are 0 and 1 as float64.
    is_right, area = verdict[scored] > 0.5, area[scored]
    # An edit whose case has no outside has no leakage: area 0, PSNR infinite.
    leak = np.nan_to_num(leak[scored], nan=0.0)
    psnr = np.nan_to_num(psnr[scored], nan=np.inf, posinf=np.inf)

    def passes(values: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
        """Bound -> True for each edit that passes it. ``values``: one number per bound, or a column ``(P, 1)``."""
        return {
            "min_edit_area": area > values["min_edit_area"],
            "max_leak_area": leak <= values["max_leak_area"],
            "min_leak_psnr": psnr >= values["min_leak_psnr"],
        }

    by_rule = passes(vars(rule))  # (n,) each
    by_value = passes({name: values[:, None] for name, values in at.items()})  # (P, n) each
    curves = []
    for bound, moved in by_value.items():
        # Only one bound moves at a time, so the other two are as in the rule.
        one, other = (by_rule[name] for name in by_rule if name != bound)
        curves.append(Curve(bound, at[bound], (moved & is_right & one & other).sum(axis=1) / n, n))
    return curves


def success_sensitivity(scores: RunScores, style: Mapping[str, Look]) -> Figure | None:
    """Chart of success as each bound moves. A dotted line marks the rule's own bound."""
    rule = SuccessRule()
    at = {name: np.linspace(low, high, _POINTS) for name, (_, low, high) in BOUNDS.items()}
    curves: dict[str, dict[str, list[Curve]]] = {}
    judges = {name: _judge(protocol) for name, protocol in scores.protocols.items()}
    for name, protocol in scores.protocols.items():
        of_method = {
            protocol.titles[m]: sensitivity(protocol, int(m), judges[name], rule, at)
            for m in protocol.contenders
        }
        if judges[name] and any(of_method.values()):
            curves[name] = of_method
    if not curves:
        return None
    with drawing():
        chart = figure(COLUMN_INCHES, 1.3 * len(curves) + 0.35)
        # A column per bound shares its axis. All rows share the scale of success.
        axes = chart.subplots(len(curves), len(BOUNDS), squeeze=False, sharey=True, sharex="col")
        handles: dict[str, Any] = {}
        for row, (name, of_method) in zip(axes, curves.items(), strict=True):
            _draw_row(row, of_method, style, rule, handles)
            row[0].set_ylabel("success % ↑")
            row[0].set_title(f"{name}, judge: {judges[name].replace('_', ' ')}", loc="left", pad=4)
        for axis, (text, _, _) in zip(axes[-1], BOUNDS.values(), strict=True):
            axis.set_xlabel(text)
        add_legend(chart, handles, COLUMN_INCHES, scores.remarks)
    return chart


def _judge(scores: ProtocolScores) -> str:
    """The judge of the protocol's first rule of success: ``truth``, ``clip`` or ``mini_clip``, or empty."""
    names = (rule.removeprefix("success_") for rule in SUCCESS)
    return next((name for name in names if f"judge_{name}" in scores.metrics), "")


def _draw_row(
    axes: Sequence[Any],
    of_method: Mapping[str, Sequence[Curve]],
    style: Mapping[str, Look],
    rule: SuccessRule,
    handles: dict[str, Any],
) -> None:
    """Draws the panels of one protocol, one per bound, and adds the legend's handles."""
    for k, (axis, (bound, (_, low, high))) in enumerate(zip(axes, BOUNDS.items(), strict=True)):
        axis.grid(axis="y", color=RULE, linewidth=0.4)
        for j, (method, curves) in enumerate(of_method.items()):
            if curves:
                look = style[method]
                # Markers at other points for each method, so that both of two equal curves are visible.
                markers = (4 + 3 * j % 20, 20)
                (handles[method],) = axis.plot(
                    curves[k].at, 100 * curves[k].success, look.line, color=look.color,
                    markevery=markers, clip_on=False, **look.mark(),
                )  # fmt: skip
        handles["the rule's bound"] = axis.axvline(
            vars(rule)[bound], color=GRAY, linewidth=0.8, linestyle=(0, (1, 1.2))
        )
        axis.set_xlim(low, high)
        axis.set_ylim(0, 105)

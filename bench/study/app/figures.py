"""The figures of the administrator's page as HTML: counts, preferences, ratings and wins."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from bench.study.interface import StudyStatus
from bench.study.models import HUMAN

if TYPE_CHECKING:
    import pandas as pd

    from bench.study.votes.analysis import Analysis


def panel(title: str, body: str, note: str = "") -> str:
    small = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f'<section class="panel"><h2>{escape(title)}</h2>{body}{small}</section>'


def tiles(status: StudyStatus, kind: str) -> str:
    """The counts of trials, raters, votes and invitations."""
    # Share of the design's trials that have a vote.
    done = status.answered / status.planned if status.planned else 0.0
    state = "closed" if status.closed else "open"
    # (heading, figure, HTML below it)
    cards = [
        (
            "Trials answered",
            f"{status.answered:,} <small>of {status.planned:,}</small>",
            f'<div class="meter"><i style="width:{100 * done:.1f}%"></i></div>'
            f"<p>{100 * done:.0f}% done, {status.reserved} open now; the study is {state}</p>",
        ),
        (
            "Raters" if kind == HUMAN else "Simulated raters",
            f"{status.raters:,}",
            f"<p>{status.finished} finished, {status.ended_early} ended early, {status.active} active</p>",
        ),
        ("Votes", f"{status.votes:,}", "<p>with repeats, checks and practice</p>"),
        (
            "Invitations",
            f"{status.taken_up:,} <small>of {status.invitations:,}</small>",
            "<p>taken up</p>",
        ),
    ]
    boxes = (f'<div class="tile"><h3>{name}</h3><b>{value}</b>{rest}</div>' for name, value, rest in cards)
    return f'<div class="tiles">{"".join(boxes)}</div>'


# --- preferences ------------------------------------------------------------------------------------------


def _rows(table: pd.DataFrame, rater_set: str) -> pd.DataFrame:
    """The rows over all questions, protocols and categories. ``rater_set``: ``kept`` or ``all`` raters."""
    pooled = (table["question"] == "all") & (table["protocol"] == "all") & (table["category"] == "all")
    rows: pd.DataFrame = table[(table["raters"] == rater_set) & pooled]
    return rows


def _rater_set(analysis: Analysis) -> str:
    """``kept`` raters, unless the rule excludes all of them."""
    return "kept" if (analysis.counts["raters"] == "kept").any() else "all"


def preference(analysis: Analysis) -> str:
    """A dot and its 95% interval per method, best first."""
    rater_set = _rater_set(analysis)
    parts = []
    for kind, shares in _rows(analysis.shares, rater_set).groupby("kind", sort=False):
        rows = shares.sort_values("share", ascending=False).to_dict("records")
        # The share of a method that is chosen by chance.
        middle = 0.5 if kind == "pair" else 1 / max(1, len(rows))
        lines = "".join(_interval(row, middle) for row in rows)
        title = "" if kind == "pair" else "<h3>Choices of the best</h3>"
        parts.append(
            f'{title}<div class="intervals">{lines}<div class="axis"><span></span><div><i>0</i><i>25</i><i>50</i>'
            "<i>75</i><i>100%</i></div><span></span></div></div>"
        )
    whose = "the raters kept" if rater_set == "kept" else "all raters"
    note = (
        f"Share of the votes that showed a method and preferred it (a tie counts half), of {whose}; 95% "
        f"intervals by {analysis.resamples} bootstrap resamples of raters and sources. {analysis.exclusion} Stopping "
        "a study because of these figures biases it."
    )
    return panel("Preference", "".join(parts), note)


def _interval(row: Mapping[str, Any], middle: float) -> str:
    """One method's line: its name, a bar with a dot, and the figures in per cent."""
    share, low, high = (100 * float(row[name]) for name in ("share", "low", "high"))
    value = f"{share:.1f}" if low != low else f"{share:.1f} <small>{low:.0f}–{high:.0f}</small>"
    return _line(row, share, low, high, 100 * middle, value)


def _line(row: Mapping[str, Any], place: float, low: float, high: float, middle: float, value: str) -> str:
    """A line with a dot at ``place`` and a bar from ``low`` to ``high``, all in per cent of the width."""
    # NaN where there are too few votes for an interval.
    has_interval = low == low and high == high
    bar = f'<em style="left:{low:.2f}%;width:{max(high - low, 0.4):.2f}%"></em>' if has_interval else ""
    return (
        f'<div class="line"><span class="name" dir="auto" title="{escape(str(row["method"]))}">'
        f"{escape(str(row['method']))}</span>"
        f'<div class="scale"><u style="left:{middle:.2f}%"></u>{bar}<b style="left:{place:.2f}%"></b></div>'
        f'<span class="value">{value}<small class="n"> n {int(row["n"])}</small></span></div>'
    )


def ratings(analysis: Analysis) -> str:
    """A dot and its 95% interval per scale and method, best first. Each scale fills the width."""
    rater_set = _rater_set(analysis)
    table = analysis.ratings
    pooled = table[
        (table["raters"] == rater_set) & (table["protocol"] == "all") & (table["category"] == "all")
    ]
    parts = []
    for scale, part in pooled.groupby("question", sort=False):
        worst, best = float(part["worst"].iloc[0]), float(part["best"].iloc[0])
        rows = part.sort_values("mean", ascending=False).to_dict("records")
        lines = "".join(_rating(row, worst, best) for row in rows)
        parts.append(
            f'<h3>{escape(str(scale))}</h3><div class="intervals">{lines}<div class="axis"><span></span>'
            f"<div><i>{worst:g}</i><i>{best:g}</i></div><span></span></div></div>"
        )
    return panel("Mean ratings", "".join(parts), "95% intervals by resampling raters and sources.")


def _rating(row: Mapping[str, Any], worst: float, best: float) -> str:
    """One method's line on a scale from its worst to its best value."""
    mean, low, high = (100 * (float(row[name]) - worst) / (best - worst) for name in ("mean", "low", "high"))
    value = f"{row['mean']:.2f}"
    if row["low"] == row["low"]:
        value += f" <small>{row['low']:.2f}–{row['high']:.2f}</small>"
    return _line(row, mean, low, high, 50, value)


def wins(analysis: Analysis) -> str:
    """Matrix of the row's share of the votes between two methods. A tie counts half."""
    rater_set = _rater_set(analysis)
    shares = _rows(analysis.shares, rater_set).sort_values("share", ascending=False)
    order = list(shares["method"].drop_duplicates())
    # (method, its opponent) -> row of the table.
    cells = {
        (row["method"], row["against"]): row for row in _rows(analysis.wins, rater_set).to_dict("records")
    }
    # Methods are numbered from the best. The head has the numbers, the rows also the names.
    head = "".join(f"<th title='{escape(name)}'>{number}</th>" for number, name in enumerate(order, 1))
    body = []
    for number, method in enumerate(order, 1):
        line = "".join(_win_cell(method, against, cells.get((method, against))) for against in order)
        body.append(f"<tr><th class='name'><span>{number}</span> {escape(str(method))}</th>{line}</tr>")
    table = (
        f"<table class='matrix'><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )
    return panel(
        "Head to head",
        f"<div class='scroll'>{table}</div>",
        "Per cent of the votes between two that the row won.",
    )


def _win_cell(method: str, against: str, row: Mapping[str, Any] | None) -> str:
    if method == against or row is None or not row["n"]:
        return "<td class='off'></td>"
    share = float(row["share"])
    # Blue for wins, orange for losses, the stronger the further from one half.
    tint = f"rgba({'31,79,216' if share >= 0.5 else '200,90,40'},{1.2 * abs(share - 0.5):.2f})"
    title = (
        f"{method} against {against}: {row['wins']:g} wins, {row['ties']:g} ties, {row['losses']:g} losses"
    )
    return f"<td style='background:{tint}' title='{escape(title, quote=True)}'>{100 * share:.0f}</td>"

"""The tables of a paper: the suite's main table per protocol, and the five shapes of the paper's own."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.edit import CATEGORIES
from reports.data.preference import EVERYWHERE, SIMULATED
from reports.tables.style import Style
from reports.tables.table import (
    ALL,
    HEADINGS,
    PEAK_MEMORY,
    SECONDS,
    Cell,
    Column,
    MetricFacts,
    Pick,
    Table,
    mark,
    slug,
    tabulate,
)

if TYPE_CHECKING:
    import pandas as pd

    from reports.data.separation import Separation

SUITE: Sequence[tuple[str, Sequence[tuple[tuple[str, ...], str]]]] = (
    (
        "realism",
        (
            (("fid", "vgg16_frechet"), ""),
            (("kid", "vgg16_kid"), ""),
            (("cmmd", "mini_clip_cmmd"), ""),
        ),
    ),
    (
        "alignment",
        (
            (("clip_target", "mini_clip_target"), ""),
            (("clip_region", "mini_clip_region"), ""),
            (("clip_directional", "mini_clip_directional"), ""),
        ),
    ),
    (
        "leakage",
        (
            (("leak_lpips", "leak_lpips_vgg"), "LPIPS raw"),
            (("leak_lpips_pasted",), "LPIPS pasted"),
            (("leak_psnr",), "PSNR raw"),
            (("leak_area",), "area raw"),
        ),
    ),
    (
        "success",
        (
            (("success_truth", "success_clip", "success_mini_clip"), "raw"),
            (("success_truth_pasted", "success_clip_pasted", "success_mini_clip_pasted"), "pasted"),
        ),
    ),
    ("cost", (((SECONDS,), ""), ((PEAK_MEMORY,), ""))),
)
"""Groups of the main table; of each column the first metric that the run has, and its heading."""

PASTED_LEAK = "leak_lpips_pasted"
MEAN_RANK = "mean_rank"
FRECHET = ("fid", "vgg16_frechet")
SUCCESS = ("success_truth", "success_clip", "success_mini_clip")


def with_pasted_leakage(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the leakage of pasted-back edits, which is 0 by construction wherever raw leakage was measured."""
    import pandas as pd

    raw = frame[frame["metric"] == "leak_lpips"]
    zero = raw.assign(metric=PASTED_LEAK, value=0.0, low=0.0, high=0.0)
    return pd.concat([frame, zero], ignore_index=True) if len(zero) else frame


def suite_tables(
    frame: pd.DataFrame,
    facts: Mapping[str, MetricFacts],
    controls: Container[str],
    separations: Separation,
    style: Style,
) -> list[Table]:
    """The suite's main table of each protocol, with the style's columns where it names any."""
    tables = []
    for protocol in _protocols(frame):
        there = set(frame.loc[frame["protocol"] == protocol, "metric"])
        if style.columns:
            picks = [Pick(_heading(m), m, ALL, protocol) for m in style.columns]
        else:
            picks = [
                Pick(heading or _heading(metric), metric, ALL, protocol, _group(group, metric))
                for group, columns in SUITE
                for metrics, heading in columns
                for metric in [next((m for m in metrics if m in there), "")]
                if metric
            ]
        table = tabulate(
            frame,
            name=f"suite-{slug(protocol)}",
            title=f"{protocol}: realism, alignment, leakage, success and cost",
            picks=picks,
            facts=facts,
            controls=controls,
            separations=separations,
            decimals=style.decimals,
        )
        if any(column.metric == PASTED_LEAK for column in table.columns):
            note = (
                "Pasted: the edit is pasted back into its source, so that its leakage is 0 by construction."
            )
            table = replace(table, notes=(*table.notes, note))
        if table.columns:
            tables.append(table if style.columns else with_mean_rank(table))
    return tables


def with_mean_rank(table: Table) -> Table:
    """The table with each method's mean rank over its columns, where there are two of either to rank by.

    Of a column all methods must have a value, and one direction must be better. Equal values share the mean of
    their ranks. Cost and what was pasted back have no say; controls have no rank.
    """
    methods = [row for row in table.rows if not row.control]
    ranks = [
        _ranks([row.cells[i].value for row in methods], bool(column.higher_is_better))
        for i, column in enumerate(table.columns)
        if column.higher_is_better is not None
        and column.metric not in (SECONDS, PEAK_MEMORY)
        and not column.metric.endswith("_pasted")
        and all(row.cells[i].value is not None for row in methods)
    ]
    if len(methods) < 2 or len(ranks) < 2:
        return table
    means = iter([sum(of_method) / len(ranks) for of_method in zip(*ranks, strict=True)])
    cells = [Cell(None) if row.control else Cell(next(means)) for row in table.rows]
    marked = mark(cells, [row.control for row in table.rows], higher=False)
    column = Column(
        "mean rank",
        MEAN_RANK,
        higher_is_better=False,
        decimals=1,
        protocol=table.columns[0].protocol,
        group="overall",
    )
    note = (
        f"Mean rank: over the {len(ranks)} columns that have a direction and a value of every method, without cost "
        "and pasted edits; equal values share a rank."
    )
    rows = [replace(row, cells=(*row.cells, cell)) for row, cell in zip(table.rows, marked, strict=True)]
    return replace(table, columns=(*table.columns, column), rows=tuple(rows), notes=(*table.notes, note))


def _ranks(values: Sequence[float | None], higher: bool) -> list[float]:
    """The rank of each value, 1 the best; equal values share the mean of their ranks."""
    ordered = sorted((value for value in values if value is not None), reverse=higher)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values if value is not None]


def _group(group: str, metric: str) -> str:
    """Whose verdict success is stands in the group's heading, once."""
    if group != "success":
        return group
    judge = metric.removeprefix("success_").removesuffix("_pasted").replace("_", " ").replace("clip", "CLIP")
    return f"success ({judge})"


def paper_tables(
    frame: pd.DataFrame,
    facts: Mapping[str, MetricFacts],
    controls: Container[str],
    separations: Separation,
    style: Style,
    names: Mapping[str, str],
    ablation: str = "prompt_edit_diff",
) -> list[Table]:
    """The paper's five shapes, as far as the run has what they show.

    ``names``: title -> the suite's name of the method. The ablation table has the method ``ablation`` and
    those whose names continue its name.
    """
    protocols = _protocols(frame)

    def made(
        name: str, title: str, picks: Sequence[Pick], methods: Sequence[str] | None = None
    ) -> list[Table]:
        table = tabulate(
            frame,
            name=name,
            title=title,
            picks=picks,
            facts=facts,
            controls=controls,
            separations=separations,
            decimals=style.decimals,
            methods=methods,
        )
        return [table] if table.columns else []

    frechet = {p: metric for p in protocols for metric in [_first(frame, p, FRECHET)] if metric}
    success = {p: metric for p in protocols for metric in [_first(frame, p, SUCCESS)] if metric}
    tables: list[Table] = []
    # Results of simulated raters have names and titles of their own.
    mark = SIMULATED if frame["metric"].str.startswith(SIMULATED).any() else ""
    preferred, votes = f"{mark}preference", f"{mark}preference_votes"
    whose = "human" if not mark else "SIMULATED RATERS'"

    def voted(metric: str) -> list[str]:
        some = set(frame.loc[frame["metric"] == metric, "protocol"])
        return [p for p in (*protocols, EVERYWHERE) if p in some]

    if frechet:
        with_votes = f" and {whose} preference" if voted(preferred) else ""
        tables += made(
            "paper-1-realism-preference",
            f"Realism{with_votes} by data set and method",
            [
                pick
                for p in protocols
                for pick in (
                    *([Pick(HEADINGS[frechet[p]], frechet[p], ALL, p, p)] if p in frechet else []),
                    *([Pick(HEADINGS[preferred], preferred, ALL, p, p)] if p in voted(preferred) else []),
                )
            ],
        )
        tables += made(
            "paper-2-realism",
            "Realism by data set",
            [Pick(p, metric, ALL, p, HEADINGS[metric]) for p, metric in frechet.items()],
        )
    if voted(votes):
        tables += made(
            "paper-3-preference",
            f"{'User' if not mark else whose} preference: share of all votes",
            [Pick(p, votes, ALL, p, HEADINGS[votes]) for p in voted(votes)],
            [
                m
                for m in _rows(frame, controls)
                if ((frame["metric"] == votes) & (frame["method"] == m)).any()
            ],
        )
    if success:
        tables += made(
            "paper-4-success",
            "Success by edit category",
            [
                Pick(category.replace("_", "-"), metric, category, p, f"{p}: {HEADINGS[metric]}")
                for p, metric in success.items()
                for category in (*CATEGORIES, ALL)
            ],
        )
    variants = [
        title for title, name in names.items() if name == ablation or name.startswith(f"{ablation}_no_")
    ]
    if len(variants) > 1:
        tables += made(
            "paper-5-ablation",
            f"Ablation of {ablation}",
            [
                Pick(heading, metric, ALL, p, p)
                for p in protocols
                for heading, metric in (
                    ("success", success.get(p, "")),
                    ("leak LPIPS", "leak_lpips"),
                    ("CLIP region", _first(frame, p, ("clip_region", "mini_clip_region"))),
                    (HEADINGS.get(frechet.get(p, ""), ""), frechet.get(p, "")),
                )
                if metric
            ],
            variants,
        )
    return tables


def _protocols(frame: pd.DataFrame) -> list[str]:
    return [p for p in dict.fromkeys(frame["protocol"]) if p != EVERYWHERE]


def _rows(frame: pd.DataFrame, controls: Container[str]) -> list[str]:
    return sorted(dict.fromkeys(frame["method"]), key=lambda method: method in controls)


def _first(frame: pd.DataFrame, protocol: str, metrics: Sequence[str]) -> str:
    there = set(frame.loc[frame["protocol"] == protocol, "metric"])
    return next((metric for metric in metrics if metric in there), "")


def _heading(metric: str) -> str:
    base = metric.removesuffix("_pasted")
    return HEADINGS.get(base, base) + (" pasted" if metric != base else "")

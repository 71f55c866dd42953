"""Reads a run into the values of its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.edit import ALL, CATEGORIES
from bench.tables import latex
from bench.tables.markup import csv_text
from bench.tables.numbers import cell_text, interval
from bench.tables.table import Column, Row, Table, notes, slug
from reports.data.metrics import display_order, full_heading, is_composited, metric_info
from reports.data.scores import control_titles, method_titles
from reports.figures import style as figures_style
from reports.page.data import PageData, parts, short
from reports.page.overview import overview

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bench.edit import EditRecord
    from bench.metrics.types import MetricInfo
    from bench.store import RunStore
    from bench.tables.style import Style


def collect(
    store: RunStore,
    metrics: Mapping[str, MetricInfo],
    tables: Sequence[Table],
    *,
    root: str,
    style: Style | None = None,
    figures: Sequence[Mapping[str, str]] = (),
    downloads: Sequence[str] = (),
) -> PageData:
    """Reads a run.

    ``root``: path from the page to the run's files. ``style``: of the tables as LaTeX. ``figures``: ``name``,
    ``caption``, ``png``, ``pdf`` and ``tex`` of each. ``downloads``: files of the report, as paths from the page.
    """
    # Cases, edits and scores, each read once.
    content = _read(store)
    scores = store.scores()
    names = sorted(dict.fromkeys(scores["metric"].tolist()), key=display_order)
    # Version of each metric. Later rows win, so that a metric which was scored again has its newest version.
    values, reasons = _dense(scores, content.edits, names)
    versions = dict(zip(scores["metric"].tolist(), scores["metric_version"].tolist(), strict=True))

    # The first chunk: all that the page shows before anything else is loaded.
    manifest = store.manifest
    methods = _methods(store, content)
    run = {
        "name": manifest.get("name", store.path.name),
        "root": root,
        "seed": manifest.get("seed"),
        **({"seeds": manifest["seeds"]} if "seeds" in manifest else {}),
        "categories": _categories(content.cases),
        "protocols": [_protocol(name, store, content) for name in store.protocols()],
        "methods": methods,
        "metrics": [_metric(name, versions[name], metrics) for name in names],
        "versions": dict(manifest.get("versions", {})),
        "suite": manifest.get("suite"),
        "tables": [_table(table) for table in tables],
        "overview": [
            {"protocol": name, **overview(table)}
            # By the table's name: a protocol without scores has no main table, and no overview.
            for name in store.protocols()
            for table in tables
            if table.name == f"main-{slug(name)}"
        ],
        "figures": list(figures),
        "downloads": list(downloads),
        "counts": {
            "edits": len(content.edits),
            "cases": len(content.cases),
            "scores": len(scores),
            "failed": sum(method["failed"] for method in methods),
            "refused": sum(record.is_refused for record in content.edits),
        },
        "parts": parts(),
    }

    # Texts of the tables for the clipboard.
    texts = {
        table.name: {"tex": latex.HEAD + latex.table(table, style), "csv": csv_text(table)}
        for table in tables
    }
    return PageData(_plain(run), content.cases, content.edits, content.case_of, values, reasons, texts)


@dataclass(frozen=True, eq=False)
class _Content:
    """Cases and edits of a run, in the order of the page."""

    cases: list[dict[str, Any]]
    # Case by case. Within a case, methods in the order of ``methods``.
    edits: list[EditRecord]
    # Position in ``cases`` of each edit's case.
    case_of: list[int]
    # Digests, controls last.
    methods: list[str]
    titles: Mapping[str, str]
    controls: frozenset[str]


def _categories(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """The categories of the cases: the paper's in its order, then others as they come."""
    present = dict.fromkeys(row["category"] for row in cases)
    return [name for name in CATEGORIES if name in present] + [
        name for name in present if name not in CATEGORIES
    ]


def _read(store: RunStore) -> _Content:
    titles = method_titles(store)
    controls = control_titles(store)
    methods = sorted(titles, key=lambda digest: titles[digest] in controls)
    # The sort is stable: methods keep the order of the run, and controls theirs.
    rank = {digest: i for i, digest in enumerate(methods)}
    # Cases in the order of their files, which is the order of the page.
    cases: list[dict[str, Any]] = []
    position: dict[tuple[str, str], int] = {}
    for protocol in store.protocols():
        for row in store.cases(protocol).rows:
            position[protocol, row["id"]] = len(cases)
            cases.append({**row, "protocol": protocol})
    # Edits of cases and methods that the run no longer has are left out.
    edits = [
        record
        for record in store.edits()
        if (record.key.protocol, record.key.case) in position and record.key.method in rank
    ]
    edits.sort(key=lambda r: (position[r.key.protocol, r.key.case], rank[r.key.method], r.key.seed))
    case_of = [position[record.key.protocol, record.key.case] for record in edits]
    return _Content(cases, edits, case_of, methods, titles, controls)


def _dense(
    scores: pd.DataFrame, edits: Sequence[EditRecord], metrics: Sequence[str]
) -> tuple[NDArray[np.float64], dict[int, dict[int, str]]]:
    """``(edits, metrics)`` float64 values, NaN where there is none, and edit -> metric -> reason of each NaN."""
    import numpy as np
    import pandas as pd

    # Row of each score: the position of its edit, -1 where the edit does not exist.
    keys = [(r.key.protocol, r.key.method, r.key.case, r.key.seed) for r in edits]
    index = pd.MultiIndex.from_tuples(keys, names=["protocol", "method", "case", "seed"])
    of_scores = pd.MultiIndex.from_frame(
        scores[["protocol", "method", "case"]].astype(object).assign(seed=scores["seed"])
    )
    rows = index.get_indexer(of_scores) if len(keys) and len(scores) else np.full(len(scores), -1)
    column = {name: m for m, name in enumerate(metrics)}
    columns = np.array([column[name] for name in scores["metric"].tolist()], dtype=np.int64)

    # Scatter the long records. A score without a value has a reason.
    values = np.full((len(edits), len(metrics)), np.nan)
    with_edit = rows >= 0
    stored = scores["value"].to_numpy()
    values[rows[with_edit], columns[with_edit]] = stored[with_edit]
    absent = with_edit & np.isnan(stored)
    reasons: dict[int, dict[int, str]] = {}
    for i, m, why in zip(rows[absent], columns[absent], scores["reason"].to_numpy()[absent], strict=True):
        reasons.setdefault(int(i), {})[int(m)] = str(why)
    return values, reasons


def _protocol(name: str, store: RunStore, content: _Content) -> dict[str, Any]:
    info = store.manifest["protocols"][name]
    return {
        **{key: info.get(key) for key in ("version", "digest", "canvas")},
        "name": name,
        "options": info.get("options", {}),
        "cases": sum(row["protocol"] == name for row in content.cases),
    }


def _methods(store: RunStore, content: _Content) -> list[dict[str, Any]]:
    """The run's methods with their look in the charts, their failures and mean seconds per edit."""
    failed = dict.fromkeys(content.methods, 0)
    seconds: dict[str, list[float]] = {digest: [] for digest in content.methods}
    for record in content.edits:
        failed[record.key.method] += record.file is None and not record.is_refused
        if record.seconds is not None:
            seconds[record.key.method].append(record.seconds)
    titles = content.titles
    # Controls get no look, as in the charts: the colours are for what is compared.
    looks = _looks([titles[digest] for digest in content.methods if titles[digest] not in content.controls])
    return [
        {
            **store.manifest["methods"][digest],
            "digest": digest,
            "title": titles[digest],
            "control": titles[digest] in content.controls,
            "failed": failed[digest],
            "look": looks.get(titles[digest]),
            "seconds": short(sum(seconds[digest]) / len(seconds[digest])) if seconds[digest] else None,
        }
        for digest in content.methods
    ]


def _looks(titles: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Title -> colour and marker of the charts. The marker is the path of an SVG, one unit wide."""
    import numpy as np
    from matplotlib.markers import MarkerStyle

    looks = {}
    for title, look in figures_style.looks(titles).items():
        marker = MarkerStyle(look.marker)
        # matplotlib's unit markers are one unit wide, with y upwards. SVG's y points downwards, hence the sign
        # below.
        path = marker.get_path().transformed(marker.get_transform())
        # Curves as lines: at the size of a marker nobody sees the difference.
        polygons = [look.scale * np.asarray(polygon) for polygon in path.to_polygons(closed_only=False)]
        outline = "".join(
            "M" + "L".join(f"{x:.3f} {-y:.3f}" for x, y in polygon.tolist()) + "Z" for polygon in polygons
        )
        looks[title] = {"color": look.color, "hollow": look.hollow, "path": outline}
    return looks


def _metric(name: str, version: str, metrics: Mapping[str, MetricInfo]) -> dict[str, Any]:
    info = metric_info(name, metrics)
    return {
        "name": name,
        "heading": full_heading(name),
        "version": version,
        "unit": info.unit if info else "",
        "higher": info.higher_is_better if info else None,
        "summary": info.summary if info else "",
        # Filters and the order of the gallery need these of all edits at once. The rest is loaded edit by edit.
        "column": not is_composited(name),
    }


# --- tables ----------------------------------------------------------------------------------------------


def _table(table: Table) -> dict[str, Any]:
    # A column's key names its protocol only where the table has several. Short keys keep the page's addresses short.
    several = len({column.protocol for column in table.columns}) > 1
    return {
        "name": table.name,
        "title": table.title,
        "notes": notes([table]),
        "columns": [
            {
                "heading": column.heading,
                "sign": column.sign,
                "metric": column.metric,
                "key": _key(column, several),
                "higher": column.higher_is_better,
                "group": column.group,
                "reported": column.reported,
                # Shown in the heading only where the column has another n than its rows.
                "n": table.column_n(i),
            }
            for i, column in enumerate(table.columns)
        ],
        # Unrounded values go along for sorting and for the charts. `text` is what the page shows.
        "rows": [
            {
                "method": row.label,
                "setting": row.setting,
                "control": row.control,
                "n": row.n,
                "failed": row.failed,
                "cells": _cells(row, table),
            }
            for row in table.rows
        ],
    }


def _cells(row: Row, table: Table) -> list[dict[str, Any]]:
    return [
        {
            **asdict(cell),
            "text": cell_text(cell, column),
            "interval": interval(cell, column) if table.intervals else "",
            # Only where neither the row nor the column says it.
            "own_n": table.cell_n(row, i),
        }
        for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
    ]


def _key(column: Column, several: bool) -> str:
    """Key of a column in the page's URL: metric and category, with the protocol where a table has ``several``."""
    protocol = column.protocol if several else ""
    category = column.category if column.category != ALL else ""
    return "/".join(part for part in (protocol, column.metric, category) if part)


def _plain(value: Any) -> Any:
    """``value`` with null for every number that JSON has no notation for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # JSON has neither NaN nor infinity, and `script` refuses to write them.
    return None if isinstance(value, float) and not math.isfinite(value) else value

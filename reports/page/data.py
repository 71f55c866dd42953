"""What the page knows of a run, as plain values in chunks that a browser loads when it needs them.

============== ====================================================== ==========================
name           content                                                loaded
============== ====================================================== ==========================
``run``        names, manifest, tables, counts, how many chunks       with the page
``edits/K``    which protocol, method and case each edit is           with the page
``cases/K``    prompts and files of the cases                         with the page
``column/M/K`` one metric of all edits                                when filtered or sorted by
``rows/K``     everything else of :data:`ROWS` edits                  when one of them is opened
``texts``      every table as LaTeX and CSV                           when one of them is copied
============== ====================================================== ==========================

Numbers that do not exist are null; every null of a score has its reason in ``rows``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.edit import CATEGORIES
from reports.figures import style as figures_style
from reports.page.overview import overview
from reports.tables import latex, render
from reports.tables import table as _tables
from reports.tables.table import MetricFacts, Table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bench.edit import EditRecord
    from bench.store import RunStore
    from reports.tables.style import Style

EDITS = 20_000
"""Edits in one chunk of ``edits`` and of ``column``."""
CASES = 2_000
ROWS = 400

_CASE_FIELDS = ("source_prompt", "target_prompt", "region_prompt", "instruction")


@dataclass(frozen=True, eq=False)
class PageData:
    """A run as the page sees it; ``chunks`` says the rest."""

    run: dict[str, Any]
    cases: list[dict[str, Any]]
    """Rows of ``cases.jsonl`` with ``protocol``, in order."""
    edits: list[EditRecord]
    """Case by case; within a case, methods in the tables' order."""
    case_of: list[int]
    values: NDArray[np.float64]
    """``(edits, metrics)``, NaN where there is no value."""
    reasons: Mapping[int, Mapping[int, str]]
    """Edit -> metric -> why there is no value."""
    texts: Mapping[str, Mapping[str, str]]
    """Table -> ``tex`` and ``csv``."""
    edit_thumbs: list[str] = field(default_factory=list)
    """File name of each edit's small copy, empty where it has none; as long as ``edits`` or empty."""
    case_thumbs: list[str] = field(default_factory=list)
    """The same for the sources of ``cases``."""

    def chunks(self) -> Iterator[tuple[str, Any]]:
        """``(name, value)`` of every chunk, ``run`` first."""
        yield "run", self.run
        yield "texts", self.texts
        for k, start in enumerate(range(0, len(self.cases), CASES)):
            thumbs = self.case_thumbs[start : start + CASES]
            yield f"cases/{k}", self._cases(self.cases[start : start + CASES], thumbs)
        for k, start in enumerate(range(0, len(self.edits), EDITS)):
            yield f"edits/{k}", self._edits(start, min(start + EDITS, len(self.edits)))
            for m, metric in enumerate(self.run["metrics"]):
                if metric["column"]:
                    yield f"column/{m}/{k}", _numbers(self.values[start : start + EDITS, m])
        for k, start in enumerate(range(0, len(self.edits), ROWS)):
            yield f"rows/{k}", self._rows(start, min(start + ROWS, len(self.edits)))

    def _cases(self, rows: Sequence[Mapping[str, Any]], thumbs: Sequence[str]) -> dict[str, Any]:
        protocols = {entry["name"]: i for i, entry in enumerate(self.run["protocols"])}
        return {
            "id": [row["id"] for row in rows],
            "protocol": [protocols[row["protocol"]] for row in rows],
            "category": [self.run["categories"].index(row["category"]) for row in rows],
            "source_id": [row["source_id"] for row in rows],
            "source": [row["source"] for row in rows],
            "mask": [row["mask"] for row in rows],
            "truth": [row["truth"] for row in rows],
            "words": [row["edit_words"] for row in rows],
            "thumb": thumbs,
            **{name: [row[name] for row in rows] for name in _CASE_FIELDS},
        }

    def _edits(self, start: int, stop: int) -> dict[str, Any]:
        methods = {entry["digest"]: i for i, entry in enumerate(self.run["methods"])}
        part = self.edits[start:stop]
        odd = {}
        for i, record in enumerate(part):
            name = self.run["methods"][methods[record.key.method]]["name"]
            usual = f"edits/{record.key.protocol}/{name}-{record.key.method}/{record.key.case}.png"
            if record.file is not None and record.file != usual:
                odd[str(i)] = record.file
        return {
            "method": [methods[record.key.method] for record in part],
            "case": self.case_of[start:stop],
            "failed": [i for i, record in enumerate(part) if record.file is None],
            "files": odd,
            "thumbs": self.edit_thumbs[start:stop],
        }

    def _rows(self, start: int, stop: int) -> dict[str, Any]:
        part = self.edits[start:stop]
        return {
            "sha256": [record.sha256 for record in part],
            "seconds": [_short(record.seconds) for record in part],
            "memory": [record.peak_memory for record in part],
            "seed": [record.key.seed for record in part],
            "error": {str(i): record.error for i, record in enumerate(part) if record.error is not None},
            "values": [_numbers(row) for row in self.values[start:stop]],
            "reasons": {
                str(i - start): {str(m): why for m, why in self.reasons[i].items()}
                for i in range(start, stop)
                if i in self.reasons
            },
        }


def collect(
    store: RunStore,
    facts: Mapping[str, MetricFacts],
    tables: Sequence[Table],
    *,
    root: str,
    heatmaps: bool,
    style: Style | None = None,
    figures: Sequence[Mapping[str, str]] = (),
    downloads: Sequence[str] = (),
) -> PageData:
    """Reads a run. ``root`` is the way from the page to the run's files; ``tables`` are shown as they are.

    ``style``: of the tables as LaTeX. ``figures``: ``name``, ``caption``, ``png``, ``pdf`` and ``tex`` of each;
    files and ``downloads`` are seen from the page.
    """
    import numpy as np

    manifest = store.manifest
    titles = _tables.method_titles(store)
    controls = _tables.control_titles(store)
    order = sorted(titles, key=lambda digest: titles[digest] in controls)
    rank = {digest: i for i, digest in enumerate(order)}
    cases: list[dict[str, Any]] = []
    place: dict[tuple[str, str], int] = {}
    for protocol in store.protocols():
        for row in store.cases(protocol).rows:
            place[protocol, row["id"]] = len(cases)
            cases.append({**row, "protocol": protocol})
    edits = [
        record
        for record in store.edits()
        if (record.key.protocol, record.key.case) in place and record.key.method in rank
    ]
    edits.sort(key=lambda r: (place[r.key.protocol, r.key.case], rank[r.key.method], r.key.seed))
    case_of = [place[record.key.protocol, record.key.case] for record in edits]
    scores = store.scores()
    metrics = _metric_order(dict.fromkeys(scores["metric"].tolist()))
    values = np.full((len(edits), len(metrics)), np.nan)
    reasons: dict[int, dict[int, str]] = {}
    rows, columns = _positions(scores, edits, metrics)
    known = rows >= 0
    given = scores["value"].to_numpy()
    values[rows[known], columns[known]] = given[known]
    absent = known & np.isnan(given)
    for i, m, why in zip(rows[absent], columns[absent], scores["reason"].to_numpy()[absent], strict=True):
        reasons.setdefault(int(i), {})[int(m)] = str(why)
    categories = list(dict.fromkeys([*CATEGORIES, *(row["category"] for row in cases)]))
    present = {row["category"] for row in cases}
    versions = dict(zip(scores["metric"].tolist(), scores["metric_version"].tolist(), strict=True))
    failed = [0] * len(order)
    seconds: list[list[float]] = [[] for _ in order]
    for record in edits:
        i = rank[record.key.method]
        failed[i] += record.file is None
        if record.seconds is not None:
            seconds[i].append(record.seconds)
    looks = _looks([titles[digest] for digest in order if titles[digest] not in controls])
    run = {
        "name": manifest.get("name", store.path.name),
        "root": root,
        "seed": manifest.get("seed"),
        "heatmaps": heatmaps,
        "categories": [name for name in categories if name in present or name in CATEGORIES],
        "protocols": [
            {
                **{key: manifest["protocols"][name].get(key) for key in ("version", "digest", "canvas")},
                "name": name,
                "options": manifest["protocols"][name].get("options", {}),
                "cases": sum(row["protocol"] == name for row in cases),
            }
            for name in store.protocols()
        ],
        "methods": [
            {
                **manifest["methods"][digest],
                "digest": digest,
                "title": titles[digest],
                "control": titles[digest] in controls,
                "failed": failed[i],
                "look": looks.get(titles[digest]),
                "seconds": _short(sum(seconds[i]) / len(seconds[i])) if seconds[i] else None,
            }
            for i, digest in enumerate(order)
        ],
        "metrics": [_metric(name, versions[name], facts) for name in metrics],
        "versions": dict(manifest.get("versions", {})),
        "suite": manifest.get("suite"),
        "tables": [_table(table) for table in tables],
        "overview": [
            {"protocol": name, **overview(table)}
            for name in store.protocols()
            for table in tables
            if table.name == f"main-{_tables.slug(name)}"
        ],
        "figures": list(figures),
        "downloads": list(downloads),
        "counts": {"edits": len(edits), "cases": len(cases), "scores": len(scores), "failed": sum(failed)},
        "parts": {"edits": EDITS, "cases": CASES, "rows": ROWS},
    }
    texts = {
        table.name: {"tex": latex.HEAD + latex.table(table, style), "csv": render.csv_text(table)}
        for table in tables
    }
    return PageData(_plain(run), cases, edits, case_of, values, reasons, texts)


def _looks(titles: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Title -> colour and marker of the charts; the marker as the path of an SVG, one unit wide."""
    import numpy as np
    from matplotlib.markers import MarkerStyle

    found = {}
    for title, look in figures_style.looks(titles).items():
        marker = MarkerStyle(look.marker)
        path = marker.get_path().transformed(marker.get_transform())
        # Curves as lines: at the size of a marker nobody tells the difference.
        polygons = [look.scale * np.asarray(polygon) for polygon in path.to_polygons(closed_only=False)]
        outline = "".join(
            "M" + "L".join(f"{x:.3f} {-y:.3f}" for x, y in polygon.tolist()) + "Z" for polygon in polygons
        )
        found[title] = {"color": look.color, "hollow": look.hollow, "path": outline}
    return found


def _positions(
    scores: pd.DataFrame, edits: Sequence[EditRecord], metrics: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every score: its edit (-1 where there is none) and its metric, as indices."""
    import numpy as np
    import pandas as pd

    keys = [(r.key.protocol, r.key.method, r.key.case, r.key.seed) for r in edits]
    known = pd.MultiIndex.from_tuples(keys, names=["protocol", "method", "case", "seed"])
    asked = pd.MultiIndex.from_frame(
        scores[["protocol", "method", "case"]].astype(object).assign(seed=scores["seed"])
    )
    rows = known.get_indexer(asked) if len(keys) and len(scores) else np.full(len(scores), -1)
    column = {name: m for m, name in enumerate(metrics)}
    columns = np.array([column[name] for name in scores["metric"].tolist()], dtype=np.int64)
    return rows.astype(np.int64), columns


def _metric_order(names: Mapping[str, None]) -> list[str]:
    headings = list(_tables.HEADINGS)

    def rank(name: str) -> tuple[int, bool, str]:
        base = name.removesuffix("_pasted")
        return (headings.index(base) if base in headings else len(headings), base != name, name)

    return sorted(names, key=rank)


def _metric(name: str, version: str, facts: Mapping[str, MetricFacts]) -> dict[str, Any]:
    base = name.removesuffix("_pasted")
    known = facts.get(name) or facts.get(base)
    pasted = name != base
    return {
        "name": name,
        "heading": _tables.HEADINGS.get(base, base) + (", pasted" if pasted else ""),
        "version": version,
        "unit": known.unit if known else "",
        "higher": known.higher_is_better if known else None,
        "summary": known.summary if known else "",
        # Filters and the order of the gallery need these of all edits at once; the rest is of one edit.
        "column": not pasted,
    }


def _table(table: Table) -> dict[str, Any]:
    several = len({column.protocol for column in table.columns}) > 1
    return {
        "name": table.name,
        "title": table.title,
        "notes": render.notes([table]),
        "columns": [
            {
                "heading": column.heading,
                "sign": column.sign,
                "metric": column.metric,
                "key": _key(column, several),
                "higher": column.higher_is_better,
                "group": column.group,
                "reported": column.reported,
                "n": table.column_n(i),
            }
            for i, column in enumerate(table.columns)
        ],
        "rows": [
            {
                "method": row.method,
                "control": row.control,
                "n": row.n,
                "failed": row.failed,
                "cells": [
                    {
                        **asdict(cell),
                        "text": render.number(cell.value, column),
                        "interval": (render.interval(cell, column) if table.intervals else ""),
                        # Where neither the row nor the column says it.
                        "own_n": table.cell_n(row, i),
                    }
                    for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
                ],
            }
            for row in table.rows
        ],
    }


def _key(column: _tables.Column, several: bool) -> str:
    """The key of a column in an address: its metric and category, in a table of ``several`` protocols its own too."""
    category = "" if column.category == _tables.ALL else column.category
    protocol = column.protocol if several else ""
    return "/".join(part for part in (protocol, column.metric, category) if part)


def _numbers(values: NDArray[np.float64]) -> list[float | int | None]:
    return [_short(value) for value in values.tolist()]


def _short(value: float | None) -> float | int | None:
    """Six digits: what anyone reads, at half the bytes. The CSV files have them all."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _plain(value: Any) -> Any:
    """``value`` with null for every number that JSON cannot say."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

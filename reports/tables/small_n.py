"""Warnings where a run is too small for the conclusions that a reader may draw from a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL
from bench.stats import LEAST_CLUSTERS
from bench.tables.table import Row, Table
from reports.data.comparisons import too_few
from reports.tables.tabulate import SMALL_SET

if TYPE_CHECKING:
    from reports.data.scores import RunScores

# (protocol, metric of success) -> the smallest difference that the run can detect. None where there is none.
Detectable = Mapping[tuple[str, str], float | None]


def small_n(table: Table, scores: RunScores, detectable: Detectable) -> list[str]:
    """One sentence per warning, each once."""
    lines = [
        *too_few_sources(table, scores),
        *_undetectable(table, detectable),
        *_stored_warnings(table, scores),
    ]
    return list(dict.fromkeys(lines))


def _contenders(table: Table) -> Sequence[Row]:
    return [row for row in table.rows if not row.control]


def too_few_sources(table: Table, scores: RunScores) -> Iterator[str]:
    """One sentence per category with so few source images that no test could reach significance."""
    contenders = len(_contenders(table))
    # With one method there is no comparison, so no warning is needed.
    if contenders < 2:
        return
    for protocol, category in dict.fromkeys((c.protocol, c.category) for c in table.columns):
        # The pooled votes stand under a protocol's name that has no scores.
        of_protocol = scores.protocols.get(protocol)
        if of_protocol is None:
            continue
        # Tests permute source images: their number decides, not that of the edits.
        units = of_protocol.units(category) if category in (ALL, *of_protocol.categories) else ()
        clusters = len(set(of_protocol.cluster[units].tolist())) if len(units) else 0
        # The family of Holm's correction: the baseline against each of the others.
        remark = too_few(clusters, contenders - 1)
        if remark:
            where = f"{protocol}, {category.replace('_', '-')}" if category != ALL else protocol
            yield f"Too small for the claim ({where}): {remark}."


def without_interval(table: Table, scores: RunScores) -> list[str]:
    """One sentence per place with a mean of too few source images for an interval. ``table`` shows measured means."""
    # (protocol, category) -> numbers of source images behind the means without an interval.
    counts: dict[tuple[str, str], set[int]] = {}
    for index, column in enumerate(table.columns):
        of_protocol = scores.protocols.get(column.protocol)
        if of_protocol is None or column.metric not in of_protocol.metrics:
            continue
        units = of_protocol.units(column.category)
        values = of_protocol.metric(column.metric)[units]  # (U, M)
        for row in table.rows:
            cell = row.cells[index]
            if cell.value is None or cell.low is not None:
                continue
            valued = ~np.isnan(values[:, of_protocol.titles.index(row.label)])
            clusters = len(np.unique(of_protocol.cluster[units][valued]))
            if 0 < clusters < LEAST_CLUSTERS:
                counts.setdefault((column.protocol, column.category), set()).add(clusters)
    return [
        f"No interval ({protocol}{'' if category == ALL else ', ' + category.replace('_', '-')}): too few sources. "
        f"There are values of {' or '.join(map(str, sorted(of_place)))} source images, and an interval of a mean needs "
        f"{LEAST_CLUSTERS}."
        for (protocol, category), of_place in counts.items()
    ]


def _undetectable(table: Table, detectable: Detectable) -> Iterator[str]:
    """Sentences on the smallest detectable difference of success, where a method is not separable from the best."""
    for index, column in enumerate(table.columns):
        place = (column.protocol, column.metric)
        cells = [row.cells[index] for row in _contenders(table)]
        # The simulation is over all categories, and of what this run measured.
        if place not in detectable or column.reported or column.category != ALL:
            continue
        if not any(cell.dagger for cell in cells):
            continue
        # A difference below this would be missed in more than 20 % of such studies.
        smallest = detectable[place]
        # `success_mini_clip` reads as "success (mini clip, ...)".
        judge = column.metric.removeprefix("success_").replace("_", " ")
        which = f"success ({judge}, {column.protocol})"
        often = "would be missed more often than once in five (simulated with the same test)."
        n = max(cell.n for cell in cells)
        if smallest is None:
            yield f"n = {n}: any difference of {which} {often}"
        else:
            yield f"n = {n}: differences of {which} below about {100 * smallest:.0f} points {often}"


def _stored_warnings(table: Table, scores: RunScores) -> list[str]:
    """Warnings of scoring itself, about distances between small sets that the table shows: at most two."""
    if "warning" not in scores.sets.columns:
        return []
    places = {(column.protocol, column.metric, column.category) for column in table.columns}
    lines = {
        f"{row['metric']}: {row['warning']}."
        for row in scores.sets.to_dict(orient="records")
        if (row["protocol"], row["metric"], row["category"]) in places
        and isinstance(row["warning"], str)
        and int(row["n"]) < SMALL_SET
    }
    # Sorted, so that the same run gives the same file. More than two would bury the other notes.
    return sorted(lines)[:2]

"""Metrics as public benchmarks compute them, in a table of their own: never beside this suite's metrics."""

from __future__ import annotations

from bench.edit import ALL
from bench.metrics.published import DIFFERENCES
from bench.tables.table import Table, slug
from reports.data.report_data import ReportData
from reports.tables.tabulate import Pick, tabulate, with_note


def published_tables(data: ReportData) -> list[Table]:
    """One table per protocol that has such values, with a group of columns for each benchmark."""
    tables = []
    for protocol in data.protocols():
        # In the order in which the metrics are registered, so that a benchmark's columns stand together.
        scored = set(data.published(protocol))
        infos = {name: info for name, info in data.metrics.items() if name in scored}
        picks = [
            Pick(info.heading or name, name, ALL, protocol, info.published) for name, info in infos.items()
        ]
        if not picks:
            continue
        title = f"{protocol}: as published benchmarks compute it"
        benchmarks = dict.fromkeys(info.published for info in infos.values())
        # A plug-in's benchmark has no sentence.
        notes = [DIFFERENCES[benchmark] for benchmark in benchmarks if benchmark in DIFFERENCES]
        tables.append(with_note(tabulate(data, f"published-{slug(protocol)}", title, picks), *notes))
    return tables

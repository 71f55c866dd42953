"""Metrics as public benchmarks compute them, in a table of their own: never beside this suite's metrics."""

from __future__ import annotations

from bench.edit import ALL
from bench.metrics.published import DIFFERENCES
from bench.metrics.types import LABEL, MetricInfo, raw_name
from bench.tables.table import Table, slug
from reports.data.report_data import ReportData
from reports.tables.tabulate import Pick, tabulate, with_note


def _heading(name: str, info: MetricInfo) -> str:
    """Heading of a column, with the label of its judge."""
    label = name.partition(LABEL)[2]
    return (info.heading or raw_name(name)) + (f" ({label})" if label else "")


def published_picks(data: ReportData, protocol: str) -> list[Pick]:
    """The columns of a protocol's published metrics, grouped by benchmark. Empty where it has none."""
    # In the order in which the metrics are registered, so that a benchmark's columns stand together.
    order = list(data.metrics)
    names = sorted(set(data.published(protocol)), key=lambda name: (order.index(raw_name(name)), name))
    infos = {name: data.metrics[raw_name(name)] for name in names}
    return [Pick(_heading(name, info), name, ALL, protocol, info.published) for name, info in infos.items()]


def published_tables(data: ReportData) -> list[Table]:
    """One table per protocol that has such values, with a group of columns for each benchmark."""
    tables = []
    for protocol in data.protocols():
        picks = published_picks(data, protocol)
        if not picks:
            continue
        title = f"{protocol}: as published benchmarks compute it"
        # A plug-in's benchmark has no sentence.
        benchmarks = dict.fromkeys(pick.group for pick in picks)
        notes = [DIFFERENCES[benchmark] for benchmark in benchmarks if benchmark in DIFFERENCES]
        tables.append(with_note(tabulate(data, f"published-{slug(protocol)}", title, picks), *notes))
    return tables

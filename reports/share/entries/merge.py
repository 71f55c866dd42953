"""Merge of other people's entries into the own run's tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.metrics.types import MetricInfo
from bench.store import RunStore
from bench.tables.table import Table
from reports.data.report_data import ReportData
from reports.data.scores import control_titles, load
from reports.data.summary import SUMMARY_COLUMNS, summary
from reports.share.comparison.configuration import metric_versions
from reports.share.entries.check import verify_entry
from reports.share.entries.entry_run import entry_controls, entry_summary
from reports.share.entries.export import RESAMPLES
from reports.share.entries.format import EntryError, EntryProtocol, LeaderboardEntry
from reports.share.entries.reading import LoadedEntry, load_entry
from reports.tables.standard import standard_tables

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Merged:
    """The own run's tables with other people's methods in them."""

    # The summary. A method of an entry is called ``title [entry]``.
    frame: pd.DataFrame
    tables: list[Table]
    # Notes on what was left out, with the reason.
    notes: tuple[str, ...]


def merge_entries(paths: Iterable[Path], store: RunStore, facts: Mapping[str, MetricInfo]) -> Merged:
    """Own run and entries in one set of tables, for every protocol that both have with the same cases.

    Controls are those of the own run alone. Raises :class:`EntryError` for an entry whose numbers do not belong in
    one table with the run's: it does not hold (:func:`verify_entry`), has no protocol in common, or has a protocol
    with another digest, other cases or another version of a metric.
    """
    import pandas as pd

    own = summary(load(store), facts, resamples=RESAMPLES)
    if own.empty:
        raise EntryError(
            f"{store.path}: has no scores yet. Score it first: python run_bench.py score {store.path}"
        )
    # All entries are checked before a table is made. An error leaves nothing half merged.
    versions = metric_versions(store)
    frames, notes = [own], []
    used_labels: set[str] = set()
    for path in paths:
        loaded = load_entry(path)
        label = _label(loaded.entry.name, used_labels)
        _refuse_incomparable(loaded, store, versions)
        notes += _omissions(loaded.entry, store, versions)
        frames.append(_rows_for_merge(loaded.entry, label, own))
    frame = pd.concat([part for part in frames if len(part)], ignore_index=True)
    note = "Methods with a name in brackets are of someone else's entry, as scored there."
    merged = standard_tables(ReportData(frame, facts, control_titles(store)))
    merged = [replace(table, notes=(*table.notes, note)) for table in merged]
    return Merged(frame, merged, tuple(dict.fromkeys(notes)))


def _label(name: str, used_labels: set[str]) -> str:
    """The entry's name without unusual characters, numbered where another entry has the same."""
    # Brackets, for example, would imitate the label of another entry.
    clean = re.sub(r"[^\w .+=@-]", "", name).strip()[:40] or "entry"
    label, count = clean, 1
    while label in used_labels:
        count += 1
        label = f"{clean} {count}"
    used_labels.add(label)
    return label


def _refuse_incomparable(loaded: LoadedEntry, store: RunStore, versions: Mapping[str, str]) -> None:
    """Raises :class:`EntryError` where the entry's numbers are not comparable with the run's."""
    entry, path = loaded.entry, loaded.path
    check = verify_entry(loaded)
    if not check.ok:
        more = f" (and {len(check.problems) - 1} more)" if len(check.problems) > 1 else ""
        raise EntryError(
            f"{path}: does not hold: {check.problems[0]}{more}. Ask for it to be exported again."
        )
    # Names alone do not suffice: digests and cases are compared below.
    common = [name for name in entry.protocols if name in store.protocols()]
    if not common:
        raise EntryError(
            f"{path}: is about {', '.join(entry.protocols)}; this run about {', '.join(sorted(store.protocols()))}. "
            "There is no protocol in common: merge it with a run of the same protocol."
        )
    for name in common:
        _refuse_other_protocol(path, name, entry.protocols[name], store)
    # Metrics that one side alone has get no value on the other, and need not agree.
    for metric in sorted(_metrics_in_common_protocols(entry, store) & versions.keys()):
        if entry.metrics[metric].version != versions[metric]:
            raise EntryError(
                f"{path}: {metric} is of version {entry.metrics[metric].version}, in this run of version "
                f"{versions[metric]}. Score the older one again."
            )


def _refuse_other_protocol(path: Path, name: str, protocol: EntryProtocol, store: RunStore) -> None:
    info = store.manifest["protocols"][name]
    if protocol.digest != info["digest"]:
        raise EntryError(
            f"{path}: protocol {name} {protocol.version} has the digest {protocol.digest}, in this run "
            f"{info['version']} has {info['digest']}: its options or its data are others, so the numbers "
            "do not belong in one table. Run the suite with that protocol's options."
        )
    own_cases, cases = {row["id"] for row in store.cases(name).rows}, set(protocol.cases)
    if cases != own_cases:
        raise EntryError(
            f"{path}: protocol {name}: {len(own_cases - cases)} of this run's cases are not in it and "
            f"{len(cases - own_cases)} of its cases not in this run. Run both with the same limit."
        )


def _omissions(entry: LeaderboardEntry, store: RunStore, versions: Mapping[str, str]) -> list[str]:
    """Notes about protocols and metrics that the run does not have."""
    notes = []
    missing = [name for name in entry.protocols if name not in store.protocols()]
    if missing:
        notes.append(
            f"{entry.name}: left out, since this run does not have it: protocol {', '.join(missing)}"
        )
    unscored = _metrics_in_common_protocols(entry, store) - versions.keys()
    if unscored:
        notes.append(f"{entry.name}: this run was not scored by {', '.join(sorted(unscored))}")
    return notes


def _metrics_in_common_protocols(entry: LeaderboardEntry, store: RunStore) -> set[str]:
    return {row.metric for row in entry.summary if row.protocol in store.protocols()}


def _rows_for_merge(entry: LeaderboardEntry, label: str, own: pd.DataFrame) -> pd.DataFrame:
    """The entry's summary of common protocols, without its controls, under the merged titles."""
    # Computed from the scores, not copied from the entry's own summary.
    frame = entry_summary(entry)
    # The own run has the same controls. Twice in one table they would mislead.
    is_common = frame["protocol"].isin(set(own["protocol"])) & ~frame["method"].isin(entry_controls(entry))
    rows = frame[is_common]
    return rows.assign(method=rows["method"] + f" [{label}]")[list(SUMMARY_COLUMNS)]

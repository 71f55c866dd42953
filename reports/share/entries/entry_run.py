"""An entry in the form of a run, so that the same code summarises both and the two cannot differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.edit import EditKey, EditRecord, MethodSpec
from bench.metrics.types import MetricInfo
from bench.store import SCORE_COLUMNS, SET_COLUMNS, RunStore
from reports.data.scores import control_titles, load
from reports.data.summary import summary
from reports.share.entries.format import LeaderboardEntry, image_name

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EntryCases:
    """The part of ``bench.store``'s case file that a summary reads."""

    rows: Sequence[Mapping[str, Any]]
    # An entry has no facts of the protocol beyond its columns, such as ceilings.
    info: Mapping[str, Any] = field(default_factory=dict)


class EntryRun:
    """The part of a ``RunStore`` that :func:`reports.data.summary.summary` reads, from an entry."""

    def __init__(self, entry: LeaderboardEntry) -> None:
        self.entry = entry
        self.path = Path(entry.name)

    @property
    def methods(self) -> dict[str, MethodSpec]:
        return {
            # `MethodSpec` computes the digest from name and options. `parse_entry` has compared it with the key.
            digest: MethodSpec(method.name, method.options, method.label)
            for digest, method in self.entry.methods.items()
        }

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.entry.seed,)

    def protocols(self) -> list[str]:
        return list(self.entry.protocols)

    def cases(self, protocol: str) -> EntryCases:
        columns = self.entry.protocols[protocol]
        names = ("id", "category", "source_id", "target_prompt")
        rows = zip(columns.cases, columns.category, columns.source, columns.target_prompt, strict=True)
        return EntryCases([dict(zip(names, row, strict=True)) for row in rows])

    def edits(self) -> list[EditRecord]:
        records = []
        for part in self.entry.edits:
            protocol = self.entry.protocols[part.protocol]
            for i, case in enumerate(protocol.cases):
                digest, error = part.sha256[i], part.errors.get(case)
                # The edit was never tried. `_failures` counts it as missing.
                if digest is None and error is None:
                    continue
                # An entry holds one seed: its columns have one value per case.
                key = EditKey(part.protocol, protocol.version, part.method, case, self.entry.seed)
                name = None if digest is None else image_name(digest)
                records.append(EditRecord(key, name, digest, part.seconds[i], error, part.memory[i]))
        return records

    def scores(self) -> pd.DataFrame:
        """One row per score, with the columns of ``SCORE_COLUMNS``."""
        import pandas as pd

        hashes = {(part.protocol, part.method): part.sha256 for part in self.entry.edits}
        rows: list[dict[str, Any]] = []
        for part in self.entry.scores:
            protocol = self.entry.protocols[part.protocol]
            of_method = hashes.get((part.protocol, part.method), [None] * len(protocol.cases))
            for case, value, sha256 in zip(protocol.cases, part.values, of_method, strict=True):
                # A case with neither value nor reason was not scored.
                if value is None and case not in part.reasons:
                    continue
                rows.append(
                    {
                        "protocol": part.protocol,
                        "protocol_version": protocol.version,
                        "method": part.method,
                        "case": case,
                        "seed": self.entry.seed,
                        "edit": sha256 or "",
                        "metric": part.metric,
                        "metric_version": self.entry.metrics[part.metric].version,
                        "value": math.nan if value is None else value,
                        "reason": part.reasons.get(case),
                    }
                )
        frame = pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).astype({"seed": "int64", "value": "float64"})
        # The types that the store gives its columns.
        texts = [name for name in SCORE_COLUMNS if name not in ("seed", "value")]
        return frame.astype(dict.fromkeys(texts, "string"))

    def set_scores(self) -> pd.DataFrame:
        import pandas as pd

        rows = [
            {**row.model_dump(), "protocol_version": self.entry.protocols[row.protocol].version}
            for row in self.entry.sets
        ]
        frame = pd.DataFrame(rows, columns=list(SET_COLUMNS))
        return frame.astype({"value": "float64", "low": "float64", "high": "float64", "n": "int64"})


def entry_summary(entry: LeaderboardEntry) -> pd.DataFrame:
    """The summary of an entry's scores, with the columns of ``reports.data.summary.SUMMARY_COLUMNS``."""
    # EntryRun has all that a summary reads of a store, and nothing else.
    metrics = {
        name: MetricInfo(name, metric.version, metric.unit, metric.higher_is_better, metric.summary)
        for name, metric in entry.metrics.items()
    }
    return summary(load(cast(RunStore, EntryRun(entry))), metrics, resamples=entry.resamples)


def entry_controls(entry: LeaderboardEntry) -> frozenset[str]:
    """Titles of the entry's controls."""
    return control_titles(cast(RunStore, EntryRun(entry)))

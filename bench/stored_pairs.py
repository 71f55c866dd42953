"""Pairs of stored edits for scoring: decoded ahead in threads, the edits of one source next to each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.casefile import CaseFile
from bench.edit import EditCase, EditRecord
from bench.metrics.types import MetricError, NoValue, Pair, ReasonCode, RgbImage
from bench.store import RunStore

StoredPair = tuple[EditRecord, Pair | NoValue]
"""An edit with its pair, or with the reason why it has none."""


@dataclass(frozen=True)
class ScoringOptions:
    """Sizes of the batches that are decoded, scored and saved."""

    chunk: int = 128
    """Edits scored at once. Their features are computed in common batches."""
    save_every: int = 1024
    """Scores are written to disk after this many edits at the latest."""
    workers: int = 2
    """Threads that decode the next edits during scoring."""


@dataclass
class ScoringSummary:
    """Counts of one run of scoring."""

    scored: int = 0
    """Scores computed, including those that are None with a reason."""
    skipped: int = 0
    """Values that were stored already."""
    missing: Counter[str] = field(default_factory=Counter)
    """Reason -> how many new values are None for it."""
    warnings: list[str] = field(default_factory=list)

    def count(self, value: float | None, reason: str | None) -> None:
        """Counts one computed score."""
        self.scored += 1
        if value is None:
            self.missing[reason or ""] += 1


def pairs_in_chunks(
    store: RunStore, records: Sequence[EditRecord], options: ScoringOptions
) -> Iterator[list[StoredPair]]:
    """The edits with their pairs, source by source, about ``options.chunk`` at a time, decoded ahead."""
    # Cases as stored, so that an edit is compared with what the method got.
    case_files = {protocol: store.cases(protocol) for protocol in {record.key.protocol for record in records}}
    groups = _by_case(case_files, records)

    def load(group: tuple[str, str, list[EditRecord]]) -> list[StoredPair]:
        protocol, case, edits = group
        return _load_case(store, case_files[protocol].get(case), edits)

    with ThreadPoolExecutor(max(1, options.workers), thread_name_prefix="decode") as pool:
        waiting: list[tuple[int, Future[list[StoredPair]]]] = []
        in_flight = 0  # edits
        chunk: list[StoredPair] = []
        position = 0
        while position < len(groups) or waiting:
            # Only one chunk is decoded ahead of the one that is scored, because images are large.
            while position < len(groups) and in_flight < 2 * options.chunk:
                size = len(groups[position][2])
                waiting.append((size, pool.submit(load, groups[position])))
                in_flight += size
                position += 1
            # The oldest case first, so that the order is that of the groups.
            size, future = waiting.pop(0)
            chunk += future.result()
            in_flight -= size
            if len(chunk) >= options.chunk:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def _by_case(
    case_files: Mapping[str, CaseFile], records: Sequence[EditRecord]
) -> list[tuple[str, str, list[EditRecord]]]:
    """``(protocol, case, its edits)``, the cases of one source next to each other."""
    edits: dict[tuple[str, str], list[EditRecord]] = defaultdict(list)
    for record in records:
        edits[record.key.protocol, record.key.case].append(record)
    sources = {
        (protocol, row["id"]): row["source_id"] for protocol, file in case_files.items() for row in file.rows
    }
    # By protocol, then by source image: its features stay in memory for all of its cases and methods.
    order = sorted(edits, key=lambda place: (place[0], sources.get(place, ""), place[1]))
    return [(protocol, case, edits[protocol, case]) for protocol, case in order]


def _load_case(store: RunStore, case: EditCase, records: Sequence[EditRecord]) -> list[StoredPair]:
    """The pairs of one case's edits. They share source, masks and ground truth, decoded once."""
    source = RgbImage.of(case.request.source)
    pairs: list[StoredPair] = []
    template: Pair | None = None
    for record in records:
        edited = _load_edit(store, record)
        if isinstance(edited, RgbImage):
            try:
                # The first edit decodes masks and ground truth, the others reuse them.
                pair = (
                    Pair.of_case(case, edited, source=source)
                    if template is None
                    else template.with_edit(edited)
                )
            except MetricError as error:  # an edit of another size
                pairs.append((record, NoValue(str(error))))
            else:
                template = template or pair
                pairs.append((record, pair))
        else:
            pairs.append((record, edited))
    return pairs


def _load_edit(store: RunStore, record: EditRecord) -> RgbImage | NoValue:
    if record.error is not None or record.file is None:
        return NoValue(ReasonCode.NO_EDIT.text(record.error or "it has no file"))
    try:
        return RgbImage.of(store.image(record))
    except ValueError as error:  # StoreError and ImageError: one bad file must not end the scoring
        return NoValue(ReasonCode.NO_EDIT.text(str(error)))

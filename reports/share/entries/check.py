"""Check of an entry: its summary follows from its scores, and its images are the recorded ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.files import sha256_bytes
from reports.share.entries.entry_run import entry_summary
from reports.share.entries.export import summary_rows
from reports.share.entries.format import LeaderboardEntry, image_name
from reports.share.entries.reading import LoadedEntry


@dataclass
class EntryCheck:
    """Result of the check of an entry."""

    name: str
    # One line each.
    problems: list[str] = field(default_factory=list)
    # Rows of the summary that were computed again from the scores and compared.
    rows: int = 0
    # Images whose SHA-256 was compared.
    images: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.ok:
            count = len(self.problems)
            return f"{self.name}: does not hold: {count} discrepanc{'y' if count == 1 else 'ies'}."
        images = f", {self.images} images are the recorded ones" if self.images else ", no images"
        return f"{self.name}: its {self.rows} summary rows follow from its scores{images}."


def verify_entry(loaded: LoadedEntry) -> EntryCheck:
    """Computes the summary again from the entry's scores, and the SHA-256 of its images, if it has any."""
    check = EntryCheck(loaded.entry.name)
    _check_summary(check, loaded.entry)
    _check_images(check, loaded)
    check.problems += _scores_without_edit(loaded.entry)
    return check


def _check_summary(check: EntryCheck, entry: LeaderboardEntry) -> None:
    key = ("protocol", "category", "method", "metric")
    stated = {tuple(getattr(row, name) for name in key): row.model_dump() for row in entry.summary}
    computed = {tuple(row[name] for name in key): row for row in summary_rows(entry_summary(entry))}
    # Rows that one side alone has are problems, too.
    for place in dict.fromkeys([*computed, *stated]):
        where = f"summary: {' / '.join(place)}"
        if place not in stated or place not in computed:
            check.problems.append(f"{where}: {'not in the scores' if place in stated else 'left out'}")
            continue
        check.rows += 1
        for name in ("value", "low", "high", "n", "failed"):
            # Intervals are sums, whose order depends on the machine.
            # A mean of float64 agrees to nine digits on any machine.
            tolerance = 1e-9 if name == "value" else 1e-6
            before, after = stated[place][name], computed[place][name]
            if not _close(before, after, tolerance):
                check.problems.append(f"{where}: {name} is said to be {before}, the scores make {after}")
    if len(stated) != len(entry.summary):
        check.problems.append("summary: a row is there twice")


def _close(a: float | None, b: float | None, tolerance: float) -> bool:
    # A missing value agrees with a missing value only.
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def _check_images(check: EntryCheck, loaded: LoadedEntry) -> None:
    absent = 0
    for part in loaded.entry.edits:
        cases = loaded.entry.protocols[part.protocol].cases
        for case, digest in zip(cases, part.sha256, strict=True):
            if digest is not None and case in part.errors:
                check.problems.append(f"edits: {case} of {part.method}: both an image and an error")
            if digest is None or not loaded.images:
                continue
            # One image at a time: an entry may have gigabytes of them.
            data = loaded.image(digest)
            if data is None:
                absent += 1
                continue
            check.images += 1
            if sha256_bytes(data) != digest:
                check.problems.append(f"images: {image_name(digest)}: its SHA-256 is another")
    if absent:
        check.problems.append(f"images: {absent} edits have a hash and no image")


def _scores_without_edit(entry: LeaderboardEntry) -> Iterator[str]:
    # A method without any edit has no column of hashes.
    hashes: dict[tuple[str, str], list[Any]] = {
        (part.protocol, part.method): list(part.sha256) for part in entry.edits
    }
    for part in entry.scores:
        of_method = hashes.get((part.protocol, part.method), [None] * len(part.values))
        pairs = zip(part.values, of_method, strict=True)
        count = sum(value is not None and sha256 is None for value, sha256 in pairs)
        if count:
            yield f"scores: {part.metric} of {part.method}: {count} values of edits that do not exist"

"""Comparison of two runs.

Values are paired case by case, so that the difficulty of a case cancels. Intervals resample source images, whose
cases are not independent. A difference is always B minus A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.metrics.types import MetricInfo
from bench.store import RunStore
from reports.data.report_data import ReportError
from reports.data.scores import method_titles
from reports.share.comparison.configuration import (
    MethodPairs,
    conditions,
    configuration_changes,
    matching_methods,
)
from reports.share.comparison.result import Comparison, Flip, MetricDifference
from reports.share.comparison.values import PairedMethod, common_cases
from reports.share.verification.recompute import TOLERANCE

if TYPE_CHECKING:
    import pandas as pd


def compare(a: RunStore, b: RunStore, facts: Mapping[str, MetricInfo] | None = None) -> Comparison:
    """Compares run ``b`` with run ``a``. ``facts`` say which direction of a metric is better.

    Methods match by digest, else by title, else by name where both runs have it once. Where a protocol's digest
    differs, only cases with the same row, source and mask are compared. Raises :class:`ReportError` where the
    runs have no protocol or no method in common, and ``bench.store.StoreError`` where a run cannot be read.
    """
    notes: list[str] = []
    methods = matching_methods(a.methods, b.methods)
    titles_a, titles_b = method_titles(a), method_titles(b)
    protocols = [name for name in a.protocols() if name in b.protocols()]
    _note_unmatched(a, b, methods, protocols, notes)
    if not protocols or not methods:
        what = "protocol" if not protocols else "method"
        raise ReportError(
            f"{a.path} and {b.path} have no {what} in common, so nothing can be paired. Compare runs that do."
        )
    # A method whose title differs is shown under both.
    titles = {
        (x, y): titles_a[x] if titles_a[x] == titles_b[y] else f"{titles_a[x]} → {titles_b[y]}"
        for x, y in methods
    }
    rounded = [titles[x, y] for x, y in methods if conditions(a, x) != conditions(b, y)]
    if rounded:
        notes.append(
            f"made with another batch size or number of threads: {', '.join(rounded)}. This alone may change single "
            f"pixel values by one level, and the score of one edit by about {TOLERANCE:g}"
        )

    # Scores, protocol by protocol and method by method.
    differences: list[MetricDifference] = []
    flips: list[Flip] = []
    frames = (a.scores(), b.scores(), a.set_scores(), b.set_scores())
    for protocol in protocols:
        cases = common_cases(a, b, protocol, notes)
        for x, y in methods:
            scores_a, scores_b, sets_a, sets_b = (
                _rows_of(frame, protocol, digest) for frame, digest in zip(frames, (x, y, x, y), strict=True)
            )
            paired = PairedMethod(protocol, titles[x, y], facts or {})
            method_differences, method_flips = paired.compare_edits(scores_a, scores_b, cases)
            differences += [*method_differences, *paired.compare_sets(sets_a, sets_b)]
            flips += method_flips

    # Folders of one name are called by their paths.
    name_a, name_b = (a.path.name, b.path.name) if a.path.name != b.path.name else (str(a.path), str(b.path))
    changes = tuple(configuration_changes(a, b, methods))
    return Comparison(name_a, name_b, changes, tuple(differences), tuple(flips), tuple(notes))


def _note_unmatched(
    a: RunStore, b: RunStore, methods: MethodPairs, protocols: list[str], notes: list[str]
) -> None:
    """Adds a note for methods and for protocols that one run alone has."""
    matched = {digest for pair in methods for digest in pair}
    for label, store in (("A", a), ("B", b)):
        alone = [title for digest, title in method_titles(store).items() if digest not in matched]
        if alone:
            notes.append(f"only in {label}: method {', '.join(alone)}")
    for label, store in (("A", a), ("B", b)):
        alone = [name for name in store.protocols() if name not in protocols]
        if alone:
            notes.append(f"only in {label}: protocol {', '.join(alone)}")


def _rows_of(frame: pd.DataFrame, protocol: str, method: str) -> pd.DataFrame:
    return frame[(frame["protocol"] == protocol) & (frame["method"] == method)]

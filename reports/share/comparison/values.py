"""Scores of two runs, paired case by case, so that the difficulty of a case cancels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.edit import ALL, CATEGORIES
from bench.files import is_relative, sha256_file
from bench.metrics.types import MetricInfo
from bench.store import RunStore
from bench.tables.numbers import finite
from reports.data.intervals import differences as paired_differences
from reports.data.metrics import is_success, metric_info, outcomes
from reports.share.comparison.result import Flip, MetricDifference

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]

# Case id -> its row in ``cases.jsonl``.
CaseRows = Mapping[str, Mapping[str, Any]]


def common_cases(a: RunStore, b: RunStore, protocol: str, notes: list[str]) -> CaseRows:
    """The cases that are the same edit in both runs. Adds a note about the others."""
    left, right = a.cases(protocol), b.cases(protocol)
    rows_a = {row["id"]: row for row in left.rows}
    rows_b = {row["id"]: row for row in right.rows}
    # Cases with the same id. The order is that of A.
    common: dict[str, Mapping[str, Any]] = {case: row for case, row in rows_a.items() if case in rows_b}
    if left.info.get("digest") == right.info.get("digest"):
        for label, count in (("A", len(rows_a) - len(common)), ("B", len(rows_b) - len(common))):
            if count:
                notes.append(f"{protocol}: {count} cases are only in {label} and are left out")
        return common

    # Another digest: the protocol's options or data differ, so each case is compared with its namesake.
    hashes: dict[Path, str] = {}

    def pixels(path: Path) -> str:
        if path not in hashes:
            hashes[path] = sha256_file(path) if path.is_file() else ""
        return hashes[path]

    same = {
        case: row
        for case, row in common.items()
        # Rows hold prompts and names of files. The files may have the same names and other pixels.
        if row == rows_b[case]
        and all(
            # A run may be somebody else's: a name that leads out of it is not followed.
            is_relative(row[kind])
            and pixels(left.directory / row[kind]) == pixels(right.directory / row[kind])
            for kind in ("source", "mask")
            # A case may have no mask.
            if row[kind] is not None
        )
    }
    notes.append(
        f"{protocol}: its digest differs ({left.info.get('digest')} in A, {right.info.get('digest')} in B);"
        f" of {len(common)} cases in both, the {len(same)} whose prompts, source and mask are the same"
        " are compared; values of whole sets are of other cases in A than in B"
    )
    return same


@dataclass(frozen=True)
class PairedMethod:
    """One method in one protocol of both runs."""

    protocol: str
    # Its title, or ``title in A → title in B``.
    method: str
    facts: Mapping[str, MetricInfo]

    def difference(self, category: str, metric: str, **values: Any) -> MetricDifference:
        info = metric_info(metric, self.facts)
        direction = None if info is None else info.higher_is_better
        return MetricDifference(
            self.protocol, category, self.method, metric, higher_is_better=direction, **values
        )

    def compare_edits(
        self, scores_a: pd.DataFrame, scores_b: pd.DataFrame, cases: CaseRows
    ) -> tuple[list[MetricDifference], list[Flip]]:
        """Differences of every metric that both runs have, per category, and the cases that flipped."""
        # sort=False keeps the order of run A.
        by_a = {str(metric): frame for metric, frame in scores_a.groupby("metric", sort=False)}
        by_b = {str(metric): frame for metric, frame in scores_b.groupby("metric", sort=False)}
        # Values of two versions of a metric are not comparable.
        differences: list[MetricDifference] = []
        metrics: list[str] = []
        for metric in (name for name in by_a if name in by_b):
            versions = [sorted(set(by[metric]["metric_version"].tolist())) for by in (by_a, by_b)]
            if versions[0] == versions[1]:
                metrics.append(metric)
            else:
                remark = f"metric version {', '.join(versions[0])} in A, {', '.join(versions[1])} in B"
                nothing = dict.fromkeys(("a", "b", "difference", "low", "high"))
                differences.append(self.difference(ALL, metric, **nothing, n=0, remark=remark))
        # (cases, metrics), NaN where there is no value.
        a, b = (_matrix([by[metric] for metric in metrics], cases) for by in (by_a, by_b))
        differences += self._by_category(metrics, a, b, cases)
        return differences, list(self._flips(metrics, a, b, cases))

    def _flips(self, metrics: Sequence[str], a: FloatND, b: FloatND, cases: CaseRows) -> Iterator[Flip]:
        rows = list(cases.values())
        for k, metric in enumerate(metrics):
            if not is_success(metric):
                continue
            # A case without a verdict in one of the runs has not flipped.
            judged = ~np.isnan(a[:, k]) & ~np.isnan(b[:, k])
            for i in np.flatnonzero(judged & ((a[:, k] > 0.5) != (b[:, k] > 0.5))).tolist():
                row, gained = rows[i], bool(b[i, k] > 0.5)
                place = (self.protocol, row["category"], row["id"], self.method)
                yield Flip(*place, metric, gained, row["target_prompt"])

    def _by_category(
        self, metrics: Sequence[str], a: FloatND, b: FloatND, cases: CaseRows
    ) -> Iterator[MetricDifference]:
        """``a``, ``b``: ``(cases, metrics)``, NaN where there is no value."""
        rows = list(cases.values())
        gap = b - a
        unpaired = np.isnan(a) != np.isnan(b)
        # Shares of yes-or-no outcomes have intervals of their own.
        yes_or_no = outcomes(metrics, self.facts)
        is_outcome = np.array([metric in yes_or_no for metric in metrics], dtype=bool)
        # Cases of one source image are not independent, so intervals resample source images.
        _, cluster = np.unique([str(row["source_id"]) for row in rows], return_inverse=True)
        for category in (ALL, *CATEGORIES):
            chosen = np.flatnonzero([category in (ALL, row["category"]) for row in rows])
            means = paired_differences(b[chosen], a[chosen], cluster[chosen], is_outcome)
            for k, metric in enumerate(metrics):
                # Both means are over the same cases, so that their difference is the mean difference.
                both = chosen[~np.isnan(gap[chosen, k])]
                if len(both):
                    yield self.difference(
                        category,
                        metric,
                        a=float(a[both, k].mean()),
                        b=float(b[both, k].mean()),
                        difference=float(means.value[k]),
                        low=finite(means.low[k]),
                        high=finite(means.high[k]),
                        n=len(both),
                        unpaired=int(unpaired[chosen, k].sum()),
                        same=not gap[both, k].any(),
                    )

    def compare_sets(self, sets_a: pd.DataFrame, sets_b: pd.DataFrame) -> Iterator[MetricDifference]:
        """Differences of metrics of whole sets. They have no value per case, so no interval either."""
        # (metric, category) -> row
        rows_a = {(row["metric"], row["category"]): row for row in sets_a.to_dict(orient="records")}
        rows_b = {(row["metric"], row["category"]): row for row in sets_b.to_dict(orient="records")}
        for metric, category in (place for place in rows_a if place in rows_b):
            one, other = rows_a[metric, category], rows_b[metric, category]
            remark = ""
            if one["metric_version"] != other["metric_version"]:
                remark = f"metric version {one['metric_version']} in A, {other['metric_version']} in B"
            # Fréchet distances depend on n.
            elif one["n"] != other["n"]:
                remark = f"sets of {one['n']} and {other['n']} edits: not comparable"
            a, b = finite(one["value"]), finite(other["value"])
            # No difference where the two values do not mean the same.
            gap = b - a if a is not None and b is not None and not remark else None
            yield self.difference(
                category,
                metric,
                a=a,
                b=b,
                difference=gap,
                low=None,
                high=None,
                n=int(min(one["n"], other["n"])),
                same=gap == 0,
                remark=remark,
            )


def _matrix(frames: Sequence[pd.DataFrame], cases: CaseRows) -> FloatND:
    """Scores of each frame's metric as ``(cases, frames)``: the mean over seeds, NaN where there is no value."""
    # Seeds of a case are repeats of it, so their mean is its value.
    values = np.full((len(cases), len(frames)), np.nan)
    order = {case: i for i, case in enumerate(cases)}
    for k, frame in enumerate(frames):
        of_case: dict[str, list[float]] = {}
        for case, value in zip(frame["case"].tolist(), frame["value"].tolist(), strict=True):
            if case in order and not math.isnan(value):
                of_case.setdefault(case, []).append(value)
        for case, of_seeds in of_case.items():
            values[order[case], k] = math.fsum(of_seeds) / len(of_seeds)
    return values

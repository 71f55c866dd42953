"""Runs with several seeds: the spread between seeds, and rows that choose the best of several edits of a case.

The seeds of a case are repeats within the cluster of its source image, so means, intervals and tests need nothing
from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL
from reports.data.scores import ProtocolScores, RunScores
from reports.data.summary import summary_frame

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bench.edit import MethodSpec
    from bench.metrics.types import MetricInfo


def seed_spread(scores: RunScores) -> pd.DataFrame:
    """Standard deviation between seeds of the mean over all cases, in the columns of the summary.

    The mean of each seed is over its edits that have a value. The deviation is that of a sample (divided by the
    number of seeds less one). ``n`` is the number of seeds. Fewer than two seeds have no row.
    """
    rows: list[tuple[object, ...]] = []
    for protocol, of_protocol in scores.protocols.items():
        means = _seed_means(of_protocol)  # (S, M, K)
        counts = (~np.isnan(means)).sum(axis=0)
        for m, (digest, title) in enumerate(zip(of_protocol.methods, of_protocol.titles, strict=True)):
            failed = scores.failed[protocol][digest][ALL]
            for k, metric in enumerate(of_protocol.metrics):
                if counts[m, k] > 1:
                    deviation = float(np.nanstd(means[:, m, k], ddof=1))
                    rows.append(
                        (protocol, ALL, title, metric, deviation, None, None, int(counts[m, k]), failed)
                    )
    return summary_frame(rows)


def _seed_means(scores: ProtocolScores) -> NDArray[np.float64]:
    """``(S, M, K)``: the mean over the units of each seed. NaN where it has no value."""
    means = np.full((len(np.unique(scores.seed)), *scores.values.shape[1:]), np.nan)
    for s, seed in enumerate(np.unique(scores.seed)):
        values = scores.values[scores.seed == seed]
        counts = (~np.isnan(values)).sum(axis=0)
        np.divide(np.nansum(values, axis=0), counts, out=means[s], where=counts > 0)
    return means


# --- best of n -------------------------------------------------------------------------------------------


def best_of_title(title: str, best_of: str) -> str:
    """Name of the row that chooses among several edits of the method with this title."""
    return f"{title}, best of {best_of}"


def with_best_of(
    scores: RunScores,
    specs: Mapping[str, MethodSpec],
    seeds: Sequence[int],
    metrics: Mapping[str, MetricInfo],
) -> RunScores:
    """Adds a row for each method with ``best_of``: of each case, the edit with the best value among the first seeds.

    The row stands with the controls, because a choice among n edits cannot be compared with single edits. A case
    counts only where all of the n edits have a value of the metric that chooses.
    """
    chosen = {digest: spec.best_of for digest, spec in specs.items() if spec.best_of}
    for digest, best_of in chosen.items():
        count, metric = parse_best_of(best_of)
        info = metrics.get(metric)
        # A metric that nobody declares, such as a removed plug-in's, has no best value.
        if info is None or info.higher_is_better is None:
            continue
        title = best_of_title(scores.titles[digest], best_of)
        sign = 1.0 if info.higher_is_better else -1.0
        scores = replace(
            scores,
            protocols={
                name: _with_column(of_protocol, digest, title, seeds[:count], metric, sign)
                for name, of_protocol in scores.protocols.items()
            },
            failed={
                name: {**failed, f"{digest} {best_of}": failed[digest]}
                for name, failed in scores.failed.items()
            },
            # Its cost is that of all edits among which it chooses.
            seconds={
                name: np.column_stack([seconds, np.full(len(seconds), np.nan)])
                for name, seconds in scores.seconds.items()
            },
            controls=scores.controls | {title},
        )
    return scores


def parse_best_of(best_of: str) -> tuple[int, str]:
    """The number of edits and the metric of a text such as ``4 by clip_target``."""
    count, _, metric = best_of.partition(" by ")
    return int(count), metric


def _with_column(
    scores: ProtocolScores, digest: str, title: str, seeds: Sequence[int], metric: str, sign: float
) -> ProtocolScores:
    m = scores.methods.index(digest)
    values = np.full((len(scores.cases), 1, len(scores.metrics)), np.nan)
    recorded = np.zeros_like(values, dtype=bool)
    if metric in scores.metrics:
        score = sign * scores.metric(metric)[:, m]
        units: dict[str, list[int]] = {}
        for unit in np.flatnonzero(np.isin(scores.seed, seeds)):
            units.setdefault(scores.cases[unit], []).append(int(unit))
        for of_case in units.values():
            # At the unit of the first seed, so that a case counts once.
            if len(of_case) == len(seeds) and not np.isnan(score[of_case]).any():
                best = of_case[int(np.argmax(score[of_case]))]
                values[of_case[0], 0], recorded[of_case[0], 0] = (
                    scores.values[best, m],
                    scores.recorded[best, m],
                )
    return replace(
        scores,
        methods=(*scores.methods, f"{digest} {title.rpartition(', best of ')[2]}"),
        titles=(*scores.titles, title),
        controls=(*scores.controls, True),
        values=np.concatenate([scores.values, values], axis=1),
        recorded=np.concatenate([scores.recorded, recorded], axis=1),
    )


def best_of_notes(scores: RunScores, specs: Mapping[str, MethodSpec], seeds: Sequence[int]) -> dict[str, str]:
    """Title of each row that chooses -> the sentence that a table with this row needs."""
    notes = {}
    for digest, spec in specs.items():
        if spec.best_of:
            count, metric = parse_best_of(spec.best_of)
            title = best_of_title(scores.titles[digest], spec.best_of)
            notes[title] = (
                f"{title}: of each case, the edit with the best {metric} among {count} (seeds "
                f"{', '.join(map(str, seeds[:count]))}). Its {metric} is that of the choice itself. The row stands "
                "with the controls and is never marked as best."
            )
    return notes

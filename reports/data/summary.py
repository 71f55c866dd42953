"""From the scores of a run to the tidy summary: means with intervals, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.edit import ALL
from bench.tables.numbers import finite
from reports.data.metrics import outcomes, value_range
from reports.data.scores import PEAK_MEMORY, SECONDS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bench.metrics.types import MetricInfo
    from reports.data.scores import ProtocolScores, RunScores

SUMMARY_COLUMNS: tuple[str, ...] = (
    "protocol",
    "category",
    "method",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "failed",
)

# ``(M, K)`` whether anything was recorded, and ``(M, K)`` each of value, low, high, n.
Means = tuple["NDArray[np.bool_]", list["NDArray[Any]"]]


def summary(
    scores: RunScores, metrics: Mapping[str, MetricInfo], *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """One row per protocol, category (or ``all``), method and metric. The columns are ``SUMMARY_COLUMNS``.

    ``value``: mean over the edits that have one. ``low``, ``high``: its 95 % interval, clustered on the source image.
    ``n``: number of values. ``failed``: planned edits that failed or are missing.

    The interval is that of a share for metrics that declare 0/1 outcomes, else a studentised bootstrap's, cut to the
    range that the metric's unit states. Metrics of sets (Fréchet distance, KID, CMMD) come with the interval that was
    stored, if any. Raises ``statistics.StatisticsError`` for an outcome whose values are not 0 or 1.
    """
    # One block of rows per protocol and method, in the order in which methods joined the run.
    rows: list[tuple[object, ...]] = []
    for protocol, protocol_scores in scores.protocols.items():
        means = _means(protocol_scores, metrics, resamples, seed)
        set_values = scores.sets[scores.sets["protocol"] == protocol]
        methods = zip(protocol_scores.methods, protocol_scores.titles, strict=True)
        for m, (digest, title) in enumerate(methods):
            failed = scores.failed[protocol][digest]

            # Means over single edits.
            for k, metric in enumerate(protocol_scores.metrics):
                for category, (recorded, arrays) in means.items():
                    # A row without a value says that nothing could be measured. No row says that nothing was tried.
                    if recorded[m, k]:
                        value, low, high, n = (array[m, k] for array in arrays)
                        mean = (float(value), float(low), float(high), int(n))
                        rows.append((protocol, category, title, metric, *mean, failed[category]))

            # Values of sets of edits, as they were stored.
            for record in set_values[set_values["method"] == digest].to_dict(orient="records"):
                category = record["category"]
                interval = (finite(record[key]) for key in ("value", "low", "high"))
                # Their intervals come from a jackknife when they were scored: it needs the features, which a report
                # has not.
                row = (protocol, category, title, record["metric"], *interval, record["n"])
                rows.append((*row, failed.get(category, 0)))
    return summary_frame(rows)


def _means(
    scores: ProtocolScores, metrics: Mapping[str, MetricInfo], resamples: int, seed: int
) -> dict[str, Means]:
    """Category -> means of every method and metric."""
    import numpy as np

    from reports.data.intervals import summarise

    # Methods and metrics side by side, so that one set of resamples serves all of them.
    # M methods, K metrics.
    shape = scores.values.shape[1:]  # (M, K)
    shares = outcomes(scores.metrics, metrics)
    ranges = [value_range(name, metrics) for name in scores.metrics]
    least, largest = np.tile(np.array(ranges).reshape(-1, 2), (shape[0], 1)).T  # (M * K,) each
    is_share = np.tile([name in shares for name in scores.metrics], shape[0]).astype(bool)
    means: dict[str, Means] = {}
    for category in (ALL, *scores.categories):
        units = scores.units(category)
        flat = scores.values[units].reshape(len(units), shape[0] * shape[1])  # (U, M * K)
        result = summarise(flat, scores.cluster[units], is_share, draws=resamples, seed=seed)
        recorded = np.asarray(scores.recorded[units].any(axis=0))
        # A studentised interval can leave the metric's range. No mean does.
        ends = [np.clip(end, least, largest) for end in (result.low, result.high)]
        arrays = (result.value, *ends, result.n)
        means[category] = recorded, [array.reshape(shape) for array in arrays]
    return means


def cost_summary(scores: RunScores, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Rows of :func:`summary` for the cost of an edit: mean seconds with interval, peak memory in GiB.

    Seconds are the wall time of a batch divided by its edits, on the machine that made them.
    """
    from reports.data.intervals import bootstrap_means

    rows: list[tuple[object, ...]] = []
    for protocol, seconds in scores.seconds.items():
        protocol_scores = scores.protocols[protocol]
        # Clustered too: the time of an edit may depend on its source image's size.
        means = bootstrap_means(seconds, protocol_scores.cluster, draws=resamples, seed=seed)
        methods = zip(protocol_scores.methods, protocol_scores.titles, strict=True)
        for m, (digest, title) in enumerate(methods):
            failed = scores.failed[protocol][digest][ALL]
            # Mean seconds with interval, and the peak over all batches.
            n = int(means.n[m])
            if n:
                ends = (float(means.value[m]), float(means.low[m]), float(means.high[m]))
                rows.append((protocol, ALL, title, SECONDS, *ends, n, failed))
            # A maximum has no interval. GiB: 2^30 bytes.
            peak = scores.peak_memory[protocol].get(digest)
            if peak is not None:
                rows.append((protocol, ALL, title, PEAK_MEMORY, peak / 2**30, None, None, n, failed))
    return summary_frame(rows)


def summary_frame(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    """Rows with the values of ``SUMMARY_COLUMNS`` as a data frame."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64"})

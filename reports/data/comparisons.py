"""Every method against one baseline: differences with intervals, sign-flip tests and effect sizes."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL
from bench.stats import holm, sign_flips, tries_every_flip
from reports.data.intervals import StatisticsError, cluster_sums, differences, number_clusters
from reports.data.scores import ProtocolScores, RunScores
from reports.data.separation import ALPHA, FLIPS, flips_for

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    IndexND = NDArray[np.intp]

COMPARISON_COLUMNS: tuple[str, ...] = (
    "protocol",
    "category",
    "metric",
    "method",
    "baseline",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "cohens_d",
    "superiority",
    "n",
    "clusters",
    "exact",
    "remark",
)


@dataclass(frozen=True, eq=False)
class PairedTests:
    """Tests of K columns of paired differences, as arrays ``(K,)``."""

    difference: FloatND
    # Two-sided p-value. NaN where no pair is complete.
    p: FloatND
    n: IndexND
    clusters: IndexND
    # True where all sign flips were tried, not a random sample of them.
    exact: bool


def paired_tests(differences: FloatND, cluster: IndexND, *, draws: int = FLIPS, seed: int = 0) -> PairedTests:
    """A sign-flip test for every column of ``(U, K)``. NaN marks an incomplete pair, which is left out.

    All columns share their flips. The test is exact where all 2^C flips are at most ``draws``.
    """
    columns = differences.shape[1]
    if not len(differences):
        nothing, zeros = np.full(columns, np.nan), np.zeros(columns, np.intp)
        return PairedTests(nothing, nothing, zeros, zeros, False)
    # The mean of all differences, whose sign flips cluster by cluster, since cases of one source are not independent.
    sums, sizes = cluster_sums(differences, number_clusters(cluster))
    n = sizes.sum(axis=0)
    observed = np.abs(sums.sum(axis=0))
    # Flips that tie with the observed sum must count, although the order of addition changes the last digits.
    bound = observed - 1e-12 * np.maximum(1e-300, np.abs(sums).sum(axis=0))
    # The flips come in blocks, whose matrix product with the sums stays small in memory.
    beyond = np.zeros(columns)
    for signs in sign_flips(len(sums), draws, seed):
        beyond += (np.abs(signs @ sums) >= bound).sum(axis=0)
    # With random flips, the observed signs count as one flip more (Phipson and Smyth 2010), so that p is never 0.
    exact = tries_every_flip(len(sums), draws)
    p = beyond / 2 ** len(sums) if exact else (beyond + 1) / (draws + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = sums.sum(axis=0) / n
    p = np.where(n > 0, p, np.nan)
    return PairedTests(difference, p, n.astype(np.intp), (sizes > 0).sum(axis=0), exact)


def compare(
    scores: RunScores, baseline: str, *, outcomes: Container[str] = (), resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Every method against ``baseline`` (title or digest), per protocol, category and metric.

    ``outcomes``: metrics whose values are 0 or 1. The columns are ``COMPARISON_COLUMNS``:

    * mean paired difference (method - baseline) with its interval clustered on the source image
    * p-value of the sign-flip test, and Holm's over the methods of the same protocol, category and metric
    * Cohen's d of the paired differences: mean over standard deviation
    * probability of superiority: share of pairs in which the method's value is higher, ties half
    * a remark where n is too small for any conclusion

    Metrics of whole sets (Fréchet distance and similar) have one value per method. They are compared where both
    methods have an interval, with the interval of independent errors, which is conservative, and without p.

    Raises :class:`StatisticsError` for a baseline that is not in the run.
    """
    import pandas as pd

    # Two methods of one title have different names in the tables, so at most one digest fits.
    digests = [digest for digest, title in scores.titles.items() if baseline in (title, digest)]
    if len(digests) != 1:
        raise StatisticsError(
            f"--baseline {baseline}: no method of this run. It has: {', '.join(scores.titles.values())}."
        )
    rows: list[tuple[object, ...]] = []
    for protocol_scores in scores.protocols.values():
        position = protocol_scores.methods.index(digests[0])
        for category in (ALL, *protocol_scores.categories):
            rows += _of_category(protocol_scores, category, position, outcomes, resamples, seed)
    rows += _of_sets(scores, digests[0])
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _of_category(
    scores: ProtocolScores,
    category: str,
    baseline: int,
    outcomes: Container[str],
    resamples: int,
    seed: int,
) -> Iterator[tuple[object, ...]]:
    """Rows of one category. ``baseline``: index of the method."""
    units = scores.units(category)
    rivals = np.array([i for i in range(len(scores.methods)) if i != baseline], dtype=np.intp)
    if not len(units) or not len(rivals) or not scores.metrics:
        return
    # Every rival and metric is one column: (U, rivals * metrics).
    shape = (len(rivals), len(scores.metrics))
    # The baseline's values are repeated for each rival without being copied.
    values = scores.values[units][:, rivals]
    base = np.broadcast_to(scores.values[units][:, [baseline]], values.shape)
    a, b = values.reshape(len(units), -1), base.reshape(len(units), -1)
    cluster = scores.cluster[units]
    is_outcome = np.tile([name in outcomes for name in scores.metrics], shape[0])

    # Tests, intervals and effect sizes of all columns.
    gap = a - b
    tests = paired_tests(gap, cluster, draws=flips_for(len(np.unique(cluster))), seed=seed)
    means = differences(a, b, cluster, is_outcome, draws=resamples, seed=seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Sample standard deviation, with n - 1 in the denominator.
        spread = np.sqrt(np.nansum((gap - tests.difference) ** 2, axis=0) / (tests.n - 1))
        cohens_d = np.where(spread > 0, tests.difference / spread, np.nan)
        superiority = ((gap > 0).sum(axis=0) + 0.5 * (gap == 0).sum(axis=0)) / tests.n
    difference, low, high, p, d, above, n, clusters = (
        array.reshape(shape)
        for array in (
            tests.difference, means.low, means.high, tests.p, cohens_d, superiority, tests.n, tests.clusters,
        )
    )  # fmt: skip

    # One row per metric and rival that share a unit with the baseline.
    for k, metric in enumerate(scores.metrics):
        tested = [i for i in range(len(rivals)) if n[i, k] > 0]
        # The family is the rivals of one metric: each metric is a question of its own.
        adjusted = holm([p[i, k] for i in tested])
        for i, p_holm in zip(tested, adjusted, strict=True):
            numbers = (difference[i, k], low[i, k], high[i, k], p[i, k], p_holm, d[i, k], above[i, k])
            yield (
                *(scores.protocol, category, metric, scores.titles[rivals[i]], scores.titles[baseline]),
                *map(float, numbers),
                *(int(n[i, k]), int(clusters[i, k]), tests.exact),
                too_few(int(clusters[i, k]), len(tested)),
            )


def _of_sets(scores: RunScores, baseline: str) -> Iterator[tuple[object, ...]]:
    rows = {
        (row["protocol"], row["category"], row["metric"], row["method"]): row
        for row in scores.sets.to_dict(orient="records")
    }
    for (protocol, category, metric, method), row in rows.items():
        base = rows.get((protocol, category, metric, baseline))
        if method == baseline or base is None or method not in scores.titles:
            continue
        difference = row["value"] - base["value"]
        # Independent errors add in squares. Upper halves, since lower ends are cut at 0.
        half = math.hypot(row["high"] - row["value"], base["high"] - base["value"])
        if math.isnan(difference):
            continue
        remark = "unpaired, no test" if not math.isnan(half) else "no interval was stored, no test"
        yield (
            *(protocol, category, metric, scores.titles[method], scores.titles[baseline]),
            *(difference, difference - half, difference + half),
            *(math.nan, math.nan, math.nan, math.nan),
            *(int(row["n"]), 0, False, remark),
        )


def too_few(clusters: int, family: int) -> str:
    """Remark that no difference among so few source images can be significant, or an empty string.

    The p-value of a sign-flip test of C clusters is at least 2^(1 - C). Holm's first step multiplies it by the size
    of the family.
    """
    # p >= 2 * 2^-C: of all flips, the observed one and its mirror image are always as large.
    least = min(1.0, family * 2.0 ** (1 - clusters))
    if clusters < 1 or least > ALPHA:
        return f"{clusters} source images are too few: no difference whatever could have p < {ALPHA:g}"
    return ""

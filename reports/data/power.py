"""The smallest difference of success that the test of the tables would find, simulated from the run itself."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.stats import max_t, sign_flips, tries_every_flip
from reports.data.intervals import cluster_sums, number_clusters, plain_means
from reports.data.metrics import is_success
from reports.data.scores import RunScores
from reports.data.separation import ALPHA, pair_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    IndexND = NDArray[np.intp]

# Sign flips of a simulated test, whose result is rounded to whole points.
FLIPS = 999
# Simulated studies per loss.
STUDIES = 500
# Share of the studies that must find the difference.
# The usual convention in planning studies (Cohen 1988).
POWER = 0.8


def detectable_differences(
    scores: RunScores, outcomes: Container[str], *, seed: int = 0
) -> dict[tuple[str, str], float | None]:
    """(protocol, metric) -> :func:`detectable` over all categories, for the metrics of success."""
    return {
        (name, metric): detectable(
            of_protocol.metric(metric)[:, of_protocol.contenders], of_protocol.cluster, seed=seed
        )
        for name, of_protocol in scores.protocols.items()
        for metric in of_protocol.metrics
        if is_success(metric) and metric in outcomes and len(of_protocol.contenders) > 1
    }


def detectable(values: FloatND, cluster: IndexND, *, seed: int = 0) -> float | None:
    """The smallest difference of success from the best method that the test finds with the power ``POWER``.

    ``values``: ``(U, M)`` of 0 and 1. ``cluster``: ``(U,)``. Of the methods that are not separable from the best, the
    one that disagrees with it most is simulated (:class:`_PairOfMethods`). None where every method is separable,
    where no two can be compared, or where not even the loss of all successes would be found.
    """
    # Pairs that the test does not separate. Of those with the best method, the one that disagrees most.
    pairs, sums = pair_sums(values, cluster)
    # A method without values has the mean NaN, and argmax would choose it.
    best = int(np.nan_to_num(plain_means(values, cluster)[0].value, nan=-1.0).argmax())
    tied = max_t([sums], draws=FLIPS, seed=seed)[0] >= ALPHA
    candidates = [index for index in np.flatnonzero(tied) if best in pairs[index]]
    if not candidates:
        return None
    # The sum of squares of the clusters' differences: the larger, the more the two methods disagree.
    spread = (sums**2).sum(axis=0)
    chosen = max(candidates, key=lambda index: spread[index])
    rival = next(method for method in pairs[chosen] if method != best)

    # The largest statistic of the other unseparated pairs, for each flip.
    signs = np.concatenate(list(sign_flips(len(sums), FLIPS, seed)))  # (flips, C)
    tied[chosen] = False
    # The statistic of `max_t`: |sum_c s_c d_c| / sqrt(sum_c d_c^2). A pair without any difference has 0.
    scaled = (sums / np.sqrt(np.where(spread > 0, spread, 1.0)))[:, tied]
    family = np.abs(signs @ scaled).max(axis=1, initial=0.0)

    # The smallest loss that is found often enough, by bisection to 1/256.
    pair = _PairOfMethods.of(values[:, best], values[:, rival], cluster, signs, family)
    # Power grows with the loss, so nothing smaller can be found if this is not.
    if pair.power(1.0, seed) < POWER:
        return None
    low, high = 0.0, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if pair.power(middle, seed) >= POWER else (middle, high)
    # A loss is a share of the successes. The difference is that share of their mean rate.
    return float(high * pair.mean_success)


@dataclass(frozen=True, eq=False)
class _PairOfMethods:
    """Outcomes of two methods per source image, ``(C,)``, and the data for the test between them."""

    # Number of edits in which both succeed.
    both: FloatND
    # Number of edits in which the first method alone succeeds.
    first: FloatND
    second: FloatND
    # Mean share of successes of the two.
    mean_success: float
    # Sign flips ``(flips, C)``.
    signs: FloatND
    # Largest statistic of the other pairs of the family, ``(flips,)``.
    family: FloatND

    @classmethod
    def of(
        cls, yes: FloatND, other: FloatND, cluster: IndexND, signs: FloatND, family: FloatND
    ) -> _PairOfMethods:
        # (U, 4): both succeed, the first alone, the second alone, number of successes.
        outcomes = np.stack([yes * other, yes * (1 - other), (1 - yes) * other, yes + other], axis=1)
        counts, sizes = cluster_sums(outcomes, number_clusters(cluster))
        both, first, second, successes = counts.T
        return cls(both, first, second, float(successes.sum() / (2 * sizes[:, 0].sum())), signs, family)

    def power(self, loss: float, seed: int) -> float:
        """Share of simulated studies that find the difference, where the second method loses successes.

        A study draws source images with replacement and swaps the two methods on half of them, so that neither is
        better. Then each success of the second one becomes a failure with the probability ``loss``. The study is
        tested as the tables are (``bench.stats.max_t``), together with the other unseparated pairs.
        """
        count = len(self.both)
        # The same draws for every loss: then the power rises steadily with it, as bisection needs.
        generator = np.random.default_rng(seed)
        # (studies, C): the source images of each study.
        sources = generator.integers(count, size=(STUDIES, count))
        swapped = generator.random(sources.shape) < 0.5
        # Both methods exchange roles, so the simulated pair has the disagreement of the real one and no difference.
        one, two = self.first[sources], self.second[sources]
        first, second = np.where(swapped, two, one), np.where(swapped, one, two)
        # Successes that the second method loses in each source image.
        lost = generator.binomial((self.both[sources] + second).astype(np.int64), loss)
        # |sum_c gap_c| / sqrt(sum_c gap_c^2), and the same for each flip.
        gaps = first - second + lost
        size = np.sqrt((gaps**2).sum(axis=1))
        unit = gaps / np.where(size > 0, size, 1.0)[:, None]
        flipped = np.maximum(np.abs(unit @ self.signs.T), self.family)
        # Share of flips that reach the observed statistic: the adjusted p-value of each study.
        beyond = (flipped >= np.abs(unit.sum(axis=1))[:, None] - 1e-9).sum(axis=1)
        # As in `paired_tests`: among random flips, the observed one counts as one more.
        extra = 0 if tries_every_flip(count, FLIPS) else 1
        return float(((beyond + extra) / (len(self.signs) + extra) < ALPHA).mean())

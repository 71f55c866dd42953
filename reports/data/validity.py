"""Validity of the automatic metrics: their agreement with the ground truth and with people's votes.

* Spearman's rank correlation over single edits between a metric and a verdict, that of the ground-truth judge or
  success by the ground truth. Signs are turned so that more is better: a valid metric is positive, whatever its
  direction.
* Agreement of the success rules without ground truth with the rule that has it: accuracy, Cohen's kappa, and both
  error rates.
* Metrics against people's votes, from the study's analysis (``bench.study.votes.correlation``): how often a metric
  prefers the edit that was preferred, and rank correlations over votes and over methods.

Intervals are 95 % and clustered on the source image: Wilson's with the clusters' design effect for shares, the
percentile bootstrap's for correlations and kappa. Those of votes resample raters and source images. Controls are left
out, because an unchanged image and the ground truth would make any metric look good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL, CATEGORIES
from bench.stats import resamples
from reports.data.intervals import number_clusters, shares
from reports.data.metrics import is_composited
from reports.data.preference import SIMULATED, StudyResults
from reports.data.rank_correlation import spearman
from reports.data.scores import ProtocolScores, RunScores

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    FloatND = NDArray[np.float64]
    BoolND = NDArray[np.bool_]
    IndexND = NDArray[np.intp]

# Metric that has the ground truth -> its name in a title.
GROUND_TRUTHS: Mapping[str, str] = {
    "judge_truth": "the judge with ground truth",
    "success_truth": "success by ground truth",
}
VOTES = "votes"
# Verdicts without ground truth.
RULES = ("success_clip", "success_mini_clip", "judge_clip", "judge_mini_clip")
# Measures of the agreement of a rule with the ground truth.
AGREEMENT = ("accuracy", "kappa", "missed", "false alarms", "truth says yes", "rule says yes")
KAPPA_DRAWS = 2000

VALIDITY_COLUMNS: tuple[str, ...] = (
    "protocol",
    "category",
    "metric",
    "against",
    "measure",
    "value",
    "low",
    "high",
    "n",
    "clusters",
)


def validity(
    scores: RunScores,
    higher: Mapping[str, bool],
    study: StudyResults | None = None,
    *,
    judges: Sequence[tuple[object, ...]] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Every correlation and agreement of a run, with the columns ``VALIDITY_COLUMNS``.

    ``higher``: metric -> whether more is better. ``study``: its correlations are shown as they are. They have no number
    of clusters, since both raters and source images are resampled. ``judges``: rows of
    ``reports.data.judge_validity``.
    """
    import pandas as pd

    rows: list[tuple[object, ...]] = []
    for of_protocol in scores.protocols.values():
        for category in (ALL, *of_protocol.categories):
            if len(of_protocol.units(category)):
                rows += _correlations(of_protocol, category, higher, seed)
                rows += _agreements(of_protocol, category, seed)
    rows += judges
    if study is not None:
        # Judges of pairs are no metrics of edits.
        rows += _of_study(scores, study, {*higher, *(str(row[2]) for row in judges)})
    frame = pd.DataFrame(rows, columns=list(VALIDITY_COLUMNS))
    return frame.astype({"value": "float64", "low": "float64", "high": "float64", "clusters": "Int64"})


def _contender_edits(scores: ProtocolScores, category: str) -> tuple[tuple[IndexND, ...], IndexND]:
    """Index of the contenders' edits in ``(U, M)``, and the cluster of each edit."""
    units = scores.units(category)
    return np.ix_(units, scores.contenders), np.repeat(scores.cluster[units], len(scores.contenders))


def _correlations(
    scores: ProtocolScores, category: str, higher: Mapping[str, bool], seed: int
) -> Iterator[tuple[object, ...]]:
    ground_truths = [name for name in GROUND_TRUTHS if name in scores.metrics]
    metrics = [
        name
        for name in scores.metrics
        # Composited edits have the same inside as raw ones, and no leakage.
        if name in higher and name not in GROUND_TRUTHS and not is_composited(name)
    ]
    if not metrics or not ground_truths:
        return
    edits, cluster = _contender_edits(scores, category)
    # (edits, metrics) and (edits, ground truths)
    x = np.stack([scores.metric(m)[edits].ravel() * (1 if higher[m] else -1) for m in metrics], axis=1)
    y = np.stack([scores.metric(name)[edits].ravel() for name in ground_truths], axis=1)
    for (k, t), values in spearman(x, y, cluster, seed=seed).items():
        yield (scores.protocol, category, metrics[k], ground_truths[t], "spearman", *values)


def _agreements(scores: ProtocolScores, category: str, seed: int) -> Iterator[tuple[object, ...]]:
    edits, cluster = _contender_edits(scores, category)
    for rule in RULES:
        # `success_clip` is compared with `success_truth`, `judge_clip` with `judge_truth`.
        ground_truth = rule.partition("_")[0] + "_truth"
        if rule not in scores.metrics or ground_truth not in scores.metrics:
            continue
        verdict, truth = (scores.metric(name)[edits].ravel() for name in (rule, ground_truth))
        judged = ~np.isnan(verdict) & ~np.isnan(truth)
        if not judged.any():
            continue
        for measure, *values in agreement(
            verdict[judged] > 0.5, truth[judged] > 0.5, cluster[judged], seed=seed
        ):
            yield (scores.protocol, category, rule, ground_truth, measure, *values)


def agreement(
    verdict: BoolND, truth: BoolND, cluster: IndexND, *, seed: int = 0
) -> Iterator[tuple[str, float, float, float, int, int]]:
    """Agreement of a rule with the ground truth: (measure, value, low, high, n, clusters), as in ``AGREEMENT``.

    ``verdict``, ``truth``: ``(N,)``. ``missed`` is the share of true successes that the rule denies, ``false alarms``
    the share of true failures that it calls successes. kappa: Cohen 1960. NaN where the share has no edits.
    """
    owner = number_clusters(cluster)
    count = int(owner.max()) + 1
    # (C, 4): edits of each cluster by (truth, verdict): (no, no), (no, yes), (yes, no), (yes, yes).
    counts = np.zeros((count, 4))
    # `np.add.at` adds for every edit. Plain indexing would add once per cluster and cell.
    np.add.at(counts, (owner, 2 * truth.astype(int) + verdict), 1.0)
    value = _measures(counts.sum(axis=0, keepdims=True))[0]

    # Intervals of the shares. The column of kappa is empty, since it is no share.
    same, empty = verdict == truth, np.full(len(verdict), np.nan)
    parts = (same, empty, np.where(truth, ~verdict, empty), np.where(truth, empty, verdict), truth, verdict)
    means = shares(np.stack(parts, axis=1).astype(np.float64), cluster)
    low, high = means.low.copy(), means.high.copy()

    # Interval of kappa: percentile bootstrap over clusters. A draw without both outcomes has no kappa.
    if count > 1:
        kappa = AGREEMENT.index("kappa")
        # All draws in one block: the other rules of the category take the same ones.
        (draws,) = resamples(count, KAPPA_DRAWS, seed, rows=KAPPA_DRAWS)
        samples = _measures(draws.astype(np.float64) @ counts)[:, kappa]
        finite = samples[np.isfinite(samples)]
        # If most draws have no kappa, the quantiles of the others are those of an untypical sample.
        if 2 * len(finite) >= KAPPA_DRAWS:
            low[kappa], high[kappa] = np.quantile(finite, [0.025, 0.975])
    for k, measure in enumerate(AGREEMENT):
        yield measure, float(value[k]), float(low[k]), float(high[k]), len(verdict), count


def _measures(counts: FloatND) -> FloatND:
    """``(B, 6)`` measures as in ``AGREEMENT``, from ``(B, 4)`` counts of (truth, verdict) as in :func:`agreement`."""
    neither, alarm, missed, both = counts.T
    n = counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = (neither + both) / n
        truth_yes, rule_yes = (missed + both) / n, (alarm + both) / n
        # kappa = (accuracy - chance) / (1 - chance), with the accuracy of independent verdicts as chance.
        chance = truth_yes * rule_yes + (1 - truth_yes) * (1 - rule_yes)
        kappa = (accuracy - chance) / (1 - chance)
        return np.stack(
            [accuracy, kappa, missed / (missed + both), alarm / (alarm + neither), truth_yes, rule_yes],
            axis=1,
        )


def _of_study(
    scores: RunScores, results: StudyResults, metrics: Collection[str]
) -> Iterator[tuple[object, ...]]:
    """The study's own correlations of this run's metrics, and of its judges of pairs, with the votes."""
    against = VOTES if not results.simulated else SIMULATED + VOTES
    for row in results.correlation.to_dict(orient="records"):
        in_report = row["protocol"] in scores.protocols and row["category"] in (ALL, *CATEGORIES)
        if in_report and row["metric"] in metrics:
            place = (row["protocol"], row["category"], row["metric"], against, row["measure"])
            yield (*place, row["value"], row["low"], row["high"], int(row["n"]), None)

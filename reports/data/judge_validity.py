"""Validity of judges: what their scores are worth, from the controls, repeated passes, the ground truth and positions.

==================  ==============================================================================================
measure             definition
==================  ==============================================================================================
``oracle``          mean score of the ground truth. The top of the scale for a judge without errors
``copy_input``      mean score of the unchanged image. The bottom of the scale where the score is of the request
``noise``           mean absolute difference of the scores of ``jpeg`` and ``copy_input`` on a case, which look alike
``retest``          standard deviation between the passes of one edit: the root of the mean variance
``pair accuracy``   pairs of edits of one case that the ground truth orders: share that the judge orders alike. Equal
                    scores count half
``pair kendall``    tau-b over the pairs of edits of one case:
                    (alike - otherwise) / sqrt(pairs that differ in score x pairs that differ in truth)
``length``          Spearman's correlation of the scores of ``oracle`` and ``copy_input``, each minus its mean, with
                    the verdict that the request has more words than the median. No length changes what they
                    deserve. 0 where they are constant
``first``           pairwise judges: share of the decided verdicts that name the image shown first. 1/2 without a bias
``flips``           pairwise judges: share of the pairs whose verdict names one position in both orders
==================  ==============================================================================================

Agreement is measured without controls, and intervals are clustered on the source image, both as in
``reports.data.validity``. Agreement with votes is in the analysis of the study.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.edit import ALL
from bench.judges.pairwise import pair_judges, positions_of_replies
from bench.judges.pointwise import passes_of_replies
from bench.judges.replies import stored_judges
from bench.stats import resamples
from reports.data.intervals import Means, bootstrap_means, cluster_sums, number_clusters, shares
from reports.data.rank_correlation import spearman
from reports.data.scores import ProtocolScores, RunScores
from reports.data.validity import GROUND_TRUTHS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.store import RunStore

    FloatND = NDArray[np.float64]
    IndexND = NDArray[np.intp]

# The ground truth that orders edits -> its name in a title.
ORDERS: Mapping[str, str] = {
    **GROUND_TRUTHS,
    "truth_lpips": "LPIPS to the ground truth",
}
# Marks that a row compares a judge with itself or with the controls.
ITSELF = "itself"
_DRAWS = 2000

Row = tuple[object, ...]


def judge_validity(
    store: RunStore,
    scores: RunScores,
    judged: Mapping[str, tuple[float, float]],
    higher: Mapping[str, bool],
    *,
    seed: int = 0,
) -> list[Row]:
    """Rows with the columns ``reports.data.validity.VALIDITY_COLUMNS``. Empty where nothing was judged.

    ``judged``: the metrics that judges scored -> their scales. ``higher``: metric -> whether more is better.
    """
    rows: list[Row] = []
    for of_protocol in scores.protocols.values():
        words = _words(store, of_protocol)
        for metric in (name for name in judged if name in of_protocol.metrics):
            rows += _controls(of_protocol, scores.names, metric, judged[metric], words, seed)
            for category in (ALL, *of_protocol.categories):
                if len(of_protocol.units(category)):
                    rows += _orders(of_protocol, category, metric, higher, seed)
        rows += _retest(store, scores, of_protocol, seed)
        rows += _positions(store, of_protocol)
    return rows


def _row(protocol: str, metric: str, measure: str, means: Means) -> Row:
    ends = (float(means.value[0]), float(means.low[0]), float(means.high[0]))
    return (protocol, ALL, metric, ITSELF, measure, *ends, int(means.n[0]), int(means.clusters[0]))


def _on(scale: tuple[float, float], means: Means) -> Means:
    """The same means, with ends of the intervals that lie on the scale."""
    return replace(means, low=np.clip(means.low, *scale), high=np.clip(means.high, *scale))


# -- controls -----------------------------------------------------------------------------------


def _words(store: RunStore, scores: ProtocolScores) -> FloatND:
    """``(U,)``: number of words of the request of each unit: the instruction, or the target prompt."""
    texts = {
        str(row["id"]): row.get("instruction") or row.get("target_prompt") or ""
        for row in store.cases(scores.protocol).rows
    }
    return np.array([len(texts[case].split()) for case in scores.cases], dtype=np.float64)


def _controls(
    scores: ProtocolScores,
    names: Mapping[str, str],
    metric: str,
    scale: tuple[float, float],
    words: FloatND,
    seed: int,
) -> Iterator[Row]:
    values = scores.metric(metric)
    # The first method of each kind. A suite may have relabelled it.
    column = {names[title]: m for m, title in reversed(list(enumerate(scores.titles)))}
    of_controls: dict[str, FloatND] = {
        name: values[:, column[name]] for name in ("oracle", "copy_input") if name in column
    }
    for name, of_control in of_controls.items():
        means = bootstrap_means(of_control[:, None], scores.cluster, seed=seed)
        if means.n[0]:
            yield _row(scores.protocol, metric, name, _on(scale, means))
    if "jpeg" in column and "copy_input" in column:
        noise = np.abs(values[:, column["jpeg"]] - of_controls["copy_input"])
        means = bootstrap_means(noise[:, None], scores.cluster, seed=seed)
        if means.n[0]:
            yield _row(scores.protocol, metric, "noise", _on((0.0, scale[1] - scale[0]), means))
    yield from _length(scores, metric, of_controls, words, seed)


def _length(
    scores: ProtocolScores, metric: str, of_controls: Mapping[str, FloatND], words: FloatND, seed: int
) -> Iterator[Row]:
    centred = [values - np.nanmean(values) for values in of_controls.values() if np.isfinite(values).any()]
    if not centred:
        return
    # Rounded, so that equal errors stay equal: subtracting a mean changes their last digits.
    errors = np.round(np.concatenate(centred), 9)
    lengths = np.tile(words, len(centred))
    present = np.isfinite(errors)
    # Longer than half of the requests: yes or no.
    is_long = np.where(present, lengths > np.median(lengths[present]), np.nan)
    n = int(present.sum())
    place = (scores.protocol, ALL, metric, ITSELF, "length")
    if np.nanmin(is_long) == np.nanmax(is_long):
        return
    correlation = spearman(
        errors[:, None], is_long[:, None], np.tile(scores.cluster, len(centred)), seed=seed
    )
    if correlation:
        yield (*place, *correlation[0, 0])
    elif np.nanmin(errors) == np.nanmax(errors):
        # The same score for every request: its length changed nothing.
        yield (*place, 0.0, np.nan, np.nan, n, len(np.unique(scores.cluster)))


def _retest(store: RunStore, scores: RunScores, of_protocol: ProtocolScores, seed: int) -> Iterator[Row]:
    cluster = dict(zip(of_protocol.cases, of_protocol.cluster, strict=True))
    records = [
        record
        for record in scores.edits
        if record.key.protocol == of_protocol.protocol and record.key.case in cluster
    ]
    case = {record.key.digest: record.key.case for record in records}
    for judge in stored_judges(store):
        if judge.options.passes < 2:
            continue
        variances: dict[str, dict[str, float]] = {}
        for (digest, column), values in passes_of_replies(store, judge, records).items():
            variances.setdefault(column, {})[digest] = statistics.variance(values)
        for column, by_edit in variances.items():
            means = bootstrap_means(
                np.array(list(by_edit.values()))[:, None],
                np.array([cluster[case[digest]] for digest in by_edit]),
                seed=seed,
            )
            # The root of a variance, which is never negative, keeps the order of the ends.
            value, low, high = (np.sqrt(ends) for ends in (means.value, means.low, means.high))
            rooted = replace(means, value=value, low=low, high=high)
            yield _row(of_protocol.protocol, column, "retest", rooted)


# -- agreement with the ground truth ------------------------------------------------------------


def _orders(
    scores: ProtocolScores, category: str, metric: str, higher: Mapping[str, bool], seed: int
) -> Iterator[Row]:
    units = scores.units(category)
    edits = np.ix_(units, scores.contenders)
    for truth in (name for name in ORDERS if name in scores.metrics):
        sign = 1 if higher.get(truth, True) else -1
        for measure, *values in pair_agreement(
            scores.metric(metric)[edits], sign * scores.metric(truth)[edits], scores.cluster[units], seed=seed
        ):
            yield (scores.protocol, category, metric, truth, measure, *values)


def pair_agreement(
    score: FloatND, truth: FloatND, cluster: IndexND, *, seed: int = 0
) -> Iterator[tuple[str, float, float, float, int, int]]:
    """Agreement over pairs of edits of one case: (measure, value, low, high, n, clusters).

    ``score``, ``truth``: ``(U, M)``, more is better, NaN is no value. ``cluster``: ``(U,)``. Yields nothing where the
    truth orders no pair.
    """
    # (U, P): who wins each pair of methods, by the judge and by the truth.
    first, second = np.triu_indices(score.shape[1], 1)
    by_judge, by_truth = (np.sign(side[:, first] - side[:, second]) for side in (score, truth))
    has_both = np.isfinite(by_judge) & np.isfinite(by_truth)
    owner = np.broadcast_to(cluster[:, None], has_both.shape)[has_both]
    a, b = by_judge[has_both], by_truth[has_both]
    if not b.any():
        return

    # Accuracy: a share of the pairs that the truth orders. 1 alike, 1/2 where the judge sees no difference, else 0.
    means = shares(((1 + a * b) / 2)[b != 0][:, None], owner[b != 0])
    ends = (float(means.value[0]), float(means.low[0]), float(means.high[0]))
    yield "pair accuracy", *ends, int(means.n[0]), int(means.clusters[0])

    # tau-b, with the percentile bootstrap over clusters. Sums of each cluster: (C, 3).
    sums, _ = cluster_sums(np.stack([a * b, a * a, b * b], axis=1), number_clusters(owner))
    count = len(sums)
    low = high = float("nan")
    if count > 1:
        (weights,) = resamples(count, _DRAWS, seed, rows=_DRAWS)
        draws = _tau(weights @ sums)
        draws = draws[np.isfinite(draws)]
        if 2 * len(draws) >= _DRAWS:
            low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    yield "pair kendall", float(_tau(sums.sum(axis=0, keepdims=True))[0]), low, high, len(a), count


def _tau(sums: FloatND) -> FloatND:
    """tau-b of each row of ``(B, 3)`` sums over pairs: both orders' product, and the square of either."""
    with np.errstate(invalid="ignore", divide="ignore"):
        tau: FloatND = sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2])
    return tau


# -- positions ----------------------------------------------------------------------------------


def _positions(store: RunStore, scores: ProtocolScores) -> Iterator[Row]:
    cluster = dict(zip(scores.cases, scores.cluster, strict=True))
    for name, judge in pair_judges(store).items():
        verdicts = [
            (cluster[case], one, other)
            for protocol, case, one, other in positions_of_replies(store, judge)
            if protocol == scores.protocol and case in cluster
        ]
        if not verdicts:
            continue
        owner, one, other = (np.array(column) for column in zip(*verdicts, strict=True))
        # 0: the image shown first, 1: the second, 0.5: a tie.
        flips = (one == other) & (one != 0.5)
        yield _row(scores.protocol, name, "flips", shares(flips[:, None].astype(np.float64), owner))
        both, owners = np.concatenate([one, other]), np.tile(owner, 2)
        decided = both != 0.5
        if decided.any():
            firsts = shares(1 - both[decided][:, None], owners[decided])
            yield _row(scores.protocol, name, "first", firsts)

"""Metric values against votes: do the automatic metrics rank edits as people do? With intervals.

Measures, one row each in the result:

``agreement``  pairs: how often the edit with the better value was the one preferred. Votes that are ties are left out,
               equal values count half. 1/2 is a coin.
``kendall``    pairs: tau-b of votes with the metric, the two edits of a vote compared with one another alone:
               (agree - disagree) / sqrt(votes that are no tie x votes whose values differ).
``spearman``   pairs: rank correlation of the vote (-1, 0, 1) with the difference of the values, over votes. Each enters
               in both orders, so that the order does not matter. Ranks are those of all votes: taking them anew in each
               resample changes the interval by less than a twentieth (measured), and costs a hundred times as much.
``method_spearman``, ``method_kendall``
               methods: rank correlation of the mean value with the Bradley-Terry strength.

Values of metrics whose lower values are better are negated first where ``scores`` has the column ``higher_is_better``.
Without it the signs are as the metric has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.stats import wilson
from bench.study.types import NO_PREFERENCE
from bench.study.votes.crossed import Crossed, interval
from bench.study.votes.frame import ALL, SCOPE, VotesError, scopes

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

SCORE_COLUMNS = ("protocol", "method", "case", "metric", "value")
# Columns of the table that :func:`correlate` returns.
COLUMNS = (
    "question",
    "protocol",
    "category",
    "metric",
    "measure",
    "value",
    "low",
    "high",
    "wilson_low",
    "wilson_high",
    "n",
    "of",
)

# Measures over votes, in the order of :func:`_measures`, and those over methods.
_VOTE_MEASURES = ("agreement", "kendall", "spearman")
_METHOD_MEASURES = ("method_spearman", "method_kendall")

# Terms that a vote adds to the sums behind the measures, see :func:`_terms`.
_N_TERMS = 6

# (question, protocol, category), each a name or "all" -> (methods, strengths (M,), their draws (B, M)).
Strengths = dict[tuple[str, str, str], tuple[tuple[str, ...], Floats, Floats]]


@dataclass(frozen=True, eq=False)
class Values:
    """Scores of edits by (protocol, case, method)."""

    # pandas.MultiIndex of (protocol, case, method), E edits.
    index: Any
    metrics: tuple[str, ...]
    # (E, metrics), NaN where there is no value.
    values: Floats
    # Whether higher is better in all columns.
    directed: bool
    # Judge of pairs -> (protocol, case, method, other method) -> its verdict: 1 for the method, -1 for the other, or 0.
    verdicts: Mapping[str, Mapping[tuple[str, str, str, str], float]]


def read_scores(scores: pd.DataFrame) -> Values:
    """Reads scores in long form: :data:`SCORE_COLUMNS`, and optionally ``higher_is_better`` and ``against``.

    A row with ``against`` is a verdict on two edits of a case: that of ``method`` against this other method's.
    Raises :class:`VotesError` for missing columns and for an edit with two values of a metric.
    """
    missing = [column for column in SCORE_COLUMNS if column not in scores.columns]
    if missing:
        raise VotesError(f"the scores lack the columns {', '.join(missing)}.")
    verdicts: dict[str, dict[tuple[str, str, str, str], float]] = {}
    if "against" in scores.columns:
        for row in scores[scores["against"].notna()].itertuples(index=False):
            of_judge = verdicts.setdefault(row.metric, {})
            of_judge[row.protocol, row.case, row.method, row.against] = row.value
            of_judge[row.protocol, row.case, row.against, row.method] = -row.value
        scores = scores[scores["against"].isna()]
    keys = ["protocol", "case", "method", "metric"]
    twice = scores.duplicated(keys)
    if twice.any():
        first = scores[twice].iloc[0]
        raise VotesError(
            f"two values of {first['metric']!r} for {first['method']!r}, case {first['case']!r}: "
            "keep those of the edit that raters saw (its seed and metric version)."
        )
    directed = "higher_is_better" in scores.columns
    table = scores[keys].copy()
    sign = np.where(scores["higher_is_better"].astype(bool), 1.0, -1.0) if directed else 1.0
    table["value"] = scores["value"].astype("float64").to_numpy() * sign
    wide = table.pivot(index=["protocol", "case", "method"], columns="metric", values="value")
    return Values(wide.index, tuple(map(str, wide.columns)), wide.to_numpy(np.float64), directed, verdicts)


def correlate(
    votes: pd.DataFrame,
    crossed: Crossed,
    scores: Values,
    strengths: Strengths,
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """One row per scope, metric and measure: value, low, high, n and what n counts (``of``).

    ``votes`` and ``crossed`` belong together, row by row. Agreement has Wilson's interval too.
    """
    import pandas as pd

    rows = (
        *_vote_rows(votes, crossed, scores, level),
        *_method_rows(votes, crossed, scores, strengths, level),
    )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    order = {name: i for i, name in enumerate((*_VOTE_MEASURES, *_METHOD_MEASURES))}
    table["order"] = table["measure"].map(order)
    table = table.sort_values([*SCOPE, "metric", "order"], kind="stable").drop(columns="order")
    # "all" comes before the parts that it is made of.
    depth = sum((table[column] != ALL).to_numpy(dtype=int) for column in SCOPE)
    return table.iloc[np.argsort(depth, kind="stable")].reset_index(drop=True)


def _edits(votes: pd.DataFrame, methods: list[str], scores: Values) -> Floats:
    """Values of the edit of each vote's case by the method named beside it, (N, metrics)."""
    import pandas as pd

    keys = pd.MultiIndex.from_arrays([votes["protocol"], votes["case"], methods])
    row = scores.index.get_indexer(keys)
    # The indexer has -1 for an edit without scores.
    values: Floats = np.where((row >= 0)[:, None], scores.values[row], np.nan)
    return values


# --- over votes --------------------------------------------------------------------------------------


def _vote_rows(
    votes: pd.DataFrame, crossed: Crossed, scores: Values, level: float
) -> Iterator[dict[str, Any]]:
    """Rows of the measures over votes, from the votes on pairs."""
    # Vote and difference of the values, both from the first candidate's side.
    is_pair = (votes["kind"] == "pair").to_numpy()
    pairs = votes[is_pair]
    first, second = ([candidates[i] for candidates in pairs["candidates"]] for i in (0, 1))
    difference = _edits(pairs, first, scores) - _edits(pairs, second, scores)
    # A judge of pairs has no value of an edit. Its verdict stands where others have a difference.
    places = list(zip(pairs["protocol"], pairs["case"], first, second, strict=True))
    verdicts = [[of_judge.get(place, np.nan) for place in places] for of_judge in scores.verdicts.values()]
    difference = np.column_stack([difference, *verdicts])
    metrics = (*scores.metrics, *scores.verdicts)
    answers = zip(pairs["answer"], first, strict=True)
    answer = np.array([0.0 if a in NO_PREFERENCE else 1.0 if a == left else -1.0 for a, left in answers])

    # Two scopes of the same votes (one protocol, and all of them where there is one) are computed once.
    computed: dict[bytes, list[dict[str, Any]]] = {}
    for scope, in_scope in scopes(votes):
        inside = in_scope[is_pair]
        if not inside.any():
            continue
        if inside.tobytes() not in computed:
            part = Crossed(
                crossed.rater[is_pair][inside],
                crossed.source[is_pair][inside],
                crossed.rater_weights,
                crossed.source_weights,
            )
            rows = _scope_rows(part, answer[inside], difference[inside], metrics, level)
            computed[inside.tobytes()] = list(rows)
        for row in computed[inside.tobytes()]:
            yield {**dict(zip(SCOPE, scope, strict=True)), **row}


def _scope_rows(
    part: Crossed, answer: Floats, difference: Floats, metrics: Sequence[str], level: float
) -> Iterator[dict[str, Any]]:
    """Rows of one scope. ``answer``: (N,) of -1, 0 or 1. ``difference``: (N, metrics), NaN without a value."""
    terms = [_terms(answer, of_metric) for of_metric in difference.T]
    if not terms:
        return
    # All metrics in one pass: the weights of the resamples are the expensive part.
    resampled = part.sums(np.concatenate(terms, axis=1))
    for i, metric in enumerate(metrics):
        n_valued = int(np.isfinite(difference[:, i]).sum())
        if not n_valued:
            continue
        sums = terms[i].sum(axis=0)
        value = _measures(sums)
        draws = _measures(resampled[:, _N_TERMS * i : _N_TERMS * (i + 1)])
        factor = part.factor(_influence(terms[i], sums), level=level)
        low, high = interval(value, draws, factor, level=level)
        # Agreement is a share: (agree + half of the equal ones) / votes that are no tie.
        n_decided = int(sums[1])
        plain = wilson((sums[0] + n_decided) / 2, n_decided, level=level) if n_decided else None
        for j, measure in enumerate(_VOTE_MEASURES):
            is_share = measure == "agreement"
            yield {
                "metric": metric,
                "measure": measure,
                "value": value[j],
                "low": low[j],
                "high": high[j],
                "wilson_low": plain.low if plain and is_share else math.nan,
                "wilson_high": plain.high if plain and is_share else math.nan,
                "n": n_decided if is_share else n_valued,
                "of": "votes without ties" if is_share else "votes",
            }


def _terms(answer: Floats, difference: Floats) -> Floats:
    """Terms that each vote adds to the sums behind the measures, (N, 6), 0 where there is no value.

    Agree less disagree, is no tie, values differ, product and squares of the ranks of vote and difference.
    """
    valued = np.isfinite(difference)
    terms = np.zeros((len(answer), _N_TERMS))
    vote, gap = answer[valued], difference[valued]
    sign = np.sign(gap)
    a, b = _both_ways(vote), _both_ways(gap)
    terms[valued] = np.stack([sign * vote, np.abs(vote), np.abs(sign), a * b, a * a, b * b], axis=1)
    return terms


def _both_ways(x: Floats) -> Floats:
    """Centred mid-ranks of x in the sample of x and -x, over n: within -1..1.

    In that sample they are the sign of x times the mid-rank of its size. A pair has no first method: entering in both
    orders makes the correlation independent of which one was called the first.
    """
    from scipy.stats import rankdata

    scaled: Floats = np.sign(x) * (rankdata(np.abs(x)) - 0.5) / len(x) if len(x) else x
    return scaled


def _measures(sums: Floats) -> Floats:
    """Agreement, tau-b and rho from the six sums: (..., 6) -> (..., 3). NaN for a sum of nothing."""
    agree, decided, differ, product, vote_square, gap_square = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Floats = np.stack(
            [
                (1 + agree / decided) / 2,
                agree / np.sqrt(decided * differ),
                product / np.sqrt(vote_square * gap_square),
            ],
            axis=-1,
        )
    return values


def _influence(terms: Floats, sums: Floats) -> Floats:
    """Change of each measure by each vote, (N, 3): the derivatives of :func:`_measures` at the sums."""
    agree, decided, differ, product, vote_square, gap_square = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        # d (a / sqrt(b c)) = (da - a / 2 (db / b + dc / c)) / sqrt(b c)
        changes = np.stack(
            [
                (terms[:, 0] - agree / decided * terms[:, 1]) / (2 * decided),
                terms[:, 0] / np.sqrt(decided * differ)
                - agree / np.sqrt(decided * differ) / 2 * (terms[:, 1] / decided + terms[:, 2] / differ),
                terms[:, 3] / np.sqrt(vote_square * gap_square)
                - product
                / np.sqrt(vote_square * gap_square)
                / 2
                * (terms[:, 4] / vote_square + terms[:, 5] / gap_square),
            ],
            axis=1,
        )
    # An influence of 0 says that the vote does not enter: a measure without a value then has no interval.
    clean: Floats = np.nan_to_num(changes, nan=0.0, posinf=0.0, neginf=0.0)
    return clean


# --- over methods ------------------------------------------------------------------------------------


def _method_rows(
    votes: pd.DataFrame, crossed: Crossed, scores: Values, strengths: Strengths, level: float
) -> Iterator[dict[str, Any]]:
    """Rows of the measures over methods, from their strengths and the mean values of their edits."""
    cases = votes[[*SCOPE, "case"]].copy()
    cases["source"] = crossed.source
    masks = dict(scopes(cases))
    for scope, (methods, estimates, draws) in strengths.items():
        # Mean over the cases that were voted on, each once: the strengths are of these.
        of_scope = cases[masks[scope]].drop_duplicates(["protocol", "case"])
        means, mean_draws = _mean_values(of_scope, methods, crossed, scores)
        for i, metric in enumerate(scores.metrics):
            valued = np.isfinite(means[:, i]) & np.isfinite(estimates)
            for measure in _METHOD_MEASURES:
                value, low, high = np.full((3, 1), np.nan)
                # Two methods correlate perfectly, whatever their values are.
                if valued.sum() >= 3:
                    value = _rank_correlation(estimates[valued][None], means[valued, i][None], measure)
                    value_draws = _rank_correlation(draws[:, valued], mean_draws[:, valued, i], measure)
                    # The draws of strengths are pulled in already, so the factor is 1.
                    low, high = interval(value, value_draws[:, None], np.ones(1), level=level)
                yield {
                    **dict(zip(SCOPE, scope, strict=True)),
                    "metric": metric,
                    "measure": measure,
                    "value": float(value[0]),
                    "low": low[0],
                    "high": high[0],
                    "n": int(valued.sum()),
                    "of": "methods",
                }


def _mean_values(
    cases: pd.DataFrame, methods: Sequence[str], crossed: Crossed, scores: Values
) -> tuple[Floats, Floats]:
    """Mean values of the methods' edits, (M, metrics), and the same in each resample of sources, (B, M, metrics).

    ``cases``: protocol, case and the code of its source.
    """
    owner, n_sources = cases["source"].to_numpy(), len(crossed.source_weights)
    means = np.full((len(methods), len(scores.metrics)), np.nan)
    mean_draws = np.full((crossed.draws, len(methods), len(scores.metrics)), np.nan)
    for j, method in enumerate(methods):
        values = _edits(cases, [method] * len(cases), scores)
        valued = np.isfinite(values)
        # Sums and counts by source: a resample weighs the cases of a source alike.
        sums, sizes = np.zeros((2, n_sources, len(scores.metrics)))
        np.add.at(sums, owner, np.where(valued, values, 0))
        np.add.at(sizes, owner, valued)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[j] = sums.sum(axis=0) / sizes.sum(axis=0)
            mean_draws[:, j] = (crossed.source_weights.T @ sums) / (crossed.source_weights.T @ sizes)
    return means, mean_draws


def _rank_correlation(x: Floats, y: Floats, measure: str) -> Floats:
    """Spearman's rho or Kendall's tau-b of each row, (B, M) -> (B,). NaN where a side is constant or NaN."""
    upper = np.triu_indices(x.shape[1], 1)
    sides = []
    for values in (x, y):
        sign = np.sign(values[:, :, None] - values[:, None, :])
        # Half the sum of signs is the centred mid-rank.
        sides.append(sign.sum(axis=2) if measure == "method_spearman" else sign[:, upper[0], upper[1]])
    a, b = sides
    with np.errstate(invalid="ignore", divide="ignore"):
        # Both are cosines: of centred ranks (rho), and of the signs of all pairs (tau-b).
        cosines: Floats = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return cosines

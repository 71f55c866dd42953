"""Do the automatic metrics rank edits as people do? Metric values against votes, with intervals.

Three views, one row each in the result:

``agreement``  pairs: how often the edit with the better value was the one preferred. Votes that are ties are
               left out; equal values count half. 1/2 is a coin.
``kendall``    pairs: tau-b of votes with the metric, the two edits of a vote compared with one another alone:
               (agree - disagree) / sqrt(votes that are no tie x votes whose values differ).
``spearman``   pairs: rank correlation of the vote (-1, 0, 1) with the difference of the values, over votes. Each
               enters in both orders, so that the order does not matter. Ranks are those of all votes: taking
               them anew in each resample changes the interval by less than a twentieth (measured), and costs
               a hundred times as much.
``method_spearman``, ``method_kendall``
               methods: rank correlation of the mean value with the Bradley-Terry strength.

Values of metrics whose lower values are better are negated first where ``scores`` has the column
``higher_is_better``; without it the signs are as the metric has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.stats import wilson
from bench.study.votes.crossed import Crossed, interval
from bench.study.votes.frame import ALL, SCOPE, TIE, VotesError, scopes

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

SCORE_COLUMNS = ("protocol", "method", "case", "metric", "value")
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
"""Of :func:`correlate`."""

_MEASURES = ("agreement", "kendall", "spearman", "method_spearman", "method_kendall")


@dataclass(frozen=True, eq=False)
class Values:
    """Scores of edits by (protocol, case, method)."""

    index: Any
    """pandas.MultiIndex of (protocol, case, method), E edits."""
    metrics: tuple[str, ...]
    values: Floats
    """(E, metrics); NaN where there is none; higher is better where ``directed``."""
    directed: bool


def read_scores(scores: pd.DataFrame) -> Values:
    """Raises :class:`VotesError` for missing columns and for an edit with two values of a metric."""
    missing = [column for column in SCORE_COLUMNS if column not in scores.columns]
    if missing:
        raise VotesError(f"the scores lack the columns {', '.join(missing)}.")
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
    return Values(wide.index, tuple(map(str, wide.columns)), wide.to_numpy(np.float64), directed)


def correlate(
    votes: pd.DataFrame,
    crossed: Crossed,
    scores: Values,
    strengths: dict[tuple[str, str, str], tuple[tuple[str, ...], Floats, Floats]],
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """One row per scope, metric and measure: value, low, high, n and what n counts.

    ``votes`` and ``crossed`` belong together, row by row. ``strengths``: (question, protocol, category) ->
    (methods, estimates (M,), draws (B, M)), each part perhaps ``"all"``. For agreement, Wilson's interval
    stands beside.
    """
    import pandas as pd

    rows = (*_pairs(votes, crossed, scores, level), *_methods(votes, crossed, scores, strengths, level))
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    order = {name: i for i, name in enumerate(_MEASURES)}
    found["order"] = found["measure"].map(order)
    found = found.sort_values([*SCOPE, "metric", "order"], kind="stable").drop(columns="order")
    # "all" comes before the parts that it is made of.
    first = sum((found[column] != ALL).to_numpy(dtype=int) for column in SCOPE)
    return found.iloc[np.argsort(first, kind="stable")].reset_index(drop=True)


def _edits(votes: pd.DataFrame, methods: list[str], scores: Values) -> Floats:
    """Values of the edit of each vote's case by the method named beside it, (N, metrics)."""
    import pandas as pd

    keys = pd.MultiIndex.from_arrays([votes["protocol"], votes["case"], methods])
    place = scores.index.get_indexer(keys)
    found: Floats = np.where((place >= 0)[:, None], scores.values[place], np.nan)
    return found


def _pairs(votes: pd.DataFrame, crossed: Crossed, scores: Values, level: float) -> Iterator[dict[str, Any]]:
    pair = (votes["kind"] == "pair").to_numpy()
    some = votes[pair]
    first, second = ([c[i] for c in some["candidates"]] for i in (0, 1))
    difference = _edits(some, first, scores) - _edits(some, second, scores)
    pairs = zip(some["answer"], first, strict=True)
    answer = np.array([0.0 if a == TIE else 1.0 if a == one else -1.0 for a, one in pairs])
    computed: dict[bytes, list[dict[str, Any]]] = {}
    for scope, of_scope in scopes(votes):
        inside = of_scope[pair]
        if not inside.any():
            continue
        # Two scopes of the same votes (one protocol, and all of them where there is one) are computed once.
        if inside.tobytes() not in computed:
            part = Crossed(
                crossed.rater[pair][inside],
                crossed.source[pair][inside],
                crossed.rater_weights,
                crossed.source_weights,
            )
            rows = _pair_rows(part, answer[inside], difference[inside], scores.metrics, level)
            computed[inside.tobytes()] = list(rows)
        for row in computed[inside.tobytes()]:
            yield {**dict(zip(SCOPE, scope, strict=True)), **row}


def _pair_rows(
    part: Crossed, answer: Floats, difference: Floats, metrics: Sequence[str], level: float
) -> Iterator[dict[str, Any]]:
    """The measures of one scope. ``answer``: (N,), -1, 0 or 1; ``difference``: (N, metrics), NaN without a value."""
    terms = [_terms(answer, d) for d in difference.T]
    if not terms:
        return
    drawn = part.sums(np.concatenate(terms, axis=1))
    for i, metric in enumerate(metrics):
        known = int(np.isfinite(difference[:, i]).sum())
        if not known:
            continue
        total = terms[i].sum(axis=0)
        estimates = _measures(total)
        draws = _measures(drawn[:, 6 * i : 6 * i + 6])
        low, high = interval(
            estimates, draws, part.factor(_influence(terms[i], total), level=level), level=level
        )
        decided = int(total[1])
        plain = wilson((total[0] + decided) / 2, decided, level=level) if decided else None
        for j, measure in enumerate(("agreement", "kendall", "spearman")):
            yield {
                "metric": metric,
                "measure": measure,
                "value": estimates[j],
                "low": low[j],
                "high": high[j],
                "wilson_low": plain.low if plain and not j else math.nan,
                "wilson_high": plain.high if plain and not j else math.nan,
                "n": known if j else decided,
                "of": "votes" if j else "votes without ties",
            }


def _terms(answer: Floats, difference: Floats) -> Floats:
    """What each vote adds to the sums that the measures are made of, (N, 6); 0 where there is no value.

    Agree less disagree; is no tie; values differ; product and squares of the ranks of vote and difference.
    """
    known = np.isfinite(difference)
    found = np.zeros((len(answer), 6))
    vote, gap = answer[known], difference[known]
    sign = np.sign(gap)
    a, b = _both_ways(vote), _both_ways(gap)
    found[known] = np.stack([sign * vote, np.abs(vote), np.abs(sign), a * b, a * a, b * b], axis=1)
    return found


def _both_ways(x: Floats) -> Floats:
    """Centred mid-ranks of x in the sample of x and -x, over n: within -1..1.

    There they are the sign of x times the mid-rank of its size.
    """
    from scipy.stats import rankdata

    scaled: Floats = np.sign(x) * (rankdata(np.abs(x)) - 0.5) / len(x) if len(x) else x
    return scaled


def _measures(sums: Floats) -> Floats:
    """Agreement, tau-b and rho from the six sums: (..., 6) -> (..., 3)."""
    agree, decided, differ, product, first, second = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.stack(
            [
                (1 + agree / decided) / 2,
                agree / np.sqrt(decided * differ),
                product / np.sqrt(first * second),
            ],
            axis=-1,
        )
    return found


def _influence(terms: Floats, total: Floats) -> Floats:
    """How far each vote moves each measure, (N, 3): the derivatives of :func:`_measures` at the sums."""
    agree, decided, differ, product, first, second = total
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.stack(
            [
                (terms[:, 0] - agree / decided * terms[:, 1]) / (2 * decided),
                terms[:, 0] / np.sqrt(decided * differ)
                - agree / np.sqrt(decided * differ) / 2 * (terms[:, 1] / decided + terms[:, 2] / differ),
                terms[:, 3] / np.sqrt(first * second)
                - product / np.sqrt(first * second) / 2 * (terms[:, 4] / first + terms[:, 5] / second),
            ],
            axis=1,
        )
    clean: Floats = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
    return clean


def _methods(
    votes: pd.DataFrame,
    crossed: Crossed,
    scores: Values,
    strengths: dict[tuple[str, str, str], tuple[tuple[str, ...], Floats, Floats]],
    level: float,
) -> Iterator[dict[str, Any]]:
    cases = votes[[*SCOPE, "case"]].copy()
    cases["source"] = crossed.source
    insides = dict(scopes(cases))
    for scope, (methods, estimates, draws) in strengths.items():
        some = cases[insides[scope]].drop_duplicates(["protocol", "case"])
        owner, count = some["source"].to_numpy(), len(crossed.source_weights)
        means = np.full((len(methods), len(scores.metrics)), np.nan)
        drawn = np.full((crossed.draws, len(methods), len(scores.metrics)), np.nan)
        for j, method in enumerate(methods):
            values = _edits(some, [method] * len(some), scores)
            known = np.isfinite(values)
            sums, sizes = np.zeros((2, count, len(scores.metrics)))
            np.add.at(sums, owner, np.where(known, values, 0))
            np.add.at(sizes, owner, known)
            with np.errstate(invalid="ignore", divide="ignore"):
                means[j] = sums.sum(axis=0) / sizes.sum(axis=0)
                drawn[:, j] = (crossed.source_weights.T @ sums) / (crossed.source_weights.T @ sizes)
        for i, metric in enumerate(scores.metrics):
            have = np.isfinite(means[:, i]) & np.isfinite(estimates)
            for measure, kind in (("method_spearman", "spearman"), ("method_kendall", "kendall")):
                value = np.nan
                low, high = np.array([np.nan]), np.array([np.nan])
                if have.sum() >= 3:
                    one = _rank_correlation(estimates[have][None], means[have, i][None], kind)
                    value = float(one[0])
                    found = _rank_correlation(draws[:, have], drawn[:, have, i], kind)
                    low, high = interval(one, found[:, None], np.ones(1), level=level)
                yield {
                    **dict(zip(SCOPE, scope, strict=True)),
                    "metric": metric,
                    "measure": measure,
                    "value": value,
                    "low": low[0],
                    "high": high[0],
                    "n": int(have.sum()),
                    "of": "methods",
                }


def _rank_correlation(x: Floats, y: Floats, kind: str) -> Floats:
    """Spearman's rho or Kendall's tau-b of each row, (B, M) -> (B,); NaN where a side is constant or NaN."""
    upper = np.triu_indices(x.shape[1], 1)
    sides = []
    for v in (x, y):
        sign = np.sign(v[:, :, None] - v[:, None, :])
        # Half the sum of signs is the centred mid-rank.
        sides.append(sign.sum(axis=2) if kind == "spearman" else sign[:, upper[0], upper[1]])
    a, b = sides
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return found

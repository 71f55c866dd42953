"""Ratings of single edits: means with crossed intervals, agreement between raters, and ratings against pairs.

A trial of ratings is one row per scale. Scales are never pooled. Pure functions of the votes that
:func:`bench.study.votes.frame.check_votes` returns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.study.votes.agreement import alpha, coincidences, resampled_alpha
from bench.study.votes.crossed import Crossed, interval
from bench.study.votes.frame import scale_values, scopes

if TYPE_CHECKING:
    import pandas as pd

# Where a study has both of ImagenHub's scales: the geometric mean of the two ratings of one rater. Source: Ku et al.,
# ImagenHub (2024), overall score.
BOTH, PARTS, THREE = "sc_pq", ("sc", "pq"), (0.0, 0.5, 1.0)

MEAN_COLUMNS = (
    *("question", "protocol", "category", "method", "n", "mean", "low", "high", "sd", "worst", "best"),
    *("n_raters", "n_sources"),
)
ALPHA_COLUMNS = ("question", "level", "alpha", "low", "high", "agreement", "units", "n", "n_sources")


def with_overall(ratings: pd.DataFrame) -> pd.DataFrame:
    """The ratings with rows of :data:`BOTH` for trials that have both of its parts."""
    import pandas as pd

    keys = ["study", "rater", "trial"]
    parts = [ratings[ratings["question"] == name].set_index(keys) for name in PARTS]
    if any(part.empty for part in parts) or any(
        {scale_values(text) for text in part["scale"]} != {THREE} for part in parts
    ):
        return ratings
    both = parts[0].index.intersection(parts[1].index)
    values = [part.loc[both, "answer"].astype(float).to_numpy() for part in parts]
    overall = parts[0].loc[both].reset_index()
    overall["question"] = BOTH
    overall["answer"] = [repr(float(value)) for value in np.sqrt(values[0] * values[1])]
    return pd.concat([ratings, overall[ratings.columns]], ignore_index=True)


def means(ratings: pd.DataFrame, *, draws: int, seed: int, level: float) -> pd.DataFrame:
    """Mean rating of each method, by scale, protocol and category, with crossed intervals (:data:`MEAN_COLUMNS`).

    ``sd`` is the standard deviation of single ratings. ``worst`` and ``best`` are the ends of the scale.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    visited: set[tuple[str, ...]] = set()
    for question, part in ratings.groupby("question", sort=False):
        of_scale = part.reset_index(drop=True)
        values = scale_values(of_scale["scale"].iloc[0]) or (math.nan,)
        for (_, protocol, category), inside in scopes(of_scale):
            # One question: the scope of that question holds what the scope of all holds.
            labels = {"question": str(question), "protocol": protocol, "category": category}
            if tuple(labels.values()) in visited:
                continue
            visited.add(tuple(labels.values()))
            for row in _means(of_scale[inside], draws, seed, level):
                rows.append({**labels, **row, "worst": values[0], "best": values[-1]})
    return pd.DataFrame(rows, columns=list(MEAN_COLUMNS))


def _means(ratings: pd.DataFrame, draws: int, seed: int, level: float) -> Iterator[dict[str, Any]]:
    """One row per method, from the ratings of one scale and scope."""
    raters = list(ratings["study"] + "\0" + ratings["rater"])
    sources = list(ratings["protocol"] + "\0" + ratings["source"])
    crossed = Crossed.of(raters, sources, draws=draws, seed=seed)
    titles = [candidates[0] for candidates in ratings["candidates"]]
    methods = sorted(set(titles))
    values = ratings["answer"].astype(float).to_numpy()

    # A mean is a ratio of sums: of the ratings of the method, and of their number. (N, M)
    shown = np.array([[title == method for method in methods] for title in titles], dtype=np.float64)
    n = shown.sum(axis=0)
    mean = (values @ shown) / n
    sums = crossed.sums(np.concatenate([values[:, None] * shown, shown], axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = sums[:, : len(methods)] / sums[:, len(methods) :]
    # Influence of one rating on the mean of its method. Ratings of 0 influence carry no information on the spread.
    influence = shown * (values[:, None] - mean) / n
    low, high = interval(mean, resampled, crossed.factor(influence, level=level), level=level)

    for j, method in enumerate(methods):
        own = shown[:, j] > 0
        yield {
            "method": method,
            "n": int(n[j]),
            "mean": mean[j],
            "low": low[j],
            "high": high[j],
            "sd": values[own].std(ddof=1) if n[j] > 1 else math.nan,
            "n_raters": len(set(crossed.rater[own])),
            "n_sources": len(set(crossed.source[own])),
        }


def agreement(ratings: pd.DataFrame, *, draws: int, seed: int, level: float) -> pd.DataFrame:
    """Krippendorff's ordinal alpha of each scale, with its interval from resampling sources (:data:`ALPHA_COLUMNS`).

    A unit is one edit. ``agreement`` is the share of the pairs of ratings of one edit that are equal.
    """
    import pandas as pd

    rows = []
    for question, part in ratings[ratings["question"] != BOTH].groupby("question", sort=False):
        values = scale_values(part["scale"].iloc[0]) or ()
        titles = [candidates[0] for candidates in part["candidates"]]
        units = (
            part.assign(method=titles).groupby(["protocol", "case", "method"], sort=False).ngroup().to_numpy()
        )
        codes = np.array([values.index(float(answer)) for answer in part["answer"]])
        matrices = coincidences(units, codes, len(values))
        first = np.unique(units, return_index=True)[1]
        sources, _ = pd.factorize((part["protocol"] + "\0" + part["source"]).to_numpy()[first])
        compared = matrices.sum(axis=(1, 2)) > 0
        # Sums over the units of a source, (1, sources, V * V): sources are resampled as a whole.
        sums = np.zeros((1, int(sources.max()) + 1, len(values) ** 2))
        np.add.at(sums[0], sources, matrices.reshape(len(matrices), -1))
        sums = sums[:, np.unique(sources[compared])]
        observed = sums.sum(axis=(0, 1)).reshape(len(values), len(values))
        value = float(alpha(observed, "ordinal"))
        low, high = resampled_alpha(sums, value, "ordinal", draws, seed, level)
        total = float(observed.sum())
        rows.append(
            {
                "question": question,
                "level": "ordinal",
                "alpha": value,
                "low": math.nan if low is None else low,
                "high": math.nan if high is None else high,
                "agreement": float(np.trace(observed)) / total if total else math.nan,
                "units": int(compared.sum()),
                "n": round(total),
                "n_sources": sums.shape[1],
            }
        )
    return pd.DataFrame(rows, columns=list(ALPHA_COLUMNS))


def as_scores(ratings: pd.DataFrame) -> pd.DataFrame:
    """Mean rating of each edit as scores of a metric, to be compared with votes on pairs of the same edits.

    Columns: those of ``bench.study.results.run_scores``. Higher ratings are better.
    """
    edits = ratings.assign(
        method=[candidates[0] for candidates in ratings["candidates"]],
        metric="rating " + ratings["question"],
        value=ratings["answer"].astype(float),
    )
    keys = ["protocol", "method", "case", "metric"]
    return edits.groupby(keys, sort=False)["value"].mean().reset_index().assign(higher_is_better=True)

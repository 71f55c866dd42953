"""Bradley-Terry strengths of one scope with their intervals, as rows of the tables ``strengths`` and ``fits``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.study.votes.bradley_terry import Choices, Fit, Unlinked, fit_counts, fit_draws, influence
from bench.study.votes.crossed import interval

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

# The arenas' scale: a difference of 400 is odds of 10 to 1, and the mean of the methods is 1000.
ELO_MEAN, ELO_PER_LOG_ODDS = 1000.0, 400 / math.log(10)

# Log odds. Strengths nearer to each other are equal: the fit is exact to about a thousandth of it.
SAME_STRENGTH = 1e-6


@dataclass(frozen=True, eq=False)
class FittedStrengths:
    """Strengths of M methods from the votes of one scope."""

    methods: tuple[str, ...]
    # One row per method: method, strength, low, high, elo, elo_low, elo_high, rank, behind, behind_low, behind_high,
    # separable.
    rows: list[dict[str, Any]]
    # n, tie, tie_low, tie_high, regularised, draws_regularised, note.
    summary: dict[str, Any]
    # (M,) log odds.
    strengths: Floats
    # (B, M), pulled towards the estimate by the width factor. None where the votes do not link all methods.
    draws: Floats | None


def fit_strengths(
    classes: pd.DataFrame,
    totals: Floats,
    draws: Floats,
    factor_of: Callable[[Floats], Floats],
    *,
    level: float,
) -> FittedStrengths:
    """Fits strengths to the votes of some classes.

    ``classes`` has the columns kind, candidates and answer, one row per class (K). ``totals`` (K,) and ``draws`` (B, K)
    are the number of votes, in the study and in each resample. ``factor_of`` maps influences per class, (K, S), to the
    width factors of S statistics.
    """
    # Votes per column of the model: classes that differ in their scope alone share a column.
    outcomes = list(zip(classes["kind"], classes["candidates"], classes["answer"], strict=True))
    choices = Choices.of(outcomes)
    columns = np.array(
        [choices.column[kind, frozenset(members), answer] for kind, members, answer in outcomes]
    )
    to_column = np.zeros((len(columns), len(choices.features)))
    to_column[np.arange(len(columns)), columns] = 1
    counts = totals @ to_column

    # The fit of the votes, then of each resample.
    try:
        fit, beta = fit_counts(choices, counts)
    except Unlinked as error:
        return _unlinked(choices.methods, int(counts.sum()), str(error))
    beta_draws, n_regularised = fit_draws(choices, draws @ to_column, beta, regularised=fit.regularised)

    # Strengths that differ by rounding alone are equal.
    m = len(choices.methods)
    beta[:m] = _equalised(beta[:m])
    best = int(np.argmax(beta[:m]))

    # Statistics: the P parameters, then how far each method is behind the strongest, (P + M,).
    value = np.concatenate([beta, beta[best] - beta[:m]])
    value_draws = np.concatenate([beta_draws, beta_draws[:, [best]] - beta_draws[:, :m]], axis=1)
    per_column = influence(choices, counts, beta, regularised=fit.regularised)
    per_column = np.concatenate([per_column, per_column[:, [best]] - per_column[:, :m]], axis=1)
    factor = factor_of(per_column[columns])
    low, high = interval(value, value_draws, factor, level=level)
    _open_unbounded(fit, best, low, high)

    # Rows and summary.
    summary = _summary(int(counts.sum())) | {
        "regularised": fit.regularised,
        "draws_regularised": n_regularised,
        "note": _note(fit, n_regularised, len(draws)),
    }
    if choices.ties:
        tie, tie_low, tie_high = np.exp([beta[m], low[m], high[m]])
        summary |= {"tie": tie, "tie_low": tie_low, "tie_high": tie_high}
    return FittedStrengths(
        choices.methods,
        _rows(choices.methods, value, low, high),
        summary,
        beta[:m],
        beta[:m] + np.nan_to_num(factor[:m], nan=1.0) * (beta_draws[:, :m] - beta[:m]),
    )


def _open_unbounded(fit: Fit, best: int, low: Floats, high: Floats) -> None:
    """Sets the ends that the votes do not bound to NaN, in place: they would depend on the prior alone."""
    m = len(fit.methods)
    high[:m][fit.above] = np.nan
    low[:m][fit.below] = np.nan
    # The last M statistics are the distances to the strongest method.
    high[-m:][~fit.reach[:, best]] = np.nan
    low[-m:][~fit.reach[best]] = np.nan


def _rows(methods: tuple[str, ...], value: Floats, low: Floats, high: Floats) -> list[dict[str, Any]]:
    """One row per method, from the statistics that :func:`fit_strengths` lists."""
    m = len(methods)
    behind, behind_low, behind_high = value[-m:], low[-m:], high[-m:]
    return [
        {
            "method": title,
            "strength": value[i],
            "low": low[i],
            "high": high[i],
            **{
                name: ELO_MEAN + ELO_PER_LOG_ODDS * number
                for name, number in (("elo", value[i]), ("elo_low", low[i]), ("elo_high", high[i]))
            },
            # Equal strengths share a rank.
            "rank": 1 + int((value[:m] > value[i]).sum()),
            "behind": behind[i],
            "behind_low": behind_low[i],
            "behind_high": behind_high[i],
            "separable": bool(behind_low[i] > 0),
        }
        for i, title in enumerate(methods)
    ]


def _summary(n: int) -> dict[str, Any]:
    """A row of the table ``fits`` without a fit."""
    return {
        "n": n,
        "tie": math.nan,
        "tie_low": math.nan,
        "tie_high": math.nan,
        "regularised": False,
        "draws_regularised": 0,
        "note": "",
    }


def _unlinked(methods: tuple[str, ...], n: int, note: str) -> FittedStrengths:
    """Result for methods that no chain of votes links: rows without values."""
    elo = ("elo", "elo_low", "elo_high")
    columns = ("strength", "low", "high", *elo, "rank", "behind", "behind_low", "behind_high")
    rows = [{"method": title, **dict.fromkeys(columns, math.nan), "separable": False} for title in methods]
    nothing = np.full(len(methods), np.nan)
    return FittedStrengths(methods, rows, _summary(n) | {"note": note}, nothing, None)


def _note(fit: Fit, n_regularised: int, n_draws: int) -> str:
    """Explains why the prior was needed, for the votes or for some resamples. Empty where it was not."""
    if n_regularised and not fit.regularised:
        return (
            f"{n_regularised} of {n_draws} resamples had no finite maximum and were fitted under the prior: "
            "outer ends of intervals depend on it."
        )
    return fit.note


def _equalised(values: Floats) -> Floats:
    """A copy of ``values``, (N,), in which values nearer than the fit's tolerance equal the largest of them."""
    order = np.argsort(-values, kind="stable")
    equal = values.copy()
    for before, after in pairwise(order):
        if values[before] - values[after] < SAME_STRENGTH:
            equal[after] = equal[before]
    return equal

"""Whether raters agree with one another, with themselves, and with the controls; and whether place matters.

Pure functions of arrays and of the votes that :func:`bench.study.votes.frame.check_votes` returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.stats import Interval, share, wilson
from bench.study.votes.frame import TIE

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal"]

POSITION_COLUMNS = (
    "kind",
    "candidates",
    "position",
    "n",
    "chosen",
    "share",
    "expected",
    "wilson_low",
    "wilson_high",
    "low",
    "high",
    "p",
)
"""Of :func:`positions`."""


# --- Krippendorff's alpha ----------------------------------------------------------------------------


def coincidences(units: NDArray[np.integer], values: NDArray[np.integer], n_values: int) -> Floats:
    """Krippendorff's coincidence matrix of each unit, (units, V, V).

    ``units``, ``values``: (N,), one rating each: of which unit (0..U-1), and which value (0..V-1). Each pair of
    ratings of a unit with m of them weighs 1 / (m - 1) (Krippendorff 2011, step B). A unit with one rating
    has nothing to compare and is 0: so missing ratings need no filling in.
    """
    n_units = int(units.max()) + 1 if len(units) else 0
    counts = np.bincount(units * n_values + values, minlength=n_units * n_values)
    c = counts.reshape(n_units, n_values).astype(np.float64)
    m = c.sum(axis=1)
    pairs = c[:, :, None] * c[:, None, :]
    pairs[:, np.arange(n_values), np.arange(n_values)] -= c
    found: Floats = pairs / np.maximum(1, m - 1)[:, None, None]
    return found


def alpha(coincidence: Floats, level: Level = "nominal") -> Floats:
    """Krippendorff's alpha, 1 - D_observed / D_expected, of coincidence matrices (..., V, V), shape (...).

    ``"ordinal"``: values are in order, and their distance squared is (sum of n_g for g from c to k, less half
    of n_c and n_k)^2. NaN where all ratings are one value, or none can be compared.
    """
    n_c = coincidence.sum(axis=-1)
    n = n_c.sum(axis=-1)
    distance = _distance(n_c, level)
    observed = (coincidence * distance).sum(axis=(-2, -1))
    expected = (n_c[..., :, None] * n_c[..., None, :] * distance).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)
    return found


def _distance(n_c: Floats, level: Level) -> Floats:
    size = n_c.shape[-1]
    if level == "nominal":
        return 1 - np.eye(size)
    # The mid-rank of a value is the sum before it plus half of its own: their differences are the distances.
    middle = np.cumsum(n_c, axis=-1) - n_c / 2
    found: Floats = (middle[..., :, None] - middle[..., None, :]) ** 2
    return found


@dataclass(frozen=True)
class Alpha:
    """Agreement between raters on one kind of votes."""

    kind: str
    level: Level
    alpha: Interval
    """NaN where it is not defined; n: ratings that can be compared; clusters: sources."""
    agreement: float
    """Share of the pairs of ratings of one unit that agree; NaN without such pairs."""
    units: int
    """Units with at least two raters."""


def alpha_of_votes(
    votes: pd.DataFrame, kind: str, level: Level, *, draws: int = 2_000, seed: int = 0, conf: float = 0.95
) -> Alpha:
    """Alpha of votes of one kind, with its interval from resampling sources.

    A unit is one question on one set of candidates of one case; two raters of it are a pair of ratings.

    Pairs: the values are first wins, tie, second wins, in that order; choices of the best: which of the k
    candidates, nominal. Which method is called the first is arbitrary, so every unit enters in all orders of
    its candidates, together weighing as one: alpha then does not depend on names, chance is that of raters
    who know only how often there are ties, and methods that were never shown together are not confused.
    Where one method is better throughout, and raters say so, they agree; with names as values they would be
    told that they do no better than chance.

    Raters are not resampled: a rater drawn twice would agree with themselves.
    """
    import pandas as pd

    chosen = votes[votes["kind"] == kind]
    nothing = Alpha(kind, level, Interval(float("nan"), None, None, 0, 0), float("nan"), 0)
    if not len(chosen):
        return nothing
    shown = [tuple(sorted(c)) for c in chosen["candidates"]]
    sets, _ = pd.factorize(pd.Series(shown, dtype=object))
    keys = ["question", "protocol", "case"]
    units = (
        pd.DataFrame({**{k: chosen[k].to_numpy() for k in keys}, "set": sets})
        .groupby([*keys, "set"], sort=False)
        .ngroup()
        .to_numpy()
    )
    source, names = pd.factorize(chosen["source"].to_numpy())
    answers = list(chosen["answer"])
    if kind == "pair":
        values = np.array([1 if a == TIE else 2 * (s[1] == a) for a, s in zip(answers, shown, strict=True)])
        n_values, sizes = 3, np.full(len(chosen), 2)
    else:
        values = np.array([s.index(a) for a, s in zip(answers, shown, strict=True)])
        sizes = np.array([len(s) for s in shown])
        n_values = int(sizes.max())
    first = np.unique(units, return_index=True)[1]
    strata = np.unique(sizes, return_inverse=True)[1]
    each = coincidences(units, values, n_values)
    each = (each + each[:, ::-1, ::-1]) / 2 if kind == "pair" else _all_orders(each, sizes[first])
    groups = strata[first] * len(names) + source[first]
    n_strata = int(strata.max()) + 1
    # (strata, sources, V, V): sources are what is resampled.
    total = np.zeros((n_strata * len(names), n_values, n_values))
    np.add.at(total, groups, each)
    total = total.reshape(n_strata, len(names), n_values * n_values)
    compared = each.sum(axis=(1, 2)) > 0
    involved = np.unique(source[first][compared])
    if not len(involved):
        return nothing
    total = total[:, involved]
    count = len(involved)
    value = _stratified(total.sum(axis=1)[:, None], level)[0]
    observed = total.sum(axis=(0, 1)).reshape(n_values, n_values)
    n = round(float(observed.sum()))
    low = high = None
    if count > 1:
        weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
        found = _stratified(np.stack([weights @ one for one in total]), level)
        found = found[np.isfinite(found)]
        if 2 * len(found) >= draws and np.isfinite(value) and np.ptp(found) > 1e-12:
            low, high = np.quantile(found, [(1 - conf) / 2, (1 + conf) / 2]).tolist()
    return Alpha(
        kind,
        level,
        Interval(float(value), low, high, n, count),
        float(np.trace(observed) / observed.sum()),
        int(compared.sum()),
    )


def _all_orders(each: Floats, sizes: NDArray[np.integer]) -> Floats:
    """Coincidences of units of so many candidates, averaged over all ways to number these."""
    found = np.zeros_like(each)
    for k in np.unique(sizes):
        some = sizes == k
        same = np.trace(each[some], axis1=1, axis2=2)[:, None, None]
        apart = each[some].sum(axis=(1, 2))[:, None, None] - same
        found[some, :k, :k] = np.where(np.eye(k, dtype=bool), same / k, apart / (k * (k - 1)))
    return found


def _stratified(flat: Floats, level: Level) -> Floats:
    """Alpha with disagreement expected within strata, one per number of candidates: (strata, B, V*V) -> (B,)."""
    size = round(flat.shape[-1] ** 0.5)
    matrix = flat.reshape(*flat.shape[:-1], size, size)
    if len(matrix) == 1:
        return alpha(matrix[0], level)
    n_c = matrix.sum(axis=-1)
    n = n_c.sum(axis=-1)
    distance = _distance(n_c, level)
    observed = (matrix * distance).sum(axis=(-2, -1)).sum(axis=0)
    products = (n_c[..., :, None] * n_c[..., None, :] * distance).sum(axis=(-2, -1))
    expected = (products / np.maximum(1, n - 1)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(expected > 0, 1 - observed / expected, np.nan)
    return found


# --- agreement with oneself and with the controls ------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A share of answers, as if they were independent and with raters as clusters."""

    wilson: Interval | None
    clustered: Interval | None
    """Wilson's with the raters' design effect. Both None where there are no answers."""

    @property
    def n(self) -> int:
        """Answers."""
        return self.wilson.n if self.wilson else 0


def share_of(hits: NDArray[np.bool_], raters: Any) -> Share:
    """The share of True among ``hits``, (N,), given by ``raters``, (N,)."""
    if not len(hits):
        return Share(None, None)
    return Share(wilson(int(hits.sum()), len(hits)), share(hits.astype(float), list(raters)))


def repeats(votes: pd.DataFrame) -> pd.DataFrame:
    """One row per repeated trial: study, rater, kind, ``same`` (the same answer), ``reversed``.

    ``reversed``: another method was preferred; a tie against a preference is neither. A repeat whose first
    showing was not answered is left out.
    """
    again = votes[votes["role"] == "repeat"]
    first = votes[votes["role"] != "repeat"][["study", "rater", "trial", "answer"]]
    both = again.merge(
        first.rename(columns={"trial": "repeat_of", "answer": "answer_first"}),
        on=["study", "rater", "repeat_of"],
        how="inner",
    )
    both["same"] = (both["answer"] == both["answer_first"]).astype(bool)
    decided = (both["answer"] != TIE) & (both["answer_first"] != TIE)
    both["reversed"] = (decided & ~both["same"]).astype(bool)
    return both[["study", "rater", "kind", "same", "reversed"]]


def attention(votes: pd.DataFrame) -> pd.DataFrame:
    """One row per attention check: study, rater, ``failed``."""
    checks = votes[votes["role"] == "attention"]
    found = checks[["study", "rater"]].copy()
    found["failed"] = (checks["answer"] != checks["expected"]).astype(bool)
    return found.reset_index(drop=True)


# --- place -------------------------------------------------------------------------------------------


def positions(votes: pd.DataFrame) -> pd.DataFrame:
    """How often each place (0 is leftmost) was chosen, by kind and number of candidates, with a test.

    Columns :data:`POSITION_COLUMNS`: ``n`` are choices (ties are left out), ``low`` and ``high`` are from
    resampling raters. ``p`` is of the whole kind: that answers do not depend on
    the place. The order of candidates is randomised apart for every trial, so that under this hypothesis
    the place of the chosen one is uniform and independent between trials whatever raters prefer: for two
    candidates the exact binomial test, for more Pearson's chi-square.
    """
    import pandas as pd
    from scipy import stats as scipy_stats

    rows: list[dict[str, Any]] = []
    decided = votes[votes["answer"] != TIE]
    sizes = decided["candidates"].map(len)
    for kind in ("pair", "best"):
        for size in sorted(set(sizes[decided["kind"] == kind])):
            some = decided[(decided["kind"] == kind) & (sizes == size)]
            pairs = zip(some["candidates"], some["answer"], strict=True)
            place = np.array([c.index(a) for c, a in pairs])
            counts = np.bincount(place, minlength=size)
            if size == 2:
                p = float(scipy_stats.binomtest(int(counts[0]), int(counts.sum()), 0.5).pvalue)
            else:
                p = float(scipy_stats.chisquare(counts).pvalue)
            for position in range(size):
                chosen = share_of(place == position, some["rater"])
                assert chosen.wilson is not None
                assert chosen.clustered is not None
                rows.append(
                    {
                        "kind": kind,
                        "candidates": size,
                        "position": position,
                        "n": len(place),
                        "chosen": int(counts[position]),
                        "share": chosen.wilson.value,
                        "expected": 1 / size,
                        "wilson_low": chosen.wilson.low,
                        "wilson_high": chosen.wilson.high,
                        "low": chosen.clustered.low,
                        "high": chosen.clustered.high,
                        "p": p,
                    }
                )
    return pd.DataFrame(rows, columns=list(POSITION_COLUMNS))

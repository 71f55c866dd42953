"""Agreement of raters with one another, with themselves and with the controls, and the effect of the position.

Pure functions of arrays and of the votes that :func:`bench.study.votes.frame.check_votes` returns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.stats import Interval, share, wilson
from bench.study.scales import meets
from bench.study.types import NO_PREFERENCE
from bench.study.votes.frame import order_answers, scale_values

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal"]

# Columns of the table that :func:`positions` returns.
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


# --- Krippendorff's alpha ----------------------------------------------------------------------------


def coincidences(units: NDArray[np.integer], values: NDArray[np.integer], n_values: int) -> Floats:
    """Krippendorff's coincidence matrix of each unit, (units, V, V).

    ``units``, ``values``: (N,), the unit (0..U-1) and the value (0..V-1) of each rating. A unit with one rating has
    nothing to compare and is 0, so missing ratings need no filling in.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), step B.
    """
    n_units = int(units.max()) + 1 if len(units) else 0
    counts = np.bincount(units * n_values + values, minlength=n_units * n_values)
    c = counts.reshape(n_units, n_values).astype(np.float64)
    m = c.sum(axis=1)
    # Ordered pairs of different ratings: a rating is not paired with itself.
    pairs = c[:, :, None] * c[:, None, :]
    pairs[:, np.arange(n_values), np.arange(n_values)] -= c
    # Each of m ratings is in m - 1 pairs. The division makes it count once, however many raters the unit has.
    matrices: Floats = pairs / np.maximum(1, m - 1)[:, None, None]
    return matrices


def alpha(coincidence: Floats, level: Level = "nominal") -> Floats:
    """Krippendorff's alpha, 1 - D_observed / D_expected, of coincidence matrices (..., V, V), shape (...).

    1 is perfect agreement, 0 is agreement by chance. NaN where all ratings are one value, or none can be compared.
    ``"ordinal"``: values are in order, and their distance squared is (sum of n_g for g from c to k, less half of n_c
    and n_k)^2. Source: Krippendorff (2011).
    """
    n_c = coincidence.sum(axis=-1)
    n = n_c.sum(axis=-1)
    distance = _distance(n_c, level)
    observed = (coincidence * distance).sum(axis=(-2, -1))
    expected = (n_c[..., :, None] * n_c[..., None, :] * distance).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        # n - 1: chance draws the second rating of a pair from the n - 1 others.
        values: Floats = np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)
    return values


def _distance(n_c: Floats, level: Level) -> Floats:
    """Squared distance between each two values, (..., V, V)."""
    size = n_c.shape[-1]
    if level == "nominal":
        return 1 - np.eye(size)
    # The mid-rank of a value is the sum before it plus half of its own: their differences are the distances.
    middle = np.cumsum(n_c, axis=-1) - n_c / 2
    squares: Floats = (middle[..., :, None] - middle[..., None, :]) ** 2
    return squares


@dataclass(frozen=True)
class Alpha:
    """Agreement between raters on one kind of votes."""

    kind: str
    level: Level
    # NaN where it is not defined. n: ratings that can be compared. clusters: sources.
    alpha: Interval
    # Share of the pairs of ratings of one unit that agree. NaN without such pairs.
    agreement: float
    # Units with at least two raters.
    units: int


@dataclass(frozen=True, eq=False)
class _Ratings:
    """N votes of one kind as ratings of U units."""

    # (N,) the unit, 0..U-1, and the value, 0..V-1, of each rating.
    units: NDArray[np.intp]
    values: NDArray[np.intp]
    n_values: int
    # (U,) number of candidates and source image of each unit.
    sizes: NDArray[np.intp]
    sources: NDArray[np.intp]


def alpha_of_votes(
    votes: pd.DataFrame, kind: str, level: Level, *, draws: int = 2_000, seed: int = 0, conf: float = 0.95
) -> Alpha:
    """Alpha of votes of one kind, with its interval from resampling sources.

    A unit is one question on one set of candidates of one case. Two raters of it are a pair of ratings.

    Values of pairs: first wins, no preference, second wins, in that order. Values of choices of the best: which of the
    k candidates. Which method is called the first is arbitrary, so every unit enters in all orders of its candidates,
    together weighing as one. Alpha then does not depend on names, chance is that of raters who know only how often
    there are ties, and methods that were never shown together are not confused. Where one method is better throughout,
    and raters say so, they agree: with names as values, alpha would tell them that they do no better than chance.
    """
    undefined = Alpha(kind, level, Interval(math.nan, None, None, 0, 0), math.nan, 0)
    of_kind = votes[votes["kind"] == kind]
    if of_kind.empty:
        return undefined

    # Coincidences of each unit, (U, V, V), in all orders of its candidates.
    ratings = _ratings(of_kind, kind)
    matrices = coincidences(ratings.units, ratings.values, ratings.n_values)
    if kind == "pair":
        matrices = (matrices + matrices[:, ::-1, ::-1]) / 2
    else:
        matrices = _all_orders(matrices, ratings.sizes)
    compared = matrices.sum(axis=(1, 2)) > 0
    if not compared.any():
        return undefined

    # Sums over the units of a source, (strata, sources, V * V): sources are resampled as a whole.
    _, strata = np.unique(ratings.sizes, return_inverse=True)
    sums = np.zeros((int(strata.max()) + 1, int(ratings.sources.max()) + 1, ratings.n_values**2))
    np.add.at(sums, (strata, ratings.sources), matrices.reshape(len(matrices), -1))
    sums = sums[:, np.unique(ratings.sources[compared])]

    # Alpha of the votes and of each resample.
    value = float(_stratified(sums.sum(axis=1)[:, None], level)[0])
    low, high = resampled_alpha(sums, value, level, draws, seed, conf)
    observed = sums.sum(axis=(0, 1)).reshape(ratings.n_values, ratings.n_values)
    return Alpha(
        kind,
        level,
        Interval(value, low, high, round(float(observed.sum())), sums.shape[1]),
        float(np.trace(observed) / observed.sum()),
        int(compared.sum()),
    )


def _ratings(votes: pd.DataFrame, kind: str) -> _Ratings:
    """Votes of one kind as ratings. Candidates are numbered in alphabetical order."""
    import pandas as pd

    # One unit per question, case and set of candidates.
    candidates = [tuple(sorted(titles)) for titles in votes["candidates"]]
    sets, _ = pd.factorize(pd.Series(candidates, dtype=object))
    keys = ["question", "protocol", "case"]
    columns = {**{key: votes[key].to_numpy() for key in keys}, "set": sets}
    units = pd.DataFrame(columns).groupby([*keys, "set"], sort=False).ngroup().to_numpy()

    # Values: 0 first wins, 1 tie, 2 second wins. Or the number of the chosen one.
    answers = zip(votes["answer"], candidates, strict=True)
    if kind == "pair":
        values = np.array(
            [1 if answer in NO_PREFERENCE else 2 * (titles[1] == answer) for answer, titles in answers]
        )
        n_values = 3
    else:
        values = np.array([titles.index(answer) for answer, titles in answers])
        n_values = max(map(len, candidates))

    # Facts of a unit are those of its first rating.
    first = np.unique(units, return_index=True)[1]
    sizes = np.array([len(titles) for titles in candidates])
    sources, _ = pd.factorize(votes["source"].to_numpy())
    return _Ratings(units, values, n_values, sizes[first], sources[first])


def resampled_alpha(
    sums: Floats, value: float, level: Level, draws: int, seed: int, conf: float
) -> tuple[float | None, float | None]:
    """Ends of the percentile interval from resampling sources. None where there is no interval.

    ``sums``: coincidences by source, (strata, sources, V * V). Raters are not resampled: a rater who is drawn twice
    would agree with themselves.
    """
    count = sums.shape[1]
    # Another source may differ from a single one by anything.
    if count < 2 or not math.isfinite(value):
        return None, None
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    alphas = _stratified(np.stack([weights @ stratum for stratum in sums]), level)
    alphas = alphas[np.isfinite(alphas)]
    # Too few draws have a value, or all have the same: then the bootstrap has seen no spread.
    if 2 * len(alphas) < draws or np.ptp(alphas) <= 1e-12:
        return None, None
    low, high = np.quantile(alphas, [(1 - conf) / 2, (1 + conf) / 2]).tolist()
    return low, high


def _all_orders(matrices: Floats, sizes: NDArray[np.integer]) -> Floats:
    """Coincidences of units of ``sizes`` candidates, (U, V, V), averaged over all ways to number these."""
    averaged = np.zeros_like(matrices)
    for k in np.unique(sizes):
        of_size = sizes == k
        # Only whether two ratings are equal survives the renumbering: k cells are equal, k (k - 1) are not.
        same = np.trace(matrices[of_size], axis1=1, axis2=2)[:, None, None]
        apart = matrices[of_size].sum(axis=(1, 2))[:, None, None] - same
        averaged[of_size, :k, :k] = np.where(np.eye(k, dtype=bool), same / k, apart / (k * (k - 1)))
    return averaged


def _stratified(flat: Floats, level: Level) -> Floats:
    """Alpha with disagreement expected within strata, one per number of candidates: (strata, B, V*V) -> (B,).

    A choice among five agrees by chance less often than one among three, so each stratum has a chance of its own.
    """
    size = math.isqrt(flat.shape[-1])
    matrices = flat.reshape(*flat.shape[:-1], size, size)
    if len(matrices) == 1:
        return alpha(matrices[0], level)
    n_c = matrices.sum(axis=-1)
    n = n_c.sum(axis=-1)
    distance = _distance(n_c, level)
    observed = (matrices * distance).sum(axis=(-2, -1)).sum(axis=0)
    products = (n_c[..., :, None] * n_c[..., None, :] * distance).sum(axis=(-2, -1))
    expected = (products / np.maximum(1, n - 1)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Floats = np.where(expected > 0, 1 - observed / expected, np.nan)
    return values


# --- agreement with oneself and with the controls ------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A share of answers with two intervals. Both are None where there are no answers."""

    # Takes answers for independent.
    wilson: Interval | None
    # Wilson's with the raters' design effect.
    clustered: Interval | None

    @property
    def n(self) -> int:
        """Number of answers."""
        return self.wilson.n if self.wilson else 0


def share_of(hits: NDArray[np.bool_], raters: Any) -> Share:
    """The share of True among ``hits``, (N,), given by ``raters``, (N,).

    Clusters are raters: who fails one check tends to fail the next, so ten answers of one rater say less than ten of
    ten raters.
    """
    if not len(hits):
        return Share(None, None)
    return Share(wilson(int(hits.sum()), len(hits)), share(hits.astype(float), list(raters)))


def repeats(votes: pd.DataFrame) -> pd.DataFrame:
    """One row per repeated trial: study, rater, kind, ``same`` (the same answer), ``reversed``.

    ``reversed``: another method was preferred. An answer without a preference is neither. A repeat whose first showing
    was not answered is left out.
    """
    repeated = votes[votes["role"] == "repeat"]
    first = votes[votes["role"] != "repeat"][["study", "rater", "trial", "question", "answer"]]
    # An inner join leaves out repeats of trials that were skipped.
    both = repeated.merge(
        first.rename(columns={"trial": "repeat_of", "answer": "answer_first"}),
        # A trial of ratings has a row per scale, called by the question.
        on=["study", "rater", "repeat_of", "question"],
        how="inner",
    )
    both["same"] = (both["answer"] == both["answer_first"]).astype(bool)
    decided = ~(both["answer"].isin(NO_PREFERENCE) | both["answer_first"].isin(NO_PREFERENCE))
    decided &= both["kind"] != "rate"
    both["reversed"] = (decided & ~both["same"]).astype(bool)
    return both[["study", "rater", "kind", "same", "reversed"]]


def attention(votes: pd.DataFrame) -> pd.DataFrame:
    """One row per attention check: study, rater, ``failed``."""
    checks = votes[votes["role"] == "attention"]
    outcomes = checks[["study", "rater", "trial"]].copy()
    outcomes["failed"] = [
        row.answer != row.expected
        if row.kind != "rate"
        else not meets(row.expected, float(row.answer), scale_values(row.scale) or ())
        for row in checks.itertuples()
    ]
    # A check of ratings has a row per scale, and fails if one of them does.
    keys = ["study", "rater", "trial"]
    failed = outcomes.groupby(keys, sort=False)["failed"].any().astype(bool).reset_index()
    return failed[["study", "rater", "failed"]]


# --- position on the screen --------------------------------------------------------------------------


def positions(votes: pd.DataFrame) -> pd.DataFrame:
    """Counts the choices of each position (0 is leftmost), by kind and number of candidates, with a test.

    Columns :data:`POSITION_COLUMNS`. ``n`` counts choices: ties are left out. ``low`` and ``high`` are the ends of an
    interval with raters as clusters. ``p`` is the p-value of a kind and number of candidates, for the hypothesis that
    answers do not depend on the position. A vote on a pair in both orders counts as its two answers.
    """
    import pandas as pd

    votes = _as_shown(votes)
    decided = votes[~votes["answer"].isin(NO_PREFERENCE)]
    sizes = decided["candidates"].map(len)
    rows = [
        row
        for kind in ("pair", "best")
        for size in sorted(set(sizes[decided["kind"] == kind]))
        for row in _position_rows(decided[(decided["kind"] == kind) & (sizes == size)], kind, size)
    ]
    return pd.DataFrame(rows, columns=list(POSITION_COLUMNS))


def _as_shown(votes: pd.DataFrame) -> pd.DataFrame:
    """One row per showing: ``kind``, ``candidates``, ``answer``, ``rater`` and ``is_consistent``.

    ``is_consistent``: whether the vote names the same winner in both orders.
    """
    import pandas as pd

    columns = ["kind", "candidates", "answer", "rater", "is_consistent"]
    rows: list[tuple[str, tuple[str, ...], str, str, bool]] = []
    shown = zip(*(votes[name] for name in (*columns[:4], "both_orders")), strict=True)
    for kind, candidates, answer, rater, both in shown:
        if both is None:
            rows.append((kind, candidates, answer, rater, False))
            continue
        answers = order_answers(both)
        assert answers is not None
        is_consistent = answers[0] == answers[1]
        rows.append((kind, candidates, answers[0], rater, is_consistent))
        rows.append((kind, candidates[::-1], answers[1], rater, is_consistent))
    return pd.DataFrame(rows, columns=columns)


def _position_rows(votes: pd.DataFrame, kind: str, size: int) -> Iterator[dict[str, Any]]:
    """One row per position, from the votes of one kind on ``size`` candidates, without ties."""
    choices = zip(votes["candidates"], votes["answer"], strict=True)
    position = np.array([titles.index(answer) for titles, answer in choices])
    counts = np.bincount(position, minlength=size)
    # The same winner in both orders, once at each position, says nothing of the position, and is left out of the test.
    by_preference = votes["is_consistent"].to_numpy(dtype=bool)
    p = _uniform_p(np.bincount(position[~by_preference], minlength=size))
    for i in range(size):
        chosen = share_of(position == i, votes["rater"])
        assert chosen.wilson is not None
        assert chosen.clustered is not None
        yield {
            "kind": kind,
            "candidates": size,
            "position": i,
            "n": len(position),
            "chosen": int(counts[i]),
            "share": chosen.wilson.value,
            "expected": 1 / size,
            "wilson_low": chosen.wilson.low,
            "wilson_high": chosen.wilson.high,
            "low": chosen.clustered.low,
            "high": chosen.clustered.high,
            "p": p,
        }


def _uniform_p(counts: NDArray[np.integer]) -> float:
    """P-value of choices that are uniform over positions: exact binomial for two, else Pearson's chi-square.

    The order of candidates is randomised apart for every trial. Under the hypothesis the position of the chosen one is
    therefore uniform and independent between trials, whatever raters prefer, and no correction for clusters is due.
    """
    from scipy import stats as scipy_stats

    if not counts.sum():
        return 1.0
    if len(counts) == 2:
        return float(scipy_stats.binomtest(int(counts[0]), int(counts.sum()), 0.5).pvalue)
    return float(scipy_stats.chisquare(counts).pvalue)

"""Intervals for votes in two kinds of clusters that cross: a rater votes on many sources, a source has many raters.

Votes of one rater share a taste, and votes on one source share its difficulty. An interval that takes them for
independent is too narrow, and one that resamples raters alone speaks of these sources only.

**Draws.** Pigeonhole bootstrap (McCullagh 2000, Owen 2007, https://doi.org/10.1214/07-AOAS122): raters and sources are
resampled independently, and a vote weighs as often as its rater times its source were drawn.

**Width.** Those draws count three times what is neither the rater's nor the source's, but the single vote's (Owen
2007): where votes are mostly noise, intervals come out 1.7 times too wide. To first order

    V_pigeonhole = V_rater + V_source + V_cell,

each the usual cluster-robust variance, while the variance to estimate is that of Cameron, Gelbach and Miller (2011,
https://doi.org/10.1198/jbes.2010.07136)

    V = V_rater + V_source - V_cell,     at least max(V_rater, V_source),

where a cell is one rater with one source. The three are sums of squares of the statistic's influence values, hence
exact. Draws are pulled towards the estimate by sqrt(V / V_pigeonhole), at most 1, and the interval is their
percentiles: the draws give its shape, the three variances its width. For few clusters, V_rater and V_source carry the
usual factor G / (G - 1), and the width that of Student's t over the normal quantile, with one less than the smaller
number of clusters as degrees of freedom.

Measured on 300 simulated studies of 20 raters, 40 sources and 1,200 votes: how often the 95 % interval of a share holds
the truth. Votes that are all noise: 0.97 (pigeonhole alone 1.00 and 1.5 times as wide, Wilson's 0.97). Raters and
sources that each differ by 0.8 log odds: 0.95 (pigeonhole alone 0.98 and 1.2 times as wide, Wilson's 0.74).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Weights held at a time: 2 MB, about a core's cache.
_CHUNK = 1 << 19


@dataclass(frozen=True, eq=False)
class Crossed:
    """N votes by their rater and their source, with B resamples of both."""

    # (N,) codes from 0.
    rater: Ints
    source: Ints
    # (raters, B), (sources, B) times that each was drawn.
    rater_weights: NDArray[np.float32]
    source_weights: NDArray[np.float32]

    @classmethod
    def of(
        cls, raters: Sequence[Hashable], sources: Sequence[Hashable], *, draws: int = 2_000, seed: int = 0
    ) -> Crossed:
        """Resamples the raters and the sources of N votes. Raises ValueError for fewer than one draw.

        Clusters are numbered in order of first appearance, so that their names do not touch the result.
        """
        import pandas as pd

        if draws < 1:
            raise ValueError(f"resamples must be at least 1, not {draws}.")
        coded = []
        # A stream of random numbers each: more raters leave the draws of the sources as they are.
        for stream, names in enumerate((raters, sources)):
            codes, distinct = pd.factorize(np.asarray(names, dtype=object))
            count = max(1, len(distinct))
            generator = np.random.default_rng([seed, stream])
            weights = generator.multinomial(count, np.full(count, 1 / count), size=draws).T
            coded.append((codes.astype(np.intp), np.ascontiguousarray(weights, dtype=np.float32)))
        (rater, rater_weights), (source, source_weights) = coded
        return cls(rater, source, rater_weights, source_weights)

    @property
    def draws(self) -> int:
        """Number B of resamples."""
        return int(self.rater_weights.shape[1])

    def counts(self, classes: NDArray[np.integer], n: int) -> Floats:
        """Weighted number of votes per class and draw, (B, n). ``classes``: (N,), each in 0..n-1."""
        # Sorted by class, the votes of a class stand together, and one reduceat sums them for all draws.
        order = np.argsort(classes, kind="stable")
        ordered = classes[order]
        totals = np.zeros((n, self.draws), dtype=np.float64)
        step = max(1, _CHUNK // self.draws)
        for start in range(0, len(order), step):
            votes, labels = order[start : start + step], ordered[start : start + step]
            first = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
            totals[labels[first]] += np.add.reduceat(self._weights(votes), first, axis=0)
        return np.ascontiguousarray(totals.T)

    def sums(self, values: Floats) -> Floats:
        """Weighted sums of (N, q) values per draw, (B, q)."""
        totals = np.zeros((self.draws, values.shape[1]))
        step = max(1, _CHUNK // self.draws)
        for start in range(0, len(values), step):
            part = slice(start, start + step)
            totals += self._weights(part).T @ values[part].astype(np.float32)
        return totals

    def _weights(self, votes: Ints | slice) -> NDArray[np.float32]:
        """Weight of some votes in each draw, (votes, B): the pigeonhole bootstrap's product of both counts."""
        weights: NDArray[np.float32] = (
            self.rater_weights[self.rater[votes]] * self.source_weights[self.source[votes]]
        )
        return weights

    def factor(self, influence: Floats, *, level: float = 0.95) -> Floats:
        """Factor that pulls the draws of S statistics towards their estimates, (S,), from influence values (N, S).

        Votes that do not enter a statistic have an influence of exactly 0. NaN where all are 0, and where the votes
        that enter are of one rater or of one source: nothing then says how another would differ.
        """
        # Only votes that enter a statistic count: their raters and sources are the clusters.
        undefined = np.full(influence.shape[1], np.nan)
        votes = np.flatnonzero(influence.any(axis=1))
        if not len(votes):
            return undefined

        # Influence of each cell of one rater with one source.
        rater, source, psi = self.rater[votes], self.source[votes], influence[votes]
        order = np.lexsort((source, rater))
        rater, source, psi = rater[order], source[order], psi[order]
        cells = np.flatnonzero(np.r_[True, (rater[1:] != rater[:-1]) | (source[1:] != source[:-1])])
        psi, rater, source = np.add.reduceat(psi, cells, axis=0), rater[cells], source[cells]

        # The three variances, and the variance of the pigeonhole's draws.
        v_cell = (psi**2).sum(axis=0)
        v_rater, raters = _cluster_variance(psi, rater)
        by_source = np.argsort(source, kind="stable")
        v_source, sources = _cluster_variance(psi[by_source], source[by_source])
        if raters < 2 or sources < 2:
            return undefined
        v_pigeonhole = v_rater + v_source + v_cell

        # V_rater + V_source - V_cell can fall below either part, even below 0, by chance: hence the lower bound.
        v_rater, v_source = v_rater * raters / (raters - 1), v_source * sources / (sources - 1)
        variance = np.maximum(v_rater + v_source - v_cell, np.maximum(v_rater, v_source))
        # Student's quantile over the normal one, to first order (Abramowitz and Stegun 26.7.5).
        z = NormalDist().inv_cdf((1 + level) / 2)
        student = 1 + (z**2 + 1) / (4 * (min(raters, sources) - 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            factors: Floats = np.minimum(1, student * np.sqrt(variance / v_pigeonhole))
        return factors


def interval(value: Floats, draws: Floats, factor: Floats, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile intervals of S statistics, (low, high), (S,) each, from their draws, (B, S).

    NaN where there is no interval: where the factor is NaN, where no draw differs from another (all votes agree, so the
    bootstrap has seen no other answer), and where more than half of the draws have no value.
    """
    # Towards the estimate: the draws keep their shape and get the width of the three variances.
    shrunk = value + factor * (draws - value)
    finite = np.isfinite(shrunk)
    shrunk = np.where(finite, shrunk, np.nan)
    usable = (2 * finite.sum(axis=0) >= len(draws)) & np.isfinite(factor) & np.isfinite(value)
    ends = np.full((2, len(value)), np.nan)
    if usable.any():
        ends[:, usable] = np.nanquantile(shrunk[:, usable], [(1 - level) / 2, (1 + level) / 2], axis=0)
        # Draws that differ by rounding alone do not differ.
        spread = np.nanmax(shrunk[:, usable], axis=0) - np.nanmin(shrunk[:, usable], axis=0)
        flat = np.zeros(len(value), dtype=bool)
        flat[usable] = spread <= 1e-12
        ends[:, flat] = np.nan
    return ends[0], ends[1]


def _cluster_variance(psi: Floats, cluster: Ints) -> tuple[Floats, int]:
    """Sum over clusters of the squared sum of influence values, (S,), and the number of clusters.

    ``psi``: (cells, S), sorted by ``cluster``.
    """
    first = np.flatnonzero(np.r_[True, cluster[1:] != cluster[:-1]])
    return (np.add.reduceat(psi, first, axis=0) ** 2).sum(axis=0), len(first)

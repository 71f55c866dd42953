"""Intervals of one row of values, by the functions of ``bench.stats`` that take whole tables."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from bench import stats


def cluster_sums(values: Any, clusters: Sequence[Hashable] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sizes ``(C, 1)`` of the clusters, numbered by first appearance."""
    x = np.asarray(values, dtype=float)
    codes: dict[Hashable, int] = {}
    owner = [codes.setdefault(name, len(codes)) for name in (range(len(x)) if clusters is None else clusters)]
    return np.bincount(owner, x)[:, None].astype(float), np.bincount(owner)[:, None].astype(float)


def _interval(values: Any, ends: tuple[np.ndarray, np.ndarray], clusters: int) -> stats.Interval:
    low, high = (None if np.isnan(end[0]) else float(end[0]) for end in ends)
    return stats.Interval(float(np.mean(values)), low, high, len(values), clusters)


def mean(
    values: Any, clusters: Sequence[Hashable] | None = None, *, draws: int = 10_000, seed: int = 0
) -> stats.Interval:
    sums, sizes = cluster_sums(values, clusters)
    return _interval(values, stats.mean_ends(sums, sizes, draws=draws, seed=seed), len(sums))


def share(values: Any, clusters: Sequence[Hashable] | None = None) -> stats.Interval:
    return stats.share(values, range(len(values)) if clusters is None else clusters)


def share_difference(a: Any, b: Any, clusters: Sequence[Hashable] | None = None) -> stats.Interval:
    (of_a, sizes), (of_b, _) = cluster_sums(a, clusters), cluster_sums(b, clusters)
    ends = stats.share_difference_ends(of_a, of_b, sizes)
    return _interval(np.asarray(a, float) - np.asarray(b, float), ends, len(sizes))

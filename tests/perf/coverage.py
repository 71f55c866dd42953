"""How often the intervals of the reports hold the truth, and how often their tests err: ``make coverage`` prints it.

    python tests/perf/coverage.py --runs 2000

Every figure is from simulated runs whose truth is known, through the functions that reports use
(``reports.data.intervals``). A column of the simulated table is one run, so that thousands cost one call.

* **Edits.** Source images, each with the same number of edits. Two edits of one source image resemble each
  other, and so do two methods on one edit: a latent normal value per edit is the sum of a part of the source
  image, a part of the edit and a part of the method; an edit succeeds where it is below the quantile of p.
* **Aims.** Intervals of 95 % hold the truth in at least 93 % of the runs, for every p. Of tables in which all
  methods are equally good, at most 5 % separate any method from the best.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from bench.stats import LEAST_CLUSTERS, max_t, mean_ends  # noqa: E402
from reports.data.intervals import Means, bootstrap_means, differences, shares  # noqa: E402
from reports.data.power import detectable  # noqa: E402
from reports.data.separation import ALPHA, pair_sums  # noqa: E402

Floats = NDArray[np.float64]

SHARES = (0.02, 0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.97, 0.98)
COVERED, FALSE = 0.93, 0.05


@dataclass(frozen=True)
class Design:
    """Source images, edits of each, and the correlation of two edits of one source image."""

    sources: int
    edits: int = 1
    within: float = 0.0

    def __str__(self) -> str:
        what = f"{self.sources} sources x {self.edits} edits"
        return what + (f", correlation {self.within:g}" if self.edits > 1 else "")

    @property
    def cluster(self) -> NDArray[np.intp]:
        """``(U,)``: the source image of each edit."""
        return np.repeat(np.arange(self.sources), self.edits)


DESIGNS = (
    Design(16),
    Design(59),
    Design(400),
    Design(6, 4, 0.3),
    Design(16, 4, 0.3),
    Design(16, 4, 0.6),
    Design(59, 4, 0.3),
    Design(59, 4, 0.6),
    Design(400, 4, 0.3),
)

MEANS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "normal": (lambda u: _normal(u), 0.0),
    "exponential": (lambda u: -np.log1p(-u), 1.0),
    "gamma, shape 0.5": (lambda u: _normal(u) ** 2 / 2, 0.5),
    "half zeros, else exponential": (lambda u: np.maximum(0.0, -np.log(2 * (1 - u))), 0.5),
    "log-normal": (lambda u: np.exp(_normal(u)), float(np.exp(0.5))),
}
"""Name -> quantile function and mean of a distribution of values."""


def _normal(u: Floats) -> Floats:
    from scipy.special import ndtri

    found: Floats = ndtri(u)
    return found


def latent(design: Design, methods: int, runs: int, alike: float, seed: int) -> Floats:
    """Standard normal values ``(U, methods, runs)``; two methods on one edit have the correlation ``alike``."""
    generator = np.random.default_rng(seed)
    owner = design.cluster

    def part(rows: int, columns: int) -> Floats:
        return generator.standard_normal((rows, columns, runs))

    source = np.sqrt(alike) * part(design.sources, 1) + np.sqrt(1 - alike) * part(design.sources, methods)
    edit = np.sqrt(alike) * part(len(owner), 1) + np.sqrt(1 - alike) * part(len(owner), methods)
    found: Floats = np.sqrt(design.within) * source[owner] + np.sqrt(1 - design.within) * edit
    return found


def covered(means: Means, truth: float) -> float:
    """Share of the intervals that hold the truth; one that cannot be had holds nothing."""
    return float(((means.low <= truth) & (truth <= means.high)).mean())


def share_coverage(design: Design, p: float, runs: int, seed: int = 0) -> float:
    """Coverage of the interval of one share."""
    z = latent(design, 1, runs, 0.0, seed)[:, 0]
    return covered(shares((z < NormalDist().inv_cdf(p)).astype(np.float64), design.cluster), p)


def difference_coverage(
    design: Design, p: float, gap: float, alike: float, runs: int, seed: int = 0
) -> float:
    """Coverage of the interval of the difference of two shares p and p - gap."""
    z = latent(design, 2, runs, alike, seed)
    a, b = ((z[:, i] < NormalDist().inv_cdf(q)).astype(np.float64) for i, q in enumerate((p, p - gap)))
    return covered(differences(a, b, design.cluster, np.ones(runs, dtype=bool)), gap)


def mean_coverage(design: Design, name: str, runs: int, seed: int = 0) -> float:
    """Coverage of the interval of the mean of values of the named distribution."""
    from scipy.special import ndtr

    quantile, mean = MEANS[name]
    values = quantile(ndtr(latent(design, 1, runs, 0.0, seed)[:, 0]))
    return covered(bootstrap_means(values, design.cluster, draws=1000, seed=seed), mean)


def few_sources(sources: int, name: str, runs: int, seed: int = 0) -> tuple[float, float]:
    """Coverage of the interval that a mean of few independent values would have, and its width.

    The width is the median over the runs, in multiples of Student's interval of the same values.
    """
    from scipy.special import ndtr, stdtrit

    quantile, mean = MEANS[name]
    values = quantile(ndtr(latent(Design(sources), 1, runs, 0.0, seed)[:, 0]))
    low, high = mean_ends(values, np.ones_like(values), draws=1000, seed=seed, least=2)
    student = 2 * stdtrit(sources - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(sources)
    # Equal values, such as zeros alone, have an interval without a width.
    wide = student > 0
    return float(((low <= mean) & (mean <= high)).mean()), float(
        np.median((high - low)[wide] / student[wide])
    )


def false_separations(
    design: Design, p: float, methods: int, runs: int, alike: float = 0.5, seed: int = 0
) -> float:
    """Share of tables of equally good methods in which the best is said to be separable from any other."""
    z = latent(design, methods, runs, alike, seed) < NormalDist().inv_cdf(p)
    wrong = 0
    for run in range(runs):
        values = z[:, :, run].astype(np.float64)
        best = int(values.mean(axis=0).argmax())
        pairs, sums = pair_sums(values, design.cluster)
        p_values = max_t([sums], draws=999, seed=run)[0]
        wrong += any(q < ALPHA for pair, q in zip(pairs, p_values, strict=True) if best in pair)
    return wrong / runs


def power_said(design: Design, p: float, runs: int, seed: int = 0) -> tuple[float, float]:
    """The difference that the power note names, and how often the test of the tables finds it.

    Means over 20 runs of two methods of p: each is reported on, and then as many tables are simulated.
    """
    probes = latent(design, 2, 20, 0.5, seed) < NormalDist().inv_cdf(p)
    gaps, hits, tried = [], 0, 0
    for probe in range(20):
        gap = detectable(probes[:, :, probe].astype(np.float64), design.cluster, seed=probe)
        if gap is None or gap >= p:
            continue
        gaps.append(gap)
        bounds = [NormalDist().inv_cdf(p), NormalDist().inv_cdf(p - gap)]
        z = latent(design, 2, max(1, runs // 20), 0.5, seed + 1 + probe)
        for run in range(z.shape[2]):
            values = (z[:, :, run] < bounds).astype(np.float64)
            p_value = max_t([pair_sums(values, design.cluster)[1]], draws=999, seed=run)[0][0]
            hits, tried = hits + bool(p_value < ALPHA), tried + 1
    return (float(np.mean(gaps)), hits / tried) if tried else (float("nan"), float("nan"))


# --- printing ------------------------------------------------------------------------------------------


def table(runs: int) -> Iterator[str]:
    """The lines of the whole simulation; a figure that misses its aim has a star."""
    tables = max(1, runs // 2)

    def low(value: float) -> str:
        return _starred(value, value < COVERED - 2 * _error(COVERED, runs))

    def high(value: float) -> str:
        return _starred(value, value > FALSE + 2 * _error(FALSE, tables))

    yield f"{runs} simulated runs per figure; * misses its aim by more than two standard errors of the simulation."
    yield ""
    yield f"Shares: % of 95 % intervals that hold the truth; aim {COVERED:.0%}"
    yield f"{'p':44}" + " ".join(f"{p:5.2f} " for p in SHARES)
    for design in DESIGNS:
        found = [share_coverage(design, p, runs, seed) for seed, p in enumerate(SHARES)]
        yield f"{design!s:44}" + " ".join(map(low, found))
    pairs = (
        (0.98, 0.0),
        (0.9, 0.0),
        (0.5, 0.0),
        (0.05, 0.0),
        (0.98, 0.08),
        (0.9, 0.2),
        (0.5, 0.2),
        (0.3, 0.28),
    )
    for alike in (0.0, 0.5, 0.9):
        yield ""
        yield (
            "Differences of shares of two methods on the same edits "
            f"(correlation {alike:g}): % of 95 % intervals that hold the truth; aim {COVERED:.0%}"
        )
        yield f"{'p, and by how much the second is lower':44}" + " ".join(
            f"{p:.2f}-{gap:.2f}" for p, gap in pairs
        )
        for design in DESIGNS:
            found = [
                difference_coverage(design, p, gap, alike, runs, 10 + i) for i, (p, gap) in enumerate(pairs)
            ]
            yield f"{design!s:44}" + " ".join(f"{low(value):>9}" for value in found)
    yield ""
    yield f"Means: % of 95 % intervals that hold the truth; aim {COVERED:.0%}"
    yield f"{'':44}" + " | ".join(MEANS)
    for design in DESIGNS:
        found = [mean_coverage(design, name, runs, 30 + i) for i, name in enumerate(MEANS)]
        cells = (low(v).rjust(max(6, len(n))) for v, n in zip(found, MEANS, strict=True))
        yield f"{design!s:44}" + " | ".join(cells)
    yield ""
    yield (
        f"Means of few sources: % of 95 % intervals that hold the truth, and width in multiples of Student's. Reports "
        f"show none below {LEAST_CLUSTERS} sources."
    )
    yield f"{'':44}" + " | ".join(MEANS)
    for sources in range(3, 9):
        cells = []
        for i, name in enumerate(MEANS):
            share, width = few_sources(sources, name, runs, 40 + i)
            cells.append(f"{100 * share:5.1f} {width:4.2f}".rjust(max(6, len(name))))
        yield f"{Design(sources)!s:44}" + " | ".join(cells)
    yield ""
    yield f"False separations: % of {tables} tables of equally good methods with any; aim {FALSE:.0%} at most"
    columns = [(p, methods) for methods in (2, 8) for p in (0.02, 0.1, 0.5, 0.9, 0.98)]
    yield f"{'p / methods':44}" + " ".join(f"{p:.2f}/{methods}" for p, methods in columns)
    for design in DESIGNS:
        if design.sources <= 59:
            found = [false_separations(design, p, m, tables, seed=50 + i) for i, (p, m) in enumerate(columns)]
            yield f"{design!s:44}" + " ".join(map(high, found))
    yield ""
    yield "Power note (2 methods, p .5 and .9): points that it names, and % of tables that find them; aim 80 %"
    for design in DESIGNS:
        if 16 <= design.sources <= 59:
            said = [power_said(design, p, tables, 70) for p in (0.5, 0.9)]
            cells = (f"{100 * gap:5.1f} points {100 * hit:5.1f} %" for gap, hit in said)
            yield f"{design!s:44}" + "   ".join(cells)


def _starred(share: float, missed: bool) -> str:
    return f"{100 * share:5.1f}{'*' if missed else ' '}"


def _error(share: float, n: int) -> float:
    """Standard error of a share of n simulated runs."""
    return float(np.sqrt(share * (1 - share) / n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    for line in table(parser.parse_args().runs):
        print(line, flush=True)


if __name__ == "__main__":
    main()

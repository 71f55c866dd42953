"""Whether the intervals of Fréchet distances, KID and CMMD have the right width: ``make perf`` prints it.

    python tests/perf/set_intervals.py --repeats 400 --n 16 64

Sets of edits and of real images are drawn again and again from one known population of feature rows, and each
pair of sets is scored as the suite scores it. Printed are, over the draws:

=============  ===============================================================================================
expected       mean of the distance: the expected value of the estimator at this n
spread         standard deviation of the distance
half-width     mean of ``high - value``, in units of 1.96 spreads; 1 is right, above 1 is too wide
coverage       share of the intervals that hold the expected value, with its standard error; aim: 93 % or more
=============  ===============================================================================================

The rows are pooled ReLUs of a Gaussian mixture whose spectrum falls as those of networks do. Edits are moved
away from the real images; edits of one source share 60 % of their variance.

The half-width exceeds 1 at few sources, for there the jackknife overstates the variance. A correction by pairs of
groups (Efron and Stein 1981) brought it nearer to 1, but coverage down to 87 to 96 % at n = 16 and 64. All of it
takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from bench.metrics.features import Features  # noqa: E402
from bench.metrics.options import MetricOptions, RealismOptions  # noqa: E402
from bench.metrics.realism import Cmmd, Vgg16Frechet, Vgg16Kid  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPONENTS = 8
SAME_SOURCE = 0.6
"""Share of the variance that edits of one source have in common."""


class Population:
    """The law that rows are drawn from."""

    def __init__(self, dimensions: int) -> None:
        generator = np.random.default_rng(1)
        spectrum = np.arange(1, dimensions + 1) ** -0.6
        self.mixing = np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0] * spectrum
        self.means = 0.15 * generator.normal(size=(COMPONENTS, dimensions))
        self.shift = 0.06 * np.abs(generator.normal(size=dimensions))

    def draw(
        self, generator: np.random.Generator, n: int, per_source: int = 1, *, edited: bool = False
    ) -> tuple[NDArray[np.float32], list[str]]:
        """``n`` rows ``(n, D)``, and the source of each."""
        owner = np.arange(n) // per_source
        sources = int(owner[-1]) + 1
        common = generator.normal(size=(sources, len(self.shift)))[owner]
        own = generator.normal(size=common.shape)
        normal = (np.sqrt(SAME_SOURCE) * common + np.sqrt(1 - SAME_SOURCE) * own) @ self.mixing.T
        mean = self.means[generator.integers(COMPONENTS, size=sources)[owner]]
        rows = np.maximum(0, 0.5 * (normal + mean) + 0.1 + edited * self.shift)
        return rows.astype(np.float32), [str(source) for source in owner]


class RowsCmmd(Cmmd):
    """CMMD of rows that are there already: no CLIP is needed."""

    def _identity(self) -> str:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64, 400, 2000], help="edits")
    parser.add_argument("--per-source", type=int, nargs="+", default=[1, 4], help="edits of one source")
    parser.add_argument("--reference", type=int, default=1000, help="real images")
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=200, help="draws; a quarter of them from n = 1000 on")
    options = parser.parse_args()

    # Fewer subsets than the suite's 100, to save time: their scatter is in the interval.
    features = Features(MetricOptions(realism=RealismOptions(kid_subsets=10)))
    metrics = {"Fréchet": Vgg16Frechet(features), "KID": Vgg16Kid(features), "CMMD": RowsCmmd(features)}
    population = Population(options.dimensions)
    start = time.perf_counter()
    print("distance      n  sources  draws   expected     spread  half-width  coverage")
    for n in options.n:
        repeats = options.repeats // 4 if n >= 1000 else options.repeats
        for per_source in options.per_source:
            results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in metrics}
            for repeat in range(repeats):
                generator = np.random.default_rng([repeat, n, per_source])
                edited, sources = population.draw(generator, n, per_source, edited=True)
                real, _ = population.draw(generator, options.reference)
                for name, metric in metrics.items():
                    x, y = (unit(edited), unit(real)) if name == "CMMD" else (edited, real)
                    value = metric.distance(x, y)
                    low, high, problem = metric.interval(value, x, y, sources)
                    if low is None or high is None:
                        sys.exit(f"n = {n}, {per_source} edits of each source: {problem}")
                    results[name].append((value, low, high))
            for name, triples in results.items():
                value, low, high = np.array(triples).T
                expected, spread = value.mean(), value.std(ddof=1)
                covered = float(((low <= expected) & (expected <= high)).mean())
                error = np.sqrt(covered * (1 - covered) / repeats)
                print(
                    f"{name:8s} {n:6d} {len(set(sources)):8d} {repeats:6d} {expected:10.4g} {spread:10.3g}"
                    f"{(high - value).mean() / (1.96 * spread):12.2f} {100 * covered:7.1f} ± {100 * error:.1f} %",
                    flush=True,
                )
    print(
        f"{options.reference} real images, {options.dimensions} dimensions; {time.perf_counter() - start:.0f} s"
    )


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows at length 1, as CLIP's features are."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()

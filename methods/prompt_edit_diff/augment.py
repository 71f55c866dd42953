"""Mask dropout (paper, section 2.F): masks of random size and shape, so that an imprecise mask does little harm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.imprecise_masks import KINDS, imprecise


@dataclass(frozen=True)
class MaskDropout:
    """Changes the regions of a share of the examples. The choice follows from the generator alone."""

    probability: float = 0.25
    # Largest growth or shrinkage, as a share of the image's side.
    reach: float = 0.06
    blob: float = 0.3
    # Smallest share of a region that remains. A change that leaves less is weakened or omitted.
    least: float = 0.5

    def __post_init__(self) -> None:
        for name in ("probability", "reach", "blob", "least"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mask dropout: {name} {getattr(self, name)}: expected a number from 0 to 1")

    def __call__(self, regions: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Regions bool (N, R, H, W) => a copy, changed in some examples. Empty regions stay empty.

        A region never grows into another one of its example.
        """
        out = regions.copy()
        # Each example is changed with the stated probability, in each way equally often.
        for n in np.flatnonzero(rng.random(len(regions)) < self.probability):
            out[n] = self.change(regions[n], KINDS[int(rng.integers(len(KINDS)))], rng)
        return out

    def change(self, regions: NDArray[np.bool_], kind: str, rng: np.random.Generator) -> NDArray[np.bool_]:
        """One example, bool (R, H, W). ``kind`` is one of ``bench.imprecise_masks.KINDS``."""
        return imprecise(regions, kind, rng, self.reach, self.blob, self.least)

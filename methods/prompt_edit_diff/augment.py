"""Mask dropout: masks of random size and shape, so that a sloppy mask does little harm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS: tuple[str, ...] = ("grow", "shrink", "box", "blob", "drop")
"""What may happen to a mask, each as likely as the others:

grow, shrink: by 1 to ``reach`` of the side, round; box: every region becomes its bounding box, grown;
blob: an ellipse of up to ``blob`` of the side is added at the region's edge; drop: a rectangle of up to a third
of the region's bounding box goes.
"""


@dataclass(frozen=True)
class MaskDropout:
    """Changes the regions of a share of the examples; which, and how, follows from the generator alone."""

    probability: float = 0.25
    reach: float = 0.06
    """Most that a mask grows or shrinks, as a share of the picture's side."""
    blob: float = 0.3
    least: float = 0.5
    """Share of a region that remains at least: less is taken where more would remain too little, or nothing."""

    def __post_init__(self) -> None:
        for name in ("probability", "reach", "blob", "least"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mask dropout: {name} {getattr(self, name)}: expected a number from 0 to 1")

    def __call__(self, regions: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Booleans (N, R, H, W) => the same with some examples' regions changed. Empty regions stay empty.

        Regions of one example stay apart where they were: what another region holds is not taken.
        """
        out = regions.copy()
        for n in np.flatnonzero(rng.random(len(regions)) < self.probability):
            out[n] = self.change(regions[n], KINDS[int(rng.integers(len(KINDS)))], rng)
        return out

    def change(self, regions: NDArray[np.bool_], kind: str, rng: np.random.Generator) -> NDArray[np.bool_]:
        """One example, bool (R, H, W). ``kind`` is one of ``KINDS``."""
        out = regions.copy()
        side = max(regions.shape[1:])
        radius = max(1, int(rng.integers(1, max(2, round(self.reach * side) + 1))))
        for r, region in enumerate(regions):
            if not region.any():
                continue
            others = (
                np.delete(regions, r, axis=0).any(0) & ~region if len(regions) > 1 else np.zeros_like(region)
            )
            for tried in range(radius, 0, -1):
                made = _changed(region, kind, tried, max(2, round(self.blob * side)), rng) & ~others
                if np.count_nonzero(made) >= self.least * np.count_nonzero(region):
                    out[r] = made
                    break
        return out


def _changed(
    region: NDArray[np.bool_], kind: str, radius: int, blob: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    height, width = region.shape
    if kind == "grow":
        return _grown(region, radius)
    if kind == "shrink":
        return ~_grown(~region, radius)
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    if kind == "box":
        out = np.zeros_like(region)
        out[max(0, top - radius) : bottom + radius, max(0, left - radius) : right + radius] = True
        return out
    if kind == "blob":
        edge = region & _grown(~region, 1)
        at = np.argwhere(edge if edge.any() else region)
        y, x = at[int(rng.integers(len(at)))]
        a, b = (1 + float(v) * blob / 2 for v in rng.random(2))
        down, along = np.ogrid[0:height, 0:width]
        ellipse: NDArray[np.bool_] = ((down - y) / a) ** 2 + ((along - x) / b) ** 2 <= 1
        return region | ellipse
    if kind == "drop":
        tall = int(rng.integers(1, max(2, (bottom - top) // 3 + 1)))
        wide = int(rng.integers(1, max(2, (right - left) // 3 + 1)))
        y = int(rng.integers(top, max(top + 1, bottom - tall + 1)))
        x = int(rng.integers(left, max(left + 1, right - wide + 1)))
        out = region.copy()
        out[y : y + tall, x : x + wide] = False
        return out
    raise ValueError(f"mask dropout: unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")


def _grown(region: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The region and every pixel within ``radius`` of it (squares and diamonds in turn: an octagon)."""
    out = region.copy()
    for step in range(radius):
        padded = np.pad(out, 1)
        grown = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | out
        if step % 2:
            wide = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
            grown = wide[:-2] | wide[1:-1] | wide[2:]
        out = grown
    return out

"""Drift: a shift or zoom of the whole edited image, and leakage after undoing it.

An instruction editor often returns an image that is moved by a few pixels or slightly enlarged. Every leakage metric
then measures misregistration. These metrics tell the two apart: ``drift_px`` and ``drift_zoom`` say how far the content
moved, ``leak_*_aligned`` what else changed. :mod:`bench.metrics.registration` estimates the drift.

They are computed where a suite names them. An image without drift, such as a copy, a JPEG or a blurred or tinted image,
has a drift of exactly 0, and its aligned values equal the plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from bench.metrics.leakage import NO_OUTSIDE, LeakLpips, LeakPsnr, LeakSsim, PairMetric
from bench.metrics.registration import IDENTITY, Similarity, register, undo
from bench.metrics.types import NoValue, Pair, RgbImage, Value

if TYPE_CHECKING:
    from bench.metrics.features import Features


class _Registered(PairMetric):
    """A metric that needs the drift of an edit. All of them share its estimate."""

    on_request = True
    # Version 2 refuses by the area that changed. Version 1 counted tiles with texture alone.
    version = "2"

    def _drifts(self, pairs: Sequence[Pair]) -> list[Similarity | NoValue]:
        def compute(new: Sequence[Pair]) -> list[Similarity | NoValue]:
            return self.features.map(_drift, new)

        return self.features.pair_values("drift-registration", pairs, compute)


def _drift(pair: Pair) -> Similarity | NoValue:
    return register(pair.source.pixels, pair.edited.pixels, pair.mask)


class _Drift(_Registered):
    # Without a mask the whole image is registered.
    needs = frozenset()
    computation = "drift"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        names = ("drift_px", "drift_zoom")
        return [
            dict.fromkeys(names, drift) if isinstance(drift, NoValue) else self._values(pair, drift)
            for pair, drift in zip(pairs, self._drifts(pairs), strict=True)
        ]

    def _values(self, pair: Pair, drift: Similarity) -> dict[str, Value]:
        distance = drift.displacement(pair.source.size)
        if pair.mask is not None:
            distance = distance[self._bands(pair).valid]
        return {
            "drift_px": float(distance.mean()) if distance.size else NO_OUTSIDE,
            "drift_zoom": 100 * (drift.scale - 1),
        }


class DriftPx(_Drift):
    """Mean of |T(p) - p| over the valid pixels outside the mask, or over all pixels without a mask."""

    name = "drift_px"
    heading = "drift px"
    unit = "px"
    summary = "mean distance by which the content outside the mask moved, in pixels of the source"


class DriftZoom(_Drift):
    """100 (s - 1) for the scale s: above 0 the content is enlarged."""

    name = "drift_zoom"
    heading = "drift zoom %"
    unit = "%"
    # Neither enlarging nor shrinking is better.
    higher_is_better = None
    summary = "zoom of the content outside the mask, in % (above 0: enlarged)"


class _Aligned(_Registered):
    """A leakage metric of the edited image after its drift was undone. Pixels beyond its border count as masked."""

    plain: ClassVar[type[PairMetric]]

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self._plain = self.plain(features)

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return cls.plain.problems(features)

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        aligned = [
            drift if isinstance(drift, NoValue) else _aligned(pair, drift)
            for pair, drift in zip(pairs, self._drifts(pairs), strict=True)
        ]
        values = iter(self._plain.score([pair for pair in aligned if isinstance(pair, Pair)]))
        return [next(values) if isinstance(pair, Pair) else pair for pair in aligned]


def _aligned(pair: Pair, drift: Similarity) -> Pair:
    if drift == IDENTITY:
        return pair
    pixels, inside = undo(pair.edited.pixels, drift)
    return replace(pair, edited=RgbImage(pixels), mask=pair.needed_mask | ~inside)


class LeakLpipsAligned(_Aligned):
    name = "leak_lpips_aligned"
    heading = "leak LPIPS, aligned"
    unit = "LPIPS"
    net = "alex"
    plain = LeakLpips
    summary = "leak_lpips after undoing shift and zoom"


class LeakPsnrAligned(_Aligned):
    name = "leak_psnr_aligned"
    heading = "leak PSNR, aligned"
    unit = "dB"
    higher_is_better = True
    plain = LeakPsnr
    summary = "leak_psnr after undoing shift and zoom"


class LeakSsimAligned(_Aligned):
    name = "leak_ssim_aligned"
    heading = "leak SSIM, aligned"
    unit = "-1..1"
    higher_is_better = True
    plain = LeakSsim
    summary = "leak_ssim after undoing shift and zoom"

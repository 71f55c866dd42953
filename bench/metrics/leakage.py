"""Leakage: changes outside the mask, where nothing should change. And the amount of change inside the mask.

Every leakage metric compares only valid outside pixels: those farther from the mask than a thin edge band, where
blending is no leakage. Pixels inside the mask cannot change a value:

* MSE, PSNR, SSIM and the changed shares never read a pixel that is not valid (``bench.metrics.masked``).
* LPIPS has receptive fields that reach across the mask. The edited image is therefore filled from the
  source wherever it is not valid (mask and edge band), compared as a spatial map, and averaged over the
  valid pixels. leak_lpips_edge fills the mask alone and averages over the edge band.

**Dilution.** The fill makes LPIPS smaller where the mask is large: deep features near the mask also see the
filled pixels, which do not differ. Example: all pixels outside become gray, at 64 px. Then leak_lpips is 0.68, 0.27,
0.14 and 0.04 where 1, 87, 95 and 99 % of the image are masked (``tests/perf/leak_rule.py --tables 4``). Compare
leak_lpips between methods on the same cases, but not between masks of different size. leak_lpips_undiluted can be
compared between masks. MSE, PSNR and the changed shares are not diluted.

A composited edit has no leakage by construction, so these metrics do not score it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.masked import (
    Bands,
    bands,
    changed_area,
    changed_share,
    masked_mae,
    masked_mse,
    masked_ssim,
    psnr,
)
from bench.metrics.networks import lpips_weights
from bench.metrics.networks.lpips_net import MIN_SIDE
from bench.metrics.options import LeakageOptions, versioned
from bench.metrics.types import Metric, NoValue, Pair, RgbImage, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features

    BoolHW = NDArray[np.bool_]

NO_OUTSIDE = NoValue("no pixel lies outside the mask and its edge band")
_EMPTY_MASK = NoValue("the mask is empty")


class PairMetric(Metric):
    """A metric of pixels alone. Metrics with the same ``computation`` share its results."""

    version = "1"
    unit = "0..1"
    higher_is_better: bool | None = False
    needs = frozenset({"mask"})
    uses_features = True
    computation = ""
    """Name of what :meth:`_compute` computes. It gives several metrics their values."""
    net: str | None = None
    """LPIPS network that it needs: ``alex``, ``vgg`` or None."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.options = features.options.leakage
        self.version = versioned(type(self).version, self.options)

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return [] if cls.net is None else lpips_weights.problems(cls.net)

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # The first metric of a computation fills the memory, the others read it.
        values = self.features.pair_values(self.computation, pairs, self._compute)
        return [of_pair[self.name] for of_pair in values]

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        """For each pair, the value of every metric that shares this computation, by the metric's name."""
        raise NotImplementedError

    def _bands(self, pair: Pair) -> Bands:
        return _cached_bands(_HashedMask(pair.needed_mask, pair.mask_key), self.options)


# -- pixels outside -----------------------------------------------------------------------------


class _Pixels(PairMetric):
    computation = "leak-pixels"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        return self.features.map(self._one, pairs)

    def _one(self, pair: Pair) -> dict[str, Value]:
        valid = self._bands(pair).valid
        before, after = pair.source.pixels, pair.edited.pixels
        # All four values need the same pixels: they are computed together.
        mse = masked_mse(before, after, valid)
        share = changed_share(before, after, valid, self.options.visible)
        if mse is None or share is None:
            return dict.fromkeys(("leak_mse", "leak_psnr", "leak_changed", "leak_area"), NO_OUTSIDE)
        area = changed_area(before, after, valid, self.options)
        return {"leak_mse": mse, "leak_psnr": psnr(mse), "leak_changed": share, "leak_area": area}


class LeakMse(_Pixels):
    name = "leak_mse"
    heading = "leak MSE"
    unit = "0..1, squared"
    summary = "mean squared error outside the mask"


class LeakPsnr(_Pixels):
    name = "leak_psnr"
    heading = "leak PSNR"
    unit = "dB"
    higher_is_better = True
    summary = "PSNR outside the mask, capped at 58.92 dB (what 8 bits can tell)"


class LeakChanged(_Pixels):
    name = "leak_changed"
    heading = "leak changed"
    unit = "share"
    summary = "share of outside pixels that visibly changed (some channel by more than 8/255)"


class LeakArea(_Pixels):
    """:func:`changed_area` outside: a part of the success rule."""

    name = "leak_area"
    heading = "leak area"
    # 2: mean colour around each pixel and a bound of .15, in place of fixed tiles and .1.
    version = "2"
    unit = "share"
    summary = "share of the area outside that was repainted (the mean colour around a pixel changed by more than 15 %)"


class LeakSsim(PairMetric):
    name = "leak_ssim"
    heading = "leak SSIM"
    unit = "-1..1"
    higher_is_better = True
    summary = "SSIM outside the mask, from windows that ignore pixels inside"
    computation = "leak-ssim"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        # Edits of one case together: the source's local statistics are computed once for all of them.
        by_case: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            by_case[pair.source.key, pair.mask_key].append(index)
        # One thread per case.
        groups = list(by_case.values())

        def of_case(group: Sequence[int]) -> list[float | None]:
            first = pairs[group[0]]
            edits = [pairs[index].edited.pixels for index in group]
            return masked_ssim(first.source.pixels, edits, self._bands(first).valid)

        missing = NoValue("no valid outside pixel has its 11 x 11 window within the image")
        values: dict[int, dict[str, Value]] = {}
        for group, of_group in zip(groups, self.features.map(of_case, groups), strict=True):
            for index, value in zip(group, of_group, strict=True):
                values[index] = {"leak_ssim": missing if value is None else value}
        return [values[index] for index in range(len(pairs))]


# -- LPIPS outside ------------------------------------------------------------------------------


class LpipsMetric(PairMetric):
    """LPIPS of two filled images, averaged over bands of the case.

    This base fills the edited image from the source up to the edge band's outer rim.
    """

    unit = "LPIPS"
    net = "alex"
    computation = "leak-lpips-alex"
    bands_of_names: tuple[tuple[str, str], ...] = (
        ("leak_lpips", "valid"),
        ("leak_lpips_near", "near"),
        ("leak_lpips_mid", "mid"),
        ("leak_lpips_far", "far"),
    )
    """``(metric, field of Bands over which its map is averaged)`` of all metrics that share the computation."""

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        # Pairs of one size together. LPIPS has no layers left for images that are too small.
        values: list[dict[str, Value]] = [{} for _ in pairs]
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            if min(pair.source.size) < MIN_SIDE:
                too_small = NoValue(f"LPIPS needs at least {MIN_SIDE} pixels a side")
                values[index] = dict.fromkeys((name for name, _ in self.bands_of_names), too_small)
            else:
                by_size[pair.source.size].append(index)

        for indices in by_size.values():
            same_size = [pairs[index] for index in indices]
            before, after = zip(*(self._compared(pair) for pair in same_size), strict=True)
            assert self.net is not None
            # Equal images have a map of exact zeros.
            maps = self.features.lpips(self.net).maps(before, after)  # (N, H, W)
            for index, pair, distance in zip(indices, same_size, maps, strict=True):
                for name, band in self.bands_of_names:
                    pixels = distance[getattr(self._bands(pair), band)]
                    values[index][name] = (
                        float(pixels.mean(dtype=np.float64)) if pixels.size else _empty_band(band)
                    )
        return values

    def _compared(self, pair: Pair) -> tuple[RgbImage, RgbImage]:
        """The two images to compare: here the source, and the edited image filled from it."""
        filled = self._filled(self._bands(pair))
        # Deep features near the mask see equal pixels there, and so no difference (see Dilution).
        pixels = np.where(filled[..., None], pair.source.pixels, pair.edited.pixels)
        return pair.source, RgbImage(pixels)

    def _filled(self, of_case: Bands) -> BoolHW:
        """Pixels of the edited image that are taken from the source, ``(H, W)`` bool."""
        return ~of_case.valid


def _empty_band(band: str) -> NoValue:
    return NO_OUTSIDE if band == "valid" else NoValue(f"no pixel lies in the {band} band")


class LeakLpips(LpipsMetric):
    name = "leak_lpips"
    heading = "leak LPIPS"
    summary = "LPIPS (AlexNet) outside the mask and its edge band"


class LeakLpipsUndiluted(LpipsMetric):
    """LPIPS outside without the dilution of ``leak_lpips``: comparable between masks of any size.

    Both images are filled: each pixel of the mask and its edge band takes the colour of the nearest valid pixel
    of the same image. A difference outside thus continues inside, instead of ending at the mask, and pixels inside
    cannot change the value.
    """

    name = "leak_lpips_undiluted"
    heading = "leak LPIPS, undiluted"
    summary = "LPIPS (AlexNet) outside, not diluted by a large mask"
    computation = "leak-lpips-undiluted"
    bands_of_names = (("leak_lpips_undiluted", "valid"),)

    def _compared(self, pair: Pair) -> tuple[RgbImage, RgbImage]:
        # Nothing to fill from: the value is None in any case.
        if not self._bands(pair).valid.any():
            return pair.source, pair.source
        # (H, W) indices each: every pixel takes the colour of its nearest valid pixel.
        rows, columns = _cached_nearest(_HashedMask(pair.needed_mask, pair.mask_key), self.options)
        return RgbImage(pair.source.pixels[rows, columns]), RgbImage(pair.edited.pixels[rows, columns])


class LeakLpipsNear(LpipsMetric):
    name = "leak_lpips_near"
    heading = "LPIPS near"
    summary = "LPIPS (AlexNet) outside, up to 1/16 of the side from the mask"


class LeakLpipsMid(LpipsMetric):
    name = "leak_lpips_mid"
    heading = "LPIPS mid"
    summary = "LPIPS (AlexNet) outside, 1/16 to 1/4 of the side from the mask"


class LeakLpipsFar(LpipsMetric):
    name = "leak_lpips_far"
    heading = "LPIPS far"
    summary = "LPIPS (AlexNet) outside, beyond 1/4 of the side from the mask"


class LeakLpipsVgg(LpipsMetric):
    name = "leak_lpips_vgg"
    heading = "leak LPIPS-VGG"
    summary = "LPIPS (VGG16) outside the mask and its edge band"
    net = "vgg"
    computation = "leak-lpips-vgg"
    bands_of_names = (("leak_lpips_vgg", "valid"),)


class LeakLpipsEdge(LpipsMetric):
    name = "leak_lpips_edge"
    heading = "LPIPS at edge"
    summary = "LPIPS (AlexNet) in the thin band just outside the mask"
    computation = "leak-lpips-edge"
    bands_of_names = (("leak_lpips_edge", "edge"),)

    def _filled(self, of_case: Bands) -> BoolHW:
        return of_case.mask


# -- change inside ------------------------------------------------------------------------------


class EditChange(PairMetric):
    """Amount of change inside the mask."""

    name = "edit_change"
    heading = "change inside"
    # Too little change is no edit, and too much may be a wrong one: neither direction is better.
    higher_is_better = None
    summary = "mean absolute difference inside the mask"
    computation = "edit-change"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        # Reads masked pixels alone.
        changes = (masked_mae(pair.source.pixels, pair.edited.pixels, pair.needed_mask) for pair in pairs)
        return [{"edit_change": _EMPTY_MASK if change is None else change} for change in changes]


class EditArea(PairMetric):
    """:func:`changed_area` inside: a part of the success rule."""

    name = "edit_area"
    heading = "area inside"
    # As leak_area.
    version = "2"
    unit = "share"
    higher_is_better = None
    summary = "share of the area inside that was repainted (the mean colour around a pixel changed by more than 15 %)"
    computation = "edit-area"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        # Squares are cut by the mask: only their masked pixels count.
        areas = (changed_area(p.source.pixels, p.edited.pixels, p.needed_mask, self.options) for p in pairs)
        return [{"edit_area": _EMPTY_MASK if area is None else area} for area in areas]


# -- caches -------------------------------------------------------------------------------------


class _HashedMask:
    """A mask that hashes by content, for the caches below."""

    def __init__(self, mask: BoolHW, key: str) -> None:
        self.mask, self.key = mask, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HashedMask) and self.key == other.key


@lru_cache(maxsize=128)
def _cached_bands(hashed: _HashedMask, options: LeakageOptions) -> Bands:
    return bands(hashed.mask, options)


@lru_cache(maxsize=16)
def _cached_nearest(hashed: _HashedMask, options: LeakageOptions) -> NDArray[np.int32]:
    """Row and column, ``(2, H, W)`` int32, of the nearest valid pixel. Needs a valid pixel."""
    from scipy.ndimage import distance_transform_edt

    # SciPy returns the nearest zero of its input, here the nearest valid pixel.
    invalid = ~_cached_bands(hashed, options).valid
    nearest: NDArray[np.int32] = distance_transform_edt(invalid, return_distances=False, return_indices=True)
    return nearest

"""Leakage: what changed where nothing should.

Every metric here looks at valid outside pixels only: those farther from the mask than a thin band at its
edge, where blending is no leak. Nothing inside the mask can move a value:

* MSE, PSNR, SSIM and the changed shares never read a pixel that is not valid. SSIM's local statistics are
  weighted by validity (normalised convolution), so that there is neither a fill nor a zeroed inside to pull
  it towards 1.
* LPIPS has receptive fields that reach across the mask. The edited image is therefore filled from the
  source wherever it is not valid (mask and edge band), compared as a spatial map, and averaged over the
  valid pixels. leak_lpips_edge fills the mask alone and averages over the edge band.

**Dilution.** The fill makes LPIPS smaller where the mask is large: deep features near the mask also see the
filled pixels, which do not differ. A gray outside at 64 px measures 0.68, 0.27, 0.14 and 0.04 where 1, 87, 95 and
99 % of the picture are masked (``tests/perf/leak_rule.py --tables 4``). Compare leak_lpips between methods on the
same cases, but not between masks of different size. leak_lpips_undiluted can be compared between masks. MSE,
PSNR and the changed shares are not diluted.

Pasted back into the source, an edit has no leakage by construction, so these metrics have no pasted variant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.networks import lpips_weights
from bench.metrics.networks.lpips_net import MIN_SIDE
from bench.metrics.options import LeakageOptions, versioned
from bench.metrics.types import Metric, NoValue, Pair, RgbImage, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features

    BoolHW = NDArray[np.bool_]
    Uint8HWC = NDArray[np.uint8]

PSNR_CAP = float(10 * np.log10(12 * 255**2))
"""58.92 dB. Rounding to 8 bits alone has a mean squared error of (1/255)^2 / 12; a PSNR above its own cannot
be told from it. Capped there, an untouched outside has a value that a mean over cases can hold."""

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2

_NO_OUTSIDE = NoValue("no pixel lies outside the mask and its edge band")


@dataclass(frozen=True, eq=False)
class Bands:
    """The pixels of a case by their distance from the mask: all ``bool`` ``HW``."""

    mask: BoolHW
    edge: BoolHW
    valid: BoolHW
    """Outside, beyond the edge band."""
    near: BoolHW
    mid: BoolHW
    far: BoolHW
    """``near``, ``mid`` and ``far`` partition ``valid``."""


def bands(mask: BoolHW, options: LeakageOptions | None = None) -> Bands:
    """Of a ``bool`` ``HW`` mask. Distance is Euclidean, to the nearest masked pixel's centre."""
    options = options or LeakageOptions()
    if mask.any():
        from scipy.ndimage import distance_transform_edt

        distance = distance_transform_edt(~mask)
    else:
        distance = np.full(mask.shape, np.inf)
    side = min(mask.shape)
    edge = max(1.0, options.edge * side)
    near, mid = max(edge, options.near * side), max(edge, options.mid * side)
    return Bands(
        mask=mask,
        edge=(distance > 0) & (distance <= edge),
        valid=distance > edge,
        near=(distance > edge) & (distance <= near),
        mid=(distance > near) & (distance <= mid),
        far=distance > mid,
    )


def masked_mse(source: Uint8HWC, edited: Uint8HWC, valid: BoolHW) -> float | None:
    """Mean over valid pixels and channels of the squared difference of values in [0, 1]; None without any."""
    difference = source[valid].astype(np.int32) - edited[valid]
    return float(np.square(difference).mean() / 255**2) if difference.size else None


def psnr(mse: float) -> float:
    """dB, for values in [0, 1]; at most ``PSNR_CAP``."""
    return PSNR_CAP if mse <= 0 else min(PSNR_CAP, float(-10 * np.log10(mse)))


def changed_share(source: Uint8HWC, edited: Uint8HWC, valid: BoolHW, visible: float) -> float | None:
    """Share of valid pixels of which some channel, in [0, 1], differs by more than ``visible``."""
    difference = np.abs(source[valid].astype(np.int16) - edited[valid])
    # Compared in units of 1/255, with room for the rounding of visible * 255 alone.
    return float((difference.max(axis=1) > visible * 255 + 1e-9).mean()) if difference.size else None


def changed_area(
    source: Uint8HWC, edited: Uint8HWC, region: BoolHW, options: LeakageOptions | None = None
) -> float | None:
    """Share of a region's area where the colour of a whole tile changed; None for an empty region.

    The picture is divided into square tiles, ``options.tile`` of its shorter side wide (1/16: 4 px of 64, 32 px
    of 512). A tile has changed where the mean over the region's pixels in it differs by more than
    ``options.repainted`` in some channel, values in [0, 1]; it counts by its number of pixels in ``region``.
    The mean cancels the fine errors of a compression, so that the share says where something else was painted.
    It depends on neither the size of ``region`` nor the number of pixels in the picture.
    """
    options = options or LeakageOptions()
    side = max(1.0, options.tile * min(region.shape))
    starts = [(side * np.arange(max(1, round(n / side)))).astype(np.intp) for n in region.shape]

    def per_tile(values: NDArray[np.int32]) -> NDArray[np.int64]:
        rows = np.add.reduceat(values, starts[0], axis=0, dtype=np.int64)
        return np.add.reduceat(rows, starts[1], axis=1)

    pixels = per_tile(region.astype(np.int32))
    if not pixels.any():
        return None
    difference = per_tile((source.astype(np.int32) - edited) * region[..., None])
    largest = np.abs(difference).max(axis=-1)
    # Compared as sums: |sum| > pixels * repainted * 255, with room for the rounding of the product alone.
    changed = largest > pixels * (options.repainted * 255 + 1e-9)
    return float(pixels[changed].sum() / pixels.sum())


def inside_change(source: Uint8HWC, edited: Uint8HWC, mask: BoolHW) -> float | None:
    """Mean over masked pixels and channels of the absolute difference of values in [0, 1]."""
    difference = np.abs(source[mask].astype(np.int16) - edited[mask])
    return float(difference.mean() / 255) if difference.size else None


def masked_ssim(source: Uint8HWC, edited: Sequence[Uint8HWC], valid: BoolHW) -> list[float | None]:
    """Mean structural similarity over valid pixels of each of several edits of one source.

    Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, K1 = .01, K2 = .03, values in [0, 1], by channel;
    local means, variances and covariance are taken over the valid pixels of the window alone. Averaged over
    the valid pixels whose window lies within the image. With every pixel valid this is scikit-image's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)``.
    None where there is no such pixel.
    """
    from scipy.ndimage import correlate1d

    taps = np.exp(-0.5 * (np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    crop = (slice(SSIM_RADIUS, -SSIM_RADIUS),) * 2
    counted = valid[crop]
    if not counted.any():
        return [None] * len(edited)
    weight = valid[..., None].astype(np.float64)

    def blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = correlate1d(x, taps, axis=0, mode="constant")[SSIM_RADIUS:-SSIM_RADIUS]
        cropped: NDArray[np.float64] = correlate1d(rows, taps, axis=1, mode="constant")
        return cropped[:, SSIM_RADIUS:-SSIM_RADIUS][counted]

    total = blur(weight)
    x = source / 255.0
    mean_x = blur(weight * x) / total
    variance_x = blur(weight * x * x) / total - mean_x**2
    result: list[float | None] = []
    for pixels in edited:
        y = pixels / 255.0
        mean_y = blur(weight * y) / total
        variance_y = blur(weight * y * y) / total - mean_y**2
        covariance = blur(weight * x * y) / total - mean_x * mean_y
        similarity = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
        similarity /= (mean_x**2 + mean_y**2 + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
        result.append(float(similarity.mean()))
    return result


def fill(pair: Pair, where: BoolHW) -> RgbImage:
    """The edited picture with the source's pixels at ``where``."""
    return RgbImage(np.where(where[..., None], pair.source.pixels, pair.edited.pixels))


class _Leakage(Metric):
    """Shared by the metrics of this file: one computation named ``computation`` gives several their values."""

    name = ""
    version = "1"
    unit = "0..1"
    higher_is_better: bool | None = False
    needs = frozenset({"mask"})
    summary = ""
    uses_features = True
    computation = ""
    net: str | None = None

    def __init__(self, features: Features) -> None:
        self.features = features
        self.options = features.options.leakage
        self.version = versioned(type(self).version, self.options)

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return [] if cls.net is None else lpips_weights.problems(cls.net)

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        found = self.features.pair_values(self.computation, pairs, self._compute)
        return [values[self.name] for values in found]

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        raise NotImplementedError

    def _bands(self, pair: Pair) -> Bands:
        return _cached_bands(_Masked(pair.mask, pair.mask_key), self.options)


class _Pixels(_Leakage):
    computation = "leak-pixels"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        return self.features.map(self._one, pairs)

    def _one(self, pair: Pair) -> dict[str, Value]:
        valid = self._bands(pair).valid
        before, after = pair.source.pixels, pair.edited.pixels
        mse = masked_mse(before, after, valid)
        share = changed_share(before, after, valid, self.options.visible)
        if mse is None or share is None:
            return dict.fromkeys(("leak_mse", "leak_psnr", "leak_changed", "leak_area"), _NO_OUTSIDE)
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
    unit = "share"
    summary = (
        "share of the area outside that was repainted (the mean colour of a tile changed by more than 1/10)"
    )


class LeakSsim(_Leakage):
    name = "leak_ssim"
    heading = "leak SSIM"
    unit = "-1..1"
    higher_is_better = True
    summary = "SSIM outside the mask, its windows blind to the inside"
    computation = "leak-ssim"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        groups = list(_by_case(pairs).values())

        def of_case(group: Sequence[int]) -> list[float | None]:
            first = pairs[group[0]]
            edits = [pairs[index].edited.pixels for index in group]
            return masked_ssim(first.source.pixels, edits, self._bands(first).valid)

        missing = NoValue("no valid outside pixel has its 11 x 11 window within the image")
        result: dict[int, dict[str, Value]] = {}
        for group, values in zip(groups, self.features.map(of_case, groups), strict=True):
            for index, value in zip(group, values, strict=True):
                result[index] = {"leak_ssim": missing if value is None else value}
        return [result[index] for index in range(len(pairs))]


class _Lpips(_Leakage):
    """``computation`` names the computation, ``net`` the backbone; filled and averaged beyond the edge band."""

    unit = "LPIPS"
    net = "alex"
    computation = "leak-lpips-alex"
    names: tuple[tuple[str, str], ...] = (
        ("leak_lpips", "valid"),
        ("leak_lpips_near", "near"),
        ("leak_lpips_mid", "mid"),
        ("leak_lpips_far", "far"),
    )

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        result: list[dict[str, Value]] = [{} for _ in pairs]
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            if min(pair.source.size) < MIN_SIDE:
                small = NoValue(f"LPIPS needs at least {MIN_SIDE} pixels a side")
                result[index] = dict.fromkeys((name for name, _ in self.names), small)
            else:
                by_size[pair.source.size].append(index)
        for indices in by_size.values():
            todo = [pairs[index] for index in indices]
            before, after = zip(*(self._compared(pair) for pair in todo), strict=True)
            assert self.net is not None
            maps = self.features.lpips(self.net).maps(before, after)
            for index, pair, distance in zip(indices, todo, maps, strict=True):
                parts = self._bands(pair)
                for name, band in self.names:
                    pixels = distance[getattr(parts, band)]
                    result[index][name] = (
                        float(pixels.mean(dtype=np.float64)) if pixels.size else _empty(band)
                    )
        return result

    def _compared(self, pair: Pair) -> tuple[RgbImage, RgbImage]:
        return pair.source, fill(pair, self._filled(self._bands(pair)))

    def _filled(self, parts: Bands) -> BoolHW:
        return ~parts.valid


class LeakLpips(_Lpips):
    name = "leak_lpips"
    heading = "leak LPIPS"
    summary = "LPIPS (AlexNet) outside the mask and its edge band"


class LeakLpipsUndiluted(_Lpips):
    """LPIPS outside without the dilution of ``leak_lpips``: comparable between masks of any size.

    Both images are filled: each pixel of the mask and its edge band takes the colour of the nearest valid pixel
    of the same image. A difference outside so continues inside, instead of ending at the mask, and nothing
    inside can move the value.
    """

    name = "leak_lpips_undiluted"
    heading = "leak LPIPS, undiluted"
    summary = "LPIPS (AlexNet) outside, not diluted by a large mask"
    computation = "leak-lpips-undiluted"
    names = (("leak_lpips_undiluted", "valid"),)

    def _compared(self, pair: Pair) -> tuple[RgbImage, RgbImage]:
        if not self._bands(pair).valid.any():
            return pair.source, pair.source
        rows, columns = _cached_nearest(_Masked(pair.mask, pair.mask_key), self.options)
        return RgbImage(pair.source.pixels[rows, columns]), RgbImage(pair.edited.pixels[rows, columns])


class LeakLpipsNear(_Lpips):
    name = "leak_lpips_near"
    heading = "LPIPS near"
    summary = "LPIPS (AlexNet) outside, up to 1/16 of the side from the mask"


class LeakLpipsMid(_Lpips):
    name = "leak_lpips_mid"
    heading = "LPIPS mid"
    summary = "LPIPS (AlexNet) outside, 1/16 to 1/4 of the side from the mask"


class LeakLpipsFar(_Lpips):
    name = "leak_lpips_far"
    heading = "LPIPS far"
    summary = "LPIPS (AlexNet) outside, beyond 1/4 of the side from the mask"


class LeakLpipsVgg(_Lpips):
    name = "leak_lpips_vgg"
    heading = "leak LPIPS-VGG"
    summary = "LPIPS (VGG16) outside the mask and its edge band"
    net = "vgg"
    computation = "leak-lpips-vgg"
    names = (("leak_lpips_vgg", "valid"),)


class LeakLpipsEdge(_Lpips):
    name = "leak_lpips_edge"
    heading = "LPIPS at edge"
    summary = "LPIPS (AlexNet) in the thin band just outside the mask"
    computation = "leak-lpips-edge"
    names = (("leak_lpips_edge", "edge"),)

    def _filled(self, parts: Bands) -> BoolHW:
        return parts.mask


class EditChange(_Leakage):
    """Not leakage but its counterpart: how much changed inside; a part of the success rule."""

    name = "edit_change"
    heading = "change inside"
    # A little change may be no edit, and much of it too much: neither end is better.
    higher_is_better = None
    summary = "mean absolute difference inside the mask"
    computation = "edit-change"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        changes = (inside_change(pair.source.pixels, pair.edited.pixels, pair.mask) for pair in pairs)
        return [{"edit_change": NoValue("the mask is empty") if c is None else c} for c in changes]


class EditArea(EditChange):
    """:func:`changed_area` inside: a part of the success rule."""

    name = "edit_area"
    heading = "area inside"
    unit = "share"
    summary = (
        "share of the area inside that was repainted (the mean colour of a tile changed by more than 1/10)"
    )
    computation = "edit-area"

    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, Value]]:
        areas = (changed_area(p.source.pixels, p.edited.pixels, p.mask, self.options) for p in pairs)
        return [{"edit_area": NoValue("the mask is empty") if a is None else a} for a in areas]


def _empty(band: str) -> NoValue:
    return _NO_OUTSIDE if band == "valid" else NoValue(f"no pixel lies in the {band} band")


def _by_case(pairs: Sequence[Pair]) -> dict[tuple[str, str], list[int]]:
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        groups[pair.source.key, pair.mask_key].append(index)
    return groups


class _Masked:
    """A mask that hashes by content, for the cache below."""

    def __init__(self, mask: BoolHW, key: str) -> None:
        self.mask, self.key = mask, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Masked) and self.key == other.key


@lru_cache(maxsize=128)
def _cached_bands(masked: _Masked, options: LeakageOptions) -> Bands:
    return bands(masked.mask, options)


@lru_cache(maxsize=16)
def _cached_nearest(masked: _Masked, options: LeakageOptions) -> NDArray[np.int32]:
    """Row and column, ``int32`` ``(2, H, W)``, of the nearest valid pixel; a mask with a valid outside only."""
    from scipy.ndimage import distance_transform_edt

    invalid = ~_cached_bands(masked, options).valid
    nearest: NDArray[np.int32] = distance_transform_edt(invalid, return_distances=False, return_indices=True)
    return nearest

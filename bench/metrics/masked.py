"""Comparisons of two images on the pixels inside or outside a mask, as pure functions of arrays.

No function reads a pixel that does not count. Images are ``(H, W, 3)`` uint8, masks ``(H, W)`` bool. Differences are
between values in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.options import LeakageOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolHW = NDArray[np.bool_]
    Uint8HWC = NDArray[np.uint8]

# 58.92 dB. Rounding to 8 bits alone has a mean squared error of (1/255)^2 / 12, so a higher PSNR cannot be
# distinguished from rounding. The cap also makes the PSNR of an untouched outside finite, so that means exist.
PSNR_CAP = float(10 * np.log10(12 * 255**2))

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


@dataclass(frozen=True, eq=False)
class Bands:
    """The pixels of a case by their distance from the mask. All are ``(H, W)`` bool."""

    mask: BoolHW
    edge: BoolHW
    """Outside, close to the mask, where blending is no leak."""
    valid: BoolHW
    """Outside, beyond the edge band. ``near``, ``mid`` and ``far`` partition it."""
    near: BoolHW
    mid: BoolHW
    far: BoolHW


def bands(mask: BoolHW, options: LeakageOptions | None = None) -> Bands:
    """Sorts pixels by their Euclidean distance to the centre of the nearest masked pixel."""
    options = options or LeakageOptions()
    if mask.any():
        from scipy.ndimage import distance_transform_edt

        # 0 inside the mask.
        distance = distance_transform_edt(~mask)
    else:
        # Without a mask, everything is far outside.
        distance = np.full(mask.shape, np.inf)
    # Widths are shares of the shorter side. The edge band is at least one pixel wide.
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
    """Mean squared difference over valid pixels and channels, 0 to 1. None without a valid pixel."""
    # Integers: exact for 8-bit values.
    difference = source[valid].astype(np.int32) - edited[valid]  # (pixels, 3)
    return float(np.square(difference).mean() / 255**2) if difference.size else None


def masked_mae(source: Uint8HWC, edited: Uint8HWC, valid: BoolHW) -> float | None:
    """Mean absolute difference over valid pixels and channels, 0 to 1. None without a valid pixel."""
    difference = np.abs(source[valid].astype(np.int16) - edited[valid])  # (pixels, 3)
    return float(difference.mean() / 255) if difference.size else None


def psnr(mse: float) -> float:
    """dB, for a mean squared error of values in [0, 1]. At most ``PSNR_CAP``."""
    # 10 log10(peak^2 / mse) with peak 1.
    return PSNR_CAP if mse <= 0 else min(PSNR_CAP, float(-10 * np.log10(mse)))


def changed_share(source: Uint8HWC, edited: Uint8HWC, valid: BoolHW, visible: float) -> float | None:
    """Share of valid pixels that differ by more than ``visible`` in some channel. None without a valid pixel."""
    difference = np.abs(source[valid].astype(np.int16) - edited[valid])  # (pixels, 3)
    # Compared in units of 1/255. 1e-9 allows for the rounding of visible * 255.
    return float((difference.max(axis=1) > visible * 255 + 1e-9).mean()) if difference.size else None


def changed_area(
    source: Uint8HWC, edited: Uint8HWC, region: BoolHW, options: LeakageOptions | None = None
) -> float | None:
    """Share of a region's pixels that were repainted, 0 to 1. None for an empty region.

    A pixel was repainted where the mean colour around it differs by more than ``options.repainted`` in some channel.
    The mean is taken over the region's pixels in a square, ``options.tile`` of the image's shorter side wide (1/12:
    5 px of 64, 43 px of 512). Small errors of a compression cancel in the mean. The share depends on neither the size
    of ``region`` nor the number of pixels in the image.
    """
    options = options or LeakageOptions()
    if not region.any():
        return None
    # The nearest odd number of pixels, so that the square has its pixel in the middle.
    width = 2 * max(0, round((options.tile * min(region.shape) - 1) / 2)) + 1
    # (H, W) each. Means over the whole square, in which other pixels than the region's count as 0.
    share = _square_mean(region, width)
    signed = source.astype(np.int16) - edited
    largest = np.zeros(region.shape)
    for channel in range(3):
        largest = np.maximum(largest, np.abs(_square_mean(signed[..., channel] * region, width)))
    # largest / share is the mean over the region's pixels. 1e-6 allows for the rounding of the means.
    changed = largest > share * (options.repainted * 255) + 1e-6
    return float(changed[region].mean())


def _square_mean(values: NDArray[Any], width: int) -> NDArray[np.float64]:
    """Mean of ``(H, W)`` values over the square around each pixel. Pixels beyond the image count as 0."""
    from scipy.ndimage import uniform_filter

    mean: NDArray[np.float64] = uniform_filter(values, width, output=np.float64, mode="constant")
    return mean


def masked_ssim(source: Uint8HWC, edited: Sequence[Uint8HWC], valid: BoolHW) -> list[float | None]:
    """Mean structural similarity over valid pixels of each of several edits of one source, -1 to 1.

    Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, K1 = .01, K2 = .03, values in [0, 1], by channel.
    Local means, variances and covariance are taken over the valid pixels of the window alone. The value is the mean
    over the valid pixels whose window lies within the image. None where there is no such pixel. With every pixel
    valid this is scikit-image's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)``.
    """
    from scipy.ndimage import correlate1d

    # Gaussian window, and the pixels whose window lies within the image.
    # (11,)
    taps = np.exp(-0.5 * (np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    centres = valid[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]
    if not centres.any():
        return [None] * len(edited)
    weight = valid[..., None].astype(np.float64)  # (H, W, 1)

    def blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Windowed sums of ``(H, W, C)`` at the centres: ``(centres, C)``."""
        rows = correlate1d(x, taps, axis=0, mode="constant")[SSIM_RADIUS:-SSIM_RADIUS]
        cropped: NDArray[np.float64] = correlate1d(rows, taps, axis=1, mode="constant")
        return cropped[:, SSIM_RADIUS:-SSIM_RADIUS][centres]

    # Local statistics of the source, once for all edits. They are divided by the window's valid weight (normalised
    # convolution). Filling the inside with equal or zero pixels instead would pull SSIM towards 1.
    total = blur(weight)
    x = source / 255.0
    mean_x = blur(weight * x) / total
    variance_x = blur(weight * x * x) / total - mean_x**2
    similarities: list[float | None] = []
    for pixels in edited:
        y = pixels / 255.0
        mean_y = blur(weight * y) / total
        variance_y = blur(weight * y * y) / total - mean_y**2
        covariance = blur(weight * x * y) / total - mean_x * mean_y
        # Wang et al. 2004, eq. 13.
        similarity = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
        similarity /= (mean_x**2 + mean_y**2 + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
        similarities.append(float(similarity.mean()))
    return similarities

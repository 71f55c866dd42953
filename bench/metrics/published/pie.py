"""PIE-Bench's metrics (Ju et al. 2024, "PnP Inversion").

The code is in ``evaluation/`` of cure-lab/PnPInversion. It multiplies both images by the mask of the unedited part and
compares the products over the whole frame. With f = share of the frame outside the mask, this dilutes the values:
``pie_mse`` = f * MSE outside, and ``pie_psnr`` = PSNR outside - 10 log10 f.

Values are those of the code. The paper's tables show ``pie_structure`` and ``pie_lpips`` times 10^3, ``pie_mse`` times
10^4 and ``pie_ssim`` times 10^2. PIE-Bench scores edits that were saved as JPEG at 512 x 512 px. Here the lossless
edit is scored at its own size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.masked import masked_ssim
from bench.metrics.networks import dino
from bench.metrics.options import versioned
from bench.metrics.published import PIE_BENCH
from bench.metrics.published.base import (
    NO_OUTSIDE,
    ClipScore,
    OutsideLpips,
    PublishedMetric,
    blackened,
    squared_error_outside,
)
from bench.metrics.types import NoValue, Pair, RgbImage, Value

if TYPE_CHECKING:
    from bench.metrics.features import Features


def mse(pair: Pair) -> float:
    """Mean over the whole frame of the squared difference outside the mask, values in [0, 1]."""
    return squared_error_outside(pair) / pair.source.pixels.size


class PieMse(PublishedMetric):
    name = "pie_mse"
    heading = "MSE"
    published = PIE_BENCH
    unit = "0..1, squared"
    higher_is_better = False
    needs = frozenset({"mask"})
    summary = "PIE-Bench: squared error outside the mask, averaged over the whole image"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # PIE-Bench leaves full masks out of its means.
        return [NO_OUTSIDE if pair.needed_mask.all() else mse(pair) for pair in pairs]


class PiePsnr(PublishedMetric):
    name = "pie_psnr"
    heading = "PSNR"
    published = PIE_BENCH
    unit = "dB"
    needs = frozenset({"mask"})
    summary = "PIE-Bench: PSNR of the images with a black inside, over the whole image"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        return [self._one(pair) for pair in pairs]

    def _one(self, pair: Pair) -> Value:
        if pair.needed_mask.all():
            return NO_OUTSIDE
        error = mse(pair)
        if error == 0:
            return NoValue("the outside is unchanged: PIE-Bench's PSNR is infinite")
        return -10 * math.log10(error)


class PieSsim(PublishedMetric):
    """torchmetrics' SSIM as it was until September 2024: without the windows that cross the image's border.

    Windows and constants are those of :func:`~bench.metrics.masked.masked_ssim`. Later versions of torchmetrics average
    over windows at the border too, and give other values.
    """

    name = "pie_ssim"
    heading = "SSIM"
    published = PIE_BENCH
    unit = "-1..1"
    needs = frozenset({"mask"})
    summary = "PIE-Bench: SSIM of the images with a black inside, over the whole image"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # SSIM is slow: one image per thread.
        return self.features.map(self._one, pairs)

    def _one(self, pair: Pair) -> Value:
        if pair.needed_mask.all():
            return NO_OUTSIDE
        before, after = (blackened(image, pair.needed_mask).pixels for image in (pair.source, pair.edited))
        (value,) = masked_ssim(before, [after], np.ones_like(pair.needed_mask))
        return NoValue("no 11 x 11 window lies within the image") if value is None else value


class PieLpips(OutsideLpips):
    name = "pie_lpips"
    heading = "LPIPS"
    published = PIE_BENCH
    summary = "PIE-Bench: LPIPS (SqueezeNet) of the images with a black inside, over the whole image"


class PieClipWhole(ClipScore):
    name = "pie_clip_whole"
    heading = "CLIP whole"
    published = PIE_BENCH
    summary = "PIE-Bench: CLIP score (ViT-L/14) of the edit and the target prompt"


class PieClipEdited(ClipScore):
    name = "pie_clip_edited"
    heading = "CLIP edited"
    published = PIE_BENCH
    summary = "PIE-Bench: CLIP score (ViT-L/14) of the edit with a black outside and the target prompt"

    def scored(self, pair: Pair) -> RgbImage:
        # Where PIE-Bench's mask is full, the edited part is everything. Such a case has no mask in this suite.
        return pair.edited if pair.mask is None else blackened(pair.edited, ~pair.mask)


class PieStructure(PublishedMetric):
    name = "pie_structure"
    heading = "structure"
    published = PIE_BENCH
    unit = "squared cosine"
    higher_is_better = False
    summary = "PIE-Bench: structure distance of edit and source (DINO ViT-B/8), over the whole image"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, dino.identity("vitb8"))

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return dino.problems("vitb8")

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        square = [index for index, pair in enumerate(pairs) if len(set(pair.source.size)) == 1]
        distances = self.features.dino("vitb8").structure_distances(
            [pairs[index].source for index in square],
            [pairs[index].edited for index in square],
            dino.prepare_as_pie,
        )
        values: list[Value] = [NoValue("PIE-Bench's structure distance is defined for square images")] * len(
            pairs
        )
        for index, distance in zip(square, distances, strict=True):
            values[index] = float(distance)
        return values

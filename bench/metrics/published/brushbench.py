"""BrushBench's metrics (Ju et al. 2024, "BrushNet").

The code is ``examples/brushnet/evaluate_brushnet.py`` of TencentARC/BrushNet. It divides the squared differences of all
three channels by the number of pixels outside the mask, so ``brushbench_mse`` is three times the mean over pixels and
channels, and ``brushbench_psnr`` is 10 log10 3 = 4.77 dB lower.

BrushBench resizes images to 512 x 512 px. Here an edit is scored at its own size, which is the same for its data.
BrushBench's rewards are ``image_reward`` and ``hps_v21`` of ``bench.metrics.rewards``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.networks.weights import AESTHETIC_HEAD
from bench.metrics.options import versioned
from bench.metrics.published import BRUSHBENCH
from bench.metrics.published.base import (
    NO_OUTSIDE,
    ClipScore,
    OutsideLpips,
    PublishedMetric,
    squared_error_outside,
)
from bench.metrics.types import MetricError, Pair, Value

if TYPE_CHECKING:
    from bench.metrics.features import Features

# BrushBench's PSNR where the squared error is below the bound. It enters BrushBench's means.
UNCHANGED_PSNR, UNCHANGED_MSE = 1000.0, 1e-10


def mse(pair: Pair) -> float:
    """Squared difference outside, summed over channels and averaged over pixels outside. Values in [0, 1]."""
    return squared_error_outside(pair) / float((~pair.needed_mask).sum())


class BrushMse(PublishedMetric):
    name = "brushbench_mse"
    heading = "MSE"
    published = BRUSHBENCH
    unit = "0..3, squared"
    higher_is_better = False
    needs = frozenset({"mask"})
    summary = "BrushBench: squared error outside the mask, summed over the three channels"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        return [NO_OUTSIDE if pair.needed_mask.all() else mse(pair) for pair in pairs]


class BrushPsnr(PublishedMetric):
    name = "brushbench_psnr"
    heading = "PSNR"
    published = BRUSHBENCH
    unit = "dB"
    needs = frozenset({"mask"})
    summary = "BrushBench: PSNR outside the mask from brushbench_mse; 1000 dB where nothing changed"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        return [NO_OUTSIDE if pair.needed_mask.all() else self._psnr(mse(pair)) for pair in pairs]

    def _psnr(self, error: float) -> float:
        return UNCHANGED_PSNR if error < UNCHANGED_MSE else -10 * math.log10(error)


class BrushLpips(OutsideLpips):
    name = "brushbench_lpips"
    heading = "LPIPS"
    published = BRUSHBENCH
    summary = "BrushBench: LPIPS (SqueezeNet) of the images with a black inside, over the whole image"


class BrushClip(ClipScore):
    name = "brushbench_clip"
    heading = "CLIP"
    published = BRUSHBENCH
    summary = "BrushBench: CLIP score (ViT-L/14) of the edit and the caption"


class BrushAesthetic(PublishedMetric):
    """LAION's aesthetic predictor: a linear head on CLIP's image feature of length 1."""

    name = "brushbench_aesthetic"
    heading = "aesthetic"
    published = BRUSHBENCH
    unit = "1..10"
    summary = "BrushBench: LAION's aesthetic score (ViT-L/14) of the edit"
    slot = "clip_l14"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        identity = features.clip_spec(self.slot).identity
        self.version = versioned(type(self).version, identity, AESTHETIC_HEAD.identity())

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        head = AESTHETIC_HEAD.problem()
        return [*features.clip_problems(cls.slot), *([] if head is None else [head])]

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        import torch

        head = torch.load(AESTHETIC_HEAD.path(), map_location="cpu", weights_only=True)
        weight, bias = head["weight"].numpy()[0].astype(np.float64), float(head["bias"])  # (D,)
        rows = self.features.clip_images(self.slot, [pair.edited for pair in pairs])
        if rows.shape[1:] != weight.shape:
            raise MetricError(
                f"the aesthetic head reads {len(weight)} numbers, and this CLIP gives {rows.shape[1]}. "
                "Use ViT-L/14 for clip_l14."
            )
        return [float(row @ weight + bias) for row in rows.astype(np.float64)]

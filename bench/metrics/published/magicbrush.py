"""MagicBrush's metrics (Zhang et al. 2023).

The code is ``evaluation/image_eval.py`` of OSU-NLP-Group/MagicBrush. The edit is compared with the case's target image
(its ground truth) over the whole image. CLIP is ViT-B/32 and DINO ViT-S/16. CLIP-T compares with the local description
of the target, which a case has as its region prompt.

"All turns" of the paper are edits of the true previous image, "final turn" is a chain of edits. Which of the two a
value is depends on the cases, not on the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.networks import dino
from bench.metrics.options import versioned
from bench.metrics.published import MAGICBRUSH
from bench.metrics.published.base import ClipSlotMetric, PublishedMetric, cosines, text_cosines
from bench.metrics.types import NoValue, Pair, RgbImage, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features


def target(pair: Pair) -> RgbImage:
    """The target image. Metrics that declare ``needs`` = truth get no pair without one."""
    assert pair.truth is not None
    return pair.truth


class _MagicBrushDistance(PublishedMetric):
    published = MAGICBRUSH
    higher_is_better = False
    needs = frozenset({"truth"})

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        return [
            self._mean((pair.edited.pixels.astype(np.int64) - target(pair).pixels) / 255) for pair in pairs
        ]

    def _mean(self, difference: NDArray[np.float64]) -> float:
        """The mean of a difference ``(H, W, 3)`` of values in [0, 1]."""
        raise NotImplementedError


class MagicBrushL1(_MagicBrushDistance):
    name = "magicbrush_l1"
    heading = "L1"
    unit = "0..1"
    summary = "MagicBrush: mean absolute difference of edit and target image"

    def _mean(self, difference: NDArray[np.float64]) -> float:
        return float(np.abs(difference).mean())


class MagicBrushL2(_MagicBrushDistance):
    name = "magicbrush_l2"
    heading = "L2"
    unit = "0..1, squared"
    summary = "MagicBrush: mean squared difference of edit and target image (no root is taken)"

    def _mean(self, difference: NDArray[np.float64]) -> float:
        return float(np.square(difference).mean())


class _MagicBrushClip(ClipSlotMetric):
    published = MAGICBRUSH
    unit = "cosine"
    slot = "clip_b32"


class MagicBrushClipI(_MagicBrushClip):
    name = "magicbrush_clip_i"
    heading = "CLIP-I"
    needs = frozenset({"truth"})
    summary = "MagicBrush: CLIP similarity (ViT-B/32) of edit and target image"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        edits = self.features.clip_images(self.slot, [pair.edited for pair in pairs])
        targets = self.features.clip_images(self.slot, [target(pair) for pair in pairs])
        return cosines(edits, targets).tolist()  # type: ignore[no-any-return]


class MagicBrushClipT(_MagicBrushClip):
    name = "magicbrush_clip_t"
    heading = "CLIP-T"
    needs = frozenset({"region_prompt"})
    summary = "MagicBrush: CLIP similarity (ViT-B/32) of the edit and the local description"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        images = [pair.edited for pair in pairs]
        values = text_cosines(self.features, self.slot, images, [pair.region_prompt for pair in pairs])
        # A case whose regions have prompts of their own may have none for all of them.
        missing = NoValue("the case has no local description")
        return [value if pair.region_prompt else missing for pair, value in zip(pairs, values, strict=True)]


class MagicBrushDinoI(PublishedMetric):
    name = "magicbrush_dino_i"
    heading = "DINO-I"
    published = MAGICBRUSH
    unit = "cosine"
    needs = frozenset({"truth"})
    summary = "MagicBrush: DINO similarity (ViT-S/16) of edit and target image"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, dino.identity("vits16"))

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return dino.problems("vits16")

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        edits = self.features.dino_images("vits16", [pair.edited for pair in pairs])
        targets = self.features.dino_images("vits16", [target(pair) for pair in pairs])
        return cosines(edits, targets).tolist()  # type: ignore[no-any-return]

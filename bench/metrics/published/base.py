"""Parts that the published metrics share: black filling, LPIPS, CLIP scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.alignment import prompt_reasons
from bench.metrics.networks import lpips_weights
from bench.metrics.networks.lpips_net import MIN_SIDE
from bench.metrics.options import versioned
from bench.metrics.types import Metric, NoValue, Pair, RgbImage, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features

NO_OUTSIDE = NoValue("no pixel lies outside the mask")


class PublishedMetric(Metric):
    """A metric with shared networks and no options."""

    version = "1"
    on_request = True
    higher_is_better: bool | None = True
    uses_features = True

    def __init__(self, features: Features) -> None:
        self.features = features


def blackened(image: RgbImage, black: NDArray[np.bool_]) -> RgbImage:
    """The image with zeros where ``black`` ``(H, W)`` is True."""
    return RgbImage(np.where(black[..., None], np.uint8(0), image.pixels))


def squared_error_outside(pair: Pair) -> float:
    """Sum over pixels outside the mask and channels of the squared difference of values in [0, 1]."""
    before, after = (
        blackened(image, pair.needed_mask).pixels.astype(np.int64) for image in (pair.source, pair.edited)
    )
    return float(np.square(after - before).sum()) / 255**2


class OutsideLpips(PublishedMetric):
    """LPIPS (SqueezeNet) of the two images with a black inside, averaged over the whole frame."""

    unit = "LPIPS"
    higher_is_better = False
    needs = frozenset({"mask"})

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return lpips_weights.problems("squeeze")

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # Benchmarks with the same computation share its values.
        return self.features.pair_values("lpips-squeeze-black-inside", pairs, self._compute)

    def _compute(self, pairs: Sequence[Pair]) -> list[Value]:
        # One network pass per size of image.
        values: list[Value] = [NO_OUTSIDE] * len(pairs)
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, pair in enumerate(pairs):
            if min(pair.source.size) < MIN_SIDE:
                values[index] = NoValue(f"LPIPS needs at least {MIN_SIDE} pixels a side")
            elif not pair.needed_mask.all():
                by_size.setdefault(pair.source.size, []).append(index)
        for indices in by_size.values():
            before = [blackened(pairs[i].source, pairs[i].needed_mask) for i in indices]
            after = [blackened(pairs[i].edited, pairs[i].needed_mask) for i in indices]
            distances = self.features.lpips("squeeze").means(before, after)
            for index, distance in zip(indices, distances, strict=True):
                values[index] = float(distance)
        return values


class ClipSlotMetric(PublishedMetric):
    """A metric of the CLIP in ``slot``, whose weights are part of its version."""

    slot: str

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, features.clip_spec(self.slot).identity)

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return features.clip_problems(cls.slot)


class ClipScore(ClipSlotMetric):
    """torchmetrics' ``CLIPScore``: 100 times the cosine of image and target prompt, at least 0.

    It has no value for a prompt that is longer than CLIP reads. torchmetrics cuts such a prompt and drops its end
    token.
    """

    unit = "100 * cosine"
    needs = frozenset({"target_prompt"})
    slot = "clip_l14"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        cosines = text_cosines(
            self.features, self.slot, [self.scored(pair) for pair in pairs], [p.target_prompt for p in pairs]
        )
        return [cosine if isinstance(cosine, NoValue) else max(0.0, 100 * cosine) for cosine in cosines]

    def scored(self, pair: Pair) -> RgbImage:
        """The image that is compared with the prompt."""
        return pair.edited


def text_cosines(
    features: Features, slot: str, images: Sequence[RgbImage], prompts: Sequence[str]
) -> list[float | NoValue]:
    """Cosine of each image and its prompt. A reason where the model does not read the whole prompt."""
    reasons = prompt_reasons(features, slot, [[prompt] for prompt in prompts])
    of_pairs = cosines(features.clip_images(slot, images), features.clip_texts(slot, prompts))
    return [reason or float(cosine) for reason, cosine in zip(reasons, of_pairs, strict=True)]


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(N,)``: cosines of the rows of two ``(N, D)`` arrays."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    of_rows: NDArray[np.float64] = (x * y).sum(axis=1) / (
        np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    )
    return of_rows

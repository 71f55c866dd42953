"""Alignment: the similarity of the edited image to the prompt, measured by a CLIP model.

Each metric exists twice: ``clip_*`` with published weights (OpenAI's ViT-L/14 unless another is named), and
``mini_clip_*`` with the embedded model, which scores the rendered world alone. Their values must never share a
column. So their names differ, and the metric's version includes the network's identity.

Prompts are used as they are. A prompt that is longer than the model reads gives no value. Values of
``*_target`` and ``*_region`` are 100 times the cosine, never clipped at zero. ``*_directional`` is the plain
cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from bench.metrics.options import versioned
from bench.metrics.types import Metric, NoValue, Pair, RgbImage, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features

SCALE = 100.0
# A shorter difference of unit features has no direction: it is only the float32 rounding of values near 1.
LEAST_CHANGE = 1e-6

ImageField = Literal["source", "edited"]
PromptField = Literal["source_prompt", "target_prompt"]


# -- crops and prompts --------------------------------------------------------------------------


def square_around(
    bounds: tuple[int, int, int, int], shape: tuple[int, ...], margin: float
) -> tuple[int, int, int, int]:
    """The square ``(left, top, right, bottom)`` around a region, for a network that reads squares.

    Its side is the longer side of the bounding box ``bounds`` plus ``margin`` of that on both ends, at most the side
    of the image of ``shape`` in each direction. It is shifted to lie within the image, so that a region at the border
    is whole.
    """
    left, top, right, bottom = bounds
    height, width = shape
    # CLIP's transform crops to a square. This crop is square already, so no part of the region is lost.
    longer = max(right - left, bottom - top)
    side = longer + 2 * round(margin * longer)
    across, down = min(side, width), min(side, height)
    left, top = _start(left + right, across, width), _start(top + bottom, down, height)
    return left, top, left + across, top + down


def _start(twice_centre: int, length: int, limit: int) -> int:
    """Start of a span of ``length`` around a centre, shifted into ``0..limit``."""
    # Twice the centre is an integer, so it needs no rounding.
    return min(max(0, (twice_centre - length) // 2), limit - length)


def crops(pairs: Sequence[Pair], field: ImageField, margin: float) -> tuple[list[RgbImage], list[int]]:
    """The crop of every region of every pair, and for each crop the index of its pair."""
    images: list[RgbImage] = []
    owners: list[int] = []
    for index, pair in enumerate(pairs):
        whole: RgbImage = getattr(pair, field)
        for area in pair.areas:
            if area.bounds is not None:
                images.append(whole.crop(square_around(area.bounds, area.mask.shape, margin)))
                owners.append(index)
    return images, owners


def region_prompts(pairs: Sequence[Pair]) -> list[list[str]]:
    """Per pair, the prompts that :func:`region_cosines` compares with."""
    return [[area.prompt for area in pair.areas if area.bounds is not None] for pair in pairs]


def prompt_reasons(features: Features, slot: str, prompts: Sequence[Sequence[str]]) -> list[NoValue | None]:
    """Per pair with these prompts, the reason for no value where the model reads only the start of one of them."""
    # Each distinct prompt is tokenized once.
    texts = list({prompt for of_pair in prompts for prompt in of_pair})
    is_cut = dict(zip(texts, features.clip_cuts(slot, texts), strict=True))
    reason = NoValue(f"a prompt is longer than the {features.clip_context(slot)} tokens that {slot} reads")
    return [reason if any(is_cut[prompt] for prompt in of_pair) else None for of_pair in prompts]


# -- cosines ------------------------------------------------------------------------------------


def region_cosines(
    features: Features, slot: str, pairs: Sequence[Pair], field: ImageField
) -> list[NDArray[np.float64]]:
    """Per pair, the cosine of each region's crop with its prompt. Empty where every mask is empty."""
    # One call for all crops of all pairs keeps the encoder's batches full.
    images, owners = crops(pairs, field, features.options.alignment.margin)
    cosines: list[list[float]] = [[] for _ in pairs]
    if images:
        prompts = [prompt for of_pair in region_prompts(pairs) for prompt in of_pair]
        of_crops = _row_products(features.clip_images(slot, images), features.clip_texts(slot, prompts))
        for owner, cosine in zip(owners, of_crops, strict=True):
            cosines[owner].append(float(cosine))
    return [np.array(of_pair) for of_pair in cosines]


def prompt_cosines(
    features: Features, slot: str, pairs: Sequence[Pair], field: ImageField, prompt: PromptField
) -> NDArray[np.float64]:
    """``(N,)``: cosine of each pair's whole image with its prompt."""
    images = features.clip_images(slot, [getattr(pair, field) for pair in pairs])
    return _row_products(images, features.clip_texts(slot, [getattr(pair, prompt) for pair in pairs]))


def directional(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    text_before: NDArray[np.float32],
    text_after: NDArray[np.float32],
) -> list[Value]:
    """Cosine of the change of the image's feature with the change of the text's (Gal et al. 2022, eq. 3).

    All are ``(N, D)`` float32 with rows of length 1. No value where either did not change.
    """
    # Differences in float64: both rows are nearly equal for a small edit.
    image = after.astype(np.float64) - before
    text = text_after.astype(np.float64) - text_before
    image_length, text_length = np.linalg.norm(image, axis=1), np.linalg.norm(text, axis=1)
    values: list[Value] = []
    for index in range(len(image)):
        # An unchanged image has no direction. A value of 0 would say that it changed in a wrong direction.
        if image_length[index] <= LEAST_CHANGE:
            values.append(NoValue("the image did not change, so its change has no direction"))
        elif text_length[index] <= LEAST_CHANGE:
            values.append(NoValue("the two prompts are the same, so their change has no direction"))
        else:
            values.append(float(image[index] @ text[index] / (image_length[index] * text_length[index])))
    return values


def _row_products(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(N,)``: dot products of rows of length 1, ``(N, D)`` each, which are their cosines."""
    products: NDArray[np.float64] = (a.astype(np.float64) * b).sum(axis=1)
    return products


# -- metrics ------------------------------------------------------------------------------------


class _Clip(Metric):
    version = "2"
    unit = "100 * cosine"
    higher_is_better = True
    uses_features = True
    composited = True
    # Slot of the CLIP in :class:`~bench.metrics.features.Features` that it uses.
    slot = "clip"

    def __init__(self, features: Features) -> None:
        self.features = features
        self.version = versioned(
            type(self).version, features.clip_spec(self.slot).identity, features.options.alignment
        )

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        return features.clip_problems(cls.slot)


class ClipTarget(_Clip):
    name = "clip_target"
    heading = "CLIP target"
    needs = frozenset({"target_prompt"})
    summary = "CLIP similarity of the whole edited image with the target prompt"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # (N,)
        cosines = prompt_cosines(self.features, self.slot, pairs, "edited", "target_prompt")
        reasons = prompt_reasons(self.features, self.slot, [[pair.target_prompt] for pair in pairs])
        return [reason or float(SCALE * cosine) for reason, cosine in zip(reasons, cosines, strict=True)]


class ClipRegion(_Clip):
    name = "clip_region"
    heading = "CLIP region"
    needs = frozenset({"mask", "region_prompt"})
    summary = "CLIP similarity of the region's crop with the region prompt (mean over regions)"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        # Mean over regions: each counts the same, whatever its size.
        cosines = region_cosines(self.features, self.slot, pairs, "edited")
        reasons = prompt_reasons(self.features, self.slot, region_prompts(pairs))
        return [
            reason or (float(SCALE * of_pair.mean()) if of_pair.size else NoValue("the mask is empty"))
            for reason, of_pair in zip(reasons, cosines, strict=True)
        ]


class ClipDirectional(_Clip):
    name = "clip_directional"
    heading = "CLIP direction"
    unit = "cosine"
    needs = frozenset({"source_prompt", "target_prompt"})
    summary = "agreement of the image's change with the prompts' change, in CLIP's space"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        values = directional(
            self.features.clip_images(self.slot, [pair.source for pair in pairs]),
            self.features.clip_images(self.slot, [pair.edited for pair in pairs]),
            self.features.clip_texts(self.slot, [pair.source_prompt for pair in pairs]),
            self.features.clip_texts(self.slot, [pair.target_prompt for pair in pairs]),
        )
        prompts = [[pair.source_prompt, pair.target_prompt] for pair in pairs]
        reasons = prompt_reasons(self.features, self.slot, prompts)
        return [reason or value for reason, value in zip(reasons, values, strict=True)]


class MiniClipTarget(ClipTarget):
    name = "mini_clip_target"
    heading = "mini CLIP target"
    summary = "as clip_target, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True
    checkpoint = "clip"


class MiniClipRegion(ClipRegion):
    name = "mini_clip_region"
    heading = "mini CLIP region"
    summary = "as clip_region, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True
    checkpoint = "clip"


class MiniClipDirectional(ClipDirectional):
    name = "mini_clip_directional"
    heading = "mini CLIP direction"
    summary = "as clip_directional, with the embedded CLIP"
    slot = "mini_clip"
    embedded = True
    checkpoint = "clip"

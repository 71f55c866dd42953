"""Rewards: networks that were trained on people's choices among generated images, and an aesthetic score.

They say how much people would like an image, and all but the aesthetic score also whether it shows the prompt. VQAScore
says only whether it shows the prompt: it asks a vision-language model. They do not see the source, so they measure no
leakage. Each is computed only where a suite names it.

================== ==================================================================== =========================
metric             formula                                                              source
================== ==================================================================== =========================
``vqa_score_…``    probability that InstructBLIP answers "yes" (``networks.vqa``)       Lin et al. 2024
``hps_v21``        100 cos(image, prompt), ViT-H/14 of HPS v2.1                         Wu et al. 2023
``pick_score``     exp(logit scale) cos(image, prompt), ViT-H/14 of PickScore v1        Kirstain et al. 2023
``image_reward``   head of BLIP's first token, normalised                               Xu et al. 2023
``laion_aesthetic`` linear layers on the unit image feature of OpenAI's ViT-L/14        improved-aesthetic-predictor
================== ==================================================================== =========================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from bench.metrics.networks import blip, vqa
from bench.metrics.networks.head import LinearHead
from bench.metrics.networks.weights import LAION_HEAD
from bench.metrics.options import versioned
from bench.metrics.published.base import ClipSlotMetric, PublishedMetric, text_cosines
from bench.metrics.types import MetricError, NoValue, Pair, Value

if TYPE_CHECKING:
    from bench.metrics.features import Features

# Images that ImageReward and InstructBLIP read at once.
_BATCH = 16


class _PromptReward(ClipSlotMetric):
    """A CLIP whose cosine of edit and target prompt is the reward."""

    needs = frozenset({"target_prompt"})

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        scale = self.scale()
        cosines = text_cosines(
            self.features, self.slot, [pair.edited for pair in pairs], [pair.target_prompt for pair in pairs]
        )
        return [cosine if isinstance(cosine, NoValue) else scale * cosine for cosine in cosines]

    def scale(self) -> float:
        """Factor of the cosine."""
        raise NotImplementedError


class HpsV21(_PromptReward):
    name = "hps_v21"
    heading = "HPS v2.1"
    unit = "100 * cosine"
    summary = "HPS v2.1: how much people would prefer the edit for the target prompt"
    slot = "hps_v21"

    def scale(self) -> float:
        # As in its authors' tables. Their function returns the cosine itself.
        return 100.0


class PickScore(_PromptReward):
    name = "pick_score"
    heading = "PickScore"
    unit = "logit"
    summary = "PickScore v1: how much people would prefer the edit for the target prompt"
    slot = "pick_score"

    def scale(self) -> float:
        from safetensors import safe_open

        # Read from the file, because the network is not loaded where all features are stored.
        with safe_open(self.features.clip_spec(self.slot).weights(), framework="pt") as weights:
            return math.exp(float(weights.get_tensor("logit_scale")))


class LaionAesthetic(ClipSlotMetric):
    """The second version of LAION's predictor. ``brushbench_aesthetic`` is the first, with one linear layer."""

    name = "laion_aesthetic"
    heading = "LAION aesthetic"
    unit = "1..10"
    summary = "LAION's aesthetic score, version 2, of the edit"
    slot = "clip_l14"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(self.version, LAION_HEAD.identity())

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        head = LAION_HEAD.problem()
        return [*super().problems(features), *([] if head is None else [head])]

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        import torch

        head = LinearHead.of_state(torch.load(LAION_HEAD.path(), map_location="cpu", weights_only=True))
        rows = self.features.clip_images(self.slot, [pair.edited for pair in pairs])
        if rows.shape[1] != head.width:
            raise MetricError(
                f"the aesthetic head reads {head.width} numbers, and this CLIP gives {rows.shape[1]}. "
                "Use ViT-L/14 for clip_l14."
            )
        return [float(value) for value in head(rows)]


class ImageReward(PublishedMetric):
    name = "image_reward"
    heading = "ImageReward"
    unit = "standard deviations"
    needs = frozenset({"target_prompt"})
    summary = "ImageReward: how much people would prefer the edit for the target prompt"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, blip.identity())

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        del features
        return blip.problems()

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        from bench.images import from_array

        # The text encoder reads the start of a longer prompt only.
        cut = self._net.tokenizer.cut([pair.target_prompt for pair in pairs])
        values: list[Value] = [
            NoValue(f"the prompt is longer than the {blip.TOKENS} tokens that ImageReward reads")
        ] * len(pairs)
        whole = [index for index, is_cut in enumerate(cut) if not is_cut]
        for start in range(0, len(whole), _BATCH):
            batch = whole[start : start + _BATCH]
            images = [blip.prepare(from_array(pairs[index].edited.pixels)) for index in batch]
            rewards = self._net.rewards(images, [pairs[index].target_prompt for index in batch])
            for index, reward in zip(batch, rewards, strict=True):
                values[index] = float(reward)
        return values

    @cached_property
    def _net(self) -> blip.ImageRewardNet:
        return blip.ImageRewardNet(self.features.device)


class VqaScoreInstructBlip(PublishedMetric):
    """VQAScore, by one of the models that its authors list. The name of the column has the model's."""

    name = "vqa_score_instructblip"
    heading = "VQAScore (InstructBLIP)"
    unit = "probability"
    needs = frozenset({"target_prompt"})
    summary = 'VQAScore: probability that InstructBLIP-FlanT5-XL says "yes", the edit shows the target prompt'

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, vqa.identity())

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        del features
        return vqa.problems()

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        from bench.images import from_array

        cut = self._net.cut([pair.target_prompt for pair in pairs])
        values: list[Value] = [
            NoValue(f"the question has more than the {vqa.TOKENS} tokens that InstructBLIP reads")
        ] * len(pairs)
        whole = [index for index, is_cut in enumerate(cut) if not is_cut]
        for start in range(0, len(whole), _BATCH):
            batch = whole[start : start + _BATCH]
            images = [blip.prepare(from_array(pairs[index].edited.pixels)) for index in batch]
            prompts = [pairs[index].target_prompt for index in batch]
            for index, value in zip(batch, self._net.probabilities(images, prompts), strict=True):
                values[index] = float(value)
        return values

    @cached_property
    def _net(self) -> vqa.VqaNet:
        return vqa.VqaNet(self.features.device)

"""Similarity of whole images by networks: to the ground truth, and of the layout to the source.

Each is computed only where a suite names it. The metrics of ``bench.metrics.ground_truth`` read the inside of the mask
alone; these read the whole image, as papers print them. An edit that changes nothing is close to the ground truth
already where the mask is small, so compare a value with that of ``copy_input``.

=================== ================================================================== ============================
metric              formula                                                            source
=================== ================================================================== ============================
``truth_clip_i``    cosine of edit and ground truth, the suite's CLIP                  "CLIP-I", Ruiz et al. 2023
``truth_dino_i``    cosine of edit and ground truth, DINO ViT-S/16's class token       "DINO", Ruiz et al. 2023
``truth_dreamsim``  1 - cosine of DreamSim's embeddings of edit and ground truth       Fu et al. 2023
``dreamsim``        the same of edit and source                                        Fu et al. 2023
``dino_structure``  mean squared difference of the key self-similarities of source     Tumanyan et al. 2022,
                    and edit, DINO ViT-B/8's last block                                section 3
=================== ================================================================== ============================

``magicbrush_clip_i``, ``magicbrush_dino_i`` and ``pie_structure`` are the same quantities with a benchmark's own
networks and image processing. ``dino_structure`` takes images of any shape, resized to 224 x 224 with antialiasing.
DreamSim is its single network of DINO ViT-B/16: the ensemble, its package's default, gives other values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.metrics.networks import dino, dreamsim
from bench.metrics.options import versioned
from bench.metrics.published.base import ClipSlotMetric, PublishedMetric, cosines
from bench.metrics.types import Pair, RgbImage, Value

if TYPE_CHECKING:
    from bench.metrics.features import Features


def _truths(pairs: Sequence[Pair]) -> list[RgbImage]:
    # Pairs without a ground truth do not get here: the metrics declare that they need one.
    return [pair.truth for pair in pairs if pair.truth is not None]


class TruthClipI(ClipSlotMetric):
    name = "truth_clip_i"
    heading = "CLIP-I to reference"
    unit = "cosine"
    needs = frozenset({"truth"})
    summary = "CLIP similarity of edit and ground truth, over the whole image"
    slot = "clip"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        edits = self.features.clip_images(self.slot, [pair.edited for pair in pairs])
        of_pairs: list[Value] = cosines(edits, self.features.clip_images(self.slot, _truths(pairs))).tolist()
        return of_pairs


class _DinoMetric(PublishedMetric):
    """A metric of the DINO network ``net``, whose weights are part of its version."""

    net: str

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, dino.identity(self.net))

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        del features
        return dino.problems(cls.net)


class TruthDinoI(_DinoMetric):
    name = "truth_dino_i"
    heading = "DINO-I to reference"
    unit = "cosine"
    needs = frozenset({"truth"})
    summary = "DINO similarity (ViT-S/16) of edit and ground truth, over the whole image"
    net = "vits16"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        edits = self.features.dino_images(self.net, [pair.edited for pair in pairs])
        of_pairs: list[Value] = cosines(edits, self.features.dino_images(self.net, _truths(pairs))).tolist()
        return of_pairs


class DinoStructure(_DinoMetric):
    name = "dino_structure"
    heading = "DINO structure"
    unit = "squared cosine"
    higher_is_better = False
    summary = "structure distance of edit and source (DINO ViT-B/8), over the whole image"
    net = "vitb8"

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        distances = self.features.dino(self.net).structure_distances(
            [pair.source for pair in pairs], [pair.edited for pair in pairs], dino.prepare_whole
        )
        return [float(distance) for distance in distances]


class _DreamSimDistance(PublishedMetric):
    """DreamSim's distance of the edit from another image of the pair."""

    unit = "1 - cosine"
    higher_is_better = False

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, dreamsim.identity())

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        del features
        return dreamsim.problems()

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        edits = self.features.dreamsim_images([pair.edited for pair in pairs])
        counterparts = self.features.dreamsim_images(self._others(pairs))
        return [1 - float(cosine) for cosine in cosines(edits, counterparts)]

    def _others(self, pairs: Sequence[Pair]) -> list[RgbImage]:
        raise NotImplementedError


class TruthDreamSim(_DreamSimDistance):
    name = "truth_dreamsim"
    heading = "DreamSim to reference"
    needs = frozenset({"truth"})
    summary = "DreamSim (DINO ViT-B/16) of edit and ground truth, over the whole image"

    def _others(self, pairs: Sequence[Pair]) -> list[RgbImage]:
        return _truths(pairs)


class DreamSim(_DreamSimDistance):
    name = "dreamsim"
    heading = "DreamSim"
    summary = "DreamSim (DINO ViT-B/16) of edit and source, over the whole image"

    def _others(self, pairs: Sequence[Pair]) -> list[RgbImage]:
        return [pair.source for pair in pairs]

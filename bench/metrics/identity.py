"""Identity of a portrait: whether the part of a face that the edit should keep is still that of the same person.

The face is found in the source, and both images are cropped by its five points. The inside of the mask is the source's
in both, so that only the kept part can differ: what was asked for changes nothing, and neither does a face that the
detector misses in the edit. ``face_identity`` is the cosine of ArcFace's embeddings of the two crops: 1 where the
outside of the mask is kept. It has no value where the source shows no face, or where the mask covers nearly all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.networks import arcface
from bench.metrics.options import versioned
from bench.metrics.published.base import PublishedMetric
from bench.metrics.types import NoValue, Pair, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.metrics.features import Features

LEAST_OUTSIDE = 0.1
"""Smallest share of the face's crop that has to lie outside the mask."""

NO_FACE = NoValue("the detector sees no face in the source")
COVERED = NoValue("the mask covers more than nine tenths of the face")


class FaceIdentity(PublishedMetric):
    name = "face_identity"
    heading = "ArcFace identity"
    unit = "cosine"
    needs = frozenset({"mask"})
    summary = "ArcFace similarity of the face in source and edit, with the source's pixels inside the mask"

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.version = versioned(type(self).version, arcface.FACE_PACK.identity())
        # Edits of one source come one after another: its face is looked for once.
        self._last_face: tuple[str, NDArray[np.float64] | None] = ("", None)

    @classmethod
    def problems(cls, features: Features) -> list[str]:
        del features
        return arcface.problems()

    def score(self, pairs: Sequence[Pair]) -> list[Value]:
        return [self._score(pair) for pair in pairs]

    def _score(self, pair: Pair) -> Value:
        # Find the face in the source.
        if self._last_face[0] != pair.source.key:
            self._last_face = (pair.source.key, self._nets.find(pair.source.pixels))
        points = self._last_face[1]
        if points is None:
            return NO_FACE
        alignment = arcface.Alignment.of_points(points)
        if alignment.crop(~pair.needed_mask).mean() < LEAST_OUTSIDE:
            return COVERED

        # Compare the kept parts.
        kept = np.where(pair.needed_mask[..., None], pair.source.pixels, pair.edited.pixels)
        one, other = self._nets.embeddings([alignment.crop(image) for image in (pair.source.pixels, kept)])
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))

    @cached_property
    def _nets(self) -> arcface.FaceNets:
        return arcface.FaceNets.load()

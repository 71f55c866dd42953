"""Metrics of mean colours that use shared features, for tests of scoring in workers. Workers import this module."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.metrics.features import Features
from bench.metrics.types import Metric, Pair, RgbImage, SetMetric, SetValue

COMPUTED: list[int] = []
"""Number of images of each computation in this process."""


def make_features(device: str, cache: Path | None) -> Features:
    return Features(device=device, cache_dir=cache)


def colours(features: Features, images: Sequence[RgbImage]) -> NDArray[np.float32]:
    """``(N, 3)`` float32: the mean colour of each image, cached."""

    def compute(missing: Sequence[RgbImage]) -> NDArray[np.float32]:
        COMPUTED.append(len(missing))
        return np.stack([image.pixels.mean(axis=(0, 1)) for image in missing]).astype(np.float32)

    return features._rows.get("colours", [image.key for image in images], images, compute)


class Redness(Metric):
    """The mean red of the edit."""

    name = "redness"
    version = "1"
    unit = "0..255"
    higher_is_better = None
    summary = "mean red"
    composited = True
    uses_features = True

    def __init__(self, features: Features) -> None:
        self.features = features

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [float(row[0]) for row in colours(self.features, [pair.edited for pair in pairs])]


class Deadly(Redness):
    """It ends its process at one case."""

    name = "deadly"

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        if any(pair.case == "case-004" for pair in pairs):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(pairs)


class ColourDistance(SetMetric):
    """The distance between the mean colours of two sets."""

    name = "colour_distance"
    version = "1"
    unit = "0..255"
    higher_is_better = False
    summary = "distance of the mean colours"
    composited = True
    uses_features = True

    def __init__(self, features: Features) -> None:
        self.features = features

    def see(self, images: Sequence[RgbImage]) -> None:
        colours(self.features, images)

    def score_set(
        self,
        edited: Collection[RgbImage],
        reference: Collection[RgbImage],
        clusters: Sequence[str] | None = None,
    ) -> SetValue:
        one, other = (colours(self.features, list(side)).mean(axis=0) for side in (edited, reference))
        return SetValue(float(np.linalg.norm(one - other)), len(edited), len(reference))

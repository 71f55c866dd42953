"""The networks of the metrics, with the embedded CLIP and the embedded attribute classifier."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.zoo.manifest import ZooError, digest, entry, names, verify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.metrics.features import AttributeProbabilities, Features, RegionClassifier

# Images that the attribute classifier reads at once.
BATCH = 256


def make_features(device: str, cache_dir: Path | None) -> Features:
    """The networks that metrics share. An embedded checkpoint that is missing or changed is left out."""
    from bench.metrics.features import Features

    # Metrics that need an absent one then say so.
    clip: Path | None = None
    with suppress(ZooError):
        clip = entry("clip")
    classifier: RegionClassifier | None = None
    with suppress(ZooError):
        classifier = EmbeddedClassifier(device)
    return Features(device=device, cache_dir=cache_dir, mini_clip=clip, classifier=classifier)


class EmbeddedClassifier:
    """The rendered world's attribute classifier, as the ground-truth judge takes it. Loaded on first use."""

    def __init__(self, device: str) -> None:
        """Raises ZooError where its checkpoint is missing or changed."""
        # `entry` checks every file against the manifest.
        self._folder, self._device = entry("reader"), device
        self.identity = digest("reader")[:12]
        self._model: Any = None

    def __call__(
        self, images: NDArray[np.uint8], masks: NDArray[np.bool_], /
    ) -> list[AttributeProbabilities]:
        """Reads ``images`` (B, H, W, 3) uint8 inside ``masks`` (B, H, W) bool.

        Larger images are read at 64 px, where the classifier was trained.
        """
        from methods.zoo.classifier import load, to_training_size

        # Most commands never ask for it.
        if self._model is None:
            self._model = load(self._folder, self._device)
        # In batches, since a run has thousands of images.
        return [
            reading
            for i in range(0, len(images), BATCH)
            for reading in self._model.read(*to_training_size(images[i : i + BATCH], masks[i : i + BATCH]))
        ]


def checkpoint_problems() -> dict[str, list[str]]:
    """Embedded checkpoint -> problems of its files, with their remedies. The lists are empty without problems."""
    problems: dict[str, list[str]] = {}
    # The two that metrics need stand in the list even where the manifest lacks them.
    for name in dict.fromkeys((*names(), "clip", "reader")):
        try:
            verify(name)
            problems[name] = []
        except ZooError as error:
            problems[name] = [str(error)]
    return problems

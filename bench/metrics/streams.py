"""Iterates over images without keeping them in memory: only a fingerprint of each image is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from bench.metrics.types import RgbImage

T = TypeVar("T")


@dataclass(frozen=True)
class Fingerprint:
    """Identifies an image that is not in memory."""

    key: str
    """Hash of its pixels: :attr:`RgbImage.key`."""
    size: tuple[int, int]
    """``(height, width)``."""

    @classmethod
    def of(cls, image: RgbImage) -> Fingerprint:
        return cls(image.key, image.size)


class ImageStream(Collection[RgbImage]):
    """A collection that decodes its images again on each iteration, so that few are in memory at once.

    ``make`` returns the same images in the same order each time. Without ``fingerprints``, ``len`` needs an iteration
    over all images.
    """

    def __init__(
        self, make: Callable[[], Iterable[RgbImage]], fingerprints: Sequence[Fingerprint] | None = None
    ) -> None:
        self._make = make
        self._fingerprints = None if fingerprints is None else list(fingerprints)

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Fingerprint of every image, in order. Iterates over all of them where no iteration was completed before."""
        if self._fingerprints is None:
            for _ in self:
                pass
        assert self._fingerprints is not None
        return self._fingerprints

    def __iter__(self) -> Iterator[RgbImage]:
        fingerprints = []
        for image in self._make():
            fingerprints.append(Fingerprint.of(image))
            yield image
        # Only a completed iteration reaches this line.
        if self._fingerprints is None:
            self._fingerprints = fingerprints

    def __len__(self) -> int:
        return len(self.fingerprints)

    def __contains__(self, image: object) -> bool:
        # By content: the same pixels from another file count as the same image.
        return isinstance(image, RgbImage) and any(one.key == image.key for one in self.fingerprints)


def fingerprints_of(images: Collection[RgbImage]) -> Sequence[Fingerprint]:
    """Fingerprint of every image, in order."""
    if isinstance(images, ImageStream):
        return images.fingerprints
    return [Fingerprint.of(image) for image in images]


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items. The last one may be shorter."""
    # islice takes from where the last batch ended.
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch

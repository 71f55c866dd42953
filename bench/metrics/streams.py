"""Sets of pictures that nobody holds: they are passed over, and what is kept of each is its mark."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from bench.metrics.types import RgbImage

T = TypeVar("T")


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture that was passed over."""

    key: str
    """Of its content: :attr:`RgbImage.key`."""
    size: tuple[int, int]
    """``(height, width)``."""

    @classmethod
    def of(cls, picture: RgbImage) -> Fingerprint:
        return cls(picture.key, picture.size)


class ImageStream(Collection[RgbImage]):
    """Pictures that are made anew each time they are passed over, so that no more than a few are in memory.

    ``make`` returns the same pictures in the same order each time. ``marks``, where they are known, spare the
    pass that ``len`` costs otherwise.
    """

    def __init__(
        self, make: Callable[[], Iterable[RgbImage]], marks: Sequence[Fingerprint] | None = None
    ) -> None:
        self._make = make
        self._marks = None if marks is None else list(marks)

    @property
    def marks(self) -> Sequence[Fingerprint]:
        """Of every picture, in order. Passes over all of them where no pass has been completed before."""
        if self._marks is None:
            for _ in self:
                pass
        assert self._marks is not None
        return self._marks

    def __iter__(self) -> Iterator[RgbImage]:
        marks = []
        for picture in self._make():
            marks.append(Fingerprint.of(picture))
            yield picture
        if self._marks is None:
            self._marks = marks

    def __len__(self) -> int:
        return len(self.marks)

    def __contains__(self, picture: object) -> bool:
        return isinstance(picture, RgbImage) and any(mark.key == picture.key for mark in self.marks)


def fingerprints(pictures: Collection[RgbImage]) -> Sequence[Fingerprint]:
    """Of every picture, in order."""
    if isinstance(pictures, ImageStream):
        return pictures.marks
    return [Fingerprint.of(picture) for picture in pictures]


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size``, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch

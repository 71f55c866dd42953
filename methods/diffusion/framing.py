"""A source of any size brought to the size at which a model works, and the edit brought back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench import images
from bench.edit import PixelArea

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["pad", "crop", "exact"]

_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Frame:
    """The way of a picture from ``source`` to ``target``, both (width, height), and back."""

    source: tuple[int, int]
    target: tuple[int, int]
    resize: Resize
    """``pad`` mirrors the borders of a source of another aspect ratio. ``crop`` takes the largest middle part, and the
    rest stays as it is. ``exact`` stretches."""

    def image(self, image: Image) -> Image:
        """An ``RGB`` image of the source's size at the target's."""
        if self.resize == "pad":
            return images.fit(image, self.target, mirror=True)
        cut = image.crop(self._box) if self.resize == "crop" else image
        return images.resize(cut, self.target)

    def mask(self, mask: Image) -> Image:
        """A mask of the source's size at the target's. Raises ValueError where nothing of it is left."""
        if self.resize == "pad":
            framed = images.fit(mask, self.target, mirror=False)
        else:
            cut = mask.crop(self._box) if self.resize == "crop" else mask
            framed = images.resize_mask(cut, self.target)
        if framed.getextrema()[1] == 0 and mask.getextrema()[1] != 0:
            reason = "outside the part that resize: crop keeps" if self.resize == "crop" else "too thin"
            raise ValueError(f"the mask is {reason}: nothing of it is left at {self.target}")
        return framed

    def back(self, edited: Image, source: Image) -> Image:
        """An edit at the target's size, or at the pipeline's own, as an ``RGB`` image of the source's size."""
        edited = images.resize(edited.convert("RGB"), self.target)
        if self.resize == "pad":
            return images.unfit(edited, self.source)
        if self.resize == "exact":
            return images.resize(edited, self.source)
        left, top, right, bottom = self._box
        whole = source.copy()
        whole.paste(images.resize(edited, (right - left, bottom - top)), (left, top))
        return whole

    @property
    def _box(self) -> tuple[int, int, int, int]:
        """The largest middle part of the source with the target's aspect ratio, as PIL's box."""
        width, height = self.source
        # width / height of the part = width / height of the target, in whole pixels.
        cut = min(width, max(1, round(height * self.target[0] / self.target[1])))
        tall = min(height, max(1, round(width * self.target[1] / self.target[0])))
        left, top = (width - cut) // 2, (height - tall) // 2
        return left, top, left + cut, top + tall


def size_problem(size: str) -> str:
    """Reason why the option ``size`` cannot be read. Empty where it can."""
    if size in ("native", "source") or (size.isdigit() and int(size) > 0):
        return ""
    match = _SIZE.fullmatch(size)
    if match and all(int(side) > 0 for side in match.groups()):
        return ""
    return f'size {size!r}: expected "native", "source", "WIDTHxHEIGHT" such as "1024x768", or a number of pixels'


def working_size(
    size: str, source: tuple[int, int], multiple: int, pixels: int, sizes: Sequence[tuple[int, int]] = ()
) -> tuple[int, int]:
    """The (width, height) at which a source is edited. Both are multiples of ``multiple``.

    ``pixels`` and ``sizes`` are the model's own. Raises ValueError for a size that is no multiple.
    """
    ratio = source[0] / source[1]
    if size == "native" and sizes:
        # As the pipelines choose among the sizes of their training.
        return min(sizes, key=lambda entry: abs(entry[0] / entry[1] - ratio))
    if size == "source":
        width, height = (max(1, round(side / multiple)) * multiple for side in source)
        return width, height
    if match := _SIZE.fullmatch(size):
        width, height = int(match[1]), int(match[2])
        if width % multiple or height % multiple:
            raise ValueError(f"size {size}: both sides must be multiples of {multiple}")
        return width, height
    return PixelArea(int(size) if size.isdigit() else pixels, multiple).size(source)

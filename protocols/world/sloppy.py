"""Level 1 with sloppy masks: the cases of the mini protocols, whose masks a hurried user might have painted.

The method sees the sloppy mask: grown, shrunk, boxed, with a blob at its edge, or with a piece missing. Everything else
refers to the exact one. The ground truth is the exact edit, so a method that repaints all of a box loses the corners.
Metrics use the exact mask (``EditCase.scored``): attributes are read in the exact regions, and a change outside the
exact mask is leakage, also where the sloppy mask allowed it. Only compositing follows the sloppy mask, because that is
all that a method or a user has. A composited edit can therefore leak here, up to the rim of its mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from bench.edit import EditCase, EditProtocol, Region, ScoredAreas, stable_digest
from bench.images import mask_array, mask_image
from bench.imprecise_masks import KINDS, imprecise
from protocols.masks import union, usable
from protocols.selection import fingerprint, rank
from protocols.world import MiniCelebAHQ, MiniCoco, WithEach


class _SloppyMasks(EditProtocol):
    """A mini protocol with other masks for the methods."""

    version = "1"
    rendered = True
    exact: ClassVar[type[MiniCelebAHQ] | type[MiniCoco]]

    @classmethod
    def problems(cls, options: Any) -> Sequence[str]:
        return cls.exact.problems(options)

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._protocol = self.exact(options)
        self.canvas = self._protocol.canvas

    @cached_property
    def digest(self) -> str:
        """12 hex digits over the exact protocol and every sloppy mask."""
        cases = [fingerprint(case) for case in self.cases()]
        return stable_digest([self.name, self.version, self._protocol.digest, cases])

    def cases(self) -> Sequence[EditCase]:
        return WithEach(self._protocol.cases(), with_sloppy_mask)

    def reference(self) -> Iterator[Image.Image]:
        return self._protocol.reference()


class SloppyCelebAHQ(_SloppyMasks):
    """Rendered portraits with sloppy masks."""

    name = "mini-celeba-hq-sloppy"
    summary = "mini-celeba-hq with sloppy masks for methods; metrics and ground truth keep the exact ones (embedded)"
    exact = MiniCelebAHQ
    Options = MiniCelebAHQ.Options


class SloppyCoco(_SloppyMasks):
    """Rendered scenes with sloppy masks."""

    name = "mini-coco-sloppy"
    summary = (
        "mini-coco with sloppy masks for methods; metrics and ground truth keep the exact ones (embedded)"
    )
    exact = MiniCoco
    Options = MiniCoco.Options


def with_sloppy_mask(case: EditCase) -> EditCase:
    """The case with one of the changes of ``bench.imprecise_masks``, chosen by its id. The tag ``mask`` names it."""
    request = case.request
    regions = np.stack([mask_array(mask) for mask in case.areas])  # (R, H, W)
    shape = regions.shape[1:]
    for kind in sorted(KINDS, key=lambda kind: rank("sloppy", case.id, kind)):
        rng = np.random.Generator(np.random.PCG64(int(rank("sloppy", case.id, kind)[:16], 16)))
        changed = imprecise(regions, kind, rng)
        mask = union(changed, (shape[0], shape[1]))
        # The bounding box of a background is the whole image, which leaves nothing to keep.
        if usable(mask) and not np.array_equal(changed, regions):
            break
    else:
        raise ValueError(
            f"case {case.id}: no change of its mask leaves something to edit and something to keep"
        )
    sloppy = [
        Region(mask_image(one), region.prompt, region.words)
        for one, region in zip(changed, request.regions, strict=False)
    ]
    return replace(
        case,
        request=replace(request, mask=mask_image(mask), regions=tuple(sloppy)),
        scored=ScoredAreas(request.needed_mask, request.regions),
        tags={**case.tags, "mask": kind},
    )

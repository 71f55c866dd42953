"""The guidance losses: the text, the range of pixels and, by option, the source's background.

Avrahami et al. 2022, section 3.1 and algorithm 1. All losses are sums over the batch, so each image's gradient is its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.blended_diffusion.augment import augment
from methods.blended_diffusion.clip import Clip

# The CLIP's input: the region on grey, the square around the region, or the whole image.
View = Literal["masked", "crop", "whole"]

# Margin of a crop beyond the mask's bounding box on each side, as a share of the box's longer side.
MARGIN = 0.1


@dataclass(frozen=True)
class Weighting:
    """The weights λ of the terms. ``lpips`` and ``l2`` count only where ``background`` is set."""

    clip: float = 1000.0
    range: float = 50.0
    background: bool = False
    lpips: float = 1000.0
    l2: float = 10000.0

    @property
    def guides(self) -> bool:
        """True if any term has a weight."""
        return bool(self.clip or self.range or (self.background and (self.lpips or self.l2)))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """D_CLIP of unit vectors (..., D) => (...): half of the squared angle between them."""
    # 2 arcsin²(|a - b| / 2)
    # An angle θ has the chord 2 sin(θ / 2), so 2 arcsin²(chord / 2) = θ² / 2.
    chord: Tensor = (a - b).norm(dim=-1)
    return chord.div(2).arcsin().pow(2).mul(2)


def range_loss(x0: Tensor) -> Tensor:
    """Mean squared excess over [-1, 1], per image: (B, 3, H, W) => (B,)."""
    return (x0 - x0.clamp(-1, 1)).pow(2).mean(dim=(1, 2, 3))


def square(mask: Tensor, margin: float = MARGIN) -> tuple[int, int, int]:
    """(left, top, side) of the square around a mask (H, W), inside the image. The whole image for an empty mask."""
    height, width = mask.shape
    rows, columns = torch.nonzero(mask.any(dim=1)).flatten(), torch.nonzero(mask.any(dim=0)).flatten()
    if len(rows) == 0:
        return 0, 0, min(height, width)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    # At most the shorter side of the image. Near the border the square is moved inwards, not cut off.
    side = min(round(max(bottom - top, right - left) * (1 + 2 * margin)), height, width)
    top = min(max((top + bottom - side) // 2, 0), height - side)
    left = min(max((left + right - side) // 2, 0), width - side)
    return left, top, side


def crop(images: Tensor, squares: Sequence[tuple[int, int, int]], size: int) -> Tensor:
    """The squares (left, top, side) of float (B, 3, H, W), bilinearly at ``size``: float (B, 3, size, size)."""
    height, width = images.shape[2:]
    # Maps [-1, 1] of the crop to its place in [-1, 1] of the image: scale side / width, centre (2 left + side) /
    # width - 1.
    theta = torch.tensor(
        [
            [
                [side / width, 0.0, (2 * left + side) / width - 1],
                [0.0, side / height, (2 * top + side) / height - 1],
            ]
            for left, top, side in squares
        ],
        dtype=images.dtype,
        device=images.device,
    )
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@dataclass
class Guidance:
    """The guidance of one batch of B images: the candidates of one request after those of another.

    An image has one region with one text, or several: P of them in the batch. Its distance is the sum over its own
    regions, so that each is pulled as strongly as it would be alone.
    """

    clip: Clip
    # float32 (P, D), unit length: the text features of each region.
    texts: Tensor
    # float32 (B, 1, H, W), 1 = edit.
    mask: Tensor
    # float32 (B, 3, H, W) in [-1, 1].
    source: Tensor
    weighting: Weighting
    view: View = "masked"
    # Images of one request that are sampled together.
    candidates: int = 1
    faithful: bool = True
    # Two batches in [-1, 1] => one distance per pair. Required where its weight counts.
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None
    # float32 (P, 1, H, W), 1 = region. None: each image's mask, P = B.
    regions: Tensor | None = None
    # int64 (P,): the image that each region belongs to.
    owner: Tensor | None = None

    def __post_init__(self) -> None:
        self._regions = self.mask if self.regions is None else self.regions
        count = len(self.mask)
        self._owner = torch.arange(count, device=self.mask.device) if self.owner is None else self.owner
        self.squares = [square(region[0] > 0.5) for region in self._regions]

    def views(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] => the CLIP's input, one per region, (P, 3, size, size) in [-1, 1]."""
        image = image[self._owner]
        if self.view == "crop":
            return crop(image, self.squares, self.clip.size)
        # 0 is mid-grey.
        visible = image * self._regions if self.view == "masked" else image
        return F.adaptive_avg_pool2d(visible, self.clip.size)

    def _per_image(self, distances: Tensor) -> Tensor:
        """Distances (P,) of the regions => their sums (B,) per image."""
        return distances.new_zeros(len(self.mask)).index_add(0, self._owner, distances)

    def clip_distance(self, image: Tensor, draws: Tensor) -> Tensor:
        """D_CLIP (B,), the mean over the plain view and the augmented ones.

        ``draws`` (B, N - 1, DRAWS): the random numbers of the N - 1 augmented views.
        """
        views = self.views(image)
        draws = draws[self._owner.to(draws.device)]
        count, extra = draws.shape[:2]
        if extra:
            repeated = views.repeat_interleave(extra, dim=0)
            # Quirk 7, vertical shift.
            bent = augment(repeated, draws.flatten(0, 1), vertical=self.faithful)
            views = torch.cat([views[:, None], bent.view(count, extra, *views.shape[1:])], 1).flatten(0, 1)
        # (P * N, D) -> (P, N, D), and the mean over the N views of each region.
        features = self.clip.images(views).view(count, 1 + extra, -1)
        return self._per_image(distance(features, self.texts[:, None]).mean(dim=1))

    def loss(self, x0: Tensor, x: Tensor, sigma: float, draws: Tensor) -> Tensor:
        """The scalar whose gradient guides. ``x0`` is the predicted clean image of ``x``, at noise level ``sigma``."""
        # The losses see a mixture of both, which keeps some of the sample's noise while there is much.
        # sigma is `fac` in the authors' program.
        image = x0 * sigma + x * (1 - sigma)
        total = x0.new_zeros(())
        if self.weighting.clip:
            total = total + self.weighting.clip * self.clip_distance(image, draws).sum()
        if self.weighting.range:
            total = total + self.weighting.range * range_loss(x0).sum()
        if self.weighting.background:
            total = total + self.background(image)
        return total

    def background(self, image: Tensor) -> Tensor:
        """The background preservation loss, a scalar."""
        # 0 inside the mask: mid-grey, where nothing is to be preserved.
        background = image * (1 - self.mask)
        # Quirk 5, masked background.
        target = self.source if self.faithful else self.source * (1 - self.mask)
        total = image.new_zeros(())
        if self.weighting.lpips:
            assert self.lpips is not None
            total = total + self.weighting.lpips * self.lpips(background, target).sum()
        if self.weighting.l2:
            error = (background - target).pow(2).mean(dim=(1, 2, 3)).sum()
            # Quirk 6, shared mean.
            total = total + self.weighting.l2 * (error / self.candidates if self.faithful else error)
        return total

    @torch.no_grad()
    def rank_distance(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] => the distance (B,) that ranks candidates. The smallest is the best."""
        if not self.faithful:
            return self._per_image(distance(self.clip.images(self.views(image.clamp(-1, 1))), self.texts))
        # Quirk 4, ranking input.
        pixels = image.add(1).div(2).clamp(0, 1)[self._owner] * self._regions
        pixels = F.interpolate(pixels, (self.clip.size,) * 2, mode="bilinear", align_corners=False)
        return self._per_image(distance(self.clip.encode(pixels), self.texts))

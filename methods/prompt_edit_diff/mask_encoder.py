"""The mask encoder (paper, section 2.D): M in pixels => its features F_M per UNet level, and as tokens of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class MaskFeatures:
    """F_M of one batch."""

    # Number of positions N -> (B, N, C), one row per position of a UNet level, in row-major order.
    levels: dict[int, Tensor]
    # (B, T, C): features of square patches of the mask.
    tokens: Tensor
    # (B, C, h, w): the tokens as a grid, for pooling over regions.
    grid: Tensor


class MaskEncoder(nn.Module):
    """A light CNN over the mask at full resolution, with one stage per UNet level, each half the size of the last.

    ``factor`` is the pixels per latent cell. ``attends`` says for each level of the UNet whether it has attention and
    so needs features. ``token_size`` is the largest number of tokens along a side.
    """

    def __init__(self, factor: int, attends: Sequence[bool], width: int = 64, token_size: int = 8) -> None:
        """Raises ValueError for a width that is no multiple of 4, or a UNet without attention."""
        super().__init__()
        if width % 4:
            raise ValueError(f"mask_width {width}: expected a multiple of 4, for the sines of two axes")
        self.factor, self.width, self.token_size = factor, width, token_size
        # Each cell of the latent grid starts from all of its pixels as channels, so no detail of the shape is lost.
        self.stem = nn.Sequential(nn.Conv2d(factor * factor, width, 3, padding=1), nn.SiLU())
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, stride=1 if i == 0 else 2, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for i in range(len(attends))
        )
        # Only levels with attention need normalised features.
        self.norms = nn.ModuleDict({str(i): nn.LayerNorm(width) for i, used in enumerate(attends) if used})
        if not self.norms:
            raise ValueError("a UNet without attention cannot use the mask's features")

    def forward(self, mask: Tensor) -> MaskFeatures:
        """(B, 1, H, W) in [0, 1], H and W multiples of ``factor`` => its features."""
        x = self.stem(F.pixel_unshuffle(mask, self.factor) * 2 - 1)  # (B, C, H / factor, W / factor)
        levels: dict[int, Tensor] = {}
        grid: Tensor | None = None
        for i, stage in enumerate(self.stages):
            x = stage(x) if i == 0 else shortcut(x) + stage(F.silu(x))
            if str(i) not in self.norms:
                continue
            # Features carry their position, so that attention finds neighbours. (B, N, C)
            flat = self.norms[str(i)](x.flatten(2).transpose(1, 2))
            height, width = x.shape[-2:]
            flat = flat + positions(height, width, self.width).to(flat)
            levels[height * width] = flat
            # The tokens come from the first level that is small enough.
            if grid is None or max(grid.shape[-2:]) > self.token_size:
                grid = flat.transpose(1, 2).unflatten(2, (height, width))
        assert grid is not None
        if max(grid.shape[-2:]) > self.token_size:  # even the smallest level is larger
            rows, columns = (min(self.token_size, side) for side in grid.shape[-2:])
            grid = F.adaptive_avg_pool2d(grid, (rows, columns))
        return MaskFeatures(levels, grid.flatten(2).transpose(1, 2), grid)


def shortcut(x: Tensor) -> Tensor:
    """Half the size, odd sides rounded up, like a convolution of stride 2 with padding 1."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


@lru_cache(maxsize=32)
def positions(height: int, width: int, channels: int) -> Tensor:
    """(height * width, channels) float32: sines and cosines of the centres' coordinates in [0, 1].

    Coordinates are relative to the image, so that levels of different sizes agree.
    """
    # Sine and cosine for each of the two axes.
    per_axis = channels // 4
    frequency = math.pi * 2.0 ** torch.linspace(0, 5, per_axis)
    # Centres of the cells.
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    rows = (y[:, None] * frequency).repeat_interleave(width, 0)
    columns = (x[:, None] * frequency).repeat(height, 1)
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], 1)


def coverage(regions: Tensor, size: Sequence[int]) -> Tensor:
    """(B, R, H, W) in [0, 1] => (B, R, h, w): the share of each cell that each region covers."""
    return F.adaptive_avg_pool2d(regions, (int(size[0]), int(size[1])))


def pooled(features: Tensor, regions: Tensor) -> Tensor:
    """Mean of (B, C, h, w) over each of (B, R, H, W) => (B, R, C). Zero for a region without pixels."""
    # Weights of the cells, by region.
    share = coverage(regions, features.shape[-2:]).to(features.dtype).flatten(2)  # (B, R, N)
    total = share.sum(2, keepdim=True)
    return torch.matmul(share, features.flatten(2).transpose(1, 2)) / total.clamp(min=1e-6)

"""How well the cross-attention sees the subjects of a prompt (Chefer et al. 2023, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores are multiplied by it before the softmax over tokens, as in the authors' program.
_SHARPNESS = 100.0
_KERNEL, _SIGMA = 3, 0.5


def token_maps(maps: Tensor, ends: Tensor, sides: tuple[int, int]) -> Tensor:
    """Smoothed maps of the prompt's own tokens, float32 (B, L, rows, columns) in [0, 1].

    ``maps`` (B, rows * columns, L) is cross-attention. ``ends`` int64 (B,) is the position of each prompt's end token.
    The softmax runs over the tokens between start and end. All others are 0.
    """
    length = maps.shape[2]
    position = torch.arange(length, device=maps.device)
    words = (position > 0) & (position < ends[:, None])  # (B, L)
    shares = (maps * _SHARPNESS).masked_fill(~words[:, None], float("-inf")).softmax(-1)
    pictures = shares.transpose(1, 2).unflatten(2, sides)
    # Each token's map by itself.
    smooth = F.conv2d(
        F.pad(pictures.flatten(0, 1)[:, None], (1,) * 4, mode="reflect"), _gaussian(maps.device)
    )
    smoothed: Tensor = smooth[:, 0].unflatten(0, pictures.shape[:2])
    return smoothed


def maxima(pictures: Tensor, subjects: Tensor, where: Tensor | None = None) -> Tensor:
    """The maximum of each subject's map, float32 (B, L). 1 for tokens that are no subject.

    ``subjects`` is bool (B, L). ``where`` bool (B, L, rows, columns) restricts each token to cells of its own.
    """
    if where is not None:
        pictures = pictures.masked_fill(~where, 0)
    return pictures.amax((2, 3)).masked_fill(~subjects, 1)


def subject_loss(highest: Tensor) -> Tensor:
    """The loss of each image, float32 (B,): that of the subject which is attended to least."""
    # max over s of max(0, 1 - max A_s). The maximum over the tokens of one image, never over the batch.
    return (1 - highest).clamp(min=0).amax(1)


def _gaussian(device: torch.device) -> Tensor:
    """A Gaussian kernel of sum 1, float32 (1, 1, 3, 3)."""
    axis = torch.arange(_KERNEL, device=device, dtype=torch.float32) - _KERNEL // 2
    line = torch.exp(-(axis**2) / (2 * _SIGMA**2))
    kernel = line[:, None] * line
    return (kernel / kernel.sum())[None, None]

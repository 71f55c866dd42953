"""Dynamic prompt tokens: a few tokens per region, computed from its words and the mask's features there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.prompt_edit_diff.mask_encoder import pooled

# Means of the source that a region's tokens can receive: over the whole region, and over each of its quadrants.
MEANS = 5


class PromptTokens(nn.Module):
    """``count`` learned tokens, adapted to each region.

    The learned tokens, shifted by the region's pooled mask features, attend to the region's words (one head per 64
    channels) and pass a small MLP. The result is a difference to the tokens whose place they take (see
    ``attention.extend``). Its last layer starts at zero, so untrained tokens change nothing.

    Two further inputs are optional. Both pass a linear map that starts at zero. ``content_width`` is the width of
    ``source_means``, which shift the learned tokens. ``time_width`` is the width of the UNet's time embedding, which
    shifts the MLP's hidden layer, so that the tokens differ between steps.
    """

    def __init__(
        self,
        width: int,
        mask_width: int | None,
        count: int = 4,
        content_width: int | None = None,
        time_width: int | None = None,
    ) -> None:
        super().__init__()
        self.count = count
        # As many heads as CLIP's text encoder has at this width.
        self.heads = max(1, width // 64)
        self.learned = nn.Parameter(torch.randn(count, width) * 0.02)
        self.place = nn.Linear(mask_width, width) if mask_width else None
        self.norm_words = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 2 * width)
        self.mlp_out = nn.Linear(2 * width, width)
        # Zero differences, so that the untrained network equals its base.
        nn.init.zeros_(self.mlp_out.weight)
        nn.init.zeros_(self.mlp_out.bias)
        # Zero maps, so that a trained network that gets a new input starts as the same function.
        self.content = _zero_linear(content_width, width) if content_width else None
        self.time = _zero_linear(time_width, 2 * width) if time_width else None

    def forward(
        self,
        text: Tensor,
        member: Tensor,
        pooled_mask: Tensor | None,
        content: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """The differences (B, R, count, W): ``differences`` of ``read``."""
        return self.differences(self.read(text, member, pooled_mask, content), time)

    def read(
        self, text: Tensor, member: Tensor, pooled_mask: Tensor | None, content: Tensor | None = None
    ) -> Tensor:
        """The tokens after their attention to the words, (B, R, count, W). They do not depend on the time step.

        Text (B, L, W), member bool (B, R, L), F_M's mean per region (B, R, C) or None, ``source_means``
        (B, R, content_width) or None. A region without words gets finite values that no attention layer sees. Raises
        ValueError where an input of this module is missing.
        """
        batch, regions, _ = member.shape
        width = text.shape[-1]
        # The learned tokens of each region, shifted by its mask features. (B, R, count, W)
        x = self.learned.to(text.dtype).expand(batch, regions, -1, -1)
        if self.place is not None:
            if pooled_mask is None:
                raise ValueError("these prompt tokens belong to a model with a mask encoder")
            x = x + self.place(pooled_mask)[:, :, None]
        if self.content is not None:
            if content is None:
                raise ValueError("these prompt tokens need the means of the source in each region")
            x = x + self.content(content.to(x.dtype))[:, :, None]

        # All regions' tokens are queries of one attention. Each row sees its own region's words.
        words = self.norm_words(text)
        visible = member | ~member.any(2, keepdim=True)
        bias = torch.zeros(visible.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~visible, float("-inf"))
        bias = bias[:, None].repeat_interleave(self.count, 2)  # (B, 1, R * count, L)
        query = self._split(self.to_q(self.norm(x)).reshape(batch, regions * self.count, width))
        key, value = self._split(self.to_k(words)), self._split(self.to_v(words))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return x + attended.transpose(1, 2).reshape(batch, regions, self.count, width)

    def differences(self, read: Tensor, time: Tensor | None = None) -> Tensor:
        """The MLP on the result of ``read``, for a time embedding (B, time_width) where this module takes one.

        Raises ValueError where it is missing.
        """
        hidden = self.mlp_in(self.norm(read))
        if self.time is not None:
            if time is None:
                raise ValueError("these prompt tokens need the time embedding of the step")
            # Activated first, as the UNet's own blocks do.
            hidden = hidden + self.time(F.silu(time.to(read.dtype)))[:, None, None]
        out: Tensor = self.mlp_out(F.gelu(hidden))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, W) => (B, heads, T, W / heads)."""
        heads: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return heads


def source_means(source: Tensor, regions: Tensor) -> Tensor:
    """Means of the source's latents over each region and over its four quadrants.

    Latents (B, C, h, w) and regions (B, R, H, W) in {0, 1} => (B, R, MEANS * C), in the order whole, upper left, upper
    right, lower left, lower right. The quadrants meet at the region's centre of mass. A quadrant without pixels has
    the mean of the whole region, and a region without pixels has zeros.
    """
    # Centre of mass, in pixels. (B, R)
    regions = regions.float()
    height, width = regions.shape[2:]
    total = regions.sum((2, 3)).clamp(min=1)
    rows = torch.arange(height, device=regions.device, dtype=regions.dtype)
    columns = torch.arange(width, device=regions.device, dtype=regions.dtype)
    center_y = (regions.sum(3) * rows).sum(2) / total
    center_x = (regions.sum(2) * columns).sum(2) / total

    # Quadrants are cut in pixels, since a region can be smaller than four latent cells. (B, R, 4, H, W)
    upper = (rows < center_y[..., None])[..., None]
    left = (columns < center_x[..., None])[..., None, :]
    quadrants = (
        torch.stack([upper & left, upper & ~left, ~upper & left, ~upper & ~left], 2) * regions[:, :, None]
    )

    # Means of the cells, weighted by coverage.
    whole = pooled(source, regions)[:, :, None]  # (B, R, 1, C)
    parts = pooled(source, quadrants.flatten(1, 2)).unflatten(1, (-1, 4))  # (B, R, 4, C)
    parts = torch.where(quadrants.amax((3, 4))[..., None] > 0, parts, whole)
    return torch.cat([whole, parts], 2).flatten(2)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

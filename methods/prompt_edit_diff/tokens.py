"""Dynamic prompt tokens: a few tokens per region, computed from its words and the mask's features there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PromptTokens(nn.Module):
    """``count`` learned tokens, adapted to each region.

    The learned tokens, shifted by the region's pooled mask features, attend to the region's words (one head per 64
    channels) and pass a small MLP. The result is a difference to the tokens whose place they take (see
    ``attention.extend``). Its last layer starts at zero, so untrained tokens change nothing.
    """

    def __init__(self, width: int, mask_width: int | None, count: int = 4) -> None:
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

    def forward(self, text: Tensor, member: Tensor, pooled_mask: Tensor | None) -> Tensor:
        """Text (B, L, W), member bool (B, R, L), F_M's mean per region (B, R, C) or None => (B, R, count, W).

        A region without words gets finite values that no attention layer sees.
        """
        batch, regions, _ = member.shape
        width = text.shape[-1]
        # The learned tokens of each region, shifted by its mask features. (B, R, count, W)
        x = self.learned.to(text.dtype).expand(batch, regions, -1, -1)
        if self.place is not None:
            if pooled_mask is None:
                raise ValueError("these prompt tokens belong to a model with a mask encoder")
            x = x + self.place(pooled_mask)[:, :, None]

        # All regions' tokens are queries of one attention. Each row sees its own region's words.
        words = self.norm_words(text)
        visible = member | ~member.any(2, keepdim=True)
        bias = torch.zeros(visible.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~visible, float("-inf"))
        bias = bias[:, None].repeat_interleave(self.count, 2)  # (B, 1, R * count, L)
        query = self._split(self.to_q(self.norm(x)).reshape(batch, regions * self.count, width))
        key, value = self._split(self.to_k(words)), self._split(self.to_v(words))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        x = x + attended.transpose(1, 2).reshape(batch, regions, self.count, width)
        out: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.norm(x))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, W) => (B, heads, T, W / heads)."""
        heads: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return heads

"""Dynamic prompt tokens: per region a few tokens made from what the region shall show and where it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PromptTokens(nn.Module):
    """``count`` learned tokens, shaped for each region by its words and by the mask's features there.

    The learned tokens, shifted by the region's pooled mask features, attend to the region's words (one head
    per 64 channels), then pass a small MLP whose last layer starts at zero. The result is a difference to the
    tokens whose place they take (see ``attention.extend``), so that untrained they change nothing.
    """

    def __init__(self, width: int, mask_width: int | None, count: int = 4) -> None:
        super().__init__()
        self.count = count
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
        nn.init.zeros_(self.mlp_out.weight)
        nn.init.zeros_(self.mlp_out.bias)

    def forward(self, text: Tensor, member: Tensor, pooled_mask: Tensor | None) -> Tensor:
        """Text (B, L, W), member bool (B, R, L), F_M's mean per region (B, R, C) or None => (B, R, count, W).

        A region without words still gets finite values; nothing sees them.
        """
        batch, regions, _ = member.shape
        width = text.shape[-1]
        x = self.learned.to(text.dtype).expand(batch, regions, -1, -1)
        if self.place is not None:
            if pooled_mask is None:
                raise ValueError("these prompt tokens were made for a model with a mask encoder")
            x = x + self.place(pooled_mask)[:, :, None]
        words = self.norm_words(text)
        visible = member | ~member.any(2, keepdim=True)
        bias = torch.zeros(visible.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~visible, float("-inf"))
        # All regions' tokens as queries of one attention, each row with its own words.
        bias = bias[:, None].repeat_interleave(self.count, 2)
        query = self._split(self.to_q(self.norm(x)).reshape(batch, regions * self.count, width))
        key, value = self._split(self.to_k(words)), self._split(self.to_v(words))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        x = x + seen.transpose(1, 2).reshape(batch, regions, self.count, width)
        out: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.norm(x))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return heads

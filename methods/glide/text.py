"""GLIDE's text transformer: bidirectional, pre-norm, over tokens whose padding is a learned vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention without any mask: padding takes part, as the learned vector it is."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) => (B, L, W). The fused projection is head-major: (heads, 3, W / heads)."""
        q, k, v = self.c_qkv(x).unflatten(2, (self.heads, 3, -1)).transpose(1, 2).unbind(3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


def pad_embeddings(embedded: Tensor, present: Tensor, padding: Tensor) -> Tensor:
    """Where ``present`` is False the whole vector, position included, becomes the learned one of that place.

    Float (B, L, W), bool (B, L), float (L, W) => (B, L, W).
    """
    return torch.where(present[..., None], embedded, padding[None].to(embedded.dtype))

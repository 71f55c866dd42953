"""GLIDE's text transformer: bidirectional, pre-norm, with a learned vector for padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention without any mask. Padding takes part: it is a learned vector."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) => (B, L, W). The fused projection is head-major: (heads, 3, W / heads)."""
        # The scale 1 / sqrt(W / heads) is the default of scaled_dot_product_attention.
        q, k, v = self.c_qkv(x).unflatten(2, (self.heads, 3, -1)).transpose(1, 2).unbind(3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        # The exact GELU, not its tanh approximation, as in the published network.
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and added to its input."""

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
    """A stack of blocks, float (B, L, W) => (B, L, W)."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


def pad_embeddings(embedded: Tensor, present: Tensor, padding: Tensor) -> Tensor:
    """Float (B, L, W), bool (B, L), float (L, W) => (B, L, W), with learned vectors where ``present`` is False."""
    # The whole vector is replaced, its position included.
    return torch.where(present[..., None], embedded, padding[None].to(embedded.dtype))

"""The UNet of GLIDE's base and upsampler, with its text encoder inside: parameters named as published.

The architecture is ADM's (Dhariwal and Nichol 2021) with the text as further keys and values of every attention and
as a summand of the time embedding (Nichol et al. 2022, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.glide.config import UNetConfig
from methods.glide.text import Transformer, pad_embeddings

_Module = TypeVar("_Module", bound=nn.Module)


class TextFeatures(NamedTuple):
    """A prompt, encoded once for all steps."""

    # (B, L, W)
    sequence: Tensor
    # (B, 4 C)
    pooled: Tensor


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32, whatever the precision around it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class ResBlock(nn.Module):
    """Two convolutions, scaled and shifted by the time embedding between them, and a skip connection.

    ``up`` or ``down``: both branches are resampled by 2 (nearest, average) before the first convolution.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        config: UNetConfig,
        *,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.up, self.down = up, down
        self.in_layers = nn.Sequential(
            GroupNorm(config.norm_groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.channels, 2 * out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(config.norm_groups, out_channels),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection: nn.Module = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C, h, w), (B, 4 * config.channels) => (B, out, h, w), h and w doubled or halved with up or down."""
        norm, act, conv = self.in_layers
        h = act(norm(x))
        if self.up:
            h, x = (F.interpolate(y, scale_factor=2.0, mode="nearest") for y in (h, x))
        elif self.down:
            h, x = (F.avg_pool2d(y, 2) for y in (h, x))
        h = conv(h)
        scale, shift = self.emb_layers(emb).to(h.dtype)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        out: Tensor = self.skip_connection(x) + self.out_layers[1:](h)
        return out


class AttentionBlock(nn.Module):
    """Each position attends to every position and to every token of the text, in one softmax."""

    # The projections are 1-wide convolutions for the sake of the published shapes.

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.heads = channels // config.head_channels
        self.norm = GroupNorm(config.norm_groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.encoder_kv = nn.Conv1d(config.text_width, 2 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """(B, C, h, w), (B, L, W) => (B, C, h, w). Head-major: (heads, 3, C / heads), (heads, 2, C / heads)."""
        places = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self._heads(self.qkv, places, 3)
        text_k, text_v = self._heads(self.encoder_kv, text, 2)
        mixed = F.scaled_dot_product_attention(
            q, torch.cat([text_k, k], dim=2), torch.cat([text_v, v], dim=2)
        )
        added = _pointwise(self.proj_out, mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + added.transpose(1, 2).unflatten(2, x.shape[2:])
        return out

    def _heads(self, projection: nn.Conv1d, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """(B, T, C) => ``count`` tensors (B, heads, T, C / heads)."""
        split = _pointwise(projection, x).unflatten(2, (self.heads, count, -1))
        return tuple(part.transpose(1, 2) for part in split.unbind(3))


def _pointwise(projection: nn.Conv1d, x: Tensor) -> Tensor:
    """A 1-wide convolution on channels-last input: (B, T, C) => (B, T, out)."""
    return F.linear(x, projection.weight[..., 0], projection.bias)


class ConditionedLayers(nn.Sequential):
    """The layers of one index in the published lists. Each gets the inputs that it takes."""

    def forward(self, x: Tensor, emb: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, AttentionBlock):
                x = layer(x, text)
            else:
                x = layer(x)
        return x


class GlideUNet(nn.Module):
    """Predicts eps and the variance of one step from x_t, the prompt, the visible pixels and the low resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, emb = config.channels, 4 * config.channels

        # Time and text.
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.token_embedding = nn.Embedding(config.vocabulary, config.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(config.text_ctx, config.text_width))
        self.padding_embedding = nn.Parameter(torch.empty(config.text_ctx, config.text_width))
        self.transformer = Transformer(config.text_width, config.text_layers, config.text_heads)
        self.final_ln = nn.LayerNorm(config.text_width)
        self.transformer_proj = nn.Linear(config.text_width, emb)
        for embedding in (self.token_embedding.weight, self.positional_embedding, self.padding_embedding):
            nn.init.normal_(embedding, std=0.02)

        def attention(level: int, channels: int) -> Iterator[AttentionBlock]:
            if 2**level in config.attention_factors:
                yield AttentionBlock(channels, config)

        # Down: the residual blocks of each level, then half the resolution.
        first = channels = config.channel_mult[0] * width
        self.input_blocks = nn.ModuleList(
            [ConditionedLayers(nn.Conv2d(config.in_channels, channels, 3, padding=1))]
        )
        skips = [channels]  # the channels of each output, for the skip connections
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.res_blocks):
                block = ResBlock(channels, mult * width, config)
                channels = mult * width
                self.input_blocks.append(ConditionedLayers(block, *attention(level, channels)))
                skips.append(channels)
            if level < len(config.channel_mult) - 1:
                self.input_blocks.append(ConditionedLayers(ResBlock(channels, channels, config, down=True)))
                skips.append(channels)

        # The middle, at the lowest resolution.
        self.middle_block = ConditionedLayers(
            ResBlock(channels, channels, config),
            AttentionBlock(channels, config),
            ResBlock(channels, channels, config),
        )

        # Up: one block more per level, each on the channels of a skip connection too.
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for number in range(config.res_blocks + 1):
                layers: list[nn.Module] = [ResBlock(channels + skips.pop(), mult * width, config)]
                channels = mult * width
                layers += attention(level, channels)
                if level and number == config.res_blocks:
                    layers.append(ResBlock(channels, channels, config, up=True))
                self.output_blocks.append(ConditionedLayers(*layers))
        self.out = nn.Sequential(
            GroupNorm(config.norm_groups, channels),
            nn.SiLU(),
            _zeroed(nn.Conv2d(first, 6, 3, padding=1)),
        )

    def encode_text(self, tokens: Tensor, present: Tensor) -> TextFeatures:
        """int64 (B, L) and bool (B, L), with L of the configuration. The empty prompt has no token present."""
        embedded = self.token_embedding(tokens) + self.positional_embedding
        embedded = pad_embeddings(embedded, present, self.padding_embedding)
        sequence = self.final_ln(self.transformer(embedded))
        return TextFeatures(sequence, self.transformer_proj(sequence[:, -1]))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: TextFeatures,
        image: Tensor | None = None,
        visible: Tensor | None = None,
        low_res: Tensor | None = None,
    ) -> Tensor:
        """x_t => float (B, 6, S, S): eps, then the position of the log variance (-1: log beta~, 1: log beta).

        ``x`` is float (B, 3, S, S) and ``t`` int64 (B,), an index in the whole process. ``image`` (B, 3, S, S) in
        [-1, 1] is read where ``visible`` (B, 1, S, S) is 1. Without the two nothing is visible. ``low_res``
        (B, 3, s, s) in [-1, 1] is for the upsampler alone.
        """
        if (low_res is not None) != (self.config.kind == "upsampler"):
            raise ValueError(f"low_res is for the upsampler and needed there; this is the {self.config.kind}")

        # The input: x_t, the visible pixels, their mask, and the upscaled low resolution.
        visible = x.new_zeros(x.shape[0], 1, *x.shape[2:]) if visible is None else visible
        image = torch.zeros_like(x) if image is None else image
        inputs = [x, image * visible, visible]
        if low_res is not None:
            inputs.append(F.interpolate(low_res, x.shape[2:], mode="bilinear", align_corners=False))

        # The time, with the prompt as a summand.
        emb = self.time_embed(timestep_embedding(t, self.config.channels))
        emb = emb + text.pooled.to(emb.dtype)

        # Down, through the middle, and up with the skip connections.
        h = torch.cat(inputs, dim=1)
        skips = []
        for layers in self.input_blocks:
            h = layers(h, emb, text.sequence)
            skips.append(h)
        h = self.middle_block(h, emb, text.sequence)
        for layers in self.output_blocks:
            h = layers(torch.cat([h, skips.pop()], dim=1), emb, text.sequence)
        out: Tensor = self.out(h)
        return out


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """int64 (B,) => float32 (B, width): cosines, then sines, of periods from 2 pi to 2 pi 10^4. ``width`` is even."""
    half = width // 2
    order = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * order / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _zeroed(module: _Module) -> _Module:
    """The module with all parameters 0, so that an untrained block adds nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module

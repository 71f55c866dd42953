"""The additions of InstanceDiffusion to a frozen text-to-image UNet: UniFusion, gated self-attention, ScaleU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock, GatedSelfAttentionDense
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from methods.instance_diffusion.fusion import Grounding, UniFusion

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True, eq=False)
class InstanceTokens:
    """The instances as the attention layers take them."""

    # (B, T, W).
    values: Tensor
    # Number of visual positions N -> (B, N + T, N + T), added to the scores: 0 or -inf. Other layers see everything.
    bias: Mapping[int, Tensor]


class Fuser(GatedSelfAttentionDense):  # type: ignore[misc]
    """x + tanh(a) Attn([x, tokens]), then x + tanh(b) FF(x) (paper), with a = b = 0 at first."""

    def forward(self, x: Tensor, objs: InstanceTokens) -> Tensor:
        """(B, N, C) => (B, N, C)."""
        positions = x.shape[1]
        joined = self.norm1(torch.cat([x, self.linear(objs.values.to(x.dtype))], 1))
        bias = objs.bias.get(positions)
        attended = self.attn(joined, attention_mask=None if bias is None else bias.to(x.dtype))
        x = x + self.alpha_attn.tanh() * attended[:, :positions]
        out: Tensor = x + self.alpha_dense.tanh() * self.ff(self.norm2(x))
        return out


class ScaleU(nn.Module):
    """Learned scales of the two inputs of a decoder block (paper).

    These are a factor per channel of h, and one for the low frequencies of the skip connection.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.backbone = nn.Parameter(torch.zeros(channels))
        self.skip = nn.Parameter(torch.zeros(1))

    def forward(self, joined: Tensor) -> Tensor:
        """[h, skip] (B, C, H, W) => the same, scaled. Both factors are tanh(.) + 1, which is 1 at first."""
        h, skip = joined.split([len(self.backbone), joined.shape[1] - len(self.backbone)], 1)
        h = h * (self.backbone.tanh() + 1).view(1, -1, 1, 1).to(h.dtype)
        # Scaling a part is adding a multiple of it.
        skip = skip + (self.skip.tanh() * low_frequencies(skip)).to(skip.dtype)
        return torch.cat([h, skip], 1)


def low_frequencies(x: Tensor) -> Tensor:
    """The part of (B, C, H, W) whose frequencies are 0 and -1 along each axis, float32, as FreeU's filter takes it."""
    spectrum = torch.fft.fft2(x.float())
    low = torch.zeros_like(spectrum)
    for row in (0, -1):
        for column in (0, -1):
            low[..., row, column] = spectrum[..., row, column]
    part: Tensor = torch.fft.ifft2(low).real
    return part


class InstanceAdapter(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """All additions to one UNet, which ``lend`` puts into place for a call.

    ``blocks`` maps the name of each transformer block of the UNet to (channels, heads, channels per head). ``decoder``
    maps the name of each residual block of the decoder to the channels of its first input. ``forms`` and the options
    after it are those of ``UniFusion``. With ``masked`` instances do not see each other at the largest resolution that
    has attention.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        blocks: dict[str, tuple[int, int, int]],
        decoder: dict[str, int],
        text_width: int = 768,
        forms: tuple[str, ...] = ("box", "point", "polygon"),
        slots: int = 3,
        hidden: int = 192,
        frequencies: int = 8,
        polygon_points: int = 32,
        scribble_points: int = 20,
        segment_side: int = 64,
        segment_depths: tuple[int, ...] = (1, 1),
        segment_widths: tuple[int, ...] = (24, 48),
        segment_tokens: int = 64,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.fusion = UniFusion(
            text_width, forms, slots, hidden, frequencies, polygon_points, scribble_points, segment_side,
            tuple(segment_depths), tuple(segment_widths), segment_tokens,
        )  # fmt: skip
        # Names of submodules have no dots.
        self.fusers = nn.ModuleDict(
            {
                _key(name): Fuser(width, text_width, heads, size)
                for name, (width, heads, size) in blocks.items()
            }
        )
        self.scales = nn.ModuleDict({_key(name): ScaleU(channels) for name, channels in decoder.items()})

    @classmethod
    def from_base(cls, base: UNet2DConditionModel, **config: Any) -> InstanceAdapter:
        """The untrained additions to a UNet. They change nothing at first."""
        blocks = {
            name: (
                block.attn1.to_q.in_features,
                block.attn1.heads,
                block.attn1.inner_dim // block.attn1.heads,
            )
            for name, block in transformer_blocks(base).items()
        }
        adapter: InstanceAdapter = cls(
            blocks=blocks,
            decoder=decoder_inputs(base),
            text_width=int(base.config["cross_attention_dim"]),
            **config,
        )
        return adapter

    def tokens(self, grounding: Grounding, size: tuple[int, int]) -> InstanceTokens:
        """The tokens of the instances. ``size`` (h, w) is that of the largest feature maps that have attention."""
        values = self.fusion(grounding)
        bias = {}
        if self.config["masked"]:
            cells = F.adaptive_max_pool2d(grounding.masks.float(), size).flatten(2)  # (B, R, N)
            bias[size[0] * size[1]] = masked_attention_bias(
                cells * grounding.present[..., None], len(self.fusion.forms), values.shape[1]
            )
        return InstanceTokens(values, bias)

    @contextmanager
    def lend(self, unet: UNet2DConditionModel) -> Iterator[None]:
        """Put the additions into ``unet``, and take them out at the end: the UNet belongs to others too."""
        blocks, modules = transformer_blocks(unet), dict(unet.named_modules())
        hooks = []
        try:
            # diffusers calls ``fuser`` of each transformer block with what ``position_net`` makes of its argument.
            unet.position_net = _as_they_are
            for name, block in blocks.items():
                block.fuser = self.fusers[_key(name)]
            for name in self.config["decoder"]:
                scale = self.scales[_key(name)]
                hooks.append(modules[name].register_forward_pre_hook(_scaled(scale)))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for block in blocks.values():
                if hasattr(block, "fuser"):
                    del block.fuser
            del unet.position_net

    def predict(
        self, unet: UNet2DConditionModel, x: Tensor, t: Tensor, context: Tensor, tokens: InstanceTokens | None
    ) -> Tensor:
        """The prediction (B, 4, h, w) of ``unet`` with the additions, float32.

        ``context`` (B, L, W) is the text. Without ``tokens`` the attention layers are the base's.
        """
        arguments = {} if tokens is None else {"cross_attention_kwargs": {"gligen": {"tokens": tokens}}}
        with self.lend(unet):
            output: Tensor = unet(x.to(unet.dtype), t, context, **arguments).sample.float()
        return output


def _as_they_are(tokens: InstanceTokens) -> InstanceTokens:
    return tokens


def _scaled(scale: nn.Module) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        return (scale(inputs[0]), *inputs[1:])

    return hook


def _key(name: str) -> str:
    return name.replace(".", "_")


def transformer_blocks(unet: nn.Module) -> dict[str, Any]:
    """The transformer blocks of a UNet, by name."""
    return {name: part for name, part in unet.named_modules() if isinstance(part, BasicTransformerBlock)}


def decoder_inputs(unet: UNet2DConditionModel) -> dict[str, int]:
    """Name of each residual block of the decoder -> channels of its input from the block before."""
    channels: dict[str, int] = {}
    width = unet.config["block_out_channels"][-1]
    for number, block in enumerate(unet.up_blocks):
        for place, resnet in enumerate(block.resnets):
            channels[f"up_blocks.{number}.resnets.{place}"] = int(width)
            width = resnet.out_channels
    return channels


def largest_attention(unet: UNet2DConditionModel, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the largest feature maps with attention, for latents of this size."""
    for kind in unet.config["down_block_types"]:
        if "CrossAttn" in kind:
            break
        # Each level but the last ends in a convolution of stride 2, which rounds up.
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def masked_attention_bias(cells: Tensor, forms: int, tokens: int) -> Tensor:
    """Bias of attention: (B, N + T, N + T), 0 or -inf, for ``cells`` (B, R, N), 1 where an instance covers a position.

    * A position sees those that share an instance with it. One outside all instances sees the others outside.
    * Positions and tokens of an instance see each other. The last tokens belong to no instance and see everything.
    * Tokens see all tokens.
    """
    batch, _, positions = cells.shape
    covered = cells > 0
    none = ~covered.any(1)
    together = torch.matmul(covered.float().transpose(1, 2), covered.float()) > 0
    together |= none[:, :, None] & none[:, None, :]
    total = positions + tokens
    visible = torch.ones(batch, total, total, dtype=torch.bool, device=cells.device)
    visible[:, :positions, :positions] = together
    own = covered.repeat(1, forms, 1)  # (B, forms * R, N)
    visible[:, positions : positions + own.shape[1], :positions] = own
    visible[:, :positions, positions : positions + own.shape[1]] = own.transpose(1, 2)
    return torch.zeros(visible.shape, device=cells.device).masked_fill(~visible, float("-inf"))

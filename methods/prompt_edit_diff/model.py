"""The network (paper, section 2.B): an unchanged UNet2DConditionModel, and PromptEditDiff's additions to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from methods.prompt_edit_diff.attention import (
    Guide,
    Injection,
    InjectMask,
    Route,
    RouteTokens,
    Routing,
    extend,
    route,
)
from methods.prompt_edit_diff.mask_encoder import MaskEncoder, pooled
from methods.prompt_edit_diff.tokens import MEANS, PromptTokens, source_means

# Channels of the latents.
LATENTS = 4
# Values of ``source_latents``. "concat" is the stored name of "cells".
SOURCE_LATENTS = ("pixels", "cells", "concat", "none")
TOKEN_CONTENT = ("none", "source", "shuffled")


@dataclass(frozen=True, eq=False)
class Conditions:
    """Inputs of the network that are the same at every step of a sampling."""

    # (B, L', W): the prompt's tokens, followed by the regions' prompt tokens unless these differ between steps.
    text: Tensor
    guide: Guide
    # (B, 4, h, w): the additional input channels, see ``PromptEditDiffUNet.surroundings``.
    surroundings: Tensor | None = None
    # (B, R, count, W): ``PromptTokens.read``, where the tokens are made at each step.
    tokens: Tensor | None = None


class PromptEditDiffUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A UNet with a mask encoder, injection into its self-attention, routed cross-attention and prompt tokens.

    ``base`` is the configuration of the text-to-image UNet, a copy of which lives in ``unet``. ``in_channels`` and
    ``sample_size`` repeat it for readers of the configuration file. ``factor`` is the pixels per latent cell. The
    three switches are the paper's ablations. Without ``masked_attention``, tags only choose the words of the prompt
    tokens.

    ``source_latents`` says which part of the source the additional input channels show:

    * "pixels": all but M's own pixels, as in Stable Diffusion inpainting. The channels are the latents of the source
      with gray in M.
    * "cells": all but the latent cells that M touches. The channels are the source's latents, with zeros there.
      "concat" is its name in the first checkpoints.
    * "none": nothing. There are no such channels.

    ``token_content`` says which means of the source a region's prompt tokens receive (``tokens.source_means``): "none",
    "source" (those of its own region), or "shuffled" (a control of equal capacity: in training, those of another
    example of the batch, which say nothing of this one). With ``token_time`` the tokens also receive the time step.
    """

    _supports_gradient_checkpointing = True

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        base: dict[str, Any],
        in_channels: int = 2 * LATENTS,
        sample_size: int = 64,
        factor: int = 8,
        mask_width: int = 128,
        mask_tokens: int = 8,
        count: int = 4,
        rest_bias: float = -1.0,
        source_latents: str = "pixels",
        prompt_tokens: bool = True,
        masked_attention: bool = True,
        mask_encoder: bool = True,
        token_content: str = "none",
        token_time: bool = False,
    ) -> None:
        super().__init__()
        if source_latents not in SOURCE_LATENTS:
            raise ValueError(f"source_latents {source_latents!r}: expected 'pixels', 'cells' or 'none'")
        if token_content not in TOKEN_CONTENT:
            raise ValueError(f"token_content {token_content!r}: expected one of {', '.join(TOKEN_CONTENT)}")
        if not prompt_tokens and (token_content != "none" or token_time):
            raise ValueError("token_content and token_time have no effect without prompt_tokens")
        # The source's latents are four more input channels.
        expected = LATENTS if source_latents == "none" else 2 * LATENTS
        if in_channels != expected:
            raise ValueError(
                f"in_channels {in_channels}: with source_latents={source_latents!r} it is {expected}"
            )
        # The base.
        self.unet = UNet2DConditionModel.from_config({**base, "in_channels": in_channels})
        self.levels = len(self.unet.config.block_out_channels)
        # The three additions, each with its switch.
        self.encoder = MaskEncoder(factor, self._attends(), mask_width, mask_tokens) if mask_encoder else None
        self.prompts = (
            PromptTokens(
                self.unet.config.cross_attention_dim,
                mask_width if mask_encoder else None,
                count,
                MEANS * LATENTS if token_content != "none" else None,
                int(self.unet.time_embedding.linear_2.out_features) if token_time else None,
            )
            if prompt_tokens
            else None
        )
        # Parameters inside the attention layers, by the layers' names.
        self.injections = nn.ModuleDict()
        self.routings = nn.ModuleDict()
        self._attach(mask_width, rest_bias, mask_encoder, masked_attention)

    def _attends(self) -> list[bool]:
        """Whether each level of the UNet has attention. The middle block works at the last level."""
        config = self.unet.config
        # Levels from fine to coarse.
        down = ["CrossAttn" in kind for kind in config.down_block_types]
        up = ["CrossAttn" in kind for kind in reversed(config.up_block_types)]
        middle = [False] * (len(down) - 1) + ["CrossAttn" in (config.mid_block_type or "")]
        return [any(level) for level in zip(down, up, middle, strict=True)]

    def _attach(self, mask_width: int, rest_bias: float, inject: bool, masked: bool) -> None:
        """Put the processors into the attention layers, with their parameters in this module."""
        processors: dict[str, Any] = {}
        for name in self.unet.attn_processors:
            layer = self.unet.get_submodule(name.removesuffix(".processor"))
            # Names of submodules have no dots.
            key = name.removesuffix(".processor").replace(".", "_")
            # attn1 is self-attention, attn2 cross-attention.
            if name.endswith("attn1.processor"):
                injection = Injection(int(layer.to_q.out_features), mask_width) if inject else None
                if injection is not None:
                    self.injections[key] = injection
                processors[name] = InjectMask(injection)
            else:
                routing = Routing(rest_bias) if masked else None
                if routing is not None:
                    self.routings[key] = routing
                processors[name] = RouteTokens(routing)
        self.unet.set_attn_processor(processors)

    @classmethod
    def from_base(cls, base: UNet2DConditionModel, **config: Any) -> PromptEditDiffUNet:
        """Build the network around a copy of a text-to-image UNet (4 input channels).

        New input channels start at zero. Raises ValueError for another number of channels.
        """
        if base.config.in_channels != LATENTS:
            raise ValueError(
                f"the base UNet has {base.config.in_channels} input channels: expected a text-to-image one with "
                f"{LATENTS}"
            )
        channels = LATENTS if config.get("source_latents") == "none" else 2 * LATENTS
        # Private entries of the configuration depend on the machine.
        settings = {k: v for k, v in base.config.items() if not k.startswith("_")}
        config.setdefault("sample_size", base.config.sample_size)
        model = cls(base=settings, in_channels=channels, **config)
        state = {k: v.detach().clone() for k, v in base.state_dict().items()}
        # (out, 4, 3, 3) => (out, channels, 3, 3), with zeros for the new channels.
        narrow = state["conv_in.weight"]
        wide = narrow.new_zeros(narrow.shape[0], channels, *narrow.shape[2:])
        wide[:, :LATENTS] = narrow
        state["conv_in.weight"] = wide
        model.unet.load_state_dict(state)
        return model  # type: ignore[no-any-return]

    def added(self) -> dict[str, nn.Parameter]:
        """The parameters that the base does not have."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("unet.")}

    def enable_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """Recompute the base's blocks in the backward pass. They need most of the memory."""
        self.unet.enable_gradient_checkpointing(*args, **kwargs)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """The (height, width) of each level for latents of this size. Each stride-2 convolution rounds up."""
        sizes = [(height, width)]
        for _ in range(self.levels - 1):
            height, width = -(-height // 2), -(-width // 2)
            sizes.append((height, width))
        return sizes

    @property
    def hides(self) -> str:
        """The part of the source that the additional channels hide: "pixels", "cells", or "none" without them."""
        return {"concat": "cells"}.get(self.config.source_latents, str(self.config.source_latents))

    def conditions(
        self,
        text: Tensor,
        mask: Tensor,
        regions: Tensor | None = None,
        member: Tensor | None = None,
        words: Tensor | None = None,
        source: Tensor | None = None,
        masked_source: Tensor | None = None,
    ) -> Conditions:
        """Everything that does not depend on the time step.

        ``text`` (B, L, W) is the prompt's tokens. ``mask`` (B, 1, H, W) in [0, 1] at pixel size. ``regions``
        (B, R, H, W). ``member`` bool (B, R, L) and ``words`` bool (B, L) are those of ``tags.TokenTags``. Without them
        every token is visible everywhere. ``source`` and ``masked_source``: see ``forward``.
        """
        # F_M, the features of the mask.
        features = self.encoder(mask.to(self.dtype)) if self.encoder is not None else None
        surroundings = self.surroundings(mask, source, masked_source)
        if regions is None or member is None or words is None:
            return Conditions(text, Guide(None, features), surroundings)
        # One set of prompt tokens per region.
        slots, tokens = 0, None
        if self.prompts is not None:
            place = pooled(features.grid, regions) if features is not None else None
            tokens = self.prompts.read(text, member, place, self._content(source, regions))
            slots = self.prompts.count
            if self.prompts.time is None:
                text, tokens = extend(text, self.prompts.differences(tokens)), None
        # Masked cross-attention: one route per level.
        routes: dict[int, Route] | None = None
        masked = bool(self.config.masked_attention)
        if masked or slots:
            factor = int(self.config.factor)
            routes = {
                height * width: route(regions, member, words, (height, width), slots, masked)
                for height, width in self.sizes(mask.shape[-2] // factor, mask.shape[-1] // factor)
            }
        return Conditions(text, Guide(routes, features), surroundings, tokens)

    def _content(self, source: Tensor | None, regions: Tensor) -> Tensor | None:
        """The means of the source that the prompt tokens receive, (B, R, MEANS * LATENTS)."""
        kind = self.config.token_content
        if kind == "none":
            return None
        if source is None:
            raise ValueError(f"this model has token_content={kind!r}: it needs the source's latents")
        means = source_means(source, regions)
        # An edit must not depend on its batch, so only training shuffles. There the network learns that the means say
        # nothing, and an edit may hand it those of its own region.
        if kind == "shuffled" and self.training:
            if len(means) < 2:
                raise ValueError("token_content='shuffled' needs at least two examples in a batch")
            means = means.roll(1, 0)
        return means

    def cells(self, mask: Tensor) -> Tensor:
        """(B, 1, H, W) pixels => (B, 1, h, w): 1 for each latent cell that holds a pixel of the mask."""
        # A cell is edited if any of its pixels is.
        return F.max_pool2d((mask > 0.5).float(), int(self.config.factor))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        mask: Tensor,
        source: Tensor | None = None,
        regions: Tensor | None = None,
        member: Tensor | None = None,
        words: Tensor | None = None,
        masked_source: Tensor | None = None,
    ) -> Tensor:
        """The prediction (B, 4, h, w) for noisy latents ``sample``. See ``conditions`` for the mask and the tags.

        ``source`` and ``masked_source`` (B, 4, h, w) are the scaled latents of the source, and of the source with gray
        (0 in [-1, 1]) in the mask's pixels. "pixels" needs the second. "cells" and ``token_content`` need the first.
        Raises ValueError where one is missing.
        """
        prepared = self.conditions(encoder_hidden_states, mask, regions, member, words, source, masked_source)
        return self.predict(sample, timestep, prepared)

    def surroundings(
        self, mask: Tensor, source: Tensor | None, masked_source: Tensor | None = None
    ) -> Tensor | None:
        """The additional input channels (B, 4, h, w), which show the source outside the mask."""
        if self.hides == "none":
            return None
        visible = masked_source if self.hides == "pixels" else source
        if visible is None:
            which = "masked source's" if self.hides == "pixels" else "source's"
            raise ValueError(
                f"this model has source_latents={self.config.source_latents!r}: it needs the {which} latents"
            )
        if self.hides == "pixels":
            return visible
        # Zeros inside, so that the edited content cannot leak into its own prediction.
        return visible * (1 - self.cells(mask)).to(visible.dtype)

    def predict(self, sample: Tensor, timestep: Tensor | float | int, prepared: Conditions) -> Tensor:
        """One step with the result of ``conditions``, which serves all steps of a sampling."""
        text = prepared.text
        if prepared.tokens is not None:
            assert self.prompts is not None
            # The UNet computes the same embedding again: two small layers.
            time = self.unet.time_embedding(self.unet.get_time_embed(sample, timestep))  # (B, time_width)
            text = extend(text, self.prompts.differences(prepared.tokens, time))
        # (B, 4 or 8, h, w), as wide as the first convolution.
        x = sample
        if prepared.surroundings is not None:
            x = torch.cat([sample, prepared.surroundings.to(sample.dtype)], 1)
        out: Tensor = self.unet(
            x, timestep, text, cross_attention_kwargs={"guide": prepared.guide}, return_dict=False
        )[0]
        return out


def mean_gate(model: PromptEditDiffUNet) -> float:
    """Mean of |phi| over the layers: the strength of the mask's features. 0 without a mask encoder."""
    gates = [p.detach().abs() for name, p in model.named_parameters() if name.endswith(".phi")]
    return float(torch.stack(gates).mean()) if gates else 0.0

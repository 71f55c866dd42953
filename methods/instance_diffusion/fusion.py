"""UniFusion (paper): all forms of an instance's location become tokens, together with its caption."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Form of location -> numbers per instance, of which each has its sines and cosines. None: given by the options.
FORMS: Mapping[str, int | None] = {"box": 4, "point": 2, "scribble": None, "polygon": None}
# The masks of all instances as one image, whose tokens belong to no single instance.
SEGMENTS = "segments"


@dataclass(frozen=True, eq=False)
class Grounding:
    """The instances of a batch, in R slots."""

    # (B, R): 1 for a slot with an instance.
    present: Tensor
    # (B, R, W): pooled text features of the captions.
    text: Tensor
    # Form -> (B, R, D) coordinates in [0, 1]. A form that is absent counts as dropped.
    locations: Mapping[str, Tensor]
    # (B, R, H, W): masks, 0 or 1.
    masks: Tensor
    # Form -> (B,): 0 for examples whose location in this form is dropped. Forms that it does not name are kept.
    keep: Mapping[str, Tensor] | None = None

    def nothing(self) -> Grounding:
        """The same batch without any instance: the grounding of the unconditional half."""
        return Grounding(
            torch.zeros_like(self.present), torch.zeros_like(self.text),
            {form: torch.zeros_like(value) for form, value in self.locations.items()},
            torch.zeros_like(self.masks),
        )  # fmt: skip


def fourier(x: Tensor, frequencies: int) -> Tensor:
    """(..., D) => (..., 2 * frequencies * D): for each frequency 100 ** (k / n) the sines, then the cosines."""
    bands = 100 ** (torch.arange(frequencies, device=x.device) / frequencies)
    waves = x.float()[..., None, :] * bands[:, None]  # (..., n, D)
    return torch.stack([waves.sin(), waves.cos()], -2).flatten(-3)


class UniFusion(nn.Module):
    """Instances => tokens of the text's width.

    Each form has an MLP of its own over the caption's features and the location's Fourier features. What an instance
    lacks is replaced by a learned vector. The masks of all instances are merged into three channels, which a ConvNeXt
    reads.
    """

    def __init__(
        self,
        text_width: int,
        forms: Collection[str],
        slots: int,
        hidden: int,
        frequencies: int,
        polygon_points: int,
        scribble_points: int,
        segment_side: int,
        segment_depths: tuple[int, ...],
        segment_widths: tuple[int, ...],
        segment_tokens: int,
    ) -> None:
        """Raises ValueError for an unknown form, or a number of tokens that does not divide the ConvNeXt's cells."""
        super().__init__()
        unknown = set(forms) - set(FORMS)
        if unknown:
            raise ValueError(f"forms {sorted(unknown)}: expected some of {', '.join(FORMS)}")
        self.forms = [form for form in FORMS if form in forms]
        self.slots, self.frequencies, self.side = slots, frequencies, segment_side
        self.segment_tokens = segment_tokens
        numbers = {**FORMS, "scribble": 2 * scribble_points, "polygon": 2 * polygon_points}
        widths = {form: 2 * frequencies * int(numbers[form] or 0) for form in self.forms}

        # The ConvNeXt reduces the masks to cells, and each token holds several of them.
        cells = (segment_side // (4 * 2 ** (len(segment_depths) - 1))) ** 2
        if cells % segment_tokens:
            raise ValueError(f"segment_tokens {segment_tokens}: expected a divisor of {cells}")
        segment_width = segment_widths[-1] * cells // segment_tokens
        self.merge = nn.Conv2d(slots, 3, 3, padding=1)
        self.backbone = _convnext(segment_depths, segment_widths)
        self.segment_positions = nn.Parameter(torch.randn(1, segment_tokens, segment_width) * 0.02)

        def mlp(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                nn.Linear(hidden, text_width),
            )  # fmt: skip

        self.projections = nn.ModuleDict({form: mlp(text_width + width) for form, width in widths.items()})
        self.projections[SEGMENTS] = mlp(segment_width)
        self.null_text = nn.Parameter(torch.zeros(text_width))
        self.nulls = nn.ParameterDict({form: torch.zeros(width) for form, width in widths.items()})
        self.nulls[SEGMENTS] = torch.zeros(segment_width)

    def forward(self, grounding: Grounding) -> Tensor:
        """(B, len(forms) * R + segment_tokens, text_width): the forms in turn, each with all slots, then the masks'."""
        present = grounding.present[..., None].to(self.null_text.dtype)  # (B, R, 1)
        text = torch.lerp(self.null_text, grounding.text.to(present.dtype), present)
        tokens = []
        for form in self.forms:
            location, keep = grounding.locations.get(form), self._kept(grounding, form)
            null = self.nulls[form]
            if location is None:
                encoded = null.expand(*text.shape[:2], -1)
            else:
                features = fourier(location, self.frequencies).to(present.dtype)
                encoded = torch.lerp(null, features, present * keep[:, None, None])
            tokens.append(self.projections[form](torch.cat([text, encoded], -1)))
        return torch.cat([*tokens, self.projections[SEGMENTS](self._segments(grounding))], 1)

    def _segments(self, grounding: Grounding) -> Tensor:
        """The features of the masks as an image, (B, segment_tokens, segment_width)."""
        dtype = self.null_text.dtype
        masks = F.interpolate(grounding.masks.to(dtype), (self.side, self.side), mode="nearest")
        features = self.backbone.embeddings(self.merge(masks))
        for stage in self.backbone.encoder.stages:
            features = stage(features)
        # The order of the published network: a token takes every ``segment_tokens``-th cell of each channel.
        features = features.flatten(1).unflatten(1, (-1, self.segment_tokens)).transpose(1, 2)
        keep = self._kept(grounding, SEGMENTS) * masks.flatten(1).any(1).to(dtype)
        null = self.nulls[SEGMENTS]
        return torch.lerp(null, features.to(null.dtype), keep[:, None, None]) + self.segment_positions

    @staticmethod
    def _kept(grounding: Grounding, form: str) -> Tensor:
        keep = (grounding.keep or {}).get(form)
        return torch.ones_like(grounding.present[:, 0]) if keep is None else keep


def _convnext(depths: tuple[int, ...], widths: tuple[int, ...]) -> Any:
    """A ConvNeXt (Liu et al. 2022) without its head and its last normalisation."""
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(
        num_stages=len(depths), depths=list(depths), hidden_sizes=list(widths), layer_scale_init_value=1.0
    )
    model: Any = ConvNextModel(config)
    model.layernorm = nn.Identity()
    return model

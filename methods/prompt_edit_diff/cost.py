"""Counted cost of Stable Diffusion 1.5's UNet, alone and in a full-size training.

The network runs on the meta device: all operations happen, on tensors without numbers. PyTorch's counter thus counts
the floating-point operations exactly, within seconds, on any machine.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from methods.prompt_edit_diff import ablation
from methods.prompt_edit_diff.config import Config
from methods.prompt_edit_diff.trainer import parameter_groups

# Stable Diffusion 1.5's UNet, where it differs from diffusers' defaults.
UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}

# Share of a GPU's peak that such a UNet reaches in bfloat16: an assumption of the hours that a plan states.
UTILISATION = 0.35


@dataclass(frozen=True)
class Gpu:
    """A GPU by its peak of dense bfloat16 operations, as its maker states it."""

    name: str
    # Floating-point operations per second.
    peak: float


GPUS: tuple[Gpu, ...] = (Gpu("RTX 4090, 24 GB", 165e12), Gpu("A100, 80 GB", 312e12))


def forward_flops() -> float:
    """Floating-point operations of one forward pass of Stable Diffusion 1.5's UNet, for an image of 512 x 512."""
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    # The autoencoder has 8 pixels per latent cell, the text encoder 77 tokens.
    cells = 512 // 8
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet = UNet2DConditionModel(**UNET)
        text = torch.zeros(1, 77, unet.config.cross_attention_dim)
        unet(torch.zeros(1, 4, cells, cells), torch.zeros(1), text)
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class ExampleCost:
    """Counted cost of one forward and backward pass of one example."""

    # Operations of the UNet, recomputation included. A multiplication and an addition are two.
    flops: float
    parameters: int
    trainable: int


def example_cost(config: Config, unet: dict[str, Any] = UNET) -> ExampleCost:
    """Cost of one example under ``config``. ``unet`` is the configuration of the base's UNet."""
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    from methods.prompt_edit_diff.model import PromptEditDiffUNet

    cells = config.size // 8
    # The network and its inputs, without numbers.
    with torch.device("meta"):
        base = UNet2DConditionModel(**unet)
        model = PromptEditDiffUNet.from_base(
            base, factor=8, **ablation(config.variant), **config.model
        ).train()
        latents, text = torch.zeros(1, 4, cells, cells), torch.zeros(1, 77, unet["cross_attention_dim"])
        conditions = {
            "mask": torch.zeros(1, 1, config.size, config.size),
            "source": latents,
            "masked_source": latents,
            "regions": torch.zeros(1, 3, config.size, config.size),
            "member": torch.zeros(1, 3, 77, dtype=torch.bool),
            "words": torch.zeros(1, 77, dtype=torch.bool),
        }
    parameter_groups(model, config)  # freezes what does not learn
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    # One forward and one backward pass.
    with FlopCounterMode(display=False) as counter:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(latents, torch.zeros(1, dtype=torch.long, device="meta"), text, **conditions)
        out.float().square().mean().backward()
    return ExampleCost(
        flops=float(counter.get_total_flops()),
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def measured_seconds(out: Path) -> float | None:
    """Mean seconds per step of the training in ``out``, by its log. None where it has no two logged steps."""
    path = out / "log.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) < 2:
        return None
    # The first line includes start-up, so the difference of two lines counts.
    steps = int(rows[-1]["step"]) - int(rows[0]["step"])
    return (float(rows[-1]["seconds"]) - float(rows[0]["seconds"])) / steps

"""What a full-size training costs: operations and memory of a step, counted, and what that makes on a GPU.

The network of Stable Diffusion 1.5's size is run on the meta device: every operation happens, on tensors without
numbers, so that operations (``torch.utils.flop_counter``) and the tensors that the backward pass keeps are counted
exactly, in seconds, on any machine. What is assumed is named: how much of a GPU's peak a training reaches, and what
the framework needs beside the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.prompt_edit_diff import ablation
from methods.prompt_edit_diff.trainer import Config, _groups

GIB = 2**30

UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""Stable Diffusion 1.5's UNet, where it differs from diffusers' defaults."""

FROZEN = 123_060_480 + 83_653_863
"""Parameters of its text encoder and of its autoencoder, which run in half precision."""

UTILISATION = 0.35
"""Assumed: the share of a GPU's peak at which such a UNet trains in bfloat16."""
CONTEXT = 1.5 * GIB
"""Assumed: what CUDA's context, the libraries' workspaces and fragmentation take."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its memory and its peak of dense bfloat16 operations, as its maker states them."""

    name: str
    memory: float
    """Bytes."""
    peak: float
    """Floating-point operations per second."""


GPUS: tuple[Gpu, ...] = (Gpu("RTX 4090, 24 GB", 24 * GIB, 165e12), Gpu("A100, 80 GB", 80 * GIB, 312e12))


@dataclass(frozen=True)
class StepCost:
    """One forward and backward pass of one example, counted."""

    flops: float
    """Floating-point operations of the UNet (a multiplication and an addition are two), recomputation included."""
    encoding_flops: float
    """Of the frozen parts: two pictures and a text."""
    kept: float
    """Bytes that the backward pass keeps per example."""
    recomputed: float
    """Bytes that the largest block keeps while it is computed again; 0 without gradient checkpointing."""
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Estimate:
    gpu: str
    batch: int
    memory: float
    """Bytes at the peak."""
    fits: bool
    seconds_per_step: float
    hours: float


def step_cost(config: Config) -> StepCost:
    """The cost of one example under ``config``, at Stable Diffusion 1.5's size."""
    return count(_model(config.variant, UNET), config)


def count(model: Any, config: Config) -> StepCost:
    """The cost of one example of ``model``, a PromptEditDiffUNet on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    size, checkpointing = config.size, config.gradient_checkpointing
    _groups(model, config)
    flops, total = _pass(model, size, FlopCounterMode(display=False))
    recomputed = 0.0
    if checkpointing:
        recomputed = max(_blocks(model, size))
        model.enable_gradient_checkpointing()
        flops, total = _pass(model, size, FlopCounterMode(display=False))
    return StepCost(
        flops=flops,
        encoding_flops=2 * _autoencoder_flops(size) + _TEXT_FLOPS,
        kept=total,
        recomputed=recomputed,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


_TEXT_FLOPS = 2 * 85_000_000 * 77.0
"""CLIP ViT-L/14's text tower: its weights without the embeddings, twice per token."""


def _model(variant: str, unet: Mapping[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    from methods.prompt_edit_diff.model import PromptEditDiffUNet

    with torch.device("meta"):
        return PromptEditDiffUNet.from_base(
            UNet2DConditionModel(**unet), factor=8, **ablation(variant)
        ).train()


def _inputs(model: Any, size: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    cells, width = size // 8, model.unet.config.cross_attention_dim
    with torch.device("meta"):
        latents = torch.zeros(1, 4, cells, cells)
        given = (latents, torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, width))
        conditions = {
            "mask": torch.zeros(1, 1, size, size),
            "source": latents,
            "regions": torch.zeros(1, 3, size, size),
            "member": torch.zeros(1, 3, 77, dtype=torch.bool),
            "words": torch.zeros(1, 77, dtype=torch.bool),
        }
    return given, conditions


def forward_flops(size: int = 512) -> float:
    """Operations of one pass of Stable Diffusion 1.5's UNet over one image, counted on the meta device."""
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    cells = size // 8
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet = UNet2DConditionModel(**UNET).eval()
        prompt = torch.zeros(1, 77, unet.config.cross_attention_dim)
        unet(torch.zeros(1, unet.config.in_channels, cells, cells), torch.zeros(1), prompt)
    return float(counter.get_total_flops())


def _pass(model: nn.Module, size: int, counter: Any) -> tuple[float, float]:
    """(operations, bytes kept for the backward pass) of one example."""
    given, conditions = _inputs(model, size)
    with counter:
        with _kept(model) as kept, torch.autocast("cpu", torch.bfloat16):
            out = model(*given, **conditions)
        out.float().square().mean().backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()), float(sum(kept.values()))


def _blocks(model: Any, size: int) -> list[float]:
    """Bytes that each block of the UNet keeps for the backward pass."""
    given, conditions = _inputs(model, size)
    found: list[float] = []
    with _kept(model) as kept, torch.autocast("cpu", torch.bfloat16):
        before: list[float] = []
        hooks = []
        for block in (*model.unet.down_blocks, model.unet.mid_block, *model.unet.up_blocks):
            hooks.append(block.register_forward_pre_hook(lambda *_: before.append(sum(kept.values()))))
            hooks.append(
                block.register_forward_hook(lambda *_: found.append(sum(kept.values()) - before.pop()))
            )
        model(*given, **conditions)
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def _kept(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes by storage of what is saved for the backward pass, parameters left out."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, int] = {}
    alive: list[Tensor] = []  # an address must not be used again while they are counted

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen


def _autoencoder_flops(size: int) -> float:
    from diffusers import AutoencoderKL
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=[128, 256, 512, 512],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            vae.encode(torch.zeros(1, 3, size, size))
    return float(counter.get_total_flops())


def estimate(config: Config, gpu: Gpu) -> Estimate:
    """Memory and time of the whole training on one GPU.

    Parameters are held in float32 (4 bytes), with Adam's two moments (8), a gradient (4) for those that learn, their
    average (4, unless it is kept in main memory), and a bfloat16 copy for the pass (2).
    """
    return priced(step_cost(config), config, gpu)


def priced(cost: StepCost, config: Config, gpu: Gpu) -> Estimate:
    """The estimate of a counted cost."""
    per_trainable = 4 + 8 + (0 if config.ema_on_cpu else 4)
    memory = (
        cost.parameters * (4 + 2)
        + cost.trainable * per_trainable
        + FROZEN * 2
        + cost.kept * config.batch
        + cost.recomputed * config.batch
        + CONTEXT
    )
    flops = (cost.flops + cost.encoding_flops) * config.batch * config.accumulate
    seconds = flops / (UTILISATION * gpu.peak)
    return Estimate(
        gpu.name, config.batch, memory, memory <= gpu.memory, seconds, seconds * config.steps / 3600
    )


def preset(gigabytes: float, **options: Any) -> Config:
    """A configuration that fits a GPU of so much memory; 32 examples a step either way."""
    small = gigabytes < 40
    fitting: dict[str, Any] = (
        {"batch": 4, "accumulate": 8, "trainable": "attention", "ema_on_cpu": True}
        if small
        else {"batch": 16, "accumulate": 2, "trainable": "all"}
    )
    return Config(**{**fitting, **options})

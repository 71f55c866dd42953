"""Options of the full-size training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from methods import weights
from methods.prompt_edit_diff import VARIANTS
from methods.prompt_edit_diff.augment import MaskDropout
from methods.prompt_edit_diff.losses import Weighting
from methods.training import Budget


@dataclass(frozen=True)
class Config:
    """Options of a training. Only those named in ``FREE`` may change when it is resumed."""

    out: str
    variant: str = VARIANTS[0]
    # A text-to-image checkpoint: ``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``.
    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    revision: str | None = None
    # Side of the images in pixels. Sources and masks are resized to it.
    size: int = 512
    steps: int = 40_000
    # Examples per process and forward pass.
    batch: int = 4
    # Forward passes per step. A step learns from batch x accumulate x processes examples.
    accumulate: int = 8
    # For the base's own parameters.
    learning_rate: float = 1e-5
    # For the added parameters, and for the first convolution, part of which is new.
    added_learning_rate: float = 1e-4
    # Steps of linear warm-up.
    warmup: int = 500
    # Final share of the steps, in which the learning rates fall linearly to zero.
    decay: float = 0.2
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    # Decay of the averaged weights per step.
    ema: float = 0.9999
    # "attention" trains only the base's attention layers and first convolution. It needs less than half of the memory
    # for gradients and optimizer and suits GPUs of 24 GB.
    trainable: Literal["all", "attention"] = "all"
    # Keep the averages in main memory. This saves one copy of the parameters on the GPU and is a little slower.
    ema_on_cpu: bool = False
    mixed_precision: Literal["no", "fp16", "bf16"] = "bf16"
    gradient_checkpointing: bool = True
    # Weight of the reconstruction term (lambda).
    outside: float = 0.1
    # See ``losses.edit_loss``.
    area_power: float = 0.5
    # "equal" gives every latent cell the same weight, inside or outside, in place of the two options before.
    weighting: Weighting = "terms"
    # Share of the examples without text and tags, for classifier-free guidance.
    no_text: float = 0.1
    # Share of the examples whose target is the source, described by its own prompt.
    way_back: float = 0.3
    mask_dropout: MaskDropout = field(default_factory=MaskDropout)
    # Further options of ``PromptEditDiffUNet``, for example ``{"count": 8}`` or ``{"source_latents": "cells"}``.
    model: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    # Processes that read examples.
    workers: int = 4
    # Steps between checkpoints.
    save_every: int = 1_000
    # Number of checkpoints that stay.
    keep: int = 3
    # Steps between sample grids.
    sample_every: int = 1_000
    # "tensorboard" writes TensorBoard's files beside the CSV.
    log: Literal["csv", "tensorboard"] = "csv"

    @classmethod
    def for_memory(cls, gigabytes: float, **options: Any) -> Config:
        """A configuration that fits a GPU of this memory. Both have 32 examples per step."""
        # On small GPUs only the attention layers learn, in small batches.
        if gigabytes < 40:
            return cls(
                **{"batch": 4, "accumulate": 8, "trainable": "attention", "ema_on_cpu": True, **options}
            )
        return cls(**{"batch": 16, "accumulate": 2, "trainable": "all", **options})

    def problems(self) -> list[str]:
        """Reasons why this training cannot start, each with its remedy."""
        problems = []
        if self.variant not in VARIANTS:
            problems.append(f"variant {self.variant!r}: expected one of {', '.join(VARIANTS)}")
        for name in ("steps", "batch", "accumulate", "save_every", "keep", "size"):
            if getattr(self, name) < 1:
                problems.append(f"{name} {getattr(self, name)}: expected at least 1")
        if self.mixed_precision == "fp16" and not torch.cuda.is_available():
            problems.append("mixed_precision fp16 needs a GPU: use bf16 or no")
        return problems + weights.problems(self.base, self.revision, channels=(4,))

    def budget(self, processes: int = 1) -> Budget:
        """The same length and learning rates in samples."""
        samples = self.batch * self.accumulate * processes
        return Budget(
            samples=self.steps * samples, batch=samples, learning_rate=self.learning_rate,
            # Step s of the warm-up has the share (s + 1) / warmup of the peak.
            warmup=max(self.warmup - 1, 0) * samples,
            decay=self.decay, weight_decay=self.weight_decay, ema=self.ema, max_grad_norm=self.max_grad_norm, final=0.0,
        )  # fmt: skip


# Options that may change when a training is resumed.
FREE = ("out", "workers", "keep", "log", "save_every", "sample_every", "ema_on_cpu", "gradient_checkpointing")

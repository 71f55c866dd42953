"""Running a diffusion model in training on held-out examples: for its sample grids and its gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from bench.edit import EditCase
from bench.images import mask_array, mask_image
from methods.mask_grid import cover_cells
from methods.pipelines import call, masked_latents
from methods.zoo.corpus import FACTOR
from methods.zoo.data import save_grid, to_tensor

if TYPE_CHECKING:
    from methods.zoo.data import World

STEPS = 10
GUIDANCE = 3.0
"""One for all editors, chosen on held-out edits (``TRAINING.md``); the ``mini`` presets have the same."""


def sample_grid(kind: str, pipeline: Any, world: World, path: Path) -> None:
    """Text to image: 24 held-out prompts. Editors: 16 held-out edits as source, mask, edit, truth."""
    if kind == "text_to_image":
        texts = [world.described(-1 - i)[1] for i in range(24)]
        save_grid(path, [_stack(generate(pipeline, texts))], columns=12)
        return
    cases = [world.case(-1 - i) for i in range(16)]
    edited = edit(kind, pipeline, cases)
    rows = [
        [c.request.source for c in cases],
        [c.request.mask.convert("RGB") for c in cases],
        edited,
        [c.truth for c in cases if c.truth is not None],
    ]
    save_grid(path, [_stack(row) for row in rows], columns=16)


def generate(pipeline: Any, texts: Sequence[str], guidance: float = 4.0) -> list[Image.Image]:
    """One 64 px picture for each text, each from its own seed."""
    return call(
        pipeline,
        prompt=list(texts),
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=_generators(len(texts)),
        output_type="pil",
    )


def edit(
    kind: str, pipeline: Any, cases: Sequence[EditCase], guidance: float = GUIDANCE
) -> list[Image.Image]:
    """The edits of one batch of cases."""
    common: dict[str, Any] = {
        "image": [c.request.source for c in cases],
        "num_inference_steps": STEPS,
        "guidance_scale": guidance,
        "generator": _generators(len(cases)),
        "output_type": "pil",
    }
    if kind == "instruct_pix2pix":
        return call(
            pipeline,
            prompt=[c.request.instruction for c in cases],
            negative_prompt=[""] * len(cases),
            image_guidance_scale=1.5,
            **common,
        )
    masks = [mask_array(c.request.mask) for c in cases]
    return call(
        pipeline,
        prompt=[c.request.target_prompt for c in cases],
        mask_image=[mask_image(cover_cells(mask, FACTOR)) for mask in masks],
        masked_image_latents=masked_latents(pipeline, common["image"], masks),
        height=64,
        width=64,
        strength=1.0,
        **common,
    )


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def _stack(pictures: Sequence[Image.Image]) -> torch.Tensor:
    return to_tensor(np.stack([np.asarray(p.convert("RGB"), np.uint8) for p in pictures]))

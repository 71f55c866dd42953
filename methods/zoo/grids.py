"""Diffusion models in training, run on held-out examples for sample grids and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from bench.edit import EditCase
from bench.images import mask_array, mask_image
from methods.diffusion.control import control_images
from methods.mask_grid import cover_cells
from methods.pipelines import call, masked_latents
from methods.zoo.corpus import FACTOR
from methods.zoo.data import save_grid, to_tensor

if TYPE_CHECKING:
    from methods.zoo.data import World

STEPS = 10
# Guidance of all editors, chosen on held-out edits (``TRAINING.md``). The ``mini`` presets have the same.
GUIDANCE = 3.0


def sample_grid(kind: str, pipeline: Any, world: World, path: Path) -> None:
    """Draw 24 held-out prompts of the text-to-image model, or 16 held-out edits of an editor."""
    if kind == "text_to_image":
        texts = [world.described(-1 - i)[1] for i in range(24)]
        save_grid(path, [_stack(generate(pipeline, texts))], columns=12)
        return
    cases = [world.case(-1 - i) for i in range(16)]
    edit_grid(cases, edit(kind, pipeline, cases), path)


def edit_grid(cases: Sequence[EditCase], edited: Sequence[Image.Image], path: Path) -> None:
    """Draw edits with ground truth: rows of source, mask, edit and ground truth."""
    rows = [
        [case.request.source for case in cases],
        [case.request.needed_mask for case in cases],
        edited,
        [case.truth for case in cases if case.truth is not None],
    ]
    save_grid(path, [_stack(row) for row in rows], columns=16)


def generate(pipeline: Any, texts: Sequence[str]) -> list[Image.Image]:
    """One image of 64 px for each text, each from its own seed."""
    return call(
        pipeline,
        prompt=list(texts),
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=generators(len(texts)),
        output_type="pil",
    )


def edit(
    kind: str, pipeline: Any, cases: Sequence[EditCase], guidance: float = GUIDANCE
) -> list[Image.Image]:
    """The edits of one batch of cases."""
    # Arguments that all three pipelines have.
    common: dict[str, Any] = {
        "image": [c.request.source for c in cases],
        "num_inference_steps": STEPS,
        "guidance_scale": guidance,
        "generator": generators(len(cases)),
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
    # Inpainting: the mask covers whole cells. The control and the masked source hide the mask's own pixels only.
    masks = [mask_array(c.request.needed_mask) for c in cases]
    visible = (
        {"control_image": control_images(common["image"], masks), "controlnet_conditioning_scale": 1.0}
        if kind == "controlnet_inpaint"
        else {"masked_image_latents": masked_latents(pipeline, common["image"], masks)}
    )
    return call(
        pipeline,
        prompt=[c.request.target_prompt for c in cases],
        mask_image=[mask_image(cover_cells(mask, FACTOR)) for mask in masks],
        **visible,
        height=64,
        width=64,
        strength=1.0,
        **common,
    )


def generators(count: int) -> list[torch.Generator]:
    """One random generator per image, seeded by its position."""
    return [torch.Generator().manual_seed(i) for i in range(count)]


def _stack(images: Sequence[Image.Image]) -> torch.Tensor:
    return to_tensor(np.stack([np.asarray(image.convert("RGB"), np.uint8) for image in images]))

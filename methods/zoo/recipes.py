"""The zoo's recipes, in the order in which they are trained: ``run_bench.py train NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from methods.zoo.experiments import EXPERIMENTS

RECIPES: dict[str, str] = {
    "reader": "methods.zoo.publish:reader",
    "autoencoder": "methods.zoo.publish:autoencoder",
    "encoder": "methods.zoo.publish:encoder",
    "text_to_image": "methods.zoo.publish:text_to_image",
    "sd_inpainting": "methods.zoo.publish:sd_inpainting",
    "instruct_pix2pix": "methods.zoo.publish:instruct_pix2pix",
    "controlnet_inpaint": "methods.zoo.publish:controlnet_inpaint",
    "smartbrush": "methods.zoo.smartbrush:smartbrush",
    "instance_diffusion": "methods.zoo.instance_diffusion:instance_diffusion",
    **{name: f"methods.zoo.prompt_edit_diff:{name}" for name in EXPERIMENTS},
    "glide": "methods.zoo.glide:glide",
    "glide_base": "methods.zoo.glide:glide_base",
    "glide_upsampler": "methods.zoo.glide:glide_upsampler",
    "blended_diffusion": "methods.zoo.adm:blended_diffusion",
    "lama": "methods.zoo.lama:lama",
    "decoder": "methods.zoo.publish:decoder",
    "clip": "methods.zoo.publish:clip",
    "clip_guide": "methods.zoo.publish:clip_guide",
}


# Editors with a second part, after the cut to low rank.
_LOW_RANK_EDITORS = ("sd_inpainting", "instruct_pix2pix", "controlnet_inpaint", "smartbrush", *EXPERIMENTS)


def recipe_samples(checkpoint: str) -> Mapping[str, int]:
    """Samples that a checkpoint's recipe states, by the name of the network in its card. Empty for an unknown name."""
    if checkpoint not in RECIPES:
        return {}
    # Modules by name, because they import the module that calls this one.
    if checkpoint == "glide":
        budgets: Mapping[str, Any] = import_module("methods.zoo.glide").BUDGETS
        return {part: budget.samples for part, budget in budgets.items()}
    usual: Mapping[str, Any] = import_module("methods.zoo.publish").BUDGETS
    budget = usual.get(checkpoint) or import_module(RECIPES[checkpoint].partition(":")[0]).BUDGET
    second = import_module("methods.zoo.diffusion").LOW_RANK.samples if checkpoint in _LOW_RANK_EDITORS else 0
    return {checkpoint: budget.samples + second}

"""The zoo's recipes, in the order in which they are trained: ``run_bench.py train NAME``."""

from __future__ import annotations

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

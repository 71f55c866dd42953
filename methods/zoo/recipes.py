"""The zoo's recipes, in the order in which they are trained: ``run_bench.py train NAME``."""

from __future__ import annotations

RECIPES: dict[str, str] = {
    "reader": "methods.zoo.publish:reader",
    "autoencoder": "methods.zoo.publish:autoencoder",
    "encoder": "methods.zoo.publish:encoder",
    "text_to_image": "methods.zoo.publish:text_to_image",
    "sd_inpainting": "methods.zoo.publish:sd_inpainting",
    "instruct_pix2pix": "methods.zoo.publish:instruct_pix2pix",
    "prompt_edit_diff": "methods.zoo.prompt_edit_diff:prompt_edit_diff",
    "prompt_edit_diff_no_prompt_tokens": "methods.zoo.prompt_edit_diff:prompt_edit_diff_no_prompt_tokens",
    "prompt_edit_diff_no_cross_attention": "methods.zoo.prompt_edit_diff:prompt_edit_diff_no_cross_attention",
    "prompt_edit_diff_no_mask_encoder": "methods.zoo.prompt_edit_diff:prompt_edit_diff_no_mask_encoder",
    "glide": "methods.zoo.glide:glide",
    "glide_base": "methods.zoo.glide:glide_base",
    "glide_upsampler": "methods.zoo.glide:glide_upsampler",
    "blended_diffusion": "methods.zoo.adm:blended_diffusion",
    "lama": "methods.zoo.lama:lama",
    "decoder": "methods.zoo.publish:decoder",
    "clip": "methods.zoo.publish:clip",
    "clip_guide": "methods.zoo.publish:clip_guide",
}

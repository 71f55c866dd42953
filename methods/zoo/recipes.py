"""The zoo's recipes, in the order in which they are trained: ``run_bench.py train NAME``."""

from __future__ import annotations

RECIPES: dict[str, str] = {
    "reader": "methods.zoo.publish:reader",
    "autoencoder": "methods.zoo.publish:autoencoder",
    "text_to_image": "methods.zoo.publish:text_to_image",
    "sd_inpainting": "methods.zoo.publish:sd_inpainting",
    "instruct_pix2pix": "methods.zoo.publish:instruct_pix2pix",
    "decoder": "methods.zoo.publish:decoder",
    "clip": "methods.zoo.publish:clip",
}

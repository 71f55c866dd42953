"""Published models with their published settings, as presets of the method ``diffusers``.

The settings are those of a model's page, of the example in its pipeline's documentation, or of its benchmark runs.
``methods.published`` has licence, size and access of each checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KONTEXT = "black-forest-labs/FLUX.1-Kontext-dev"
_KLEIN_BASE = "black-forest-labs/FLUX.2-klein-base-9B"
_QWEN_EDIT = "Qwen/Qwen-Image-Edit"
_STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def _preset(weights: str, pipeline: str, steps: int, guidance: float, **more: Any) -> Mapping[str, Any]:
    return {"weights": weights, "pipeline": pipeline, "steps": steps, "guidance": guidance, **more}


# They follow instructions and take no mask.
_INSTRUCTION: Mapping[str, Mapping[str, Any]] = {
    "flux-kontext": _preset(_KONTEXT, "FluxKontextPipeline", 50, 2.5),
    "flux2-dev": _preset("black-forest-labs/FLUX.2-dev", "Flux2Pipeline", 50, 4.0),
    "flux2-klein": _preset("black-forest-labs/FLUX.2-klein-4B", "Flux2KleinPipeline", 4, 1.0),
    "flux2-klein-base": _preset(_KLEIN_BASE, "Flux2KleinPipeline", 50, 4.0),
    "qwen-image-edit": _preset(_QWEN_EDIT, "QwenImageEditPipeline", 50, 4.0),
    "qwen-image-edit-2509": _preset(f"{_QWEN_EDIT}-2509", "QwenImageEditPlusPipeline", 40, 4.0),
    "qwen-image-edit-2511": _preset(f"{_QWEN_EDIT}-2511", "QwenImageEditPlusPipeline", 40, 4.0),
    "longcat-image-edit": _preset("meituan-longcat/LongCat-Image-Edit", "LongCatImageEditPipeline", 50, 4.5),
    "glm-image": _preset("zai-org/GLM-Image", "GlmImagePipeline", 50, 1.5),
    "omnigen": _preset("Shitao/OmniGen-v1-diffusers", "OmniGenPipeline", 50, 2.5, image_guidance=1.6),
    "kandinsky5-i2i": _preset(
        "kandinskylab/Kandinsky-5.0-I2I-Lite-sft-Diffusers", "Kandinsky5I2IPipeline", 50, 3.5
    ),
    "dreamlite": _preset("carlofkl/DreamLite-base", "DreamLitePipeline", 30, 3.5, image_guidance=1.5),
    "sdxl-instruct-pix2pix": _preset(
        "diffusers/sdxl-instructpix2pix-768",
        "StableDiffusionXLInstructPix2PixPipeline",
        30,
        3.0,
        image_guidance=1.5,
        # It was trained at 768 x 768, which its UNet's configuration does not say.
        size=str(768 * 768),
    ),
}

# They fill a mask.
_MASK: Mapping[str, Mapping[str, Any]] = {
    "flux-fill": _preset("black-forest-labs/FLUX.1-Fill-dev", "FluxFillPipeline", 50, 30.0),
    "flux-kontext-inpaint": _preset(_KONTEXT, "FluxKontextInpaintPipeline", 28, 3.5),
    "flux2-klein-inpaint": _preset(_KLEIN_BASE, "Flux2KleinInpaintPipeline", 50, 8.0),
    "qwen-image-inpaint": _preset("Qwen/Qwen-Image", "QwenImageInpaintPipeline", 50, 4.0, strength=0.85),
    "qwen-image-edit-inpaint": _preset(_QWEN_EDIT, "QwenImageEditInpaintPipeline", 50, 4.0),
    "z-image-inpaint": _preset("Tongyi-MAI/Z-Image-Turbo", "ZImageInpaintPipeline", 8, 0.0),
    "sdxl-inpaint": _preset(
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "StableDiffusionXLInpaintPipeline",
        20,
        8.0,
        strength=0.99,
    ),
    "kandinsky22-inpaint": _preset(
        "kandinsky-community/kandinsky-2-2-decoder-inpaint",
        "KandinskyV22InpaintCombinedPipeline",
        100,
        4.0,
        call={"prior_num_inference_steps": 25, "prior_guidance_scale": 4.0},
    ),
    "deepfloyd-if-inpaint": _preset("DeepFloyd/IF-I-XL-v1.0", "IFInpaintingPipeline", 50, 7.0),
    "fibo-edit": _preset("briaai/Fibo-Edit-1.5-base", "BriaFiboEditPipeline", 30, 5.0),
    "paint-by-example": _preset("Fantasy-Studio/Paint-by-Example", "PaintByExamplePipeline", 50, 5.0),
}

# They invert the source.
_INVERSION: Mapping[str, Mapping[str, Any]] = {
    "diffedit": _preset(_STABLE_DIFFUSION, "StableDiffusionDiffEditPipeline", 50, 7.5, strength=0.8),
    "ledits-pp": _preset(
        _STABLE_DIFFUSION,
        "LEditsPPPipelineStableDiffusion",
        50,
        5.0,
    ),
}

PRESETS: Mapping[str, Mapping[str, Any]] = {**_INSTRUCTION, **_MASK, **_INVERSION}

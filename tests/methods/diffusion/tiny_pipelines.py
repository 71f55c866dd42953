"""A tiny random pipeline for every row of the table, and the settings with which it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.methods.diffusion.tiny_others import (
    dreamlite,
    fibo,
    glm,
    kandinsky,
    longcat,
    omnigen,
    z_control,
    z_image,
)
from tests.methods.diffusion.tiny_transformers import (
    chroma,
    flux,
    flux2,
    flux_control,
    qwen,
    qwen_control,
    sd3_control,
    sd3_inpaint,
)
from tests.methods.diffusion.tiny_unets import (
    control_inpaint,
    deepfloyd,
    diffedit,
    kandinsky22,
    ledits,
    paint_by_example,
    sdxl_control,
    sdxl_inpaint,
    sdxl_instruct,
    sdxl_ledits,
    stable_diffusion,
)


@dataclass(frozen=True)
class Sample:
    """How the contract is tested on one row."""

    build: Callable[[], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the adapter beyond two steps."""
    small: str = ""
    """Module whose ``calculate_dimensions`` aims at a megapixel. The test makes it aim at 64 x 64."""
    size: tuple[int, int] = (64, 32)
    """(width, height) of the sources."""
    keeps: bool = False
    """Whether the pipeline puts the source's latents back outside the mask."""


_QWEN_EDIT = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit"

# Class of diffusers -> its tiny pipeline.
SAMPLES: Mapping[str, Sample] = {
    "StableDiffusionInpaintPipeline": Sample(
        lambda: stable_diffusion("StableDiffusionInpaintPipeline", 4), keeps=True
    ),
    "StableDiffusionControlNetInpaintPipeline": Sample(control_inpaint, keeps=True),
    "StableDiffusionImg2ImgPipeline": Sample(
        lambda: stable_diffusion("StableDiffusionImg2ImgPipeline", 4), {"strength": 0.9}
    ),
    "StableDiffusionInstructPix2PixPipeline": Sample(
        lambda: stable_diffusion("StableDiffusionInstructPix2PixPipeline", 8), {"image_guidance": 1.2}
    ),
    "StableDiffusionDiffEditPipeline": Sample(diffedit, {"call": {"num_maps_per_mask": 2}}),
    "LEditsPPPipelineStableDiffusion": Sample(
        ledits, {"steps": 3, "call": {"skip": 0.25, "use_intersect_mask": False}}
    ),
    "StableDiffusionXLInpaintPipeline": Sample(sdxl_inpaint),
    "StableDiffusionXLControlNetInpaintPipeline": Sample(sdxl_control, keeps=True),
    "StableDiffusionXLInstructPix2PixPipeline": Sample(sdxl_instruct),
    "LEditsPPPipelineStableDiffusionXL": Sample(sdxl_ledits, {"steps": 3, "call": {"skip": 0.25}}),
    "StableDiffusion3InpaintPipeline": Sample(sd3_inpaint, keeps=True),
    "StableDiffusion3ControlNetInpaintingPipeline": Sample(sd3_control),
    "FluxFillPipeline": Sample(lambda: flux("FluxFillPipeline", 20, 8)),
    "FluxInpaintPipeline": Sample(
        lambda: flux("FluxInpaintPipeline", 8),
        {"negative_prompt": "a blur", "call": {"true_cfg_scale": 2.0}},
        keeps=True,
    ),
    "FluxControlNetInpaintPipeline": Sample(flux_control, keeps=True),
    "FluxKontextPipeline": Sample(lambda: flux("FluxKontextPipeline", 8)),
    "FluxKontextInpaintPipeline": Sample(lambda: flux("FluxKontextInpaintPipeline", 8), keeps=True),
    "Flux2Pipeline": Sample(lambda: flux2("Flux2Pipeline"), size=(96, 64)),
    "Flux2KleinPipeline": Sample(lambda: flux2("Flux2KleinPipeline"), size=(96, 64)),
    "Flux2KleinInpaintPipeline": Sample(lambda: flux2("Flux2KleinInpaintPipeline"), keeps=True),
    "QwenImageEditPipeline": Sample(lambda: qwen("QwenImageEditPipeline"), small=_QWEN_EDIT),
    "QwenImageEditPlusPipeline": Sample(
        lambda: qwen("QwenImageEditPlusPipeline"), small=f"{_QWEN_EDIT}_plus"
    ),
    "QwenImageEditInpaintPipeline": Sample(
        lambda: qwen("QwenImageEditInpaintPipeline"),
        {"guidance": 30.0},
        small=f"{_QWEN_EDIT}_inpaint",
        size=(64, 64),
        keeps=True,
    ),
    "QwenImageInpaintPipeline": Sample(lambda: qwen("QwenImageInpaintPipeline"), keeps=True),
    "QwenImageControlNetInpaintPipeline": Sample(qwen_control),
    "ChromaInpaintPipeline": Sample(chroma, keeps=True),
    "ZImageInpaintPipeline": Sample(lambda: z_image("ZImageInpaintPipeline"), keeps=True),
    "ZImageControlNetInpaintPipeline": Sample(z_control),
    "ZImageOmniPipeline": Sample(lambda: z_image("ZImageOmniPipeline"), size=(64, 64)),
    "GlmImagePipeline": Sample(glm),
    "LongCatImageEditPipeline": Sample(
        longcat, size=(64, 64), small="diffusers.pipelines.longcat_image.pipeline_longcat_image_edit"
    ),
    "OmniGenPipeline": Sample(omnigen, {"image_guidance": 1.3}),
    "Kandinsky5I2IPipeline": Sample(kandinsky, {"size": "native"}, size=(96, 64)),
    "DreamLitePipeline": Sample(dreamlite, {"image_guidance": 1.2}),
    "BriaFiboEditPipeline": Sample(fibo),
    "KandinskyV22InpaintCombinedPipeline": Sample(
        kandinsky22, {"call": {"prior_num_inference_steps": 2}}, size=(128, 64), keeps=True
    ),
    "IFInpaintingPipeline": Sample(deepfloyd, keeps=True),
    "PaintByExamplePipeline": Sample(paint_by_example),
}

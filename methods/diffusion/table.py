"""How each class of diffusers' pipelines is called: one row per class.

A new class is one more row. Everything else (batches, sizes, options, masks, compositing) follows from it.
The installed diffusers is the source of every entry, and ``tests/methods/diffusion`` compares each row with a bare
call of a tiny random pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

# "batch": a list of images, one for each prompt.
# "one": one image and one prompt a call.
# "references": one prompt a call, with a list of images: the source, then the request's references.
Images = Literal["batch", "one", "references"]

MEGAPIXEL = 1024 * 1024

# The one size at which DeepFloyd's first stage was trained, (width, height).
IF_SIZES = ((64, 64),)

# Work before the call -> the only sampler that can be inverted there.
INVERTIBLE: Mapping[str, str] = {"ledits": "dpm++_sde", "diffedit": "ddim"}
# Work before the call -> the methods of the class that do it.
FIRST_METHODS: Mapping[str, tuple[str, ...]] = {
    "ledits": ("invert",),
    "diffedit": ("generate_mask", "invert"),
}


@dataclass(frozen=True)
class PipelineRow:
    """How one class of pipelines is called. An empty name of an argument says that the class has none."""

    image: str = "image"
    """Argument of the source."""
    images: Images = "batch"
    mask: str = ""
    """Argument of the mask. All classes repaint where it is white, as the benchmark does."""
    reference: str = ""
    """Argument of the request's first reference image, for classes that take it apart from the source."""
    needs_reference: bool = False
    """True where there is no edit without a reference."""
    control: str = ""
    """Argument of the picture for a ControlNet: the source in [0, 1], with ``hole`` in the masked pixels."""
    hole: float = -1.0
    """ControlNet 1.1's value. Others were trained on pictures without holes, and get a gray one, 0.5."""

    text: str = "prompt"
    prompt_field: str = "instruction"
    """Text of the request that the class follows, where the options name no other."""
    also_needs: frozenset[str] = frozenset()
    """Further fields of the request that the class reads."""
    wrap: Callable[[str, int], str] | None = None
    """Turns the text and the number of pictures into the form of prompt that the class expects."""
    negative: str = ""
    """Argument of the negative prompt."""
    default_negative: str | None = None
    """Negative prompt where the options give none, for classes whose guidance does nothing without one."""
    negative_needs: str = ""
    """Argument that must be above 1 for a negative prompt to have an effect."""
    steps: str = "num_inference_steps"
    guidance: str = "guidance_scale"
    image_guidance: str = ""
    strength: str = ""

    size: Literal["arguments", "source"] = "arguments"
    """The class takes ``height`` and ``width``, or the result has the source's size."""
    multiple: int = 16
    """Both sides are multiples of it, in pixels."""
    pixels: int = MEGAPIXEL
    """Number of pixels at which the model was trained. 0: the ``sample_size`` of its UNet says so."""
    sizes: str = ""
    """``"module:NAME"`` of the list of (width, height) that the model was trained at. Else any aspect ratio."""
    area: str = ""
    """Argument of the number of pixels, to which the class would change ``height`` and ``width``."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of every call."""
    channels: tuple[int, ...] = ()
    """Input channels that the UNet may have, for classes on the parts of a Stable Diffusion 1.x or 2.x checkpoint.
    Empty for all other classes, which are loaded whole."""
    draws: bool = False
    """True where the class draws random numbers that its generators do not give. It then gets one image a call."""
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    """Precisions in which the class works, the published one first. Empty where any does. Current transformers and
    their text encoders overflow in float16."""
    own_sampler: bool = False
    """True where the class works with the checkpoint's sampler alone."""
    pixel_space: bool = False
    """True where the model works on pixels: a mask then needs no coarser grid."""
    prior: str = ""
    """Model of the hub with the first half of a cascade, for weights that are its second half. Its parts have the
    prefix ``prior_`` in the class."""
    output: str = "images"
    """Field of the result that has the images."""
    first: Literal["", "ledits", "diffedit"] = ""
    """Work before the call, in ``methods.diffusion.inversion``."""

    @property
    def batchable(self) -> bool:
        """Whether one call edits several images, each as if it were alone."""
        return self.images == "batch" and not self.draws


def _omnigen_prompt(text: str, pictures: int) -> str:
    # The placeholders stand where the pictures' tokens go.
    return "".join(f"<img><|image_{number}|></img> " for number in range(1, pictures + 1)) + text


def _fibo_prompt(text: str, pictures: int) -> str:
    del pictures
    return json.dumps({"edit_instruction": text})


_EDIT = PipelineRow()
_INPAINT = PipelineRow(
    mask="mask_image", prompt_field="target_prompt", negative="negative_prompt", strength="strength"
)
# Guidance of Qwen's pipelines acts only with a negative prompt. A space is the published one.
_QWEN: Mapping[str, Any] = {
    "guidance": "true_cfg_scale",
    "negative": "negative_prompt",
    "default_negative": " ",
}
# FLUX is distilled: ``guidance_scale`` is an input of the network, and a negative prompt needs true guidance.
_FLUX: Mapping[str, Any] = {"negative": "negative_prompt", "negative_needs": "true_cfg_scale"}
_KONTEXT: Mapping[str, Any] = {
    **_FLUX,
    # Otherwise the class squeezes every source into one of its preferred sizes.
    "fixed": {"_auto_resize": False},
    "area": "max_area",
    "sizes": "diffusers.pipelines.flux.pipeline_flux_kontext:PREFERRED_KONTEXT_RESOLUTIONS",
}
_CONTROLNET: Mapping[str, Any] = {"control": "control_image"}
_STABLE_DIFFUSION: Mapping[str, Any] = {"multiple": 8, "pixels": 0, "dtypes": ()}
_SDXL: Mapping[str, Any] = {"multiple": 8, "pixels": 0, "dtypes": ()}

# Class of diffusers -> how it is called.
PIPELINES: Mapping[str, PipelineRow] = {
    # Stable Diffusion 1.x and 2.x, loaded from their parts.
    "StableDiffusionInpaintPipeline": replace(_INPAINT, **_STABLE_DIFFUSION, channels=(4, 9)),
    "StableDiffusionControlNetInpaintPipeline": replace(
        _INPAINT, **_STABLE_DIFFUSION, **_CONTROLNET, channels=(4, 9)
    ),
    "StableDiffusionImg2ImgPipeline": replace(
        _INPAINT, **_STABLE_DIFFUSION, mask="", size="source", channels=(4,)
    ),
    "StableDiffusionInstructPix2PixPipeline": replace(
        _EDIT,
        **_STABLE_DIFFUSION,
        size="source",
        negative="negative_prompt",
        image_guidance="image_guidance_scale",
        channels=(8,),
    ),
    "StableDiffusionDiffEditPipeline": PipelineRow(
        image="",
        images="one",
        **_STABLE_DIFFUSION,
        size="source",
        prompt_field="target_prompt",
        also_needs=frozenset({"source_prompt"}),
        negative="negative_prompt",
        strength="inpaint_strength",
        channels=(4,),
        first="diffedit",
    ),
    "LEditsPPPipelineStableDiffusion": PipelineRow(
        image="",
        images="one",
        pixels=0,
        dtypes=(),
        size="source",
        # The class refuses other sizes.
        multiple=32,
        text="editing_prompt",
        prompt_field="region_prompt",
        negative="negative_prompt",
        steps="num_inversion_steps",
        guidance="edit_guidance_scale",
        channels=(4,),
        first="ledits",
    ),
    # SDXL.
    "StableDiffusionXLInpaintPipeline": replace(_INPAINT, **_SDXL),
    "StableDiffusionXLControlNetInpaintPipeline": replace(_INPAINT, **_SDXL, **_CONTROLNET),
    "StableDiffusionXLInstructPix2PixPipeline": replace(
        _EDIT, **_SDXL, negative="negative_prompt", image_guidance="image_guidance_scale"
    ),
    "LEditsPPPipelineStableDiffusionXL": PipelineRow(
        image="",
        images="one",
        pixels=0,
        dtypes=(),
        size="source",
        multiple=32,
        text="editing_prompt",
        prompt_field="region_prompt",
        negative="negative_prompt",
        steps="num_inversion_steps",
        guidance="edit_guidance_scale",
        first="ledits",
    ),
    # Stable Diffusion 3.
    "StableDiffusion3InpaintPipeline": replace(_INPAINT, dtypes=()),
    "StableDiffusion3ControlNetInpaintingPipeline": replace(
        _INPAINT, image="control_image", mask="control_mask", strength="", draws=True, dtypes=()
    ),
    # FLUX.1.
    "FluxFillPipeline": replace(_INPAINT, negative=""),
    "FluxInpaintPipeline": replace(_INPAINT, **_FLUX),
    "FluxControlNetInpaintPipeline": replace(_INPAINT, **_CONTROLNET, hole=0.5, negative=""),
    "FluxKontextPipeline": replace(_EDIT, **_KONTEXT),
    "FluxKontextInpaintPipeline": replace(
        _EDIT, **_KONTEXT, mask="mask_image", strength="strength", reference="image_reference"
    ),
    # FLUX.2.
    "Flux2Pipeline": replace(_EDIT, images="references"),
    "Flux2KleinPipeline": replace(_EDIT, images="references"),
    "Flux2KleinInpaintPipeline": replace(
        _EDIT, mask="mask_image", strength="strength", reference="image_reference"
    ),
    # Qwen-Image.
    "QwenImageEditPipeline": replace(_EDIT, **_QWEN, images="one", multiple=32),
    "QwenImageEditPlusPipeline": replace(_EDIT, **_QWEN, images="references", multiple=32),
    "QwenImageEditInpaintPipeline": replace(
        _EDIT, **_QWEN, images="one", draws=True, multiple=32, mask="mask_image", strength="strength"
    ),
    "QwenImageInpaintPipeline": replace(_INPAINT, **_QWEN),
    "QwenImageControlNetInpaintPipeline": replace(
        _INPAINT, **_QWEN, image="control_image", mask="control_mask", strength="", draws=True
    ),
    # Others.
    "ChromaInpaintPipeline": _INPAINT,
    "ZImageInpaintPipeline": _INPAINT,
    "ZImageControlNetInpaintPipeline": replace(_INPAINT, **_CONTROLNET, hole=0.5, strength=""),
    "ZImageOmniPipeline": replace(
        _EDIT, images="references", negative="negative_prompt", dtypes=("bfloat16",)
    ),
    "GlmImagePipeline": replace(_EDIT, images="references", multiple=32),
    "LongCatImageEditPipeline": replace(_EDIT, images="one", size="source", negative="negative_prompt"),
    "OmniGenPipeline": replace(
        _EDIT,
        image="input_images",
        images="references",
        draws=True,
        image_guidance="img_guidance_scale",
        wrap=_omnigen_prompt,
    ),
    "Kandinsky5I2IPipeline": replace(
        _EDIT, images="one", negative="negative_prompt", sizes="pipeline:resolutions", output="image"
    ),
    "DreamLitePipeline": replace(
        _EDIT, images="one", multiple=32, negative="negative_prompt", image_guidance="image_guidance_scale"
    ),
    "BriaFiboEditPipeline": replace(
        _EDIT, images="references", multiple=32, mask="mask", negative="negative_prompt", wrap=_fibo_prompt
    ),
    # A prior turns the text into an image embedding, and a decoder turns it into the image.
    "KandinskyV22InpaintCombinedPipeline": replace(
        _INPAINT,
        # The class blends every image of a batch with the first source and the first mask.
        images="one",
        strength="",
        multiple=64,
        pixels=512 * 512,
        dtypes=(),
        # Its two halves hold the sampler too: a new one would have no effect.
        own_sampler=True,
        prior="kandinsky-community/kandinsky-2-2-prior",
    ),
    # The first of three stages. The later ones need its output besides the source.
    "IFInpaintingPipeline": replace(
        _INPAINT,
        size="source",
        multiple=8,
        pixels=64 * 64,
        sizes="methods.diffusion.table:IF_SIZES",
        # Cleaning would depend on whether two more packages are installed. The published example does without.
        fixed={"clean_caption": False},
        dtypes=(),
        # The UNet also predicts the variance, which few samplers can use.
        own_sampler=True,
        pixel_space=True,
    ),
    "PaintByExamplePipeline": PipelineRow(
        images="one",
        **_STABLE_DIFFUSION,
        mask="mask_image",
        text="",
        prompt_field="",
        reference="example_image",
        needs_reference=True,
        size="source",
        negative="negative_prompt",
    ),
}

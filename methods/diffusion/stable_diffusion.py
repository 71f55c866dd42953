"""The methods of four papers on Stable Diffusion 1.x and 2.x: rows of the table, with options of their own.

Their names and options are older than the adapter's and are part of the digests of stored runs, so they stay. Each
class translates its options into the adapter's. Sources come at the checkpoint's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from methods import batches, weights
from methods.diffusion.adapter import Diffusers
from methods.diffusion.base import PromptField, StableDiffusionOptions, sampling_problems, strength_problems
from methods.diffusion.framing import Frame
from methods.diffusion.options import DiffusersOptions
from methods.mask_grid import MaskCells
from methods.pipelines import SchedulerName

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime


@dataclass(frozen=True)
class PaperOptions(StableDiffusionOptions):
    scheduler: SchedulerName | None = None
    """Name of the sampler. None is the checkpoint's own."""
    paste: bool = False
    """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""


class PaperMethod(Diffusers):
    """A method of one paper, by the pipeline of diffusers that implements it."""

    # The class of diffusers.
    pipeline_class: ClassVar[str]
    native_size: int | None = 512
    PRESETS: Mapping[str, Mapping[str, Any]] = {}

    @classmethod
    def settings(cls, options: Any) -> DiffusersOptions:
        return DiffusersOptions(
            weights=options.weights,
            revision=options.revision,
            pipeline=cls.pipeline_class,
            steps=options.steps,
            guidance=options.guidance,
            negative_prompt=options.negative_prompt,
            scheduler=options.scheduler,
            paste=options.paste,
            size="source",
            **cls.own_settings(options),
        )

    @classmethod
    def own_settings(cls, options: Any) -> dict[str, Any]:
        """The adapter's options that only some of the methods have."""
        raise NotImplementedError

    @classmethod
    def option_problems(cls, options: Any) -> list[str]:
        return sampling_problems(options) + strength_problems(options.steps, options.strength)

    def prepare(self, runtime: Runtime) -> None:
        super().prepare(runtime)
        # The runner brings every source to this size.
        self.native_size = weights.find(self.options.weights, self.options.revision).native_size

    def frame(self, size: tuple[int, int]) -> Frame:
        return Frame(size, size, "exact")

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        # The pipelines without height and width would round the sides down to the factor.
        batches.one_size(requests, self.factor)
        return super().edit_batch(requests, sources)


class SdInpainting(PaperMethod):
    """Stable Diffusion inpainting (Rombach et al., CVPR 2022).

    There are two kinds of checkpoints. A UNet with 9 input channels (noisy latents 4, mask 1, latents of the masked
    source 4) was trained to fill. With 4 channels, each step puts the noised source back outside the mask. Neither
    keeps the pixels outside exactly, since the whole image passes the autoencoder. ``padding_mask_crop`` and ``paste``
    do.
    """

    name = "sd_inpainting"
    summary = "Stable Diffusion inpainting: fills the mask by the prompt (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    pipeline_class = "StableDiffusionInpaintPipeline"

    @dataclass(frozen=True)
    class Options(PaperOptions):
        weights: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
        strength: float = 1.0
        """1 starts from pure noise. A smaller value keeps more of the source inside the mask."""
        prompt_field: PromptField = "target_prompt"
        """Text of the request that is the prompt. The public and the mini checkpoints were trained on captions of
        whole images, so the target prompt is the default."""
        mask_cells: MaskCells = "rescue"
        """Rule that brings a mask onto the latent grid. ``rescue`` fills the cells of parts that the grid would miss
        and leaves the rest to the pipeline's sampling. ``cover`` fills every cell that the mask touches: the whole
        region becomes editable, and up to a cell around it. A UNet with 9 channels then still sees all pixels of
        these cells that are not in the mask. With ``padding_mask_crop`` it does not, because the pipeline hides the
        whole cells."""
        padding_mask_crop: int | None = None
        """Crop around the mask with this margin in pixels, edit the crop at full size and paste it back. Images are
        then edited one at a time, since the pipeline takes no more."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:sd_inpainting", "steps": 10, "guidance": 3.0, "mask_cells": "cover"},
    }

    @classmethod
    def own_settings(cls, options: Options) -> dict[str, Any]:
        crop = options.padding_mask_crop
        return {
            "strength": options.strength,
            "prompt_field": options.prompt_field,
            "mask_cells": options.mask_cells,
            "call": {} if crop is None else {"padding_mask_crop": crop},
        }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        if options.padding_mask_crop is not None and options.padding_mask_crop < 0:
            problems.append(f"padding_mask_crop {options.padding_mask_crop}: expected 0 or more pixels")
        return problems


class ControlNetInpaint(PaperMethod):
    """Inpainting by ControlNet 1.1 (Zhang et al., ICCV 2023): Stable Diffusion with a control that shows the hole.

    The UNet is the base's own. With 4 input channels each step puts the noised source back outside the mask. With 9 it
    was trained to fill. Neither keeps the pixels outside exactly. The paper's control c_f is
    ``methods.diffusion.control``, and its weight is ``control_scale``.
    """

    name = "controlnet_inpaint"
    summary = "ControlNet 1.1 inpainting on Stable Diffusion 1.5 (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    pipeline_class = "StableDiffusionControlNetInpaintPipeline"

    @dataclass(frozen=True)
    class Options(PaperOptions):
        controlnet: str = "lllyasviel/control_v11p_sd15_inpaint"
        """``owner/name`` of the hub, or a folder that is the ControlNet or has it in ``controlnet/``."""
        controlnet_revision: str | None = None
        control_scale: float = 0.5
        """Weight of the control's residuals. The default is the pipeline's. Other ControlNet pipelines have 1."""
        strength: float = 1.0
        """1 starts from pure noise. A smaller value keeps more of the source inside the mask."""
        prompt_field: PromptField = "target_prompt"
        mask_cells: MaskCells = "rescue"
        """As for ``sd_inpainting``. The control always has the exact mask."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:text_to_image",
            "controlnet": "zoo:controlnet_inpaint",
            # The weight with which it was trained.
            "control_scale": 1.0,
            "steps": 10,
            "guidance": 3.0,
            "mask_cells": "cover",
        },
    }

    @classmethod
    def own_settings(cls, options: Options) -> dict[str, Any]:
        return {
            "controlnet": options.controlnet,
            "controlnet_revision": options.controlnet_revision,
            "strength": options.strength,
            "prompt_field": options.prompt_field,
            "mask_cells": options.mask_cells,
            "call": {"controlnet_conditioning_scale": options.control_scale},
        }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        if options.control_scale < 0:
            problems.append(
                f"control_scale {options.control_scale}: expected at least 0, which switches it off"
            )
        return problems


class InstructPix2Pix(PaperMethod):
    """InstructPix2Pix (Brooks, Holynski and Efros, CVPR 2023).

    It follows an instruction ("make it snowy") and takes no mask. Its changes outside the mask are its leakage. The
    UNet has 8 input channels: 4 of the noisy latents and 4 of the source's latents, which are unscaled.

    =================  ======================================================================================
    paper              here
    =================  ======================================================================================
    c_I, c_T           the request's source and instruction (``prompt_field``)
    s_I, s_T           ``image_guidance``, ``guidance``
    equation 3         e(0, 0) + s_I (e(c_I, 0) - e(0, 0)) + s_T (e(c_I, c_T) - e(c_I, 0)), in the pipeline
    =================  ======================================================================================
    """

    name = "instruct_pix2pix"
    summary = "InstructPix2Pix: follows the instruction, without a mask (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "instruction"})
    pipeline_class = "StableDiffusionInstructPix2PixPipeline"

    @dataclass(frozen=True)
    class Options(PaperOptions):
        # ``scheduler`` None is ``euler_a`` with the public checkpoint.
        weights: str = "timbrooks/instruct-pix2pix"
        steps: int = 100
        image_guidance: float = 1.5
        """Scale of the guidance towards the source. ``guidance`` is the scale towards the instruction."""
        # Left out of the digest where it has its default, so that runs from before the option resume.
        prompt_field: Annotated[
            Literal["instruction", "target_prompt", "region_prompt"],
            Field(exclude_if=lambda name: name == "instruction"),
        ] = "instruction"
        """Text of the request that is the instruction. A prompt serves benchmarks that have captions alone. The
        checkpoints were trained on instructions, so tables state another text beside the name."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:instruct_pix2pix",
            "steps": 10,
            "guidance": 3.0,
            "image_guidance": 1.5,
        },
    }

    @classmethod
    def own_settings(cls, options: Options) -> dict[str, Any]:
        return {"image_guidance": options.image_guidance, "prompt_field": options.prompt_field}

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = [] if options.steps >= 1 else [f"steps {options.steps}: expected at least 1"]
        guided = options.guidance > 1 and options.image_guidance >= 1
        plain = options.guidance == 1 and options.image_guidance == 1
        if not guided and not plain:
            # The pipeline would switch guidance off and ignore both numbers without a word.
            problems.append(
                f"guidance {options.guidance} with image_guidance {options.image_guidance}: guidance works "
                "only with guidance above 1 and image_guidance of at least 1; set both to 1 to switch it off"
            )
        if options.negative_prompt and not guided:
            problems.append("negative_prompt has no effect without guidance")
        return problems


class SdEdit(PaperMethod):
    """SDEdit (Meng et al., ICLR 2022) as in common practice: Stable Diffusion's image-to-image pipeline.

    The source is noised up to ``strength``, the paper's t_0, and denoised towards the prompt. The mask is unused, so
    everything may change. It is the baseline that measures the worth of a mask. ``latent_blending`` is the same with
    the mask.
    """

    name = "sdedit"
    summary = "SDEdit, Stable Diffusion image to image: noises and denoises the whole image, without a mask"
    needs: frozenset[str] = frozenset({"source", "target_prompt"})
    pipeline_class = "StableDiffusionImg2ImgPipeline"

    @dataclass(frozen=True)
    class Options(PaperOptions):
        strength: float = 0.8
        """Noise level of the start: int(steps * strength) steps are run, one more with PNDM. With 1, almost nothing
        of the source is left on Stable Diffusion's own schedule, and nothing on one that ends in pure noise."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:text_to_image", "steps": 10, "guidance": 3.0},
    }

    @classmethod
    def own_settings(cls, options: Options) -> dict[str, Any]:
        return {"strength": options.strength}

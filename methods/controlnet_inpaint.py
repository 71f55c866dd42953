"""Inpainting by ControlNet 1.1 (Zhang et al., ICCV 2023): Stable Diffusion with a control that shows the hole.

Through diffusers' StableDiffusionControlNetInpaintPipeline. The control is the source with -1 in all channels
of every masked pixel; the UNet is the base's own. With 4 input channels each step puts the noised source back
outside the mask, with 9 it was trained to fill. Neither keeps the pixels outside exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench import images
from bench.edit import EditMethod
from methods import pipelines, weights

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime

CONTROL_PART = ("controlnet",)


class ControlNetInpaint(EditMethod):
    summary = "ControlNet 1.1 inpainting on Stable Diffusion 1.5 (public or local weights)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    native_size: int | None = 512

    @dataclass(frozen=True)
    class Options:
        weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        """The base: ``owner/name`` of the hub, or a folder in diffusers' layout."""
        revision: str | None = None
        """Commit, tag or branch on the hub; None is the pinned commit of the known checkpoints."""
        controlnet: str = "lllyasviel/control_v11p_sd15_inpaint"
        """``owner/name`` of the hub, or a folder that is the ControlNet or has it in ``controlnet/``."""
        controlnet_revision: str | None = None
        steps: int = 50
        guidance: float = 7.5
        """Scale of classifier-free guidance; 1 switches it off."""
        control_scale: float = 0.5
        """Weight of the control's residuals; the pipeline's default, half of its sister pipelines'."""
        scheduler: pipelines.SchedulerName | None = None
        """None is the base's own."""
        negative_prompt: str = ""
        strength: float = 1.0
        prompt_field: Literal["target_prompt", "region_prompt"] = "target_prompt"
        mask_cells: Literal["rescue", "cover"] = "rescue"
        """As for ``sd_inpainting``. The control always has the exact mask."""
        paste: bool = False
        """Paste the result into the source along the mask. Off: the raw output; both are scored."""

    CHANNELS = (4, 9)

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        control = weights.identity(options.controlnet, options.controlnet_revision, CONTROL_PART)
        return weights.identity(options.weights, options.revision) | {
            f"controlnet_{name}": value for name, value in control.items()
        }

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        found = []
        if options.steps < 1:
            found.append(f"steps {options.steps}: expected at least 1")
        if not 0 < options.strength <= 1:
            found.append(f"strength {options.strength}: expected more than 0 and at most 1")
        elif options.steps >= 1 and int(options.steps * options.strength) < 1:
            found.append(
                f"steps {options.steps} at strength {options.strength} leave no step to run: "
                f"raise steps to at least {-int(-1 / options.strength // 1)}"
            )
        if options.guidance < 1:
            found.append(f"guidance {options.guidance}: expected at least 1, which switches it off")
        if options.negative_prompt and options.guidance == 1:
            found.append("negative_prompt has no effect at guidance 1")
        if options.control_scale < 0:
            found.append(f"control_scale {options.control_scale}: expected at least 0, which switches it off")
        base = weights.problems(options.weights, options.revision, channels=cls.CHANNELS)
        control = weights.problems(options.controlnet, options.controlnet_revision, CONTROL_PART)
        if not base and not control:
            control = _misfit(options)
        return found + base + control

    def __init__(self, options: Options, runtime: Runtime) -> None:
        found = self.problems(options) + pipelines.runtime_problems(runtime)
        if found:
            raise ValueError("controlnet_inpaint: " + "; ".join(found))
        from diffusers import StableDiffusionControlNetInpaintPipeline

        self.options = options
        where = weights.find(options.weights, options.revision)
        self.factor = where.vae_factor
        self.native_size = where.native_size
        self.needs = frozenset({"source", "mask", options.prompt_field})
        base = pipelines.load_pipeline("StableDiffusionPipeline", where, runtime, options.scheduler)
        control = pipelines.load_part(
            "controlnet",
            weights.find(options.controlnet, options.controlnet_revision, CONTROL_PART),
            runtime,
            ["diffusers", "ControlNetModel"],
        ).to(runtime.device)
        self.pipeline = StableDiffusionControlNetInpaintPipeline(
            **base.components, controlnet=control, requires_safety_checker=False
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources and masks of one size, sides multiples of the autoencoder's factor."""
        if not requests:
            return []
        options = self.options
        width, height = pipelines.one_size(requests, self.factor)
        sources = [request.source.convert("RGB") for request in requests]
        masks = [_mask(request) for request in requests]
        on_grid = pipelines.cover_cells if options.mask_cells == "cover" else pipelines.rescue_thin
        edited = pipelines.call(
            self.pipeline,
            prompt=pipelines.prompts(requests, options.prompt_field),
            negative_prompt=[options.negative_prompt] * len(requests),
            image=sources,
            mask_image=[images.mask_image(on_grid(mask, self.factor)) for mask in masks],
            control_image=control_images(sources, masks),
            width=width,
            height=height,
            strength=options.strength,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            controlnet_conditioning_scale=options.control_scale,
            generator=pipelines.generators(requests),
            output_type="pil",
        )
        if options.paste:
            edited = [
                images.paste_back(source, result, request.mask)
                for source, result, request in zip(sources, edited, requests, strict=True)
            ]
        return edited


def control_images(sources: Sequence[Image], masks: Sequence[np.ndarray[Any, np.dtype[np.bool_]]]) -> Tensor:
    """RGB images and bool (H, W) masks => float32 (B, 3, H, W) in [0, 1], -1 where the mask is True.

    A tensor, because no PIL image can hold -1.
    """
    import torch

    control = np.stack([images.to_array(source) for source in sources]).astype(np.float32) / 255
    control[np.stack(list(masks))] = -1
    return torch.from_numpy(control).permute(0, 3, 1, 2).contiguous()


def _mask(request: EditRequest) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if request.mask.size != request.source.size:
        raise ValueError(f"mask of {request.mask.size} pixels for a source of {request.source.size}")
    mask = images.mask_array(request.mask)
    if not mask.any():
        raise ValueError("the mask is empty: there is nothing to edit")
    return mask


def _misfit(options: ControlNetInpaint.Options) -> list[str]:
    """What keeps a base and a ControlNet that are both there from working together."""
    unet = weights.find(options.weights, options.revision).config("unet")
    control = weights.find(options.controlnet, options.controlnet_revision, CONTROL_PART).config("controlnet")
    for name in ("block_out_channels", "cross_attention_dim"):
        if unet.get(name) != control.get(name):
            return [
                f"controlnet {options.controlnet!r} does not fit weights {options.weights!r}: {name} is "
                f"{control.get(name)} and {unet.get(name)}. Take one trained for this base"
            ]
    return []

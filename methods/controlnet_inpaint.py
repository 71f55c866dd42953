"""Inpainting by ControlNet 1.1 (Zhang et al., ICCV 2023): Stable Diffusion with a control that shows the hole.

It runs through diffusers' StableDiffusionControlNetInpaintPipeline. The UNet is the base's own. With 4 input channels
each step puts the noised source back outside the mask. With 9 it was trained to fill. Neither keeps the pixels outside
exactly.

=================  ====================================================================================
paper              here
=================  ====================================================================================
c_f, the control   ``control_images``: the source, with -1 in all channels of every masked pixel
weight of c_f      ``control_scale``
=================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import images
from methods import batches, pipelines, weights
from methods.mask_grid import MaskCells, on_grid
from methods.stable_diffusion import DiffusersMethod, DiffusersOptions, PromptField, strength_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime
    from methods.weights import Weights

CONTROL_PART = ("controlnet",)
# diffusers' default of ``conditioning_embedding_out_channels``, for an autoencoder that reduces images by 8.
_DEFAULT_WIDTHS = (16, 32, 96, 256)


class ControlNetInpaint(DiffusersMethod):
    name = "controlnet_inpaint"
    summary = "ControlNet 1.1 inpainting on Stable Diffusion 1.5 (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    pipeline_class = "StableDiffusionControlNetInpaintPipeline"
    channels = (4, 9)

    @dataclass(frozen=True)
    class Options(DiffusersOptions):
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
    def identity(cls, options: Options) -> dict[str, str]:
        control = weights.identity(options.controlnet, options.controlnet_revision, CONTROL_PART)
        return super().identity(options) | {f"controlnet_{name}": value for name, value in control.items()}

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options) + strength_problems(options.steps, options.strength)
        if options.control_scale < 0:
            problems.append(
                f"control_scale {options.control_scale}: expected at least 0, which switches it off"
            )
        return problems

    @classmethod
    def weights_problems(cls, options: Options) -> list[str]:
        base = super().weights_problems(options)
        control = weights.problems(options.controlnet, options.controlnet_revision, CONTROL_PART)
        # The two are compared only where neither has a problem by itself.
        return base + control or _misfit(options)

    def request_fields(self) -> frozenset[str]:
        return frozenset({"source", "mask", self.options.prompt_field})

    def load(self, checkpoint: Weights, runtime: Runtime) -> Any:
        options = self.options
        control = pipelines.load_part(
            "controlnet",
            weights.find(options.controlnet, options.controlnet_revision, CONTROL_PART),
            runtime,
            ["diffusers", "ControlNetModel"],
        )
        return pipelines.load_pipeline(
            self.pipeline_class, checkpoint, runtime, options.scheduler, controlnet=control
        )

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        options = self.options
        width, height = requests[0].source.size
        masks = batches.edit_masks(requests)
        return self.call(
            requests,
            options.prompt_field,
            image=sources,
            mask_image=[images.mask_image(on_grid(mask, self.factor, options.mask_cells)) for mask in masks],
            control_image=control_images(sources, masks),
            controlnet_conditioning_scale=options.control_scale,
            strength=options.strength,
            width=width,
            height=height,
        )


def control_images(sources: Sequence[Image], masks: Sequence[NDArray[np.bool_]]) -> Tensor:
    """RGB images and bool (H, W) masks => float32 (B, 3, H, W) in [0, 1], -1 where the mask is True."""
    return control_pixels(np.stack([images.to_array(source) for source in sources]), np.stack(list(masks)))


def control_pixels(sources: NDArray[np.uint8], masks: NDArray[np.bool_]) -> Tensor:
    """uint8 (B, H, W, 3) and bool (B, H, W) => float32 (B, 3, H, W) in [0, 1], -1 where the mask is True."""
    import torch

    control = sources.astype(np.float32) / 255
    control[masks] = -1
    # A tensor, because no PIL image can hold -1.
    return torch.from_numpy(control).permute(0, 3, 1, 2).contiguous()


def _misfit(options: ControlNetInpaint.Options) -> list[str]:
    """Reasons why a base and a ControlNet that both exist cannot work together."""
    base = weights.find(options.weights, options.revision)
    unet = base.config("unet")
    control = weights.find(options.controlnet, options.controlnet_revision, CONTROL_PART).config("controlnet")
    # A ControlNet is a copy of the base's encoder: it adds to feature maps of the same widths, and reads the same
    # text.
    for name in ("block_out_channels", "cross_attention_dim"):
        if unet.get(name) != control.get(name):
            return [
                f"controlnet {options.controlnet!r} does not fit weights {options.weights!r}: {name} is "
                f"{control.get(name)} and {unet.get(name)}. Take one trained for this base"
            ]
    # The layers that bring the control to the size of the latents halve it once less than they have widths.
    widths = control.get("conditioning_embedding_out_channels", _DEFAULT_WIDTHS)
    factor = 2 ** (len(widths) - 1)
    if factor != base.vae_factor:
        return [
            f"controlnet {options.controlnet!r} does not fit weights {options.weights!r}: it reduces images by "
            f"{factor}, the autoencoder by {base.vae_factor}. Take one trained for this base"
        ]
    return []

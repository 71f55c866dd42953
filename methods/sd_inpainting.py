"""Stable Diffusion inpainting (Rombach et al., CVPR 2022), through diffusers' StableDiffusionInpaintPipeline.

There are two kinds of checkpoints. A UNet with 9 input channels (noisy latents 4, mask 1, latents of the masked
source 4) was trained to fill. With 4 channels, each step puts the noised source back outside the mask. Neither keeps
the pixels outside exactly, since the whole image passes the autoencoder. ``padding_mask_crop`` and ``paste`` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import images
from methods import batches, pipelines
from methods.mask_grid import MaskCells, on_grid
from methods.stable_diffusion import DiffusersMethod, DiffusersOptions, PromptField, strength_problems

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest


class SdInpainting(DiffusersMethod):
    name = "sd_inpainting"
    summary = "Stable Diffusion inpainting: fills the mask by the prompt (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    pipeline_class = "StableDiffusionInpaintPipeline"
    channels = (4, 9)

    @dataclass(frozen=True)
    class Options(DiffusersOptions):
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
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options) + strength_problems(options.steps, options.strength)
        if options.padding_mask_crop is not None and options.padding_mask_crop < 0:
            problems.append(f"padding_mask_crop {options.padding_mask_crop}: expected 0 or more pixels")
        return problems

    def request_fields(self) -> frozenset[str]:
        return frozenset({"source", "mask", self.options.prompt_field})

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        if self.options.padding_mask_crop is None:
            return self._inpaint(requests, image=list(sources))
        # The pipeline crops one image at a time, and wants it outside of a list.
        return [
            self._inpaint([request], image=source)[0]
            for request, source in zip(requests, sources, strict=True)
        ]

    def _inpaint(self, requests: Sequence[EditRequest], image: Image | list[Image]) -> list[Image]:
        """One call of the pipeline. ``image`` is the list of sources, or the one source to crop."""
        options = self.options
        width, height = requests[0].source.size
        masks = batches.edit_masks(requests)
        # PIL images of mode L, 255 = edit. Never arrays: the pipeline does not rescale uint8 arrays.
        mask_images = [images.mask_image(on_grid(mask, self.factor, options.mask_cells)) for mask in masks]
        extra = {}
        # The pipeline would hide the whole cells. The UNet was trained to see all that is not in the mask.
        if isinstance(image, list) and options.mask_cells == "cover" and self._sees_masked_source():
            extra["masked_image_latents"] = pipelines.masked_latents(self.pipeline, image, masks)
        return self.call(
            requests,
            options.prompt_field,
            image=image,
            mask_image=mask_images if isinstance(image, list) else mask_images[0],
            # Without these two the pipeline stretches to its native size.
            width=width,
            height=height,
            padding_mask_crop=options.padding_mask_crop,
            strength=options.strength,
            **extra,
        )

    def _sees_masked_source(self) -> bool:
        return bool(self.pipeline.unet.config.in_channels == 9)

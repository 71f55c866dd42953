"""Stable Diffusion inpainting (Rombach et al., CVPR 2022), through diffusers' StableDiffusionInpaintPipeline.

Two kinds of checkpoints: a UNet with 9 input channels (noisy latents 4, mask 1, latents of the masked
image 4), which was trained to fill, and one with 4, where each step pastes the noised source outside
the mask. Neither keeps the pixels outside exactly: the whole picture passes the autoencoder.
``padding_mask_crop`` and ``paste`` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench import images
from bench.edit import EditMethod
from methods import pipelines, weights

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime


class SdInpainting(EditMethod):
    summary = "Stable Diffusion inpainting: fills the mask by the prompt (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    native_size: int | None = 512

    @dataclass(frozen=True)
    class Options:
        weights: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
        """``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub; None is the pinned commit of the known checkpoints."""
        steps: int = 50
        guidance: float = 7.5
        """Scale of classifier-free guidance; 1 switches it off."""
        scheduler: pipelines.SchedulerName | None = None
        """None is the checkpoint's own."""
        negative_prompt: str = ""
        strength: float = 1.0
        """1 starts from pure noise; less keeps as much of the source inside the mask."""
        prompt_field: Literal["target_prompt", "region_prompt"] = "target_prompt"
        """Which text of the request is the prompt. The public checkpoints were trained on captions of
        whole images, as was the mini one, so the target prompt is the default."""
        mask_cells: Literal["rescue", "cover"] = "rescue"
        """What happens to a mask that does not align with the latent grid: ``rescue`` fills the cells of
        parts that the grid would miss and leaves the rest to the pipeline's sampling; ``cover`` fills every
        cell that the mask touches: the whole region becomes editable, and up to a cell around it. A UNet with 9
        channels then still sees all pixels of these cells that are not in the mask (not with
        ``padding_mask_crop``, where the pipeline hides what it is given)."""
        padding_mask_crop: int | None = None
        """Crop around the mask with this margin in pixels, edit the crop at full size and paste it back.
        Edits one image at a time, since the pipeline takes no more."""
        paste: bool = False
        """Paste the result into the source along the mask. Off: the raw output; both are scored."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:sd_inpainting", "steps": 10, "guidance": 3.0, "mask_cells": "cover"},
    }

    CHANNELS = (4, 9)

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return weights.identity(options.weights, options.revision)

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
        if options.padding_mask_crop is not None and options.padding_mask_crop < 0:
            found.append(f"padding_mask_crop {options.padding_mask_crop}: expected 0 or more pixels")
        return found + weights.problems(options.weights, options.revision, channels=cls.CHANNELS)

    def __init__(self, options: Options, runtime: Runtime) -> None:
        found = self.problems(options) + pipelines.runtime_problems(runtime)
        if found:
            raise ValueError("sd_inpainting: " + "; ".join(found))
        self.options = options
        where = weights.find(options.weights, options.revision)
        self.factor = where.vae_factor
        self.native_size = where.native_size
        self.needs = frozenset({"source", "mask", options.prompt_field})
        self.pipeline = pipelines.load_pipeline(
            "StableDiffusionInpaintPipeline", where, runtime, options.scheduler
        )

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources and masks of one size, sides multiples of the autoencoder's factor."""
        if not requests:
            return []
        if self.options.padding_mask_crop is not None:
            return [self._edit([request])[0] for request in requests]
        return self._edit(requests)

    def _edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        options = self.options
        width, height = pipelines.one_size(requests, self.factor)
        sources = [request.source.convert("RGB") for request in requests]
        masks = [self._mask(request) for request in requests]
        crop = options.padding_mask_crop is not None
        seen = {}
        if options.mask_cells == "cover" and not crop and self.pipeline.unet.config.in_channels == 9:
            own = [images.mask_array(request.mask) for request in requests]
            seen["masked_image_latents"] = pipelines.masked_latents(self.pipeline, sources, own)
        edited = pipelines.call(
            self.pipeline,
            prompt=pipelines.prompts(requests, options.prompt_field),
            negative_prompt=[options.negative_prompt] * len(requests),
            # PIL images, never arrays: the pipeline does not rescale uint8 arrays.
            image=sources[0] if crop else sources,
            mask_image=masks[0] if crop else masks,
            # Without these two the pipeline stretches to its native size.
            width=width,
            height=height,
            padding_mask_crop=options.padding_mask_crop,
            strength=options.strength,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=pipelines.generators(requests),
            output_type="pil",
            **seen,
        )
        if options.paste:
            edited = [
                images.paste_back(source, result, request.mask)
                for source, result, request in zip(sources, edited, requests, strict=True)
            ]
        return edited

    def _mask(self, request: EditRequest) -> Image:
        """The mask as the pipeline wants it: L, 255 = edit (our own polarity), no part lost to the grid."""
        if request.mask.size != request.source.size:
            raise ValueError(f"mask of {request.mask.size} pixels for a source of {request.source.size}")
        mask = images.mask_array(request.mask)
        if not mask.any():
            raise ValueError("the mask is empty: there is nothing to edit")
        on_grid = pipelines.cover_cells if self.options.mask_cells == "cover" else pipelines.rescue_thin
        return images.mask_image(on_grid(mask, self.factor))

"""InstructPix2Pix (Brooks, Holynski and Efros, CVPR 2023), through diffusers' pipeline of that name.

Follows an instruction ("make it snowy") and knows no mask: what it changes outside is its leakage. The
UNet has 8 input channels, noisy latents 4 and the source's latents 4, the latter unscaled.

Guidance (their equation 3), with c_T the instruction, c_I the source and 0 for none of it:
``e = e(0, 0) + image_guidance * (e(0, c_I) - e(0, 0)) + guidance * (e(c_T, c_I) - e(0, c_I))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import images
from bench.edit import EditMethod
from methods import pipelines, weights

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime


class InstructPix2Pix(EditMethod):
    summary = "InstructPix2Pix: follows the instruction, without a mask (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "instruction"})
    native_size: int | None = 512

    @dataclass(frozen=True)
    class Options:
        weights: str = "timbrooks/instruct-pix2pix"
        """``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub; None is the pinned commit of the known checkpoints."""
        steps: int = 100
        guidance: float = 7.5
        """How strongly the instruction is followed."""
        image_guidance: float = 1.5
        """How strongly the source is kept."""
        scheduler: pipelines.SchedulerName | None = None
        """None is the checkpoint's own (the public one's is ``euler_a``)."""
        negative_prompt: str = ""
        paste: bool = False
        """Paste the result into the source along the mask. Off: the raw output; both are scored."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:instruct_pix2pix",
            "steps": 10,
            "guidance": 3.0,
            "image_guidance": 1.5,
        },
    }

    CHANNELS = (8,)

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return weights.identity(options.weights, options.revision)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        found = []
        if options.steps < 1:
            found.append(f"steps {options.steps}: expected at least 1")
        guided = options.guidance > 1 and options.image_guidance >= 1
        plain = options.guidance == 1 and options.image_guidance == 1
        if not guided and not plain:
            # The pipeline would switch guidance off and ignore both numbers without a word.
            found.append(
                f"guidance {options.guidance} with image_guidance {options.image_guidance}: guidance works "
                "only with guidance above 1 and image_guidance of at least 1; set both to 1 to switch it off"
            )
        if options.negative_prompt and not guided:
            found.append("negative_prompt has no effect without guidance")
        return found + weights.problems(options.weights, options.revision, channels=cls.CHANNELS)

    def __init__(self, options: Options, runtime: Runtime) -> None:
        found = self.problems(options) + pipelines.runtime_problems(runtime)
        if found:
            raise ValueError("instruct_pix2pix: " + "; ".join(found))
        self.options = options
        where = weights.find(options.weights, options.revision)
        self.factor = where.vae_factor
        self.native_size = where.native_size
        self.needs = frozenset({"source", "instruction"} | ({"mask"} if options.paste else set()))
        self.pipeline = pipelines.load_pipeline(
            "StableDiffusionInstructPix2PixPipeline", where, runtime, options.scheduler
        )

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources of one size, both sides multiples of the autoencoder's factor; results of that size."""
        if not requests:
            return []
        options = self.options
        # The pipeline has no height and width: it takes the first image's size, rounded down to the factor.
        pipelines.one_size(requests, self.factor)
        sources = [request.source.convert("RGB") for request in requests]
        edited = pipelines.call(
            self.pipeline,
            prompt=pipelines.prompts(requests, "instruction"),
            # One per image: a single string would be encoded once and fail on any batch.
            negative_prompt=[options.negative_prompt] * len(requests),
            image=sources,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            image_guidance_scale=options.image_guidance,
            generator=pipelines.generators(requests),
            output_type="pil",
        )
        if options.paste:
            edited = [
                images.paste_back(source, result, request.mask)
                for source, result, request in zip(sources, edited, requests, strict=True)
            ]
        return edited

"""SDEdit (Meng et al., ICLR 2022) as practitioners run it: Stable Diffusion's image-to-image pipeline.

The source is noised up to ``strength`` and denoised towards the prompt. The mask is unused, so everything may
change: the baseline for what a mask is worth. ``latent_blending`` is the same with the mask.
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


class SdEdit(EditMethod):
    summary = "SDEdit, Stable Diffusion image to image: noise and denoise all of the picture; sees no mask"
    needs: frozenset[str] = frozenset({"source", "target_prompt"})
    native_size: int | None = 512

    @dataclass(frozen=True)
    class Options:
        weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        """``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub; None is the pinned commit of the known checkpoints."""
        steps: int = 50
        """Of the whole grid; int(steps * strength) of them are run, one more with PNDM."""
        guidance: float = 7.5
        """Scale of classifier-free guidance; 1 switches it off."""
        strength: float = 0.8
        """How far the source is noised. 1 forgets it: all but, with Stable Diffusion's own schedule, and
        altogether with one that ends in pure noise."""
        scheduler: pipelines.SchedulerName | None = None
        """None is the checkpoint's own."""
        negative_prompt: str = ""
        paste: bool = False
        """Paste the result into the source along the mask, which is otherwise unused."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:text_to_image", "steps": 10, "guidance": 3.0},
    }

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
            # Some samplers crash on no step at all, and PNDM would run one that nobody asked for.
            found.append(
                f"steps {options.steps} at strength {options.strength} leave no step to run: "
                f"raise steps to at least {-int(-1 / options.strength // 1)}"
            )
        if options.guidance < 1:
            found.append(f"guidance {options.guidance}: expected at least 1, which switches it off")
        if options.negative_prompt and options.guidance == 1:
            found.append("negative_prompt has no effect at guidance 1")
        return found + weights.problems(options.weights, options.revision, channels=(4,))

    def __init__(self, options: Options, runtime: Runtime) -> None:
        found = self.problems(options) + pipelines.runtime_problems(runtime)
        if found:
            raise ValueError("sdedit: " + "; ".join(found))
        self.options = options
        where = weights.find(options.weights, options.revision)
        self.factor = where.vae_factor
        self.native_size = where.native_size
        self.needs = frozenset({"source", "target_prompt"} | ({"mask"} if options.paste else set()))
        self.pipeline = pipelines.load_pipeline(
            "StableDiffusionImg2ImgPipeline", where, runtime, options.scheduler
        )

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources of one size, both sides multiples of the autoencoder's factor; results of that size."""
        if not requests:
            return []
        options = self.options
        # The pipeline has no height and width: it takes the sources' size, rounded down to the factor.
        pipelines.one_size(requests, self.factor)
        sources = [request.source.convert("RGB") for request in requests]
        edited = pipelines.call(
            self.pipeline,
            prompt=pipelines.prompts(requests, "target_prompt"),
            negative_prompt=[options.negative_prompt] * len(requests),
            image=sources,
            strength=options.strength,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=pipelines.generators(requests),
            output_type="pil",
        )
        if options.paste:
            edited = [
                images.paste_back(source, result, request.mask)
                for source, result, request in zip(sources, edited, requests, strict=True)
            ]
        return edited

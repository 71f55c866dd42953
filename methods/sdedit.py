"""SDEdit (Meng et al., ICLR 2022) as in common practice: Stable Diffusion's image-to-image pipeline.

The source is noised up to ``strength`` and denoised towards the prompt. The mask is unused, so everything may change.
It is the baseline that measures the worth of a mask. ``latent_blending`` is the same with the mask.

=================  ==========================================
paper              here
=================  ==========================================
x_g, the guide     the request's source
t_0                ``strength``
=================  ==========================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.stable_diffusion import DiffusersMethod, DiffusersOptions, strength_problems

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest


class SdEdit(DiffusersMethod):
    name = "sdedit"
    summary = "SDEdit, Stable Diffusion image to image: noises and denoises the whole image, without a mask"
    needs: frozenset[str] = frozenset({"source", "target_prompt"})
    pipeline_class = "StableDiffusionImg2ImgPipeline"

    @dataclass(frozen=True)
    class Options(DiffusersOptions):
        strength: float = 0.8
        """Noise level of the start: int(steps * strength) steps are run, one more with PNDM. With 1, almost nothing
        of the source is left on Stable Diffusion's own schedule, and nothing on one that ends in pure noise."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:text_to_image", "steps": 10, "guidance": 3.0},
    }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        return super().option_problems(options) + strength_problems(options.steps, options.strength)

    def request_fields(self) -> frozenset[str]:
        return self.needs | ({"mask"} if self.options.paste else set())

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        return self.call(requests, "target_prompt", image=sources, strength=self.options.strength)

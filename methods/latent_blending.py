"""Latent blending: SDEdit inside the mask, RePaint's conditioning outside it (Lugmayr et al., CVPR 2022).

What a practitioner has without an editor, if they have a mask. The source is noised (SDEdit, Meng et al., ICLR
2022) and denoised towards the prompt; at every step the latents outside the mask are replaced by the source's
at the very level of noise that the step has reached, clean ones after the last. RePaint's algorithm 1, in
the latents of Stable Diffusion instead of pixels.

=====================  ============================================================================
RePaint                here
=====================  ============================================================================
x_0, m (1 = known)     ``z_source``, 1 - ``mask``
x^known, x^unknown     ``known``, ``z`` after the step (equations 8a and 8b)
jump length j          ``jump_length``
resampling r           ``resamplings``
=====================  ============================================================================

``sdedit`` is its sibling without the mask.
"""

from __future__ import annotations

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


class LatentBlending(EditMethod):
    summary = "SDEdit inside the mask, the source's latents outside it at every step (RePaint-style)"
    needs: frozenset[str] = frozenset({"source", "mask", "target_prompt"})
    native_size: int | None = 512

    @dataclass(frozen=True)
    class Options:
        weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        """``owner/name`` of the hub, a folder in diffusers' layout, or ``zoo:NAME``."""
        revision: str | None = None
        """Commit, tag or branch on the hub; None is the pinned commit of the known checkpoints."""
        steps: int = 50
        """Of the whole grid; int(steps * strength) of them are run."""
        guidance: float = 7.5
        """Scale of classifier-free guidance; 1 switches it off."""
        strength: float = 0.8
        """How far the source is noised: 1 starts at the noisiest step."""
        eta: float = 0.0
        """0: DDIM; 1: DDPM, as RePaint's own sampling."""
        resamplings: int = 1
        """How often each stretch of ``jump_length`` steps is run, RePaint's r; 1: once, no jumps back."""
        jump_length: int = 10
        """Steps that each jump back covers, RePaint's j."""
        negative_prompt: str = ""
        prompt_field: Literal["target_prompt", "region_prompt"] = "target_prompt"
        mask_cells: latents.MaskCells = "rescue"
        """``rescue`` takes the middle pixel of each cell of the latent grid, and the cells of parts that this
        would miss; ``cover`` makes every cell editable that the mask touches."""
        paste: bool = False
        """Paste the result into the source along the mask. Off: the raw output; both are scored."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:text_to_image",
            "steps": 10,
            "guidance": 4.0,
            "strength": 0.9,
            "mask_cells": "cover",
        },
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
            found.append(
                f"steps {options.steps} at strength {options.strength} leave no step to run: "
                f"raise steps to at least {-int(-1 / options.strength // 1)}"
            )
        if options.guidance < 1:
            found.append(f"guidance {options.guidance}: expected at least 1, which switches it off")
        if options.negative_prompt and options.guidance == 1:
            found.append("negative_prompt has no effect at guidance 1")
        if not 0 <= options.eta <= 1:
            found.append(f"eta {options.eta}: expected 0 to 1")
        if options.resamplings < 1 or options.jump_length < 1:
            found.append(
                f"resamplings {options.resamplings} and jump_length {options.jump_length}: expected at least 1 each"
            )
        return found + latents.problems(options.weights, options.revision, options.steps)

    def __init__(self, options: Options, runtime: Runtime) -> None:
        found = self.problems(options) + pipelines.runtime_problems(runtime)
        if found:
            raise ValueError("latent_blending: " + "; ".join(found))
        self.options = options
        where = weights.find(options.weights, options.revision)
        self.factor = where.vae_factor
        self.native_size = where.native_size
        self.needs = frozenset({"source", "mask", options.prompt_field})
        self.pipeline = pipelines.load_pipeline("StableDiffusionPipeline", where, runtime)
        self.schedule = latents.Schedule(self.pipeline.scheduler)

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Sources and masks of one size, sides multiples of the autoencoder's factor."""
        import torch

        if not requests:
            return []
        pipelines.one_size(requests, self.factor)
        sources = [request.source.convert("RGB") for request in requests]
        with torch.no_grad():
            edited = latents.pictures(latents.decode(self.pipeline.vae, self._sample(requests, sources)))
        if self.options.paste:
            edited = [
                images.paste_back(source, result, request.mask)
                for source, result, request in zip(sources, edited, requests, strict=True)
            ]
        return edited

    def _sample(self, requests: Sequence[EditRequest], sources: Sequence[Image]) -> Tensor:
        """The latents of the results, float32 (B, 4, h, w)."""
        options, schedule, device = self.options, self.schedule, self.pipeline.device
        texts = pipelines.prompts(requests, options.prompt_field)
        mask = latents.masks(requests, self.factor, options.mask_cells, device)
        z_source = latents.encode(self.pipeline.vae, latents.pixels(sources, device))
        generators = pipelines.generators(requests)
        predict = latents.Guided(self.pipeline, texts, options.negative_prompt, options.guidance)

        def fresh() -> Tensor:
            return latents.noise(z_source, generators)

        grid = schedule.grid(options.steps)[-int(options.steps * options.strength) :]
        walk = jumps(len(grid), options.jump_length, options.resamplings)
        # Level k has k + 1 steps left; level -1 is clean.
        levels = [grid[-1 - k] if k >= 0 else latents.CLEAN for k in walk]
        z = schedule.noised(z_source, fresh(), levels[0])
        for (here, there), (t, s) in zip(pairwise(walk), pairwise(levels), strict=True):
            if there > here:
                z = schedule.renoised(z, fresh(), t, s)
                continue
            z = schedule.step(predict(z, t), z, t, s, options.eta, fresh() if options.eta > 0 else None)
            known = schedule.noised(z_source, fresh(), s)
            z = z * mask + known * (1 - mask)
        return z


def jumps(steps: int, length: int, times: int) -> list[int]:
    """The levels that a run with resampling visits, from ``steps`` - 1 down to -1 (clean).

    RePaint's schedule: whenever a level that is a multiple of ``length`` is reached, and the jump stays below the
    first level, the run goes back up by ``length`` levels at once, ``times`` - 1 times for each such level.
    (One jump of ``length`` levels has the distribution of RePaint's ``length`` single ones.)
    """
    left = dict.fromkeys(range(0, steps - length, length), times - 1)
    walk = [steps - 1]
    while walk[-1] >= 0:
        level = walk[-1]
        if left.get(level, 0) > 0:
            left[level] -= 1
            walk.append(level + length)
        else:
            walk.append(level - 1)
    return walk

"""Latent blending: SDEdit inside the mask, RePaint's conditioning outside it (Lugmayr et al., CVPR 2022).

It is the baseline with a mask and without an editor. The source is noised (SDEdit, Meng et al., ICLR
2022) and denoised towards the prompt. At every step the latents outside the mask are replaced by the source's at the
noise level that the step has reached, and by clean ones after the last step. This is RePaint's algorithm 1, in the
latents of Stable Diffusion instead of pixels.

=====================  ============================================================================
RePaint                here
=====================  ============================================================================
x_0, m (1 = known)     ``z_source``, 1 - ``mask``
x^known, x^unknown     ``z_outside``, ``z`` after the step (equations 8a and 8b)
jump length j          ``jump_length``
resampling r           ``resamplings``
=====================  ============================================================================

``sdedit`` is the same without the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from methods import latents
from methods.diffusion.base import BlendingMethod, BlendingOptions, strength_problems

if TYPE_CHECKING:
    from torch import Tensor

    from bench.edit import Runtime


class LatentBlending(BlendingMethod):
    name = "latent_blending"
    summary = "SDEdit inside the mask, the source's latents outside it at every step (RePaint-style)"

    @dataclass(frozen=True)
    class Options(BlendingOptions):
        strength: float = 0.8
        """Noise level of the start: int(steps * strength) steps are run. 1 starts at the noisiest step."""
        eta: float = 0.0
        """0 is DDIM. 1 is DDPM, as in RePaint's own sampling."""
        resamplings: int = 1
        """Runs of each stretch of ``jump_length`` steps, RePaint's r. 1 makes no jumps back."""
        jump_length: int = 10
        """Steps that each jump back covers, RePaint's j."""
        paste: bool = False
        """Composite the result with the source outside the mask. Off: the raw output. Both are scored."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {
        "mini": {
            "weights": "zoo:text_to_image",
            "steps": 10,
            "guidance": 4.0,
            "strength": 0.9,
            "mask_cells": "cover",
        },
        # RePaint's own sampling, in latents and with a text.
        "repaint_latents": {
            "steps": 250,
            "strength": 1.0,
            "eta": 1.0,
            "resamplings": 10,
            "jump_length": 10,
        },
        "mini_repaint_latents": {
            "weights": "zoo:text_to_image",
            "steps": 10,
            "guidance": 4.0,
            "strength": 1.0,
            "eta": 1.0,
            "resamplings": 4,
            "jump_length": 2,
            "mask_cells": "cover",
        },
    }

    @classmethod
    def option_problems(cls, options: Options) -> list[str]:
        problems = super().option_problems(options) + strength_problems(options.steps, options.strength)
        if not 0 <= options.eta <= 1:
            problems.append(f"eta {options.eta}: expected 0 to 1")
        if options.resamplings < 1 or options.jump_length < 1:
            problems.append(
                f"resamplings {options.resamplings} and jump_length {options.jump_length}: expected at least 1 each"
            )
        return problems

    def __init__(self, options: Options, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.schedule = latents.NoiseSchedule(self.pipeline.scheduler)

    def blend(
        self, predict: latents.GuidedUNet, z_source: Tensor, mask: Tensor, fresh_noise: latents.NoiseSource
    ) -> Tensor:
        options, schedule = self.options, self.schedule

        # The order in which noise levels are visited. Index k of the walk has k + 1 steps left. -1 is clean.
        # The least noisy part of the grid, as in SDEdit: the noisiest steps would forget the source.
        grid = schedule.grid(options.steps)[-int(options.steps * options.strength) :]
        walk = jumps(len(grid), options.jump_length, options.resamplings)
        timesteps = [grid[-1 - k] if k >= 0 else latents.CLEAN for k in walk]

        z = schedule.noised(z_source, fresh_noise(), timesteps[0])
        for (k, k_next), (t, t_next) in zip(pairwise(walk), pairwise(timesteps), strict=True):
            if k_next > k:
                # A jump back up: the sample is noised again (RePaint, algorithm 1, line 10).
                z = schedule.renoised(z, fresh_noise(), t, t_next)
                continue
            eps = fresh_noise() if options.eta > 0 else None
            z = schedule.step(predict(z, t), z, t, t_next, options.eta, eps)
            # Equation 8: the sample inside the mask, the source at the level just reached outside.
            z_outside = schedule.noised(z_source, fresh_noise(), t_next)
            z = z * mask + z_outside * (1 - mask)
        return z


def jumps(steps: int, length: int, times: int) -> list[int]:
    """The levels that a run with resampling visits, from ``steps`` - 1 down to -1 (clean).

    This is RePaint's schedule. Whenever the run reaches a level that is a multiple of ``length``, and the jump stays
    below the first level, it goes back up by ``length`` levels at once, ``times`` - 1 times for each such level.
    """
    # One jump of ``length`` levels has the distribution of RePaint's ``length`` single ones.
    jumps_left = dict.fromkeys(range(0, steps - length, length), times - 1)
    walk = [steps - 1]
    while walk[-1] >= 0:
        level = walk[-1]
        if jumps_left.get(level, 0) > 0:
            jumps_left[level] -= 1
            walk.append(level + length)
        else:
            walk.append(level - 1)
    return walk

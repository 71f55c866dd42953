"""Algorithm 1 of Lugmayr et al. 2022, on a model with learnt or fixed variances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.blended_diffusion import adm
from methods.blended_diffusion.schedule import ReverseProcess

# Each call draws fresh standard normal noise, float32 (B, 3, H, W).
NoiseSource = Callable[[], Tensor]


@dataclass(frozen=True)
class Model:
    """The network and its reverse process."""

    unet: Any
    process: ReverseProcess
    learnt_variance: bool
    # The fixed variance: that of the process q (True) or that of its posterior.
    large_variance: bool = False

    def step(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the step from level ``k`` to the one below, float32 (B, 3, H, W)."""
        process = self.process
        timestep = torch.full((len(x),), int(process.timesteps[k]), device=x.device)
        if self.learnt_variance:
            output, variance = adm.predict(self.unet, x, timestep)
        else:
            patch = math.isqrt(self.unet.config["in_channels"] // 3)
            pixels = F.pixel_unshuffle(x.to(self.unet.dtype), patch)
            output = F.pixel_shuffle(self.unet(pixels, timestep).sample.float(), patch)
            # The ends of the range of a learnt variance: 1 is beta, -1 the variance of the posterior.
            variance = torch.full_like(x, 1.0 if self.large_variance else -1.0)
        predicted = process.prediction_of(output, variance, x, k)
        # Clean images have pixels in [-1, 1], so that a bad prediction at high noise does no lasting harm.
        clean = predicted.x0.clamp(-1, 1)
        mean = float(process.from_x0[k]) * clean + float(process.from_x[k]) * x
        return mean, (0.5 * predicted.log_variance).exp()


def repaint(
    model: Model, source: Tensor, mask: Tensor, walk: Sequence[int], fresh_noise: NoiseSource
) -> Tensor:
    """The source (B, 3, H, W) in [-1, 1], filled where ``mask`` (B, 1, H, W) is 1. Elsewhere it stays exactly.

    ``walk`` is the order in which levels are visited, from the noisiest to -1, the clean image.
    """
    process = model.process
    x = fresh_noise()
    for k, k_next in pairwise(walk):
        if k_next > k:
            # Line 10: back to a noisier level. One jump has the distribution of as many single ones.
            ratio = float(process.alpha_bar[k_next] / process.alpha_bar[k])
            x = ratio**0.5 * x + (1 - ratio) ** 0.5 * fresh_noise()
            continue
        # Lines 4 to 7. The last step is without noise.
        mean, deviation = model.step(x, k)
        x_unknown = mean if k == 0 else mean + deviation * fresh_noise()
        x_known = process.noised(source, k_next, fresh_noise())
        x = x_unknown * mask + x_known * (1 - mask)
    return x

"""Algorithm 2 of Avrahami et al. 2022: guided steps of the reverse process, each followed by a blend.

Every image has random numbers of its own, drawn from its request's generator on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from methods.blended_diffusion.adm import predict
from methods.blended_diffusion.augment import DRAWS
from methods.blended_diffusion.schedule import Moments, Schedule

if TYPE_CHECKING:
    from diffusers import UNet2DModel

    from methods.blended_diffusion.guidance import Guidance

Sampler = Literal["ddpm", "ddim"]


@dataclass(frozen=True)
class Settings:
    """How a pass is run; what of it the pixels depend on."""

    skip: int = 25
    """Steps left out at the noisy end."""
    augmentations: int = 8
    """Views that the CLIP distance is averaged over, the plain one included."""
    sampler: Sampler = "ddpm"
    blending: bool = True
    faithful: bool = True


class Noise:
    """Random numbers for ``candidates`` images of each of several requests, one generator per request.

    Images are ordered request by request. Tensors are drawn on the CPU and moved, so they do not depend on the
    device.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], candidates: int, device: torch.device | str
    ) -> None:
        self.generators, self.candidates, self.device = list(generators), candidates, device

    def normal(self, *shape: int, shared: bool = False) -> Tensor:
        """float32 (requests * candidates, *shape); ``shared``: the candidates of a request get the same."""
        drawn = [
            torch.randn((1 if shared else self.candidates, *shape), generator=g).expand(
                self.candidates, *shape
            )
            for g in self.generators
        ]
        return torch.cat(drawn).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """float32 (requests * candidates, *shape), on the CPU."""
        return torch.cat([torch.rand((self.candidates, *shape), generator=g) for g in self.generators])


def sample(
    unet: UNet2DModel,
    schedule: Schedule,
    guidance: Guidance,
    noise: Noise,
    settings: Settings,
) -> Tensor:
    """One pass: float32 (B, 3, H, W), nominally in [-1, 1], neither clipped nor pasted."""
    source, mask = guidance.source, guidance.mask
    shape = tuple(source.shape[1:])
    first = schedule.steps - settings.skip - 1
    x = schedule.noised(source, first, noise.normal(*shape))
    result = x
    for t in range(first, -1, -1):
        # Quirk 3, output: with DDPM, neither guidance nor blend of the last step reaches the result.
        idle = t == 0 and settings.faithful and settings.sampler == "ddpm"
        skip = idle or not guidance.weighting.guides
        moments, gradient = guided(unet, schedule, guidance, noise, settings, x, t, skip)
        if settings.sampler == "ddpm":
            x, x0 = ddpm_step(moments, gradient, noise, t), moments.x0
        else:
            x, x0 = ddim_step(schedule, moments, gradient, x, t)
        if settings.blending:
            x = blend(schedule, x, source, mask, noise, t, settings.faithful)
        result = x0 if settings.faithful else x
    return result


def guided(
    unet: UNet2DModel, schedule: Schedule, guidance: Guidance, noise: Noise, settings: Settings, x: Tensor,
    t: int, skip: bool = False,
) -> tuple[Moments, Tensor]:  # fmt: skip
    """The unguided moments of the step at ``t``, and g, the negative gradient of the loss there: (B, 3, H, W).

    The original runs the network twice on the same input, for the step and for the guidance; once is the same.
    ``skip``: g is 0.
    """
    if skip:
        with torch.no_grad():
            return _moments(unet, schedule, x, t), torch.zeros_like(x)
    draws = noise.uniform(settings.augmentations - 1, DRAWS)
    # Quirk 8, guidance index.
    index = schedule.rounded_index(t) if settings.faithful else t
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        seen = _moments(unet, schedule, x, index)
        loss = guidance.loss(seen.x0, x, schedule.sigma(index), draws)
        (gradient,) = torch.autograd.grad(loss, x)
    if index != t:
        with torch.no_grad():
            seen = _moments(unet, schedule, x, t)
    return Moments(seen.mean.detach(), seen.log_variance.detach(), seen.x0.detach()), -gradient


def _moments(unet: UNet2DModel, schedule: Schedule, x: Tensor, t: int) -> Moments:
    timestep = torch.full((len(x),), int(schedule.timesteps[t]), device=x.device)
    return schedule.moments(*predict(unet, x, timestep), x, t)


def ddpm_step(moments: Moments, gradient: Tensor, noise: Noise, t: int) -> Tensor:
    """The sample at t - 1: mean + σ² g + σ z, no z in the last step (Dhariwal and Nichol 2021, algorithm 1)."""
    mean = moments.mean + moments.log_variance.exp() * gradient
    if t == 0:
        return mean
    return mean + (0.5 * moments.log_variance).exp() * noise.normal(*mean.shape[1:])


def ddim_step(
    schedule: Schedule, moments: Moments, gradient: Tensor, x: Tensor, t: int
) -> tuple[Tensor, Tensor]:
    """(x at t - 1, guided x̂_0), deterministic: ε̂ = ε - √(1 - ᾱ) g (Dhariwal and Nichol 2021, algorithm 2)."""
    epsilon = schedule.epsilon(moments.x0, x, t) - schedule.sigma(t) * gradient
    x0 = schedule.x0(epsilon, x, t)
    before = float(schedule.alpha_bar_before[t])
    return before**0.5 * x0 + (1 - before) ** 0.5 * epsilon, x0


def blend(
    schedule: Schedule, x: Tensor, source: Tensor, mask: Tensor, noise: Noise, t: int, faithful: bool
) -> Tensor:
    """``x``, just taken to t - 1, inside the mask; the noised source outside."""
    # Quirks 1, background level, and 2, background noise.
    level = t if faithful else t - 1
    background = schedule.noised(source, level, noise.normal(*source.shape[1:], shared=faithful))
    return x * mask + background * (1 - mask)

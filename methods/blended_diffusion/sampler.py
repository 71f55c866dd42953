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
from methods.blended_diffusion.schedule import ReverseProcess, StepPrediction

if TYPE_CHECKING:
    from diffusers import UNet2DModel

    from methods.blended_diffusion.guidance import Guidance

Sampler = Literal["ddpm", "ddim"]


@dataclass(frozen=True)
class BlendedSettings:
    """The options of a pass that its pixels depend on."""

    # Steps left out at the noisy end.
    skip: int = 25
    # Number of views that the CLIP distance is averaged over, the plain one included.
    augmentations: int = 8
    sampler: Sampler = "ddpm"
    blending: bool = True
    faithful: bool = True


class Noise:
    """Random numbers for ``candidates`` images of each of several requests, one generator per request.

    Images are ordered request by request.
    """

    # Tensors are drawn on the CPU and moved, so that they do not depend on the device.

    def __init__(
        self, generators: Sequence[torch.Generator], candidates: int, device: torch.device | str
    ) -> None:
        self.generators, self.candidates, self.device = list(generators), candidates, device

    def normal(self, *shape: int, shared: bool = False) -> Tensor:
        """float32 (requests * candidates, *shape). ``shared``: the candidates of a request get the same."""
        rows = [
            torch.randn((1 if shared else self.candidates, *shape), generator=g).expand(
                self.candidates, *shape
            )
            for g in self.generators
        ]
        return torch.cat(rows).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """float32 (requests * candidates, *shape), on the CPU."""
        return torch.cat([torch.rand((self.candidates, *shape), generator=g) for g in self.generators])


def sample(
    unet: UNet2DModel,
    schedule: ReverseProcess,
    guidance: Guidance,
    noise: Noise,
    settings: BlendedSettings,
) -> Tensor:
    """One pass => float32 (B, 3, H, W), nominally in [-1, 1], neither clipped nor composited."""
    source, mask = guidance.source, guidance.mask
    shape = tuple(source.shape[1:])

    # Algorithm 2 starts from the noised source.
    # Index of the noisiest step that is run. Index 0 is the least noisy.
    first = schedule.steps - settings.skip - 1
    x = schedule.noised(source, first, noise.normal(*shape))
    result = x
    for t in range(first, -1, -1):
        # Quirk 3, output: with DDPM, neither guidance nor blend of the last step reaches the result.
        idle = t == 0 and settings.faithful and settings.sampler == "ddpm"
        skip = idle or not guidance.weighting.guides
        predicted, gradient = guided(unet, schedule, guidance, noise, settings, x, t, skip)
        if settings.sampler == "ddpm":
            x, x0 = ddpm_step(predicted, gradient, noise, t), predicted.x0
        else:
            x, x0 = ddim_step(schedule, predicted, gradient, x, t)
        if settings.blending:
            x = blend(schedule, x, source, mask, noise, t, settings.faithful)
        result = x0 if settings.faithful else x
    return result


def guided(
    unet: UNet2DModel, schedule: ReverseProcess, guidance: Guidance, noise: Noise, settings: BlendedSettings, x: Tensor,
    t: int, skip: bool = False,
) -> tuple[StepPrediction, Tensor]:  # fmt: skip
    """The unguided prediction of the step at ``t``, and g, the negative gradient of the loss there: (B, 3, H, W).

    ``skip``: g is 0.
    """
    if skip:
        with torch.no_grad():
            return _predict(unet, schedule, x, t), torch.zeros_like(x)
    draws = noise.uniform(settings.augmentations - 1, DRAWS)
    # Quirk 8, guidance index. The original runs the network twice on the same input, for the step and for the
    # guidance. Where both have the same index, once is the same.
    index = schedule.rounded_index(t) if settings.faithful else t
    with torch.enable_grad():
        # A new leaf at each step: no graph may reach back to earlier ones.
        x = x.detach().requires_grad_()
        predicted = _predict(unet, schedule, x, index)
        # The gradient flows through the network too, since x0 depends on x by its prediction.
        loss = guidance.loss(predicted.x0, x, schedule.sigma(index), draws)
        (gradient,) = torch.autograd.grad(loss, x)
    if index != t:
        with torch.no_grad():
            predicted = _predict(unet, schedule, x, t)
    # Otherwise the next step would keep this step's graph in memory.
    detached = StepPrediction(predicted.mean.detach(), predicted.log_variance.detach(), predicted.x0.detach())
    return detached, -gradient


def _predict(unet: UNet2DModel, schedule: ReverseProcess, x: Tensor, t: int) -> StepPrediction:
    timestep = torch.full((len(x),), int(schedule.timesteps[t]), device=x.device)
    return schedule.prediction_of(*predict(unet, x, timestep), x, t)


def ddpm_step(predicted: StepPrediction, gradient: Tensor, noise: Noise, t: int) -> Tensor:
    """The sample at t - 1 (Dhariwal and Nichol 2021, algorithm 1)."""
    # mean + σ² g + σ z, without z in the last step
    mean = predicted.mean + predicted.log_variance.exp() * gradient
    if t == 0:
        return mean
    return mean + (0.5 * predicted.log_variance).exp() * noise.normal(*mean.shape[1:])


def ddim_step(
    schedule: ReverseProcess, predicted: StepPrediction, gradient: Tensor, x: Tensor, t: int
) -> tuple[Tensor, Tensor]:
    """(x at t - 1, guided x̂_0), deterministic (Dhariwal and Nichol 2021, algorithm 2)."""
    # ε̂ = ε - √(1 - ᾱ) g
    epsilon = schedule.epsilon(predicted.x0, x, t) - schedule.sigma(t) * gradient
    x0 = schedule.x0(epsilon, x, t)
    before = float(schedule.alpha_bar_before[t])
    return before**0.5 * x0 + (1 - before) ** 0.5 * epsilon, x0


def blend(
    schedule: ReverseProcess, x: Tensor, source: Tensor, mask: Tensor, noise: Noise, t: int, faithful: bool
) -> Tensor:
    """``x``, just brought to t - 1, inside the mask, and the noised source outside."""
    # Quirks 1, background level, and 2, background noise.
    level = t if faithful else t - 1
    # At level -1 `noised` gives the source itself.
    background = schedule.noised(source, level, noise.normal(*source.shape[1:], shared=faithful))
    return x * mask + background * (1 - mask)

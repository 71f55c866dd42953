"""The sampler: a respaced process with a learned variance, which puts the visible pixels back at every step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.glide.schedule import RespacedSchedule
from methods.glide.unet import GlideUNet, TextFeatures

# x_t float32 (B, 3, S, S) and t int64 (B,), an index in the whole process => float (B, 6, S, S): eps, variance.
Network = Callable[[Tensor, Tensor], Tensor]

# The next standard normal tensor, float32 (B, 3, S, S).
Noise = Callable[[], Tensor]


class Diffusion:
    """The factors of a schedule as float32 tensors (N,), computed in float64."""

    def __init__(self, schedule: RespacedSchedule, device: str | torch.device = "cpu") -> None:
        def column(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values).to(torch.float32).to(device)

        # The network was trained on indices of the whole process of 1000 steps, so it gets these, not positions.
        self.timesteps = torch.from_numpy(schedule.timesteps).to(device)
        self.alphas_bar = column(schedule.alphas_bar)
        # x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps: Ho et al. (2020), equation 4.
        self.signal, self.sigma = (
            column(np.sqrt(schedule.alphas_bar)),
            column(np.sqrt(1 - schedule.alphas_bar)),
        )
        self.of_x, self.of_eps = map(column, schedule.recover)
        self.mean_of_x0, self.mean_of_x = map(column, schedule.posterior_mean)
        self.log_least, self.log_most = map(column, schedule.log_variance_range)

    def __len__(self) -> int:
        return len(self.timesteps)

    def noised(self, x0: Tensor, eps: Tensor, step: Tensor) -> Tensor:
        """A sample x_t of q(x_t | x_0). ``step`` int64 (B,): positions in this schedule, not in the whole process."""
        return self.at(self.signal, step) * x0 + self.at(self.sigma, step) * eps

    @staticmethod
    def at(factors: Tensor, step: Tensor) -> Tensor:
        """Factors (N,) and positions int64 (B,) => (B, 1, 1, 1)."""
        return factors[step].view(-1, 1, 1, 1)

    def log_variance(self, learned: Tensor, step: Tensor) -> Tensor:
        """The network's v in [-1, 1] => the log variance it stands for, float32 of the same shape."""
        # Nichol and Dhariwal (2021), equation 15.
        share = (learned + 1) / 2
        return share * self.at(self.log_most, step) + (1 - share) * self.at(self.log_least, step)

    @torch.no_grad()
    def sample(self, network: Network, x: Tensor, noise: Noise, image: Tensor, visible: Tensor) -> Tensor:
        """From noise ``x`` to an image, float32 (B, 3, S, S) in [-1, 1].

        Where ``visible`` (B, 1, S, S) is 1, the result is ``image`` (B, 3, S, S) in [-1, 1], exact as uint8.
        """
        # Positions ascend in noise, so sampling runs backwards through them.
        for position in reversed(range(len(self))):
            step = torch.full((x.shape[0],), position, dtype=torch.int64, device=x.device)
            eps, learned = network(x, self.timesteps[step]).float().chunk(2, dim=1)
            # The predicted clean image, with the visible pixels put back before the clamp.
            x0 = self.at(self.of_x, step) * x - self.at(self.of_eps, step) * eps
            x0 = (x0 * (1 - visible) + image * visible).clamp(-1, 1)
            # The mean of q(x_(t-1) | x_t, x_0), and noise but for the last step.
            x = self.at(self.mean_of_x0, step) * x0 + self.at(self.mean_of_x, step) * x
            # exp(log variance / 2) is the standard deviation.
            if position:
                x = x + (0.5 * self.log_variance(learned, step)).exp() * noise()
        return x


def conditioned(
    model: GlideUNet,
    text: TextFeatures,
    image: Tensor,
    visible: Tensor,
    low_res: Tensor | None = None,
) -> Network:
    """The network with one prompt, for :meth:`Diffusion.sample`."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = model(x, t, text, image, visible, low_res)
        return out

    return network


def guided(
    model: GlideUNet,
    text: TextFeatures,
    no_text: TextFeatures,
    image: Tensor,
    visible: Tensor,
    guidance: float,
) -> Network:
    """Classifier-free guidance of the base (Nichol et al. 2022, section 2.3). Both texts run in one batch."""
    # Once, before the loop: the prompts are the same at every step.
    both = TextFeatures(*(torch.cat(pair) for pair in zip(text, no_text, strict=True)))
    image, visible = torch.cat([image, image]), torch.cat([visible, visible])

    def network(x: Tensor, t: Tensor) -> Tensor:
        out = model(torch.cat([x, x]), torch.cat([t, t]), both, image, visible).float()
        # Outputs have six channels: three of eps, three of the variance.
        (eps, learned), (eps_without, _) = (half.chunk(2, dim=1) for half in out.chunk(2))
        # The variance is the conditional one, unguided, as in the published sampler.
        return torch.cat([eps_without + guidance * (eps - eps_without), learned], dim=1)

    return network


def eight_bits(x: Tensor) -> Tensor:
    """[-1, 1] => [-1, 1], rounded to the 256 values of a byte, as in the upsampler's training."""
    return ((x + 1) * 127.5).round() / 127.5 - 1

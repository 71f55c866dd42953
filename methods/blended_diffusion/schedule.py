"""The reverse process of a diffusion model with learnt variances, on a subset of its training steps.

Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021), with the spacing and the variance
parametrisation of Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021). All constants are
computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]


def linear_betas() -> NDArray[np.float64]:
    """beta_t of Ho et al. 2020, float64 (1000,): from 1e-4 to 0.02."""
    return np.linspace(1e-4, 0.02, 1000, dtype=np.float64)


def cosine_betas(count: int = 1000) -> NDArray[np.float64]:
    """beta_t of Nichol and Dhariwal 2021, equation 17, float64 (count,), none above 0.999."""
    t = np.arange(count + 1, dtype=np.float64) / count
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: NDArray[np.float64] = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return betas


def betas_of(config: Mapping[str, Any]) -> NDArray[np.float64]:
    """The betas of a scheduler's configuration in diffusers. Raises ValueError for another kind of schedule."""
    name, count = config.get("beta_schedule"), int(config.get("num_train_timesteps", 1000))
    if name == "squaredcos_cap_v2":
        return cosine_betas(count)
    if name == "linear":
        return np.linspace(config["beta_start"], config["beta_end"], count, dtype=np.float64)
    # scaled_linear, Stable Diffusion's, is for latents. No pixel model has it.
    raise ValueError(f"beta_schedule {name!r}: expected linear or squaredcos_cap_v2")


def spaced(count: int, steps: int) -> NDArray[np.int64]:
    """Indices of ``steps`` out of ``count`` training steps, evenly, first and last included. int64 (steps,)."""
    # round(i (count - 1) / (steps - 1)), half to even. The fractional stride is summed up, not multiplied, as in the
    # original.
    stride = (count - 1) / (steps - 1) if steps > 1 else 1.0
    timesteps, position = [], 0.0
    for _ in range(steps):
        timesteps.append(round(position))
        position += stride
    return np.array(timesteps, dtype=np.int64)


@dataclass
class StepPrediction:
    """The network's prediction of the step from t to t - 1. All float32 (B, 3, H, W)."""

    mean: Tensor
    log_variance: Tensor
    # The predicted clean image, not clipped.
    x0: Tensor


class ReverseProcess:
    """The reverse process on ``steps`` of the training steps. Index 0 is the least noisy.

    ``betas`` are float64, one per training step. ``prediction`` is the meaning of the network's first three channels:
    the noise, or v (Salimans and Ho 2022).
    """

    def __init__(self, betas: NDArray[np.float64], steps: int, prediction: Prediction = "epsilon") -> None:
        self.train_steps, self.steps, self.prediction = len(betas), steps, prediction
        self.timesteps = spaced(len(betas), steps)
        # Only alpha-bar is taken over from the whole process. The betas of the shorter one follow from it.
        alpha_bar = np.cumprod(1 - betas)[self.timesteps]
        before = np.append(1.0, alpha_bar[:-1])
        beta = 1 - alpha_bar / before
        self.alpha_bar, self.alpha_bar_before = alpha_bar, before

        # Both ends of the learnt variance (Nichol and Dhariwal 2021, equation 15).
        posterior = beta * (1 - before) / (1 - alpha_bar)
        # The first posterior variance is 0. The second's logarithm stands for it.
        second = posterior[1] if steps > 1 else beta[0]
        self.log_posterior = np.log(np.append(second, posterior[1:]))
        self.log_beta = np.log(beta)

        # Factors of x_0 and x_t in the posterior's mean (Ho et al. 2020, equation 7).
        self.from_x0 = beta * np.sqrt(before) / (1 - alpha_bar)
        self.from_x = (1 - before) * np.sqrt(1 - beta) / (1 - alpha_bar)

    def noised(self, x0: Tensor, t: int, noise: Tensor) -> Tensor:
        """A sample x_t of the forward process. ``t`` = -1 is no noise at all."""
        if t < 0:
            return x0
        return self._signal(t) * x0 + self.sigma(t) * noise

    def _signal(self, t: int) -> float:
        return math.sqrt(self.alpha_bar[t])

    def sigma(self, t: int) -> float:
        """Standard deviation of the noise in x_t."""
        return math.sqrt(1 - self.alpha_bar[t])

    def prediction_of(self, output: Tensor, variance: Tensor, x: Tensor, t: int) -> StepPrediction:
        """The network's two outputs (B, 3, H, W) for ``x`` at index ``t`` => mean, variance and clean image."""
        if self.prediction == "epsilon":
            x0 = self.x0(output, x, t)
        else:
            x0 = self._signal(t) * x - self.sigma(t) * output
        mean = float(self.from_x0[t]) * x0 + float(self.from_x[t]) * x
        # log variance = f log beta + (1 - f) log posterior variance
        # The network's output is in [-1, 1], not clipped: it may go a little beyond the range, as in the original.
        f = (variance + 1) / 2
        log_variance = f * float(self.log_beta[t]) + (1 - f) * float(self.log_posterior[t])
        return StepPrediction(mean, log_variance, x0)

    def epsilon(self, x0: Tensor, x: Tensor, t: int) -> Tensor:
        """The noise in ``x`` if its clean image is ``x0``."""
        return (x - self._signal(t) * x0) / self.sigma(t)

    def x0(self, epsilon: Tensor, x: Tensor, t: int) -> Tensor:
        """The clean image of ``x`` if the noise in it is ``epsilon``."""
        return (x - self.sigma(t) * epsilon) / self._signal(t)

    def rounded_index(self, t: int) -> int:
        """The index that the original computes for ``t`` from the network's timestep."""
        # floor(timestep * N / 1000) in float32, as there: for 150 steps the precision makes the difference.
        timestep = np.float32(self.timesteps[t])
        return int(timestep * np.float32(self.steps / self.train_steps))

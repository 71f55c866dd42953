"""The hybrid loss that learns eps and the variance together (Nichol and Dhariwal, ICML 2021, section 3.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from methods.glide.diffusion import Diffusion


class HybridLoss(NamedTuple):
    """The two scalars whose sum is the loss."""

    # L_simple.
    simple: Tensor
    # The term of L_vlb, with its weight.
    bound: Tensor


def hybrid(
    out: Tensor, x0: Tensor, x: Tensor, eps: Tensor, step: Tensor, process: Diffusion, weight: Tensor
) -> HybridLoss:
    """L_simple, and lambda L_vlb at one step of each example (equation 16).

    ``out`` float (B, 6, S, S) is the network's output for ``x``, which is ``x0`` with noise ``eps`` at ``step``, int64
    (B,), of the whole ``process``. ``weight`` float (B, 1, S, S) multiplies every pixel's terms.
    """
    # With lambda = 0.001 and 1000 steps, the expected L_vlb (a sum over the steps) times lambda is the expected term
    # of a random step, in nats per value. So no factor is left.
    # float32 also under autocast: exponentials of log variances leave half precision's range.
    predicted, learned = out.float().chunk(2, dim=1)

    # L_simple: the squared error of eps.
    simple = weight * (predicted - eps) ** 2

    # L_vlb teaches the variance alone: the gradient stops at the mean.
    log_variance = process.log_variance(learned, step)
    fixed_eps = predicted.detach()
    # mu~ - mu_theta: both are linear in x_0, and x_0 is linear in eps, so nothing large is subtracted.
    off = process.at(process.mean_of_x0 * process.of_eps, step) * (fixed_eps - eps)
    # q(x_(t-1) | x_t, x_0) has the variance beta~, the lower end of the learned range.
    kl = gaussian_kl(off, process.at(process.log_least, step), log_variance)
    mean = (
        process.at(process.mean_of_x0, step)
        * (process.at(process.of_x, step) * x - process.at(process.of_eps, step) * fixed_eps)
        + process.at(process.mean_of_x, step) * x
    )

    # The last step of sampling decodes to bytes (Ho et al. 2020, equation 13).
    first = (step == 0).view(-1, 1, 1, 1)
    bound = weight * torch.where(first, -byte_log_likelihood(x0, mean, log_variance), kl)
    return HybridLoss(simple.mean(), bound.mean())


def gaussian_kl(off: Tensor, log_variance_q: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(q || p) in nats of normal distributions whose means differ by ``off``, elementwise."""
    return 0.5 * (
        log_variance_p
        - log_variance_q
        - 1
        + (log_variance_q - log_variance_p).exp()
        + off**2 * (-log_variance_p).exp()
    )


def byte_log_likelihood(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log of the mass that a normal distribution puts on the byte of ``x0`` in [-1, 1] (Ho et al. 2020, equation 13).

    The first and the last byte take the tails. A mass below 1e-12 counts as 1e-12.
    """
    scale = (-0.5 * log_variance).exp() / math.sqrt(2)
    # Levels of a byte are 2 / 255 apart in [-1, 1]: each owns half a step on either side.
    half = 1 / 255
    # P(lower < X < upper) = (erfc(lower) - erfc(upper)) / 2. The mass is computed from the nearer tail, so that it
    # keeps its digits far from the mean: on the left of the mean, both limits are mirrored.
    lower, upper = (x0 - mean - half) * scale, (x0 - mean + half) * scale
    lower = torch.where(x0 < -1 + half, torch.full_like(lower, -math.inf), lower)
    upper = torch.where(x0 > 1 - half, torch.full_like(upper, math.inf), upper)
    # erfc keeps its digits for large positive arguments. For large negative ones it is 2, and a difference of two
    # such values is 0.
    below = x0 < mean
    near, far = torch.where(below, -upper, lower), torch.where(below, -lower, upper)
    mass: Tensor = (torch.special.erfc(near) - torch.special.erfc(far)) / 2
    return mass.clamp(min=1e-12).log()


def normalized(weight: Tensor) -> Tensor:
    """Weights (B, 1, S, S) scaled to a mean of 1 per example, so that small and large regions count alike."""
    return weight / weight.mean(dim=(1, 2, 3), keepdim=True)

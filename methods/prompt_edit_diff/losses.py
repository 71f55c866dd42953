"""The training objective (paper, section 2.F): denoising inside the mask, reconstruction of the source outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]


def objective(
    predict: Callable[[Tensor, Tensor], Tensor],
    source: Tensor,
    target: Tensor,
    cells: Tensor,
    alpha_bars: Tensor,
    prediction: Prediction,
    generator: torch.Generator,
    outside: float = 0.1,
    area_power: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise one batch, predict, and compare: the scalars of :func:`edit_loss`.

    ``predict(x_t, t)`` is the network. ``source`` and ``target`` are scaled latents (B, 4, h, w), ``cells``
    (B, 1, h, w) is 1 where the edit is, and ``alpha_bars`` (T,) is the noise schedule.
    """
    # Outside the edit the network learns the source, whatever the target shows there.
    x0 = composed(target, source, cells)
    t = torch.randint(0, len(alpha_bars), (len(x0),), generator=generator, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    alpha_bar = alpha_bars.to(x0.device)[t]
    predicted = predict(noised(x0, noise, alpha_bar), t)
    return edit_loss(predicted, x0, noise, alpha_bar, cells, prediction, outside, area_power)


def noised(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """q_sample: sqrt(a) x0 + sqrt(1 - a) noise, for ``alpha_bar`` (B,)."""
    signal, sigma = _scales(alpha_bar, x0)
    return signal * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """The quantity that the network predicts: the noise, or v = sqrt(a) noise - sqrt(1 - a) x0."""
    # epsilon: Ho et al. 2020. v: Salimans and Ho 2022, appendix D.
    if prediction == "epsilon":
        return noise
    signal, sigma = _scales(alpha_bar, x0)
    return signal * noise - sigma * x0


def edit_loss(
    predicted: Tensor,
    x0: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    cells: Tensor,
    prediction: Prediction,
    outside: float = 0.1,
    area_power: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, denoising term, reconstruction term), with loss = denoising + ``outside`` * reconstruction.

    Tensors (B, C, h, w). ``cells`` (B, 1, h, w) is 1 where the edit is. ``alpha_bar`` (B,).

    ``area_power`` weighs each example's cells by area ** -area_power. At 0 every cell counts alike, so an earring
    hardly counts beside a background. At 1 every edit counts alike, and small edits add their noise. The default
    lies between them.
    """
    error = (predicted.float() - target(x0, noise, alpha_bar, prediction).float()) ** 2
    a = alpha_bar.view(-1, 1, 1, 1).float()
    cells = cells.float()

    # Denoising: weighted mean of the squared error of the prediction inside.
    area = cells.sum((1, 2, 3), keepdim=True).clamp(min=1)
    weight = cells * area**-area_power
    denoising = (error * weight).sum() / (weight.sum() * error.shape[1]).clamp(min=1e-6)

    # Reconstruction: squared error outside between x0 and the x0 that the prediction implies. For v it is (1 - a)
    # times the error of v. For noise it is (1 - a) / a times the error, which has no bound as a goes to 0, so it is
    # weighted by min(1, a / (1 - a)), the signal-to-noise ratio (Hang et al. 2023).
    scale = 1 - a if prediction == "v_prediction" else ((1 - a) / a.clamp(min=1e-8)).clamp(max=1)
    rest = 1 - cells
    reconstruction = (error * scale * rest).sum() / (rest.sum() * error.shape[1]).clamp(min=1e-6)
    return denoising + outside * reconstruction, denoising, reconstruction


def _scales(alpha_bar: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a) and sqrt(1 - a), (B, 1, 1, 1), in the element type of ``x``."""
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)


def composed(edited: Tensor, source: Tensor, cells: Tensor) -> Tensor:
    """Latents of ``edited`` where ``cells`` is 1, and of ``source`` elsewhere. The sampler ends in this."""
    return torch.where(cells > 0.5, edited, source)

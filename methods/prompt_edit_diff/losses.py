"""The training objective: denoising where the edit is, reconstruction of the source where it is not."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]


def noised(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """q_sample: sqrt(a) x0 + sqrt(1 - a) noise, for ``alpha_bar`` (B,)."""
    signal, sigma = _scales(alpha_bar, x0)
    return signal * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """What the network is to predict: the noise, or v = sqrt(a) noise - sqrt(1 - a) x0."""
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
    """(loss, denoising term, reconstruction term); the loss is the first term plus ``outside`` times the second.

    Tensors (B, C, h, w); ``cells`` (B, 1, h, w), 1 where the edit is; ``alpha_bar`` (B,).

    Denoising: squared error of the prediction inside, an example's cells weighted by area ** -``area_power``. 0
    counts every cell alike, so that an earring hardly counts beside a background; 1 counts every edit alike, with
    the noise of the smallest; between them lies the default.

    Reconstruction: squared error outside between x0, which there is the source, and the x0 that the prediction
    amounts to. For v that is (1 - a) times the error of v. For noise it is (1 - a) / a times the error, without
    bound as a goes to 0; it is weighted by min(1, a / (1 - a)), the signal-to-noise ratio (Hang et al. 2023).
    """
    error = (predicted.float() - target(x0, noise, alpha_bar, prediction).float()) ** 2
    a = alpha_bar.view(-1, 1, 1, 1).float()
    cells = cells.float()
    area = cells.sum((1, 2, 3), keepdim=True).clamp(min=1)
    weight = cells * area**-area_power
    denoising = (error * weight).sum() / (weight.sum() * error.shape[1]).clamp(min=1e-6)
    scale = 1 - a if prediction == "v_prediction" else ((1 - a) / a.clamp(min=1e-8)).clamp(max=1)
    rest = 1 - cells
    reconstruction = (error * scale * rest).sum() / (rest.sum() * error.shape[1]).clamp(min=1e-6)
    return denoising + outside * reconstruction, denoising, reconstruction


def _scales(alpha_bar: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)


def composed(edited: Tensor, source: Tensor, cells: Tensor) -> Tensor:
    """Latents of ``edited`` where ``cells`` is 1, of ``source`` elsewhere: what the sampler ends in."""
    return torch.where(cells > 0.5, edited, source)

"""The training objective (paper, section 2.F): denoising inside the mask, reconstruction of the source outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]
# "terms": the two terms of the paper. "equal": every latent cell of the batch weighs the same.
Weighting = Literal["terms", "equal"]


@dataclass(frozen=True, eq=False)
class EditLoss:
    """The loss of one batch and its parts, as scalars.

    The weights say what a squared error outside the edit costs, in units of what it costs inside. They are sums over
    the factors that this batch's errors were multiplied by, not the options that led to them. ``weight_total``
    compares all cells outside with all cells inside, and ``weight_per_cell`` one cell with one cell.
    """

    value: Tensor
    # Denoising: mean error inside.
    inside: Tensor
    # Reconstruction: mean error outside.
    outside: Tensor
    weight_total: Tensor
    weight_per_cell: Tensor

    def figures(self) -> dict[str, Tensor]:
        """The parts by the names that logs and cards have for them."""
        return {
            "inside": self.inside.detach(),
            "outside": self.outside.detach(),
            "outside_weight_total": self.weight_total.detach(),
            "outside_weight_per_cell": self.weight_per_cell.detach(),
        }


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
    weighting: Weighting = "terms",
) -> EditLoss:
    """Noise one batch, predict, and compare by :func:`edit_loss`.

    ``predict(x_t, t)`` is the network. ``source`` and ``target`` are scaled latents (B, 4, h, w), ``cells``
    (B, 1, h, w) is 1 where the edit is, and ``alpha_bars`` (T,) is the noise schedule.
    """
    # Outside the edit the network learns the source, whatever the target shows there.
    x0 = composed(target, source, cells)
    t = torch.randint(0, len(alpha_bars), (len(x0),), generator=generator, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    alpha_bar = alpha_bars.to(x0.device)[t]
    predicted = predict(noised(x0, noise, alpha_bar), t)
    return edit_loss(predicted, x0, noise, alpha_bar, cells, prediction, outside, area_power, weighting)


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
    weighting: Weighting = "terms",
) -> EditLoss:
    """The loss: denoising + ``outside`` * reconstruction, or with "equal" weights the plain mean of the error.

    Tensors (B, C, h, w). ``cells`` (B, 1, h, w) is 1 where the edit is. ``alpha_bar`` (B,).

    ``area_power`` weighs each example's cells by area ** -area_power. At 0 every cell counts alike, so an earring
    hardly counts beside a background. At 1 every edit counts alike, and small edits add their noise. The default
    lies between them. "equal" uses neither ``outside`` nor ``area_power``.
    """
    error = (predicted.float() - target(x0, noise, alpha_bar, prediction).float()) ** 2
    cells = cells.float()
    if weighting == "equal":
        factors_in, factors_out = cells, 1 - cells
    else:
        factors_in, factors_out = _term_factors(cells, alpha_bar, prediction, area_power)

    # Means of the error, weighted by the factors.
    sum_in, sum_out = factors_in.sum().clamp(min=1e-6), (1 - cells).sum().clamp(min=1e-6)
    inside = (error * factors_in).sum() / (sum_in * error.shape[1])
    reconstruction = (error * factors_out).sum() / (sum_out * error.shape[1])

    # What an error costs in total, inside and outside.
    if weighting == "equal":
        share = cells.mean()
        total_in, total_out = share, 1 - share
        value = share * inside + (1 - share) * reconstruction
    else:
        total_in, total_out = factors_in.sum() / sum_in, outside * factors_out.sum() / sum_out
        value = inside + outside * reconstruction
    weight_total = total_out / total_in.clamp(min=1e-6)
    weight_per_cell = weight_total * cells.sum() / sum_out
    return EditLoss(value, inside, reconstruction, weight_total, weight_per_cell)


def _term_factors(
    cells: Tensor, alpha_bar: Tensor, prediction: Prediction, area_power: float
) -> tuple[Tensor, Tensor]:
    """Factors (B, 1, h, w) of the squared error of the prediction in the paper's two terms. Each is 0 elsewhere."""
    a = alpha_bar.view(-1, 1, 1, 1).float()
    area = cells.sum((1, 2, 3), keepdim=True).clamp(min=1)
    # The squared error outside is that of the x0 which the prediction implies. For v it is (1 - a) times the error of
    # v. For noise it is (1 - a) / a times the error, which has no bound as a goes to 0, so it is weighted by
    # min(1, a / (1 - a)), the signal-to-noise ratio (Hang et al. 2023).
    scale = 1 - a if prediction == "v_prediction" else ((1 - a) / a.clamp(min=1e-8)).clamp(max=1)
    return cells * area**-area_power, scale * (1 - cells)


def _scales(alpha_bar: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a) and sqrt(1 - a), (B, 1, 1, 1), in the element type of ``x``."""
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)


def composed(edited: Tensor, source: Tensor, cells: Tensor) -> Tensor:
    """Latents of ``edited`` where ``cells`` is 1, and of ``source`` elsewhere. The sampler ends in this."""
    return torch.where(cells > 0.5, edited, source)

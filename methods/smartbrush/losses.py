"""The training objective (paper): denoising inside the mask, and prediction of the object's mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from methods.prompt_edit_diff.losses import target

# Weight of the Dice loss: the paper's lambda.
DICE_WEIGHT = 0.01


@dataclass(frozen=True, eq=False)
class BrushLoss:
    """The loss of one batch and its parts, as scalars."""

    value: Tensor
    # Mean squared error over the object's cells.
    object: Tensor
    # The same over the other cells of the mask, which have to become the source again.
    background: Tensor
    # 1 - Dice coefficient of the predicted mask, mean over the examples that have an object.
    dice: Tensor

    def figures(self) -> dict[str, Tensor]:
        """The parts by the names that logs and cards have for them."""
        parts = {"object": self.object, "background": self.background, "dice_loss": self.dice}
        return {name: value.detach() for name, value in parts.items()}


def brush_loss(
    predicted: Tensor,
    logits: Tensor,
    x0: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    cells: Tensor,
    objects: Tensor,
    has_object: Tensor,
) -> BrushLoss:
    """The error of the predicted v inside the mask, plus ``DICE_WEIGHT`` times the Dice loss.

    ``predicted``, ``x0`` and ``noise`` are (B, C, h, w). ``logits``, ``cells`` (the mask) and ``objects`` (its part
    that the object touches) are (B, 1, h, w), the last two of 0 and 1. ``alpha_bar`` (B,). ``has_object`` bool (B,) is
    False for examples of text-to-image, whose mask is the whole image. The cells of an example weigh
    area ** -0.5, as in ``methods.prompt_edit_diff.losses.edit_loss``.
    """
    error = ((predicted.float() - target(x0, noise, alpha_bar, "v_prediction").float()) ** 2).mean(
        1, keepdim=True
    )
    cells, objects = cells.float(), objects.float() * cells.float()
    factors = cells * cells.sum((1, 2, 3), keepdim=True).clamp(min=1) ** -0.5
    denoising = (error * factors).sum() / factors.sum().clamp(min=1e-6)
    dice = (dice_loss(logits, objects) * has_object).sum() / has_object.sum().clamp(min=1)
    return BrushLoss(
        value=denoising + DICE_WEIGHT * dice,
        object=_mean(error, objects),
        background=_mean(error, cells - objects),
        dice=dice,
    )


def dice_loss(logits: Tensor, objects: Tensor) -> Tensor:
    """1 - Dice coefficient of sigmoid(logits) and ``objects``, both (B, 1, h, w), as (B,)."""
    shares = logits.float().sigmoid()
    both = (shares * objects).sum((1, 2, 3))
    total = (shares + objects).sum((1, 2, 3))
    return 1 - 2 * both / total.clamp(min=1e-6)


def _mean(error: Tensor, where: Tensor) -> Tensor:
    return (error * where).sum() / where.sum().clamp(min=1e-6)

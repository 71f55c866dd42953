"""The loss against a computation by hand."""

from __future__ import annotations

import pytest
import torch

from methods.smartbrush.losses import DICE_WEIGHT, brush_loss, dice_loss


def test_the_parts_of_the_loss_by_hand() -> None:
    # Two examples of 1 channel and 2 x 2 cells. alpha-bar 1/4: v = 1/2 noise - sqrt(3)/2 x0.
    x0 = torch.tensor([[[[1.0, 0.0], [2.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    noise = torch.zeros_like(x0)
    alpha_bar = torch.tensor([0.25, 0.25])
    v = -(0.75**0.5) * x0
    # Errors: example 0 has 1, 2, 3, 4 in its cells, example 1 has 2 everywhere.
    predicted = v + torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[2.0, 2.0], [2.0, 2.0]]]])
    cells = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    objects = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    logits = torch.zeros(2, 1, 2, 2)
    has_object = torch.tensor([True, False])
    terms = brush_loss(predicted, logits, x0, noise, alpha_bar, cells, objects, has_object)
    # Squared errors 1 and 4 in the two cells of example 0, weighted by 2 ** -0.5, and 4 in the four of example 1,
    # weighted by 4 ** -0.5.
    a, b = 2**-0.5, 0.5
    denoising = (a * (1 + 4) + b * 4 * 4) / (a * 2 + b * 4)
    # Dice of 0.5 everywhere and one cell: 2 * 0.5 / (2 + 1), of the example with an object alone.
    dice = 1 - 2 * 0.5 / 3
    assert float(terms.dice) == pytest.approx(dice)
    assert float(terms.value) == pytest.approx(denoising + DICE_WEIGHT * dice)
    assert float(terms.object) == pytest.approx((1 + 4 * 4) / 5)
    assert float(terms.background) == pytest.approx(4)


def test_errors_outside_the_mask_cost_nothing() -> None:
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    cells = torch.zeros(2, 1, 4, 4)
    cells[:, :, :2] = 1
    prediction = torch.randn(2, 4, 4, 4, requires_grad=True)
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    terms = brush_loss(
        prediction, logits, x0, noise, torch.rand(2), cells, cells, torch.ones(2, dtype=torch.bool)
    )
    terms.value.backward()
    assert prediction.grad is not None
    assert logits.grad is not None
    assert not prediction.grad[:, :, 2:].any()
    assert prediction.grad[:, :, :2].all()
    # The mask is learned everywhere.
    assert logits.grad.all()


def test_dice_is_zero_for_the_right_mask_and_one_for_its_complement() -> None:
    objects = (torch.arange(16).view(1, 1, 4, 4) < 5).float()
    sure = 200 * (objects - 0.5)
    assert float(dice_loss(sure, objects)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(-sure, objects)) == pytest.approx(1, abs=1e-6)

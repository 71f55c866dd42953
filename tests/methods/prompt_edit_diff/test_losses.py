"""The objective: known values, and agreement of its two parametrisations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.prompt_edit_diff.losses import composed, edit_loss, noised, target


def example(batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(batch, 4, 8, 8, generator=generator)
    noise = torch.randn(batch, 4, 8, 8, generator=generator)
    cells = torch.zeros(batch, 1, 8, 8)
    cells[:, :, 2:5, 2:6] = 1
    return x0, noise, torch.linspace(0.05, 0.95, batch), cells


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_costs_nothing(prediction: str) -> None:
    x0, noise, a, cells = example()
    perfect = target(x0, noise, a, prediction)  # type: ignore[arg-type]
    assert edit_loss(perfect, x0, noise, a, cells, prediction).value == 0  # type: ignore[arg-type]


def test_noise_and_v_are_two_views_of_one_sample() -> None:
    x0, noise, a, _ = example()
    x, v = noised(x0, noise, a), target(x0, noise, a, "v_prediction")
    # x = s x0 + r noise, v = s noise - r x0.
    s, r = a.sqrt().view(-1, 1, 1, 1), (1 - a).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(s * x - r * v, x0, atol=1e-5)
    assert torch.allclose(r * x + s * v, noise, atol=1e-5)


def test_the_reconstruction_term_is_the_error_of_x0() -> None:
    x0, noise, a, cells = example()
    x = noised(x0, noise, a)
    s, r = a.sqrt().view(-1, 1, 1, 1), (1 - a).sqrt().view(-1, 1, 1, 1)
    off = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    for prediction in ("v_prediction", "epsilon"):
        predicted = target(x0, noise, a, prediction) + off  # type: ignore[arg-type]
        # x0 by each parametrisation.
        guess = s * x - r * predicted if prediction == "v_prediction" else (x - r * predicted) / s
        error = (guess - x0) ** 2
        if prediction == "epsilon":
            error = error * (a / (1 - a)).clamp(max=1).view(-1, 1, 1, 1)
        expected = (error * (1 - cells)).sum() / ((1 - cells).sum() * 4)
        loss = edit_loss(predicted, x0, noise, a, cells, prediction).outside  # type: ignore[arg-type]
        assert torch.allclose(loss, expected, rtol=1e-4)


def test_inside_and_outside_do_not_mix() -> None:
    x0, noise, a, cells = example()
    perfect = target(x0, noise, a, "epsilon")
    # An error inside only, then an error outside only.
    loss = edit_loss(perfect + cells, x0, noise, a, cells, "epsilon")
    assert loss.inside == pytest.approx(1)
    assert loss.outside == 0
    loss = edit_loss(perfect + (1 - cells), x0, noise, a, cells, "epsilon", outside=0.25)
    assert loss.inside == 0
    assert loss.value == pytest.approx(0.25 * float(loss.outside))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("weighting", ["terms", "equal"])
def test_the_reported_weights_are_those_of_the_loss(prediction: str, weighting: str) -> None:
    # The weight of a cell is the derivative of the loss by that cell's squared error, which autograd knows: for an
    # error e in one value, d loss / d e = 2 e w.
    x0, noise, a, cells = example()
    cells[2] = 0
    cells[2, :, :2, :2] = 1  # edits of two sizes
    perfect = target(x0, noise, a, prediction)  # type: ignore[arg-type]
    predicted = (perfect + 0.5).requires_grad_(True)
    loss = edit_loss(predicted, x0, noise, a, cells, prediction, 0.1, 0.5, weighting)  # type: ignore[arg-type]
    [gradient] = torch.autograd.grad(loss.value, predicted)
    inside, outside = (gradient * cells).sum(), (gradient * (1 - cells)).sum()
    per_cell = (outside / (1 - cells).sum()) / (inside / cells.sum())
    assert float(loss.weight_total) == pytest.approx(float(outside / inside), rel=1e-4)
    assert float(loss.weight_per_cell) == pytest.approx(float(per_cell), rel=1e-4)
    if weighting == "equal":
        assert float(loss.weight_per_cell) == pytest.approx(1)


def test_with_equal_weights_the_loss_is_the_mean_error() -> None:
    x0, noise, a, cells = example()
    predicted = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    loss = edit_loss(predicted, x0, noise, a, cells, "v_prediction", weighting="equal")
    expected = torch.nn.functional.mse_loss(predicted, target(x0, noise, a, "v_prediction"))
    assert torch.allclose(loss.value, expected)


def test_the_terms_weigh_the_outside_as_their_formula_says() -> None:
    # 1 of 64 cells inside, v-prediction, lambda 0.1: 0.1 (1 - a) in total, and a 63rd of that per cell.
    x0, noise, _, _ = example()
    cells = torch.zeros(3, 1, 8, 8)
    cells[:, :, 4, 4] = 1
    loss = edit_loss(x0, x0, noise, torch.full((3,), 0.35), cells, "v_prediction")
    assert float(loss.weight_total) == pytest.approx(0.065)
    assert float(loss.weight_per_cell) == pytest.approx(0.065 / 63)


@pytest.mark.parametrize(("power", "expected"), [(0.0, 4 / 20), (0.5, 2 / 6), (1.0, 1 / 2)])
def test_areas_are_weighed_by_their_power(power: float, expected: float) -> None:
    # Two edits of 4 and 16 cells; all of the error is in the small one.
    cells = torch.zeros(2, 1, 8, 8)
    cells[0, :, :2, :2] = 1
    cells[1, :, :4, :4] = 1
    zero = torch.zeros(2, 4, 8, 8)
    # An error of 1 in every value of the small edit.
    predicted = zero.clone()
    predicted[0] = 1
    loss = edit_loss(predicted, zero, zero, torch.full((2,), 0.5), cells, "epsilon", area_power=power).inside
    assert float(loss) == pytest.approx(expected)


def test_nothing_is_divided_by_zero() -> None:
    x0, noise, _, cells = example()
    for a in (torch.zeros(3), torch.ones(3)):
        for mask in (torch.zeros_like(cells), torch.ones_like(cells)):
            for prediction in ("epsilon", "v_prediction"):
                for weighting in ("terms", "equal"):
                    loss = edit_loss(x0, x0, noise, a, mask, prediction, weighting=weighting)  # type: ignore[arg-type]
                    assert torch.isfinite(loss.value)
                    assert torch.isfinite(loss.weight_per_cell)


def test_composition_takes_each_from_its_side() -> None:
    x0, noise, _, cells = example()
    out = composed(x0, noise, cells)
    assert torch.equal(out * cells, x0 * cells)
    assert torch.equal(out * (1 - cells), noise * (1 - cells))

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.blended_diffusion.schedule import ReverseProcess, betas_of, cosine_betas, linear_betas, spaced
from tests.methods.blended_diffusion.conftest import drawn


def test_betas_are_those_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    for name, own in (("linear", linear_betas()), ("squaredcos_cap_v2", cosine_betas())):
        reference = DDPMScheduler(beta_schedule=name, beta_start=1e-4, beta_end=0.02)
        assert np.allclose(own, reference.betas.double().numpy(), rtol=2e-5)
        assert np.allclose(betas_of(reference.config), own, rtol=1e-12)
    with pytest.raises(ValueError, match="'sigmoid': expected linear or squaredcos_cap_v2"):
        betas_of({"beta_schedule": "sigmoid"})


def test_spacing_takes_first_and_last_and_nothing_twice() -> None:
    assert spaced(1000, 4).tolist() == [0, 333, 666, 999]
    assert spaced(1000, 1000).tolist() == list(range(1000))
    hundred = spaced(1000, 100)
    assert hundred[[0, 1, 74, 99]].tolist() == [0, 10, 747, 999]
    assert len(set(hundred.tolist())) == 100


@pytest.mark.parametrize("steps", [4, 50])
@pytest.mark.parametrize("t", [0, 2])
def test_moments_are_the_gaussian_posterior(steps: int, t: int) -> None:
    """q(x_{t-1} | x_t, x_0) by Bayes' rule on the two Gaussians, rather than by the closed form."""
    schedule = ReverseProcess(linear_betas(), steps)
    now = float(schedule.alpha_bar[t])
    before = float(schedule.alpha_bar[t - 1]) if t else 1.0
    x0, noise = drawn(1, 1, 3, 4, 4).double(), drawn(2, 1, 3, 4, 4).double()
    x = now**0.5 * x0 + (1 - now) ** 0.5 * noise
    for prediction, output in (
        ("epsilon", noise),
        ("v_prediction", now**0.5 * noise - (1 - now) ** 0.5 * x0),
    ):
        result = ReverseProcess(linear_betas(), steps, prediction).prediction_of(
            output, torch.ones_like(x), x, t
        )  # type: ignore[arg-type]
        assert torch.allclose(result.x0, x0)
        if t == 0:
            assert torch.allclose(result.mean, x0)
            continue
        # Prior N(√before x0, 1 - before), likelihood of x_t: mean √(now/before) x_{t-1}, variance 1 - now/before.
        step = now / before
        precision = 1 / (1 - before) + step / (1 - step)
        mean = (before**0.5 * x0 / (1 - before) + step**0.5 * x / (1 - step)) / precision
        assert torch.allclose(result.mean, mean)
        assert torch.allclose(result.log_variance.exp(), torch.full_like(x, 1 - step))  # f = 1: beta
        least = schedule.prediction_of(noise, -torch.ones_like(x), x, t).log_variance.exp()
        assert torch.allclose(least, torch.full_like(x, 1 / precision))  # f = 0: the posterior's


def test_the_first_posterior_variance_is_the_second_not_zero() -> None:
    schedule = ReverseProcess(linear_betas(), 50)
    assert schedule.log_posterior[0] == schedule.log_posterior[1]
    assert np.isfinite(schedule.log_posterior).all()


def test_noise_and_clean_image_are_each_others_inverse() -> None:
    schedule = ReverseProcess(cosine_betas(), 20)
    x0, noise = drawn(1, 1, 3, 4, 4).double(), drawn(2, 1, 3, 4, 4).double()
    for t in (0, 7, 18):
        x = schedule.noised(x0, t, noise)
        assert torch.allclose(schedule.epsilon(x0, x, t), noise)
        assert torch.allclose(schedule.x0(noise, x, t), x0)
    assert torch.equal(schedule.noised(x0, -1, noise), x0)


def test_the_rounded_index_is_the_index_for_the_published_step_counts_and_is_not_for_150() -> None:
    for steps in (25, 50, 75, 100, 200, 250, 500, 1000):
        schedule = ReverseProcess(linear_betas(), steps)
        assert [schedule.rounded_index(t) for t in range(steps)] == list(range(steps))
    schedule = ReverseProcess(linear_betas(), 150)
    assert [t for t in range(150) if schedule.rounded_index(t) != t] == [2]
    assert schedule.rounded_index(2) == 1

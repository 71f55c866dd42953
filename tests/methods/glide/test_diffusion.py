from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.glide.diffusion import Diffusion, eight_bits
from methods.glide.losses import byte_log_likelihood, gaussian_kl, hybrid, normalized
from methods.glide.schedule import RespacedSchedule

WHOLE = Diffusion(RespacedSchedule.of("squaredcos_cap_v2"))


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def knows(x0: Tensor, process: Diffusion, learned: float) -> object:
    """A network that sees through the noise to ``x0``."""
    where = {int(t): i for i, t in enumerate(process.timesteps)}

    def network(x: Tensor, t: Tensor) -> Tensor:
        step = torch.tensor([where[int(value)] for value in t])
        eps = (process.at(process.of_x, step) * x - x0) / process.at(process.of_eps, step)
        return torch.cat([eps, torch.full_like(eps, learned)], 1)

    return network


def test_a_perfect_network_is_led_to_its_picture() -> None:
    x0 = normals(0, 2, 3, 4, 4).tanh()
    process = Diffusion(RespacedSchedule.of("linear", "20"))
    draw = iter(normals(1, 20, 2, 3, 4, 4))
    none = torch.zeros(2, 1, 4, 4)
    result = process.sample(
        knows(x0, process, 0.0),
        normals(2, 2, 3, 4, 4),
        lambda: next(draw),
        x0,
        none,  # type: ignore[arg-type]
    )
    assert torch.allclose(result, x0, atol=1e-4)


@pytest.mark.parametrize("learned", [-1.0, 1.0])
def test_the_learned_range_ends_at_the_two_known_variances(learned: float) -> None:
    """One step from a network of known mean: the spread of the samples is beta~ or beta, as equation 15 says."""
    process = Diffusion(RespacedSchedule.of("squaredcos_cap_v2", "10"))
    step = torch.full((1,), 6)
    expected = process.log_least if learned < 0 else process.log_most
    result = process.log_variance(torch.full((1, 3, 2, 2), learned), step)
    assert torch.allclose(result, expected[6].expand_as(result))
    assert float(process.log_least[6]) < float(process.log_most[6])
    middle = process.log_variance(torch.zeros(1, 1, 1, 1), step)
    assert float(middle) == pytest.approx(float(process.log_least[6] + process.log_most[6]) / 2)


def test_known_pixels_come_back_exactly_as_bytes_whatever_the_network_says() -> None:
    pixels = torch.arange(256).repeat(3)[: 3 * 256].view(1, 3, 16, 16)
    image = pixels.float() / 127.5 - 1
    visible = torch.zeros(1, 1, 16, 16)
    visible[..., 4:, :] = 1
    for name, steps in (("squaredcos_cap_v2", "100"), ("linear", "fast27"), ("linear", "1")):
        process = Diffusion(RespacedSchedule.of(name, steps))  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(3)

        def wild(x: Tensor, t: Tensor) -> Tensor:
            return 3 * torch.cat([x, x.flip(3)], 1)

        def draw(generator: torch.Generator = generator) -> Tensor:
            return torch.randn(1, 3, 16, 16, generator=generator)

        result = process.sample(wild, draw(), draw, image, visible)
        back = ((result + 1) * 127.5).round().clamp(0, 255).long()
        assert torch.equal(back[..., 4:, :], pixels[..., 4:, :])
        assert not torch.equal(back[..., :4, :], pixels[..., :4, :])
        assert result.abs().max() <= 1 + 1e-6


def test_eight_bits_are_the_256_values() -> None:
    x = torch.linspace(-1, 1, 1001)
    values = (torch.arange(256).float() / 127.5 - 1).tolist()
    assert set(eight_bits(x).tolist()) == set(values)
    assert (eight_bits(x) - x).abs().max() <= 0.5 / 127.5 + 1e-6


# --- the loss -----------------------------------------------------------------------------------------


def test_the_divergence_is_torchs() -> None:
    a, b, off = normals(0, 50), normals(1, 50), normals(2, 50)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(off, (0.5 * a).exp()),
        torch.distributions.Normal(torch.zeros(50), (0.5 * b).exp()),
    )
    assert torch.allclose(gaussian_kl(off, a, b), expected, atol=1e-5)


@pytest.mark.parametrize("log_variance", [-12.0, -9.0, -5.0, 1.0])
@pytest.mark.parametrize("mean", [-1.3, -0.2, 0.7])
def test_the_bytes_share_a_mass_of_one(log_variance: float, mean: float) -> None:
    values = torch.arange(256).float() / 127.5 - 1
    result = byte_log_likelihood(values, torch.full((256,), mean), torch.full((256,), log_variance))
    assert float(result.double().exp().sum()) == pytest.approx(1, abs=1e-4)
    normal = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), math.exp(0.5 * log_variance))
    edges = torch.tensor([-math.inf, *((np.arange(1, 256) - 0.5) / 127.5 - 1), math.inf], dtype=torch.float64)
    expected = normal.cdf(edges).diff().clamp(min=1e-12).log()
    likely = expected > math.log(1e-6)
    assert torch.allclose(result[likely], expected[likely].float(), atol=2e-3)


def terms(learned: float, off: float, step: int) -> tuple[Tensor, Tensor, Tensor]:
    x0, eps = normals(4, 8, 3, 4, 4).tanh(), normals(5, 8, 3, 4, 4)
    at = torch.full((8,), step)
    x = WHOLE.noised(x0, eps, at)
    out = torch.cat([eps + off, torch.full_like(eps, learned)], 1).requires_grad_()
    result = hybrid(out, x0, x, eps, at, WHOLE, torch.ones(8, 1, 4, 4))
    return out, result.simple, result.bound


@pytest.mark.parametrize("step", [1, 300, 700])
def test_a_perfect_prediction_with_the_posteriors_variance_costs_nothing(step: int) -> None:
    _, simple, bound = terms(learned=-1.0, off=0.0, step=step)
    assert float(simple.detach()) == pytest.approx(0, abs=1e-6)
    assert float(bound.detach()) == pytest.approx(0, abs=1e-5)
    assert float(terms(1.0, 0.0, step)[2].detach()) > float(bound.detach())


@pytest.mark.parametrize("step", [1, 300, 700, 950])
def test_an_error_costs_what_its_weight_in_the_bound_says(step: int) -> None:
    """Ho et al. (2020), equation 12: beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) of the squared error."""
    whole = RespacedSchedule.of("squaredcos_cap_v2")
    beta, variance = whole.betas[step], math.exp(whole.log_variance_range[0][step])
    weight = beta**2 / (2 * variance * (1 - beta) * (1 - whole.alphas_bar[step]))
    _, simple, bound = terms(learned=-1.0, off=0.1, step=step)
    assert float(simple.detach()) == pytest.approx(0.01, rel=1e-3)
    assert float(bound.detach()) == pytest.approx(weight * 0.01, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("step", [0, 1, 500])
def test_the_bound_teaches_the_variance_alone(step: int) -> None:
    out, simple, bound = terms(learned=0.3, off=0.2, step=step)
    (of_bound,) = torch.autograd.grad(bound, out, retain_graph=True)
    (of_simple,) = torch.autograd.grad(simple, out)
    assert not of_bound[:, :3].any()
    assert of_bound[:, 3:].any()
    assert torch.isfinite(of_bound).all()
    assert of_simple[:, :3].any()
    assert not of_simple[:, 3:].any()


def test_the_first_step_is_scored_as_bytes() -> None:
    """With nothing to predict wrongly, what is left is the byte's own uncertainty under the least variance."""
    x0 = (torch.arange(48).view(1, 3, 4, 4) * 5 / 127.5) - 1
    eps = normals(5, 1, 3, 4, 4)
    at = torch.zeros(1, dtype=torch.int64)
    out = torch.cat([eps, -torch.ones_like(eps)], 1)
    result = hybrid(out, x0, WHOLE.noised(x0, eps, at), eps, at, WHOLE, torch.ones(1, 1, 4, 4)).bound
    sigma = math.exp(0.5 * float(WHOLE.log_least[0]))
    inner = -math.log(math.erf(1 / 255 / sigma / math.sqrt(2)))
    assert float(result) == pytest.approx(inner, abs=0.02)


def test_normalized_weights_make_small_and_large_regions_count_alike() -> None:
    visible = torch.ones(2, 1, 8, 8)
    visible[0, :, :2, :2] = 0
    visible[1, :, :, :6] = 0
    weight = normalized(1 - 0.9 * visible)
    assert torch.allclose(weight.mean(dim=(1, 2, 3)), torch.ones(2))
    assert float(weight[0, 0, 0, 0] / weight[0, 0, 7, 7]) == pytest.approx(10)

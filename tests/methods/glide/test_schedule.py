from __future__ import annotations

import math

import numpy as np
import pytest

from methods.glide.schedule import RespacedSchedule, betas, spacing

FAST27 = [
    0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355, 377, 399,
    400, 500, 599, 600, 799, 800, 997,
]  # fmt: skip
"""As the published code prints it."""


def test_the_steps_taken_are_the_published_ones() -> None:
    assert spacing("fast27") == FAST27
    assert spacing("1000") == list(range(1000))
    assert spacing("100") == [round(i * 999 / 99) for i in range(100)]
    assert spacing("4,3,1,1,1") == [0, 66, 133, 199, 200, 300, 399, 400, 600, 800]
    assert spacing("2,0,1", 10) == [0, 3, 7]
    assert spacing("1") == [0]


@pytest.mark.parametrize("wrong", ["", "fast", "0", "10,-1", "1001", "600,600", "ten", "5.5"])
def test_a_wrong_choice_of_steps_is_an_error(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"steps"):
        spacing(wrong)


def test_the_cosine_schedule_has_the_alpha_bar_of_its_formula() -> None:
    """Nichol and Dhariwal, equation 17, where the cap does not act: all but the last step."""
    result = np.cumprod(1 - betas("squaredcos_cap_v2"))

    def f(t: float) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [f(t + 1) / f(0) for t in range(999)]
    assert np.allclose(result[:999], expected, rtol=1e-9)
    assert betas("squaredcos_cap_v2")[-1] == 0.999


def test_the_linear_schedule_keeps_its_ends_for_any_number_of_steps() -> None:
    result = betas("linear")
    assert result[0] == 1e-4
    assert result[-1] == 0.02
    assert np.allclose(np.diff(result), (0.02 - 1e-4) / 999)
    assert np.prod(1 - betas("linear", 500)) == pytest.approx(np.prod(1 - result), rel=0.15)


@pytest.mark.parametrize("name", ["squaredcos_cap_v2", "linear"])
def test_a_respaced_process_keeps_alpha_bar_and_makes_a_process_of_it(name: str) -> None:
    whole = np.cumprod(1 - betas(name))  # type: ignore[arg-type]
    short = RespacedSchedule.of(name, "fast27")  # type: ignore[arg-type]
    assert np.allclose(short.alphas_bar, whole[FAST27], rtol=1e-9)
    # q(x_(t-1) | x_t, x_0) is a Gaussian's conditional: checked against the joint covariance of the two.
    of_x0, of_x = short.posterior_mean
    least, most = short.log_variance_range
    for i in range(1, 27):
        before, now, beta = short.alphas_bar[i - 1], short.alphas_bar[i], short.betas[i]
        gain = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        assert of_x[i] == pytest.approx(gain)
        assert of_x0[i] == pytest.approx(math.sqrt(before) - gain * math.sqrt(now))
        variance = (1 - before) - gain**2 * (1 - now)
        assert least[i] == pytest.approx(math.log(variance), abs=1e-6)
        assert most[i] == pytest.approx(math.log(beta))
    assert of_x0[0] == pytest.approx(1, abs=1e-12)
    assert of_x[0] == 0
    assert least[0] == least[1]
    of_noisy, of_eps = short.recover
    x0, eps = 0.3, -1.7
    noisy = np.sqrt(short.alphas_bar) * x0 + np.sqrt(1 - short.alphas_bar) * eps
    assert np.allclose(of_noisy * noisy - of_eps * eps, x0, atol=1e-9)

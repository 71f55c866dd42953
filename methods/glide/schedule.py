"""Noise schedules, and the subset of their steps that a sampler takes.

NumPy alone, so that options are checked before torch is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ScheduleName = Literal["squaredcos_cap_v2", "linear"]


def betas(name: ScheduleName, steps: int = 1000) -> NDArray[np.float64]:
    """beta_t of every step, float64 (steps,)."""
    if name == "linear":
        # Ho et al. (2020): 1e-4 to 0.02 over 1000 steps, scaled for other numbers of them.
        scale = 1000 / steps
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)

    # Nichol and Dhariwal (2021), equation 17, capped at 0.999.
    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    # The cap keeps the last step from dividing by an alpha-bar of nearly 0.
    return np.array([min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), 0.999) for i in range(steps)])


def spacing(respacing: str, steps: int = 1000) -> list[int]:
    """Indices of the steps that a sampler takes, out of ``steps``, ascending.

    ``"N"`` takes N of them, evenly from the first to the last. ``"a,b,c"`` divides the process into as many equal
    sections as there are numbers, the least noisy first, and takes so many steps from each. ``"fast27"`` is
    ``10,10,3,2,2`` with the last step two earlier, as in the published notebook's upsampler. Raises ValueError for
    anything else.
    """
    if respacing == "fast27":
        return [*spacing("10,10,3,2,2", steps)[:-1], steps - 3]
    try:
        counts = [int(part) for part in respacing.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0 or not sum(counts):
        raise ValueError(
            f'{respacing!r} is no choice of steps: expected a number as "100", numbers as "10,10,3,2,2" '
            'from the least to the most noisy section, or "fast27"'
        )

    # Each section contributes its steps, evenly from its first to its last.
    indices: list[int] = []
    first = 0
    for section, count in enumerate(counts):
        # The first sections take the steps that do not divide evenly.
        size = steps // len(counts) + (section < steps % len(counts))
        if count > size:
            raise ValueError(f"{respacing!r} asks for {count} of the {size} steps of a section")
        # Rounding running sums, not products: the published spacing, bit for bit.
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            indices.append(first + round(position))
            position += stride
        first += size
    return sorted(set(indices))


@dataclass(frozen=True, eq=False)
class RespacedSchedule:
    """The process restricted to the N steps that are taken. Arrays are float64 (N,), ascending in noise."""

    # int64 (N,): the index in the whole process, which is the network's input.
    timesteps: NDArray[np.int64]
    betas: NDArray[np.float64]
    alphas_bar: NDArray[np.float64]

    @classmethod
    def of(cls, name: ScheduleName, respacing: str = "", steps: int = 1000) -> RespacedSchedule:
        """``respacing`` as :func:`spacing` takes it. Empty for all steps."""
        # alpha-bar_t is the product of (1 - beta) up to t.
        whole = np.cumprod(1 - betas(name, steps))
        timesteps = np.array(spacing(respacing or str(steps), steps), dtype=np.int64)
        # beta of the shorter process, from the alpha_bar that it keeps: 1 - alpha_bar_i / alpha_bar_(i-1)
        alphas_bar = whole[timesteps]
        shorter = 1 - alphas_bar / np.append(1.0, alphas_bar[:-1])
        # Multiplied again from the shorter betas, as the published code does, so that the last bits agree.
        return cls(timesteps, shorter, np.cumprod(1 - shorter))

    @property
    def alphas_bar_before(self) -> NDArray[np.float64]:
        """alpha_bar of the step before each, 1 before the first."""
        return np.append(1.0, self.alphas_bar[:-1])

    @property
    def log_variance_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log beta~ and log beta, the bounds of a learned variance."""
        if len(self.betas) == 1:
            # One step has no other to borrow from, and adds no noise anyway.
            return np.log(self.betas), np.log(self.betas)
        posterior = self.betas * (1 - self.alphas_bar_before) / (1 - self.alphas_bar)
        # beta~ of the first step is 0, whose logarithm is none. The second's is used.
        posterior[0] = posterior[1]
        return np.log(posterior), np.log(self.betas)

    @property
    def posterior_mean(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factors of x_0 and x_t in the mean of q(x_(t-1) | x_t, x_0): Ho et al. (2020), equation 7."""
        rest = 1 - self.alphas_bar
        return (
            self.betas * np.sqrt(self.alphas_bar_before) / rest,
            (1 - self.alphas_bar_before) * np.sqrt(1 - self.betas) / rest,
        )

    @property
    def recover(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factors of x_t and -eps in x_0: Ho et al. (2020), below equation 14."""
        return np.sqrt(1 / self.alphas_bar), np.sqrt(1 / self.alphas_bar - 1)

"""DDIM inversion, and null-text optimisation of what guidance adds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from methods.attention_maps.processor import predicted
from methods.latents import CLEAN, NoiseSchedule

# Noisy latents (B, 4, h, w) and their time step => the network's output, float32 of that shape.
Predict = Callable[[Tensor, int], Tensor]


def invert(
    predict: Predict, schedule: NoiseSchedule, z0: Tensor, grid: Sequence[int], passes: int
) -> list[Tensor]:
    """The pivots z*_T, ..., z*_0 of latents ``z0`` (B, 4, h, w): one for each time step of ``grid``, then ``z0``.

    A DDIM step from each pivot gives the next one, up to the error that ``passes`` passes of the network leave.
    """
    pivots = [z0]
    # The noise that the network saw in the last inverted step. Before the first one there is none.
    noise: Tensor | None = None
    for lower, t in pairwise([CLEAN, *reversed(grid)]):
        # z_lower = sqrt(alpha-bar_lower) x_0 + sqrt(1 - alpha-bar_lower) eps, with x_0 from z_t and eps, is solved
        # for z_t. eps depends on z_t, so it is iterated. The noise of the level below is the first guess: from a
        # worse one the iteration may leave the neighbourhood of the solution where little signal is left.
        below = pivots[-1]
        z = below if noise is None else _raised(schedule, below, noise, t, lower)
        for _ in range(passes):
            _, noise = schedule.split(predict(z, t), z, t)
            z = _raised(schedule, below, noise, t, lower)
        pivots.append(z)
    return pivots[::-1]


def _raised(schedule: NoiseSchedule, z: Tensor, noise: Tensor, t: int, lower: int) -> Tensor:
    """The sample at level ``t`` from which a DDIM step with this ``noise`` gives ``z`` of level ``lower``."""
    signal, signal_below = schedule.signal(t), schedule.signal(lower)
    clean = (z - (1 - signal_below) ** 0.5 * noise) / signal_below**0.5
    raised: Tensor = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
    return raised


@dataclass(frozen=True)
class NullText:
    """Null-text optimisation (Mokady et al. 2023, algorithm 1), for each image of a batch by itself."""

    unet: Any
    schedule: NoiseSchedule
    guidance: float
    # Steps of Adam per step of the sampler, at most.
    steps: int

    def embeddings(
        self, pivots: Sequence[Tensor], grid: Sequence[int], conditionals: Sequence[Tensor], null: Tensor
    ) -> Iterator[Tensor]:
        """For each time step of ``grid`` the embedding ∅_t of the empty prompt, (B, L, D).

        ``conditionals`` are the embeddings of the source's prompt at each step, ``null`` is that of the empty prompt,
        (B, L, D) each.
        """
        z = pivots[0]
        for i, (t, lower) in enumerate(pairwise([*grid, CLEAN])):
            with torch.no_grad():
                with_prompt = predicted(self.unet, z, t, conditionals[i])
            # Each step starts from the embedding of the last one.
            null = self._optimised(null, z, with_prompt, pivots[i + 1], (t, lower), i / len(grid))
            yield null
            with torch.no_grad():
                z = self._step(z, predicted(self.unet, z, t, null), with_prompt, t, lower)

    def _optimised(
        self,
        null: Tensor,
        z: Tensor,
        with_prompt: Tensor,
        pivot: Tensor,
        levels: tuple[int, int],
        done: float,
    ) -> Tensor:
        """One step's embedding. ``done`` is the share of the sampler's steps that lies behind it."""
        t, lower = levels
        embedding = null.detach().float().clone().requires_grad_()
        # The authors' rates and thresholds, which they state for 50 steps.
        optimizer = torch.optim.Adam([embedding], lr=1e-2 * (1 - done / 2))
        threshold = 1e-5 + 1e-3 * done
        running = torch.ones(len(z), dtype=torch.bool, device=z.device)
        for _ in range(self.steps):
            optimizer.zero_grad()
            with torch.enable_grad():
                stepped = self._step(z, predicted(self.unet, z, t, embedding), with_prompt, t, lower)
                losses = (stepped - pivot).square().mean((1, 2, 3))
                losses.sum().backward()
            before = embedding.detach().clone()
            optimizer.step()
            # An image whose loss was small enough after its last step keeps its embedding. The authors test the loss
            # of the step just made, so the step is taken once more.
            with torch.no_grad():
                embedding[~running] = before[~running]
            running &= losses.detach() >= threshold
            if not running.any():
                break
        return embedding.detach()

    def _step(self, z: Tensor, without: Tensor, with_prompt: Tensor, t: int, lower: int) -> Tensor:
        output = without + self.guidance * (with_prompt - without)
        return self.schedule.step(output, z, t, lower)

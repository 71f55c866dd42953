"""Steps on the latents that make the attention see the subjects (Chefer et al. 2023, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.attend_and_excite.losses import maxima, subject_loss, token_maps
from methods.attention_maps.processor import AttentionRecorder, predicted


@dataclass(frozen=True, eq=False)
class Excitation:
    """The subjects of a batch of B images. Each image is moved by its own loss."""

    unet: Any
    # (B, L, D): embeddings of the prompts.
    text: Tensor
    # bool (B, L): the subjects' tokens. int64 (B,): position of each prompt's end token.
    subjects: Tensor
    ends: Tensor
    # Rows and columns of the maps.
    sides: tuple[int, int]
    # float32 (B, 1, h, w): 1 where latents may move.
    mask: Tensor
    # bool (B, L, rows, columns): cells in which each token counts, None for all.
    where: Tensor | None = None

    def losses(self, z: Tensor, t: int) -> Tensor:
        """The loss of each image at latents ``z`` (B, 4, h, w) of time step ``t``, float32 (B,)."""
        recorder = AttentionRecorder(self.sides[0] * self.sides[1])
        predicted(self.unet, z, t, self.text, recorder)
        pictures = token_maps(recorder.mean(), self.ends, self.sides)
        return subject_loss(maxima(pictures, self.subjects, self.where))

    def stepped(self, z: Tensor, t: int, rate: float) -> Tensor:
        """``z`` after one step against the gradient of each image's loss, inside its mask."""
        return self._step(z, t, rate)[0]

    def refined(self, z: Tensor, t: int, rate: float, least: float, most: int) -> Tensor:
        """``z`` after up to ``most`` steps, for each image until all its maxima are at least ``least``."""
        for _ in range(most):
            moved, losses = self._step(z, t, rate)
            unseen = losses > 1 - least
            if not unseen.any():
                break
            z = torch.where(unseen[:, None, None, None], moved, z)
        return z

    def _step(self, z: Tensor, t: int, rate: float) -> tuple[Tensor, Tensor]:
        """(the moved latents, the loss of each image before the step)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            losses = self.losses(z, t)
            # Each image's loss depends on its own latents alone, so the sum's gradient is that of each.
            (gradient,) = torch.autograd.grad(losses.sum(), z)
        return (z - rate * gradient * self.mask).detach(), losses.detach()

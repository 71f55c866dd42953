"""Learns the embeddings of nouns, step by step along the inverted source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.attend_and_excite.losses import maxima, subject_loss, token_maps
from methods.attention_maps.processor import AttentionRecorder, predicted
from methods.dynamic_prompt_learning import losses
from methods.dynamic_prompt_learning.nouns import Noun

# DPL leaves the optimisation of a step once each loss is below beta * exp(-i / alpha) at step i of 50.
_BALANCE, _DISJOINT = (0.3, 25.0), (0.9, 25.0)
# Weights: DPL's of balance and disjoint loss, LocInv's of similarity, overlap and binding.
_WEIGHTS = {"balance": 1.0, "disjoint": 0.05, "similarity": 1.0, "overlap": 1.0, "binding": 2.0}
_RATE = 1e-3


@dataclass(frozen=True, eq=False)
class Prompt:
    """The source's prompt of one image."""

    nouns: Sequence[Noun]
    # Position of the end token.
    end: int
    # float32 (K, positions): the region of each noun on the maps. None: the losses of DPL.
    masks: Tensor | None


@contextmanager
def replaced(text_encoder: Any, slots: Tensor, vectors: Tensor) -> Iterator[None]:
    """While it is open, the text encoder takes learnt vectors in place of the embeddings of some tokens.

    ``slots`` int64 (B, L) is the index of the token's vector or -1. ``vectors`` is (B, K, W).
    """

    def learnt(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        own = torch.gather(vectors, 1, slots.clamp(min=0)[..., None].expand(-1, -1, vectors.shape[2]))
        return torch.where((slots >= 0)[..., None], own.to(output.dtype), output)

    # A hook, because a table of embeddings that is resized would be shared by all images of the batch.
    handle = text_encoder.get_input_embeddings().register_forward_hook(learnt)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, eq=False)
class Learner:
    """Learns the vectors of a batch of B images. Each image has losses, and steps, of its own."""

    unet: Any
    text_encoder: Any
    # int64 (B, L): the source's prompts, and the slot of each token or -1.
    ids: Tensor
    slots: Tensor
    prompts: Sequence[Prompt]
    # Rows and columns of the maps.
    sides: tuple[int, int]
    # Steps of AdamW at each step of the sampler, at most.
    steps: int

    def initial(self) -> Tensor:
        """The nouns' own embeddings, float32 (B, K, W). Unused slots are 0."""
        table = self.text_encoder.get_input_embeddings()
        embeddings: Tensor = table(self.ids).float()
        count = int(self.slots.max()) + 1
        vectors = embeddings.new_zeros(len(self.ids), max(1, count), embeddings.shape[2])
        rows, columns = (self.slots >= 0).nonzero(as_tuple=True)
        vectors[rows, self.slots[rows, columns]] = embeddings[rows, columns]
        return vectors.detach()

    def text(self, ids: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
        """The embedding (B, L, D) of prompts whose tokens have ``slots`` in ``vectors``."""
        with replaced(self.text_encoder, slots, vectors):
            embedding: Tensor = self.text_encoder(ids)[0]
        return embedding

    def learnt(self, vectors: Tensor, z: Tensor, t: int, done: float) -> Tensor:
        """The vectors of one step, from those of the step before. ``done`` is the share of steps that lies behind."""
        vectors = vectors.detach().clone().requires_grad_()
        optimizer = torch.optim.AdamW([vectors], lr=_RATE)
        running = torch.ones(len(z), dtype=torch.bool, device=z.device)
        for _ in range(self.steps):
            optimizer.zero_grad()
            with torch.enable_grad():
                recorder = AttentionRecorder(self.sides[0] * self.sides[1])
                predicted(self.unet, z, t, self.text(self.ids, self.slots, vectors), recorder)
                maps = recorder.mean()
                parts = [self._losses(n, maps[n]) for n in range(len(z))]
                # An image's vectors enter its own losses alone, so the sum's gradient is that of each.
                total = sum(_WEIGHTS[name] * loss for part in parts for name, loss in part.items())
                if not isinstance(total, Tensor):
                    return vectors.detach()
                total.backward()
            running &= torch.tensor([not _is_done(part, done) for part in parts], device=z.device)
            if not running.any():
                break
            before = vectors.detach().clone()
            optimizer.step()
            with torch.no_grad():
                vectors[~running] = before[~running]
        return vectors.detach()

    def _losses(self, n: int, maps: Tensor) -> dict[str, Tensor]:
        """The losses of image ``n`` by name, for its maps (positions, L)."""
        prompt = self.prompts[n]
        if not prompt.nouns:
            return {}
        words = [torch.from_numpy(noun.tokens).to(maps.device) for noun in prompt.nouns]
        own = losses.word_maps(maps, words)

        # DPL.
        if prompt.masks is None:
            ends = torch.tensor([prompt.end], device=maps.device)
            subjects = torch.zeros(1, maps.shape[1], dtype=torch.bool, device=maps.device)
            subjects[0, torch.cat(words)] = True
            pictures = token_maps(maps[None], ends, self.sides)
            balance = subject_loss(maxima(pictures, subjects))[0]
            return {"balance": balance, "disjoint": losses.disjoint(own)}

        # LocInv.
        pairs = [
            (torch.from_numpy(a), noun) for noun, each in enumerate(prompt.nouns) for a in each.adjectives
        ]
        adjectives = losses.word_maps(maps, [tokens.to(maps.device) for tokens, _ in pairs])
        return {
            "similarity": losses.similarity(own, prompt.masks),
            "overlap": losses.overlap(own, prompt.masks),
            "binding": losses.binding(adjectives, own[[noun for _, noun in pairs]]),
        }


def _is_done(part: dict[str, Tensor], done: float) -> bool:
    """Whether a step's losses are small enough. LocInv runs a fixed number of steps."""
    if "balance" not in part:
        return not part
    # The papers' constants are for 50 steps.
    return all(
        float(part[name].detach()) < beta * math.exp(-50 * done / alpha)
        for name, (beta, alpha) in {"balance": _BALANCE, "disjoint": _DISJOINT}.items()
    )

"""The attention of an edit: what its maps take over from the source's (Hertz et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.attention_maps.words import TokenMap

# LocalBlend: share of the maximum above which a cell belongs to the region.
_THRESHOLD = 0.3


@dataclass(frozen=True, eq=False)
class TokenEdits:
    """The token maps of a batch of B edits, with prompts of L tokens."""

    # float32 (B, L, L): source's tokens by target's.
    matrix: Tensor
    # float32 (B, 1, 1, L): 1 where a target's token keeps its own attention.
    own: Tensor
    # float32 (B, 1, 1, L): the factor of each target's token.
    weight: Tensor

    @classmethod
    def of(cls, maps: Sequence[TokenMap], weight: Tensor, device: torch.device) -> TokenEdits:
        """``weight`` is float32 (B, L)."""
        matrix = torch.stack([torch.from_numpy(each.matrix) for each in maps])
        own = torch.stack([torch.from_numpy(each.own) for each in maps])
        return cls(matrix.to(device), own[:, None, None].to(device), weight[:, None, None].to(device))

    def applied(self, source: Tensor, target: Tensor) -> Tensor:
        """Cross-attention (B, heads, positions, L) of the source and of the target => that of the edit."""
        # Equations of section 3.2: word swap and refinement, then re-weighting.
        return (source @ self.matrix[:, None] + target * self.own) * self.weight


class EditControl:
    """Takes maps of the source's rows over into the edit's rows, and keeps maps for ``blend: words``.

    The first B rows of a batch are the source's, the last B the edit's. Rows between, without a prompt, stay as they
    are.
    """

    def __init__(self, edits: TokenEdits, positions: int, keep: bool) -> None:
        """``positions`` of the finest maps whose self-attention is taken over. ``keep``: keep maps of that size."""
        self.edits, self.positions, self.keep = edits, positions, keep
        self.batch = len(edits.matrix)
        # Set for each step by the sampler.
        self.cross = self.self_attention = True
        # Sum over steps of the maps of both, (2, B, positions, L).
        self.sums: Tensor | None = None
        self._layers: list[Tensor] = []

    def wants(self, cross: bool, positions: int) -> bool:
        if cross:
            return self.cross or (self.keep and positions == self.positions)
        return self.self_attention and positions <= self.positions

    def __call__(self, probabilities: Tensor, cross: bool) -> Tensor:
        rows = self.batch
        source, target = probabilities[:rows], probabilities[-rows:]
        if not cross:
            return torch.cat([probabilities[:-rows], source])
        if self.cross:
            target = self.edits.applied(source, target)
        if self.keep and probabilities.shape[2] == self.positions:
            # The authors keep the maps of the edit as it uses them.
            self._layers.append(torch.stack([source.mean(1), target.mean(1)]))
        return torch.cat([probabilities[:-rows], target])

    def finish_step(self) -> None:
        """Adds the maps of the step's layers to the sums."""
        if self._layers:
            maps = torch.stack(self._layers).mean(0)
            self.sums = maps if self.sums is None else self.sums + maps
            self._layers.clear()


def local_blend(maps: Tensor, words: Tensor, sides: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """LocalBlend's region: float32 (B, 1, h, w) of 0 and 1, for latents of ``size`` (h, w).

    ``maps`` (2, B, positions, L) are summed maps of source and edit, of ``sides`` (rows, columns). ``words`` bool
    (2, B, L) are the edited words of each prompt. The region is the union of both.
    """
    # (2 B, 1, rows, columns): the attention to the edited words.
    strength = (maps * words[:, :, None]).sum(-1).flatten(0, 1).unflatten(1, sides)[:, None]
    spread = F.max_pool2d(strength, 3, stride=1, padding=1)
    spread = F.interpolate(spread, size=size)
    # A prompt without an edited word has no region.
    top = spread.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    regions: Tensor = (spread / top > _THRESHOLD).float().unflatten(0, (2, -1))
    return torch.maximum(regions[0], regions[1])

"""The losses on a prompt's attention maps, for one image each. All take and give float32."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

_EPSILON = 1e-8


def disjoint(maps: Tensor) -> Tensor:
    """DPL: how much the maps of different nouns lie in the same place. (K, positions) => mean cosine of the pairs."""
    pairs = list(combinations(range(len(maps)), 2))
    if not pairs:
        return maps.sum() * 0
    first, second = (list(each) for each in zip(*pairs, strict=True))
    return cosine_similarity(maps[first], maps[second], dim=1).mean()


def similarity(maps: Tensor, masks: Tensor) -> Tensor:
    """LocInv: 1 - the cosine of each map (K, positions) and its mask (K, positions), mean."""
    return (1 - cosine_similarity(maps, masks, dim=1)).mean()


def overlap(maps: Tensor, masks: Tensor) -> Tensor:
    """LocInv: 1 - the share of each map (K, positions) that lies inside its mask (K, positions) of 0 and 1, mean."""
    inside = (maps * masks).sum(1) / (maps.sum(1) + _EPSILON)
    return (1 - inside).mean()


def binding(adjectives: Tensor, nouns: Tensor) -> Tensor:
    """LocInv: 1 - the cosine of the maps of adjectives and of their nouns, (N, positions) each, mean. 0 for none."""
    if not len(adjectives):
        return adjectives.sum() * 0
    return (1 - cosine_similarity(adjectives, nouns, dim=1)).mean()


def word_maps(maps: Tensor, words: list[Tensor]) -> Tensor:
    """The maps of words of one or more tokens: (positions, L) and the tokens of N words => (N, positions)."""
    if not words:
        return maps.new_zeros(0, len(maps))
    return torch.stack([maps[:, tokens].mean(1) for tokens in words])

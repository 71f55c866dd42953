"""DINO's transformer against one that is written out, and the structure distance with PIE-Bench's quirks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.networks import dino
from bench.metrics.types import MetricError, RgbImage
from tests.bench.metrics.pictures import natural

# vit_tiny: 3 heads of 64, patches of 16 px.
HEADS, PATCH = 3, 16


def transformer(state: Mapping[str, Any], pixels: Any) -> tuple[Any, Any]:
    """Dosovitskiy et al. 2021 in float64: class token ``(D,)`` and the last block's keys ``(T, D)``."""
    import torch
    from torch.nn import functional

    weights = {name: values.double() for name, values in state.items()}

    def linear(name: str, x: Any) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    # Patches as rows: (T - 1, 3 PATCH^2).
    patches = functional.unfold(pixels.double(), PATCH, stride=PATCH)[0].T
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    x = torch.cat([weights["cls_token"][0], patches @ kernel.T + weights["patch_embed.proj.bias"]])
    x = x + weights["pos_embed"][0]
    width = x.shape[1]
    for block in range(12):
        name = f"blocks.{block}"
        query, key, values = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x)).split(width, dim=1)
        heads = []
        for head in range(HEADS):
            part = slice(head * width // HEADS, (head + 1) * width // HEADS)
            attention = (query[:, part] @ key[:, part].T / math.sqrt(width // HEADS)).softmax(-1)
            heads.append(attention @ values[:, part])
        x = x + linear(f"{name}.attn.proj", torch.cat(heads, dim=1))
        hidden = linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x))
        x = x + linear(f"{name}.mlp.fc2", functional.gelu(hidden))
    return norm("norm", x)[0], key


def resized(pixels: Any) -> Any:
    """Bilinear without antialiasing to 224 x 224, by hand: ``(1, 3, 224, 224)``, values of 0 to 255."""
    import torch

    side = pixels.shape[0]
    centres = ((np.arange(224) + 0.5) * side / 224 - 0.5).clip(0)
    low = np.floor(centres).astype(int).clip(max=side - 1)
    high, share = np.minimum(low + 1, side - 1), centres - low
    rows = pixels[low] * (1 - share)[:, None, None] + pixels[high] * share[:, None, None]
    both = rows[:, low] * (1 - share)[None, :, None] + rows[:, high] * share[None, :, None]
    return torch.from_numpy(both).permute(2, 0, 1)[None]


def structure_distance(state: Mapping[str, Any], before: Any, after: Any) -> float:
    import torch

    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    matrices = []
    for pixels in (before, after):
        # Not divided by 255: PIE-Bench's quirk.
        _, keys = transformer(state, (resized(pixels.astype(np.float64)) - mean) / deviation)
        unit = keys / keys.norm(dim=1, keepdim=True)
        matrices.append(unit @ unit.T)
    return float((matrices[0] - matrices[1]).square().mean())


def test_class_tokens_are_those_of_the_written_out_transformer(
    small_dino: Callable[[str], Path],
) -> None:
    import torch

    state = torch.load(small_dino("vits16"), weights_only=True)
    prepared = dino.prepare(RgbImage(natural(1, 256)))
    assert prepared.shape == (3, 224, 224)
    token, _ = transformer(state, prepared[None])
    (row,) = dino.DinoNet("vits16").class_tokens([prepared])
    np.testing.assert_allclose(row, token.numpy(), rtol=1e-3, atol=1e-3 * float(token.abs().max()))


def test_the_structure_distance_has_pie_benchs_quirks(small_dino: Callable[[str], Path]) -> None:
    import torch

    state = torch.load(small_dino("vitb8"), weights_only=True)
    before, after = natural(1, 512), natural(2, 512)
    expected = structure_distance(state, before, after)
    assert expected > 1e-4
    (distance,) = dino.DinoNet("vitb8").structure_distances(
        [RgbImage(before)], [RgbImage(after)], dino.prepare_as_pie
    )
    assert distance == pytest.approx(expected, rel=1e-3)


def test_a_pairs_distance_does_not_depend_on_the_batch(small_dino: Callable[[str], Path]) -> None:
    """Twelve pairs in two batches, with images of two sizes, one source repeated and one edit unchanged."""
    small_dino("vitb8")
    source = RgbImage(natural(0, 96))
    edits = [source, *(RgbImage(natural(seed, 64 + 32 * (seed % 2))) for seed in range(1, 12))]
    together = dino.DinoNet("vitb8").structure_distances([source] * 12, edits, dino.prepare_as_pie)
    assert together[0] == 0
    alone = [
        dino.DinoNet("vitb8").structure_distances([source], [edit], dino.prepare_as_pie)[0]
        for edit in (edits[3], edits[11])
    ]
    np.testing.assert_allclose(together[[3, 11]], alone, rtol=1e-3)


def test_a_file_of_another_network_is_refused(small_dino: Callable[[str], Path]) -> None:
    import torch

    path = small_dino("vitb8")
    state = torch.load(path, weights_only=True)
    del state["norm.bias"]
    torch.save(state, path)
    with pytest.raises(MetricError, match=r"does not hold DINO vitb8.*Delete it"):
        dino.DinoNet("vitb8")

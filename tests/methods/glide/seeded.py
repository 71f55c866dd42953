"""Tiny networks, weights and inputs, each a function of a seed alone: what the stored numbers were computed from.

NumPy's legacy generator is used because its streams are frozen for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from methods.glide.config import UNetConfig

_TEXT: dict[str, Any] = {
    "text_ctx": 8,
    "text_width": 64,
    "text_layers": 2,
    "text_heads": 2,
    "vocabulary": 40,
    "channels": 32,
    "head_channels": 32,
}
BASE = UNetConfig(
    kind="base",
    image_size=16,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_factors=(2,),
    schedule="squaredcos_cap_v2",
    **_TEXT,
)
UPSAMPLER = UNetConfig(
    kind="upsampler",
    image_size=32,
    channel_mult=(1, 2, 3),
    res_blocks=2,
    attention_factors=(4,),
    schedule="linear",
    **_TEXT,
)
CONFIGS: dict[str, UNetConfig] = {"base": BASE, "upsampler": UPSAMPLER}
BATCH = 2
LAST = 0.1


def numbers(seed: int, *shape: int) -> Tensor:
    """Standard normal float32."""
    samples = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(samples.astype(np.float32))


def weights(shapes: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """For each name of a state dict; layers that start at zero are not left there, norms are near one.

    The last layer is small: what a sampler multiplies by 1 / sqrt(alpha_bar), up to 20,000, is then not float32's
    rounding of large numbers.
    """
    state = {}
    for name, like in shapes.items():
        samples = numbers((crc32(name.encode()) + seed) % 2**32, *like.shape)
        if "embedding" in name:
            state[name] = 0.5 * samples
        elif like.ndim == 1:
            state[name] = 0.1 * samples + (1.0 if name.endswith(".weight") else 0.0)
        else:
            state[name] = samples / float(np.sqrt(np.prod(like.shape[1:])))
    for name in ("out.2.weight", "out.2.bias"):
        state[name] = LAST * state[name]
    return state


def inputs(part: str) -> dict[str, Tensor]:
    """What one forward pass takes; half of each picture is known, the last two tokens of the first prompt absent."""
    side = CONFIGS[part].image_size
    visible = torch.ones(BATCH, 1, side, side)
    visible[0, :, side // 4 : 3 * side // 4, side // 4 :] = 0
    visible[1, :, : side // 2] = 0
    present = torch.ones(BATCH, 8, dtype=torch.bool)
    present[0, 6:] = False
    example = {
        "x": numbers(1, BATCH, 3, side, side),
        "t": torch.tensor([17, 803]),
        "tokens": torch.from_numpy(np.random.RandomState(2).randint(0, 40, (BATCH, 8)).astype(np.int64)),
        "present": present,
        "image": numbers(3, BATCH, 3, side, side).tanh(),
        "known": visible,
    }
    if part == "upsampler":
        example["low_res"] = numbers(4, BATCH, 3, 16, 16).tanh()
    return example


def noise(seed: int, side: int) -> Callable[[], Tensor]:
    """One tensor after the other, as a sampler draws them."""
    stream = np.random.RandomState(seed)
    return lambda: torch.from_numpy(stream.standard_normal((BATCH, 3, side, side)).astype(np.float32))

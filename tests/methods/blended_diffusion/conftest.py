"""A tiny ADM with known weights, a linear stand-in for the CLIP, and what the published programs made of them.

``reference.npz`` holds numbers that OpenAI's guided-diffusion and the authors' editor (its class ``ImageEditor``, its
losses, its copy of the sampler) computed from weights, pictures and noise that are drawn here again from their seeds.
The stand-in replaced OpenAI's CLIP there, ``lpips_like`` its LPIPS, and the augmentations were switched off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from methods.blended_diffusion.adm import Adm, unet_config
from methods.blended_diffusion.guidance import Guidance, Weighting
from methods.blended_diffusion.sampler import Noise

TINY = Adm(
    image_size=16, channels=32, multipliers=(1, 2, 2), res_blocks=1, attention=(8, 4), head_channels=16
)
WEIGHTING = Weighting(clip=20.0, range=2.0, background=False, lpips=10.0, l2=30.0)
SIZE = 8


def drawn(seed: int, *shape: int) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def tiny_state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The weights that the reference ran with, in guided-diffusion's names."""
    generator = np.random.Generator(np.random.PCG64(7))
    state = {}
    for key in sorted(shapes):
        value = generator.standard_normal(shapes[key]).astype(np.float32) * np.float32(0.08)
        if key.endswith("weight") and len(shapes[key]) == 1:
            value += np.float32(1)
        state[key] = torch.from_numpy(value)
    return state


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    with np.load(Path(__file__).parent / "reference.npz") as file:
        result: dict[str, Any] = {name: file[name] for name in file.files}
    for name in ("adm_shapes", "adm_256_shapes"):
        result[name] = json.loads(str(result[name]))
    return result


@pytest.fixture(scope="session")
def state(reference: dict[str, Any]) -> dict[str, Tensor]:
    return tiny_state(reference["adm_shapes"])


class LinearClip:
    """A "CLIP" of one matrix, with OpenAI's normalisation."""

    size = SIZE
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)

    def __init__(self) -> None:
        generator = np.random.Generator(np.random.PCG64(9))
        matrix = generator.standard_normal((3 * SIZE * SIZE, 6)).astype(np.float32) * np.float32(0.1)
        self.matrix = torch.from_numpy(matrix)
        self.text = torch.from_numpy(generator.standard_normal((1, 6)).astype(np.float32))

    def images(self, views: Tensor) -> Tensor:
        return self.encode(((views + 1) / 2 - self.mean) / self.std)

    def encode(self, pixels: Tensor) -> Tensor:
        return F.normalize(pixels.flatten(1) @ self.matrix, dim=-1)

    def texts(self, texts: Any) -> Tensor:
        return F.normalize(self.text, dim=-1).repeat(len(texts), 1)


def lpips_like(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).abs() ** 1.5).mean(dim=(1, 2, 3), keepdim=True)


def source_pixels() -> Any:
    return np.random.Generator(np.random.PCG64(11)).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def tiny_guidance(images: int = 2, **changes: Any) -> Guidance:
    clip: Any = LinearClip()
    source = torch.from_numpy(source_pixels()).permute(2, 0, 1)[None].float() / 127.5 - 1
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 4:13, 3:11] = 1
    example: dict[str, Any] = {
        "texts": clip.texts(["x"] * images),
        "mask": mask.repeat(images, 1, 1, 1),
        "source": source.repeat(images, 1, 1, 1),
        "weighting": WEIGHTING,
        "candidates": images,
        "lpips": lpips_like,
    }
    return Guidance(clip, **{**example, **changes})


class Tape(Noise):
    """The normal numbers in the order in which the reference drew them."""

    def __init__(self, candidates: int = 2, unused: bool = False) -> None:
        super().__init__([torch.Generator().manual_seed(0)], candidates, "cpu")
        self.random = np.random.Generator(np.random.PCG64(10))
        self.unused = unused

    def _take(self, count: int, *shape: int) -> Tensor:
        return torch.from_numpy(self.random.standard_normal((count, *shape)).astype(np.float32))

    def normal(self, *shape: int, shared: bool = False) -> Tensor:
        if not shared:
            return self._take(self.candidates, *shape)
        if self.unused:  # its DDIM step draws noise and multiplies it by zero
            self._take(self.candidates, *shape)
        return self._take(1, *shape).expand(self.candidates, *shape)


def tiny_unet(seed: int = 0, **config: Any) -> Any:
    """A UNet2DModel of the tiny ADM's configuration with weights of its own, the last layer awake."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(**{**unet_config(TINY), **config})
    return unet.eval().requires_grad_(False)


def tiny_adm(folder: Path) -> Path:
    """Writes a pixel-space UNet of 64 pixels with random weights, and its scheduler, in diffusers' layout."""
    from diffusers import DDPMScheduler

    from methods.zoo.adm import SCHEDULE

    unet = tiny_unet(
        3,
        sample_size=64,
        block_out_channels=(8, 16, 16),
        attention_head_dim=8,
        norm_num_groups=4,
        attn_norm_num_groups=4,
    )
    unet.save_pretrained(folder / "unet")
    DDPMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    return folder

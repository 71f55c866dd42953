"""ADM, the UNet of guided-diffusion, as diffusers' ``UNet2DModel``: its configuration and the mapping of its weights.

Dhariwal and Nichol 2021. The mapping is exact: the same function of the same numbers, block by block.

=============================  ============================================================
guided-diffusion               diffusers
=============================  ============================================================
``time_embed.0``, ``.2``       ``time_embedding.linear_1``, ``.linear_2``
``input_blocks.0.0``           ``conv_in``
``input_blocks.N.0``, ``.1``   ``down_blocks.I.resnets.J``, ``down_blocks.I.attentions.J``
  at the end of a level        ``down_blocks.I.downsamplers.0``
``middle_block.0``/``1``/``2`` ``mid_block.resnets.0``/``attentions.0``/``resnets.1``
``output_blocks.N.0``, ``.1``  ``up_blocks.I.resnets.J``, ``up_blocks.I.attentions.J``
  last part of a level         ``up_blocks.I.upsamplers.0``
``out.0``, ``out.2``           ``conv_norm_out``, ``conv_out``
=============================  ============================================================

Queries, keys and values are one 1x1 convolution in guided-diffusion, its rows ordered (head, q|k|v, channel). Here
they are three linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers import UNet2DModel


@dataclass(frozen=True)
class Adm:
    """Options of guided-diffusion's ``create_model`` with scale-shift norm, resblock up/down and learnt sigma."""

    image_size: int
    channels: int
    # Width of each level, in units of ``channels``.
    multipliers: tuple[int, ...]
    res_blocks: int
    # Side lengths in pixels at which there is attention: the deepest levels, without a gap.
    attention: tuple[int, ...]
    head_channels: int = 64
    # Groups of every GroupNorm. 32 in guided-diffusion.
    groups: int = 32

    @property
    def attends(self) -> tuple[bool, ...]:
        """For each level, True if it has attention."""
        return tuple(self.image_size // 2**i in self.attention for i in range(len(self.multipliers)))


# ``256x256_diffusion_uncond.pt``: 552,814,086 parameters in 566 tensors.
ADM_256 = Adm(
    image_size=256, channels=256, multipliers=(1, 1, 2, 2, 4, 4), res_blocks=2, attention=(32, 16, 8)
)


def unet_config(adm: Adm) -> dict[str, Any]:
    """The arguments of ``UNet2DModel``."""
    down = ["AttnDownBlock2D" if attends else "ResnetDownsampleBlock2D" for attends in adm.attends]
    up = ["AttnUpBlock2D" if attends else "ResnetUpsampleBlock2D" for attends in reversed(adm.attends)]
    return {
        "sample_size": adm.image_size,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": tuple(adm.channels * m for m in adm.multipliers),
        "layers_per_block": adm.res_blocks,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": adm.head_channels,
        "norm_num_groups": adm.groups,
        # Without it the middle attention would have no GroupNorm.
        "attn_norm_num_groups": adm.groups,
        # torch's default, which guided-diffusion takes.
        "norm_eps": 1e-5,
        # Cosines first, as guided-diffusion's timestep embedding has them.
        "flip_sin_to_cos": True,
        # 0 divides the exponents by half of the width. 1, as in DDPM, divides by one less.
        "freq_shift": 0,
    }


_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def modules(adm: Adm) -> dict[str, str]:
    """Name of a module with weights in guided-diffusion -> its name in diffusers.

    For attention's ``qkv``, the three names are joined by ``|``. ``skip_connection`` is listed for every residual
    block, also for those that have none.
    """
    names = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }

    def res(original: str, diffusers: str) -> None:
        names.update({f"{original}.{a}": f"{diffusers}.{b}" for a, b in _RES.items()})

    def attention(original: str, diffusers: str) -> None:
        names[f"{original}.norm"] = f"{diffusers}.group_norm"
        names[f"{original}.qkv"] = f"{diffusers}.to_q|to_k|to_v"
        names[f"{original}.proj_out"] = f"{diffusers}.to_out.0"

    # Down. guided-diffusion numbers all blocks in one list, and a downsampler is a block of its own.
    # Block 0 is the first convolution.
    levels, block = len(adm.multipliers), 1
    for i, attends in enumerate(adm.attends):
        for j in range(adm.res_blocks):
            res(f"input_blocks.{block}.0", f"down_blocks.{i}.resnets.{j}")
            if attends:
                attention(f"input_blocks.{block}.1", f"down_blocks.{i}.attentions.{j}")
            block += 1
        if i < levels - 1:
            res(f"input_blocks.{block}.0", f"down_blocks.{i}.downsamplers.0")
            block += 1
    # The middle.
    res("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    res("middle_block.2", "mid_block.resnets.1")
    # Up. An upsampler is the last part of a level's last block.
    block = 0
    for i, attends in enumerate(reversed(adm.attends)):
        # One more than on the way down: each skip connection, those of the downsamplers too, is read once.
        for j in range(adm.res_blocks + 1):
            res(f"output_blocks.{block}.0", f"up_blocks.{i}.resnets.{j}")
            if attends:
                attention(f"output_blocks.{block}.1", f"up_blocks.{i}.attentions.{j}")
            if i < levels - 1 and j == adm.res_blocks:
                res(f"output_blocks.{block}.{2 if attends else 1}", f"up_blocks.{i}.upsamplers.0")
            block += 1
    return names


def convert(state: Mapping[str, Tensor], adm: Adm, name: str = "the state dict") -> dict[str, Tensor]:
    """guided-diffusion's state dict with diffusers' names and shapes. Values are not changed.

    Raises ValueError, beginning with ``name``, for a tensor that this UNet has no place for. Tensors that are
    missing or of a wrong shape show when the result is loaded: see :func:`load`.
    """
    places = modules(adm)
    out: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        part, _, kind = key.rpartition(".")
        new_name = places.get(part)
        if new_name is None or kind not in ("weight", "bias"):
            unknown.append(key)
        elif part.endswith(".qkv"):
            if value.shape[0] % (3 * adm.head_channels):
                raise ValueError(f"{name}: {key} has {value.shape[0]} rows, no multiple of 3 heads")
            # (3 heads C, ...) with rows (head, q|k|v, channel) -> three of (heads C, ...).
            # Heads are the first factor of the rows, so splitting the rows in three equal parts would mix heads.
            rows = value.reshape(-1, 3, adm.head_channels, *value.shape[1:2])
            stem, names = new_name.rsplit(".", 1)
            for index, leaf in enumerate(names.split("|")):
                out[f"{stem}.{leaf}.{kind}"] = rows[:, index].flatten(0, 1)
        elif part.endswith(".proj_out") and kind == "weight":
            # A 1x1 convolution (out, in, 1) becomes a linear layer (out, in).
            out[f"{new_name}.weight"] = value.flatten(1)
        else:
            out[f"{new_name}.{kind}"] = value
    if unknown:
        raise ValueError(
            f"{name}: {len(unknown)} tensors are not of this ADM, the first {unknown[0]!r}. It must be the "
            f"unconditional {adm.image_size} px model with learnt sigma."
        )
    return out


def load(
    state: Mapping[str, Tensor],
    adm: Adm,
    name: str = "the state dict",
    dtype: torch.dtype = torch.float32,
) -> UNet2DModel:
    """The UNet with the weights of a guided-diffusion state dict, in evaluation mode, frozen, in ``dtype``.

    Strict both ways: raises ValueError that begins with ``name`` where a tensor is missing, left over or of a wrong
    shape.
    """
    from diffusers import UNet2DModel

    # No memory and no initialisation: half a billion numbers are replaced at once by those of the file.
    with torch.device("meta"):
        unet: UNet2DModel = UNet2DModel(**unet_config(adm))
    converted = convert(state, adm, name)
    expected = {key: value.shape for key, value in unet.state_dict().items()}
    missing = [key for key in expected if key not in converted]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} tensors are missing, the first is diffusers' {missing[0]!r}"
        )
    for key, value in converted.items():
        if key not in expected:
            raise ValueError(f"{name}: holds {key!r} (in diffusers' names), which this ADM has not")
        if value.shape != expected[key]:
            raise ValueError(
                f"{name}: {key!r} (in diffusers' names) has shape {tuple(value.shape)}, expected {tuple(expected[key])}"
            )
    # assign: the file's tensors become the parameters, without a second copy.
    unet.load_state_dict({key: value.to(dtype) for key, value in converted.items()}, assign=True)
    return unet.eval().requires_grad_(False)


def load_file(path: Path, adm: Adm = ADM_256, dtype: torch.dtype = torch.float32) -> UNet2DModel:
    """As :func:`load`, from a ``.pt`` file, which is read as plain tensors only. Raises ValueError naming the file."""
    try:
        # weights_only: a pickle could otherwise run code. mmap: 2.2 GB are read when they are used.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged or foreign file provokes
        raise ValueError(
            f"{path}: not a file of plain tensors ({str(error).splitlines()[0]}). Fetch it again."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: expected a state dict, a mapping of names to tensors")
    return load(state, adm, str(path), dtype)


def patch_of(in_channels: int, out_channels: int) -> int:
    """Side of the pixel squares that are one position of the UNet: 1 for ADM.

    Raises ValueError for channels of a model without learnt variances.
    """
    # A UNet with 3 p² input channels takes p x p squares as channels (Luhman and Luhman, "Improving Diffusion Model
    # Efficiency Through Patching", 2022), which is how the mini model affords 64 pixels.
    patch = math.isqrt(in_channels // 3) if in_channels > 0 else 0
    if patch < 1 or in_channels != 3 * patch**2 or out_channels != 2 * in_channels:
        raise ValueError(
            f"the UNet has {in_channels} input and {out_channels} output channels; a pixel-space model with learnt "
            "sigma has 3 and 6, or 3 p² and 6 p² for patches of p x p pixels"
        )
    return patch


def predict(unet: UNet2DModel, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """The network's two outputs, noise (or v) and variance, float32 (B, 3, H, W) each.

    ``x`` is (B, 3, H, W). ``timestep`` is int64 (B,), an index of the training steps.
    """
    patch = patch_of(unet.config["in_channels"], unet.config["out_channels"])
    # Both shuffles are the identity at patch 1.
    pixels = F.pixel_unshuffle(x.to(unet.dtype), patch)
    output, variance = unet(pixels, timestep).sample.float().chunk(2, dim=1)
    return F.pixel_shuffle(output, patch), F.pixel_shuffle(variance, patch)

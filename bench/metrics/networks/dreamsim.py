"""DreamSim (Fu et al. 2023), its single network: DINO ViT-B/16 with low-rank changes, in timm's architecture.

The code is ``dreamsim/model.py`` of ssundaram21/dreamsim, ``dreamsim_type="dino_vitb16"``. Its default is an ensemble
of three networks, whose values differ. The release is an archive with the changes of some weights,

    W' = W + alpha / r * B A,

in the layout of the package peft. The embedding is the class token after the last block, before the last normalisation,
minus its mean and divided by its length.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.networks.dino import prepare_whole
from bench.metrics.networks.precision import exact
from bench.metrics.networks.weights import DINO_VITB16, DREAMSIM
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Side in pixels of its input: images are resized to it without keeping their aspect.
SIDE = 224
_ARCHITECTURE = "vit_base_patch16_224"

prepare = prepare_whole


def problems() -> list[str]:
    """Lists what is missing, each with its remedy. Empty where the network can be loaded."""
    return [problem for file in (DINO_VITB16, DREAMSIM) if (problem := file.problem()) is not None]


def identity() -> str:
    """Names and hashes of both files. Raises :class:`MetricError` where one is missing."""
    return f"{DINO_VITB16.identity()}-{DREAMSIM.identity()}"


class DreamSimNet:
    """The loaded network. Raises :class:`MetricError` where a file is missing or another one."""

    def __init__(self, device: str = "cpu") -> None:
        path, archive = DINO_VITB16.path(), DREAMSIM.path()
        import timm
        import torch

        self.device = device
        self._model: Any = timm.create_model(_ARCHITECTURE, pretrained=False, num_classes=0)
        try:
            state = merged(torch.load(path, map_location="cpu", weights_only=True), *read_adapter(archive))
            self._model.load_state_dict(state, strict=True)
        except Exception as error:
            # Whatever zipfile and torch raise for other files: archives, unpickling, missing keys, shapes.
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MetricError(
                f"{path} and {archive} do not hold DreamSim's network ({first:.120}). Delete them and get them again."
            ) from error
        # The embedding is taken before the last normalisation.
        self._model.norm = torch.nn.Identity()
        self._model.requires_grad_(False).eval().to(device)

    def embeddings(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Results of :func:`prepare` -> ``(N, 768)`` float32, each of mean 0 and length 1."""
        import torch

        with exact(self.device):
            tokens = self._model(torch.stack(list(prepared)).to(self.device))
            centred = tokens - tokens.mean(dim=1, keepdim=True)
            unit = centred / centred.norm(dim=1, keepdim=True)
        return unit.cpu().numpy()  # type: ignore[no-any-return]


def read_adapter(archive: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The low-rank matrices of the release by their names, and their factor alpha / r."""
    import torch
    from safetensors.torch import load

    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if "_lora/" in name and "__MACOSX" not in name]
        (config_name,) = [name for name in names if name.endswith("/adapter_config.json")]
        (weights_name,) = [name for name in names if re.search(r"/adapter_model\.(bin|safetensors)$", name)]
        config, data = json.loads(opened.read(config_name)), opened.read(weights_name)
    is_pickle = weights_name.endswith(".bin")
    matrices = (
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True) if is_pickle else load(data)
    )
    return matrices, config["lora_alpha"] / config["r"]


def merged(
    state: Mapping[str, torch.Tensor], matrices: Mapping[str, torch.Tensor], factor: float
) -> dict[str, torch.Tensor]:
    """The network's weights with the low-rank changes added. Raises KeyError and ValueError for another layout."""
    changed = dict(state)
    for name, a in matrices.items():
        # base_model.model.extractor_list.0.model.blocks.3.attn.qkv.lora_A.weight
        place = re.search(r"(blocks\.\d+\..+)\.lora_A\.", name)
        if place is None:
            continue
        b = matrices[name.replace(".lora_A.", ".lora_B.")]
        weight = f"{place[1]}.weight"
        # (out, r) times (r, in), which some versions of peft store as convolutions.
        changed[weight] = state[weight] + factor * (b.flatten(1) @ a.flatten(1))
    if not any(changed[name] is not state[name] for name in state):
        raise ValueError("no low-rank matrices in it")
    return changed

"""A network saved without what it shares with its base.

Where the base's convolutions did not learn, a checkpoint need not hold them again: the file keeps the tensors that
differ from the base's, and ``base.json`` says where the base is, as a folder relative to this one, and its SHA-256.
``PromptEditDiffUNet.from_pretrained`` reads both layouts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from methods.prompt_edit_diff.model import PromptEditDiffUNet

BASE = "base.json"
TENSORS = "diffusion_pytorch_model.safetensors"
PREFIX = "unet."
"""Of the base's tensors within the network's."""


def leave_out(folder: Path, base: Path) -> float:
    """Rewrite a saved network (``folder``) without the tensors that its base (``base``) has, bit for bit.

    Gives the share of bytes that is left. Both folders hold ``diffusion_pytorch_model.safetensors``.
    """
    from safetensors.torch import load_file, save_file

    path = folder / TENSORS
    mine, theirs = load_file(path), load_file(base / TENSORS)
    before = path.stat().st_size
    kept = {name: value for name, value in mine.items() if not _same(name, value, theirs)}
    part = path.with_suffix(".part")
    save_file(kept, part, metadata={"format": "pt"})
    where = {"folder": Path(os.path.relpath(base, folder)).as_posix(), "sha256": _sha256(base / TENSORS)}
    (folder / BASE).write_text(json.dumps(where, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)
    return path.stat().st_size / before


def _same(name: str, value: Tensor, theirs: Mapping[str, Tensor]) -> bool:
    other = theirs.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return (
        other is not None
        and value.dtype == other.dtype
        and value.shape == other.shape
        and torch.equal(value, other)
    )


def load(cls: type[PromptEditDiffUNet], folder: Path, dtype: torch.dtype | None = None) -> PromptEditDiffUNet:
    """The network of a folder with ``base.json``, in evaluation mode.

    Raises ValueError where the base is absent or another one, or where tensors are missing or unknown.
    """
    from safetensors.torch import load_file

    where = json.loads((folder / BASE).read_text(encoding="utf-8"))
    base = (folder / where["folder"] / TENSORS).resolve()
    if not base.is_file():
        raise ValueError(
            f"{folder / BASE}: the base {base} is missing; restore it, or train the network anew"
        )
    if _sha256(base) != where["sha256"]:
        raise ValueError(
            f"{folder / BASE}: {base} is not the base that this network was trained on (its SHA-256 differs). "
            "Restore that base, or train the network anew on this one"
        )
    model = cls.from_config(cls.load_config(str(folder)))
    state = {PREFIX + name: value for name, value in load_file(base).items()}
    state.update(load_file(folder / TENSORS))
    model.load_state_dict(state)
    made: PromptEditDiffUNet = (model if dtype is None else model.to(dtype)).eval()
    return made


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

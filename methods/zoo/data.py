"""What a recipe may ask of the world it is trained on, and the few conversions all recipes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.edit import EditCase


class World(Protocol):
    """An endless, seeded source of training examples. It does not know what is trained on it.

    Every index names one example, the same one each time. Negative indices are held out: no recipe trains on
    them, every sample grid and every gate may look at them.
    """

    version: str
    """Goes up with every change of what is drawn; cards name it."""

    def picture(self, index: int) -> NDArray[np.uint8]:
        """One picture, uint8 (64, 64, 3)."""
        ...

    def labelled(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], dict[str, str]]:
        """A picture, a region of it, bool (64, 64), and what the region shows: attribute -> value."""
        ...

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Every attribute that ``labelled`` may name, with all of its values."""
        ...

    def described(self, index: int) -> tuple[NDArray[np.uint8], str, dict[str, str]]:
        """A picture with one subject, its prompt, and every attribute that the prompt names."""
        ...

    def contrasts(self, index: int) -> dict[str, list[str]]:
        """Attribute -> the prompt of ``described(index)``, then the prompts that differ in this attribute alone."""
        ...

    def case(self, index: int) -> EditCase:
        """One edit with its ground truth."""
        ...

    def words(self) -> Sequence[str]:
        """Every word that any prompt of this world uses."""
        ...


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) in [0, 255] => float32 (N, 3, H, W) in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pictures(x: Tensor) -> NDArray[np.uint8]:
    """Float (N, 3, H, W) in [-1, 1] => uint8 (N, H, W, 3), clipped and rounded."""
    out: NDArray[np.uint8] = (
        x.detach().float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    )
    return out


def save_grid(path: Path, rows: Sequence[Tensor], columns: int, scale: int = 2) -> None:
    """Pictures (N, 3, H, W) in [-1, 1], one tensor per kind, as a PNG: kinds below one another, ``columns`` wide."""
    from PIL import Image

    blocks = []
    for start in range(0, rows[0].shape[0], columns):
        for row in rows:
            pictures = to_pictures(row[start : start + columns])
            blocks.append(np.concatenate(list(pictures), axis=1))
    width = max(b.shape[1] for b in blocks)
    blocks = [np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0))) for b in blocks]
    sheet = Image.fromarray(np.concatenate(blocks, axis=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(path)

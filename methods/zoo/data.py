"""The interface of the world that recipes train on, and conversions that all recipes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.edit import EditCase


class World(Protocol):
    """An endless, seeded source of training examples. It does not know the networks.

    Every index stands for one example, the same one each time. Negative indices are held out: no recipe trains on
    them, and sample grids and thresholds use them.
    """

    # Increases with every change of the renders. Cards state it.
    version: str

    def by_level(self) -> Mapping[int, World]:
        """Level of difficulty -> the part of this world that has this level alone."""
        ...

    def picture(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 (64, 64, 3)."""
        ...

    def labelled(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], dict[str, str]]:
        """An image, a region bool (64, 64), and the values that the region shows, by attribute."""
        ...

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Every attribute of ``labelled``, with all of its values."""
        ...

    def described(self, index: int) -> tuple[NDArray[np.uint8], str, dict[str, str]]:
        """An image with one subject, its prompt, and the values that the prompt names, by attribute."""
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


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) in [0, 255] => float32 (N, 3, H, W) in [-1, 1]."""
    # NHWC => NCHW.
    # torch.tensor copies. from_numpy would warn of Pillow's arrays, which are read-only.
    return torch.tensor(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_images(x: Tensor) -> NDArray[np.uint8]:
    """Float (N, 3, H, W) in [-1, 1] => uint8 (N, H, W, 3), clipped and rounded."""
    out: NDArray[np.uint8] = (
        x.detach().float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    )
    return out


def epoch_rows(step: int, size: int, count: int, stream: int) -> NDArray[np.int64]:
    """Indices of the ``size`` examples of a step among ``count``. Each epoch has a permutation of its own."""
    # A batch that crosses the end of its epoch wraps around.
    first = step * size
    # Seeded by a pair: two streams have independent orders in the same epoch.
    order = np.random.Generator(np.random.PCG64([first // count, stream])).permutation(count)
    rows: NDArray[np.int64] = order[(first + np.arange(size)) % count]
    return rows


def save_grid(path: Path, rows: Sequence[Tensor], columns: int) -> None:
    """Write a PNG of images (N, 3, H, W) in [-1, 1], at twice their size.

    ``rows``: one tensor per kind. The kinds stand below one another.
    """
    from PIL import Image

    blocks = []
    for start in range(0, rows[0].shape[0], columns):
        for row in rows:
            blocks.append(np.concatenate(list(to_images(row[start : start + columns])), axis=1))
    # The last block may be narrower.
    width = max(b.shape[1] for b in blocks)
    blocks = [np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0))) for b in blocks]
    sheet = Image.fromarray(np.concatenate(blocks, axis=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(path)

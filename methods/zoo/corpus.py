"""The edits that the diffusion recipes learn from, rendered once and encoded once.

Rendering is cheap, encoding is not: three latents belong to every edit (the source's, the truth's, the masked
source's), and a training looks at each of them many times. Both live in chunks on disk, each written whole or
not at all, so that a killed build goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.edit import EditCase
from bench.images import mask_array
from methods.mask_grid import cover_cells
from methods.training import autocast
from methods.zoo.data import World, to_tensor

CHUNK = 2_000
FACTOR = 4
"""Pixels per latent cell, along each side."""
HIDDEN = "pixels"
"""What a masked source hides, in the names of the latents' files: those of another way are of no use."""

Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    pass


class Corpus:
    """``size`` edits of a world, in a folder.

    Arrays, first axis the edit: ``source``, ``truth`` uint8 (N, 64, 64, 3); ``mask`` bool (N, 64, 64);
    latents ``z_source``, ``z_truth``, ``z_masked`` float16 (N, 4, 16, 16), unscaled means;
    texts ``source_prompt``, ``target_prompt``, ``instruction``, ``region_prompt``: lists of str.
    """

    TEXTS = ("source_prompt", "target_prompt", "instruction", "region_prompt")
    LATENTS = ("z_source", "z_truth", "z_masked")

    def __init__(self, world: World, folder: Path, size: int) -> None:
        self.world, self.folder = world, folder
        self.size = -(-size // CHUNK) * CHUNK
        self.chunks = range(self.size // CHUNK)
        folder.mkdir(parents=True, exist_ok=True)

    # ---- pictures

    def render(self, progress: Progress = _quiet) -> None:
        """Draw what is not drawn yet. Raises ValueError where the folder's edits are not this world's any more."""
        self._check()
        for chunk in self.chunks:
            path = self._pictures(chunk)
            if not path.exists():
                cases = [self.world.case(chunk * CHUNK + i) for i in range(CHUNK)]
                _save(path, **_arrays(cases))
            progress((chunk + 1) * CHUNK, self.size)

    def _check(self) -> None:
        """Hold the folder to the world that it was begun with: the first edits must still be drawn the same."""
        digest = hashlib.sha256(self.world.version.encode())
        for index in range(16):
            case = self.world.case(index)
            digest.update(repr([getattr(case.request, name) for name in self.TEXTS]).encode())
            for image in (case.request.source, case.request.mask, case.truth):
                digest.update(b"" if image is None else image.tobytes())
        stamp, path = digest.hexdigest()[:16], self.folder / "world.txt"
        if not path.exists() and not any(self.folder.glob("pictures-*.npz")):
            path.write_text(stamp)
        if not path.exists() or path.read_text() != stamp:
            raise ValueError(
                f"{self.folder}: its edits are not those that the world draws now. "
                "Delete the folder, and the next training draws them anew."
            )

    def pictures(self, chunk: int) -> dict[str, Any]:
        """The arrays of one chunk that need no autoencoder."""
        with np.load(self._pictures(chunk)) as file:
            return {name: file[name] for name in file.files}

    def masked(self, size: int) -> Callable[[int], tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        """Batches by step: pictures uint8 (size, 64, 64, 3), and the cells of their edits' masks, bool (size, 64, 64).

        Sources at even steps, truths at odd ones; a chunk is read once for as many steps as it feeds.
        """
        per_chunk = CHUNK // size
        held: dict[int, dict[str, Any]] = {}

        def batch(step: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            chunk = step // per_chunk % len(self.chunks)
            if chunk not in held:
                held.clear()
                held[chunk] = self.pictures(chunk)
            first = step % per_chunk * size
            rows = slice(first, first + size)
            images = held[chunk]["truth" if step % 2 else "source"][rows]
            return images, np.stack([cover_cells(mask, FACTOR) for mask in held[chunk]["mask"][rows]])

        return batch

    # ---- latents

    def encode(
        self,
        vae: nn.Module,
        device: str = "cpu",
        progress: Progress = _quiet,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Encode what this autoencoder has not encoded yet. Masked sources are gray inside the mask (SD's way).

        The mask's own pixels alone: in a cell that it only touches, the rest is to be kept, and so to be seen.
        """
        tag = fingerprint(vae)
        for chunk in self.chunks:
            path = self._encoded(chunk, tag)
            if not path.exists():
                raw = self.pictures(chunk)
                keep = ~raw["mask"]
                latents: dict[str, list[NDArray[np.float16]]] = {name: [] for name in self.LATENTS}
                for start in range(0, CHUNK, 100):
                    part = slice(start, start + 100)
                    source, truth = to_tensor(raw["source"][part]), to_tensor(raw["truth"][part])
                    masked = source * torch.from_numpy(keep[part, None])
                    for name, x in zip(self.LATENTS, (source, truth, masked), strict=True):
                        latents[name].append(encode(vae, x, device, dtype).half().numpy())
                _save(path, **{name: np.concatenate(parts) for name, parts in latents.items()})
            progress((chunk + 1) * CHUNK, self.size)

    def load(self, vae: nn.Module) -> dict[str, Any]:
        """Everything but the pictures, in memory: latents, latent-sized masks, texts (about 6.5 kB an edit)."""
        tag = fingerprint(vae)
        out: dict[str, list[Any]] = {}
        for chunk in self.chunks:
            with np.load(self._encoded(chunk, tag)) as file:
                for name in self.LATENTS:
                    out.setdefault(name, []).append(file[name])
            with np.load(self._pictures(chunk)) as file:
                cells = np.stack([cover_cells(m, FACTOR)[::FACTOR, ::FACTOR] for m in file["mask"]])
                out.setdefault("cells", []).append(cells)
                for name in self.TEXTS:
                    out.setdefault(name, []).append(file[name])
        joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in out.items()}
        for name in self.TEXTS:
            joined[name] = [str(text) for text in joined[name]]
        return joined

    def _pictures(self, chunk: int) -> Path:
        return self.folder / f"pictures-{chunk:04d}.npz"

    def _encoded(self, chunk: int, tag: str) -> Path:
        return self.folder / f"latents-{HIDDEN}-{tag}-{chunk:04d}.npz"


def encode(vae: nn.Module, x: Tensor, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Means of the latents, unscaled, on the CPU.

    float32 (N, 3, H, W) in [-1, 1] => float32 (N, 4, H/4, W/4). bfloat16's rounding, half a percent of a latent,
    is far below the least noise that a diffusion model is trained on.
    """
    with torch.no_grad(), autocast(device, dtype):
        x = x.to(device).contiguous(memory_format=torch.channels_last)
        z: Tensor = vae.encode(x).latent_dist.mean  # type: ignore[operator]
    return z.float().cpu()


def fingerprint(vae: nn.Module) -> str:
    """12 hex digits that change with any weight of the encoder: latents of another one are of no use."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:12]


def _arrays(cases: Sequence[EditCase]) -> dict[str, Any]:
    for case in cases:
        if case.truth is None:
            raise ValueError(f"case {case.id} has no ground truth: a recipe cannot learn from it")
    return {
        "source": np.stack([np.asarray(c.request.source, np.uint8) for c in cases]),
        "truth": np.stack([np.asarray(c.truth, np.uint8) for c in cases]),
        "mask": np.stack([mask_array(c.request.mask) for c in cases]),
        "category": np.array([c.category for c in cases]),
        **{name: np.array([getattr(c.request, name) for c in cases]) for name in Corpus.TEXTS},
    }


def _save(path: Path, **arrays: Any) -> None:
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(path)

"""The edits that the recipes learn from, rendered once and encoded once.

Rendering is cheap and encoding is not: every edit has three latents (of the source, the ground truth and the masked
source), and a training uses each of them many times. Images and latents lie in chunks on disk. Each chunk is complete
or absent, so an interrupted build continues where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.edit import EditCase
from bench.files import atomic_file
from bench.images import mask_array
from methods.mask_grid import cover_cells
from methods.training import autocast
from methods.zoo.data import World, to_tensor

# Edits per file.
CHUNK = 2_000
# Pixels per latent cell, along each side.
FACTOR = 4
# Names of the latents' files contain what a masked source hides, since latents of another rule are of no use.
HIDDEN = "pixels"

# Receives the number of edits that are done, and their total.
Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    pass


class Corpus:
    """``size`` edits of a world, in a folder.

    Arrays, with the edits as first axis: ``source``, ``truth`` uint8 (N, 64, 64, 3). ``mask`` bool (N, 64, 64). Latents
    ``z_source``, ``z_truth``, ``z_masked`` float16 (N, 4, 16, 16), unscaled means. Texts ``source_prompt``,
    ``target_prompt``, ``instruction``, ``region_prompt``: lists of str.
    """

    TEXTS = ("source_prompt", "target_prompt", "instruction", "region_prompt")
    LATENTS = ("z_source", "z_truth", "z_masked")

    def __init__(self, world: World, folder: Path, size: int) -> None:
        self.world, self.folder = world, folder
        # Whole chunks: every file then has equally many edits, and an index tells its file.
        self.size = -(-size // CHUNK) * CHUNK
        self.chunks = range(self.size // CHUNK)
        folder.mkdir(parents=True, exist_ok=True)
        # Consecutive steps of a training use the same chunk.
        self.cached_images = lru_cache(maxsize=2)(self.images)

    # ---- images

    def render(self, progress: Progress = _quiet) -> None:
        """Render the missing chunks. Raises ValueError where the world no longer renders the folder's edits."""
        self._check_world()
        for chunk in self.chunks:
            path = self.image_path(chunk)
            if not path.exists():
                save_arrays(path, image_arrays([self.world.case(chunk * CHUNK + i) for i in range(CHUNK)]))
            progress((chunk + 1) * CHUNK, self.size)

    def _check_world(self) -> None:
        """Compare the first edits with those that the world had when the folder was begun."""
        # Texts and pixels of 16 edits identify the world well enough.
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

    def images(self, chunk: int) -> dict[str, Any]:
        """The arrays of one chunk that need no autoencoder."""
        with np.load(self.image_path(chunk)) as file:
            return {name: file[name] for name in file.files}

    def whole(self, name: str) -> NDArray[Any]:
        """One array of :meth:`images` over all chunks. All sources of the recipes' corpus take 0.8 GB."""
        joined: NDArray[Any] | None = None
        for chunk in self.chunks:
            # An NPZ file reads an array when it is named, and the others are not needed.
            with np.load(self.image_path(chunk)) as file:
                part = file[name]
            if joined is None:
                joined = np.empty((self.size, *part.shape[1:]), part.dtype)
            joined[chunk * CHUNK : (chunk + 1) * CHUNK] = part
        assert joined is not None, "a corpus has at least one chunk"
        return joined

    def masked(self, size: int) -> Callable[[int], tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        """Batches by step: images uint8 (size, 64, 64, 3), and the cells of their edits' masks, bool (size, 64, 64).

        Even steps have sources, odd steps ground truths.
        """
        per_chunk = CHUNK // size

        def batch(step: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            arrays = self.cached_images(step // per_chunk % len(self.chunks))
            first = step % per_chunk * size
            rows = slice(first, first + size)
            images = arrays["truth" if step % 2 else "source"][rows]
            return images, np.stack([cover_cells(mask, FACTOR) for mask in arrays["mask"][rows]])

        return batch

    # ---- latents

    def encode(
        self,
        vae: nn.Module,
        device: str = "cpu",
        progress: Progress = _quiet,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Encode the chunks that this autoencoder has not encoded yet.

        Masked sources are gray inside the mask, as in Stable Diffusion. Only the mask's own pixels are hidden: the
        rest of a cell that it touches must be preserved, and so must be visible.
        """
        tag = fingerprint(vae)
        for chunk in self.chunks:
            path = self._latent_path(chunk, tag)
            if not path.exists():
                arrays = self.images(chunk)
                latents: dict[str, list[NDArray[np.float16]]] = {name: [] for name in self.LATENTS}
                # Three latents per edit, in batches of 100.
                for start in range(0, CHUNK, 100):
                    rows = slice(start, start + 100)
                    source, truth = to_tensor(arrays["source"][rows]), to_tensor(arrays["truth"][rows])
                    # 0 is mid-grey in [-1, 1].
                    masked = source * torch.from_numpy(~arrays["mask"][rows, None])
                    for name, x in zip(self.LATENTS, (source, truth, masked), strict=True):
                        # float16 halves the files. Its relative error is below a thousandth.
                        latents[name].append(encode(vae, x, device, dtype).half().numpy())
                save_arrays(path, {name: np.concatenate(parts) for name, parts in latents.items()})
            progress((chunk + 1) * CHUNK, self.size)

    def load(self, vae: nn.Module) -> dict[str, Any]:
        """Everything but the images, in memory: latents, latent-sized masks, texts (about 6.5 kB per edit)."""
        tag = fingerprint(vae)
        chunks: dict[str, list[Any]] = {name: [] for name in (*self.LATENTS, "cells", *self.TEXTS)}
        for chunk in self.chunks:
            with np.load(self._latent_path(chunk, tag)) as file:
                for name in self.LATENTS:
                    chunks[name].append(file[name])
            with np.load(self.image_path(chunk)) as file:
                chunks["cells"].append(
                    np.stack([cover_cells(m, FACTOR)[::FACTOR, ::FACTOR] for m in file["mask"]])
                )
                for name in self.TEXTS:
                    chunks[name].append(file[name])
        # One array per name, over all chunks.
        joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in chunks.items()}
        for name in self.TEXTS:
            joined[name] = [str(text) for text in joined[name]]
        return joined

    def image_path(self, chunk: int) -> Path:
        return self.folder / f"pictures-{chunk:04d}.npz"

    def _latent_path(self, chunk: int, tag: str) -> Path:
        return self.folder / f"latents-{HIDDEN}-{tag}-{chunk:04d}.npz"


def encode(vae: Any, x: Tensor, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Means of the latents, unscaled, on the CPU.

    float32 (N, 3, H, W) in [-1, 1] => float32 (N, 4, H/4, W/4). Rounding to bfloat16 changes half a percent of a
    latent, far below the least noise that a diffusion model is trained on.
    """
    with torch.no_grad(), autocast(device, dtype):
        z: Tensor = vae.encode(x.to(device).contiguous(memory_format=torch.channels_last)).latent_dist.mean
    return z.float().cpu()


def fingerprint(vae: nn.Module) -> str:
    """12 hex digits that change with any weight of the encoder: latents of another encoder are of no use."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode())
            # In half precision, as checkpoints are saved: a saved encoder has the digest of the one that it was
            # saved from.
            digest.update(value.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:12]


def image_arrays(cases: Sequence[EditCase]) -> dict[str, Any]:
    """The arrays of :meth:`Corpus.images`. Raises ValueError for a case without ground truth."""
    for case in cases:
        if case.truth is None:
            raise ValueError(f"case {case.id} has no ground truth: a recipe cannot learn from it")
    return {
        "source": np.stack([np.asarray(c.request.source, np.uint8) for c in cases]),
        "truth": np.stack([np.asarray(c.truth, np.uint8) for c in cases]),
        "mask": np.stack([mask_array(c.request.needed_mask) for c in cases]),
        "category": np.array([c.category for c in cases]),
        **{name: np.array([getattr(c.request, name) for c in cases]) for name in Corpus.TEXTS},
    }


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write an NPZ file, whole or not at all."""
    with atomic_file(path) as temporary:
        np.savez(temporary, **arrays)

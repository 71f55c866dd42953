"""LaMa (Suvorov et al., WACV 2022): the inpainting GAN. It continues the surroundings into the hole, without a prompt.

It runs the published TorchScript, a generator of one's own, or the embedded miniature. All three have the same call,
``model(image, mask)``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import images
from bench.edit import EditMethod
from bench.files import sha256_bytes
from methods import batches, weights
from methods.lama import checkpoint
from methods.runtime import refuse, runtime_problems

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from bench.edit import EditRequest, Runtime

# Multiple that sides are padded to: the network halves three times.
FACTOR = 8
# Least side after padding: the network pads its coarsest level by reflection, which takes two samples a side.
SMALLEST = 16


class Lama(EditMethod):
    summary = (
        "LaMa: inpainting GAN without a prompt, fills the mask from its surroundings (public or mini weights)"
    )
    needs: frozenset[str] = frozenset({"source", "mask"})

    @dataclass(frozen=True)
    class Options:
        weights: str = checkpoint.PUBLIC_NAME
        """A TorchScript file with LaMa's call, a folder of a generator of one's own, or ``zoo:NAME``. The bare name
        ``big-lama.pt`` is looked up in the working folder, then where torch's hub keeps its files."""
        sha256: str | None = None
        """SHA-256 that a TorchScript file must have (64 hexadecimal digits). None is the published file's."""

    PRESETS: Mapping[str, Mapping[str, Any]] = {"mini": {"weights": "zoo:lama"}}

    @classmethod
    def identity(cls, options: Options) -> dict[str, str]:
        try:
            files = checkpoint.find(options.weights, options.sha256)
        except weights.WeightsError:
            return {"weights": options.weights}
        if files.kind == "zoo":
            return weights.zoo_identity(options.weights)
        return {"sha256": files.sha256}

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        try:
            files = checkpoint.find(options.weights, options.sha256)
        except weights.WeightsError as error:
            return [error.problem]
        if options.sha256 is not None and files.kind != "torchscript":
            return [f"sha256 is for a TorchScript file, and weights {options.weights!r} are a {files.kind}'s"]
        return []

    def __init__(self, options: Options, runtime: Runtime) -> None:
        refuse("lama", self.problems(options) + runtime_problems(runtime))
        self.device = runtime.device
        self.files = checkpoint.find(options.weights, options.sha256)
        # In float32 whatever the run's dtype: Fourier transforms in half precision exist for powers of two at best.
        self.model = _load(self.files, runtime.device)

    def edit(self, requests: Sequence[EditRequest]) -> list[Image]:
        """Fills sources of one size, any size. Outside the mask the sources' own pixels stay, bit for bit."""
        import torch

        if not requests:
            return []
        image, mask = self._tensors(requests)
        # Without specialisation to earlier calls: results must not depend on them.
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            filled = self.model(image, mask)
        # A file of the right hash may be any program, if the user named the hash.
        if not isinstance(filled, torch.Tensor) or filled.shape != image.shape:
            output = tuple(filled.shape) if isinstance(filled, torch.Tensor) else type(filled).__name__
            raise ValueError(
                f"{self.files.path}: returned {output} for an image of {tuple(image.shape)}. LaMa returns an image of "
                "the same shape. Use big-lama.pt, or a file that is called in the same way."
            )
        width, height = requests[0].source.size
        # The published network's sigmoid is composed in float and may leave [0, 1] by rounding.
        levels = (filled.float() * 255).clamp(0, 255).round().to(torch.uint8)
        arrays = levels.permute(0, 2, 3, 1).cpu().numpy()[:, :height, :width]
        return batches.composite(requests, [images.from_array(array) for array in arrays])

    def _tensors(self, requests: Sequence[EditRequest]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 (B, 3, H, W) in [0, 1] and masks float32 (B, 1, H, W), 1 = hole, both padded."""
        import torch

        width, height = batches.one_size(requests, 1)
        holes = np.stack(batches.edit_masks(requests, "fill"))
        pixels = np.stack([images.to_array(source) for source in batches.sources(requests)])

        # Padded at the right and the bottom by reflection with the edge repeated, as in the authors' own predictor.
        # -side % FACTOR is what is missing to the next multiple, 0 for a multiple. SMALLEST is one too.
        more = [(0, max(-side % FACTOR, SMALLEST - side)) for side in (height, width)]
        pixels = np.pad(pixels, ((0, 0), *more, (0, 0)), mode="symmetric")
        holes = np.pad(holes, ((0, 0), *more), mode="symmetric")

        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device).float() / 255
        return image, torch.from_numpy(holes)[:, None].to(self.device).float()


def _load(files: checkpoint.LamaFiles, device: str) -> Any:
    """The model, called as ``model(image, mask)``. Raises ValueError that names a file without one."""
    if files.kind != "torchscript":
        from methods.lama.network import load

        return load(files.path, device)
    import torch

    # The bytes that are checked are the bytes that are run, whatever happens to the file meanwhile.
    data = files.path.read_bytes()
    if sha256_bytes(data) != files.sha256:
        raise ValueError(
            f"{files.path}: changed since its SHA-256 was taken. {checkpoint.remedy(files.path)}"
        )
    try:
        with warnings.catch_warnings():
            # torch announces the end of TorchScript, but the published weights exist in no other form.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{files.path}: not a TorchScript file ({reason}). {checkpoint.remedy(files.path)}"
        ) from error

"""DINO's vision transformers (Caron et al. 2021) with the authors' weights, in timm's architecture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.networks.precision import exact
from bench.metrics.networks.weights import DINO_VITB8, DINO_VITS16, WeightFile
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.metrics.types import RgbImage

    Prepare = Callable[[RgbImage], torch.Tensor]

# Side in pixels of its input.
SIDE = 224

# Network -> its name in timm, whose layers have the names of the authors' file, and that file.
_NETWORKS: dict[str, tuple[str, WeightFile]] = {
    "vits16": ("vit_small_patch16_224", DINO_VITS16),
    "vitb8": ("vit_base_patch8_224", DINO_VITB8),
}

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Images per pass of :meth:`DinoNet.structure_distances`, and matrices (2.5 MB each) of images in memory.
_BATCH, _REMEMBERED = 8, 32


def problems(net: str) -> list[str]:
    """Lists what is missing, with its remedy. Empty where the weights are on this machine."""
    problem = _NETWORKS[net][1].problem()
    return [] if problem is None else [problem]


def identity(net: str) -> str:
    """Name and hash of the weight file. Raises :class:`MetricError` where it is missing."""
    return _NETWORKS[net][1].identity()


def prepare(image: RgbImage) -> torch.Tensor:
    """The transform of DINO's evaluation: ``(3, 224, 224)`` float32, normalised.

    The shorter side is resized to 256 (bicubic, antialiased), and the centre of 224 x 224 is cropped.
    """
    from torchvision.transforms.v2 import functional as transforms

    from bench.images import from_array

    resized = transforms.resize(
        from_array(image.pixels), [256], interpolation=transforms.InterpolationMode.BICUBIC
    )
    pixels = transforms.pil_to_tensor(transforms.center_crop(resized, [SIDE, SIDE])).float() / 255
    normalised: torch.Tensor = transforms.normalize(pixels, list(_MEAN), list(_DEVIATION))
    return normalised


def prepare_whole(image: RgbImage) -> torch.Tensor:
    """The whole image at 224 x 224 (bicubic, antialiased, its aspect not kept): ``(3, 224, 224)``, normalised."""
    from torchvision.transforms.v2 import functional as transforms

    from bench.images import from_array

    resized = transforms.resize(
        from_array(image.pixels), [SIDE, SIDE], interpolation=transforms.InterpolationMode.BICUBIC
    )
    pixels = transforms.pil_to_tensor(resized).float() / 255
    normalised: torch.Tensor = transforms.normalize(pixels, list(_MEAN), list(_DEVIATION))
    return normalised


def prepare_as_pie(image: RgbImage) -> torch.Tensor:
    """PIE-Bench's input of the structure distance: ``(3, 224, 224)``, with two quirks of its code.

    Values of 0 to 255 get ImageNet's normalisation for values of 0 to 1. The bilinear resizing has no antialiasing, as
    it is the default for tensors in the torchvision 0.13.1 that PIE-Bench's instructions install.
    """
    import torch
    from torchvision.transforms.v2 import functional as transforms

    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        pixels, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False
    )
    normalised: torch.Tensor = transforms.normalize(resized[0], list(_MEAN), list(_DEVIATION))
    return normalised


class DinoNet:
    """A loaded network: ``vits16`` or ``vitb8``. Raises :class:`MetricError` where its file is missing or wrong."""

    def __init__(self, net: str, device: str = "cpu") -> None:
        architecture, weights = _NETWORKS[net]
        path = weights.path()
        import timm
        import torch

        self.device = device
        self._model: Any = timm.create_model(architecture, pretrained=False, num_classes=0)
        try:
            self._model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        except Exception as error:
            # Whatever torch raises for another file: unpickling, missing keys, shapes.
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MetricError(
                f"{path} does not hold DINO {net} ({first:.120}). Delete it and get {weights.name} again."
            ) from error
        self._model.requires_grad_(False).eval().to(device)
        # (preparation, RgbImage.key) -> its similarity matrix, the last one used at the end.
        self._similarities: OrderedDict[tuple[Prepare, str], torch.Tensor] = OrderedDict()

    def class_tokens(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Results of :func:`prepare` -> ``(N, D)`` float32: the class token after the last normalisation."""
        import torch

        with exact(self.device):
            tokens = self._model(torch.stack(list(prepared)).to(self.device))
        return tokens.cpu().numpy()  # type: ignore[no-any-return]

    def structure_distances(
        self, sources: Sequence[RgbImage], edits: Sequence[RgbImage], prepare: Prepare
    ) -> NDArray[np.float32]:
        """``(N,)`` float32: mean squared difference of the key self-similarities of each pair of images.

        Tumanyan et al. 2022, section 3. ``prepare``: :func:`prepare_whole` or :func:`prepare_as_pie`.
        """
        distances = np.zeros(len(sources), np.float32)
        # Few pairs at a time: their matrices stay in memory together.
        for start in range(0, len(sources), _BATCH):
            batch = [*sources[start : start + _BATCH], *edits[start : start + _BATCH]]
            matrices = self._matrices(batch, prepare)
            half = len(batch) // 2
            for index in range(half):
                before, after = matrices[batch[index].key], matrices[batch[half + index].key]
                distances[start + index] = float((after - before).square().mean())
        return distances

    def _matrices(self, images: Sequence[RgbImage], prepare: Prepare) -> dict[str, torch.Tensor]:
        """Key of each image -> its ``(T, T)`` self-similarity."""
        matrices = {
            image.key: self._similarities[prepare, image.key]
            for image in images
            if (prepare, image.key) in self._similarities
        }
        new = list({image.key: image for image in images if image.key not in matrices}.values())
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            computed = self._key_similarities([prepare(image) for image in part])
            matrices.update((image.key, matrix.clone()) for image, matrix in zip(part, computed, strict=True))
        # A source comes back with every method's edit.
        for key, matrix in matrices.items():
            self._similarities[prepare, key] = matrix
            self._similarities.move_to_end((prepare, key))
        while len(self._similarities) > _REMEMBERED:
            self._similarities.popitem(last=False)
        return matrices

    def _key_similarities(self, prepared: Sequence[torch.Tensor]) -> torch.Tensor:
        """``(N, T, T)``: cosines between the keys of all tokens in the last block, heads concatenated."""
        import torch

        with exact(self.device):
            pixels = torch.stack(list(prepared)).to(self.device)
            outputs: list[torch.Tensor] = []
            attention = self._model.blocks[-1].attn
            hook = attention.qkv.register_forward_hook(lambda _module, _input, output: outputs.append(output))
            try:
                self._model(pixels)
            finally:
                hook.remove()
            # (N, T, 3 D) holds queries, keys and values one after the other.
            keys = outputs[0].chunk(3, dim=-1)[1]
            lengths = keys.norm(dim=-1, keepdim=True)
            similarities: torch.Tensor = (keys @ keys.transpose(1, 2)) / (
                lengths @ lengths.transpose(1, 2)
            ).clamp(min=1e-8)
        return similarities

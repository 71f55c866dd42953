"""DINO's vision transformers (Caron et al. 2021) with the authors' weights, in timm's architecture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.metrics.networks.precision import exact
from bench.metrics.networks.weights import DINO_VITB8, DINO_VITS16, WeightFile
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.metrics.types import RgbImage

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
        # RgbImage.key -> its similarity matrix, the last one used at the end.
        self._similarities: OrderedDict[str, torch.Tensor] = OrderedDict()

    def class_tokens(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Results of :func:`prepare` -> ``(N, D)`` float32: the class token after the last normalisation."""
        import torch

        with exact(self.device):
            tokens = self._model(torch.stack(list(prepared)).to(self.device))
        return tokens.cpu().numpy()  # type: ignore[no-any-return]

    def structure_distances(
        self, sources: Sequence[RgbImage], edits: Sequence[RgbImage]
    ) -> NDArray[np.float32]:
        """``(N,)`` float32: mean squared difference of the key self-similarities of each pair of square images.

        Tumanyan et al. 2022, section 3, as PIE-Bench computes it. Two quirks of its code are kept. Values of 0 to 255
        get ImageNet's normalisation for values of 0 to 1. The bilinear resizing to 224 x 224 has no antialiasing, as
        it is the default for tensors in the torchvision 0.13.1 that PIE-Bench's instructions install.
        """
        distances = np.zeros(len(sources), np.float32)
        # Few pairs at a time: their matrices stay in memory together.
        for start in range(0, len(sources), _BATCH):
            batch = [*sources[start : start + _BATCH], *edits[start : start + _BATCH]]
            matrices = self._matrices(batch)
            half = len(batch) // 2
            for index in range(half):
                before, after = matrices[batch[index].key], matrices[batch[half + index].key]
                distances[start + index] = float((after - before).square().mean())
        return distances

    def _matrices(self, images: Sequence[RgbImage]) -> dict[str, torch.Tensor]:
        """Key of each image -> its ``(T, T)`` self-similarity."""
        matrices = {
            image.key: self._similarities[image.key] for image in images if image.key in self._similarities
        }
        new = list({image.key: image for image in images if image.key not in matrices}.values())
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            computed = self._key_similarities(part)
            matrices.update((image.key, matrix.clone()) for image, matrix in zip(part, computed, strict=True))
        # A source comes back with every method's edit.
        for key, matrix in matrices.items():
            self._similarities[key] = matrix
            self._similarities.move_to_end(key)
        while len(self._similarities) > _REMEMBERED:
            self._similarities.popitem(last=False)
        return matrices

    def _key_similarities(self, images: Sequence[RgbImage]) -> torch.Tensor:
        """``(N, T, T)``: cosines between the keys of all tokens in the last block, heads concatenated."""
        import torch

        with exact(self.device):
            # Images may differ in size: resized one by one. (N, 3, 224, 224), values of 0 to 255.
            pixels = torch.cat([self._resized(image) for image in images])
            mean, deviation = (
                torch.tensor(v, device=self.device)[:, None, None] for v in (_MEAN, _DEVIATION)
            )
            outputs: list[torch.Tensor] = []
            attention = self._model.blocks[-1].attn
            hook = attention.qkv.register_forward_hook(lambda _module, _input, output: outputs.append(output))
            try:
                self._model((pixels - mean) / deviation)
            finally:
                hook.remove()
            # (N, T, 3 D) holds queries, keys and values one after the other.
            keys = outputs[0].chunk(3, dim=-1)[1]
            lengths = keys.norm(dim=-1, keepdim=True)
            similarities: torch.Tensor = (keys @ keys.transpose(1, 2)) / (
                lengths @ lengths.transpose(1, 2)
            ).clamp(min=1e-8)
        return similarities

    def _resized(self, image: RgbImage) -> torch.Tensor:
        import torch

        pixels = torch.from_numpy(image.pixels).to(self.device).permute(2, 0, 1)[None].float()
        return torch.nn.functional.interpolate(
            pixels, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False
        )

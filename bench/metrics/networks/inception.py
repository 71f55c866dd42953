"""FID's own Inception through clean-fid, from a file in the own weights folder, checked there before it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.networks.precision import exact
from bench.metrics.networks.weights import INCEPTION
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SIDE = 299
DIMENSIONS = 2048


class InceptionNet:
    """clean-fid's ``InceptionV3W(resize_inside=False)``. Raises :class:`MetricError` without the file."""

    def __init__(self, device: str = "cpu") -> None:
        try:
            path = INCEPTION.own()
        except MetricError as error:
            raise MetricError(f"FID's Inception: {error}") from None
        try:
            from cleanfid.inception_torchscript import InceptionV3W
        except ImportError as error:
            raise MetricError(
                "the package clean-fid is missing. Install it: pip install clean-fid==0.1.35"
            ) from error
        self.device = device
        self._model = InceptionV3W(str(path.parent), download=False, resize_inside=False).to(device).eval()

    @property
    def identity(self) -> str:
        return f"inception-{INCEPTION.sha256[:12]}"

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """``float32`` ``(N, 3, 299, 299)`` in [0, 255] -> ``(N, 2048)``."""
        features: torch.Tensor = self._model(pixels)
        return features


def clean_resize(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """clean-fid's "clean" resizing: ``uint8`` HWC -> ``float32`` CHW in [0, 255], not rounded in between.

    Pillow's antialiased bicubic filter on each channel in floating point (Parmar et al. 2022, section 4);
    at its own size the image is left as it is, as Pillow does.
    """
    from PIL import Image

    planes = [
        np.asarray(
            Image.fromarray(pixels[:, :, channel].astype(np.float32)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
        )
        for channel in range(3)
    ]
    return np.stack(planes).clip(0, 255)


__all__ = ["DIMENSIONS", "SIDE", "InceptionNet", "clean_resize", "exact"]

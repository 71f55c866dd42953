"""FID's own Inception through clean-fid. Its file is copied into the weights folder and checked before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.metrics.networks.weights import INCEPTION
from bench.metrics.types import MetricError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Side in pixels of its input.
SIDE = 299


class InceptionNet:
    """clean-fid's ``InceptionV3W(resize_inside=False)``. Raises :class:`MetricError` without the file."""

    def __init__(self, device: str = "cpu") -> None:
        try:
            # A TorchScript file runs code when it is loaded, so only the checked copy in the weights folder is loaded.
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

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(N, 3, 299, 299)`` float32 in [0, 255] -> ``(N, 2048)``."""
        features: torch.Tensor = self._model(pixels)
        return features


def clean_resize(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """clean-fid's "clean" resizing: ``(H, W, 3)`` uint8 -> ``(3, side, side)`` float32 in [0, 255], not rounded.

    Pillow's antialiased bicubic filter on each channel in floating point (Parmar et al. 2022, section 4). An image
    of this size already stays as it is.
    """
    from PIL import Image

    # Each channel as a 32-bit float image, which Pillow resizes without rounding.
    planes = [
        np.asarray(
            Image.fromarray(pixels[:, :, channel].astype(np.float32)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
        )
        for channel in range(3)
    ]
    # The bicubic filter overshoots at edges.
    return np.stack(planes).clip(0, 255)

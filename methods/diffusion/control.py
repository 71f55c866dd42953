"""The picture that shows an inpainting ControlNet the hole: ControlNet 1.1 (Zhang et al., ICCV 2023).

It is the paper's c_f: the source, with -1 in all channels of every masked pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench import images

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor


def control_images(sources: Sequence[Image], masks: Sequence[NDArray[np.bool_]], hole: float = -1) -> Tensor:
    """RGB images and bool (H, W) masks => float32 (B, 3, H, W) in [0, 1], ``hole`` where the mask is True."""
    return control_pixels(
        np.stack([images.to_array(source) for source in sources]), np.stack(list(masks)), hole
    )


def control_pixels(sources: NDArray[np.uint8], masks: NDArray[np.bool_], hole: float = -1) -> Tensor:
    """uint8 (B, H, W, 3) and bool (B, H, W) => float32 (B, 3, H, W) in [0, 1], ``hole`` where the mask is True."""
    import torch

    control = sources.astype(np.float32) / 255
    control[masks] = hole
    # A tensor, because no PIL image can hold -1.
    return torch.from_numpy(control).permute(0, 3, 1, 2).contiguous()

"""Light and colour of an edited image: what its source would look like under them.

:mod:`bench.metrics.registration` compares colours with it, to tell a replaced part from a colour cast or uneven light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolHW = NDArray[np.bool_]
    FloatHWC = NDArray[np.float32]
    Uint8HWC = NDArray[np.uint8]

SMOOTHING = 2.0
"""Standard deviation in pixels of the filter before colours are compared. Blur, JPEG and noise then cancel."""
PRIOR = 1 / 250
"""Share of the pixels that the identity is worth in the fit."""
_ITERATIONS = 5


def smooth_colours(pixels: Uint8HWC, size: tuple[int, int]) -> FloatHWC:
    """Smoothed colours of an ``(H, W, 3)`` image at another ``size`` (h, w): ``(h, w, 3)`` in [0, 1]."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
    smooth = gaussian_filter(np.asarray(image, np.float32), (SMOOTHING, SMOOTHING, 0), mode="nearest")
    return np.asarray(smooth / 255)


def relit(source: FloatHWC, edited: FloatHWC, at: BoolHW) -> FloatHWC:
    """The source under the edited image's light: ``a + source * (b + c x + d y)`` for each channel.

    All images are ``(h, w, 3)`` in [0, 1]. x and y go from -1 to 1 over the image. The light is fitted at the pixels
    ``at``, ``(h, w)`` bool. The identity has the weight of :data:`PRIOR` of all pixels, so that few pixels of few
    colours do not explain any other colour.
    """
    height, width = at.shape
    x, y = (
        np.linspace(-1, 1, width, dtype=np.float32)[None, :],
        np.linspace(-1, 1, height, dtype=np.float32)[:, None],
    )
    prior = PRIOR * at.size * np.eye(4)
    result = np.empty_like(source)
    for channel in range(source.shape[2]):
        before = source[..., channel]
        columns = np.stack([np.ones_like(before), before, before * x, before * y])  # (4, h, w)
        samples, target = columns[:, at].astype(np.float64), (edited[..., channel] - before)[at]
        light: NDArray[np.float64] = np.zeros(4)
        weight: NDArray[np.floating] = np.ones(len(target))
        for _ in range(_ITERATIONS):
            weighted = samples * weight
            light = np.linalg.solve(weighted @ samples.T + prior, weighted @ target)
            residual = target - light @ samples
            # Geman-McClure, as in the registration.
            spread = max(1.4826 * float(np.median(np.abs(residual))), 0.01)
            weight = (1 + (residual / (2 * spread)) ** 2) ** -2
        result[..., channel] = (before + np.tensordot(light, columns, 1)).clip(0, 1)
    return result

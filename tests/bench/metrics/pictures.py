"""Images for tests: drawn, so that nothing is shipped, and like photographs where that matters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.metrics.types import Pair, RgbImage


def natural(seed: int, side: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``uint8`` HWC: a 1/f spectrum with a few hard edges, as photographs have."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        phase = generator.uniform(0, 2 * np.pi, frequency.shape)
        plane = np.fft.irfft2(np.exp(1j * phase) / frequency, s=(side, side))
        planes.append((plane - plane.min()) / np.ptp(plane))
    image = np.stack(planes, axis=-1)
    for _ in range(3):
        top, left = generator.integers(0, side // 2, 2)
        image[top : top + side // 4, left : left + side // 3] = generator.uniform(0, 1, 3)
    return (image * 255).round().astype(np.uint8)


def noise(seed: int, side: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``uint8`` HWC, independent and uniform."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def box(side: int, top: int, left: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def pair(source: Any, edited: Any, mask: Any, **fields: Any) -> Pair:
    return Pair(source=RgbImage(source), edited=RgbImage(edited), mask=mask, **fields)


def feature_rows(seed: int, n: int, dimensions: int, shift: float = 0.0) -> Any:
    """Correlated, non-negative features, as pooled ReLUs are."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions)) / math.sqrt(dimensions)
    return np.maximum(0, generator.normal(size=(n, dimensions)) @ mixing + 0.5 + shift).astype(np.float32)


def by_eigenvalues(x: Any, y: Any) -> float:
    """The Fréchet distance, where there are fewer images than dimensions, from n x n eigenvalues."""
    xc, yc = (z - z.mean(0) for z in (x, y))
    xc, yc = xc / math.sqrt(len(x) - 1), yc / math.sqrt(len(y) - 1)
    across = xc @ yc.T
    eigenvalues = np.linalg.eigvalsh(across @ across.T).clip(0)
    step = x.mean(0) - y.mean(0)
    return float(step @ step + (xc**2).sum() + (yc**2).sum() - 2 * np.sqrt(eigenvalues).sum())


SHARES = (0.05, 0.2, 0.5, 0.87, 0.95)


def square(share: float, side: int) -> Any:
    """A centred square of this share; from one half on, all but one."""
    width = round(side * math.sqrt(min(share, 1 - share)))
    start = (side - width) // 2
    mask = box(side, start, start, width, width)
    return mask if share < 0.5 else ~mask

"""A photograph at 512 x 512 px with a damaged copy, and networks of random weights behind the published file names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from bench.metrics.networks import lpips_weights, weights
from bench.metrics.types import Pair, RgbImage


@pytest.fixture(scope="session")
def photograph() -> Pair:
    """The photograph that matplotlib ships, blurred and noisy everywhere. A disc of 38 % is the mask."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    source = np.asarray(Image.open(path).convert("RGB"))[:512]
    assert source.shape == (512, 512, 3)
    noise = np.random.default_rng(0).normal(0, 6, source.shape)
    edited = (gaussian_filter(source.astype(float), (2, 2, 0)) + noise).clip(0, 255).round().astype(np.uint8)
    rows, columns = np.mgrid[:512, :512]
    mask = (rows - 250) ** 2 + (columns - 200) ** 2 < 180**2
    target = np.ascontiguousarray(np.roll(source, 3, axis=1))
    return Pair(
        source=RgbImage(source.copy()),
        edited=RgbImage(edited),
        mask=mask,
        target_prompt="a woman in front of a flag",
        region_prompt="a smiling woman",
        truth=RgbImage(target),
    )


@pytest.fixture
def squeezenet(monkeypatch: pytest.MonkeyPatch) -> Path:
    """SqueezeNet of random weights in torchvision's format, in the place of the published file."""
    import torch
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    return _stored(monkeypatch, lpips_weights, "SQUEEZENET", squeezenet1_1(weights=None).state_dict())


def _stored(monkeypatch: pytest.MonkeyPatch, module: object, constant: str, state: object) -> Path:
    """Stores a state dict where ``module.constant`` looks for its published file, whatever its hash."""
    import torch

    file = replace(getattr(module, constant), sha256="")
    monkeypatch.setattr(module, constant, file)
    path = weights.weights_folder() / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.fixture
def store_weights(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str, object], Path]:
    return lambda module, constant, state: _stored(monkeypatch, module, constant, state)

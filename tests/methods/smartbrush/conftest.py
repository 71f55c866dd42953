"""A tiny SmartBrush over the tiny pipeline of the other methods: 64 pixels, 2 pixels per latent cell."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from methods.smartbrush.network import from_base
from tests.methods.conftest import tiny_components


def tiny_brush(awake: bool = True) -> Any:
    """A pipeline around the network. ``awake``: no addition is zero, as after some training."""
    import diffusers

    parts = tiny_components(4)
    network = from_base(parts["unet"]).eval()
    if awake:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in (network.conv_in.weight, network.conv_out.weight, network.class_embedding.weight):
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    pipeline = diffusers.StableDiffusionPipeline(
        **parts | {"unet": network},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="package")
def brush() -> Any:
    return tiny_brush()

"""A tiny PromptEditDiff over the tiny pipeline of the other methods: 64 pixels, 2 pixels per latent cell."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from methods.prompt_edit_diff.model import PromptEditDiffUNet
from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline
from tests.methods.conftest import FACTOR, tiny_components

CONFIG: dict[str, Any] = {"factor": FACTOR, "mask_width": 16, "mask_tokens": 8, "count": 2}


def tiny_model(**config: Any) -> PromptEditDiffUNet:
    base = tiny_components(4)["unet"]
    torch.manual_seed(1)
    model: PromptEditDiffUNet = PromptEditDiffUNet.from_base(base, **{**CONFIG, **config})
    return model.eval()


def awake(model: PromptEditDiffUNet) -> PromptEditDiffUNet:
    # With every gate open and no last layer at zero, as after some training.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 0 or not bool(p.any()):
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
        model.unet.conv_in.weight[:, 4:] += 0.1 * torch.randn(
            model.unet.conv_in.weight[:, 4:].shape, generator=generator
        )
        for injection in model.injections.values():
            injection.phi.fill_(0.7)
    return model


def tiny_editor(model: PromptEditDiffUNet | None = None) -> PromptEditDiffPipeline:
    parts = tiny_components(4)
    parts["unet"] = awake(tiny_model()) if model is None else model
    pipeline = PromptEditDiffPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="package")
def editor() -> PromptEditDiffPipeline:
    return tiny_editor()

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from bench.edit import Runtime
from methods.diffusion.stable_diffusion import SdEdit
from tests.methods.conftest import picture, request, tiny_components
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> SdEdit:
    return SdEdit(SdEdit.Options(**{"weights": weights, "steps": 5} | options), Runtime())


@pytest.fixture(scope="module")
def method(tiny_folder: Folder) -> SdEdit:
    return make(tiny_folder(4))


def test_is_the_bare_pipeline(method: SdEdit) -> None:
    pipeline = StableDiffusionImg2ImgPipeline(
        **tiny_components(4), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    (expected,) = pipeline(
        prompt="a face with a hat 5",
        image=picture(5),
        strength=0.8,
        num_inference_steps=5,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(5),
    ).images
    assert method.edit([request(5)])[0].tobytes() == expected.tobytes()


def test_less_strength_keeps_more_of_the_source(tiny_folder: Folder) -> None:
    """Measured in latents, where it happens: random weights decode to anything."""
    distances = []
    for strength in (0.1, 0.5, 1.0):
        method = make(tiny_folder(4), steps=10, strength=strength, guidance=1.0)
        inputs: list[torch.Tensor] = []
        method.pipeline.unet.register_forward_pre_hook(
            lambda module, args, kwargs, inputs=inputs: inputs.append(args[0].clone()), with_kwargs=True
        )
        method.edit([small(1)])
        assert len(inputs) == round(10 * strength)
        vae = method.pipeline.vae
        x = torch.from_numpy(np.asarray(picture(1, SMALL), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            source = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        distances.append(float((inputs[0] - source).std()))
    assert distances[0] < distances[1] < distances[2]


def test_sizes(method: SdEdit) -> None:
    assert method.edit([request(1, source=picture(1, (96, 32)))])[0].size == (96, 32)
    with pytest.raises(ValueError, match="multiples of 2"):
        method.edit([request(1, source=picture(1, (33, 32)))])


def test_an_inpainting_checkpoint_is_refused(tiny_folder: Folder) -> None:
    (problem,) = SdEdit.problems(SdEdit.Options(weights=tiny_folder(9)))
    assert "has 9 input channels, this method needs 4" in problem

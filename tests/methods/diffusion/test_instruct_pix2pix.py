from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.edit import EditRequest, Runtime
from methods.diffusion.stable_diffusion import InstructPix2Pix
from tests.methods.conftest import picture, request, tiny_pipeline
from tests.methods.small import small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> InstructPix2Pix:
    return InstructPix2Pix(InstructPix2Pix.Options(**{"weights": weights, "steps": 3} | options), Runtime())


@pytest.fixture(scope="module")
def eight(tiny_folder: Folder) -> InstructPix2Pix:
    return make(tiny_folder(8))


def test_is_the_bare_pipeline(eight: InstructPix2Pix) -> None:
    import torch

    pipeline = tiny_pipeline(8)
    pipeline.set_progress_bar_config(disable=True)
    (expected,) = pipeline(
        prompt="add a hat 5",
        image=picture(5),
        num_inference_steps=3,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        generator=torch.Generator().manual_seed(5),
    ).images
    assert eight.edit([request(5)])[0].tobytes() == expected.tobytes()


def test_a_sampler_that_draws_noise_does_not_depend_on_the_batch(tiny_folder: Folder) -> None:
    method = make(tiny_folder(8), scheduler="euler_a", negative_prompt="blurry")
    pair = [small(0), small(1)]
    for one, batched in zip(pair, method.edit(pair), strict=True):
        alone = np.asarray(method.edit([one])[0], dtype=int)
        assert np.abs(alone - np.asarray(batched, dtype=int)).max() <= 1


def test_both_guidances_have_an_effect(tiny_folder: Folder, eight: InstructPix2Pix) -> None:
    base = eight.edit([request(1)])[0].tobytes()
    assert make(tiny_folder(8), guidance=3.0).edit([request(1)])[0].tobytes() != base
    assert make(tiny_folder(8), image_guidance=1.0).edit([request(1)])[0].tobytes() != base


@pytest.mark.parametrize(
    ("guidance", "image_guidance", "fit"),
    [
        (7.5, 1.5, True),
        (7.5, 1.0, True),
        (1.0, 1.0, True),
        (7.5, 0.9, False),
        (1.0, 1.5, False),
        (0.5, 0.5, False),
    ],
)
def test_guidance_that_the_pipeline_would_ignore_is_refused(
    tiny_folder: Folder, guidance: float, image_guidance: float, fit: bool
) -> None:
    options = InstructPix2Pix.Options(
        weights=tiny_folder(8), guidance=guidance, image_guidance=image_guidance
    )
    assert (InstructPix2Pix.problems(options) == []) == fit
    if not fit:
        with pytest.raises(ValueError, match="guidance works only"):
            InstructPix2Pix(options, Runtime())


def test_negative_prompt_without_guidance_is_refused(tiny_folder: Folder) -> None:
    options = InstructPix2Pix.Options(
        weights=tiny_folder(8), guidance=1.0, image_guidance=1.0, negative_prompt="x"
    )
    assert InstructPix2Pix.problems(options) == ["negative_prompt has no effect without guidance"]


def test_sizes(eight: InstructPix2Pix) -> None:
    (wide,) = eight.edit([request(1, source=picture(1, (96, 32)))])
    assert wide.size == (96, 32)
    with pytest.raises(ValueError, match="multiples of 2"):
        eight.edit([request(1, source=picture(1, (33, 32)))])


def test_other_modes_become_rgb(eight: InstructPix2Pix) -> None:
    rgba = request(1, source=picture(1).convert("RGBA"))
    assert eight.edit([rgba])[0].tobytes() == eight.edit([request(1)])[0].tobytes()


def test_an_empty_instruction_and_a_wrong_checkpoint_are_refused(
    tiny_folder: Folder, eight: InstructPix2Pix
) -> None:
    with pytest.raises(ValueError, match="empty instruction"):
        eight.edit([EditRequest(**{**vars(request(1)), "instruction": ""})])
    (problem,) = InstructPix2Pix.problems(InstructPix2Pix.Options(weights=tiny_folder(9)))
    assert "has 9 input channels, this method needs 8" in problem

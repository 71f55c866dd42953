from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.edit import EditMethod, EditRequest, Runtime
from methods.instruct_pix2pix import InstructPix2Pix
from tests.methods.conftest import SIZE, box_mask, picture, request, tiny_pipeline

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> InstructPix2Pix:
    return InstructPix2Pix(InstructPix2Pix.Options(**{"weights": weights, "steps": 3} | options), Runtime())


@pytest.fixture(scope="module")
def eight(tiny_folder: Folder) -> InstructPix2Pix:
    return make(tiny_folder(8))


def test_answers_like_a_method(eight: InstructPix2Pix) -> None:
    assert isinstance(eight, EditMethod)
    assert eight.native_size == SIZE
    assert eight.needs == {"source", "instruction"}
    edited = eight.edit([request(1), request(2)])
    assert [(image.size, image.mode) for image in edited] == [((SIZE, SIZE), "RGB")] * 2
    assert eight.edit([]) == []


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


@pytest.mark.parametrize("scheduler", [None, "euler_a"])
@pytest.mark.parametrize("negative_prompt", ["", "blurry"])
def test_does_not_depend_on_the_batch(
    tiny_folder: Folder, scheduler: str | None, negative_prompt: str
) -> None:
    method = make(tiny_folder(8), scheduler=scheduler, negative_prompt=negative_prompt)
    four = [request(seed) for seed in range(4)]
    together = [np.asarray(image, dtype=int) for image in method.edit(four)]
    for one, batched in zip(four, together, strict=True):
        alone = np.asarray(method.edit([one])[0], dtype=int)
        assert np.abs(alone - batched).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1


def test_follows_instruction_source_and_seed_and_sees_no_mask(eight: InstructPix2Pix) -> None:
    base = request(1)
    one = eight.edit([base])[0].tobytes()
    assert eight.edit([base])[0].tobytes() == one
    for field, value in {"instruction": "remove it", "source": picture(8), "seed": 9}.items():
        assert eight.edit([EditRequest(**{**vars(base), field: value})])[0].tobytes() != one, field
    for field, other in {"mask": box_mask(0, 0, 4, 4), "target_prompt": "x", "region_prompt": "y"}.items():
        assert eight.edit([EditRequest(**{**vars(base), field: other})])[0].tobytes() == one, field


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
    with pytest.raises(ValueError, match="differ in size"):
        eight.edit([request(1), request(1, source=picture(1, (96, 32)))])


def test_other_modes_become_rgb(eight: InstructPix2Pix) -> None:
    rgba = request(1, source=picture(1).convert("RGBA"))
    assert eight.edit([rgba])[0].tobytes() == eight.edit([request(1)])[0].tobytes()


def test_paste(tiny_folder: Folder, eight: InstructPix2Pix) -> None:
    method = make(tiny_folder(8), paste=True)
    assert method.needs == {"source", "instruction", "mask"}
    asked = request(1)
    pasted, raw = np.asarray(method.edit([asked])[0]), np.asarray(eight.edit([asked])[0])
    inside = np.asarray(asked.mask) == 255
    assert np.array_equal(pasted[inside], raw[inside])
    assert np.array_equal(pasted[~inside], np.asarray(asked.source)[~inside])
    assert (raw[~inside] != np.asarray(asked.source)[~inside]).any()


def test_an_empty_instruction_and_a_wrong_checkpoint_are_refused(
    tiny_folder: Folder, eight: InstructPix2Pix
) -> None:
    with pytest.raises(ValueError, match="empty instruction"):
        eight.edit([EditRequest(**{**vars(request(1)), "instruction": ""})])
    (problem,) = InstructPix2Pix.problems(InstructPix2Pix.Options(weights=tiny_folder(9)))
    assert "has 9 input channels, this method needs 8" in problem

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from bench.edit import EditMethod, EditRequest, Runtime
from methods.sdedit import SdEdit
from tests.methods.conftest import SIZE, box_mask, picture, request, tiny_components
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> SdEdit:
    return SdEdit(SdEdit.Options(**{"weights": weights, "steps": 5} | options), Runtime())


@pytest.fixture(scope="module")
def method(tiny_folder: Folder) -> SdEdit:
    return make(tiny_folder(4))


def test_answers_like_a_method(method: SdEdit) -> None:
    assert isinstance(method, EditMethod)
    assert method.native_size == SIZE
    assert method.needs == {"source", "target_prompt"}
    edited = method.edit([request(1), request(2)])
    assert [(image.size, image.mode) for image in edited] == [((SIZE, SIZE), "RGB")] * 2
    assert method.edit([]) == []


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


@pytest.mark.parametrize("scheduler", [None, "euler_a"])
def test_does_not_depend_on_the_batch(tiny_folder: Folder, scheduler: str | None) -> None:
    method = make(tiny_folder(4), scheduler=scheduler)
    three = [small(seed) for seed in range(3)]
    together = [np.asarray(image, dtype=int) for image in method.edit(three)]
    for one, batched in zip(three, together, strict=True):
        assert np.abs(np.asarray(method.edit([one])[0], dtype=int) - batched).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1


def test_follows_prompt_source_and_seed_and_sees_no_mask(method: SdEdit) -> None:
    base = small(1)
    one = method.edit([base])[0].tobytes()
    assert method.edit([base])[0].tobytes() == one
    for name, value in {"target_prompt": "a dog", "source": picture(8, SMALL), "seed": 9}.items():
        assert method.edit([EditRequest(**{**vars(base), name: value})])[0].tobytes() != one, name
    for name, other in {
        "mask": box_mask(0, 0, 4, 4, SMALL),
        "region_prompt": "x",
        "instruction": "y",
    }.items():
        assert method.edit([EditRequest(**{**vars(base), name: other})])[0].tobytes() == one, name


def test_less_strength_keeps_more_of_the_source(tiny_folder: Folder) -> None:
    """Measured in latents, where it happens: random weights decode to anything."""
    distances = []
    for strength in (0.1, 0.5, 1.0):
        method = make(tiny_folder(4), steps=10, strength=strength, guidance=1.0)
        seen: list[torch.Tensor] = []
        method.pipeline.unet.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(args[0].clone()), with_kwargs=True
        )
        method.edit([small(1)])
        assert len(seen) == round(10 * strength)
        vae = method.pipeline.vae
        x = torch.from_numpy(np.asarray(picture(1, SMALL), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            source = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        distances.append(float((seen[0] - source).std()))
    assert distances[0] < distances[1] < distances[2]


def test_sizes(method: SdEdit) -> None:
    assert method.edit([request(1, source=picture(1, (96, 32)))])[0].size == (96, 32)
    with pytest.raises(ValueError, match="multiples of 2"):
        method.edit([request(1, source=picture(1, (33, 32)))])
    with pytest.raises(ValueError, match="differ in size"):
        method.edit([request(1), request(1, source=picture(1, (96, 32)))])


def test_paste(tiny_folder: Folder, method: SdEdit) -> None:
    pasting = make(tiny_folder(4), paste=True)
    assert pasting.needs == {"source", "target_prompt", "mask"}
    asked = request(1)
    pasted, raw = np.asarray(pasting.edit([asked])[0]), np.asarray(method.edit([asked])[0])
    inside = np.asarray(asked.mask) == 255
    assert np.array_equal(pasted[inside], raw[inside])
    assert np.array_equal(pasted[~inside], np.asarray(asked.source)[~inside])
    assert (raw[~inside] != np.asarray(asked.source)[~inside]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0"),
        ({"steps": 4, "strength": 0.2}, "raise steps to at least 5"),
        ({"strength": 0.0}, "expected more than 0"),
        ({"strength": 1.5}, "at most 1"),
        ({"guidance": 0.5}, "guidance 0.5"),
        ({"guidance": 1.0, "negative_prompt": "x"}, "negative_prompt has no effect"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    tiny_folder: Folder, options: dict[str, Any], message: str
) -> None:
    asked = SdEdit.Options(weights=tiny_folder(4), **options)
    (problem,) = SdEdit.problems(asked)
    assert message in problem
    with pytest.raises(ValueError, match=message):
        SdEdit(asked, Runtime())


def test_an_inpainting_checkpoint_is_refused(tiny_folder: Folder) -> None:
    (problem,) = SdEdit.problems(SdEdit.Options(weights=tiny_folder(9)))
    assert "has 9 input channels, this method needs 4" in problem

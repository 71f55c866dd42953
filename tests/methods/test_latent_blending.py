from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, RePaintScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

from bench.edit import EditRequest, Runtime
from methods import batches, latents
from methods.latent_blending import LatentBlending, jumps
from tests.methods.conftest import box_mask, request, tiny_components, tiny_pipeline
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> LatentBlending:
    return LatentBlending(LatentBlending.Options(**{"weights": weights, "steps": 5} | options), Runtime())


def arrays(images: Sequence[Image.Image]) -> list[Any]:
    return [np.asarray(image, dtype=int) for image in images]


@pytest.fixture(scope="module")
def method(tiny_folder: Folder) -> LatentBlending:
    return make(tiny_folder(4))


@pytest.fixture(scope="module")
def zero_snr(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same models with a schedule that ends in pure noise, as the zoo's."""
    pipeline = tiny_pipeline(4)
    pipeline.scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    folder = tmp_path_factory.mktemp("zero_snr")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("steps", "length", "times"), [(250, 10, 10), (50, 5, 3), (20, 10, 2), (10, 10, 4), (9, 2, 2), (7, 3, 1)]
)
def test_the_walk_is_repaints(steps: int, length: int, times: int) -> None:
    """diffusers' schedule climbs level by level; with the climbs taken at once it is the same walk."""
    reference = RePaintScheduler(num_train_timesteps=steps)
    reference.set_timesteps(steps, length, times)
    walk = [int(t) for t in reference.timesteps]
    if (steps, length, times) == (250, 10, 10):
        assert len(walk) == 4570
    single: list[int] = []
    for level in jumps(steps, length, times)[:-1]:
        single += range(single[-1] + 1, level) if single and level > single[-1] else ()
        single.append(level)
    assert single == walk


def test_the_walk_without_resampling_goes_down() -> None:
    assert jumps(4, 10, 1) == [3, 2, 1, 0, -1]
    assert jumps(1, 1, 5) == [0, -1]
    assert jumps(4, 2, 2) == [3, 2, 1, 0, 2, 1, 0, -1]


def test_all_white_is_image_to_image(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all is edited nothing is blended, and diffusers' own SDEdit with DDIM must come out."""
    edit_request = small(3, box_mask(0, 0, 32, 32, SMALL))
    parts = tiny_components(4)
    with torch.no_grad():  # the posterior's mean, which we take, instead of a sample of it
        parts["vae"].quant_conv.weight[4:] = 0
        parts["vae"].quant_conv.bias[4:] = -30
    pipeline = StableDiffusionImg2ImgPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    (expected,) = pipeline(
        prompt=edit_request.target_prompt,
        image=edit_request.source,
        strength=0.6,
        num_inference_steps=10,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(edit_request.seed),
    ).images

    def after_the_posterior(requests: Sequence[EditRequest]) -> list[torch.Generator]:
        result = [torch.Generator().manual_seed(one.seed) for one in requests]
        for generator in result:
            torch.randn((1, 4, 16, 16), generator=generator)
        return result

    monkeypatch.setattr(batches, "generators", after_the_posterior)
    (edited,) = make(tiny_folder(4), strength=0.6, steps=10, guidance=5.0).edit([edit_request])
    assert np.abs(arrays([edited])[0] - arrays([expected])[0]).max() <= 1


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("resamplings", [1, 3])
@pytest.mark.parametrize("schedule", ["sd", "zero_snr"])
def test_outside_the_mask_the_sources_latents_remain_exactly(
    tiny_folder: Folder, zero_snr: str, eta: float, resamplings: int, schedule: str
) -> None:
    folder = zero_snr if schedule == "zero_snr" else tiny_folder(4)
    method = make(folder, eta=eta, resamplings=resamplings, jump_length=2, strength=1.0)
    edit_request = small(0, box_mask(0, 0, 16, 32, SMALL))  # white: the left half
    with torch.no_grad():
        source = latents.encode(
            method.pipeline.vae, batches.to_tensor([edit_request.source], method.pipeline.device)
        )
        z = method.sample([edit_request], [edit_request.source])
    assert torch.isfinite(z).all()
    assert torch.equal(z[..., 8:], source[..., 8:])
    assert (z[..., :8] - source[..., :8]).abs().mean() > 0.05


def test_the_known_region_is_at_the_level_that_the_step_has_reached(tiny_folder: Folder) -> None:
    """What the UNet sees outside the mask, less the source at that level, is noise of that level's size."""
    method = make(tiny_folder(4), steps=10, strength=1.0)
    edit_request = request(0, box_mask(0, 0, 8, 8))
    inputs: list[tuple[int, torch.Tensor]] = []
    method.pipeline.unet.register_forward_pre_hook(
        lambda module, args: inputs.append((int(args[1]), args[0][:1].clone()))
    )
    method.edit([edit_request])
    with torch.no_grad():
        source = latents.encode(
            method.pipeline.vae, batches.to_tensor([edit_request.source], method.pipeline.device)
        )
    assert [t for t, _ in inputs] == method.schedule.grid(10)
    for t, z in inputs:
        signal = method.schedule.signal(t)
        noise = (z - signal**0.5 * source)[..., 8:, 8:]
        assert float(noise.std()) == pytest.approx((1 - signal) ** 0.5, rel=0.06)


@pytest.mark.parametrize(("strength", "executed"), [(1.0, 10), (0.8, 8), (0.35, 3)])
def test_strength_is_the_share_of_the_steps(tiny_folder: Folder, strength: float, executed: int) -> None:
    method = make(tiny_folder(4), steps=10, strength=strength)
    inputs: list[int] = []
    method.pipeline.unet.register_forward_pre_hook(lambda module, args: inputs.append(int(args[1])))
    method.edit([small(0)])
    assert inputs == method.schedule.grid(10)[-executed:]


@pytest.mark.parametrize(
    "options", [{}, {"eta": 1.0}, {"resamplings": 2, "jump_length": 2}], ids=["ddim", "ddpm", "resampled"]
)
def test_does_not_depend_on_the_batch(tiny_folder: Folder, options: dict[str, Any]) -> None:
    method = make(tiny_folder(4), **options)
    three = [small(seed, box_mask(4 * seed, 8, 24, 28, SMALL)) for seed in range(3)]
    together = arrays(method.edit(three))
    for one, batched in zip(three, together, strict=True):
        assert np.abs(arrays(method.edit([one]))[0] - batched).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1


def test_every_option_has_an_effect(tiny_folder: Folder, method: LatentBlending) -> None:
    base = small(1, box_mask(9, 9, 21, 21, SMALL))
    one = method.edit([base])[0].tobytes()
    for options in (
        {"eta": 1.0},
        {"resamplings": 2, "jump_length": 2},
        {"negative_prompt": "blurry"},
        {"mask_cells": "cover"},
        {"guidance": 1.0},
        {"strength": 1.0},
        {"prompt_field": "region_prompt"},
        {"paste": True},
    ):
        assert make(tiny_folder(4), **options).edit([base])[0].tobytes() != one, options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 1.5}, "eta 1.5"),
        ({"resamplings": 0}, "resamplings 0"),
        ({"jump_length": 0}, "jump_length 0"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    tiny_folder: Folder, options: dict[str, Any], message: str
) -> None:
    method_options = LatentBlending.Options(weights=tiny_folder(4), **options)
    (problem,) = LatentBlending.problems(method_options)
    assert message in problem
    with pytest.raises(ValueError, match=message):
        LatentBlending(method_options, Runtime())

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from bench.edit import EditRequest, Runtime
from bench.registry import OptionError, parse_options
from methods import batches, latents
from methods.blended_latent_diffusion import BlendedLatentDiffusion
from tests.methods.conftest import FACTOR, SIZE, box_mask, picture, request, tiny_pipeline
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> BlendedLatentDiffusion:
    return BlendedLatentDiffusion(
        BlendedLatentDiffusion.Options(**{"weights": weights, "steps": 4} | options), Runtime()
    )


def arrays(images: Sequence[Image.Image]) -> list[Any]:
    return [np.asarray(image, dtype=int) for image in images]


@pytest.fixture(scope="module")
def method(tiny_folder: Folder) -> BlendedLatentDiffusion:
    return make(tiny_folder(4))


def test_the_grid_is_the_scripts(tiny_folder: Folder) -> None:
    """50 steps, a quarter skipped: 38 are run, the first at t = 740, where the signal's root is 0.247."""
    published = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    published.set_timesteps(50)
    method = make(tiny_folder(4), steps=50)
    assert method.schedule.grid(50) == published.timesteps.tolist()
    assert method.schedule.grid(50)[-1] == 0
    for t in (0, 740, 999):
        assert method.schedule.signal(t) == pytest.approx(float(published.alphas_cumprod[t]), rel=1e-6)
    assert method.schedule.signal(latents.CLEAN) == method.schedule.signal(0)
    inputs: list[int] = []
    method.pipeline.unet.register_forward_pre_hook(lambda module, args: inputs.append(int(args[1])))
    method.edit([small(0)])
    assert len(inputs) == 38
    assert (inputs[0], inputs[-1]) == (740, 0)
    assert method.schedule.signal(740) ** 0.5 == pytest.approx(0.247, abs=5e-4)


def reference(edit_request: EditRequest, steps: int, guidance: float, skipped: int) -> np.ndarray[Any, Any]:
    """The published loop, one image, on diffusers' own scheduler; uint8 (H, W, 3)."""
    pipeline = tiny_pipeline(4)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(edit_request.seed)

    def text(words: str) -> torch.Tensor:
        ids = pipeline.tokenizer(words, padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden: torch.Tensor = pipeline.text_encoder(ids)[0]
        return hidden

    x = torch.from_numpy(np.asarray(edit_request.source, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    cells = edit_request.mask.resize((edit_request.mask.width // FACTOR,) * 2, Image.Resampling.NEAREST)
    mask = torch.from_numpy((np.asarray(cells) >= 128).astype(np.float32))
    with torch.no_grad():
        source = pipeline.vae.encode(x).latent_dist.mean * 0.18215
        both = torch.cat([text(""), text(edit_request.target_prompt)])
        z = torch.randn(source.shape, generator=generator)
        for t in scheduler.timesteps[skipped:]:
            without, with_text = pipeline.unet(torch.cat([z, z]), t, both).sample.chunk(2)
            z = scheduler.step(without + guidance * (with_text - without), t, z).prev_sample
            noisy = scheduler.add_noise(source, torch.randn(source.shape, generator=generator), t)
            z = z * mask + noisy * (1 - mask)
        out = pipeline.vae.decode(z / 0.18215).sample[0].permute(1, 2, 0)
    return ((out / 2 + 0.5).clamp(0, 1).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize(("steps", "skipped"), [(8, 2), (10, 2), (3, 0)])
def test_is_the_published_loop(tiny_folder: Folder, steps: int, skipped: int) -> None:
    edit_request = small(5)
    (edited,) = arrays(make(tiny_folder(4), steps=steps, guidance=5.0).edit([edit_request]))
    assert np.abs(edited - reference(edit_request, steps, 5.0, skipped).astype(int)).max() <= 1


def final_latents(method: BlendedLatentDiffusion, edit_request: EditRequest) -> torch.Tensor:
    with torch.no_grad():
        return method.sample([edit_request], [edit_request.source])


def test_outside_the_mask_is_the_source_with_the_noise_of_the_last_blend(tiny_folder: Folder) -> None:
    """White is edited. Outside remains the script's noise of t = 0, whose deviation is 0.0292."""
    method = make(tiny_folder(4))
    edit_request = request(0, box_mask(0, 0, 16, SIZE))
    with torch.no_grad():
        source = latents.encode(
            method.pipeline.vae, batches.to_tensor([edit_request.source], method.pipeline.device)
        )
    difference = final_latents(method, edit_request) - method.schedule.signal(0) ** 0.5 * source
    assert float(difference[..., 8:].std()) == pytest.approx(0.0292, rel=0.05)
    assert float(difference[..., :8].std()) > 0.1


def test_pixel_background_is_the_source_outside_and_the_sample_inside(
    tiny_folder: Folder, method: BlendedLatentDiffusion
) -> None:
    edit_request = request(1)
    pasted = arrays(make(tiny_folder(4), background="pixel").edit([edit_request]))[0]
    raw = arrays(method.edit([edit_request]))[0]
    inside = np.asarray(edit_request.mask) == 255
    assert np.array_equal(pasted[inside], raw[inside])
    assert np.array_equal(pasted[~inside], np.asarray(edit_request.source)[~inside])
    assert (raw[~inside] != np.asarray(edit_request.source)[~inside]).any()


def test_the_tuned_decoder_brings_the_source_back_and_leaves_the_model_alone(
    tiny_folder: Folder, method: BlendedLatentDiffusion
) -> None:
    batch = [small(1), small(2)]
    tuned = make(tiny_folder(4), background="decoder", decoder_steps=20, decoder_rate=2e-3)
    before = {name: value.clone() for name, value in tuned.pipeline.vae.state_dict().items()}
    result, raw = arrays(tuned.edit(batch)), arrays(method.edit(batch))
    for one, with_tuning, without in zip(batch, result, raw, strict=True):
        outside = np.asarray(one.mask) == 0
        source = np.asarray(one.source, dtype=int)

        def error(image: Any, outside: Any = outside, source: Any = source) -> float:
            return float(((image - source)[outside] ** 2).mean())

        assert error(with_tuning) < 0.25 * error(without)
    after = tuned.pipeline.vae.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in tuned.pipeline.vae.parameters())
    assert np.abs(arrays(tuned.edit([batch[1]]))[0] - result[1]).max() <= 1  # alone as in a batch


def test_one_step_of_tuning_is_adam_on_the_papers_loss(tiny_folder: Folder) -> None:
    """Written out a second time, on a decoder of its own, with the gradient taken by torch.autograd.grad."""
    edit_request = small(3)
    tuned = make(tiny_folder(4), background="decoder", decoder_steps=1)
    vae = tiny_pipeline(4).vae
    z = final_latents(tuned, edit_request) / 0.18215
    mask = torch.from_numpy((np.asarray(edit_request.mask) == 255).astype(np.float32))
    source = torch.from_numpy(np.asarray(edit_request.source, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        sample = vae.decode(z).sample
    parameters = list(vae.decoder.parameters())
    x = vae.decode(z).sample
    loss = ((x - sample) * mask).square().mean() + 100 * ((x - source) * (1 - mask)).square().mean()
    with torch.no_grad():
        # Adam's first step is the rate times the gradient over its own size.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter -= 1e-4 * gradient / (gradient.abs() + 1e-8)
        expected = batches.to_images(vae.decode(z).sample)
    assert np.abs(arrays(tuned.edit([edit_request]))[0] - arrays(expected)[0]).max() <= 1


def test_prompt_field_negative_prompt_and_cells(tiny_folder: Folder, method: BlendedLatentDiffusion) -> None:
    base = small(1, box_mask(9, 9, 21, 21, SMALL))
    one = method.edit([base])[0].tobytes()
    region = make(tiny_folder(4), prompt_field="region_prompt")
    assert region.needs == {"source", "mask", "region_prompt"}
    swapped = EditRequest(**{**vars(base), "target_prompt": base.region_prompt})
    assert region.edit([base])[0].tobytes() == method.edit([swapped])[0].tobytes()
    assert make(tiny_folder(4), negative_prompt="blurry").edit([base])[0].tobytes() != one
    assert make(tiny_folder(4), mask_cells="cover").edit([base])[0].tobytes() != one
    assert make(tiny_folder(4), guidance=1.0).edit([base])[0].tobytes() != one


def test_another_size_than_the_native_one(method: BlendedLatentDiffusion) -> None:
    wide = request(1, box_mask(8, 8, 40, 20, (96, 32)), picture(1, (96, 32)))
    assert method.edit([wide])[0].size == (96, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blending_start": 1.0}, "blending_start 1.0"),
        ({"decoder_steps": 0}, "decoder_steps 0"),
        ({"decoder_rate": 0.0}, "decoder_rate 0.0"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    tiny_folder: Folder, options: dict[str, Any], message: str
) -> None:
    method_options = BlendedLatentDiffusion.Options(weights=tiny_folder(4), **options)
    (problem,) = BlendedLatentDiffusion.problems(method_options)
    assert message in problem
    with pytest.raises(ValueError, match=message):
        BlendedLatentDiffusion(method_options, Runtime())


def test_any_share_that_is_allowed_leaves_a_step(tiny_folder: Folder) -> None:
    assert make(tiny_folder(4), steps=1, blending_start=0.99).edit([request(0)])[0].size == (SIZE, SIZE)


def test_options_are_parsed_strictly() -> None:
    parsed = parse_options(BlendedLatentDiffusion, BlendedLatentDiffusion.PRESETS["mini"])
    assert parsed.weights == "zoo:text_to_image"
    with pytest.raises(OptionError, match="blending_percentage"):
        parse_options(BlendedLatentDiffusion, {"blending_percentage": 0.25})


def test_bfloat16_is_close_to_float32(tiny_folder: Folder, method: BlendedLatentDiffusion) -> None:
    options = BlendedLatentDiffusion.Options(weights=tiny_folder(4), steps=4)
    coarse = arrays(BlendedLatentDiffusion(options, Runtime("cpu", "bfloat16")).edit([request(1)]))[0]
    assert 0 < np.abs(coarse - arrays(method.edit([request(1)]))[0]).mean() < 20

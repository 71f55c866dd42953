from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import EditRequest, Runtime
from bench.registry import OptionError, parse_options
from methods import pipelines
from methods.diffusion.stable_diffusion import SdInpainting
from tests.methods.conftest import FACTOR, SIZE, box_mask, picture, request, tiny_pipeline
from tests.methods.small import small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> SdInpainting:
    return SdInpainting(SdInpainting.Options(**{"weights": weights, "steps": 3} | options), Runtime())


def arrays(images: Sequence[Image.Image]) -> list[Any]:
    return [np.asarray(image, dtype=int) for image in images]


def requests(count: int = 4) -> list[EditRequest]:
    masks = [box_mask(8, 16, 40, 48), box_mask(0, 0, 20, 64), box_mask(33, 3, 50, 60), box_mask(2, 2, 62, 30)]
    return [request(seed, masks[seed % 4]) for seed in range(count)]


@pytest.fixture(scope="module")
def nine(tiny_folder: Folder) -> SdInpainting:
    return make(tiny_folder(9))


def test_is_the_bare_pipeline(nine: SdInpainting) -> None:
    """Masks on the grid, so nothing is rescued: the adapter must add nothing to diffusers' own result."""
    import torch

    edited = nine.edit([request(5)])
    pipeline = tiny_pipeline(9)
    pipeline.set_progress_bar_config(disable=True)
    (expected,) = pipeline(
        prompt="a face with a hat 5",
        image=picture(5),
        mask_image=box_mask(8, 16, 40, 48),
        num_inference_steps=3,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(5),
    ).images
    assert edited[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("scheduler", ["euler_a", "dpm++_sde"])
def test_a_sampler_that_draws_noise_does_not_depend_on_the_batch(tiny_folder: Folder, scheduler: str) -> None:
    method = make(tiny_folder(9), scheduler=scheduler)
    pair = [small(0), small(1)]
    together = arrays(method.edit(pair))
    for one, batched in zip(pair, together, strict=True):
        assert np.abs(arrays(method.edit([one]))[0] - batched).max() <= 1


def test_prompt_field(tiny_folder: Folder, nine: SdInpainting) -> None:
    region = make(tiny_folder(9), prompt_field="region_prompt")
    assert region.needs == {"source", "mask", "region_prompt"}
    base = request(1)
    swapped = EditRequest(**{**vars(base), "target_prompt": base.region_prompt})
    assert region.edit([base])[0].tobytes() == nine.edit([swapped])[0].tobytes()
    with pytest.raises(ValueError, match="empty region_prompt"):
        region.edit([EditRequest(**{**vars(base), "region_prompt": " "})])


def unet_inputs(method: SdInpainting, edit_request: Sequence[EditRequest]) -> Any:
    """What the UNet was given at the first step: (2 * batch with guidance, channels, 32, 32)."""
    inputs: list[Any] = []
    handle = method.pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(args[0].detach().clone()), with_kwargs=True
    )
    method.edit(edit_request)
    handle.remove()
    return inputs[0]


def test_polarity_in_the_unet_1_is_edit(nine: SdInpainting) -> None:
    mask = box_mask(8, 16, 40, 48)
    inputs = unet_inputs(nine, [request(0, mask)])
    expected = np.zeros((SIZE // FACTOR, SIZE // FACTOR))
    expected[8:24, 4:20] = 1
    assert inputs.shape[1] == 9
    for half in range(2):  # unconditional and conditional
        assert np.array_equal(inputs[half, 4].numpy(), expected)


def test_polarity_in_the_masked_image_inside_is_hidden(nine: SdInpainting) -> None:
    """The latents of the masked image know what is outside the mask and not what is inside."""
    mask = box_mask(8, 16, 40, 48)
    inside, outside = picture(0), picture(0)
    inside.paste((255, 0, 0), (10, 20, 30, 40))
    outside.paste((255, 0, 0), (45, 5, 60, 15))
    base = unet_inputs(nine, [request(0, mask)])[:, 5:9]
    assert np.array_equal(unet_inputs(nine, [request(0, mask, inside)])[:, 5:9], base)
    assert not np.array_equal(unet_inputs(nine, [request(0, mask, outside)])[:, 5:9], base)


def make_local(vae: Any) -> None:
    """Takes out of an autoencoder what looks at the whole picture, and its noise.

    What remains of the decoder reaches 24 pixels: 9 latent samples of 2 pixels and 6 convolutions of 3 x 3.
    """
    import torch

    for parent in list(vae.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.GroupNorm):
                setattr(parent, name, torch.nn.Identity())
    vae.encoder.mid_block.attentions[0] = vae.decoder.mid_block.attentions[0] = None
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30


def test_polarity_in_the_picture(tiny_folder: Folder) -> None:
    """4 channels: each step puts the source's latents back outside the mask. Seen in the result itself."""
    import torch

    method = make(tiny_folder(4))
    vae = method.pipeline.vae
    make_local(vae)
    pixels = torch.tensor(np.asarray(picture(0), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        stored_names = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0].permute(1, 2, 0).numpy()
    reconstruction = np.clip((stored_names + 1) * 127.5, 0, 255)
    left, right = slice(0, SIZE // 2 - 24), slice(SIZE // 2 + 24, SIZE)
    for start, edit, keep in ((0, left, right), (SIZE // 2, right, left)):
        (edited,) = arrays(method.edit([request(0, box_mask(start, 0, start + SIZE // 2, SIZE))]))
        difference = np.abs(edited - reconstruction)
        assert difference[:, keep].max() < 1
        assert difference[:, edit].mean() > 5


def test_thin_parts_reach_the_unet(nine: SdInpainting, tiny_folder: Folder) -> None:
    mask = box_mask(21, 0, 22, SIZE)  # one pixel wide, between two columns of samples
    expected = np.zeros((SIZE // FACTOR, SIZE // FACTOR))
    expected[:, 10] = 1
    assert np.array_equal(unet_inputs(nine, [request(0, mask)])[0, 4].numpy(), expected)


def test_cover_makes_every_touched_cell_editable(tiny_folder: Folder, nine: SdInpainting) -> None:
    mask = box_mask(9, 9, 21, 21)  # its first row and column lie behind their cells' samples
    size = SIZE // FACTOR
    published, covered = np.zeros((size, size)), np.zeros((size, size))
    published[5:11, 5:11] = 1
    covered[4:11, 4:11] = 1
    assert np.array_equal(unet_inputs(nine, [request(0, mask)])[0, 4].numpy(), published)
    cover = make(tiny_folder(9), mask_cells="cover")
    assert np.array_equal(unet_inputs(cover, [request(0, mask)])[0, 4].numpy(), covered)


def test_cover_hides_the_masks_own_pixels_alone(tiny_folder: Folder) -> None:
    """9 channels: the latents of the masked source are those of the source with gray where the mask is."""
    import torch

    cover = make(tiny_folder(9), mask_cells="cover")
    mask, source = box_mask(9, 9, 21, 21), picture(0)
    inputs = unet_inputs(cover, [request(0, mask, source)])[0, 5:]
    pixels = np.asarray(source, np.float32) / 127.5 - 1
    pixels[9:21, 9:21] = 0
    vae = cover.pipeline.vae
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist.mode()
    assert torch.allclose(inputs, latents[0] * vae.config.scaling_factor, atol=1e-5)
    # What lies in the mask is not seen; what lies beside it, in a cell that it touches, is.
    for place, hidden in (((9, 9), True), ((20, 20), True), ((8, 8), False), ((21, 21), False)):
        other = source.copy()
        other.putpixel(place, (255, 0, 255))
        same = torch.equal(unet_inputs(cover, [request(0, mask, other)])[0, 5:], inputs)
        assert same == hidden, place


def test_arguments_of_the_call(nine: SdInpainting, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: dict[str, Any] = {}

    def spy(pipeline: Any, output: str, **arguments: Any) -> list[Any]:
        inputs.update(arguments)
        return [picture(0)] * len(arguments["prompt"])

    monkeypatch.setattr(pipelines, "call", spy)
    rgba = request(3, source=picture(3).convert("RGBA"))
    nine.edit([request(1), rgba])
    assert inputs["prompt"] == ["a face with a hat 1", "a face with a hat 3"]
    assert len(inputs["negative_prompt"]) == len(inputs["generator"]) == 2
    assert [(type(i), i.mode) for i in inputs["image"]] == [(Image.Image, "RGB")] * 2
    assert [(type(m), m.mode) for m in inputs["mask_image"]] == [(Image.Image, "L")] * 2
    assert set(np.unique(np.asarray(inputs["mask_image"][0]))) == {0, 255}
    assert (inputs["width"], inputs["height"]) == (SIZE, SIZE)


def test_another_size_than_the_native_one_is_not_stretched(nine: SdInpainting) -> None:
    wide = request(1, box_mask(8, 8, 40, 20, (96, 32)), picture(1, (96, 32)))
    (edited,) = nine.edit([wide])
    assert edited.size == (96, 32)


def test_padding_mask_crop_keeps_the_outside_and_takes_batches(tiny_folder: Folder) -> None:
    method = make(tiny_folder(9), padding_mask_crop=4)
    four = requests(4)
    edited = method.edit(four)
    for edit_request, result in zip(four, edited, strict=True):
        assert result.size == edit_request.source.size
        outside = np.asarray(edit_request.mask) == 0
        changed = (np.asarray(result) != np.asarray(edit_request.source)).any(axis=2)
        assert not changed[outside].any()
        assert changed[~outside].mean() > 0.5


def test_strength_keeps_some_of_the_source(tiny_folder: Folder) -> None:
    method = make(tiny_folder(4), steps=10, strength=0.1)
    full = make(tiny_folder(4), steps=10)
    original = make(tiny_folder(4), steps=10, strength=0.1)
    edit_request = request(0, box_mask(0, 0, SIZE, SIZE // 2))
    assert method.edit([edit_request])[0].tobytes() == original.edit([edit_request])[0].tobytes()
    assert method.edit([edit_request])[0].tobytes() != full.edit([edit_request])[0].tobytes()


def test_negative_prompt_and_scheduler_have_an_effect(tiny_folder: Folder, nine: SdInpainting) -> None:
    from diffusers import EulerAncestralDiscreteScheduler

    batch = [request(1), request(2)]
    plain = [image.tobytes() for image in nine.edit(batch)]
    negative = make(tiny_folder(9), negative_prompt="blurry")
    assert all(a.tobytes() != b for a, b in zip(negative.edit(batch), plain, strict=True))
    euler = make(tiny_folder(9), scheduler="euler_a")
    assert isinstance(euler.pipeline.scheduler, EulerAncestralDiscreteScheduler)
    # The noise schedule is the checkpoint's, not the class's default.
    assert euler.pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert all(a.tobytes() != b for a, b in zip(euler.edit(batch), plain, strict=True))


@pytest.mark.parametrize("name", list(pipelines._SCHEDULERS))
def test_every_scheduler_runs(tiny_folder: Folder, name: str) -> None:
    (edited,) = arrays(make(tiny_folder(9), scheduler=name).edit([request(1)]))
    assert edited.std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding_mask_crop": -1}, "padding_mask_crop -1"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    tiny_folder: Folder, options: dict[str, Any], message: str
) -> None:
    method_options = SdInpainting.Options(weights=tiny_folder(9), **options)
    (problem,) = SdInpainting.problems(method_options)
    assert message in problem
    with pytest.raises(ValueError, match=message):
        SdInpainting(method_options, Runtime())


def test_a_checkpoint_of_another_kind_is_refused(tiny_folder: Folder) -> None:
    (problem,) = SdInpainting.problems(SdInpainting.Options(weights=tiny_folder(8)))
    assert "has 8 input channels, this method needs 4 or 9" in problem


def test_options_are_parsed_strictly() -> None:
    parsed = parse_options(SdInpainting, {**SdInpainting.PRESETS["mini"], "strength": 1})
    assert parsed.weights == "zoo:sd_inpainting"
    with pytest.raises(OptionError, match="guidance_scale"):
        parse_options(SdInpainting, {"guidance_scale": 7.5})
    with pytest.raises(OptionError, match="scheduler"):
        parse_options(SdInpainting, {"scheduler": "magic"})


def test_no_safety_checker_no_progress_bar_and_evaluation_mode(
    nine: SdInpainting, capsys: pytest.CaptureFixture[str]
) -> None:
    nine.edit([request(1)])
    assert capsys.readouterr().err == ""
    assert nine.pipeline.safety_checker is None
    assert not any(nine.pipeline.components[part].training for part in ("unet", "vae", "text_encoder"))


def test_bfloat16_is_close_to_float32(tiny_folder: Folder, nine: SdInpainting) -> None:
    import torch

    options = SdInpainting.Options(weights=tiny_folder(9), steps=3)
    method = SdInpainting(options, Runtime("cpu", "bfloat16"))
    assert {p.dtype for p in method.pipeline.unet.parameters()} == {torch.bfloat16}
    (coarse,), (fine,) = arrays(method.edit([request(1)])), arrays(nine.edit([request(1)]))
    assert 0 < np.abs(coarse - fine).mean() < 20

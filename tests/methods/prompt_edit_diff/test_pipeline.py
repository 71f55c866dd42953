"""The sampler: the outside at every step, the paste, batches, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.images import mask_array
from methods.prompt_edit_diff.model import PromptEditDiffUNet
from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline
from methods.prompt_edit_diff.tags import tag
from tests.methods.conftest import box_mask, picture, tiny_pipeline
from tests.methods.prompt_edit_diff.conftest import awake, tiny_editor, tiny_model

MASKS = [box_mask(8, 16, 40, 48), box_mask(0, 0, 20, 64), box_mask(33, 3, 51, 61)]
PROMPTS = ["a hat", "a red car at night", "a dog"]


def ask(count: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "prompt": PROMPTS[:count],
        "image": [picture(i) for i in range(count)],
        "mask_image": MASKS[:count],
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "generator": [torch.Generator().manual_seed(i) for i in range(count)],
        **more,
    }


def pick(request: dict[str, Any], i: int) -> dict[str, Any]:
    return {k: v[i : i + 1] if isinstance(v, list) else v for k, v in request.items()}


def latents_of(pipeline: PromptEditDiffPipeline, image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        z: Tensor = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    return z


@pytest.mark.parametrize(
    ("strength", "scheduler"), [(1.0, "DDIMScheduler"), (0.6, "DDIMScheduler"), (1.0, "DDPMScheduler")]
)
def test_outside_the_mask_the_latents_are_the_noised_source_at_every_step(
    strength: float, scheduler: str
) -> None:
    import diffusers

    pipeline = tiny_editor()
    # Record the latents and their noise level after each step.
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    steps: list[tuple[int, Tensor]] = []
    pipeline(
        **ask(2, strength=strength),
        callback_on_step_end=lambda _, i, level, values: steps.append((level, values["latents"].clone())),
    )
    assert len(steps) == int(4 * strength)
    assert [level for level, _ in steps[:-1]] == sorted((level for level, _ in steps[:-1]), reverse=True)
    assert steps[-1][0] == -1
    for n in range(2):
        source = latents_of(pipeline, picture(n))
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(n))
        # Cells without a pixel of the mask.
        keep = ~mask_array(MASKS[n]).reshape(32, 2, 32, 2).any(axis=(1, 3))
        for level, latents in steps:
            a = 1.0 if level < 0 else float(pipeline.scheduler.alphas_cumprod[level])
            expected = a**0.5 * source + (1 - a) ** 0.5 * noise
            assert torch.allclose(latents[n][:, keep], expected[0][:, keep], atol=1e-5)
            assert not torch.allclose(latents[n][:, ~keep], expected[0][:, ~keep], atol=1e-2)


@pytest.mark.parametrize("strength", [1.0, 0.75, 0.5])
@pytest.mark.parametrize("zero_snr", [True, False])
def test_sampling_starts_from_the_source_at_the_noise_level_of_the_strength(
    strength: float, zero_snr: bool
) -> None:
    from diffusers import DDIMScheduler

    pipeline = tiny_editor()
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, rescale_betas_zero_snr=zero_snr, timestep_spacing="trailing",
        prediction_type="v_prediction",
    )  # fmt: skip
    # The network's first input.
    first: list[tuple[Tensor, int]] = []
    original = pipeline.unet.predict
    pipeline.unet.predict = lambda x, t, *rest: first.append((x, int(t))) or original(x, t, *rest)  # type: ignore[method-assign, func-returns-value]
    pipeline(**ask(1, strength=strength, guidance_scale=1.0))
    start, t = first[0]
    # Four trailing steps of 1,000: 999, 749, 499, 249.
    assert (t, len(first)) == ({1.0: 999, 0.75: 749, 0.5: 499}[strength], int(4 * strength))
    source = latents_of(pipeline, picture(0))
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    a = float(pipeline.scheduler.alphas_cumprod[t])
    assert torch.allclose(start, a**0.5 * source + (1 - a) ** 0.5 * noise, atol=1e-5)
    # With zero terminal SNR, strength 1 sees nothing of the source. Any other start does.
    assert torch.equal(start, noise) == (strength == 1 and zero_snr)


def test_the_masked_source_is_that_of_stable_diffusion_inpainting() -> None:
    from methods.pipelines import masked_latents

    pipeline = tiny_editor()
    received: list[Tensor] = []
    original = pipeline.unet.conditions
    pipeline.unet.conditions = lambda *values: received.append(values[-1]) or original(*values)  # type: ignore[method-assign, func-returns-value]
    pipeline(**ask(3))
    inpainting = tiny_pipeline(9)
    inpainting.vae = pipeline.vae
    expected = masked_latents(inpainting, [picture(i) for i in range(3)], [mask_array(m) for m in MASKS])
    # Guidance doubles the batch.
    assert torch.allclose(received[0], torch.cat([expected] * 2), atol=1e-5)
    # Other content under the mask gives the same latents, to the bit.
    image = picture(0)
    image.paste((255, 0, 0), (10, 20, 30, 40))
    received.clear()
    pipeline(**ask(1, image=[image], guidance_scale=1.0))
    pipeline(**ask(1, guidance_scale=1.0))
    assert torch.equal(received[0], received[1])


def test_a_stored_checkpoint_keeps_its_function(tmp_path: Path) -> None:
    # The first checkpoints: whole cells are hidden under the name "concat", and their files lack the later options.
    pipeline = tiny_editor(awake(tiny_model(source_latents="cells")))
    expected = [image.tobytes() for image in pipeline(**ask(2)).images]
    pipeline.save_pretrained(str(tmp_path))
    path = tmp_path / "unet" / "config.json"
    config = json.loads(path.read_text())
    config["source_latents"] = "concat"
    for name in ("token_content", "token_time"):
        del config[name]
    path.write_text(json.dumps(config))
    again = PromptEditDiffPipeline.from_pretrained(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    assert again.unet.hides == "cells"
    assert [image.tobytes() for image in again(**ask(2)).images] == expected


def test_pasted_back_the_outside_is_the_sources_own_pixels(editor: PromptEditDiffPipeline) -> None:
    request = ask(3)
    pasted = editor(**request).images
    raw = editor(**ask(3, paste=False)).images
    for n in range(3):
        keep = ~mask_array(MASKS[n])
        source = np.asarray(picture(n))
        assert np.array_equal(np.asarray(pasted[n])[keep], source[keep])
        assert np.array_equal(np.asarray(pasted[n])[~keep], np.asarray(raw[n])[~keep])


def test_raw_the_outside_is_what_the_autoencoder_makes_of_the_source() -> None:
    # With a trained autoencoder, away from the mask: no more than the autoencoder's own error.
    from diffusers import DDIMScheduler

    from methods.zoo.autoencoder import load_vae
    from methods.zoo.diffusion import SCHEDULE, build_unet
    from methods.zoo.prompt_edit_diff import MODEL
    from methods.zoo.text import build_text_encoder, build_tokenizer
    from protocols.world.world import MiniWorld

    torch.manual_seed(0)
    world = MiniWorld()
    tokenizer = build_tokenizer(world.words())
    # An untrained network around the shipped autoencoder.
    unet = PromptEditDiffUNet.from_base(build_unet(4), **MODEL).eval()
    vae = load_vae()
    pipeline = PromptEditDiffPipeline(
        vae, build_text_encoder(tokenizer).eval(), tokenizer, unet, DDIMScheduler(**SCHEDULE)
    )
    pipeline.set_progress_bar_config(disable=True)
    request = world.case(-2).request
    mask = box_mask(8, 8, 28, 28)
    [raw] = pipeline(
        prompt=[request.target_prompt], image=[request.source], mask_image=[mask], num_inference_steps=4,
        strength=0.5, guidance_scale=1.0, generator=[torch.Generator().manual_seed(0)], paste=False,
    ).images  # fmt: skip
    source = np.asarray(request.source).astype(int)
    with torch.no_grad():
        decoded = vae.decode(latents_of(pipeline, request.source) / vae.config.scaling_factor).sample[0]
    # The autoencoder's own reconstruction.
    own = decoded.clamp(-1, 1).add(1).mul(127.5).round().permute(1, 2, 0).numpy().astype(int)
    # Pixels away from the mask.
    far = np.ones((64, 64), bool)
    far[:40, :40] = False
    error = np.abs(np.asarray(raw).astype(int) - source)
    assert error[far].mean() < 1.2 * np.abs(own - source)[far].mean()
    assert error[~far].mean() > error[far].mean()


def test_a_result_does_not_depend_on_its_batch(editor: PromptEditDiffPipeline) -> None:
    request = ask(
        3, tags=[tag(p, "", [("", (p.split()[1],))]) for p in PROMPTS], regions=[[], [MASKS[1]], []]
    )
    request["tags"][0] = tag(PROMPTS[0], "", [("", ("a",)), ("", ("hat",))])
    request["regions"][0] = [box_mask(8, 16, 20, 30), box_mask(22, 16, 40, 48)]
    request["output_type"] = "latent"
    # The same requests in one batch, and one by one.
    together = editor(**{**request, "generator": [torch.Generator().manual_seed(i) for i in range(3)]}).images
    for i in range(3):
        alone = editor(
            **pick({**request, "generator": [torch.Generator().manual_seed(j) for j in range(3)]}, i)
        )
        assert torch.allclose(together[i], alone.images[0], atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-1)


def test_it_follows_prompt_tags_mask_and_seed(editor: PromptEditDiffPipeline) -> None:
    def run(**more: Any) -> Tensor:
        out = editor(**ask(1, output_type="latent", **more)).images[0]
        assert isinstance(out, Tensor)
        return out

    # The same inputs give the same latents, and each other input changes them.
    base = run()
    assert torch.equal(base, run())
    assert not torch.allclose(base, run(prompt=["a red car"]), atol=1e-3)
    assert not torch.allclose(base, run(generator=[torch.Generator().manual_seed(9)]), atol=1e-3)
    assert not torch.allclose(base, run(negative_prompt="blurred"), atol=1e-3)
    # "hat" is what the automatic tags find too, so the same; the article instead is another edit.
    assert torch.equal(base, run(tags=[tag("a hat", "", [("", ("hat",))])]))
    assert not torch.allclose(base, run(tags=[tag("a hat", "", [("", ("a",))])]), atol=1e-4)


def test_automatic_tags_come_from_the_source_prompt_and_are_given_back(
    editor: PromptEditDiffPipeline,
) -> None:
    from methods.prompt_edit_diff.tags import render

    out = editor(**ask(1, prompt=["a red hat on a dog"], source_prompt=["a blue hat on a dog"]))
    assert render(out.tags[0]) == "a [red hat](1) on a dog"


def test_guidance_of_one_is_one_half_of_the_work() -> None:
    pipeline = tiny_editor()
    # Sizes of the batches that the network receives.
    sizes: list[int] = []
    original = pipeline.unet.predict
    pipeline.unet.predict = lambda x, *rest: sizes.append(len(x)) or original(x, *rest)  # type: ignore[method-assign, func-returns-value]
    pipeline(**ask(2, guidance_scale=1.0))
    assert sizes == [2] * 4
    sizes.clear()
    pipeline(**ask(2, guidance_scale=2.0))
    assert sizes == [4] * 4


def test_saved_and_loaded_it_gives_the_same(editor: PromptEditDiffPipeline, tmp_path: Path) -> None:
    editor.save_pretrained(str(tmp_path))
    again = PromptEditDiffPipeline.from_pretrained(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    first, second = editor(**ask(2)).images, again(**ask(2)).images
    assert [i.tobytes() for i in first] == [i.tobytes() for i in second]


def test_any_size_on_the_grid_will_do(editor: PromptEditDiffPipeline) -> None:
    image, mask = picture(0, (52, 40)), box_mask(10, 10, 30, 30, (52, 40))
    [out] = editor(**ask(1, image=[image], mask_image=[mask])).images
    assert out.size == (52, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ["a", "b"]}, "one of each"),
        ({"image": [picture(0, (32, 32))]}, "one size"),
        ({"tags": [tag("another prompt")]}, "another prompt"),
        ({"tags": [tag("a hat", "", [("", ("hat",)), ("", ("a",))])]}, "2 regions"),
        ({"regions": [[MASKS[0], MASKS[1]]]}, "need tags"),
        ({"strength": 0.1}, "no step"),
        ({"strength": 1.5}, "no step"),
        ({"output_type": "jpeg"}, "output_type"),
    ],
)
def test_what_cannot_be_done_is_refused(
    editor: PromptEditDiffPipeline, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        editor(**ask(1, **change))


def test_it_is_trained_for_nothing_without_its_parts() -> None:
    # Every ablation samples too.
    for off in ("prompt_tokens", "masked_attention", "mask_encoder"):
        pipeline = tiny_editor(awake(tiny_model(**{off: False})))
        [out] = pipeline(**ask(1)).images
        keep = ~mask_array(MASKS[0])
        assert np.array_equal(np.asarray(out)[keep], np.asarray(picture(0))[keep])

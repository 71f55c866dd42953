from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from methods import batches, latents, mask_grid, weights
from tests.methods.conftest import FACTOR, SIZE, box_mask, picture, request, tiny_pipeline

Folder = Callable[[int], str]

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
ZERO_SNR = SD | {
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}


def schedule(**settings: Any) -> latents.NoiseSchedule:
    return latents.NoiseSchedule(DDIMScheduler(**settings))


def draw(seed: int, shape: tuple[int, ...] = (2, 4, 8, 8)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- masks ---------------------------------------------------------------------------------------------


def test_rescue_is_pillows_nearest_neighbour_on_wide_masks() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for factor in (2, 8):
        coarse = rng.random((8, 8)) < 0.5
        mask = coarse.repeat(factor, 0).repeat(factor, 1)
        mask = np.roll(mask, (1, 1), (0, 1))  # off the grid
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize((8, 8), Image.Resampling.NEAREST)
        cells = mask_grid.latent_mask(mask, factor, "rescue")
        assert cells.shape == (8, 8)
        assert np.array_equal(cells, np.asarray(small) >= 128)


def test_rescue_adds_what_would_vanish_and_nothing_else() -> None:
    mask = np.zeros((64, 64), bool)
    mask[9, 3:60] = True  # one row, behind the middle (12) of its cells
    cells = mask_grid.latent_mask(mask, 8, "rescue")
    assert cells[1].all()
    assert cells.sum() == 8
    assert not mask[4::8, 4::8].any()


def test_cover_takes_every_touched_cell() -> None:
    mask = np.zeros((16, 16), bool)
    mask[7, 7] = mask[8, 12] = True
    expected = np.zeros((4, 4), bool)
    expected[1, 1] = expected[2, 3] = True
    assert np.array_equal(mask_grid.latent_mask(mask, 4, "cover"), expected)


def test_masks_are_one_where_edited() -> None:
    batch = latents.masks(
        [request(0, box_mask(0, 0, 32, 64)), request(1, box_mask(8, 16, 40, 48))],
        FACTOR,
        "rescue",
        torch.device("cpu"),
    )
    assert batch.shape == (2, 1, SIZE // FACTOR, SIZE // FACTOR)
    assert batch.dtype == torch.float32
    assert batch[0, 0, :, :16].min() == 1
    assert batch[0, 0, :, 16:].max() == 0
    assert batch[1].sum() == 16 * 16


def test_unfit_masks_are_refused() -> None:
    for mask, message in ((box_mask(0, 0, 0, 0), "empty"), (box_mask(0, 0, 8, 8, (32, 32)), "mask of")):
        with pytest.raises(ValueError, match=message):
            latents.masks([request(0, mask)], FACTOR, "cover", torch.device("cpu"))


# --- pictures ------------------------------------------------------------------------------------------


def test_pixels_and_pictures_are_each_others_inverse() -> None:
    sources = [picture(0), picture(1)]
    x = batches.to_tensor(sources, torch.device("cpu"))
    assert x.shape == (2, 3, SIZE, SIZE)
    assert -1 <= x.min() < x.max() <= 1
    assert [p.tobytes() for p in batches.to_images(x)] == [s.tobytes() for s in sources]
    assert batches.to_images(torch.full((1, 3, 2, 2), 1.7))[0].getpixel((0, 0)) == (255, 255, 255)


def test_latents_are_the_scaled_mean_and_decode_undoes_the_scale() -> None:
    vae = tiny_pipeline(4).vae
    x = batches.to_tensor([picture(0)], torch.device("cpu"))
    with torch.no_grad():
        z = latents.encode(vae, x)
        assert torch.allclose(z / 0.18215, vae.encode(x).latent_dist.mode())
        expected = vae.decode(vae.encode(x).latent_dist.mode()).sample
        # The latents differ by a rounding, which the decoder enlarges.
        assert torch.allclose(latents.decode(vae, z), expected, atol=5e-5)


def test_noise_comes_from_each_images_own_generator() -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = batches.noise(torch.empty(2, 4, 8, 8), generators(1, 2))
    assert torch.equal(both[1:], batches.noise(torch.empty(1, 4, 8, 8), generators(2)))
    many = batches.noise(torch.empty(1, 4, 128, 128), generators(3))
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02


# --- guidance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_guidance_is_the_papers_combination(guidance: float) -> None:
    pipeline = tiny_pipeline(4)
    z = draw(0, (1, 4, 32, 32))

    def encoded(text: str) -> torch.Tensor:
        ids = pipeline.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden: torch.Tensor = pipeline.text_encoder(ids)[0]
        return hidden

    with torch.no_grad():
        result = latents.GuidedUNet(pipeline, ["a hat"], "blurry", guidance)(z, 500)
        with_text = pipeline.unet(z, 500, encoded("a hat")).sample
        without = pipeline.unet(z, 500, encoded("blurry")).sample
    assert torch.allclose(result, without + guidance * (with_text - without), atol=1e-4)


# --- the schedule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_is_diffusers_step(prediction: str, eta: float) -> None:
    settings = SD | {"prediction_type": prediction, "set_alpha_to_one": False, "steps_offset": 1}
    reference = DDIMScheduler(**settings)
    reference.set_timesteps(50)
    own = schedule(**settings)
    assert own.grid(50) == reference.timesteps.tolist()
    for t, lower in ((981, 961), (21, 1), (1, latents.CLEAN)):
        output, z, eps = draw(t), draw(t + 1), draw(t + 2)
        expected = reference.step(output, t, z, eta=eta, variance_noise=eps if eta else None).prev_sample
        result = own.step(output, z, t, lower, eta, eps if eta else None)
        assert torch.allclose(result, expected, atol=2e-5, rtol=1e-4)


def test_noising_is_diffusers_noising_and_exact_at_the_end() -> None:
    reference, own = DDIMScheduler(**ZERO_SNR), schedule(**ZERO_SNR)
    z0, eps = draw(0), draw(1)
    for t in (0, 500, 999):
        assert torch.allclose(
            own.noised(z0, eps, t), reference.add_noise(z0, eps, torch.tensor(t)), atol=1e-5
        )
    assert own.noised(z0, eps, latents.CLEAN) is z0
    assert torch.allclose(own.noised(z0, eps, 999), eps, atol=1e-6)  # pure noise


def test_a_stochastic_step_from_pure_noise_is_finite() -> None:
    own = schedule(**ZERO_SNR)
    result = own.step(draw(0), draw(1), 999, 899, 1.0, draw(2))
    assert torch.isfinite(result).all()
    # v = -x0 at alpha-bar 0: the step is x0 at its new level, plus fresh noise alone.
    signal = own.signal(899)
    assert torch.allclose(result, signal**0.5 * -draw(0) + (1 - signal) ** 0.5 * draw(2), atol=1e-4)


@pytest.mark.parametrize("settings", [SD, ZERO_SNR], ids=["sd", "zero_snr"])
def test_the_perfect_prediction_leads_back_to_the_source(settings: dict[str, Any]) -> None:
    """With the true v or eps at every level, DDIM ends at z_0 whatever the number of steps."""
    own = schedule(**settings | {"set_alpha_to_one": True})
    z0, eps = draw(0), draw(1)
    for steps in (1, 7, 15):  # 7 and 15 do not divide 1000
        grid = [*own.grid(steps), latents.CLEAN]
        z = own.noised(z0, eps, grid[0])
        for t, lower in pairwise(grid):
            a, s = own.signal(t) ** 0.5, (1 - own.signal(t)) ** 0.5
            z = own.step(a * eps - s * z0 if settings is ZERO_SNR else eps, z, t, lower)
        assert torch.allclose(z, z0, atol=2e-3)


def test_renoising_composes_with_noising() -> None:
    """q(z_u | z_t) after q(z_t | z_0) is q(z_u | z_0): the coefficients of mean and variance must agree."""
    for settings in (SD, ZERO_SNR):
        own = schedule(**settings)
        one, none = torch.ones(1), torch.zeros(1)
        for t, higher in ((0, 400), (399, 400), (500, 999)):
            mean = own.renoised(own.noised(one, none, t), none, t, higher)
            assert torch.allclose(mean, own.noised(one, none, higher), atol=1e-6)
            first = own.renoised(own.noised(none, one, t), none, t, higher)
            second = own.renoised(none, one, t, higher)
            assert torch.allclose(first**2 + second**2, own.noised(none, one, higher) ** 2, atol=1e-6)


def test_latents_are_never_clipped() -> None:
    own = schedule(**SD | {"clip_sample": True})
    clean, _ = own.split(draw(0), 30 * draw(1), 500)
    assert clean.abs().max() > 10


# --- problems ------------------------------------------------------------------------------------------


def test_too_many_steps_and_another_kind_of_checkpoint_are_refused(tiny_folder: Folder) -> None:
    assert latents.problems(tiny_folder(4), None, 1000) == []
    assert latents.problems(tiny_folder(4), None, 1001) == ["steps 1001: the checkpoint has 1000 time steps"]
    (problem,) = latents.problems(tiny_folder(9), None, 50)
    assert "has 9 input channels, this method needs 4" in problem


def test_noise_prediction_from_pure_noise_is_refused(tmp_path: Any) -> None:
    pipeline = tiny_pipeline(4)
    for prediction, refused in (("epsilon", True), ("v_prediction", False)):
        pipeline.scheduler = DDIMScheduler(**ZERO_SNR | {"prediction_type": prediction})
        folder = tmp_path / prediction
        pipeline.save_pretrained(folder)
        assert weights.problems(str(folder)) == []
        problem_texts = latents.problems(str(folder), None, 10)
        assert bool(problem_texts) == refused
        assert all("ends in pure noise" in problem for problem in problem_texts)

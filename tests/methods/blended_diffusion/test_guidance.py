from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from methods.blended_diffusion.augment import DRAWS
from methods.blended_diffusion.guidance import Weighting, crop, distance, range_loss, square
from methods.blended_diffusion.sampler import BlendedSettings, Noise, ddim_step, ddpm_step, guided, sample
from methods.blended_diffusion.schedule import ReverseProcess, StepPrediction, linear_betas
from tests.methods.blended_diffusion.conftest import (
    SIZE,
    LinearClip,
    drawn,
    tiny_guidance,
    tiny_unet,
)


def noise(seeds: list[int], candidates: int = 1) -> Noise:
    return Noise([torch.Generator().manual_seed(seed) for seed in seeds], candidates, "cpu")


def test_the_distance_is_half_the_squared_angle() -> None:
    a, b = F.normalize(drawn(1, 9, 5).double(), dim=-1), F.normalize(drawn(2, 9, 5).double(), dim=-1)
    angle = torch.arccos((a * b).sum(-1))
    assert torch.allclose(distance(a, b), angle**2 / 2)


def test_the_range_loss_counts_what_lies_outside() -> None:
    x = torch.zeros(2, 3, 4, 4)
    x[1, 0, 0, 0], x[1, 2, 3, 3] = 3.0, -1.5
    assert range_loss(x).tolist() == [0.0, pytest.approx((4 + 0.25) / 48)]


@pytest.mark.parametrize("t", [1, 4])
def test_one_guided_step_is_the_formula(t: int) -> None:
    """Algorithm 1 written out anew, in float64, the gradient by central differences along random directions."""
    unet = tiny_unet(3).double()
    schedule = ReverseProcess(linear_betas(), 10)
    plain = tiny_guidance(1)
    clip: Any = LinearClip()
    clip.matrix, clip.text = clip.matrix.double(), clip.text.double()
    guidance = replace(
        plain, clip=clip, texts=clip.texts(["x"]), mask=plain.mask.double(), source=plain.source.double()
    )
    x = drawn(5, 1, 3, 16, 16).double() * 0.8

    # The published constants, from their definitions.
    timesteps = [round(i * 111) for i in range(10)]
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    alpha_bar = [math.prod(1 - b for b in betas[: s + 1]) for s in timesteps]
    now, before = alpha_bar[t], alpha_bar[t - 1]
    beta = 1 - now / before

    def network(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return unet(x, timesteps[t]).sample.chunk(2, dim=1)

    def loss(x: torch.Tensor) -> float:
        clean = (x - math.sqrt(1 - now) * network(x)[0]) / math.sqrt(now)
        fac = math.sqrt(1 - now)
        visible_cases = (clean * fac + x * (1 - fac)) * guidance.mask
        pooled = visible_cases.view(1, 3, SIZE, 2, SIZE, 2).mean(dim=(3, 5))
        feature = ((pooled + 1) / 2 - clip.mean) / clip.std
        feature = feature.flatten() @ clip.matrix
        cosine = feature @ clip.text[0] / feature.norm() / clip.text.norm()
        outside = (clean.abs() - 1).clamp(min=0).pow(2).mean()
        return float(20 * torch.arccos(cosine) ** 2 / 2 + 2 * outside)

    settings = BlendedSettings(augmentations=1)
    moments, gradient = guided(unet, schedule, guidance, noise([0]), settings, x, t)
    for seed in (1, 2, 3):
        direction = drawn(seed, 1, 3, 16, 16).double()
        step = 1e-5
        slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
        # The network's own output is float32 on its way through ``predict``.
        assert float((gradient * direction).sum()) == pytest.approx(-slope, rel=2e-3)

    epsilon, v = network(x)
    clean = (x - math.sqrt(1 - now) * epsilon) / math.sqrt(now)
    mean = (math.sqrt(before) * beta * clean + math.sqrt(1 - beta) * (1 - before) * x) / (1 - now)
    f = (v + 1) / 2
    variance = beta**f * (beta * (1 - before) / (1 - now)) ** (1 - f)
    z = drawn(6, 1, 3, 16, 16).double()

    class One(Noise):
        def normal(self, *shape: int, shared: bool = False) -> torch.Tensor:
            return z

    expected = mean + variance * gradient + variance.sqrt() * z
    collected = ddpm_step(moments, gradient, One([], 1, "cpu"), t)
    assert torch.allclose(collected, expected, atol=1e-5)
    assert float((variance * gradient).abs().max()) > 1e-3


def test_ddim_without_guidance_is_diffusers_ddim() -> None:
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True)
    reference.set_timesteps(1000)
    schedule = ReverseProcess(linear_betas(), 1000)
    x, epsilon = drawn(1, 1, 3, 4, 4), drawn(2, 1, 3, 4, 4)
    for t in (0, 400):
        moments = StepPrediction(x, x, schedule.x0(epsilon, x, t))
        result, x0 = ddim_step(schedule, moments, torch.zeros_like(x), x, t)
        expected = reference.step(epsilon, t, x)
        assert torch.allclose(result, expected.prev_sample, atol=1e-4)
        assert torch.allclose(x0, expected.pred_original_sample, atol=1e-4)


def test_guidance_brings_the_region_nearer_to_the_text() -> None:
    unet = tiny_unet(3)
    schedule, settings = (
        ReverseProcess(linear_betas(), 12),
        BlendedSettings(skip=6, augmentations=3, faithful=False),
    )
    actual = {}
    for strength in (0.0, 30.0):
        guidance = tiny_guidance(4, weighting=Weighting(clip=strength, range=0.0), faithful=False)
        result = sample(unet, schedule, guidance, noise([7], 4), settings)
        actual[strength] = guidance.rank_distance(result)
    assert bool((actual[30.0] < actual[0.0] - 0.1).all())


def test_squares_are_those_that_the_clip_was_trained_on() -> None:
    """Against the recipe's own crop, on random boxes, corners of the picture included."""
    from PIL import Image

    from methods.zoo.clip import crop as trained

    random = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64]
    picture = np.stack([4 * x, 4 * y, 2 * (x + y)], -1).astype(np.uint8)
    for _ in range(30):
        top, left = random.integers(0, 60, 2)
        bottom, right = top + random.integers(1, 65 - top), left + random.integers(1, 65 - left)
        mask = np.zeros((64, 64), bool)
        mask[top:bottom, left:right] = True
        expected = trained(picture, mask)
        a, b, side = square(torch.from_numpy(mask))
        part = Image.fromarray(picture[b : b + side, a : a + side])
        assert np.array_equal(np.asarray(part.resize((64, 64), Image.Resampling.BICUBIC)), expected)
        tensor = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
        result = crop(tensor, [(a, b, side)], 64)[0].permute(1, 2, 0).numpy()
        # Bilinear and bicubic agree on a ramp but for the frame; away from the ramp's wrap-around.
        smooth = slice(4, 60)
        assert np.abs(result[smooth, smooth] - expected[smooth, smooth].astype(float)).max() < 2


def test_views_show_the_region_on_grey_the_square_or_everything() -> None:
    guidance = tiny_guidance(2)
    picture = drawn(1, 2, 3, 16, 16)
    masked = guidance.views(picture)
    assert torch.allclose(masked, F.avg_pool2d(picture * guidance.mask, 2))
    assert torch.allclose(replace(guidance, view="whole").views(picture), F.avg_pool2d(picture, 2))
    # The mask is rows 4 to 12, columns 3 to 10: a square of 11 pixels, one more than a tenth of 9 on each side.
    assert guidance.squares == [(1, 3, 11)] * 2
    full = replace(guidance, view="crop", mask=torch.ones_like(guidance.mask))
    assert torch.allclose(full.views(picture), F.avg_pool2d(picture, 2), atol=1e-6)


def test_views_are_averaged_per_image_and_losses_summed_over_the_batch() -> None:
    guidance = tiny_guidance(3)
    x0, x = drawn(1, 3, 3, 16, 16), drawn(2, 3, 3, 16, 16)
    draws = torch.rand((3, 4, DRAWS), generator=torch.Generator().manual_seed(0))
    whole = guidance.loss(x0, x, 0.6, draws)
    single = [tiny_guidance(1).loss(x0[i : i + 1], x[i : i + 1], 0.6, draws[i : i + 1]) for i in range(3)]
    assert float(whole) == pytest.approx(float(sum(single)), rel=1e-5)
    doubled = guidance.clip_distance(x, draws.repeat(1, 2, 1))
    plain = guidance.clip_distance(x, draws[:, :0])
    once = guidance.clip_distance(x, draws)
    # (plain + 4 views) / 5 and (plain + 2 * 4 views) / 9.
    assert torch.allclose(9 * doubled - plain, 2 * (5 * once - plain), atol=1e-4)


def test_the_background_quirks_and_their_repair() -> None:
    guidance = tiny_guidance(2, weighting=Weighting(0, 0, True, lpips=0.0, l2=1.0))
    picture = guidance.source + 0.5 * (1 - guidance.mask)
    outside, inside = (1 - guidance.mask), guidance.mask
    source_inside = (guidance.source * inside).pow(2).mean(dim=(1, 2, 3))
    added = (0.5 * outside).expand_as(picture).pow(2).mean(dim=(1, 2, 3))
    # Published: the cut-out region counts as an error, and the mean is over both candidates.
    assert float(guidance.background(picture)) == pytest.approx(
        float((source_inside + added).mean()), rel=1e-5
    )
    repaired = replace(guidance, faithful=False)
    assert float(repaired.background(picture)) == pytest.approx(float(added.sum()), rel=1e-5)
    lpips = replace(guidance, weighting=Weighting(0, 0, True, lpips=2.0, l2=0.0))
    each = ((picture * outside - guidance.source).abs() ** 1.5).mean(dim=(1, 2, 3))
    assert float(lpips.background(picture)) == pytest.approx(2 * float(each.sum()), rel=1e-5)


def test_published_ranking_sees_black_without_normalisation_and_the_repaired_one_what_guidance_sees() -> None:
    guidance = tiny_guidance(2)
    clip: Any = guidance.clip
    picture = drawn(1, 2, 3, 16, 16).clamp(-1, 1)
    half = ((picture + 1) / 2 * guidance.mask).view(2, 3, 8, 2, 8, 2).mean(dim=(3, 5))
    feature = F.normalize(half.flatten(1) @ clip.matrix, dim=-1)
    angle = torch.arccos((feature * guidance.texts).sum(-1))
    assert torch.allclose(guidance.rank_distance(picture), angle**2 / 2, atol=1e-5)
    repaired = replace(guidance, faithful=False)
    plain = repaired.clip_distance(picture, torch.zeros(2, 0, DRAWS))
    assert torch.allclose(repaired.rank_distance(picture), plain)


def test_candidates_share_the_background_noise_only_in_the_published_program() -> None:
    for faithful in (True, False):
        guidance = tiny_guidance(4, faithful=faithful)
        settings = BlendedSettings(skip=0, augmentations=1, faithful=faithful)
        inputs = []

        class Spy(Noise):
            def normal(self, *shape: int, shared: bool = False) -> torch.Tensor:
                out = super().normal(*shape, shared=shared)
                inputs.append((shared, out))  # noqa: B023
                return out

        generators = [torch.Generator().manual_seed(i) for i in (1, 2)]
        sample(tiny_unet(3), ReverseProcess(linear_betas(), 2), guidance, Spy(generators, 2, "cpu"), settings)
        assert [shared for shared, _ in inputs].count(True) == (2 if faithful else 0)
        for shared, drawn_noise in inputs:
            assert torch.equal(drawn_noise[0], drawn_noise[1]) == shared
            assert not torch.equal(drawn_noise[0], drawn_noise[2])


def test_a_candidate_depends_on_its_requests_numbers_alone() -> None:
    unet, schedule = tiny_unet(3), ReverseProcess(linear_betas(), 6)
    settings = BlendedSettings(skip=2, augmentations=3)
    both = sample(unet, schedule, tiny_guidance(4, candidates=2), noise([1, 2], 2), settings)
    second = sample(unet, schedule, tiny_guidance(2), noise([2], 2), settings)
    assert torch.allclose(both[2:], second, atol=1e-3 * float(second.abs().max()))
    assert not torch.allclose(both[:2], second, atol=0.1)


def test_several_regions_are_each_pulled_as_if_alone() -> None:
    """Two regions of one picture, each with its own text, beside a picture with one."""
    areas = torch.zeros(3, 1, 16, 16)
    areas[0, :, 2:8, 2:8], areas[1, :, 9:15, 9:15], areas[2, :, 4:13, 3:11] = 1, 1, 1
    texts = F.normalize(drawn(4, 3, 6), dim=-1)
    picture = drawn(1, 2, 3, 16, 16).clamp(-1, 1)
    draws = torch.rand((2, 2, DRAWS), generator=torch.Generator().manual_seed(0))
    for view in ("masked", "crop"):
        for faithful in (True, False):
            both = tiny_guidance(
                2, texts=texts, regions=areas, owner=torch.tensor([0, 0, 1]), view=view, faithful=faithful
            )
            result, ranked = both.clip_distance(picture, draws), both.rank_distance(picture)
            single = []
            for part, image in ((0, 0), (1, 0), (2, 1)):
                one = tiny_guidance(
                    1, texts=texts[part : part + 1], mask=areas[part : part + 1], view=view, faithful=faithful
                )
                at = slice(image, image + 1)
                single.append((one.clip_distance(picture[at], draws[at]), one.rank_distance(picture[at])))
            for whole, index in ((result, 0), (ranked, 1)):
                expected = torch.cat([single[0][index] + single[1][index], single[2][index]])
                assert torch.allclose(whole, expected, atol=1e-5)

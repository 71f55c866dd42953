from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.downloads import HubFiles, MissingFiles
from bench.edit import Runtime
from methods.blended_diffusion.schedule import ReverseProcess, linear_betas
from methods.latent_blending import jumps
from methods.repaint import files
from methods.repaint.method import RePaint
from methods.repaint.sampler import Model, repaint
from methods.weights import WeightsError
from tests.methods.blended_diffusion.conftest import TINY, tiny_adm, tiny_unet
from tests.methods.conftest import box_mask, request


def test_the_published_schedule_has_4570_transitions_of_which_2410_are_passes() -> None:
    walk = jumps(250, 10, 10)
    assert walk[0] == 249
    assert walk[-1] == -1
    downwards = sum(below < level for level, below in pairwise(walk))
    upwards = sum(above - level for level, above in pairwise(walk) if above > level)
    assert downwards == 2410
    # The authors count a jump of ten levels as ten transitions.
    assert downwards + upwards == 4570


def pixel_unet(outputs: int) -> Any:
    """A network of 3 input channels, with 3 outputs (fixed variance) or 6 (learnt)."""
    return tiny_unet(1, out_channels=outputs)


class Told(Model):
    """A model that predicts a given clean image perfectly."""

    def __init__(self, process: ReverseProcess, clean: Tensor) -> None:
        super().__init__(None, process, learnt_variance=False)
        object.__setattr__(self, "clean", clean)

    def step(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        mean = float(self.process.from_x0[k]) * self.clean + float(self.process.from_x[k]) * x  # type: ignore[attr-defined]
        deviation = float(np.exp(0.5 * self.process.log_posterior[k]))
        return mean, torch.full_like(x, deviation)


def noise_like(x: Tensor, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("walk", [jumps(20, 2, 4), jumps(20, 10, 1)], ids=["jumps", "plain"])
def test_a_perfect_model_gives_its_image_inside_and_the_source_outside(walk: list[int]) -> None:
    process = ReverseProcess(linear_betas(), 20)
    source, clean = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    x = repaint(Told(process, clean), source, mask, walk, noise_like(source))
    assert torch.equal(x[..., 4:], source[..., 4:])
    assert torch.allclose(x[..., :4], clean[..., :4], atol=1e-5)


def test_every_visited_level_has_its_own_amount_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """x_k is a sample of q(x_k | x_0), also after a jump back."""
    process = ReverseProcess(linear_betas(), 20)
    source = torch.full((1, 3, 64, 64), 0.5)
    seen: list[tuple[int, float, float]] = []

    class Watched(Told):
        def step(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
            seen.append((k, float(x.mean()), float(x.std())))
            return super().step(x, k)

    mask = torch.zeros(1, 1, 64, 64)
    mask[..., ::2] = 1
    walk = jumps(20, 4, 3)
    repaint(Watched(process, source), source, mask, walk, noise_like(source))
    assert [k for k, _, _ in seen] == [k for k, below in pairwise(walk) if below < k]
    for k, mean, deviation in seen[1:]:
        assert mean == pytest.approx(0.5 * process.alpha_bar[k] ** 0.5, abs=0.04)
        assert deviation == pytest.approx((1 - process.alpha_bar[k]) ** 0.5, rel=0.06, abs=0.01)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_step_of_fixed_variance_is_diffusers(variance: str) -> None:
    """DDPMScheduler's own step, clipped, whose noise we draw too."""
    from diffusers import DDPMScheduler

    unet = pixel_unet(3)
    process = ReverseProcess(linear_betas(), 1000)
    model = Model(unet, process, learnt_variance=False, large_variance=variance == "fixed_large")
    scheduler = DDPMScheduler(variance_type=variance, clip_sample=True)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    for k in (900, 400, 5):
        with torch.no_grad():
            mean, deviation = model.step(x, k)
            output = unet(x, k).sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        expected = scheduler.step(output, k, x, generator=torch.Generator().manual_seed(3)).prev_sample
        assert torch.allclose(mean + deviation * noise, expected, atol=1e-4)


def test_a_step_of_learnt_variance_clips_the_clean_image() -> None:
    from methods.blended_diffusion import adm

    unet, process = pixel_unet(6), ReverseProcess(linear_betas(), 50)
    x = 3 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mean, deviation = Model(unet, process, learnt_variance=True).step(x, 40)
        timestep = torch.tensor([int(process.timesteps[40])])
        predicted = process.prediction_of(*adm.predict(unet, x, timestep), x, 40)
    clean = predicted.x0.clamp(-1, 1)
    assert not torch.equal(clean, predicted.x0)
    assert torch.allclose(mean, process.from_x0[40] * clean + process.from_x[40] * x, atol=1e-5)
    assert torch.allclose(deviation**2, predicted.log_variance.exp(), atol=1e-6)


def write_flat(folder: Path, **scheduler: Any) -> Path:
    """The layout of google/ddpm-ema-celebahq-256: network and scheduler in the root."""
    from diffusers import DDPMScheduler

    pixel_unet(3).save_pretrained(folder)
    DDPMScheduler(**{"variance_type": "fixed_small"} | scheduler).save_pretrained(folder)
    return folder


def test_a_checkpoint_of_fixed_variance_in_one_folder_fills_the_mask(tmp_path: Path) -> None:
    folder = write_flat(tmp_path)
    assert files.shape(str(folder), None) == files.Shape(TINY.image_size, 4, learnt_variance=False)
    method = RePaint(RePaint.Options(weights=str(folder), steps=4, jump_length=2, resamplings=2), Runtime())
    assert method.native_size == TINY.image_size
    one = request(1, box_mask(4, 4, 20, 20, (32, 32)), source=None)
    one = type(one)(**{**one.__dict__, "source": one.source.resize((32, 32))})
    (edited,) = method.edit([one])
    changed = (np.asarray(edited) != np.asarray(one.source)).any(-1)
    inside = np.asarray(one.mask) > 0
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.9


def test_unfit_checkpoints_are_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    folder = write_flat(tmp_path / "a", beta_schedule="scaled_linear", variance_type="learned")
    problems = RePaint.problems(RePaint.Options(weights=str(folder)))
    assert "beta_schedule 'scaled_linear'" in problems[0]
    assert "variance_type 'learned'" in problems[1]
    with pytest.raises(WeightsError, match="no such folder"):
        files.find(str(tmp_path / "none"), None)
    (missing,) = RePaint.problems(RePaint.Options(weights="google/ddpm-ema-celebahq-256"))
    assert "Apache-2.0" in missing
    assert isinstance(missing, MissingFiles)
    (files_of_hub,) = missing.downloads
    assert isinstance(files_of_hub, HubFiles)
    assert "scheduler_config.json" in files_of_hub.patterns


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 1}, "steps 1"), ({"jump_length": 0}, "jump_length 0"), ({"resamplings": 0}, "resamplings 0")],
)
def test_unfit_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    settings = {"weights": str(tiny_adm(tmp_path))} | options
    (problem,) = RePaint.problems(RePaint.Options(**settings))
    assert message in problem

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.edit import Runtime
from methods import batches, latents
from methods.attention_maps.processor import predicted
from methods.attention_maps.words import TokenMap
from methods.prompt_to_prompt.control import EditControl, TokenEdits, local_blend
from methods.prompt_to_prompt.inversion import NullText, invert
from methods.prompt_to_prompt.method import PromptToPrompt
from tests.methods.conftest import box_mask
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]
PLAIN = {"cross_replace": 0.0, "self_replace": 0.0, "blend": "none"}


def make(weights: str, **options: Any) -> PromptToPrompt:
    settings = {"weights": weights, "steps": 3, "guidance": 5.0, "map_factor": 2, "fixed_point": 2} | options
    return PromptToPrompt(PromptToPrompt.Options(**settings), Runtime())


def pixels(image: Any) -> Any:
    return np.asarray(image, dtype=int)


def round_trip(method: PromptToPrompt, source: Any) -> Any:
    vae = method.pipeline.vae
    with torch.no_grad():
        z = latents.encode(vae, batches.to_tensor([source], "cpu"))
        return pixels(batches.to_images(latents.decode(vae, z))[0])


def psnr(a: Any, b: Any) -> float:
    return float(10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-9)))


# --- inversion --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_step_from_each_pivot_gives_the_next(kind: str) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    schedule = latents.NoiseSchedule(scheduler, prediction_type=kind)
    grid = schedule.grid(10)

    def network(z: Tensor, t: int) -> Tensor:
        return torch.tanh(0.3 * z) * (0.5 + t / 2000)

    z0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    errors = []
    for passes in (1, 3, 20):
        pivots = invert(network, schedule, z0, grid, passes)
        assert len(pivots) == len(grid) + 1
        assert pivots[-1] is z0
        steps = zip(pairwise(pivots), pairwise([*grid, latents.CLEAN]), strict=True)
        errors.append(
            max(
                float((schedule.step(network(z, t), z, t, lower) - below).abs().max())
                for (z, below), (t, lower) in steps
            )
        )
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_null_text_brings_guided_sampling_nearer_to_the_pivots(tiny_folder: Folder) -> None:
    method = make(tiny_folder(4), steps=2)
    unet, schedule, grid = method.pipeline.unet, method.schedule, method.grid
    generator = torch.Generator().manual_seed(0)
    pivots = [torch.randn(2, 4, 16, 16, generator=generator) * 0.1 for _ in range(len(grid) + 1)]
    with torch.no_grad():
        source, null = method.embedded(["a face", "a dog"]), method.embedded([""] * 2)

    def distances(null_text: NullText, rows: slice) -> list[Tensor]:
        z, found = pivots[0][rows], []
        own = [pivot[rows] for pivot in pivots]
        nulls = null_text.embeddings(own, grid, [source[rows]] * len(grid), null[rows])
        for i, (embedding, (t, lower)) in enumerate(
            zip(nulls, pairwise([*grid, latents.CLEAN]), strict=True)
        ):
            with torch.no_grad():
                both = [predicted(unet, z, t, text) for text in (embedding, source[rows])]
                z = schedule.step(both[0] + 5 * (both[1] - both[0]), z, t, lower)
            found.append((z - own[i + 1]).square().mean((1, 2, 3)))
        return found

    both = slice(0, 2)
    without = distances(NullText(unet, schedule, 5.0, 0), both)
    optimised = distances(NullText(unet, schedule, 5.0, 3), both)
    assert all((a < b).all() for a, b in zip(optimised, without, strict=True))
    # Each image by itself: a batch equals singles.
    for n in range(2):
        alone = distances(NullText(unet, schedule, 5.0, 3), slice(n, n + 1))
        assert torch.allclose(torch.cat(alone), torch.stack(optimised)[:, n], rtol=1e-3)


# --- attention --------------------------------------------------------------------------------------


def edits(matrix: Tensor, own: Tensor, weight: Tensor) -> TokenEdits:
    return TokenEdits.of([TokenMap(matrix.numpy(), own.numpy())], weight[None], torch.device("cpu"))


def test_token_maps_are_applied_by_the_papers_equations() -> None:
    source, target = torch.rand(2, 1, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    swap = torch.eye(4)[[1, 0, 2, 3]]
    own = torch.tensor([0.0, 0.0, 0.0, 1.0])
    swap[:, 3] = 0
    weight = torch.tensor([1.0, 1.0, 3.0, 1.0])
    result = edits(swap, own, weight).applied(source, target)
    assert torch.allclose(result[..., 0], source[..., 1])
    assert torch.allclose(result[..., 1], source[..., 0])
    assert torch.allclose(result[..., 2], 3 * source[..., 2])
    assert torch.allclose(result[..., 3], target[..., 3])


def test_the_control_changes_the_rows_of_the_edit_alone() -> None:
    identity = edits(torch.eye(4), torch.zeros(4), torch.ones(4))
    control = EditControl(identity, positions=4, keep=True)
    rows = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for cross in (True, False):
        assert control.wants(cross, 4)
        changed = control(rows, cross)
        assert torch.equal(changed[:2], rows[:2])
        assert torch.allclose(changed[2], rows[0])
    assert not control.wants(False, 16)
    control.finish_step()
    assert isinstance(control.sums, Tensor)
    assert torch.allclose(control.sums[0], rows[:1].mean(1))
    control.cross = control.self_attention = False
    assert control.wants(True, 4)
    assert not control.wants(True, 16)
    assert not control.wants(False, 4)
    assert torch.equal(control(rows, True), rows)


def test_local_blend_is_where_the_edited_words_are_seen() -> None:
    maps = torch.zeros(2, 1, 64, 3)
    maps[0, 0, 0, 1] = 1.0  # the source's word at the upper left
    maps[1, 0, 63, 2] = 0.5  # the edit's word at the lower right
    maps[:, 0, :, 0] = 9.0  # the start token sees everything
    words = torch.tensor([[[False, True, False]], [[False, False, True]]])
    region = local_blend(maps, words, (8, 8), (16, 16))
    expected = torch.zeros(16, 16)
    # A cell and its neighbours, twice as large.
    expected[:4, :4] = expected[12:, 12:] = 1
    assert torch.equal(region[0, 0], expected)


# --- the method -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"guidance": 1.0, "fixed_point": 8}, {"inversion": "direct_both"}], ids=["plain", "both"]
)
def test_equal_prompts_give_the_source_back(tiny_folder: Folder, options: dict[str, Any]) -> None:
    one = replace(small(1), target_prompt="a face", source_prompt="a face")
    method = make(tiny_folder(4), blend="none", **options)
    # The inversion of a network at random does not converge. A weaker one's does.
    with torch.no_grad():
        method.pipeline.unet.conv_out.weight *= 0.01
    (edited,) = method.edit([one])
    assert psnr(pixels(edited), round_trip(method, one.source)) > 45


def test_without_replacement_it_is_plain_sampling_from_the_inverted_source(tiny_folder: Folder) -> None:
    method, one = make(tiny_folder(4), **PLAIN), small(1)
    pipeline, schedule, grid = method.pipeline, method.schedule, method.grid
    with torch.no_grad():
        z = method.sample([one], [one.source])
        source = latents.GuidedUNet(pipeline, [one.source_prompt], "", 1.0)
        target = latents.GuidedUNet(pipeline, [one.target_prompt], "", 5.0)
        z_source = latents.encode(pipeline.vae, batches.to_tensor([one.source], "cpu"))
        expected = invert(source, schedule, z_source, grid, 2)[0]
        for t, lower in pairwise([*grid, latents.CLEAN]):
            expected = schedule.step(target(expected, t), expected, t, lower)
    assert torch.allclose(z, expected, atol=1e-3)


def test_outside_the_mask_the_latents_are_the_sources(tiny_folder: Folder) -> None:
    for options in ({}, {"inversion": "null_text", "null_steps": 1}):
        method = make(tiny_folder(4), **options)
        one = small(0, box_mask(0, 0, 16, 32, SMALL))
        with torch.no_grad():
            z = method.sample([one], [one.source])
            source = latents.encode(method.pipeline.vae, batches.to_tensor([one.source], "cpu"))
        assert torch.equal(z[..., 8:], source[..., 8:])
        assert not torch.allclose(z[..., :8], source[..., :8], atol=1e-2)


def test_every_option_has_an_effect(tiny_folder: Folder) -> None:
    one = replace(small(1), edit_words=("hat",))
    plain = make(tiny_folder(4)).edit([one])[0].tobytes()
    for options in (
        {"strength": 0.7},
        {"inversion": "direct_both"},
        {"inversion": "null_text", "null_steps": 2},
        {"fixed_point": 1},
        {"cross_replace": 0.0},
        {"self_replace": 1.0},
        {"reweight": 30.0},
        {"blend": "words"},
        {"blend": "none"},
        {"mask_cells": "cover"},
        {"negative_prompt": "blurry"},
        {"paste": True},
    ):
        mask = box_mask(9, 9, 21, 21, SMALL) if "mask_cells" in options else one.mask
        base = (
            make(tiny_folder(4)).edit([replace(one, mask=mask)])[0].tobytes()
            if mask is not one.mask
            else plain
        )
        assert make(tiny_folder(4), **options).edit([replace(one, mask=mask)])[0].tobytes() != base, options


def test_the_mask_is_needed_only_where_it_is_used(tiny_folder: Folder) -> None:
    assert "mask" in make(tiny_folder(4)).needs
    method = make(tiny_folder(4), blend="words")
    assert "mask" not in method.needs
    assert method.edit([replace(small(1), mask=None)])[0].size == SMALL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_replace": 1.5}, "cross_replace 1.5"),
        ({"fixed_point": 0}, "fixed_point 0"),
        ({"reweight": -1.0}, "reweight -1.0"),
        ({"inversion": "null_text", "guidance": 1.0}, "no effect at guidance 1"),
        ({"map_factor": 4}, "map_factor 4: the network has attention at 2"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    tiny_folder: Folder, options: dict[str, Any], message: str
) -> None:
    settings = {"weights": tiny_folder(4), "map_factor": 2} | options
    (problem,) = PromptToPrompt.problems(PromptToPrompt.Options(**settings))
    assert message in problem


def test_equal_prompts_reach_the_autoencoders_ceiling_on_the_embedded_base() -> None:
    """Whatever the base's weights are: with both branches corrected, guidance cannot lead away from the source."""
    from protocols.world import MiniCoco  # a rendered picture, which the base knows

    case = MiniCoco(MiniCoco.Options()).cases()[0].request
    same = replace(case, target_prompt=case.source_prompt)
    preset = PromptToPrompt.PRESETS["mini"]
    method = PromptToPrompt(
        PromptToPrompt.Options(**preset | {"inversion": "direct_both", "blend": "none"}), Runtime()
    )
    (edited,) = method.edit([same])
    ceiling = round_trip(method, case.source)
    assert psnr(pixels(edited), ceiling) > 45
    assert psnr(pixels(edited), pixels(case.source)) > psnr(ceiling, pixels(case.source)) - 0.2

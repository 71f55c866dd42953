from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from bench.edit import Region, Runtime
from methods import batches, latents
from methods.attend_and_excite.losses import maxima, subject_loss, token_maps
from methods.attend_and_excite.method import AttendAndExcite
from tests.methods.conftest import box_mask
from tests.methods.small import SMALL, small

Folder = Callable[[int], str]


def make(weights: str, **options: Any) -> AttendAndExcite:
    settings = {"weights": weights, "steps": 5, "map_factor": 2, "refinements": 2} | options
    return AttendAndExcite(AttendAndExcite.Options(**settings), Runtime())


def asked(seed: int = 1) -> Any:
    return replace(small(seed), edit_words=("hat",))


# --- the loss ---------------------------------------------------------------------------------------


def test_token_maps_are_the_smoothed_softmax_over_the_prompts_own_tokens() -> None:
    maps = torch.rand(2, 16, 6, generator=torch.Generator().manual_seed(0)) / 20
    ends = torch.tensor([5, 3])
    pictures = token_maps(maps, ends, (4, 4))
    for n, end in enumerate((5, 3)):
        scores = maps[n, :, 1:end].double().numpy() * 100
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        for token in range(6):
            if not 0 < token < end:
                assert pictures[n, token].abs().max() == 0
                continue
            # torch's reflection does not repeat the border: scipy calls it mirror. Truncated to 3 x 3.
            expected = gaussian_filter(shares[:, token - 1].reshape(4, 4), 0.5, mode="mirror", radius=1)
            assert np.allclose(pictures[n, token], expected, atol=1e-6)


def test_the_loss_is_that_of_the_least_attended_subject() -> None:
    pictures = torch.zeros(2, 4, 3, 3)
    pictures[0, 1, 0, 0], pictures[0, 2, 2, 2] = 0.9, 0.4
    pictures[1, 1, 1, 1] = 0.7
    subjects = torch.tensor([[False, True, True, False], [False, True, False, False]])
    assert torch.allclose(subject_loss(maxima(pictures, subjects)), torch.tensor([0.6, 0.3]))
    # A word is looked for in its own cells only.
    where = torch.zeros(2, 4, 3, 3, dtype=torch.bool)
    where[0, :, 2, 2] = where[1, :, 0, 0] = True
    assert torch.allclose(subject_loss(maxima(pictures, subjects, where)), torch.tensor([1.0, 1.0]))
    assert subject_loss(maxima(pictures, torch.zeros_like(subjects))).tolist() == [0, 0]


# --- the method -------------------------------------------------------------------------------------


def excitation(method: AttendAndExcite, requests: list[Any]) -> tuple[Any, Tensor]:
    mask = latents.masks(requests, method.factor, "cover", method.pipeline.device)
    generator = torch.Generator().manual_seed(0)
    return method._excitation(requests, mask), torch.randn(len(requests), 4, 16, 16, generator=generator)


def test_a_step_lowers_the_loss_and_moves_latents_inside_the_mask_alone(tiny_folder: Folder) -> None:
    method = make(tiny_folder(4))
    moves, z = excitation(method, [asked()])
    with torch.no_grad():
        before = moves.losses(z, 500)
        # The gradient of this random network is small, so the step is long.
        gradient = z - moves.stepped(z, 500, 1.0)
        stepped = z - gradient * (0.5 / gradient.norm())
        after = moves.losses(stepped, 500)
    assert after < before
    assert torch.equal(stepped * (1 - moves.mask), z * (1 - moves.mask))


def test_each_image_of_a_batch_moves_by_its_own_loss(tiny_folder: Folder) -> None:
    method = make(tiny_folder(4))
    requests = [replace(asked(seed), edit_words=(word,)) for seed, word in ((1, "hat"), (2, "face"))]
    together, z = excitation(method, requests)
    moved = together.stepped(z, 500, 1000.0)
    refined = together.refined(z, 500, 1000.0, 0.9, 3)
    for n, one in enumerate(requests):
        alone, _ = excitation(method, [one])
        assert torch.allclose(alone.stepped(z[n : n + 1], 500, 1000.0), moved[n : n + 1], atol=1e-3)
        assert torch.allclose(alone.refined(z[n : n + 1], 500, 1000.0, 0.9, 3), refined[n : n + 1], atol=1e-2)
    assert torch.equal(together.refined(z, 500, 1000.0, 0.0, 3), z)


def test_words_are_looked_for_in_their_own_regions(tiny_folder: Folder) -> None:
    left, right = box_mask(0, 0, 8, 32, SMALL), box_mask(24, 0, 32, 32, SMALL)
    one = replace(
        asked(),
        mask=box_mask(0, 0, 32, 32, SMALL),
        target_prompt="a hat and a cup",
        regions=(Region(left, "a hat", ("hat",)), Region(right, "a cup", ("cup",))),
    )
    moves, _ = excitation(make(tiny_folder(4), inside=True), [one])
    tokens = moves.subjects[0].nonzero().flatten()
    columns = [moves.where[0, token].any(0).nonzero().flatten().tolist() for token in tokens]
    # The tiny tokenizer has one token a letter: "hat" and "cup" are three each.
    assert columns == [[0, 1]] * 3 + [[6, 7]] * 3


def test_without_steps_on_the_latents_it_is_blending(tiny_folder: Folder) -> None:
    method, one = make(tiny_folder(4), excited=0.0, refinements=0), asked()
    pipeline, schedule, grid = method.pipeline, method.schedule, method.grid
    with torch.no_grad():
        z = method.sample([one], [one.source])
        mask = latents.masks([one], method.factor, "rescue", pipeline.device)
        source = latents.encode(pipeline.vae, batches.to_tensor([one.source], "cpu"))
        generators = batches.generators([one])
        predict = latents.GuidedUNet(pipeline, [one.target_prompt], "", 7.5)
        expected = schedule.noised(source, batches.noise(source, generators), grid[0])
        for t, lower in pairwise([*grid, latents.CLEAN]):
            expected = schedule.step(predict(expected, t), expected, t, lower)
            outside = schedule.noised(source, batches.noise(source, generators), lower)
            expected = expected * mask + outside * (1 - mask)
    assert torch.allclose(z, expected, atol=1e-4)
    assert torch.equal(z * (1 - mask), source * (1 - mask))


def test_every_option_has_an_effect(tiny_folder: Folder) -> None:
    one = asked()
    # The random network's gradients are small: the rates of a trained one would move no pixel.
    strong = {"rate": 1e5}
    plain = make(tiny_folder(4), **strong).edit([one])[0].tobytes()
    for options in ({"rate": 0.0}, {"excited": 0.0}, {"refinements": 0}, {"strength": 0.6}, {"inside": True}):
        assert make(tiny_folder(4), **strong | options).edit([one])[0].tobytes() != plain, options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": -1.0}, "rate -1.0"),
        ({"excited": 2.0}, "excited 2.0"),
        ({"refinements": -1}, "refinements -1"),
        ({"prompt_field": "region_prompt"}, "prompt_field"),
        ({"map_factor": 1}, "map_factor 1"),
    ],
)
def test_unfit_options_are_named_before_anything_loads(
    tiny_folder: Folder, options: dict[str, Any], message: str
) -> None:
    settings = {"weights": tiny_folder(4), "map_factor": 2} | options
    (problem,) = AttendAndExcite.problems(AttendAndExcite.Options(**settings))
    assert message in problem

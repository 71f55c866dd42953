"""Masks on the latent grid, and the helpers that close diffusers' silent traps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.edit import Runtime
from methods import batches, mask_grid, pipelines
from methods.runtime import runtime_problems
from tests.methods.conftest import picture, request


def latent_mask(mask: np.ndarray[Any, Any], factor: int) -> np.ndarray[Any, Any]:
    """What diffusers makes of a mask: its own interpolation, as an independent implementation."""
    import torch

    rows, columns = (side // factor for side in mask.shape)
    nearest = torch.nn.functional.interpolate(
        torch.tensor(mask, dtype=torch.float32)[None, None], (rows, columns)
    )
    return nearest[0, 0].numpy() > 0.5


def test_a_thin_band_vanishes_without_rescue_and_is_filled_with_it() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[1:8, :] = True  # 7 pixels high, the full width, between two rows of samples
    assert not latent_mask(mask, 8).any()
    rescued = mask_grid.rescue_thin(mask, 8)
    expected = np.zeros((8, 8), dtype=bool)
    expected[0] = True
    assert np.array_equal(latent_mask(rescued, 8), expected)
    assert np.array_equal(rescued[:8], np.ones((8, 64), dtype=bool))
    assert not rescued[8:].any()


def test_one_pixel_is_rescued_as_its_cell() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[13, 22] = True
    rescued = mask_grid.rescue_thin(mask, 8)
    assert rescued.sum() == 64
    assert rescued[8:16, 16:24].all()


def test_a_small_part_is_rescued_beside_a_large_one() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[0:24, 0:24] = True
    mask[50:53, 50:53] = True
    rescued = mask_grid.rescue_thin(mask, 8)
    assert np.array_equal(rescued[:48, :48], mask[:48, :48])
    assert rescued[48:56, 48:56].all()


@given(
    factor=st.sampled_from([2, 4, 8]),
    corner=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    extra=st.tuples(st.integers(0, 16), st.integers(0, 16)),
)
def test_a_box_that_the_grid_samples_is_left_alone(
    factor: int, corner: tuple[int, int], extra: tuple[int, int]
) -> None:
    top, left = corner
    mask = np.zeros((64, 64), dtype=bool)
    mask[top : top + factor + extra[0], left : left + factor + extra[1]] = True
    assert np.array_equal(mask_grid.rescue_thin(mask, factor), mask)


@given(pixels=st.lists(st.tuples(st.integers(0, 31), st.integers(0, 31)), min_size=1, max_size=40))
def test_no_part_of_any_mask_is_lost(pixels: list[tuple[int, int]]) -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[tuple(np.array(pixels).T)] = True
    sampled = np.pad(latent_mask(mask_grid.rescue_thin(mask, 8), 8), 1)
    for row, column in pixels:
        assert sampled[row // 8 : row // 8 + 3, column // 8 : column // 8 + 3].any()
    covered = latent_mask(mask_grid.cover_cells(mask, 8), 8)
    assert np.array_equal(covered, mask.reshape(4, 8, 4, 8).any(axis=(1, 3)))
    assert (mask_grid.rescue_thin(mask, 8) >= mask).all()


class Pipeline:
    """A stand-in that swallows as diffusers' pipelines do."""

    def __call__(self, prompt: str, image: object = None, **kwargs: object) -> object:
        class Output:
            images = (prompt, image, kwargs)

        return Output()


def test_unknown_arguments_are_refused_by_name() -> None:
    with pytest.raises(
        pipelines.ArgumentError, match=r"no argument 'height', 'mask_imag'; it has: image, prompt"
    ):
        pipelines.call(Pipeline(), prompt="a", mask_imag=1, height=2)
    assert pipelines.call(Pipeline(), prompt="a", image=1) == ("a", 1, {})


def test_a_keyword_of_a_sister_pipeline_is_refused() -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    # InstructPix2Pix has no height; without the check it would be ignored.
    pipeline = object.__new__(StableDiffusionInstructPix2PixPipeline)
    with pytest.raises(pipelines.ArgumentError, match=r"StableDiffusionInstructPix2PixPipeline.*'height'"):
        pipelines.call(pipeline, prompt="a", height=64)


def test_generators_depend_on_the_seed_alone() -> None:
    import torch

    first, second, again = batches.generators([request(1), request(2), request(1)])
    assert first.device.type == "cpu"
    samples = [torch.rand(4, generator=generator) for generator in (first, second, again)]
    assert torch.equal(samples[0], samples[2])
    assert not torch.equal(samples[0], samples[1])


def test_sources_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        batches.one_size([request(1), request(source=picture(1, (32, 64)))], 2)
    with pytest.raises(ValueError, match=r"33 x 21 pixels: both sides must be multiples of 8"):
        batches.one_size([request(source=picture(1, (33, 21)))], 8)
    assert batches.one_size([request(source=picture(1, (32, 64)))], 8) == (32, 64)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [(Runtime("cpu", "float16"), "does not run on the CPU"), (Runtime("cpu", "half"), "expected float32")],
)
def test_unfit_precision_is_refused(runtime: Runtime, message: str) -> None:
    (problem,) = runtime_problems(runtime)
    assert message in problem


@pytest.mark.parametrize("runtime", [Runtime(), Runtime("cpu", "bfloat16"), Runtime("cuda:1", "float16")])
def test_fit_precision_is_accepted(runtime: Runtime) -> None:
    assert runtime_problems(runtime) == []


def test_progress_bars_come_back_as_they_were() -> None:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        with pipelines.quiet():
            assert not diffusers_logging.is_progress_bar_enabled()
        assert diffusers_logging.is_progress_bar_enabled()
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()

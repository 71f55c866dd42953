from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import images
from bench.edit import EditRequest, Runtime
from bench.registry import OptionError, parse_options
from methods.glide.method import Glide
from tests.methods.conftest import box_mask, picture
from tests.methods.glide.conftest import SIDE, request, requests

QUICK = {"base_steps": "2", "upsampler_steps": "2"}


def make(folder: Path, **options: Any) -> Glide:
    return Glide(Glide.Options(**{"weights": str(folder)} | QUICK | options), Runtime())


def arrays(pictures: Sequence[Image.Image]) -> list[Any]:
    return [np.asarray(image, dtype=int) for image in pictures]


@pytest.fixture(scope="module")
def method(tiny: Path) -> Glide:
    return make(tiny)


def test_what_is_under_the_mask_does_not_show(tiny: Path) -> None:
    """Masks on the base's grid and away from its filter: the old content must not reach the edit."""
    method = make(tiny, mask_cells="cover")
    base = request(0)
    source = base.source.copy()
    source.paste((255, 0, 0), (10, 14, 14, 18))
    assert method.edit([replace(base, source=source)])[0].tobytes() == method.edit([base])[0].tobytes()


def outside_kept(request: EditRequest, edited: Image.Image, edit: Any) -> bool:
    return bool((np.asarray(edited)[~edit] == np.asarray(request.source)[~edit]).all())


@pytest.mark.parametrize("cells", ["rescue", "cover"])
def test_a_fine_mask_keeps_every_pixel_outside_exactly(tiny: Path, cells: str) -> None:
    four = requests(4)
    for one, edited in zip(four, make(tiny, upsampler_mask="fine", mask_cells=cells).edit(four), strict=True):
        mask = images.mask_array(one.mask)
        assert outside_kept(one, edited, mask)
        changed = np.asarray(edited)[mask] != np.asarray(one.source)[mask]
        assert changed.mean() > 0.9


@pytest.mark.parametrize(("cells", "reach"), [("rescue", 1), ("cover", 1)])
def test_a_coarse_mask_keeps_what_its_cells_keep(tiny: Path, cells: str, reach: int) -> None:
    four = requests(4)
    leaks = 0
    for one, edited in zip(four, make(tiny, mask_cells=cells).edit(four), strict=True):
        mask = images.mask_array(one.mask)
        near = images.dilate(mask, 1.5 * reach)
        assert outside_kept(one, edited, near)
        leaks += not outside_kept(one, edited, mask)
    # The boxes end inside cells: that is what "coarse" gives up, with either way to the base's mask.
    assert leaks > 0
    for one, edited in zip(four, make(tiny, mask_cells=cells, paste=True).edit(four), strict=True):
        assert outside_kept(one, edited, images.mask_array(one.mask))


def seen(network: Any, method: Glide, edit_request: Sequence[EditRequest]) -> torch.Tensor:
    """What a network's first layer was given at the first step."""
    collected: list[torch.Tensor] = []
    handle = network.input_blocks[0][0].register_forward_pre_hook(
        lambda module, args: collected.append(args[0].detach().clone())
    )
    method.edit(edit_request)
    handle.remove()
    return collected[0]


def test_polarity_in_the_networks_1_is_known(method: Glide) -> None:
    one = request(0)  # the box 4, 8, 20, 24 is on the grid
    base, upsampler = seen(method.base, method, [one]), seen(method.upsampler, method, [one])
    assert base.shape == (2, 7, 16, 16)  # with and without the text
    assert upsampler.shape == (1, 10, 32, 32)
    for example, box in ((base, (2, 4, 10, 12)), (upsampler, (4, 8, 20, 24))):
        expected = torch.ones(example.shape[2:])
        expected[box[1] : box[3], box[0] : box[2]] = 0
        for row in example:
            assert torch.equal(row[6], expected)
            assert not row[3:6, expected == 0].any()
    source = torch.from_numpy(np.array(one.source)).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(upsampler[0, 3:6], source * expected, atol=1e-6)


def test_the_upsampler_starts_from_the_temperature_and_the_rounded_base(tiny: Path) -> None:
    one = request(0)
    warm, cold = make(tiny), make(tiny, upsample_temperature=0.5)
    a, b = seen(warm.upsampler, warm, [one]), seen(cold.upsampler, cold, [one])
    assert torch.allclose(a[:, :3] / 0.997, b[:, :3] / 0.5, atol=1e-5)
    low = a[0, 7:10, 0::2, 0::2][:, 0, 0]  # the corner is not interpolated
    assert torch.allclose((low + 1) * 127.5, ((low + 1) * 127.5).round(), atol=1e-3)


def test_guidance_1_runs_the_base_once_and_others_twice(tiny: Path) -> None:
    plain = make(tiny, guidance=1.0)
    assert seen(plain.base, plain, [request(0)]).shape[0] == 1
    near = make(tiny, guidance=1.0 + 1e-6)
    assert seen(near.base, near, [request(0)]).shape[0] == 2
    a, b = arrays(plain.edit([request(0)])), arrays(near.edit([request(0)]))
    assert np.abs(a[0] - b[0]).max() <= 1
    strong = arrays(make(tiny, guidance=5.0).edit([request(0)]))
    assert np.abs(a[0] - strong[0]).max() > 1


def test_prompt_field(tiny: Path, method: Glide) -> None:
    region = make(tiny, prompt_field="region_prompt")
    assert region.needs == {"source", "mask", "region_prompt"}
    base = request(1)
    swapped = replace(base, target_prompt=base.region_prompt)
    assert region.edit([base])[0].tobytes() == method.edit([swapped])[0].tobytes()
    with pytest.raises(ValueError, match="empty region_prompt"):
        region.edit([replace(base, region_prompt=" ")])


def test_thin_parts_of_a_mask_are_not_lost(tiny: Path) -> None:
    """A column one pixel wide at an odd place holds no first pixel of any cell."""
    column = box_mask(15, 4, 16, 28, (SIDE, SIDE))
    for options in ({}, {"mask_cells": "cover", "upsampler_mask": "fine"}):
        edited = make(tiny, **options).edit([request(0, column)])[0]
        changed = (np.asarray(edited) != np.asarray(request(0).source)).any(2)
        assert changed[4:28, 15].all()


def test_bfloat16_is_near_and_keeps_the_outside_exactly(tiny: Path) -> None:
    options = Glide.Options(weights=str(tiny), **QUICK, upsampler_mask="fine", guidance=1.0)
    one = request(0)
    exact = Glide(options, Runtime()).edit([one])[0]
    half = Glide(options, Runtime(dtype="bfloat16")).edit([one])[0]
    assert outside_kept(one, half, images.mask_array(one.mask))
    assert np.abs(arrays([exact])[0] - arrays([half])[0]).mean() < 12


def test_wrong_requests_are_errors(method: Glide) -> None:
    empty = Image.new("L", (SIDE, SIDE), 0)
    with pytest.raises(ValueError, match="mask is empty"):
        method.edit([request(0, empty)])
    with pytest.raises(ValueError, match="mask of"):
        method.edit([request(0, box_mask(0, 0, 8, 8, (16, 16)))])
    large = replace(request(0), source=picture(0, (64, 64)), mask=box_mask(0, 0, 8, 8, (64, 64)))
    with pytest.raises(ValueError, match="GLIDE edits squares of 32 pixels"):
        method.edit([large])
    with pytest.raises(ValueError, match="differ in size"):
        method.edit([request(0), large])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_steps": "0"}, "base_steps: '0' is no choice of steps"),
        ({"upsampler_steps": "fast"}, "upsampler_steps: 'fast' is no choice of steps"),
        ({"guidance": 0.5}, "guidance 0.5"),
        ({"upsample_temperature": 0.0}, "upsample_temperature 0.0"),
    ],
)
def test_wrong_options_are_errors(tiny: Path, options: dict[str, Any], message: str) -> None:
    problem_texts = Glide.problems(Glide.Options(**{"weights": str(tiny)} | options))
    assert len(problem_texts) == 1
    assert message in problem_texts[0]
    with pytest.raises(ValueError, match="glide: "):
        Glide(Glide.Options(**{"weights": str(tiny)} | options), Runtime())


def test_options_come_from_a_suite() -> None:
    assert parse_options(Glide, {"base_steps": "50"}).base_steps == "50"
    with pytest.raises(OptionError, match="unknown option 'steps'"):
        parse_options(Glide, {"steps": 50})


def test_importing_the_adapter_imports_no_torch() -> None:
    import subprocess
    import sys

    probe = (
        "import methods.glide.method, sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

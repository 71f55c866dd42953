"""The sampler and the adapter, with networks whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.edit import Region, Runtime
from bench.images import mask_array
from methods import batches, latents
from methods.smartbrush import sampler
from methods.smartbrush.method import SmartBrush
from methods.smartbrush.precision import BOX, DRAWN
from methods.smartbrush.sampler import BrushArea, BrushSettings, areas_of, fill
from tests.methods.conftest import box_mask, request
from tests.methods.small import SMALL, small
from tests.methods.smartbrush.conftest import tiny_brush


class Fixed:
    """A network that predicts noise of zero, and the object in the left half of the image."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(
        self, x: torch.Tensor, coverage: torch.Tensor, t: int, precision: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls.append((x.clone(), coverage.clone(), precision.clone()))
        logits = torch.full_like(coverage, -9)
        logits[..., : x.shape[-1] // 2] = 9
        return torch.zeros_like(x), logits


def filled(
    monkeypatch: pytest.MonkeyPatch, brush: Any, areas: list[BrushArea], **options: Any
) -> tuple[Fixed, torch.Tensor, sampler.Filled]:
    network = Fixed()
    monkeypatch.setattr(sampler, "_Guided", lambda *_: network)
    torch.manual_seed(7)
    z0 = torch.randn(len(areas), 4, 32, 32)
    generators = [torch.Generator().manual_seed(i) for i in range(len(areas))]
    return network, z0, fill(brush, z0, areas, generators, BrushSettings(steps=5, **options))


WIDE = np.zeros((64, 64), bool)
WIDE[16:48, 8:56] = True
RIGHT = WIDE.copy()
RIGHT[:, :40] = False


def test_the_predicted_object_takes_the_place_of_a_coarse_mask(
    monkeypatch: pytest.MonkeyPatch, brush: Any
) -> None:
    areas = [BrushArea(WIDE, "a", BOX), BrushArea(WIDE, "a", 0), BrushArea(RIGHT, "a", BOX)]
    network, _, out = filled(monkeypatch, brush, areas, trust=0.4)
    given = torch.from_numpy(WIDE[::2, ::2]).float()
    left = given.clone()
    left[:, 16:] = 0
    # The object, the exact mask, and the given mask where nothing of it is predicted.
    assert torch.equal(out.cells[0, 0], left)
    assert torch.equal(out.cells[1, 0], given)
    assert torch.equal(out.cells[2, 0], torch.from_numpy(RIGHT[::2, ::2]).float())
    # The network sees the given mask and precision in two of five steps, then the object's.
    assert [precision.tolist() for _, _, precision in network.calls] == [[BOX, 0, BOX]] * 2 + [[0, 0, 0]] * 3
    assert torch.equal(network.calls[1][1][0, 0], given)
    assert torch.equal(network.calls[2][1][0, 0], left)


def test_the_background_is_clean_at_every_step(monkeypatch: pytest.MonkeyPatch, brush: Any) -> None:
    network, z0, out = filled(monkeypatch, brush, [BrushArea(WIDE, "a", BOX)])
    for number, (x, _, _) in enumerate(network.calls):
        inside = torch.from_numpy(WIDE[::2, ::2].copy())
        if number >= 2:
            inside[:, 16:] = False
        assert torch.equal(x[0][:, ~inside], z0[0][:, ~inside])
        assert not torch.isclose(x[0][:, inside], z0[0][:, inside]).any(0).all()
    assert torch.equal(out.latents[0][:, 0], z0[0][:, 0])
    # The first steps start from noise alone, which is the request's own.
    noise = batches.noise(z0, [torch.Generator().manual_seed(0)])
    inside = torch.from_numpy(WIDE[::2, ::2].copy())
    assert torch.equal(network.calls[0][0][0][:, inside], noise[0][:, inside])


def test_full_trust_fills_the_whole_mask(monkeypatch: pytest.MonkeyPatch, brush: Any) -> None:
    _, _, out = filled(monkeypatch, brush, [BrushArea(WIDE, "a", BOX)], trust=1.0)
    assert out.cells.sum() == WIDE[::2, ::2].sum()


def test_a_whole_mask_and_an_untrained_network_are_plain_sampling() -> None:
    # With the whole image as an exact mask nothing is put back, and the base alone samples.
    brush = tiny_brush(awake=False)
    everywhere = BrushArea(np.ones((64, 64), bool), "a hat", 0)
    z0 = torch.randn(1, 4, 32, 32)
    settings = BrushSettings(steps=4, guidance=3.0)
    out = fill(brush, z0, [everywhere], [torch.Generator().manual_seed(5)], settings)
    schedule = latents.NoiseSchedule(brush.scheduler)
    from diffusers import StableDiffusionPipeline

    from tests.methods.conftest import tiny_components

    base = StableDiffusionPipeline(
        **tiny_components(4), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    predict = latents.GuidedUNet(base, ["a hat"], "", 3.0)
    grid = schedule.grid(4)
    z = batches.noise(z0, [torch.Generator().manual_seed(5)])
    with torch.no_grad():
        for t, lower in zip(grid, [*grid[1:], latents.CLEAN], strict=True):
            z = schedule.step(predict(z, t), z, t, lower)
    assert torch.allclose(out.latents, z, atol=1e-4)


def test_areas_are_the_regions_or_the_mask() -> None:
    one = request(1)
    (area,) = areas_of(one)
    assert (area.prompt, area.precision) == (one.region_prompt, BOX)
    assert np.array_equal(area.mask, mask_array(one.needed_mask))
    assert areas_of(one, "target_prompt", precision=1)[0].prompt == one.target_prompt
    assert areas_of(one, precision=1)[0].precision == 1
    drawn = box_mask(0, 0, 40, 4)
    drawn.paste(255, (0, 0, 4, 40))
    several = replace(
        one,
        regions=(
            Region(box_mask(8, 16, 20, 30), "a hat"),
            Region(drawn, "a beard"),
            Region(box_mask(0, 0, 0, 0), "x"),
        ),
    )
    assert [(a.prompt, a.precision) for a in areas_of(several)] == [("a hat", BOX), ("a beard", DRAWN)]
    assert [a.prompt for a in areas_of(several, each_region=False)] == [one.region_prompt]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("brush")
    tiny_brush().save_pretrained(path)
    return str(path)


def method(folder: str, **options: Any) -> SmartBrush:
    return SmartBrush(SmartBrush.Options(**{"weights": folder, "steps": 2, **options}), Runtime())


def test_regions_are_filled_one_after_another(folder: str) -> None:
    left, right = box_mask(2, 4, 10, 24, SMALL), box_mask(20, 4, 30, 24, SMALL)
    both = box_mask(2, 4, 30, 24, SMALL)
    regions = (Region(left, "a hat"), Region(right, "a beard"))
    editor = method(folder, precision=0)
    one = replace(small(1, both), regions=regions)
    # The first region alone, then the second in the result, by hand.
    with torch.no_grad():
        pipeline = editor.pipeline
        z = latents.encode(pipeline.vae, batches.to_tensor([one.source], "cpu"))
        generator = batches.generators([one])
        for region in regions:
            area = BrushArea(mask_array(region.mask), region.prompt, 0)
            z = fill(pipeline, z, [area], generator, BrushSettings(steps=2)).latents
        (expected,) = batches.to_images(latents.decode(pipeline.vae, z))
    assert editor.edit([one])[0].tobytes() == expected.tobytes()
    # In a batch with a request of one area the result is the same.
    together = editor.edit([small(2), one])
    assert np.abs(np.asarray(together[1], int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": 5}, "precision 5: expected 0 to 4"),
        ({"trust": 0.0}, "trust 0.0"),
        ({"steps": 0}, "steps 0"),
    ],
)
def test_options_out_of_range_are_refused(folder: str, options: dict[str, Any], words: str) -> None:
    (problem,) = SmartBrush.problems(SmartBrush.Options(weights=folder, **options))
    assert words in problem


def test_weights_of_other_methods_are_refused(tiny_folder: Callable[[int], str]) -> None:
    (problem,) = SmartBrush.problems(SmartBrush.Options(weights=tiny_folder(4)))
    assert "4 input channels, this method needs 5" in problem


def test_the_preset_says_how_to_get_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.zoo import manifest

    root = tmp_path / "checkpoints"
    (root / "text_to_image").mkdir(parents=True)
    (root / "text_to_image" / "config.json").write_text("{}")
    manifest.write_manifest(root)
    monkeypatch.setattr(manifest, "CHECKPOINTS", root)
    (problem,) = SmartBrush.problems(SmartBrush.Options(**SmartBrush.PRESETS["mini"]))
    assert "not shipped yet" in problem
    assert "run_bench.py train smartbrush" in problem

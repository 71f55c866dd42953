"""The sampler and the adapter: known answers of runs, merging and blending."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.edit import EditRequest, Region, Runtime
from methods import batches, latents
from methods.instance_diffusion import published, sampler
from methods.instance_diffusion.method import InstanceDiffusion
from methods.instance_diffusion.sampler import (
    CaptionedInstance,
    InstanceRun,
    InstanceSettings,
    merged,
    runs_of,
)
from tests.methods.conftest import box_mask, tiny_components
from tests.methods.conftest import tiny_pipeline as inpainting
from tests.methods.instance_diffusion.conftest import tiny_adapter, tiny_pipeline, write_adapter
from tests.methods.small import SMALL, small

LEFT, RIGHT = box_mask(2, 4, 10, 24, SMALL), box_mask(20, 4, 30, 24, SMALL)
TWO = (Region(LEFT, "a hat"), Region(RIGHT, "a beard"))


def two_regions(seed: int = 1) -> EditRequest:
    return replace(small(seed, box_mask(2, 4, 30, 24, SMALL)), regions=TWO)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline()


def images(
    pipeline: Any, requests: list[EditRequest], adapter: Any = None, **options: Any
) -> list[np.ndarray]:
    settings = InstanceSettings(**{"steps": 4, "guidance": 2.0, **options})
    edited = sampler.edit(pipeline, adapter or tiny_adapter(), requests, settings)
    return [np.asarray(image, np.int64) for image in edited]


def test_with_one_instance_it_is_plain_sampling(pipeline: Any) -> None:
    plain = images(pipeline, [small(1)], multi=0.0)
    for merge in ("average", "paste"):
        assert np.array_equal(images(pipeline, [small(1)], multi=1.0, merge=merge), plain)


def test_runs_that_agree_are_plain_sampling(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each instance's run gets the whole request, so that all runs are the same.
    one = two_regions()
    plain = images(pipeline, [one], multi=0.0)
    separate = images(pipeline, [one], multi=0.5)
    monkeypatch.setattr(
        sampler, "runs_of", lambda requests, multi: runs_of(requests, False) * (3 if multi else 1)
    )
    for merge in ("average", "paste"):
        assert np.abs(images(pipeline, [one], multi=0.5, merge=merge)[0] - plain[0]).max() <= 1
    assert np.abs(separate[0] - plain[0]).max() > 2


def test_runs_are_the_request_and_each_of_its_instances() -> None:
    runs = runs_of([small(1), two_regions(2)], multi=True)
    captions = [(run.request, run.prompt, [one.caption for one in run.instances]) for run in runs]
    assert captions == [
        (0, small(1).target_prompt, [small(1).region_prompt]),
        (1, small(2).target_prompt, ["a hat", "a beard"]),
        (1, "a hat", ["a hat"]),
        (1, "a beard", ["a beard"]),
    ]
    assert runs_of([two_regions()], multi=False)[0].prompt == two_regions().target_prompt
    assert len(runs_of([two_regions()], multi=False)) == 1


def test_runs_are_merged_by_their_mean_or_by_their_masks() -> None:
    def run(request: int, *masks: Any) -> InstanceRun:
        return InstanceRun(request, "", [CaptionedInstance(np.asarray(mask) > 0, "") for mask in masks])

    runs = [run(0, LEFT), run(1, LEFT, RIGHT), run(1, LEFT), run(1, RIGHT)]
    z = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 4, 16, 16).contiguous()
    average = merged(z, runs, 2, "average")
    assert average.shape == (2, 4, 16, 16)
    assert (average[0] == 0).all()
    assert (average[1] == 2).all()  # the mean of 1, 2 and 3
    pasted = merged(z, runs, 2, "paste")
    expected = torch.ones(16, 16)
    expected[2:12, 1:5], expected[2:12, 10:15] = 2, 3
    assert torch.equal(pasted[1, 0], expected)
    assert torch.equal(pasted[0], z[0])


def test_a_batch_is_its_requests_one_by_one(pipeline: Any) -> None:
    requests = [small(1), two_regions(2), small(3)]
    together = images(pipeline, requests, multi=0.5)
    for one, image in zip(requests, together, strict=True):
        assert np.abs(images(pipeline, [one], multi=0.5)[0] - image).max() <= 1


def test_without_instances_it_is_the_base_with_the_source_put_back(pipeline: Any) -> None:
    one = small(3)
    adapter = tiny_adapter(awake=False)
    (edited,) = images(pipeline, [one], adapter, steps=3)
    # Blending by hand, on the base alone.
    schedule = latents.NoiseSchedule(pipeline.scheduler)
    with torch.no_grad():
        predict = latents.GuidedUNet(pipeline, [one.target_prompt], "", 2.0)
        source = latents.encode(pipeline.vae, batches.to_tensor([one.source], "cpu"))
        mask = latents.masks([one], 2, "rescue", torch.device("cpu"))
        noise = batches.noise(source, batches.generators([one]))
        z, grid = noise, schedule.grid(3)
        for t, lower in zip(grid, [*grid[1:], latents.CLEAN], strict=True):
            z = schedule.step(predict(z, t), z, t, lower) * mask + schedule.noised(source, noise, lower) * (
                1 - mask
            )
        (expected,) = batches.to_images(latents.decode(pipeline.vae, z))
    assert np.abs(edited - np.asarray(expected, int)).max() <= 1


def test_instances_act_in_the_first_steps_alone(pipeline: Any) -> None:
    one = two_regions()
    moved = replace(one, regions=(TWO[0], Region(RIGHT, "a red car")))
    for grounded, same in ((0.0, True), (0.5, False)):
        results = [images(pipeline, [request], multi=0.0, grounded=grounded)[0] for request in (one, moved)]
        assert np.array_equal(*results) == same


# --- the adapter -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base, instance = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("additions")
    inpainting(4).save_pretrained(base)
    write_adapter(instance)
    return {"weights": str(base), "instance_weights": str(instance)}


def test_the_adapter_edits_with_its_options(folders: dict[str, str], pipeline: Any) -> None:
    options = InstanceDiffusion.Options(**folders, steps=3, guidance=2.0, merge="paste", multi=0.5)
    assert InstanceDiffusion.problems(options) == []
    identity = InstanceDiffusion.identity(options)
    assert len(identity["sha256"]) == len(identity["instance_sha256"]) == 64
    one = two_regions()
    (edited,) = InstanceDiffusion(options, Runtime()).edit([one])
    (expected,) = images(pipeline, [one], steps=3, merge="paste", multi=0.5)
    assert np.abs(np.asarray(edited, int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"multi": 1.5}, "multi 1.5: expected 0 to 1"),
        ({"grounded": -0.1}, "grounded -0.1: expected 0 to 1"),
        ({"instance_weights": "./nothing.pth"}, "no such file"),
        ({"instance_weights": published.HUB}, "13.60 GB, licence: none stated"),
        ({"instance_weights": "zoo:instance_diffusion_of_tomorrow"}, "not shipped yet. Train it with"),
    ],
)
def test_what_cannot_work_is_refused(folders: dict[str, str], options: dict[str, Any], words: str) -> None:
    (problem,) = InstanceDiffusion.problems(InstanceDiffusion.Options(**folders | options))
    assert words in problem


def test_additions_of_another_base_are_refused(folders: dict[str, str], tmp_path: Path) -> None:
    other = tiny_components(4)["unet"].from_config(
        {**tiny_components(4)["unet"].config, "cross_attention_dim": 48}
    )
    from methods.instance_diffusion.model import InstanceAdapter
    from tests.methods.instance_diffusion.conftest import CONFIG

    InstanceAdapter.from_base(other, **CONFIG).save_pretrained(str(tmp_path / "instance"))
    options = InstanceDiffusion.Options(**folders | {"instance_weights": str(tmp_path)})
    (problem,) = InstanceDiffusion.problems(options)
    assert "text 48 and 32" in problem
    # The published file is for Stable Diffusion 1.5.
    (tmp_path / "published.safetensors").write_bytes(b"")
    options = replace(options, instance_weights=str(tmp_path / "published.safetensors"))
    (problem,) = InstanceDiffusion.problems(options)
    assert "made for Stable Diffusion 1.5" in problem


def test_too_many_regions_are_refused(folders: dict[str, str]) -> None:
    method = InstanceDiffusion(InstanceDiffusion.Options(**folders, steps=1), Runtime())
    crowd = replace(two_regions(), regions=TWO * 2)
    with pytest.raises(ValueError, match="4 instances: this checkpoint takes 1 to 3"):
        method.edit([crowd])

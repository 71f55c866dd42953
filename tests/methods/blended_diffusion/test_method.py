"""The adapter, end to end on a tiny network with random weights and the embedded CLIP."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import images
from bench.edit import EditRequest, Region, Runtime
from methods.blended_diffusion.method import BlendedDiffusion
from methods.zoo import manifest
from methods.zoo.adm import SCHEDULE
from tests.methods.blended_diffusion.conftest import tiny_adm
from tests.methods.conftest import box_mask, picture, request


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adm(tmp_path_factory.mktemp("adm"))


def options(folder: Path, **changes: Any) -> BlendedDiffusion.Options:
    few: dict[str, Any] = {
        "weights": str(folder),
        "clip": "zoo:clip",
        "steps": 5,
        "skip": 2,
        "augmentations": 2,
        "batch": 2,
        "iterations": 1,
        "clip_lambda": 30.0,
        "range_lambda": 1.0,
    }
    return BlendedDiffusion.Options(**{**few, **changes})


def requests(*seeds: int) -> list[EditRequest]:
    """Of 32 pixels, half of the network's native size, which any multiple of its factor will do for."""
    size = (32, 32)
    return [request(s, box_mask(4 + s, 8, 20, 26 - s, size), picture(s, size)) for s in seeds]


@pytest.mark.parametrize("faithful", [True, False])
def test_outside_the_mask_the_edit_is_the_source_bit_for_bit(folder: Path, faithful: bool) -> None:
    method = BlendedDiffusion(options(folder, faithful=faithful), Runtime())
    assert method.native_size == 64
    batch = requests(1, 2)
    for image, question in zip(method.edit(batch), batch, strict=True):
        inside = images.mask_array(question.mask)
        result, source = np.asarray(image), np.asarray(question.source)
        assert np.array_equal(result[~inside], source[~inside])
        assert (result[inside] != source[inside]).mean() > 0.5


@pytest.mark.parametrize(("faithful", "exact"), [(True, False), (False, True)])
def test_without_the_paste_only_the_repaired_blend_keeps_the_outside(
    folder: Path, faithful: bool, exact: bool
) -> None:
    method = BlendedDiffusion(options(folder, faithful=faithful, paste=False), Runtime())
    [question] = requests(1)
    outside = ~images.mask_array(question.mask)
    [image] = method.edit([question])
    assert np.array_equal(np.asarray(image)[outside], np.asarray(question.source)[outside]) == exact


def test_an_edit_does_not_depend_on_its_batch(folder: Path) -> None:
    method = BlendedDiffusion(options(folder), Runtime())
    together = method.edit(requests(1, 2, 3))
    for n, seed in enumerate((1, 2, 3)):
        [alone] = method.edit(requests(seed))
        off = np.abs(np.asarray(alone, int) - np.asarray(together[n], int))
        assert off.max() <= 2
    assert not np.array_equal(np.asarray(together[0]), np.asarray(together[1]))


def test_candidates_come_best_first_and_the_first_is_the_edit(folder: Path) -> None:
    from methods.zoo.clip import EmbeddedClip

    method = BlendedDiffusion(options(folder, faithful=False, iterations=2, view="whole"), Runtime())
    batch = [request(1), request(2)]  # of the native 64 pixels, which the CLIP sees as they are
    ranked = method.candidates(batch)
    assert [len(result) for result in ranked] == [4, 4]
    clip = EmbeddedClip(manifest.CHECKPOINTS / "clip")
    for result, question in zip(ranked, batch, strict=True):
        distances = [candidate.distance for candidate in result]
        assert distances == sorted(distances)
        assert len(set(distances)) == 4
        # Measured anew on the 8-bit pictures.
        features = clip.images(np.stack([np.asarray(candidate.image) for candidate in result]))
        cosines = features @ clip.texts([question.region_prompt])[0]
        assert np.allclose(np.arccos(cosines.numpy()) ** 2 / 2, distances, atol=0.02)
    edits = method.edit(batch)
    assert all(
        np.array_equal(np.asarray(edit), np.asarray(result[0].image))
        for edit, result in zip(edits, ranked, strict=True)
    )


def test_more_passes_add_candidates_and_leave_the_first_ones(folder: Path) -> None:
    def distances(iterations: int) -> list[float]:
        method = BlendedDiffusion(options(folder, iterations=iterations), Runtime())
        return [candidate.distance for candidate in method.candidates(requests(1))[0]]

    once, twice = distances(1), distances(2)
    assert len(twice) == 4
    assert all(min(abs(d - other) for other in twice) < 1e-4 for d in once)


def test_guidance_follows_the_field_that_is_asked_for(folder: Path) -> None:
    [one] = requests(1)
    by_region = BlendedDiffusion(options(folder), Runtime())
    by_target = BlendedDiffusion(options(folder, prompt_field="target_prompt"), Runtime())
    assert by_region.needs == {"source", "mask", "region_prompt"}
    assert by_target.needs == {"source", "mask", "target_prompt"}
    a = by_region.edit([one])[0]
    same = by_target.edit([replace(one, target_prompt=one.region_prompt, region_prompt="a dog")])[0]
    other = by_target.edit([one])[0]
    assert np.array_equal(np.asarray(a), np.asarray(same))
    assert not np.array_equal(np.asarray(a), np.asarray(other))


def test_regions_guide_by_their_own_prompts_where_asked(folder: Path) -> None:
    size = (32, 32)
    [one] = requests(1)
    regions = (
        Region(box_mask(4, 8, 12, 20, size), "a hat"),
        Region(box_mask(14, 8, 20, 20, size), "red lips"),
    )
    several = replace(one, regions=regions, seed=5)
    whole = BlendedDiffusion(options(folder, view="crop"), Runtime())
    apart = BlendedDiffusion(options(folder, view="crop", per_region=True), Runtime())
    assert apart._spoken(one) == [(one.mask, one.region_prompt)]
    assert apart._spoken(several) == [(region.mask, region.prompt) for region in regions]
    assert whole._spoken(several) == [(one.mask, one.region_prompt)]
    guidance = apart._guidance([one, several])
    assert guidance._owner.tolist() == [0, 1, 2, 3, 2, 3]
    mixed = apart.edit([one, several])
    for question, image in zip((one, several), mixed, strict=True):
        off = np.abs(np.asarray(apart.edit([question])[0], int) - np.asarray(image, int))
        assert off.max() <= 2
    assert not np.array_equal(np.asarray(mixed[1]), np.asarray(whole.edit([several])[0]))


def test_the_baseline_without_blending_forgets_the_background(folder: Path) -> None:
    [one] = requests(1)
    outside = ~images.mask_array(one.mask)

    def error(**changes: Any) -> float:
        method = BlendedDiffusion(options(folder, faithful=False, paste=False, **changes), Runtime())
        [image] = method.edit([one])
        return float(np.abs(np.asarray(image, int) - np.asarray(one.source, int))[outside].mean())

    assert error() == 0
    assert error(blending=False) > 10


def test_the_published_defaults() -> None:
    defaults = BlendedDiffusion.Options()
    assert (defaults.steps, defaults.skip, defaults.augmentations) == (100, 25, 8)
    assert (defaults.clip_lambda, defaults.range_lambda) == (1000, 50)
    assert (defaults.lpips_lambda, defaults.l2_lambda) == (1000, 10000)
    assert not defaults.background_loss
    assert (defaults.batch, defaults.iterations, defaults.sampler) == (4, 8, "ddpm")
    assert defaults.paste
    assert defaults.faithful
    assert defaults.blending
    assert defaults.view == "masked"
    assert not defaults.per_region
    assert BlendedDiffusion.native_size == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1}, "steps 1: expected at least 2"),
        ({"skip": 5}, "skip 5: expected 0 to 4"),
        ({"batch": 0}, "batch 0: expected at least 1"),
        ({"augmentations": 0}, "augmentations 0: expected at least 1"),
        ({"clip_lambda": -1.0}, r"clip_lambda -1\.0: expected 0 or more"),
        ({"range_lambda": float("nan")}, "range_lambda nan"),
        ({"blending": False}, "set paste to false"),
        ({"clip": "zoo:absent"}, "'absent'"),
        ({"weights": "./absent"}, "no such folder"),
        ({"background_loss": True}, "VGG-16.*unless lpips_lambda is 0"),
    ],
)
def test_a_wrong_option_is_named_before_any_model_loads(
    folder: Path, changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        BlendedDiffusion(options(folder, **changes), Runtime())
    assert BlendedDiffusion.problems(options(folder)) == []


def test_unfit_networks_are_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    for part in ("unet", "scheduler"):
        (tmp_path / part).mkdir()
        for file in (folder / part).iterdir():
            (tmp_path / part / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text(json.dumps({**config, "out_channels": 3}))
    [problem] = BlendedDiffusion.problems(options(tmp_path))
    assert "3 input and 3 output channels" in problem
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**SCHEDULE, "variance_type": "fixed_small"})
    )
    with pytest.raises(ValueError, match=r"fixed_small.*learned_range"):
        BlendedDiffusion(options(tmp_path), Runtime())


def test_questions_that_cannot_be_answered_say_why(folder: Path) -> None:
    method = BlendedDiffusion(options(folder), Runtime())
    [one] = requests(1)
    with pytest.raises(ValueError, match="empty region_prompt"):
        method.edit([replace(one, region_prompt=" ")])
    with pytest.raises(ValueError, match="the mask is empty"):
        method.edit([replace(one, mask=box_mask(0, 0, 0, 0, (32, 32)))])
    with pytest.raises(ValueError, match="mask of"):
        method.edit([replace(one, mask=box_mask(0, 0, 9, 9, (16, 16)))])
    with pytest.raises(ValueError, match="must be multiples of 4"):
        method.edit([replace(one, source=picture(1, (30, 30)), mask=box_mask(0, 0, 9, 9, (30, 30)))])
    assert method.edit([]) == []


def test_it_runs_in_bfloat16(folder: Path) -> None:
    method = BlendedDiffusion(options(folder), Runtime(dtype="bfloat16"))
    assert method.unet.dtype == torch.bfloat16
    [image] = method.edit(requests(1))
    exact = BlendedDiffusion(options(folder), Runtime()).edit(requests(1))[0]
    assert np.abs(np.asarray(image, int) - np.asarray(exact, int)).mean() < 25


def test_looking_at_the_class_imports_nothing_heavy() -> None:
    probe = (
        "import sys, methods.blended_diffusion.method as m; m.BlendedDiffusion.problems(m.BlendedDiffusion.Options());"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'open_clip') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

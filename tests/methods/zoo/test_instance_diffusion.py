"""The recipe of InstanceDiffusion, end to end on the shipped base: trained for a moment, saved, loaded and used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.edit import Runtime
from bench.images import mask_array
from methods.instance_diffusion.instances import box_of
from methods.instance_diffusion.method import InstanceDiffusion
from methods.instance_diffusion.model import largest_attention
from methods.training import Machine
from methods.zoo import corpus, diffusion, manifest, thresholds
from methods.zoo import instance_diffusion as recipe
from methods.zoo.autoencoder import load_vae
from methods.zoo.data import epoch_rows
from methods.zoo.job import BASE, Job
from methods.zoo.recipes import recipe_samples
from methods.zoo.regions import Regions
from protocols.world.world import MiniWorld

WORLD = MiniWorld()
EDITS = 48
CPU = Machine(precision="float32")


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[corpus.Corpus]:
    patch = pytest.MonkeyPatch()
    patch.setattr(corpus, "CHUNK", EDITS)
    edits = corpus.Corpus(WORLD, tmp_path_factory.mktemp("zoo") / "work" / "corpus", EDITS)
    edits.render()
    edits.encode(load_vae())
    Regions(edits).draw()
    yield edits
    patch.undo()


@pytest.fixture(scope="module")
def draw(edits: corpus.Corpus) -> recipe.InstanceBatches:
    base = diffusion.load_parts(BASE)
    return recipe.InstanceBatches(base, edits.load(base.vae), Regions(edits).load(), 32, 24)


@pytest.fixture(scope="module")
def root(edits: corpus.Corpus) -> Path:
    # The shipped base, and additions that have seen a few examples.
    work = edits.folder.parent
    root = work.parent / "checkpoints"
    for name in (BASE, "autoencoder", "tokenizer"):
        shutil.copytree(manifest.CHECKPOINTS / name, root / name)
    manifest.write_manifest(root)
    budget = replace(recipe.BUDGET, samples=32, batch=16, warmup=0)
    recipe.instance_diffusion(
        Job(WORLD, work / recipe.NAME, budget=budget, corpus=EDITS, machine=CPU, root=root)
    )
    return root


def test_untrained_additions_are_the_base(draw: recipe.InstanceBatches) -> None:
    base = diffusion.load_parts(BASE)
    adapter, batch = recipe.start(base).eval(), draw(0)
    t = torch.randint(0, 1000, (24,))
    with torch.no_grad():
        text = base.text_encoder(batch["tokens"]).last_hidden_state
        tokens = adapter.tokens(recipe.grounding_of(batch), largest_attention(base.unet, 16, 16))
        expected = base.unet(batch["target"], t, text).sample
        assert torch.equal(adapter.predict(base.unet, batch["target"], t, text, tokens), expected)


def test_batches_hold_the_regions_and_their_captions(draw: recipe.InstanceBatches) -> None:
    counts = {"alone": 0, "empty": 0, "dropped": 0, "several": 0}
    base = diffusion.load_parts(BASE)
    for step in range(4):
        batch = draw(step)
        counts["dropped"] += int((batch["keep"] == 0).sum())
        assert (batch["keep"].sum(1) >= 2).all()
        for i, row in enumerate(epoch_rows(step, 24, EDITS, 12)):
            request = WORLD.case(int(row)).request
            regions = [(mask_array(region.mask), region.prompt) for region in request.regions]
            regions = regions or [(mask_array(request.needed_mask), request.region_prompt)]
            counts["empty"] += bool(torch.equal(batch["tokens"][i], draw.empty))
            counts["several"] += len(regions) > 1
            if not batch["present"][i].any():
                # Without instances no mask is left.
                counts["alone"] += 1
                assert not batch["masks"][i].any()
                continue
            assert batch["present"][i].tolist() == [1.0] * len(regions) + [0.0] * (3 - len(regions))
            for slot, (mask, _) in enumerate(regions):
                assert np.array_equal(batch["masks"][i, slot], mask)
                assert np.allclose(batch["box"][i, slot], box_of(mask))
            caption = recipe._pooled(base, [regions[-1][1]])[0]
            assert torch.allclose(batch["text"][i, len(regions) - 1], caption, atol=1e-5)
            z = draw.data["z_truth"][row].astype(np.float32) * draw.scale
            assert np.allclose(batch["target"][i], z)
    assert min(counts.values()) > 2, counts
    assert all(torch.equal(value, draw(3)[name]) for name, value in draw(3).items())


def test_every_parameter_of_the_additions_learns_and_none_of_the_base(draw: recipe.InstanceBatches) -> None:
    base = diffusion.load_parts(BASE)
    for network in (base.unet, base.text_encoder):
        network.requires_grad_(False)
    adapter, batch = recipe.start(base), draw(1)
    # As after the first steps: a gate of zero lets no gradient through.
    torch.manual_seed(0)
    with torch.no_grad():
        for fuser in adapter.fusers.values():
            fuser.alpha_attn.fill_(0.5)
            fuser.alpha_dense.fill_(0.5)
    text = base.text_encoder(batch["tokens"]).last_hidden_state
    tokens = adapter.tokens(recipe.grounding_of(batch), largest_attention(base.unet, 16, 16))
    t = torch.full((24,), 500)
    adapter.predict(base.unet, batch["target"], t, text, tokens).square().mean().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(p.grad is None for p in base.unet.parameters())


def test_the_checkpoint_holds_the_additions_alone(root: Path) -> None:
    manifest.verify(recipe.NAME, root)
    assert set(manifest.closure(recipe.NAME, root)) == {recipe.NAME, BASE, "autoencoder", "tokenizer"}
    files = list((root / recipe.NAME).rglob("*.safetensors"))
    assert [path.parent.name for path in files] == ["instance"]
    assert 3.0e6 < files[0].stat().st_size < 4.2e6
    card = json.loads((root / recipe.NAME / "card.json").read_text())
    assert [stage["samples"] for stage in card["stages"]] == [32]
    assert "gate" in card["stages"][0]["training_figures"]
    assert recipe.mean_gate(recipe.load(root)) > 0
    assert recipe_samples(recipe.NAME) == {recipe.NAME: 100_000}


def test_the_method_edits_with_the_checkpoint(root: Path) -> None:
    paths = {"weights": str(root / BASE), "instance_weights": str(root / recipe.NAME)}
    options = InstanceDiffusion.Options(**{**InstanceDiffusion.PRESETS["mini"], **paths})
    assert InstanceDiffusion.problems(options) == []
    method = InstanceDiffusion(options, Runtime())
    assert method.native_size == 64
    several = next(i for i in range(1, 40) if len(WORLD.case(-i).request.regions) > 1)
    cases = [WORLD.case(-1), WORLD.case(-several)]
    edited = method.edit([replace(case.request, seed=i) for i, case in enumerate(cases)])
    # These are the edits of the sample grids and thresholds.
    pipeline = diffusion.pipeline(BASE, diffusion.load_parts(BASE, root))
    expected = recipe.edit(pipeline, recipe.load(root), cases)
    assert [image.tobytes() for image in edited] == [image.tobytes() for image in expected]


def test_more_training_starts_from_the_saved_additions(
    root: Path, edits: corpus.Corpus, tmp_path: Path
) -> None:
    again = tmp_path / "checkpoints"
    shutil.copytree(root, again)
    budget = replace(recipe.BUDGET, samples=16, batch=16, learning_rate=1e-6)
    recipe.instance_diffusion(
        Job(
            WORLD,
            edits.folder.parent / "warm",
            budget=budget,
            corpus=EDITS,
            machine=CPU,
            root=again,
            warm=True,
        )
    )
    before, after = recipe.load(root).state_dict(), recipe.load(again).state_dict()
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=2e-3), name
    assert len(json.loads((again / recipe.NAME / "card.json").read_text())["stages"]) == 2


def test_the_check_judges_the_edits_of_the_preset(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def judge(name: str, edit: object, *rest: object, **_: object) -> list[object]:
        seen.append((name, rest))
        return []

    monkeypatch.setattr(recipe, "entry", lambda name, folder: folder / name)
    monkeypatch.setattr(thresholds, "judge_levels", judge)
    assert recipe.check_instance_diffusion(WORLD, root, 8) == []
    ((name, rest),) = seen
    assert (name, rest) == (recipe.NAME, (WORLD, root, 8, thresholds.STEERED))
    preset = InstanceDiffusion.PRESETS["mini"]
    settings = recipe.SETTINGS
    assert (settings.steps, settings.guidance, settings.mask_cells) == (
        preset["steps"],
        preset["guidance"],
        preset["mask_cells"],
    )
    options = InstanceDiffusion.Options()
    assert (settings.grounded, settings.multi, settings.merge) == (
        options.grounded,
        options.multi,
        options.merge,
    )

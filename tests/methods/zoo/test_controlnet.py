"""The recipe of the ControlNet, end to end on the shipped base: trained for a moment, saved, loaded and used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.edit import Runtime
from methods import low_rank
from methods.diffusion.control import control_images
from methods.diffusion.stable_diffusion import ControlNetInpaint
from methods.training import Machine
from methods.zoo import corpus, diffusion, grids, manifest, measures, publish
from methods.zoo.autoencoder import load_vae
from methods.zoo.data import epoch_rows
from methods.zoo.job import BASE, Job
from protocols.world.world import MiniWorld

KIND = "controlnet_inpaint"
WORLD = MiniWorld()
EDITS = 96


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[corpus.Corpus]:
    # One chunk of 96 edits.
    patch = pytest.MonkeyPatch()
    patch.setattr(corpus, "CHUNK", EDITS)
    edits = corpus.Corpus(WORLD, tmp_path_factory.mktemp("zoo") / "work" / "corpus", EDITS)
    edits.render()
    edits.encode(load_vae())
    yield edits
    patch.undo()


@pytest.fixture(scope="module")
def data(edits: corpus.Corpus) -> dict[str, Any]:
    return edits.load(load_vae()) | {name: edits.whole(name) for name in ("source", "mask")}


@pytest.fixture(scope="module")
def root(edits: corpus.Corpus) -> Path:
    # The shipped base, and a ControlNet that has seen a hundred examples.
    work = edits.folder.parent
    root = work.parent / "checkpoints"
    for name in (BASE, "autoencoder", "tokenizer"):
        shutil.copytree(manifest.CHECKPOINTS / name, root / name)
    manifest.write_manifest(root)
    budget = replace(diffusion.EDITOR_BUDGET, samples=96, batch=16, warmup=0)
    publish.controlnet_inpaint(
        Job(WORLD, work / KIND, budget=budget, corpus=EDITS, machine=Machine(precision="float32"), root=root)
    )
    return root


def test_an_untrained_control_changes_nothing() -> None:
    base = diffusion.load_parts(BASE)
    parts = diffusion.start(KIND, base.tokenizer, base.vae, base)
    torch.manual_seed(0)
    batch = {"tokens": torch.randint(0, 500, (2, 40)), "condition": torch.rand(2, 3, 64, 64)}
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    with torch.no_grad():
        expected = base.predict(x, t, {"tokens": batch["tokens"]})
        assert torch.allclose(parts.predict(x, t, batch), expected, atol=1e-5)
        # 64 px of the control meet 16 x 16 latents.
        assert parts.control is not None
        assert parts.control.controlnet_cond_embedding(batch["condition"]).shape == (2, 64, 16, 16)
        # Once the closing convolutions are not zero, the control counts.
        torch.nn.init.normal_(parts.control.controlnet_mid_block.weight)
        assert not torch.allclose(parts.predict(x, t, batch), expected, atol=1e-2)


def test_every_parameter_of_the_control_learns_and_none_of_the_base(data: dict[str, Any]) -> None:
    base = diffusion.load_parts(BASE)
    parts = diffusion.start(KIND, base.tokenizer, base.vae, base)
    parts.freeze_others("cpu")
    assert parts.control is not None
    # As after the first steps: a zero convolution lets no gradient through.
    torch.manual_seed(0)
    for name, parameter in parts.control.named_parameters():
        if "controlnet_" in name and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    batch = diffusion.LatentBatches(KIND, parts, data, 8)(0)
    parts.predict(batch["target"], torch.full((8,), 500), batch).square().mean().backward()
    for name, parameter in parts.control.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    for network in (parts.unet, parts.text_encoder, parts.vae):
        assert all(parameter.grad is None for parameter in network.parameters())


def test_the_condition_is_the_control_of_the_method(data: dict[str, Any]) -> None:
    base = diffusion.load_parts(BASE)
    batch = diffusion.LatentBatches(KIND, base, data, 16)(2)
    cases = [WORLD.case(int(row)) for row in epoch_rows(2, 16, EDITS, 12)]
    masks = [np.asarray(case.request.mask) > 0 for case in cases]
    assert torch.equal(batch["condition"], control_images([case.request.source for case in cases], masks))
    # Edits, directions and texts are those of the inpainting model.
    inpainting = diffusion.LatentBatches("sd_inpainting", base, data, 16)(2)
    for name in ("target", "tokens", "weight"):
        assert torch.equal(batch[name], inpainting[name]), name


def test_the_checkpoint_is_a_small_difference_from_the_base(root: Path) -> None:
    files = list((root / KIND).rglob("*.safetensors"))
    assert [path.parent.name for path in files] == ["controlnet"]
    assert 1.0e6 < files[0].stat().st_size < 1.4e6
    assert set(manifest.closure(KIND, root)) == {KIND, BASE, "autoencoder", "tokenizer"}
    card = json.loads((root / KIND / "card.json").read_text())
    whole, second = card["stages"]
    assert second["samples"] < whole["samples"]
    assert "low rank from text_to_image" in card["stored"]
    # The weights of the base are as they were.
    parts, base = diffusion.load_parts(KIND, root), diffusion.load_parts(BASE)
    for trained, shipped in ((parts.unet, base.unet), (parts.text_encoder, base.text_encoder)):
        states = (trained.state_dict(), shipped.state_dict())
        assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    # A trained weight is the base's and a difference of the rank of its factors.
    weight = "mid_block.resnets.0.conv1.weight"
    assert parts.control is not None
    change = (parts.control.state_dict()[weight] - base.unet.state_dict()[weight]).flatten(1)
    values = torch.linalg.svdvals(change)
    rank = low_rank.ranked(change.shape, diffusion.CONTROL_SHARE)
    assert values[rank] < 1e-3 * values[0]


def test_the_method_edits_with_the_checkpoint(root: Path) -> None:
    # The adapter with the mini preset makes the edits of the sample grids and thresholds, to the pixel.
    paths = {"weights": str(root / BASE), "controlnet": str(root / KIND)}
    options = ControlNetInpaint.Options(**{**ControlNetInpaint.PRESETS["mini"], **paths})
    assert ControlNetInpaint.problems(options) == []
    method = ControlNetInpaint(options, Runtime())
    assert method.native_size == 64
    cases = [WORLD.case(-1), WORLD.case(-2)]
    edited = method.edit([replace(case.request, seed=i) for i, case in enumerate(cases)])
    editor = measures.editor_of(KIND, root)
    assert [image.tobytes() for image in edited] == [image.tobytes() for image in editor(cases)]
    # The control has an effect.
    free = ControlNetInpaint(replace(options, control_scale=0.0), Runtime())
    assert free.edit([cases[0].request])[0].tobytes() != edited[0].tobytes()


def test_more_training_starts_from_the_saved_control(
    root: Path, edits: corpus.Corpus, tmp_path: Path
) -> None:
    again = tmp_path / "checkpoints"
    shutil.copytree(root, again)
    before = diffusion.load_parts(KIND, again).control
    budget = replace(diffusion.LOW_RANK, samples=16, batch=16, learning_rate=1e-6)
    publish.controlnet_inpaint(
        Job(
            WORLD, edits.folder.parent / "warm", budget=budget, corpus=EDITS,
            machine=Machine(precision="float32"), root=again, warm=True,
        )
    )  # fmt: skip
    after = diffusion.load_parts(KIND, again).control
    assert before is not None
    assert after is not None
    for name, value in before.state_dict().items():
        assert torch.allclose(after.state_dict()[name], value, atol=2e-3), name
    assert len(json.loads((again / KIND / "card.json").read_text())["stages"]) == 3


def test_sample_grids_are_drawn(root: Path, tmp_path: Path) -> None:
    grids.sample_grid(
        KIND, diffusion.pipeline(KIND, diffusion.load_parts(KIND, root)), WORLD, tmp_path / "s.png"
    )
    assert (tmp_path / "s.png").is_file()

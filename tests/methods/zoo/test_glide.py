"""The mini recipe of GLIDE, end to end on a budget of seconds, and what it is fed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.edit import Runtime
from bench.images import mask_array
from methods.glide.diffusion import Diffusion, eight_bits
from methods.glide.method import Glide
from methods.glide.schedule import RespacedSchedule
from methods.mask_grid import cover_cells
from methods.training import Machine
from methods.zoo import classifier_recipe, corpus, job, manifest, publish
from methods.zoo import glide as recipe
from methods.zoo.data import to_tensor
from methods.zoo.job import Job
from protocols.world.world import MiniWorld

CPU = Machine(precision="float32")
WORLD = MiniWorld()
EDITS = 48
BUDGET = replace(recipe.BUDGET, samples=32, batch=8)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(corpus, "CHUNK", EDITS // 2)
    patch.setattr(job, "HELD_OUT", 40)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo") / "checkpoints"
    recipe.glide(
        Job(WORLD, root.parent / "work" / "glide", budget=BUDGET, corpus=EDITS, machine=CPU, root=root)
    )
    return root


@pytest.fixture(scope="module")
def edits(zoo: Path) -> corpus.Corpus:
    return corpus.Corpus(WORLD, zoo.parent / "work" / "corpus", EDITS)


@pytest.fixture(scope="module")
def draws(zoo: Path, edits: corpus.Corpus) -> dict[str, recipe.GlideBatches]:
    tokenizer = recipe.load_tokenizer(WORLD, zoo / "tokenizer")
    return {part: recipe.GlideBatches(part, edits, tokenizer, 16) for part in recipe.PARTS}


def test_the_checkpoint_is_complete_and_says_how_it_was_made(zoo: Path) -> None:
    manifest.verify("glide", zoo)
    card = json.loads((zoo / "glide" / "card.json").read_text())
    assert [stage["recipe"] for stage in card["stages"]] == ["base", "upsampler"]
    assert [stage["samples"] for stage in card["stages"]] == [32, 16]  # the upsampler's share of the samples
    for stage in card["stages"]:
        assert {"simple", "bound"} <= set(stage["training_figures"])
    assert card["held_out"]["upsampler_psnr_db"] > 0
    from safetensors.torch import load_file

    for part in recipe.PARTS:
        state = load_file(zoo / "glide" / part / "model.safetensors")
        assert {value.dtype for value in state.values()} == {torch.float16}
        saved = torch.load(zoo.parent / "work" / "glide" / part / "last.pt", weights_only=True)["ema"]
        for name, value in state.items():
            assert torch.allclose(value.float(), saved[f"network.{name}"], atol=2e-3, rtol=2e-3), name


def test_the_full_checkpoint_stays_small() -> None:
    for part in recipe.PARTS:
        network = recipe.start(part, 718)
        assert network.config.problems() == []
        assert 2 * sum(p.numel() for p in network.parameters()) < 8e6
    longest = max(len(WORLD.case(-i).request.target_prompt.split()) for i in range(1, 200))
    assert longest + 4 < recipe.CONFIGS["base"].text_ctx  # words, commas


def test_the_method_edits_with_it(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "CHECKPOINTS", zoo)
    options = Glide.Options(**{**Glide.PRESETS["mini"], "base_steps": "2", "upsampler_steps": "2"})
    assert Glide.problems(options) == []
    assert Glide.identity(options)["zoo"] == "glide"
    method = Glide(options, Runtime())
    assert method.native_size == 64
    cases = [WORLD.case(-i) for i in (1, 2, 3, 4)]
    for image, case in zip(method.edit([case.request for case in cases]), cases, strict=True):
        mask = mask_array(case.request.mask)
        source = np.asarray(case.request.source)
        assert np.array_equal(np.asarray(image)[~mask], source[~mask])
        assert not np.array_equal(np.asarray(image), source)


def test_the_preset_samples_as_the_recipe_looks() -> None:
    preset = Glide.PRESETS["mini"]
    assert {"base": preset["base_steps"], "upsampler": preset["upsampler_steps"]} == recipe.SAMPLE_STEPS
    assert preset["guidance"] == recipe.GUIDANCE


def test_the_gate_measures_the_method(zoo: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "checkpoints"
    shutil.copytree(zoo, root)
    publish.reader(
        Job(
            WORLD,
            tmp_path / "reader",
            budget=replace(classifier_recipe.BUDGET, samples=64),
            machine=CPU,
            root=root,
        )
    )
    # Target overall, per category, and the outside.
    follows, *by_category, keeps = recipe.check_glide(WORLD, root, 4)
    assert follows.name == keeps.name == "glide"
    assert follows.figure is not None
    assert (follows.threshold, {gate.threshold for gate in by_category}) == (0.8, {0.65})
    assert follows.passed == (follows.figure >= follows.threshold)
    assert "samples of its recipe" in follows.training_gap
    assert (keeps.figure, keeps.passed) == (1.0, True)


def test_batches_depend_on_the_step_alone_and_see_every_edit_once_an_epoch(
    draws: dict[str, recipe.GlideBatches], edits: corpus.Corpus
) -> None:
    for draw in draws.values():
        assert all(torch.equal(value, draw(3)[name]) for name, value in draw(3).items())
        assert not torch.equal(draw(3)["image"], draw(4)["image"])
    # Each epoch shows every edit once, in another order.
    everything = [edits.images(chunk) for chunk in edits.chunks]
    sources = {p.tobytes() for chunk in everything for p in chunk["source"]}
    draw = draws["upsampler"]
    for epoch in (0, 1):
        rows = [draw.arrays(3 * epoch + i)["source"] for i in range(3)]  # 3 batches of 16 of 48 edits
        assert {p.tobytes() for row in rows for p in row} == sources
    assert not np.array_equal(draw.arrays(0)["source"], draw.arrays(3)["source"])


def test_targets_texts_and_masks_belong_together(
    draws: dict[str, recipe.GlideBatches], edits: corpus.Corpus
) -> None:
    chunks = [edits.images(chunk) for chunk in edits.chunks]
    raw: dict[str, Any] = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}
    where = {picture.tobytes(): i for i, picture in enumerate(raw["source"])}
    tokenizer = draws["base"].tokenizer
    plain = empty = total = 0
    for step in range(12):
        batch, small = draws["upsampler"](step), draws["base"](step)
        rows = [where[p.tobytes()] for p in draws["upsampler"].arrays(step)["source"]]
        for i, row in enumerate(rows):
            source, truth = (to_tensor(raw[name][row : row + 1])[0] for name in ("source", "truth"))
            edit = raw["mask"][row]
            # The target is the source or the ground truth, with the matching prompt.
            back = torch.equal(batch["target"][i], source)
            assert back or torch.equal(batch["target"][i], truth)
            assert torch.equal(batch["image"][i], source)
            assert np.array_equal(batch["known"][i, 0].numpy() == 0, edit)
            assert np.array_equal(small["known"][i, 0].numpy() == 0, cover_cells(edit, 2)[::2, ::2])
            prompt = raw["source_prompt" if back else "target_prompt"][row]
            expected = tokenizer([str(prompt)], 32)
            nothing = not batch["present"][i].any()
            assert nothing or torch.equal(batch["tokens"][i], expected.ids[0])
            plain, empty, total = plain + back, empty + nothing, total + 1
        # The base has the same examples at half the size.
        expected_small = recipe.shrink(raw["source"][rows])
        assert torch.equal(small["image"], to_tensor(expected_small))
        assert torch.equal(batch["low_res"], eight_bits(batch["low_res"]))
        off = (batch["low_res"] - small["target"]).std(dim=(1, 2, 3))
        assert off.max() < 1.1 * recipe.COARSE_NOISE
        assert off.max() > 0.3 * recipe.COARSE_NOISE
    assert 0.2 < plain / total < 0.4
    assert 0.08 < empty / total < 0.23


@pytest.mark.parametrize("part", recipe.PARTS)
def test_the_loss_weighs_the_inside_and_reaches_every_parameter(
    draws: dict[str, recipe.GlideBatches], part: str
) -> None:
    network = recipe.start(part, draws[part].tokenizer.vocabulary)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    # Open the layers that start at zero.
    for parameter in network.parameters():
        if not parameter.any():  # what starts at zero blocks the way to what lies before it
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    process = Diffusion(RespacedSchedule.of(network.config.schedule))
    simple, bound = recipe.loss_terms(network, process, draws[part](0), torch.Generator().manual_seed(0))
    (simple + bound).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    # The weights of one edit average to one, ten times as high inside.
    batch = draws[part](0)

    class Zero(torch.nn.Module):
        config = network.config

        def encode_text(self, tokens: Any, present: Any) -> None:
            return None

        def forward(self, x: Any, t: Any, *rest: Any) -> torch.Tensor:
            return torch.zeros(x.shape[0], 6, *x.shape[2:])

    simple, _ = recipe.loss_terms(Zero(), process, batch, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    torch.manual_seed(0)
    # The loss of a network that predicts zero, by hand.
    draw = torch.Generator().manual_seed(0)
    torch.randint(0, 1000, (16,), generator=draw)
    eps = torch.randn(batch["target"].shape, generator=draw)
    inside = (batch["known"] == 0).float()
    expected = 0.0
    for i in range(16):
        weight = inside[i] + 0.1 * (1 - inside[i])
        expected += float((weight / weight.mean() * eps[i] ** 2).mean()) / 16
    assert float(simple) == pytest.approx(expected, rel=1e-4)


def test_a_network_learns_one_batch(draws: dict[str, recipe.GlideBatches]) -> None:
    # Both terms of the loss fall when the same examples and the same noise are seen again and again.
    network = recipe.start("base", draws["base"].tokenizer.vocabulary)
    process = Diffusion(RespacedSchedule.of(network.config.schedule))
    batch = {name: value[:4] for name, value in draws["base"](0).items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        simple, bound = recipe.loss_terms(network, process, batch, torch.Generator().manual_seed(1))
        losses.append((float(simple.detach()), float(bound.detach())))
        optimizer.zero_grad()
        (simple + bound).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert losses[-1][0] < 0.8 * losses[0][0]
    assert losses[-1][1] < losses[0][1]


def test_a_warm_start_begins_where_the_checkpoint_is(zoo: Path, tmp_path: Path) -> None:
    # One step at a vanishing rate must give the checkpoint back.
    import shutil

    from safetensors.torch import load_file

    shutil.copytree(zoo, tmp_path / "checkpoints")
    root = tmp_path / "checkpoints"
    budget = replace(BUDGET, samples=8, learning_rate=1e-12, warmup=0)
    work = zoo.parent / "work" / "glide-warm"
    recipe.glide_base(Job(WORLD, work, budget=budget, corpus=EDITS, machine=CPU, root=root, warm=True))
    # Equal up to half precision.
    old, new = (load_file(r / "glide" / "base" / "model.safetensors") for r in (zoo, root))
    assert all(torch.allclose(old[name].float(), new[name].float(), atol=1e-3) for name in old)
    stages = json.loads((root / "glide" / "card.json").read_text())["stages"]
    # What the base saw before counts too.
    assert [stage["recipe"] for stage in stages] == ["base", "upsampler", "base"]
    assert stages[-1]["samples"] == 8

"""The miniature GAN's recipe: its losses against their formulas, its batches, a training that resumes, its gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.edit import Runtime
from bench.images import mask_array
from methods.lama import fills, network
from methods.lama.method import Lama
from methods.lama.network import Generator, GeneratorConfig
from methods.training import Machine, Recording
from methods.zoo import corpus, job, manifest
from methods.zoo import lama as recipe
from methods.zoo.corpus import Corpus
from methods.zoo.job import Job
from protocols.world.world import MiniWorld

CPU = Machine(precision="float32")
WORLD = MiniWorld()
EDITS = 32
TINY = GeneratorConfig(width=4, downs=3, blocks=1)
BUDGET = replace(recipe.BUDGET, samples=40, batch=4)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(corpus, "CHUNK", EDITS)
    patch.setattr(recipe, "MODEL", TINY)
    patch.setattr(job, "HELD_OUT", 8)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    corpus_of_edits = Corpus(WORLD, tmp_path_factory.mktemp("zoo") / "work" / "corpus", EDITS)
    corpus_of_edits.render()
    return corpus_of_edits


# --- losses -------------------------------------------------------------------------------------------


def test_the_discriminator_is_told_the_papers_formula_with_its_patches_balanced() -> None:
    # Equation 3 with probabilities instead of logits, the kinds of patches averaged apart: only those that hold a
    # hole count as fake.
    torch.manual_seed(0)
    real, fake = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    holes = (torch.rand(2, 1, 4, 4) < 0.5).double()
    # Probabilities by the logistic function.
    d_real, d_fake = 1 / (1 + np.exp(-real.numpy())), 1 / (1 + np.exp(-fake.numpy()))
    m = holes.numpy()
    # Each kind of patch by its mean; where none has a hole, the fake's are the picture's.
    expected = (
        -np.log(d_real).mean() - np.log(1 - d_fake)[m == 1].mean() - 0.5 * np.log(d_fake)[m == 0].mean()
    )
    assert float(recipe.discriminator_loss(real, fake, holes)) == pytest.approx(expected)
    sought = -(m * np.log(d_fake)).sum() / m.sum()
    assert float(recipe.generator_loss(fake, holes)) == pytest.approx(sought)


def test_a_hole_weighs_less_the_deeper_in_it() -> None:
    mask = np.zeros((12, 12), np.bool_)
    mask[3:8, 2:9] = True
    weight = recipe.discounted(mask)
    assert weight.dtype == np.float32
    assert not weight[~mask].any()
    assert weight[3, 2] == weight[7, 5] == 1
    assert weight[4, 3] == pytest.approx(recipe.DISCOUNT)
    assert weight[5, 5] == pytest.approx(recipe.DISCOUNT**2)
    assert (recipe.discounted(np.ones((4, 4), np.bool_)) == 1).all()


def test_the_generators_loss_does_not_saturate() -> None:
    # Where the discriminator is sure, the gradient is 1 in the logit, not 0.
    logit = torch.full((1, 1, 1, 1), -20.0, requires_grad=True)
    recipe.generator_loss(logit, torch.ones(1, 1, 1, 1)).backward()
    assert logit.grad is not None
    assert float(logit.grad) == pytest.approx(-1.0, abs=1e-6)


def test_patches_with_a_single_pixel_of_hole_count() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 17, 63] = 1
    hits = recipe.patches(mask, (16, 16))
    expected = torch.zeros(1, 1, 16, 16)
    # Pixel (17, 63) lies in patch (4, 15).
    expected[..., 4, 15] = 1
    assert torch.equal(hits, expected)


def test_the_gradient_penalty_is_the_squared_norm() -> None:
    # Of a linear map its weights' own; of the discriminator that of finite differences.

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            return (x * torch.arange(12.0).view(1, 3, 2, 2)).sum(dim=(1, 2, 3)), []

    assert float(recipe.gradient_penalty(Linear(), torch.rand(5, 3, 2, 2))) == pytest.approx(
        sum(n * n for n in range(12))
    )
    torch.manual_seed(1)
    judge = recipe.Discriminator((4, 4, 4)).double()
    for parameter in judge.parameters():
        parameter.data *= 3

    def score(x: Tensor) -> float:
        h, _ = x, None
        h = h * 2 - 1
        for layer in judge.layers:
            h = torch.nn.functional.leaky_relu(layer(h), 0.2)
        return float(judge.head(h).sum())

    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    total = 0.0
    with torch.no_grad():
        for place in range(x.numel()):
            up, down = x.clone(), x.clone()
            up.view(-1)[place] += 1e-6
            down.view(-1)[place] -= 1e-6
            total += ((score(up) - score(down)) / 2e-6) ** 2
    judge.float()
    assert float(recipe.gradient_penalty(judge, x.float()).detach()) == pytest.approx(total, rel=1e-3)


def test_a_patch_is_26_pixels() -> None:
    # A logit depends on the 26 x 26 pixels around its patch and on no other.
    torch.manual_seed(2)
    judge = recipe.Discriminator()
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    logits, features = judge(x)
    assert logits.shape == (1, 1, 16, 16)
    assert len(features) == 3
    (gradient,) = torch.autograd.grad(logits[0, 0, 8, 8], x)
    touched = torch.nonzero(gradient[0].abs().sum(0))
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [26, 26]
    assert (touched.amax(0) + touched.amin(0)).tolist() == [
        2 * 33 + 1
    ] * 2  # centred on its 4 pixels, 32 to 35


# --- batches ------------------------------------------------------------------------------------------


def test_batches_depend_on_the_step_alone(edits: Corpus) -> None:
    one, other = recipe.HoleBatches(edits, 6), recipe.HoleBatches(edits, 6)
    other(40)
    for name in ("image", "mask"):
        assert torch.equal(one(3)[name], other(3)[name])
        assert not torch.equal(one(3)[name], one(4)[name])
    assert [step for step in range(20) if one(step)["penalty"]] == [0, 8, 16]


def test_a_batch_is_pictures_of_the_corpus_with_holes(edits: Corpus) -> None:
    raw = edits.images(0)
    expected = {p.tobytes() for name in ("source", "truth") for p in raw[name]}
    expected |= {
        np.ascontiguousarray(p[:, ::-1]).tobytes() for name in ("source", "truth") for p in raw[name]
    }
    batch = recipe.HoleBatches(edits, 16)(7)
    assert batch["image"].shape == (16, 3, 64, 64)
    assert batch["mask"].shape == (16, 1, 64, 64)
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(batch["weight"] > 0, batch["mask"] == 1)
    back = (batch["image"] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert all(np.ascontiguousarray(picture).tobytes() in expected for picture in back)
    shares = batch["mask"].mean(dim=(1, 2, 3))
    assert 0 < float(shares.min()) <= float(shares.max()) < 1


# --- training -----------------------------------------------------------------------------------------


def probe(edits: Corpus, weights: dict[str, Tensor]) -> float:
    generator = Generator(TINY)
    generator.load_state_dict(weights)
    batch = recipe.HoleBatches(edits, 16)(999)
    generator.train()
    with torch.no_grad():
        return float((generator.paint(batch["image"], batch["mask"]) - batch["image"]).abs().mean())


def test_it_learns_and_a_stopped_training_resumes_bit_for_bit(
    edits: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = recipe.HoleBatches(edits, 4)
    whole = recipe.run(draw, tmp_path / "whole", BUDGET, CPU)

    class Stop(Exception):
        pass

    def stopping(step: int) -> dict[str, Any]:
        if step == 6:
            raise Stop
        return draw(step)

    # Stopped in step 6, with a checkpoint after each step.
    monkeypatch.setattr(recipe, "Recording", partial(Recording, save_seconds=0.0))
    with pytest.raises(Stop):
        recipe.run(stopping, tmp_path / "cut", BUDGET, CPU)
    resumed = recipe.run(draw, tmp_path / "cut", BUDGET, CPU)
    assert resumed.samples == whole.samples == 40
    for name in ("generator", "discriminator"):
        for key, value in whole.weights[name].items():
            assert torch.equal(value, resumed.weights[name][key]), key
    longer = recipe.run(
        draw, tmp_path / "longer", replace(BUDGET, samples=640, warmup=0, learning_rate=4e-3), CPU
    )
    assert probe(edits, longer.weights["generator"]) < 0.7 * probe(edits, whole.weights["generator"])
    assert {"known", "inside", "adversarial", "matching", "judge", "judged_rightly", "penalty"} <= set(
        whole.figures
    )


def test_neither_networks_loss_reaches_the_others_parameters(
    edits: Corpus, tmp_path: Path, monkeypatch: Any
) -> None:
    # The discriminator's gradient is that of its own loss and penalty; the generator's own has none in it.
    calls: dict[str, Any] = {}

    def capture(work: Path, modules: Any, loss: Any, *rest: Any, **more: Any) -> None:
        calls.update(modules=modules, loss=loss)

    monkeypatch.setattr(recipe, "train", capture)
    draw = recipe.HoleBatches(edits, 4)
    recipe.run(draw, tmp_path, BUDGET, CPU)
    generator, judge = calls["modules"]["generator"], calls["modules"]["discriminator"]
    batch = draw(0)  # a step with the penalty
    value, _ = calls["loss"](batch, torch.Generator())
    value.backward()
    gradients = [p.grad.clone() for p in judge.parameters()]
    with torch.no_grad():
        generator.train()
        fake = generator(batch["image"], batch["mask"])
    judge.zero_grad()
    real_logits, fake_logits = judge(batch["image"])[0], judge(fake)[0]
    own = recipe.discriminator_loss(real_logits, fake_logits, recipe.patches(batch["mask"], (16, 16)))
    own = own + 0.5 * recipe.R1 * recipe.R1_EVERY * recipe.gradient_penalty(judge, batch["image"][:2])
    own.backward()
    for a, p in zip(gradients, judge.parameters(), strict=True):
        assert torch.allclose(a, p.grad, atol=1e-6, rtol=1e-3)


def test_statistics_are_measured_for_the_weights_that_are_kept(edits: Corpus) -> None:
    # In evaluation mode a batch that fills the statistics alone gives what it gave in training mode.
    torch.manual_seed(3)
    batch = recipe.HoleBatches(edits, 8)(1)
    weights = {k: v.clone() for k, v in Generator(TINY).state_dict().items()}
    generator = recipe.settled(TINY, weights, [batch])
    other = Generator(TINY)
    other.load_state_dict(weights)
    with torch.no_grad():
        expected = other.train().paint(batch["image"], batch["mask"])
        painted = generator.paint(batch["image"], batch["mask"])
        unsettled = other.eval()
        unsettled.load_state_dict(weights)
        stale = unsettled.paint(batch["image"], batch["mask"])
    assert not generator.training
    # Up to the unbiased variance that statistics are kept with.
    assert float((painted - expected).abs().max()) < 0.01
    assert float((stale - expected).abs().max()) > 0.02


@pytest.fixture(scope="module")
def zoo(edits: Corpus) -> Path:
    root = edits.folder.parent.parent / "checkpoints"
    root.mkdir()
    work = edits.folder.parent / "lama"
    recipe.lama(Job(WORLD, work, budget=replace(BUDGET, samples=16), machine=CPU, root=root, corpus=EDITS))
    return root


def test_the_checkpoint_is_complete_and_the_method_edits_with_it(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    manifest.verify("lama", zoo)
    card = json.loads((zoo / "lama" / "card.json").read_text())
    assert card["stages"][0]["samples"] == 16
    assert {"leak", "seam", "detail", "error", "mean_error", "diffusion_error"} <= set(card["held_out"])
    for name, value in load_file(zoo / "lama" / "model.safetensors").items():
        if value.is_floating_point():
            assert value.dtype == (torch.float32 if "running_" in name else torch.float16)
    monkeypatch.setattr(manifest, "CHECKPOINTS", zoo)
    options = Lama.Options(**Lama.PRESETS["mini"])
    assert Lama.problems(options) == []
    assert Lama.identity(options)["zoo"] == "lama"
    method = Lama(options, Runtime())
    cases = [WORLD.case(-i) for i in (1, 2, 3, 4)]
    for image, case in zip(method.edit([case.request for case in cases]), cases, strict=True):
        keep = ~mask_array(case.request.mask)
        assert np.array_equal(np.asarray(image)[keep], np.asarray(case.request.source)[keep])
        assert not np.array_equal(np.asarray(image), np.asarray(case.request.source))


def test_the_embedded_size_stays_small() -> None:
    # At most 5 MB on disk: two bytes a weight.
    size = sum(p.numel() for p in Generator(GeneratorConfig(width=24, downs=3, blocks=4)).parameters())
    assert 2 * size < 4.5e6


def test_a_warm_start_goes_on_from_the_checkpoint(zoo: Path, edits: Corpus, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(zoo, tmp_path / "checkpoints")
    before = network.load(zoo / "lama")
    shutil.copytree(edits.folder, tmp_path / "work" / "corpus")
    budget = replace(BUDGET, samples=4, learning_rate=1e-12, warmup=0)
    root = tmp_path / "checkpoints"
    recipe.lama(
        Job(WORLD, tmp_path / "work" / "lama", budget=budget, machine=CPU, root=root, warm=True, corpus=EDITS)
    )
    for name, value in network.load(root / "lama").named_parameters():
        assert torch.allclose(value, before.state_dict()[name], atol=1e-3), name
    assert len(json.loads((root / "lama" / "card.json").read_text())["stages"]) == 2


# --- the gate -----------------------------------------------------------------------------------------


def test_held_out_holes_are_not_the_pictures_own_and_do_not_change() -> None:
    first, again = recipe.held_out(WORLD, 10), recipe.held_out(WORLD, 10)
    for i, ((picture, mask), (_, mask2)) in enumerate(zip(first, again, strict=True)):
        assert np.array_equal(mask, mask2)
        case = WORLD.case(-1 - i)
        assert np.array_equal(picture, np.asarray(case.request.source))
        assert not np.array_equal(mask, mask_array(case.request.mask))


class _Instead:
    """A method that fills in a known way, in LaMa's place."""

    Options = Lama.Options

    def __init__(self, fill: Any) -> None:
        self.fill = fill

    def __call__(self, options: Any, runtime: Any) -> _Instead:
        return self

    def edit(self, requests: Any) -> list[Any]:
        from bench.images import from_array

        return [from_array(self.fill(np.asarray(r.source, np.uint8), mask_array(r.mask))) for r in requests]


def _gates(monkeypatch: pytest.MonkeyPatch, fill: Any) -> list[Any]:
    fake = _Instead(fill)
    fake_class = type("Fake", (), {"Options": Lama.Options, "__new__": lambda cls, *a: fake})
    monkeypatch.setattr("methods.lama.method.Lama", fake_class)
    return recipe.check_lama(WORLD, Path("nowhere"), 24)


def test_the_gate_passes_the_truth_and_fails_fills_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    leak, seam, detail, error = _gates(monkeypatch, lambda picture, mask: picture)
    assert (leak.figure, seam.figure, detail.figure, error.figure) == (0.0, 1.0, 1.0, 0.0)
    assert all(gate.passed for gate in (leak, seam, detail, error))

    leak, seam, detail, error = _gates(monkeypatch, fills.mean_fill)
    assert leak.passed
    assert (seam.passed, detail.passed, error.passed) == (False, False, False)
    assert detail.figure == pytest.approx(0.0, abs=0.2)  # a flat colour but for holes in several parts

    leak, seam, detail, error = _gates(monkeypatch, fills.diffusion_fill)
    assert (leak.passed, detail.passed, error.passed) == (True, False, False)
    assert error.figure == pytest.approx(1.0)

    leak, *_ = _gates(monkeypatch, lambda picture, mask: np.where(picture > 128, picture - 1, picture + 1))
    assert (leak.figure, leak.passed) == (1.0, False)


def test_the_gate_measures_a_checkpoint_through_its_adapter(zoo: Path) -> None:
    gates = recipe.check_lama(WORLD, zoo, 8)
    assert [gate.name for gate in gates] == ["lama"] * 4
    assert gates[0].passed
    assert not gates[3].passed  # after 16 samples
    assert "mean colour" in gates[3].detail


def test_the_sample_grid_shows_holes_fills_and_pictures(zoo: Path, tmp_path: Path) -> None:
    from PIL import Image

    recipe.sample_grid(network.load(zoo / "lama"), WORLD, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (16 * 128, 6 * 128)

"""The recipe of the mini Blended Diffusion, end to end on a budget of seconds, and its loss by another formula."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bench.edit import Runtime
from bench.images import mask_array
from methods.blended_diffusion.method import BlendedDiffusion
from methods.training import Machine
from methods.zoo import adm, corpus, manifest
from methods.zoo.job import Job
from protocols.world.world import MiniWorld

CPU = Machine(precision="float32")
WORLD = MiniWorld()
EDITS = 24
BUDGET = replace(adm.BUDGET, samples=32, batch=16)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(corpus, "CHUNK", EDITS)
    patch.setitem(adm.CONFIG, "block_out_channels", (8, 16, 16))
    patch.setitem(adm.CONFIG, "attention_head_dim", 8)
    patch.setitem(adm.CONFIG, "norm_num_groups", 4)
    patch.setitem(adm.CONFIG, "attn_norm_num_groups", 4)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo") / "checkpoints"
    work = root.parent / "work" / "blended_diffusion"
    folder = adm.blended_diffusion(Job(WORLD, work, budget=BUDGET, machine=CPU, root=root, corpus=2 * EDITS))
    assert folder == root / "blended_diffusion"
    return root


@pytest.fixture(scope="module")
def edits(zoo: Path) -> corpus.Corpus:
    return corpus.Corpus(WORLD, zoo.parent / "work" / "corpus", 2 * EDITS)


def test_the_checkpoint_is_complete_half_precision_and_says_how_it_was_made(zoo: Path) -> None:
    from safetensors.torch import load_file

    manifest.verify("blended_diffusion", zoo)
    card = json.loads((zoo / "blended_diffusion" / "card.json").read_text())
    [stage] = card["stages"]
    assert stage["samples"] == 32
    assert {"simple", "vlb_bits"} <= set(stage["training_figures"])
    [file] = (zoo / "blended_diffusion").rglob("*.safetensors")
    assert {value.dtype for value in load_file(file).values()} == {torch.float16}


def test_what_is_saved_is_the_trained_average(zoo: Path) -> None:
    saved = torch.load(zoo.parent / "work" / "blended_diffusion" / "last.pt", weights_only=True)
    unet = adm.load(zoo / "blended_diffusion")
    for name, value in unet.state_dict().items():
        assert torch.allclose(value, saved["ema"][f"unet.{name}"], atol=2e-3, rtol=2e-3), name
    assert any(bool((p != q).any()) for p, q in zip(unet.parameters(), adm.build().parameters(), strict=True))


def test_the_method_edits_with_it(zoo: Path) -> None:
    # Few steps, to be fast.
    few = {
        **BlendedDiffusion.PRESETS["mini"],
        "weights": str(zoo / "blended_diffusion"),
        "steps": 4,
        "skip": 1,
    }
    method = BlendedDiffusion(BlendedDiffusion.Options(**few), Runtime())
    assert method.native_size == 64
    assert method.factor == 8
    assert method.process.prediction == "v_prediction"
    cases = [WORLD.case(-i) for i in (1, 2)]
    for image, case in zip(method.edit([case.request for case in cases]), cases, strict=True):
        keep = ~mask_array(case.request.mask)
        assert np.array_equal(np.asarray(image)[keep], np.asarray(case.request.source)[keep])
        assert not np.array_equal(np.asarray(image), np.asarray(case.request.source))


def test_the_gate_passes_the_truth_and_fails_the_source(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The embedded CLIP and reader, an editor that hands out the truth: it must pass, and the source must fail.
    from methods.zoo import thresholds

    for name in ("clip_guide", "reader"):
        (zoo / name).symlink_to(manifest.CHECKPOINTS / name)
    monkeypatch.setattr(thresholds, "entry", lambda name, root: root / name)
    # The editor answers with ground truths, then with sources.
    cases = [WORLD.case(-1 - i) for i in range(8)]
    for field, passed in (("truth", True), ("source", False)):

        def edit(self: Any, requests: Any, field: str = field) -> list[Any]:
            at = {case.request.source.tobytes(): case for case in cases}
            matching = [at[request.source.tobytes()] for request in requests]
            return [case.truth if field == "truth" else case.request.source for case in matching]

        monkeypatch.setattr(BlendedDiffusion, "edit", edit)
        [gate] = adm.check_blended_diffusion(WORLD, zoo, 8)
        assert gate.passed == passed
        assert gate.figure is not None
        assert gate.figure > 0.8 if passed else gate.figure < 0.2
        # Its network has seen a few samples of its recipe, which a miss says and a pass does not.
        assert bool(gate.training_gap) == (not passed)


def test_batches_depend_on_the_step_alone_and_use_sources_and_truths(edits: corpus.Corpus) -> None:
    draw = adm.batches(edits, 16)
    assert torch.equal(draw(3), adm.batches(edits, 16)(3))
    # One pass over a chunk.
    first, turn = torch.cat([draw(step) for step in range(3)]), draw(6)
    raw = edits.images(0)
    expected = {p.tobytes() for name in ("source", "truth") for p in raw[name]}
    from methods.zoo.data import to_images

    assert {p.tobytes() for p in to_images(first)} == expected  # one chunk, each picture once
    assert not torch.equal(turn, first[:16])  # the second time in another order
    assert {p.tobytes() for p in to_images(turn)} <= expected
    with pytest.raises(ValueError, match="a chunk of the corpus has 48 images"):
        adm.batches(edits, 64)


@pytest.mark.parametrize("t", [1, 400, 990])
def test_the_hybrid_loss_is_mse_and_the_divergence_of_the_two_posteriors(t: int) -> None:
    generator = torch.Generator().manual_seed(t)
    x0, noise, v, f = (torch.randn((1, 3, 8, 8), generator=generator).double() for _ in range(4))
    v, f = v.clamp(-1, 1), f.clamp(-1, 1)

    class Fixed:
        dtype = torch.float64
        config: Any = {"in_channels": 12, "out_channels": 24}

        def __call__(self, x: Tensor, timestep: Tensor) -> Any:
            unshuffle = torch.nn.functional.pixel_unshuffle
            return type("Output", (), {"sample": torch.cat([unshuffle(v, 2), unshuffle(f, 2)], 1)})

    fixed: Any = Fixed()
    total, figures = adm.VelocityHybridLoss()(fixed, x0.float(), torch.tensor([t]), noise.float())
    full = adm.schedule(1000)
    now, before = full.alpha_bar[t], full.alpha_bar[t - 1]
    x = now**0.5 * x0 + (1 - now) ** 0.5 * noise
    beta = 1 - now / before
    posterior = beta * (1 - before) / (1 - now)

    def mean(clean: Tensor) -> Tensor:
        return (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - now)

    learnt = beta ** ((f + 1) / 2) * posterior ** ((1 - f) / 2)
    predicted = mean(now**0.5 * x - (1 - now) ** 0.5 * v)
    true = Normal(mean(x0), torch.full_like(x0, posterior**0.5))
    bits = kl_divergence(true, Normal(predicted, learnt.sqrt())).mean() / np.log(2)
    simple = ((v - (now**0.5 * noise - (1 - now) ** 0.5 * x0)) ** 2).mean()
    assert figures["simple"] == pytest.approx(float(simple), rel=1e-4)
    assert figures["vlb_bits"] == pytest.approx(float(bits), rel=2e-3)
    assert float(total) == pytest.approx(float(simple + bits), rel=1e-3)


def test_the_divergence_teaches_the_variances_alone_and_nothing_at_the_last_step() -> None:
    unet = adm.build()
    x0, noise = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)

    def gradients(t: int) -> tuple[Tensor, Tensor]:
        unet.zero_grad()
        total, _ = adm.VelocityHybridLoss()(unet, x0, torch.tensor([t, t]), noise)
        total.backward()
        gradient = unet.conv_out.weight.grad
        assert gradient is not None
        half = len(gradient) // 2
        return gradient[:half].clone(), gradient[half:].clone()

    means, variances = gradients(300)
    assert bool(variances.abs().sum() > 0)
    _, last = gradients(0)
    assert not bool(last.any())
    simple = adm.VelocityHybridLoss()
    unet.zero_grad()
    at = {name: value[300].float() for name, value in simple.constants.items()}
    v, _ = adm.predict(unet, at["signal"] * x0 + at["sigma"] * noise, torch.tensor([300, 300]))
    ((v - (at["signal"] * noise - at["sigma"] * x0)) ** 2).mean().backward()
    gradient = unet.conv_out.weight.grad
    assert gradient is not None
    assert torch.allclose(means, gradient[: len(means)], atol=1e-6)


def test_the_published_recipe_is_small_enough_for_the_zoo() -> None:
    from diffusers import UNet2DModel

    config = {
        **adm.CONFIG,
        "block_out_channels": (32, 64, 96),
        "attention_head_dim": 32,
        "norm_num_groups": 8,
        "attn_norm_num_groups": 8,
    }
    with torch.device("meta"):
        unet = UNet2DModel(**config)
    assert 2 * sum(p.numel() for p in unet.parameters()) < 8e6
    assert adm.BUDGET.samples >= 150_000

"""The mini recipe of PromptEditDiff, end to end on a budget of seconds, and what it is fed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.edit import Runtime
from bench.images import mask_array
from methods.prompt_edit_diff import VARIANTS
from methods.prompt_edit_diff.augment import MaskDropout
from methods.training import Machine
from methods.zoo import autoencoder, corpus, diffusion, manifest, publish
from methods.zoo import prompt_edit_diff as recipe
from methods.zoo.job import Job
from methods.zoo.regions import REGIONS, Regions
from protocols.world.world import MiniWorld

CPU = Machine(precision="float32")
WORLD = MiniWorld()
EDITS = 48
BUDGET = replace(recipe.BUDGET, samples=32, batch=16)


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(corpus, "CHUNK", EDITS)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The base, and the whole method; each has seen a few dozen examples.
    root = tmp_path_factory.mktemp("zoo") / "checkpoints"
    work = root.parent / "work"
    few = {"machine": CPU, "root": root}
    publish.autoencoder(
        Job(WORLD, work / "autoencoder", budget=replace(autoencoder.BUDGET, samples=48), **few)
    )
    base = replace(diffusion.BUDGETS["text_to_image"], samples=32, batch=16)
    publish.text_to_image(Job(WORLD, work / "text_to_image", budget=base, corpus=EDITS, **few))
    recipe.prompt_edit_diff(Job(WORLD, work / VARIANTS[0], budget=BUDGET, corpus=EDITS, **few))
    return root


@pytest.fixture(scope="module")
def edits(zoo: Path) -> corpus.Corpus:
    return corpus.Corpus(WORLD, zoo.parent / "work" / "corpus", EDITS)


@pytest.fixture(scope="module")
def draw(zoo: Path, edits: corpus.Corpus) -> recipe.RegionBatches:
    base = diffusion.load_parts("text_to_image", zoo)
    return recipe.RegionBatches(base.tokenizer, 0.5, edits.load(base.vae), Regions(edits).load(), 16)


def test_the_checkpoint_is_complete_and_says_how_it_was_made(zoo: Path) -> None:
    manifest.verify(VARIANTS[0], zoo)
    card = json.loads((zoo / VARIANTS[0] / "card.json").read_text())
    # First whole, then as a difference of low rank, in proportion (one step is the least).
    # Two stages.
    assert [stage["samples"] for stage in card["stages"]] == [32, 16]
    assert "text_to_image" in card["stored"]
    for stage in card["stages"]:
        assert {"inside", "outside", "phi"} <= set(stage["training_figures"])
    from safetensors.torch import load_file

    for file in (zoo / VARIANTS[0]).rglob("*.safetensors"):
        assert {v.dtype for v in load_file(file).values() if v.is_floating_point()} == {torch.float16}


def test_the_method_edits_with_it(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.prompt_edit_diff.method import PromptEditDiff

    monkeypatch.setattr(manifest, "CHECKPOINTS", zoo)
    options = PromptEditDiff.Options(**{**PromptEditDiff.PRESETS["mini"], "steps": 2})
    assert PromptEditDiff.problems(options) == []
    assert PromptEditDiff.identity(options)["zoo"] == "prompt_edit_diff"
    method = PromptEditDiff(options, Runtime())
    assert method.native_size == 64
    cases = [WORLD.case(-i) for i in (1, 2, 3, 4)]
    edited = method.edit([case.request for case in cases])
    for image, case in zip(edited, cases, strict=True):
        keep = ~mask_array(case.request.mask)
        assert np.array_equal(np.asarray(image)[keep], np.asarray(case.request.source)[keep])
        assert not np.array_equal(np.asarray(image), np.asarray(case.request.source))


def test_an_ablation_is_trained_by_the_same_recipe(zoo: Path) -> None:
    work = zoo.parent / "work"
    for variant in VARIANTS[1:]:
        folder = getattr(recipe, variant)(
            Job(
                WORLD, work / variant, budget=replace(BUDGET, samples=16), corpus=EDITS, machine=CPU, root=zoo
            )
        )
        unet, _ = recipe.load(folder.name, zoo)
        assert folder.name == variant
        assert (unet.prompts is None) == (variant == VARIANTS[1])
        assert (len(unet.routings) == 0) == (variant == VARIANTS[2])
        assert (unet.encoder is None) == (len(unet.injections) == 0) == (variant == VARIANTS[3])


def test_every_variant_starts_as_the_base(zoo: Path) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    torch.manual_seed(0)
    x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([10, 900]), torch.randn(2, 40, 128)
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 10:30, 20:50] = 1
    with torch.no_grad():
        expected = base.unet.eval()(x, t, context).sample
        for variant in VARIANTS:
            prediction = recipe.start(variant, base).eval()(x, t, context, mask, torch.randn(2, 4, 16, 16))
            assert torch.allclose(expected, prediction, atol=1e-6)


def test_a_saved_variant_is_the_trained_one(zoo: Path) -> None:
    # Up to the rounding to half precision; and it is not the base any more.
    saved = torch.load(zoo.parent / "work" / VARIANTS[0] / "last.pt", weights_only=True)
    unet, _ = recipe.load(VARIANTS[0], zoo)
    for name, value in unet.state_dict().items():
        average = saved["ema"].get(f"unet.{name}", saved["modules"]["unet"][name])
        assert torch.allclose(value, average.float(), atol=2e-3, rtol=2e-3), name
    assert any(bool(p.detach() != 0) for name, p in unet.named_parameters() if name.endswith(".phi"))


def test_regions_are_those_of_the_world(edits: corpus.Corpus) -> None:
    loaded = Regions(edits).load()
    masks = np.unpackbits(loaded["masks"], axis=2).reshape(-1, REGIONS, 64, 64).astype(bool)
    # Masks and words of every region, in order.
    several = 0
    for i in range(EDITS):
        request = WORLD.case(i).request
        expected = [mask_array(r.mask) for r in request.regions] or [mask_array(request.mask)]
        several += len(expected) > 1
        for r in range(REGIONS):
            assert np.array_equal(masks[i, r], expected[r] if r < len(expected) else np.zeros((64, 64), bool))
        words = [list(r.words) for r in request.regions] or [list(request.edit_words)]
        assert [w for _, w in loaded["regions"][i]] == words
    assert several >= 4


def test_regions_of_another_corpus_are_drawn_anew_and_unknown_edits_keep_their_mask(
    edits: corpus.Corpus, tmp_path: Path
) -> None:
    other = corpus.Corpus(WORLD, tmp_path, EDITS)
    raw = edits.images(0)
    corpus.save_arrays(tmp_path / "pictures-0000.npz", raw)
    regions = Regions(other)
    regions.draw()
    before = (tmp_path / "regions-0000.npz").stat().st_mtime_ns
    regions.draw()
    assert (tmp_path / "regions-0000.npz").stat().st_mtime_ns == before  # nothing to do
    # Two edits that the world does not have.
    raw["mask"][0] = np.roll(raw["mask"][0], 1, axis=1)
    raw["target_prompt"][1] = "a red car"
    corpus.save_arrays(tmp_path / "pictures-0000.npz", raw)
    regions.draw()
    loaded = regions.load()
    for i in (0, 1):
        masks = np.unpackbits(loaded["masks"][i], axis=1).reshape(-1, 64, 64).astype(bool)
        assert np.array_equal(masks[0], raw["mask"][i])
        assert not masks[1:].any()
        assert loaded["regions"][i] == [[str(raw["region_prompt"][i]), []]]
    raw["target_prompt"][:] = "a red car"
    corpus.save_arrays(tmp_path / "pictures-0000.npz", raw)
    with pytest.raises(ValueError, match="another version of the world"):
        regions.draw()


def test_batches_depend_on_the_step_alone_and_are_the_other_editors_edits(
    draw: recipe.RegionBatches, edits: corpus.Corpus, zoo: Path
) -> None:
    assert all(torch.equal(v, draw(3)[k]) for k, v in draw(3).items())
    assert not torch.equal(draw(3)["source"], draw(4)["source"])
    base = diffusion.load_parts("text_to_image", zoo)
    reference = diffusion.LatentBatches("instruct_pix2pix", base, edits.load(base.vae), 16)(5)["condition"]
    own = draw(5)["source"] / 0.5
    # The other recipe drops some sources, so only the rest is compared.
    dropped = (reference == 0).all(dim=(1, 2, 3))
    assert torch.allclose(own[~dropped], reference[~dropped])


def test_texts_and_tags_are_dropped_together_at_their_rate(draw: recipe.RegionBatches) -> None:
    empty = torch.from_numpy(draw.empty)
    batches = [draw(step) for step in range(60)]
    without = torch.cat([(b["tokens"] == empty).all(1) for b in batches])
    members = torch.cat([b["member"].any(dim=(1, 2)) for b in batches])
    words = torch.cat([b["words"].any(1) for b in batches])
    assert 0.07 < float(without.float().mean()) < 0.14
    assert not members[without].any()
    assert torch.equal(words, ~without)
    assert 0.6 < float(members.float().mean()) < 0.95  # the rest: no text, or a way back that says nothing


def test_a_batch_on_the_way_back_has_the_source_for_its_target(
    draw: recipe.RegionBatches, edits: corpus.Corpus
) -> None:
    raw = edits.images(0)
    # Examples that go forward have the edit's own text or none.
    tokens = {draw.forward["tokens"][i].tobytes() for i in range(EDITS)}
    back = total = 0
    for step in range(20):
        batch = draw(step)
        plain = (batch["target"] == batch["source"]).all(dim=3).all(dim=2).all(dim=1)
        back, total = back + int(plain.sum()), total + len(plain)
        for i in torch.nonzero(~plain).flatten().tolist():
            row = batch["tokens"][i].numpy().astype(np.int32)
            assert row.tobytes() in tokens or np.array_equal(row, draw.empty)
    assert 0.2 < back / total < 0.4
    assert len(raw["mask"]) == EDITS


def test_masks_are_the_union_of_the_regions_and_some_are_changed(draw: recipe.RegionBatches) -> None:
    plain = recipe.RegionBatches.__new__(recipe.RegionBatches)
    plain.__dict__.update(draw.__dict__, augment=MaskDropout(probability=0.0))
    changed = total = 0
    for step in range(20):
        batch, same = draw(step), plain(step)
        assert torch.equal(batch["mask"], batch["regions"].amax(1, keepdim=True))
        changed += int((batch["regions"] != same["regions"]).any(dim=3).any(dim=2).any(dim=1).sum())
        total += 16
    assert 0.1 < changed / total < 0.3

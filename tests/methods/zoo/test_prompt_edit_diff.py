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
from methods.zoo.corpus import encode
from methods.zoo.data import to_tensor
from methods.zoo.experiments import EXPERIMENTS
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


def test_every_experiment_starts_as_the_base(zoo: Path) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    torch.manual_seed(0)
    x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([10, 900]), torch.randn(2, 40, 128)
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 10:30, 20:50] = 1
    source = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        expected = base.unet.eval()(x, t, context).sample
        for name in EXPERIMENTS:
            network = recipe.start(name, base).eval()
            assert torch.allclose(
                expected, network(x, t, context, mask, source, masked_source=source), atol=1e-5
            )


def test_an_experiment_is_what_its_name_says(zoo: Path) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    networks = {name: recipe.start(name, base) for name in EXPERIMENTS}
    for name, network in networks.items():
        assert (network.encoder is None) == ("no_mask_encoder" in name)
        assert (network.prompts is None) == ("no_prompt_tokens" in name)
        assert (len(network.routings) == 0) == ("no_cross_attention" in name)
        hidden = {"no_source_latents": "none", "no_edge_pixels": "cells"}
        assert network.hides == next((v for k, v in hidden.items() if name.endswith(k)), "pixels")
        if network.prompts is not None:
            assert (network.prompts.content is not None) == ("token_content" in name)
            assert (network.prompts.time is not None) == ("_time" in name)
            expected = int(name.rpartition("_")[2]) if "_count_" in name else 4
            assert network.prompts.count == expected
    plain = {n for n, e in EXPERIMENTS.items() if e.weighting == "terms" and e.mask_dropout}
    assert set(EXPERIMENTS) - plain == {"prompt_edit_diff_equal_weights", "prompt_edit_diff_no_mask_dropout"}


@pytest.mark.parametrize(
    "ending", ["token_content", "token_time", "token_content_time", "shuffled_token_content"]
)
def test_a_warm_start_is_the_same_function(zoo: Path, draw: recipe.RegionBatches, ending: str) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    trained, parts = recipe.load(VARIANTS[0], zoo)
    # A training of two steps opens no gate, so all weights are moved.
    torch.manual_seed(1)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.02 * torch.randn_like(p))
    network = recipe.start(f"prompt_edit_diff_{ending}", base).eval()
    recipe.continue_from(network, trained)
    batch = draw(2)
    conditions = {name: batch[name] for name in ("mask", "source", "regions", "member", "words")}
    conditions["masked_source"] = batch["source"]
    t = torch.full((len(batch["source"]),), 400)
    with torch.no_grad():
        text = parts.text_encoder(batch["tokens"]).last_hidden_state
        expected = trained.eval()(batch["target"], t, text, **conditions)
        assert torch.allclose(network(batch["target"], t, text, **conditions), expected, atol=1e-5)


def test_a_warm_start_takes_the_weights_that_fit(zoo: Path) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    trained, _ = recipe.load(VARIANTS[0], zoo)
    with torch.no_grad():
        trained.unet.conv_in.weight.add_(1)
        trained.unet.conv_in.weight[:, 4:].add_(5)
    narrow = recipe.start("prompt_edit_diff_no_source_latents", base)
    recipe.continue_from(narrow, trained)
    assert torch.equal(narrow.unet.conv_in.weight, trained.unet.conv_in.weight[:, :4])
    single = recipe.start("prompt_edit_diff_token_content_time_count_1", base)
    recipe.continue_from(single, trained)
    assert single.prompts is not None and trained.prompts is not None  # noqa: PT018
    assert single.prompts.learned.shape == (1, 128)
    assert torch.equal(single.prompts.mlp_in.weight, trained.prompts.mlp_in.weight)


def test_a_variant_starts_warm_from_its_method_with_a_seed_of_its_own(zoo: Path) -> None:
    name, work = "prompt_edit_diff_token_content", zoo.parent / "work"
    budget = replace(BUDGET, samples=16)
    cards, weights = {}, {}
    for seed in (0, 1):
        task = Job(
            WORLD,
            work / f"{name}-{seed}",
            budget=budget,
            corpus=EDITS,
            machine=CPU,
            root=zoo,
            warm=True,
            seed=seed,
        )
        folder = getattr(recipe, name)(task)
        assert folder.name == (f"{name}_seed1" if seed else name)
        cards[seed] = json.loads((folder / "card.json").read_text())
        weights[seed] = recipe.load(folder.name, zoo)[0].state_dict()
    # The stages of the method, then its own.
    method = json.loads((zoo / VARIANTS[0] / "card.json").read_text())
    for seed, card in cards.items():
        assert card["stages"][:-1] == method["stages"]
        assert card["stages"][-1]["samples"] == 16
        assert card["stages"][-1]["options"]["seed"] == seed
        figures = card["stages"][-1]["training_figures"]
        assert 0 < figures["outside_weight_per_cell"] < figures["outside_weight_total"] < 0.1
    assert any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_masked_sources_are_those_of_the_batch_s_own_masks(
    zoo: Path, edits: corpus.Corpus, draw: recipe.RegionBatches
) -> None:
    vae = diffusion.load_parts("text_to_image", zoo).vae
    batches = recipe.RegionBatches.__new__(recipe.RegionBatches)
    batches.__dict__.update(
        draw.__dict__,
        augment=MaskDropout(probability=0.5),
        masked_sources=recipe.MaskedSources(edits, vae, CPU),
    )
    images = edits.images(0)
    for step in range(3):
        batch = batches(step)
        rows = recipe.epoch_rows(step, 16, EDITS, 12)
        # Every example, changed or not, encoded anew and alone.
        for i, row in enumerate(rows):
            gray = to_tensor(images["source"][row : row + 1]) * (1 - batch["mask"][i : i + 1])
            expected = encode(vae, gray)[0] * 0.5
            # The corpus holds half precision.
            assert torch.allclose(batch["masked_source"][i], expected, atol=4e-3)


def test_a_seed_chooses_the_order_and_seed_0_is_the_other_editors(draw: recipe.RegionBatches) -> None:
    other = recipe.RegionBatches.__new__(recipe.RegionBatches)
    other.__dict__.update(draw.__dict__, seed=1)
    assert torch.equal(other(3)["source"], other(3)["source"])
    assert not torch.equal(other(3)["source"], draw(3)["source"])
    # Each epoch of either seed shows every edit once.
    for batches in (draw, other):
        sources = torch.cat([batches(step)["source"] for step in range(3)]).flatten(1)
        assert len(torch.unique(sources, dim=0)) == EDITS


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

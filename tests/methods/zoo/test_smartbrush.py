"""The recipe of SmartBrush, end to end on the shipped base: trained for a moment, saved, loaded, used and measured."""

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
from bench.images import mask_array, to_array
from methods.smartbrush.method import SmartBrush
from methods.smartbrush.precision import BOX, PRECISIONS, changed_inside
from methods.training import Machine
from methods.zoo import corpus, diffusion, manifest, thresholds
from methods.zoo import smartbrush as recipe
from methods.zoo.autoencoder import load_vae
from methods.zoo.data import epoch_rows
from methods.zoo.job import BASE, Job
from methods.zoo.recipes import recipe_samples
from methods.zoo.regions import Regions, unpacked
from methods.zoo.text import tokenize
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
def draw(edits: corpus.Corpus) -> recipe.BrushBatches:
    base = diffusion.load_parts(BASE)
    regions = Regions(edits).load()
    objects = recipe.objects_of(edits, regions["masks"])
    return recipe.BrushBatches(base.tokenizer, 0.5, edits.load(base.vae), regions, objects, 24)


@pytest.fixture(scope="module")
def root(edits: corpus.Corpus) -> Path:
    # The shipped base, and a network that has seen a few examples.
    work = edits.folder.parent
    root = work.parent / "checkpoints"
    for name in (BASE, "autoencoder", "tokenizer"):
        shutil.copytree(manifest.CHECKPOINTS / name, root / name)
    manifest.write_manifest(root)
    budget = replace(recipe.BUDGET, samples=32, batch=16, warmup=0)
    recipe.smartbrush(Job(WORLD, work / recipe.NAME, budget=budget, corpus=EDITS, machine=CPU, root=root))
    return root


def test_the_objects_of_a_corpus_are_what_its_edits_change(edits: corpus.Corpus) -> None:
    masks = Regions(edits).load()["masks"]
    objects = unpacked(recipe.objects_of(edits, masks))
    for row in range(EDITS):
        case = WORLD.case(row)
        assert case.truth is not None
        areas = [mask_array(region.mask) for region in case.request.regions]
        areas = areas or [mask_array(case.request.needed_mask)]
        for number, area in enumerate(areas):
            expected = changed_inside(to_array(case.request.source), to_array(case.truth), area)
            assert np.array_equal(objects[row, number], expected)
        assert not objects[row, len(areas) :].any()


def test_batches_hold_every_kind_of_example(draw: recipe.BrushBatches, edits: corpus.Corpus) -> None:
    tokenizer = diffusion.load_parts(BASE).tokenizer
    empty = tokenize(tokenizer, [""])[0]
    z = {name: draw.data[name].astype(np.float32) * np.float32(0.5) for name in ("z_source", "z_truth")}
    counts = {"whole": 0, "empty": 0, "source": 0, "truth": 0}
    precisions = set()
    for step in range(8):
        batch = draw(step)
        rows = epoch_rows(step, 24, EDITS, 12)
        for i, row in enumerate(rows):
            cells, objects = batch["cells"][i, 0], batch["objects"][i, 0]
            assert bool((cells >= objects).all())
            assert objects.any()
            # The mask's share of a cell is more than zero exactly where it touches the cell.
            assert torch.equal(batch["coverage"][i, 0] > 0, cells > 0)
            # The object shows the source or the ground truth.
            shown = batch["x0"][i][:, objects > 0]
            where = objects.numpy() > 0
            kinds = [n for n in ("z_source", "z_truth") if np.allclose(shown, z[n][row][:, where])]
            assert kinds
            counts[kinds[0].removeprefix("z_")] += 1
            counts["whole"] += not batch["has_object"][i]
            counts["empty"] += bool(torch.equal(batch["tokens"][i], empty))
            precisions.add(int(batch["precision"][i]))
            if not batch["has_object"][i]:
                assert batch["precision"][i] == BOX
                assert cells.all()
    assert min(counts.values()) > 8, counts
    assert precisions == set(range(PRECISIONS))
    # A step always has the same batch.
    first, again = draw(3), draw(3)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("precision", range(1, PRECISIONS))
def test_a_loose_mask_holds_its_region_and_more(precision: int) -> None:
    region = np.zeros((64, 64), np.bool_)
    region[20:30, 15:40] = True
    masks = [recipe.loose_mask(region, precision, 3, np.random.default_rng(seed)) for seed in range(20)]
    assert all((mask >= region).all() and mask.sum() > region.sum() for mask in masks)
    box = np.zeros_like(region)
    box[17:33, 12:43] = True
    # A box is always the same. Outlines drawn by hand have blobs at different places.
    different = {mask.tobytes() for mask in masks}
    assert different == {box.tobytes()} if precision == BOX else len(different) > 5


def test_a_local_text_describes_the_region_that_is_filled(draw: recipe.BrushBatches) -> None:
    words = {tuple(row.tolist()): text for text, row in zip(draw.place, draw.tokens, strict=True)}
    seen = set()
    for step in range(6):
        batch = draw(step)
        for i, row in enumerate(epoch_rows(step, 24, EDITS, 12)):
            text = words[tuple(batch["tokens"][i].int().tolist())]
            case = WORLD.case(int(row)).request
            allowed = {"", case.source_prompt, case.target_prompt, case.region_prompt}
            assert text in allowed | {region.prompt for region in case.regions}
            for number, region in enumerate(case.regions):
                if text == region.prompt != case.region_prompt:
                    # One region is filled: the object lies in it.
                    area = unpacked(draw.objects[row : row + 1])[0, number]
                    expected = torch.nn.functional.max_pool2d(torch.from_numpy(area)[None].float(), 4)
                    assert torch.equal(batch["objects"][i], expected)
                    seen.add(text)
    assert seen


def test_every_parameter_learns(draw: recipe.BrushBatches) -> None:
    base = diffusion.load_parts(BASE)
    parts = recipe.start(base)
    batch = draw(0)
    text = parts.text_encoder(batch["tokens"]).last_hidden_state
    t = torch.randint(0, 1000, (24,))
    v, logits = recipe.predict(parts.unet, batch["x0"], batch["coverage"], t, text, batch["precision"])
    noise = torch.randn_like(batch["x0"])
    recipe.brush_loss(
        v, logits, batch["x0"], noise, torch.rand(24), batch["cells"], batch["objects"], batch["has_object"]
    ).value.backward()
    for name, parameter in parts.unet.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_checkpoint_is_a_difference_from_the_base(root: Path) -> None:
    manifest.verify(recipe.NAME, root)
    assert set(manifest.closure(recipe.NAME, root)) == {recipe.NAME, BASE, "autoencoder", "tokenizer"}
    size = sum(path.stat().st_size for path in (root / recipe.NAME).rglob("*.safetensors"))
    assert 5.0e6 < size < 6.2e6
    card = json.loads((root / recipe.NAME / "card.json").read_text())
    assert [stage["samples"] for stage in card["stages"]] == [32, 16]
    assert {"object", "background", "dice_loss"} <= set(card["stages"][0]["training_figures"])
    unet = diffusion.load_parts(recipe.NAME, root).unet
    assert unet.config["in_channels"] == 5
    assert unet.class_embedding.weight.any()  # type: ignore[union-attr]


def test_the_method_edits_with_the_checkpoint(root: Path) -> None:
    options = SmartBrush.Options(**{**SmartBrush.PRESETS["mini"], "weights": str(root / recipe.NAME)})
    assert SmartBrush.problems(options) == []
    method = SmartBrush(options, Runtime())
    assert method.native_size == 64
    cases = [WORLD.case(-1), WORLD.case(-2)]
    edited = method.edit([replace(case.request, seed=i) for i, case in enumerate(cases)])
    # These are the edits of the sample grids and thresholds.
    pipeline = diffusion.pipeline(BASE, diffusion.load_parts(recipe.NAME, root))
    assert [image.tobytes() for image in edited] == [
        image.tobytes() for image in recipe.edit(pipeline, cases)
    ]


def test_more_training_starts_from_the_saved_network(
    root: Path, edits: corpus.Corpus, tmp_path: Path
) -> None:
    again = tmp_path / "checkpoints"
    shutil.copytree(root, again)
    budget = replace(diffusion.LOW_RANK, samples=16, batch=16, learning_rate=1e-6)
    recipe.smartbrush(
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
    before, after = (diffusion.load_parts(recipe.NAME, folder).unet.state_dict() for folder in (root, again))
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=2e-3), name
    assert len(json.loads((again / recipe.NAME / "card.json").read_text())["stages"]) == 3


def test_coarse_masks_lie_around_the_object_and_errors_beside_it_count() -> None:
    cases = recipe.coarse_cases(WORLD, 6)
    truths = [case.truth for case in cases]
    sources = [case.request.source for case in cases]
    for case in cases:
        assert not case.request.regions
        assert recipe.beside_object(case).sum() > 20
    # The ideal edit and the source have no error there, up to the levels that count as no change.
    assert recipe.rmse_beside(sources, cases) == 0
    assert recipe.rmse_beside(truths, cases) < 8 / 255  # type: ignore[arg-type]
    # Inverted pictures have the error of the source's own distance from its inverse.
    inverted = [image.point(lambda value: 255 - value) for image in sources]
    levels = [
        (255 - 2.0 * to_array(image)[recipe.beside_object(case)]) / 255
        for image, case in zip(sources, cases, strict=True)
    ]
    expected = np.sqrt((np.concatenate(levels) ** 2).mean())
    assert recipe.rmse_beside(inverted, cases) == pytest.approx(expected)


def test_the_check_has_a_row_for_shape_and_for_the_background(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Editors whose answers are known: SmartBrush returns the source, and its rival inverts it.
    monkeypatch.setattr(recipe, "entry", lambda name, folder: folder / name)
    monkeypatch.setattr(diffusion, "load_parts", lambda name, folder: name)
    monkeypatch.setattr(diffusion, "pipeline", lambda kind, parts: parts)
    monkeypatch.setattr(recipe, "edit", lambda pipeline, cases: [case.request.source for case in cases])
    monkeypatch.setattr(
        recipe.grids,
        "edit",
        lambda kind, pipeline, cases: [c.request.source.point(lambda v: 255 - v) for c in cases],
    )
    monkeypatch.setattr(recipe, "mean_dice", lambda pipeline, cases: 0.79)
    monkeypatch.setattr(thresholds, "judge_levels", lambda *_, **__: [])
    error, dice = recipe.check_smartbrush(WORLD, root, 8)
    assert (error.figure, error.threshold, error.passed) == (0, 0.5, True)
    assert (dice.figure, dice.threshold, dice.passed) == (0.79, 0.8, False)
    assert recipe_samples(recipe.NAME) == {recipe.NAME: 200_000}


def test_dice_counts_the_cells_of_the_ideal_object(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = diffusion.pipeline(BASE, diffusion.load_parts(recipe.NAME, root))
    cases = recipe.coarse_cases(WORLD, 4)
    fill = recipe.sampler.fill
    few = replace(recipe.SETTINGS, steps=2, guidance=1.0)
    # A sampler that fills exactly the ideal object, and one that fills nothing of it.
    for inside, expected in ((True, 1.0), (False, 0.0)):
        ideal = np.stack(
            [~recipe.beside_object(case) & mask_array(case.request.needed_mask) for case in cases]
        )
        cells = torch.nn.functional.max_pool2d(torch.from_numpy(ideal).float()[:, None], 4)
        monkeypatch.setattr(
            recipe.sampler,
            "fill",
            lambda *a, c=cells if inside else 1 - cells: recipe.sampler.Filled(a[1], c),
        )
        assert recipe.mean_dice(pipeline, cases) == pytest.approx(expected)
    monkeypatch.setattr(recipe.sampler, "fill", fill)
    monkeypatch.setattr(recipe, "SETTINGS", few)
    assert 0 < recipe.mean_dice(pipeline, cases) < 1

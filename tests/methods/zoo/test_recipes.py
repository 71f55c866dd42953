"""Every recipe, end to end, on a budget of seconds: trained, saved in its own layout, loaded and used."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from methods import low_rank
from methods.pipelines import save_pipeline
from methods.training import Machine
from methods.zoo import (
    autoencoder,
    classifier,
    classifier_recipe,
    clip,
    corpus,
    data,
    diffusion,
    glide,
    job,
    manifest,
    prompt_edit_diff,
    publish,
    recipes,
    thresholds,
)
from methods.zoo.job import Job
from methods.zoo.text import build_tokenizer, tokenize
from protocols.world.world import MiniWorld

CPU = Machine(precision="float32")
STAGES = ("decoder", "encoder")
# The checkpoints of these recipes; the stages' go on with the autoencoder's.
NAMES = [name for name, target in recipes.RECIPES.items() if "publish" in target and name not in STAGES]
WORLD = MiniWorld()


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    # Corpora of 96 edits instead of 2,000, and figures from 40 pictures instead of 1,000.
    patch = pytest.MonkeyPatch()
    patch.setattr(job, "HELD_OUT", 40)
    for module in (corpus, clip):
        patch.setattr(module, "CHUNK", 96)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A zoo whose every checkpoint has seen a few dozen examples.
    root = tmp_path_factory.mktemp("zoo") / "checkpoints"
    work = root.parent / "work"
    few = {"machine": CPU, "root": root}
    publish.autoencoder(
        Job(WORLD, work / "autoencoder", budget=replace(autoencoder.BUDGET, samples=48), **few)
    )
    publish.decoder(
        Job(WORLD, work / "decoder", budget=replace(autoencoder.DECODER_BUDGET, samples=32), **few)
    )
    publish.reader(Job(WORLD, work / "reader", budget=replace(classifier_recipe.BUDGET, samples=128), **few))
    for kind in ("text_to_image", "sd_inpainting", "instruct_pix2pix", "controlnet_inpaint"):
        budget = replace(diffusion.BUDGETS[kind], samples=64, batch=16)
        getattr(publish, kind)(Job(WORLD, work / kind, budget=budget, corpus=96, **few))
    for name in ("clip", "clip_guide"):
        budget = replace(publish.BUDGETS[name], samples=96, batch=48)
        getattr(publish, name)(Job(WORLD, work / name, budget=budget, corpus=96, **few))
    return root


def test_the_table_names_functions_that_exist() -> None:
    for target in recipes.RECIPES.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_checkpoint_has_a_card_and_is_in_the_manifest(zoo: Path) -> None:
    for name in NAMES:
        manifest.verify(name, zoo)
        card = json.loads((zoo / name / "card.json").read_text())
        assert card["stages"][0]["samples"] > 0
        assert card["stages"][0]["machine"]
        assert card["parameters"] > 10_000
    assert json.loads((zoo / "autoencoder" / "card.json").read_text())["held_out"]["psnr_db"] > 0


@pytest.mark.parametrize("kind", ["sd_inpainting", "instruct_pix2pix"])
def test_an_editor_is_stored_as_its_difference_from_the_base(zoo: Path, kind: str) -> None:
    # Trained whole, cut, and trained on: a card of two stages, a file of half the size, the base in its closure.
    card = json.loads((zoo / kind / "card.json").read_text())
    whole, second = card["stages"]
    assert second["samples"] < whole["samples"]
    assert "low rank from text_to_image" in card["stored"]
    assert "text_to_image" in manifest.closure(kind, zoo)
    # Half the size of the base.
    name = "unet/diffusion_pytorch_model.safetensors"
    sizes = [(zoo / folder / name).stat().st_size for folder in (kind, "text_to_image")]
    assert 0.5 < sizes[0] / sizes[1] < 0.65
    base, edited = diffusion.load_parts("text_to_image", zoo), diffusion.load_parts(kind, zoo)
    weight = "mid_block.resnets.0.conv1.weight"
    # The difference of a weight has the rank of its factors.
    change = (edited.unet.state_dict()[weight] - base.unet.state_dict()[weight]).flatten(1)
    values = torch.linalg.svdvals(change)
    rank = low_rank.ranked(change.shape, diffusion.SHARE)
    assert values[rank] < 1e-4 * values[0] < values[rank - 1]


def test_weights_on_disk_are_half_precision_safetensors(zoo: Path) -> None:
    from safetensors.torch import load_file

    files = list(zoo.rglob("*.safetensors"))
    assert len(files) >= 8
    for file in files:
        dtypes = {v.dtype for v in load_file(file).values() if v.is_floating_point()}
        assert dtypes == {torch.float16}, file
    assert not list(zoo.rglob("*.bin")) + list(zoo.rglob("*.pt"))


@pytest.mark.parametrize("kind", ["text_to_image", "sd_inpainting", "instruct_pix2pix"])
def test_a_saved_model_runs_in_its_pipeline_and_repeats_itself(zoo: Path, kind: str) -> None:
    # The same seeds give the same pixels; the size is the world's.
    from methods.zoo.grids import edit, generate

    loaded = diffusion.pipeline(kind, diffusion.load_parts(kind, zoo))
    cases = [WORLD.case(-1), WORLD.case(-2)]
    images = (
        generate(loaded, ["a red car on a beach"]) if kind == "text_to_image" else edit(kind, loaded, cases)
    )
    assert all(image.size == (64, 64) for image in images)
    again = (
        generate(loaded, ["a red car on a beach"]) if kind == "text_to_image" else edit(kind, loaded, cases)
    )
    assert all(a.tobytes() == b.tobytes() for a, b in zip(images, again, strict=True))


@pytest.mark.parametrize(("kind", "channels"), [("sd_inpainting", 9), ("instruct_pix2pix", 8)])
def test_an_editor_starts_as_its_base(zoo: Path, kind: str, channels: int) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    wide = diffusion.start(kind, base.tokenizer, base.vae, base)
    torch.manual_seed(0)
    x, extra = torch.randn(2, 4, 16, 16), torch.randn(2, channels - 4, 16, 16)
    t, context = torch.tensor([10, 900]), torch.randn(2, 40, 128)
    with torch.no_grad():
        expected = base.unet.eval()(x, t, context).sample
        prediction = wide.unet.eval()(torch.cat([x, extra], 1), t, context).sample
    assert torch.allclose(expected, prediction, atol=1e-6)


def test_every_parameter_of_an_editor_learns(zoo: Path) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    parts = diffusion.start("sd_inpainting", base.tokenizer, base.vae, base)
    edits = corpus.Corpus(WORLD, zoo.parent / "work" / "corpus", 96)
    batch = diffusion.LatentBatches("sd_inpainting", parts, edits.load(base.vae), 8)(0)
    context = parts.text_encoder(batch["tokens"]).last_hidden_state
    out = parts.unet(
        torch.cat([batch["target"], batch["condition"]], 1), torch.full((8,), 500), context
    ).sample
    # Every parameter gets a gradient.
    out.square().mean().backward()
    for name, module in parts.learning.items():
        for key, p in module.named_parameters():
            assert p.grad is not None, f"{name}.{key}"
            assert torch.isfinite(p.grad).all(), f"{name}.{key}"
    # What an editor adds to its base starts at zero and must still be reached.
    added = parts.unet.conv_in.weight.grad[:, 4:]
    assert (added.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_v_prediction_and_the_sampler_agree(zoo: Path) -> None:
    # A perfect v-predictor, given the truth, must bring the sampler to the truth from pure noise.
    scheduler = diffusion.build_scheduler()
    # Ten steps from pure noise.
    scheduler.set_timesteps(10)
    x0 = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    alphas = scheduler.alphas_cumprod
    assert float(alphas[-1]) < 1e-6  # the last step is pure noise
    for t in scheduler.timesteps:
        a, s = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        noise = (x - a * x0) / s
        x = scheduler.step(a * noise - s * x0, t, x).prev_sample
    assert torch.allclose(x, x0, atol=1e-4)


def test_batches_depend_on_the_step_alone_and_drop_texts_at_their_rate(zoo: Path) -> None:
    base = diffusion.load_parts("text_to_image", zoo)
    edits = corpus.Corpus(WORLD, zoo.parent / "work" / "corpus", 96).load(base.vae)
    for kind in ("text_to_image", "sd_inpainting", "instruct_pix2pix"):
        draw = diffusion.LatentBatches(kind, base, edits, 48)
        assert all(torch.equal(v, draw(3)[k]) for k, v in draw(3).items())
        assert not torch.equal(draw(3)["target"], draw(4)["target"])
        empty = torch.cat([(draw(step)["tokens"] == draw.empty).all(1) for step in range(40)]).float().mean()
        assert 0.07 < float(empty) < 0.14
    image_free = [
        (diffusion.LatentBatches("instruct_pix2pix", base, edits, 48)(step)["condition"] == 0).all(
            dim=(1, 2, 3)
        )
        for step in range(40)
    ]
    assert 0.07 < float(torch.cat(image_free).float().mean()) < 0.14


def test_a_corpus_is_encoded_as_the_pipelines_encode(zoo: Path) -> None:
    vae = autoencoder.load_vae(zoo)
    edits = corpus.Corpus(WORLD, zoo.parent / "work" / "corpus", 96)
    loaded, raw = edits.load(vae), edits.images(0)
    assert len(loaded["target_prompt"]) == 96
    case = WORLD.case(0)
    assert loaded["target_prompt"][0] == case.request.target_prompt
    assert np.array_equal(raw["truth"][0], np.asarray(case.truth))
    # Latent masks cover the pixel masks.
    cells = loaded["cells"][0].repeat(4, 0).repeat(4, 1)
    assert (cells | ~raw["mask"][0]).all()  # the latent mask covers the whole pixel mask
    masked = raw["source"][0].astype(np.float32) / 127.5 - 1
    # The mask's own pixels alone: the rest of its cells is to be kept, and so to be seen.
    masked[raw["mask"][0]] = 0
    with torch.no_grad():
        z = vae.encode(torch.from_numpy(masked).permute(2, 0, 1)[None]).latent_dist.mean[0]
    assert torch.allclose(z, torch.from_numpy(loaded["z_masked"][0].astype(np.float32)), atol=0.02)


def test_latents_have_unit_variance_after_scaling(zoo: Path) -> None:
    vae = autoencoder.load_vae(zoo)
    x = data.to_tensor(np.stack([WORLD.picture(-500 - i) for i in range(64)]))
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean * vae.config.scaling_factor
    assert float(z.std()) == pytest.approx(1, abs=0.1)


def test_conversions_are_exact() -> None:
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    assert np.array_equal(data.to_images(data.to_tensor(pictures)), pictures)
    x = data.to_tensor(pictures)
    assert x.min() == -1
    assert x.max() == 1


def test_a_reader_learns_and_reads_alike_alone_and_in_a_batch(zoo: Path) -> None:
    model = classifier.load(zoo / "reader")
    renders = [WORLD.labelled(-1 - i) for i in range(6)]
    pictures, regions = np.stack([d[0] for d in renders]), np.stack([d[1] for d in renders])
    # Probabilities sum to one and do not depend on the batch.
    together = model.read(pictures, regions)
    for i in range(6):
        [alone] = model.read(pictures[i : i + 1], regions[i : i + 1])
        for name, chances in alone.items():
            assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
            assert chances == pytest.approx(together[i][name], abs=1e-5)


def test_degrading_keeps_the_range_and_some_of_the_pictures() -> None:
    x = data.to_tensor(np.stack([WORLD.picture(i) for i in range(200)]))
    out = classifier_recipe.degrade(x, torch.Generator().manual_seed(0))
    assert out.min() >= -1
    assert out.max() <= 1
    same = (out == x).all(dim=(1, 2, 3)).float().mean()
    # Without an autoencoder 38 % stay as they are; 200 draws have a standard error of 3.4 points.
    assert 0.28 < float(same) < 0.48


def test_the_clip_is_open_clips_own(zoo: Path) -> None:
    import open_clip

    name = f"local-dir:{zoo / 'clip'}"
    # The saved folder, loaded by open_clip itself.
    model = open_clip.create_model(name, precision="fp32").eval()
    tokens = open_clip.get_tokenizer(name)(["a red car on a beach"])
    x = data.to_tensor(WORLD.picture(-1)[None])
    loaded = clip.EmbeddedClip(zoo / "clip")
    with torch.no_grad():
        assert torch.allclose(loaded.images(WORLD.picture(-1)[None]), model.encode_image(x, normalize=True))
        assert torch.allclose(
            loaded.texts(["a red car on a beach"]), model.encode_text(tokens, normalize=True)
        )


def test_zoo_check_reports_each_gate_and_what_is_missing(zoo: Path, tmp_path: Path) -> None:
    checks = thresholds.check(WORLD, zoo, cases=8)
    expected = {*NAMES, *thresholds._BASES}
    measured = [gate for gate in checks if gate.name in expected]
    assert {gate.name for gate in measured} == expected
    assert all(gate.figure is not None and np.isfinite(gate.figure) for gate in measured)
    assert not all(gate.passed for gate in measured)  # after a few dozen examples nothing can be good
    # The total size, and the checkpoints that are missing.
    [size] = [gate for gate in checks if gate.name == "all"]
    assert size.figure == pytest.approx(
        sum(path.stat().st_size for path in zoo.rglob("*") if path.is_file()) / 1e6
    )
    rest = [gate for gate in checks if gate.name not in {*expected, "all"}]
    assert {gate.name for gate in rest} == set(thresholds._MEASURES) - expected
    assert all(gate.figure is None and not gate.passed for gate in rest)
    (tmp_path / "checkpoints").mkdir()
    missing = thresholds.check(WORLD, tmp_path / "checkpoints")
    assert all(gate.figure is None and not gate.passed and "train" in gate.detail for gate in missing)


def test_sample_grids_show_every_kind(zoo: Path, tmp_path: Path) -> None:
    from methods.zoo.grids import sample_grid

    for kind in ("text_to_image", "sd_inpainting"):
        pipeline = diffusion.pipeline(kind, diffusion.load_parts(kind, zoo))
        sample_grid(kind, pipeline, WORLD, tmp_path / f"{kind}.png")
        with Image.open(tmp_path / f"{kind}.png") as sheet:
            assert sheet.width >= 12 * 128


def test_more_training_of_the_decoder_leaves_the_latents_alone(zoo: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(zoo, tmp_path / "checkpoints")
    root = tmp_path / "checkpoints"
    before = autoencoder.load_vae(root)
    budget = replace(autoencoder.DECODER_BUDGET, samples=32)
    publish.decoder(Job(WORLD, tmp_path / "work", budget=budget, machine=CPU, root=root))
    after = autoencoder.load_vae(root)
    assert corpus.fingerprint(before) == corpus.fingerprint(after)
    assert after.config.scaling_factor == before.config.scaling_factor
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    # The card has both stages.
    stages = json.loads((root / "autoencoder" / "card.json").read_text())["stages"]
    assert [stage["recipe"] for stage in stages] == ["autoencoder", "decoder"]


@pytest.mark.parametrize("name", ["reader", "clip", "text_to_image"])
def test_a_warm_start_begins_where_the_checkpoint_is(zoo: Path, tmp_path: Path, name: str) -> None:
    # One step at a vanishing rate must give the checkpoint back.
    import shutil

    from safetensors.torch import load_file

    shutil.copytree(zoo, tmp_path / "checkpoints")
    root = tmp_path / "checkpoints"
    batch = {"reader": 8, "clip": 12, "text_to_image": 8}[name]
    budget = replace(publish.BUDGETS[name], samples=batch, batch=batch, learning_rate=1e-12, warmup=0)
    extra = {} if name == "reader" else {"corpus": 96}
    getattr(publish, name)(
        Job(
            WORLD,
            zoo.parent / "work" / f"warm-{name}",
            budget=budget,
            machine=CPU,
            root=root,
            warm=True,
            **extra,
        )
    )
    for file in (zoo / name).rglob("*.safetensors"):
        old, new = load_file(file), load_file(root / name / file.relative_to(zoo / name))
        for key, value in old.items():
            if "running_" not in key and "num_batches" not in key:
                assert torch.allclose(value.float(), new[key].float(), atol=1e-3), key
    for config in (root / name).rglob("config.json"):
        assert "_name_or_path" not in json.loads(config.read_text())  # where it was loaded from: a path


def test_editors_follow_a_base_that_learned_more_words(tmp_path: Path) -> None:
    """Old prompts mean the same, and what the base learned is added to an editor."""
    root = tmp_path / "checkpoints"
    names = ("text_to_image", "sd_inpainting", "prompt_edit_diff", "glide", "tokenizer", "autoencoder")
    for name in names:
        shutil.copytree(manifest.CHECKPOINTS / name, root / name)
    before = {kind: diffusion.load_parts(kind, root) for kind in names[:2]}
    glide_before = glide.load(root / "glide" / "base").eval()
    # The base again, with more words and one changed weight.
    tokenizer = build_tokenizer([*MiniWorld((1, 2, 3)).words(), "zebra"])
    base = diffusion.start("text_to_image", tokenizer, before["text_to_image"].vae, before["text_to_image"])
    with torch.no_grad():
        base.unet.conv_out.weight += 1
        base.unet.mid_block.resnets[0].conv1.weight += 1
    save_pipeline(root / "text_to_image", diffusion.pipeline("text_to_image", base), shared=publish.SHARED)
    tokenizer.save_pretrained(str(root / "tokenizer"))
    publish.follow_base(root, len(tokenizer))

    editor, old = diffusion.load_parts("sd_inpainting", root), before["sd_inpainting"]
    text = ["a photo of a woman wearing a hat"]
    states = [
        parts.text_encoder.eval()(tokenize(parts.tokenizer, text)).last_hidden_state
        for parts in (old, editor)
    ]
    assert torch.allclose(*states, atol=2e-3)
    name = "mid_block.resnets.0.conv1.weight"
    moved = editor.unet.state_dict()[name] - old.unet.state_dict()[name]
    assert torch.allclose(moved, torch.ones(()), atol=2e-3)
    assert len(editor.tokenizer) == editor.text_encoder.config.vocab_size > len(old.tokenizer)
    # PromptEditDiff's UNet lies within its own network.
    prompt_edit_diff.load("prompt_edit_diff", root)
    wider = glide.load(root / "glide" / "base").eval()
    assert wider.config.vocabulary == len(tokenizer)
    ids = torch.tensor([[5, 300]])
    assert torch.equal(wider.token_embedding(ids), glide_before.token_embedding(ids))


def test_no_shipped_configuration_names_a_path() -> None:
    configs = list(manifest.CHECKPOINTS.rglob("config.json"))
    assert len(configs) > 10
    for config in configs:
        assert "_name_or_path" not in json.loads(config.read_text()), config


def test_a_corpus_of_another_world_is_refused(tmp_path: Path) -> None:
    older = MiniWorld()
    older.version = "0"
    corpus.Corpus(older, tmp_path, 96).render()
    with pytest.raises(ValueError, match="not those that the world draws now"):
        corpus.Corpus(WORLD, tmp_path, 96).render()


def test_an_encoder_that_looks_past_holes_leaves_the_decoder_and_whole_pictures_alone(
    zoo: Path, tmp_path: Path
) -> None:
    # A few steps bring masked pictures' latents nearer to the pictures' own, outside the hole.
    import shutil

    root = tmp_path / "checkpoints"
    shutil.copytree(zoo, root)
    before = autoencoder.load_vae(root)
    edits = corpus.Corpus(WORLD, tmp_path / "corpus", 96)
    edits.render()
    # A batch of sources with holes of whole cells.
    images, holes = edits.masked(16)(0)
    assert images.shape == (16, 64, 64, 3)
    # Whole cells: a cell is in the hole or it is not.
    assert (holes.reshape(16, 16, 4, 16, 4).any((2, 4)) == holes.reshape(16, 16, 4, 16, 4).all((2, 4))).all()
    keep = torch.from_numpy(~holes)[:, None]
    x = data.to_tensor(images)

    def gap(vae: object) -> float:
        whole, masked = corpus.encode(vae, x), corpus.encode(vae, x * keep)  # type: ignore[arg-type]
        outside = keep[:, :, ::4, ::4].expand_as(whole)
        return float(((masked - corpus.encode(before, x))[outside] ** 2).mean())

    budget = replace(autoencoder.ENCODER_BUDGET, samples=320, warmup=16)
    publish.encoder(Job(WORLD, tmp_path / "encoder", budget=budget, corpus=96, machine=CPU, root=root))
    after = autoencoder.load_vae(root)
    assert gap(after) < 0.9 * gap(before)
    # The decoder is unchanged.
    for (name, old), (_, new) in zip(
        before.decoder.named_parameters(), after.decoder.named_parameters(), strict=True
    ):
        assert torch.equal(old, new), name
    assert [s["recipe"] for s in json.loads((root / "autoencoder" / "card.json").read_text())["stages"]][
        -1
    ] == "encoder"


def test_batches_of_masked_pictures_are_sources_and_truths_in_turn(zoo: Path) -> None:
    edits = corpus.Corpus(WORLD, zoo.parent / "work" / "corpus", 96)
    draw = edits.masked(16)
    raw = edits.images(0)
    assert (draw(0)[0] == raw["source"][:16]).all()
    assert (draw(3)[0] == raw["truth"][48:64]).all()
    assert (draw(6)[0] == draw(0)[0]).all()  # one chunk: it begins again


def test_the_narrowed_posterior_keeps_its_means() -> None:
    torch.manual_seed(0)
    model = autoencoder.build().eval()
    x = data.to_tensor(np.stack([WORLD.picture(10_000_000 + i) for i in range(64)]))
    with torch.no_grad():
        before = model.encode(x).latent_dist
        autoencoder.narrow(model, WORLD)
        after = model.encode(x).latent_dist
    assert torch.equal(before.mean, after.mean)
    # One shift for all places: what varies between them still does.
    assert torch.allclose(
        before.logvar - after.logvar,
        (before.logvar - after.logvar)[0, 0, 0, 0].expand_as(after.logvar),
        atol=1e-4,
    )
    assert float(after.std.square().mean().sqrt() / after.mean.std()) == pytest.approx(
        autoencoder.SPREAD, rel=0.1
    )


def test_what_the_inpainting_pipeline_samples_is_the_mean_to_a_hundredth() -> None:
    # Of the shipped autoencoder: an editor's condition is sampled, and was trained on as a mean.
    vae = autoencoder.load_vae()
    x = data.to_tensor(np.stack([WORLD.picture(-1 - i) for i in range(16)]))
    with torch.no_grad():
        posterior = vae.encode(x).latent_dist
    sampled = posterior.sample(torch.Generator().manual_seed(0))
    # In standard deviations of a latent.
    error = (sampled - posterior.mean).square().mean().sqrt() * vae.config.scaling_factor
    assert 0 < float(error) < 0.02

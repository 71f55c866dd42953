"""Recipes of the classifier, the autoencoder, the latent diffusion models and the CLIPs.

Each trains (or resumes), measures on held-out renders, and saves a checkpoint with its card.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.files import atomic_file, write_atomic
from methods import low_rank
from methods.pipelines import save_pipeline
from methods.training import Budget, Weights
from methods.zoo import autoencoder as ae
from methods.zoo import classifier as cf
from methods.zoo import classifier_recipe as cr
from methods.zoo import clip as cl
from methods.zoo import diffusion as df
from methods.zoo import job
from methods.zoo.data import World
from methods.zoo.job import BASE, Job
from methods.zoo.text import SPECIAL, build_tokenizer, load_with_new_words, with_new_words

# The recipes' own budgets. PromptEditDiff has that of ``sd_inpainting``.
BUDGETS: dict[str, Budget] = {
    "reader": cr.BUDGET,
    "autoencoder": ae.BUDGET,
    "decoder": ae.DECODER_BUDGET,
    "encoder": ae.ENCODER_BUDGET,
    **df.BUDGETS,
    "clip": cl.BUDGET,
    "clip_guide": cl.GUIDE_BUDGET,
}

# GLIDE's weight with one row per word.
GLIDE_WORDS = "token_embedding.weight"
# Parts that the latent diffusion checkpoints take from other checkpoints.
SHARED: Mapping[str, str] = {"vae": "autoencoder", "tokenizer": "tokenizer"}
# The same for a ControlNet, whose other networks are the base's.
CONTROL_SHARED: Mapping[str, str] = {**SHARED, "unet": BASE, "text_encoder": BASE}


def reader(task: Job) -> Path:
    """Train the attribute classifier and save it with its card.

    Figures: accuracy per attribute on held-out renders, and on the edits of each level.
    """
    budget, folder = task.budget or cr.BUDGET, task.root / "reader"
    # Without an autoencoder, no training image passes one.
    has_vae = (task.root / "autoencoder").is_dir()
    vae = ae.load_vae(task.root, task.machine.device) if has_vae else None
    # A world may show more attributes than the saved classifier knows.
    start = cf.with_labels(cf.load(folder), task.world.labels()) if task.warm else None
    stage = len(job.stages_of(folder)) if task.warm else 0
    result = cr.run(task.world, task.work, budget, task.machine, task.report, vae, start, stage=stage)
    model = cf.ClassifierNetwork(task.world.labels() if start is None else start.labels)
    model.load_state_dict(result.weights["reader"])
    cf.save(folder, model.eval())
    # The figures are those of the saved weights, which have half precision.
    model = cf.load(folder)
    figures = {f"accuracy_{k}": v for k, v in cr.accuracy(model, task.world, 2 * job.HELD_OUT).items()}
    for level, world in task.world.by_level().items():
        edits = cr.edit_accuracy(model, world, job.HELD_OUT)
        figures |= {f"level_{level}_edits_{name}": value for name, value in edits.items()}
    return task.write_card(folder, result, budget, figures, warm=task.warm)


def autoencoder(task: Job) -> Path:
    """The autoencoder. Figure: mean PSNR of reconstructions of held-out renders, in dB."""
    budget, folder = task.budget or ae.BUDGET, task.root / "autoencoder"
    start = ae.load_vae(task.root) if task.warm else None
    result = ae.run(task.world, task.work, budget, task.machine, task.report, start)
    model = ae.build()
    model.load_state_dict(result.weights["vae"])
    model.eval()
    ae.narrow(model, task.world)
    # The pipelines multiply latents by this factor.
    model.register_to_config(scaling_factor=round(ae.scaled(model, task.world), 6))
    model.half().save_pretrained(str(folder))
    figures = task.figures(partial(_reconstruction, ae.load_vae(task.root)))
    return task.write_card(folder, result, budget, figures, warm=task.warm)


def _reconstruction(vae: Any, world: World) -> dict[str, float]:
    return {"psnr_db": ae.psnr(vae, world, job.HELD_OUT)}


def decoder(task: Job) -> Path:
    """More training of the autoencoder's decoder alone. The latents, and all models trained on them, stay valid."""
    budget, folder = task.budget or ae.DECODER_BUDGET, task.root / "autoencoder"
    model = ae.load_vae(task.root)
    result = ae.run_decoder(model, task.world, task.work, budget, task.machine, task.report)
    model.decoder.load_state_dict(result.weights["decoder"])
    model.post_quant_conv.load_state_dict(result.weights["post_quant_conv"])
    model.eval().half().save_pretrained(str(folder))
    figures = task.figures(partial(_reconstruction, ae.load_vae(task.root)))
    return task.write_card(folder, result, budget, figures, stage="decoder")


def encoder(task: Job) -> Path:
    """More training of the autoencoder's encoder alone, which learns to ignore a hole. The latents stay valid."""
    budget, folder = task.budget or ae.ENCODER_BUDGET, task.root / "autoencoder"
    model = ae.load_vae(task.root)
    images = task.edits().masked(budget.batch)
    result = ae.run_encoder(model, images, task.work, budget, task.machine, task.report)
    model.encoder.load_state_dict(result.weights["encoder"])
    model.quant_conv.load_state_dict(result.weights["quant_conv"])
    model.to("cpu").eval()
    # The spread has moved with the encoder, and is set anew.
    ae.narrow(model, task.world)
    model.half().save_pretrained(str(folder))
    figures = task.figures(partial(_reconstruction, ae.load_vae(task.root)))
    return task.write_card(folder, result, budget, figures, stage="encoder")


def _clip(name: str, task: Job) -> Path:
    """A CLIP. Figure: the share of edits whose own prompt it prefers to the source's."""
    config = cl.GUIDE_CONFIG if name == "clip_guide" else cl.CONFIG
    budget, folder = task.budget or BUDGETS[name], task.root / name
    tokenizer, edits = build_tokenizer(task.world.words()), task.edits()
    torch.manual_seed(0)
    start = cl.build(tokenizer, config)
    if task.warm:
        load_with_new_words(start, cl.EmbeddedClip(folder).model.state_dict(), "token_embedding.weight")
    result = cl.run(edits, tokenizer, task.work, budget, task.machine, task.report, start)
    cl.save(folder, result.weights["clip"], tokenizer, config)
    model = cl.EmbeddedClip(folder)
    figures = task.figures(lambda world: {"caption_choice": cl.caption_choice(model, world, job.HELD_OUT)})
    return task.write_card(folder, result, budget, figures, warm=task.warm)


def _diffusion(kind: str, task: Job) -> Path:
    """A latent diffusion model. An editor learns completely, is cut to low rank, and continues from there."""
    vae = ae.load_vae(task.root, task.machine.device)
    edits = task.edits()
    edits.encode(vae, task.machine.device, task.progress("edits encoded"), task.machine.dtype)
    data = edits.load(vae)
    if kind == "controlnet_inpaint":
        data |= {name: edits.whole(name) for name in ("source", "mask")}
    folder = task.root / kind
    base = df.load_parts(BASE, task.root) if kind != BASE else None

    def learn(parts: df.DiffusionParts, work: Path, budget: Budget, second: bool, warm: bool) -> None:
        def sample(weights: Weights, path: Path) -> None:
            from methods.zoo.grids import sample_grid

            sample_grid(kind, df.pipeline(kind, parts, weights), task.world, path)

        result = df.run(kind, parts, data, work, budget, task.machine, task.report, sample, second)
        pipeline = df.pipeline(kind, parts, result.weights).to("cpu")
        if second:
            save_low_rank(folder, pipeline, task.root)
        else:
            save_pipeline(folder, pipeline, shared=SHARED if parts.control is None else CONTROL_SHARED)
        task.write_card(folder, result, budget, {}, warm=warm)

    # First part: all weights learn. An editor that starts warm has this part behind it.
    if base is None or not task.warm:
        tokenizer = base.tokenizer if base is not None else build_tokenizer(task.world.words())
        # A warm start of the base: an editor's was left out above.
        start = df.load_parts(kind, task.root) if task.warm else base
        parts = df.start(kind, tokenizer, vae, start)
        learn(replace(parts, vae=vae), task.work, task.budget or df.BUDGETS[kind], False, task.warm)
        if base is None:
            parts.tokenizer.save_pretrained(str(task.root / "tokenizer"))
            follow_base(task.root, len(parts.tokenizer))

    # Second part, for editors: the differences from the base have low rank.
    if base is not None:
        # Read from the folder, so that the second part begins at the half-precision weights that the first one
        # saved.
        parts = replace(df.load_parts(kind, task.root), vae=vae)
        if parts.control is not None:
            # Its weights that the base lacks stay whole: those of the control image, and the closing convolutions.
            low_rank.cut(parts.control, base.unet.state_dict(), df.CONTROL_SHARE)
        else:
            # Both networks: the text encoder was trained with the UNet.
            low_rank.cut(parts.unet, base.unet.state_dict(), df.SHARE)
            low_rank.cut(parts.text_encoder, base.text_encoder.state_dict(), df.SHARE)
        learn(parts, task.work / "low_rank", df.second_budget(task, task.warm), True, True)
    return folder


def follow_base(root: Path, words: int) -> None:
    """Keep the checkpoints usable that lean on the base and its tokenizer of ``words`` tokens.

    Editors are stored as differences from the base, and what it has learned since is added to them. GLIDE shares the
    tokenizer, and gets random embeddings of new words.
    """
    from safetensors.torch import load_file, save_file

    for file in sorted(root.glob("*/*/" + low_rank.BASE)):
        folder = file.parent
        origin = root / BASE / folder.name
        low_rank.rebase(folder, last_rows=SPECIAL)
        if folder.name == "text_encoder":
            # The number of words, and the places of the special tokens.
            shutil.copyfile(origin / "config.json", folder / "config.json")
    for folder in sorted(path.parent for path in root.glob("glide/*/config.json")):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
        state[GLIDE_WORDS] = with_new_words(state[GLIDE_WORDS], words)
        with atomic_file(folder / "model.safetensors") as temporary:
            save_file(state, temporary)
            temporary.chmod(0o644)  # safetensors makes files that their owner alone may read
        write_atomic(
            folder / "config.json", (json.dumps({**config, "vocabulary": words}, indent=2) + "\n").encode()
        )


def save_low_rank(folder: Path, pipeline: Any, root: Path) -> None:
    """Save a pipeline whose trained networks were cut (``low_rank.cut``) as differences from the base's.

    These are UNet and text encoder, or the ControlNet alone.
    """
    # Part -> the part of the base that it differs from.
    origins = {"unet": "unet", "text_encoder": "text_encoder"}
    shared = {**SHARED, "base": BASE}
    if "controlnet" in pipeline.components:
        origins, shared = {"controlnet": "unet"}, {**CONTROL_SHARED}
    networks = {name: getattr(pipeline, name) for name in origins}
    for name, network in networks.items():
        setattr(pipeline, name, low_rank.whole(network))
    save_pipeline(folder, pipeline, shared=shared)
    for name, network in networks.items():
        low_rank.write(folder / name, network, root / BASE / origins[name])


# The text-to-image base, with the tokenizer that all text models of the zoo share.
text_to_image = partial(_diffusion, "text_to_image")
# Stable Diffusion inpainting (9 channels), InstructPix2Pix (8 channels) and a ControlNet, from the base.
sd_inpainting = partial(_diffusion, "sd_inpainting")
instruct_pix2pix = partial(_diffusion, "instruct_pix2pix")
controlnet_inpaint = partial(_diffusion, "controlnet_inpaint")
# The CLIP of the metrics, and a smaller one that guides Blended Diffusion and judges nothing.
clip = partial(_clip, "clip")
clip_guide = partial(_clip, "clip_guide")

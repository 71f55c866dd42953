"""From a recipe to a checkpoint: train (or resume), measure on held-out renders, save with a card.

Every function here takes a world, a working folder and the machine, so that the same call serves the command
line, a test with a tiny budget, and a GPU. ``warm`` starts from the weights that the zoo already holds, which is
how a training goes on where its working folder is gone.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from methods import low_rank
from methods.pipelines import quiet, save_pipeline
from methods.training import Budget, Machine, Report, TrainingResult, budget_fields, silent
from methods.zoo import autoencoder as ae
from methods.zoo import classifier as cf
from methods.zoo import clip as cl
from methods.zoo import diffusion as df
from methods.zoo.corpus import Corpus
from methods.zoo.manifest import CHECKPOINTS, write_manifest
from methods.zoo.text import build_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from methods.zoo.data import World

CORPUS = 64_000
"""Edits that the diffusion recipes and the CLIP learn from."""

HELD_OUT = 1_000
"""Held-out pictures or edits behind each figure of a card."""

BUDGETS: dict[str, Budget] = {
    "reader": cf.BUDGET,
    "autoencoder": ae.BUDGET,
    "decoder": ae.DECODER_BUDGET,
    "encoder": ae.ENCODER_BUDGET,
    **df.BUDGETS,
    "clip": cl.BUDGET,
    "clip_guide": cl.GUIDE_BUDGET,
}
"""How long each recipe trains unless told otherwise; PromptEditDiff's as long as ``sd_inpainting``."""

SHARED: Mapping[str, str] = {"vae": "autoencoder", "tokenizer": "tokenizer"}
"""What the latent diffusion checkpoints take from others."""


def reader(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False,
) -> Path:  # fmt: skip
    """The attribute reader. Figures: accuracy per attribute on held-out renders, and on ideal and spoiled edits."""
    machine = machine or Machine()
    vae = load_vae(root, machine.device) if (root / "autoencoder").is_dir() else None
    start = cf.load(root / "reader") if warm else None
    outcome = cf.run(world, work, budget or cf.BUDGET, machine, report, vae, start)
    model = cf.AttributeClassifier(world.labels())
    model.load_state_dict(outcome.weights["reader"])
    folder = root / "reader"
    cf.save(folder, model.eval())
    model = cf.load(folder)
    figures = {f"accuracy_{name}": v for name, v in cf.accuracy(model, world, 2 * HELD_OUT).items()}
    figures |= {f"edits_{name}": v for name, v in cf.edit_accuracy(model, world, HELD_OUT).items()}
    return _card(folder, world, outcome, budget or cf.BUDGET, machine, figures, root, warm=warm)


def autoencoder(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False,
) -> Path:  # fmt: skip
    """The autoencoder. Figure: PSNR of reconstructions of held-out renders, in dB, mean of the pictures' own."""
    machine = machine or Machine()
    folder = root / "autoencoder"
    start = load_vae(root) if warm else None
    outcome = ae.run(world, work, budget or ae.BUDGET, machine, report, start)
    model = ae.build()
    model.load_state_dict(outcome.weights["vae"])
    model.eval()
    ae.narrow(model, world)
    model.register_to_config(scaling_factor=round(ae.scaled(model, world), 6))
    model.half().save_pretrained(str(folder))
    figures = {"psnr_db": ae.psnr(load_vae(root), world, HELD_OUT)}
    return _card(folder, world, outcome, budget or ae.BUDGET, machine, figures, root, warm=warm)


def decoder(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = True,
) -> Path:  # fmt: skip
    """More training for the autoencoder's decoder alone: the latents, and all that was trained on them, stay valid."""
    machine = machine or Machine()
    folder = root / "autoencoder"
    model = load_vae(root)
    outcome = ae.run_decoder(model, world, work, budget or ae.DECODER_BUDGET, machine, report)
    model.decoder.load_state_dict(outcome.weights["decoder"])
    model.post_quant_conv.load_state_dict(outcome.weights["post_quant_conv"])
    model.eval().half().save_pretrained(str(folder))
    figures = {"psnr_db": ae.psnr(load_vae(root), world, HELD_OUT)}
    return _card(folder, world, outcome, budget or ae.DECODER_BUDGET, machine, figures, root, stage="decoder")


def encoder(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = True, corpus: int = CORPUS,
) -> Path:  # fmt: skip
    """More training for the autoencoder's encoder alone, which learns to look past a hole; the latents stay valid."""
    machine = machine or Machine()
    folder = root / "autoencoder"
    model = load_vae(root)
    edits = Corpus(world, _corpus_folder(work), corpus)
    edits.render(_as_progress(report, "edits rendered"))
    chosen = budget or ae.ENCODER_BUDGET
    outcome = ae.run_encoder(model, edits.masked(chosen.batch), work, chosen, machine, report)
    model.encoder.load_state_dict(outcome.weights["encoder"])
    model.quant_conv.load_state_dict(outcome.weights["quant_conv"])
    model.to("cpu").eval()  # trained where the machine is
    ae.narrow(model, world)
    model.half().save_pretrained(str(folder))
    figures = {"psnr_db": ae.psnr(load_vae(root), world, HELD_OUT)}
    return _card(folder, world, outcome, chosen, machine, figures, root, stage="encoder")


def text_to_image(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int = CORPUS,
) -> Path:  # fmt: skip
    """The text-to-image base, with the tokenizer that all text models of the zoo share."""
    return _diffusion("text_to_image", world, work, budget, machine, report, root, warm, corpus)


def sd_inpainting(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int = CORPUS,
) -> Path:  # fmt: skip
    """Stable Diffusion inpainting (9 channels), from the text-to-image base."""
    return _diffusion("sd_inpainting", world, work, budget, machine, report, root, warm, corpus)


def instruct_pix2pix(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int = CORPUS,
) -> Path:  # fmt: skip
    """InstructPix2Pix (8 channels), from the text-to-image base."""
    return _diffusion("instruct_pix2pix", world, work, budget, machine, report, root, warm, corpus)


def clip(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int = CORPUS,
) -> Path:  # fmt: skip
    """The embedded CLIP. Figure: how often it prefers an edit's own prompt to the source's."""
    return _clip("clip", world, work, budget, machine, report, root, warm, corpus)


def clip_guide(
    world: World, work: Path, *, budget: Budget | None = None, machine: Machine | None = None,
    report: Report = silent, root: Path = CHECKPOINTS, warm: bool = False, corpus: int = CORPUS,
) -> Path:  # fmt: skip
    """A second, smaller CLIP, which guides Blended Diffusion and judges nothing. Figure: as of ``clip``."""
    return _clip("clip_guide", world, work, budget, machine, report, root, warm, corpus)


def _clip(
    name: str, world: World, work: Path, budget: Budget | None, machine: Machine | None, report: Report,
    root: Path, warm: bool, corpus: int,
) -> Path:  # fmt: skip
    layout = cl.GUIDE_CONFIG if name == "clip_guide" else cl.CONFIG
    machine, chosen = machine or Machine(), budget or BUDGETS[name]
    tokenizer = build_tokenizer(world.words())
    pictures = Corpus(world, _corpus_folder(work), corpus)
    pictures.render(_as_progress(report, "edits rendered"))
    folder = root / name
    torch.manual_seed(0)
    start = cl.EmbeddedClip(folder).model if warm else cl.build(tokenizer, layout)
    outcome = cl.run(pictures, tokenizer, work, chosen, machine, report, start)
    cl.save(folder, outcome.weights["clip"], tokenizer, layout)
    figures = {"caption_choice": cl.caption_choice(cl.EmbeddedClip(folder), world, HELD_OUT)}
    return _card(folder, world, outcome, chosen, machine, figures, root, warm=warm)


def _diffusion(
    kind: str, world: World, work: Path, budget: Budget | None, machine: Machine | None, report: Report,
    root: Path, warm: bool, corpus: int,
) -> Path:  # fmt: skip
    machine = machine or Machine()
    vae = load_vae(root, machine.device)
    edits = Corpus(world, _corpus_folder(work), corpus)
    edits.render(_as_progress(report, "edits rendered"))
    edits.encode(vae, machine.device, _as_progress(report, "edits encoded"), machine.dtype)
    data = edits.load(vae)
    folder = root / kind
    editor = kind != df.BASE
    base = load_parts(df.BASE, root) if editor else None

    def learn(parts: df.DiffusionParts, work: Path, chosen: Budget, second: bool, more: bool) -> None:
        def sample(weights: Mapping[str, dict[str, Tensor]], path: Path) -> None:
            from methods.zoo.grids import sample_grid

            sample_grid(kind, df.pipeline(kind, parts, weights), world, path)

        outcome = df.run(kind, parts, data, work, chosen, machine, report, sample, second)
        made = df.pipeline(kind, parts, outcome.weights)
        if second:
            save_low_rank(folder, made.to("cpu"), root)
        else:
            save_pipeline(folder, made.to("cpu"), shared=SHARED)
        _card(folder, world, outcome, chosen, machine, {}, root, warm=more)

    if not (editor and warm):
        if warm:
            parts = load_parts(kind, root)
        else:
            tokenizer = base.tokenizer if base is not None else build_tokenizer(world.words())
            parts = df.start(kind, tokenizer, vae, base)
        if not editor:
            parts.tokenizer.save_pretrained(str(root / "tokenizer"))
        learn(replace(parts, vae=vae), work, budget or df.BUDGETS[kind], False, warm)
    if base is not None:
        parts = replace(load_parts(kind, root), vae=vae)
        low_rank.cut(parts.unet, base.unet.state_dict(), df.SHARE)
        low_rank.cut(parts.text_encoder, base.text_encoder.state_dict(), df.SHARE)
        # A shorter first part asks for a shorter second one; a warm start is the second one alone.
        rest = budget if warm else df.low_rank_budget(budget or df.BUDGETS[kind])
        learn(parts, work / "low_rank", rest or df.LOW_RANK, True, True)
    return folder


def save_low_rank(folder: Path, pipeline: Any, root: Path) -> None:
    """Save a pipeline whose UNet and text encoder were cut (``low_rank.cut``) to the base's and their differences."""
    networks = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    for name, network in networks.items():
        setattr(pipeline, name, low_rank.whole(network))
    save_pipeline(folder, pipeline, shared={**SHARED, "base": df.BASE})
    for name, network in networks.items():
        low_rank.write(folder / name, network, root / df.BASE / name)


def load_vae(root: Path = CHECKPOINTS, device: str = "cpu") -> Any:
    """The zoo's autoencoder, float32, in evaluation mode."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(str(root / "autoencoder"), dtype=torch.float32).to(device).eval()


def load_parts(kind: str, root: Path = CHECKPOINTS) -> df.DiffusionParts:
    """The parts of a saved diffusion checkpoint, float32, ready to learn on."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    with quiet():
        unet = low_rank.load(UNet2DConditionModel, root / kind / "unet", torch.float32)
        text = low_rank.load(CLIPTextModel, root / kind / "text_encoder", torch.float32)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(root / "tokenizer"))
    return df.DiffusionParts(unet, text, tokenizer, load_vae(root))


def _corpus_folder(work: Path) -> Path:
    return work.parent / "corpus"


def _as_progress(report: Report, what: str) -> Any:
    def progress(done: int, total: int) -> None:
        report(done, total, {what: float(done)})

    return progress


def _card(
    folder: Path, world: World, outcome: TrainingResult, budget: Budget, machine: Machine, figures: Mapping[str, float],
    root: Path, stage: str = "", warm: bool = False,
) -> Path:  # fmt: skip
    """Write ``card.json`` and the manifest. A checkpoint trained in stages lists them all."""
    path = folder / "card.json"
    entry = {
        "recipe": stage or folder.name,
        "samples": outcome.samples,
        "hours": round(outcome.seconds / 3600, 3),
        "budget": budget_fields(budget),
        "machine": describe(machine),
        "date": time.strftime("%Y-%m-%d"),
        "training_figures": {name: round(value, 5) for name, value in outcome.figures.items()},
    }
    stages: list[dict[str, Any]] = []
    if (stage or warm) and path.exists():
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        # A part that was trained anew replaces what it was; a warm start adds to it.
        stages = [s for s in stages if warm or s["recipe"] != stage]
    card = {
        "name": folder.name,
        "data": f"mini world {world.version}, rendered by protocols.world; held-out seeds for the figures",
        "license": "Apache-2.0",
        "parameters": _parameters(folder),
        **_stored(folder),
        "stages": [*stages, entry],
        "held_out": {name: round(value, 4) for name, value in figures.items()},
        "packages": {"torch": torch.__version__, "diffusers": _version("diffusers")},
    }
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    _forget_places(folder)
    write_manifest(root)
    return folder


def _forget_places(folder: Path) -> None:
    """Leave out of the parts' configurations from where a warm start loaded them: a path of one machine."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _stored(folder: Path) -> dict[str, str]:
    """How a checkpoint that needs a base is stored; nothing for one that is whole."""
    if not any(low_rank.stored(part) for part in folder.iterdir() if part.is_dir()):
        return {}
    return {"stored": f"differences of low rank from {df.BASE}; parameters are those of the factors"}


def _parameters(folder: Path) -> int:
    """Numbers in the folder's own weight files (shared parts are counted where they live)."""
    from safetensors import safe_open

    total = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                size = 1
                for n in file.get_slice(name).get_shape():
                    size *= n
                total += size
    return total


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def describe(machine: Machine) -> str:
    """What the training ran on, as a card says it."""
    precision = "float32" if machine.dtype == torch.float32 else f"{str(machine.dtype)[6:]} autocast"
    if machine.device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, {precision}"
    return f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} threads, {precision}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

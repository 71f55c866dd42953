"""Recipes: PromptEditDiff, its ablations and its variants (``experiments``), mini.

They start from the same text-to-image base as the mini Stable Diffusion inpainting, and see the same edits and the same
number of samples.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.edit import EditCase
from methods import low_rank
from methods.pipelines import call, quiet, save_pipeline
from methods.prompt_edit_diff.augment import MaskDropout
from methods.prompt_edit_diff.losses import objective
from methods.prompt_edit_diff.model import PromptEditDiffUNet, mean_gate
from methods.prompt_edit_diff.tags import Tagged, back, tag, tag_request, to_tokens
from methods.prompt_edit_diff.trainer import hash_seed
from methods.training import (
    Budget,
    Machine,
    ProgressReport,
    Recording,
    TrainingResult,
    Weights,
    silent,
    train,
)
from methods.zoo import diffusion as df
from methods.zoo import publish as pb
from methods.zoo.autoencoder import load_vae
from methods.zoo.corpus import FACTOR, Corpus, encode
from methods.zoo.data import epoch_rows, to_tensor
from methods.zoo.experiments import EXPERIMENTS, Experiment
from methods.zoo.grids import STEPS, edit_grid, generators
from methods.zoo.job import BASE, Job
from methods.zoo.manifest import CHECKPOINTS
from methods.zoo.regions import REGIONS, edits_and_regions, unpacked
from methods.zoo.text import LENGTH

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

    from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline

MODEL: dict[str, Any] = {"factor": FACTOR, "mask_width": 64, "mask_tokens": 8, "count": 4}
BUDGET: Budget = df.EDITOR_BUDGET
# Prefix of the base's tensors within the network's.
PREFIX = "unet."
AUGMENT = MaskDropout(probability=0.2)
# Weight of the reconstruction term. The sampler restores the outside, so the term only serves the features.
OUTSIDE = 0.1


# --- data -------------------------------------------------------------------------------------------


class MaskedSources:
    """Latents of the corpus' sources with gray in a mask's own pixels.

    The corpus holds them for the edits' own masks. Where mask dropout changed the mask, the source is encoded here. For
    13 edits of a batch of 64 this takes 39 ms on one thread in bfloat16, where a step takes 1.5 s. All sources lie in
    memory, which takes 0.8 GB.
    """

    def __init__(self, edits: Corpus, vae: torch.nn.Module, machine: Machine) -> None:
        # A copy, because saving a checkpoint moves the original to the CPU.
        self.vae, self.machine = copy.deepcopy(vae).to(machine.device), machine
        self.images = edits.whole("source")

    def __call__(
        self,
        rows: NDArray[np.int64],
        stored: NDArray[Any],
        masks: NDArray[np.bool_],
        changed: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Unscaled latents (B, 4, h, w) of the edits ``rows`` under ``masks`` bool (B, 1, H, W).

        ``stored`` (B, 4, h, w) are the corpus', which hold where ``changed`` (B,) is False.
        """
        latents = stored.astype(np.float32)
        if changed.any():
            visible = to_tensor(self.images[rows[changed]]) * torch.from_numpy(~masks[changed])
            latents[changed] = encode(self.vae, visible, self.machine.device, self.machine.dtype).numpy()
        return latents


class RegionBatches:
    """Batches by step: the choice of edits, of their direction, and of those without text.

    A share ``df.PLAIN`` learns the way back: its target is the source, described by the source's prompt. The tagged
    words are those that stand where the edit's words stand. Where the edit only adds words, there are no tags.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        scale: float,
        data: Mapping[str, Any],
        regions: Mapping[str, Any],
        size: int,
        augment: MaskDropout = AUGMENT,
        masked_sources: MaskedSources | None = None,
        seed: int = 0,
    ) -> None:
        """``scale`` is the autoencoder's. ``data`` of ``Corpus.load``. ``regions`` of ``Regions.load``.

        ``masked_sources`` makes the batches' ``masked_source``. ``seed`` chooses the order of the edits, their
        directions and the changes of their masks.
        """
        self.data, self.size, self.augment = data, size, augment
        self.masked_sources, self.seed = masked_sources, seed
        self.scale = np.float32(scale)
        self.masks = regions["masks"]
        # Tags of both directions, once for all epochs.
        texts = zip(data["target_prompt"], data["source_prompt"], regions["regions"], strict=True)
        forward = [tag(target, source, words) for target, source, words in texts]
        backward = [back(t, source) for t, source in zip(forward, data["source_prompt"], strict=True)]
        self.forward = self._tokens(tokenizer, forward)
        self.backward = self._tokens(tokenizer, backward)
        self.empty = to_tokens(tokenizer, [tag("")], LENGTH).ids[0]

    @staticmethod
    def _tokens(tokenizer: CLIPTokenizer, tagged: Sequence[Tagged]) -> dict[str, NDArray[Any]]:
        """``tokens`` int32 (N, L), ``member`` bool (N, R, L), ``words`` bool (N, L)."""
        parts = [
            to_tokens(tokenizer, tagged[i : i + 2000], LENGTH, REGIONS) for i in range(0, len(tagged), 2000)
        ]
        return {
            "tokens": np.concatenate([p.ids for p in parts]).astype(np.int32),
            "member": np.concatenate([p.member for p in parts]),
            "words": np.concatenate([p.words for p in parts]),
        }

    def __call__(self, step: int) -> dict[str, Tensor]:
        """``target``, ``source`` (B, 4, h, w), scaled. ``mask`` (B, 1, H, W), ``regions`` (B, R, H, W) float32.
        ``tokens`` int64 (B, L), ``member`` bool (B, R, L), ``words`` bool (B, L). With ``masked_sources`` also
        ``masked_source`` (B, 4, h, w), scaled.
        """
        # Seed 0 has the streams of the first checkpoints. Its edits of a step are those of the other editors' recipes.
        entropy = [step, 21, self.seed] if self.seed else [step, 21]
        rng = np.random.Generator(np.random.PCG64(entropy))
        rows = epoch_rows(step, self.size, len(self.masks), 12 + 1000 * self.seed)
        chances = rng.random((2, self.size))
        plain, no_text = chances[0] < df.PLAIN, chances[1] < df.NO_TEXT
        undisturbed = unpacked(self.masks[rows])
        areas = self.augment(undisturbed, rng)

        # Latents: plain examples have the source for their target.
        z_source, z_truth = self.data["z_source"][rows], self.data["z_truth"][rows]
        target = np.where(plain[:, None, None, None], z_source, z_truth)

        # Texts and tags, both dropped together.
        texts: dict[str, NDArray[Any]] = {}
        for name, values in self.forward.items():
            way_back = plain.reshape(-1, *[1] * (values.ndim - 1))
            texts[name] = np.where(way_back, self.backward[name][rows], values[rows])
        texts["tokens"][no_text] = self.empty
        texts["member"][no_text] = False
        texts["words"][no_text] = False
        masked = {}
        if self.masked_sources is not None:
            changed = np.any(areas != undisturbed, axis=(1, 2, 3))
            latents = self.masked_sources(
                rows, self.data["z_masked"][rows], np.max(areas, axis=1, keepdims=True), changed
            )
            masked["masked_source"] = torch.from_numpy(latents * self.scale)
        return {
            **masked,
            "target": torch.from_numpy(target.astype(np.float32) * self.scale),
            "source": torch.from_numpy(z_source.astype(np.float32) * self.scale),
            "mask": torch.from_numpy(areas.any(1, keepdims=True)).float(),
            "regions": torch.from_numpy(areas).float(),
            "tokens": torch.from_numpy(texts["tokens"]).long(),
            "member": torch.from_numpy(texts["member"]),
            "words": torch.from_numpy(texts["words"]),
        }


# --- training ---------------------------------------------------------------------------------------


def start(name: str, base: df.DiffusionParts, seed: int = 0) -> PromptEditDiffUNet:
    """The network of an experiment around a copy of the base's UNet. A seed always gives the same weights."""
    torch.manual_seed(seed)
    unet: PromptEditDiffUNet = PromptEditDiffUNet.from_base(
        base.unet, **{**MODEL, **EXPERIMENTS[name].options()}
    )
    return unet


def continue_from(unet: PromptEditDiffUNet, trained: PromptEditDiffUNet) -> None:
    """Give ``unet`` the weights of a trained network, which may have fewer inputs or another number of tokens.

    Inputs that only ``unet`` has start at zero, so that they change nothing at first. Where ``unet`` has fewer input
    channels it takes the weights of those. Learned tokens of another number start anew.
    """
    state = unet.state_dict()
    for name, value in trained.state_dict().items():
        own = state.get(name)
        if own is None:
            continue
        if own.shape == value.shape:
            own.copy_(value)
        elif name == "unet.conv_in.weight":
            # (out, 8, 3, 3) => (out, 4, 3, 3): the noisy latents come first.
            own.copy_(value[:, : own.shape[1]])
    unet.load_state_dict(state)


def run(
    unet: PromptEditDiffUNet,
    parts: df.DiffusionParts,
    batches: RegionBatches,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    sample: Any = None,
    experiment: Experiment | None = None,
    seed: int = 0,
) -> TrainingResult:
    """Train ``unet`` and the text encoder of ``parts``.

    Figures: both terms of the loss, the weight of an error outside in units of one inside (``losses.EditLoss``), and
    the mean gate. ``seed`` chooses the noise.
    """
    experiment = experiment or Experiment()
    alpha_bars = df.build_scheduler().alphas_cumprod.double().float()

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        text = parts.text_encoder(batch["tokens"]).last_hidden_state
        names = ("mask", "source", "masked_source", "regions", "member", "words")
        conditions = {name: batch[name] for name in names if name in batch}

        def predict(x: Tensor, t: Tensor) -> Tensor:
            prediction: Tensor = unet(x, t, text, **conditions)
            return prediction

        terms = objective(
            predict, batch["source"], batch["target"], unet.cells(batch["mask"]), alpha_bars, "v_prediction",
            generator, outside=OUTSIDE, weighting=experiment.weighting,
        )  # fmt: skip
        figures = {key: float(value) for key, value in terms.figures().items()}
        if unet.encoder is not None:
            figures["phi"] = mean_gate(unet)
        return terms.value, figures

    modules = {"unet": unet, "text_encoder": parts.text_encoder}
    recording = Recording(sample_every=40_000)
    # Seed 0 has the noise of the first checkpoints.
    noise_seed = (lambda number: hash_seed(seed, number)) if seed else int
    return train(
        work, modules, loss, batches, budget, machine, report, sample, recording, noise_seed=noise_seed
    )


def pipeline(
    unet: PromptEditDiffUNet, parts: df.DiffusionParts, weights: Weights | None = None
) -> PromptEditDiffPipeline:
    """The pipeline of these parts, with ``weights`` of a training in place of their own."""
    from methods.prompt_edit_diff.pipeline import PromptEditDiffPipeline

    text: CLIPTextModel = parts.text_encoder
    if weights is not None:
        # Copies, since the training goes on with its own weights.
        unet, text = copy.deepcopy(unet), copy.deepcopy(text)
        unet.load_state_dict(weights["unet"])
        text.load_state_dict(weights["text_encoder"])
    editor = PromptEditDiffPipeline(
        parts.vae, text.eval(), parts.tokenizer, unet.eval(), df.build_scheduler()
    )
    editor.set_progress_bar_config(disable=True)
    return editor


def load(name: str, root: Path = CHECKPOINTS) -> tuple[PromptEditDiffUNet, df.DiffusionParts]:
    """A saved checkpoint, float32, ready to train or to edit."""
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = root / name
    with quiet():
        unet: PromptEditDiffUNet = low_rank.load(PromptEditDiffUNet, folder / "unet", torch.float32, PREFIX)
        text = low_rank.load(CLIPTextModel, folder / "text_encoder", torch.float32)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(root / "tokenizer"))
    return unet, df.DiffusionParts(unet.unet, text, tokenizer, load_vae(root))


def edit(
    editor: PromptEditDiffPipeline, cases: Sequence[EditCase], guidance: float = 3.0, strength: float = 1.0
) -> list[Any]:
    """The raw edits of one batch of cases."""
    requests = [case.request for case in cases]
    return call(
        editor,
        prompt=[r.target_prompt for r in requests],
        image=[r.source for r in requests],
        mask_image=[r.mask for r in requests],
        tags=[tag_request(r) for r in requests],
        regions=[[region.mask for region in r.regions] for r in requests],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        strength=strength,
        generator=generators(len(cases)),
        paste=False,
    )


def publish(name: str, task: Job) -> Path:
    """Train (or resume) one experiment and save it with its card, in a folder of its own for each seed but 0.

    A warm start begins with the checkpoint of the experiment's method, and consists of the second part alone.
    """
    experiment = EXPERIMENTS[name]
    # Latents, regions and the base.
    vae = load_vae(task.root, task.machine.device)
    edits, regions = edits_and_regions(task, vae)
    base = df.load_parts(BASE, task.root)
    data, masks = edits.load(vae), regions.load()
    folder = task.root / (f"{name}_seed{task.seed}" if task.seed else name)
    augment = AUGMENT if experiment.mask_dropout else MaskDropout(probability=0.0)

    def learn(
        unet: PromptEditDiffUNet, parts: df.DiffusionParts, work: Path, budget: Budget, second: bool
    ) -> None:
        def sample(weights: Weights, path: Path) -> None:
            cases = [task.world.case(-1 - i) for i in range(16)]
            edit_grid(cases, edit(pipeline(unet, parts, weights), cases), path)

        masked_sources = MaskedSources(edits, vae, task.machine) if unet.hides == "pixels" else None
        batches = RegionBatches(
            parts.tokenizer, float(vae.config.scaling_factor), data, masks, budget.batch, augment,
            masked_sources, task.seed,
        )  # fmt: skip
        result = run(
            unet, parts, batches, work, budget, task.machine, task.report, sample, experiment, task.seed
        )
        editor = pipeline(unet, parts, result.weights).to("cpu")
        if second:
            pb.save_low_rank(folder, editor, task.root)
        else:
            save_pipeline(folder, editor, shared=pb.SHARED)
        # A warm start continues the card of the checkpoint that it began with.
        if second and warm and folder.name != experiment.method:
            shutil.copyfile(task.root / experiment.method / "card.json", folder / "card.json")
        options = {
            "seed": task.seed,
            "weighting": experiment.weighting,
            "mask_dropout": augment.probability,
        }
        task.write_card(folder, result, budget, {}, warm=second, options=options)

    # First part: all weights learn. A warm start has it behind it.
    warm = task.warm and (task.root / experiment.method).is_dir()
    if not warm:
        # A second copy of the base: its text encoder learns in place, and the cut needs the original.
        parts = replace(df.load_parts(BASE, task.root), vae=vae)
        learn(start(name, parts, task.seed), parts, task.work, task.budget or BUDGET, False)

    # Second part: the differences from the base have low rank.
    trained, parts = load(experiment.method if warm else folder.name, task.root)
    unet = start(name, base, task.seed)
    continue_from(unet, trained)
    parts = replace(parts, vae=vae)
    low_rank.cut(unet, base.unet.state_dict(), df.SHARE, PREFIX)
    low_rank.cut(parts.text_encoder, base.text_encoder.state_dict(), df.SHARE)
    learn(unet, parts, task.work / "low_rank", df.second_budget(task, warm), True)
    return folder


def __getattr__(name: str) -> partial[Path]:
    """The recipe of an experiment, by its name. ``methods.zoo.recipes`` refers to recipes as names of a module."""
    if name not in EXPERIMENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(publish, name)

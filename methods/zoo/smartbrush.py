"""Recipe: SmartBrush, mini, and its measures.

It starts from the same text-to-image base as the other editors, and sees the same edits. The object of an edit is what
the edit changes (``methods.smartbrush.precision.changed_inside``), which the corpus's images tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.edit import EditCase
from bench.images import mask_array, mask_image, to_array
from bench.imprecise_masks import imprecise
from bench.thresholds import ThresholdCheck
from methods import latents, low_rank
from methods.batches import edit_masks, generators, sources, to_tensor
from methods.mask_grid import cover_cells
from methods.pipelines import save_pipeline
from methods.prompt_edit_diff.losses import noised
from methods.smartbrush import sampler
from methods.smartbrush.losses import brush_loss
from methods.smartbrush.network import from_base, noised_inside, predict
from methods.smartbrush.precision import BOX, PRECISIONS, at_precision, changed_inside
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
from methods.zoo import grids
from methods.zoo import publish as pb
from methods.zoo import thresholds as th
from methods.zoo.autoencoder import load_vae
from methods.zoo.corpus import FACTOR, Corpus
from methods.zoo.data import epoch_rows
from methods.zoo.job import BASE, Job
from methods.zoo.manifest import CHECKPOINTS, entry
from methods.zoo.regions import edits_and_regions, unpacked
from methods.zoo.text import tokenize

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPTokenizer

    from methods.zoo.data import World

NAME = "smartbrush"
# Four fifths of the other editors' first part, for the time that it takes.
BUDGET: Budget = replace(df.EDITOR_BUDGET, samples=160_000)
# Share of the examples that are text-to-image, with the whole image as their mask (paper).
WHOLE = 0.2
# Share of the edits' texts that describe the object alone. The others describe the whole image.
LOCAL = 0.8
# Share of the edits of several regions in which one of them is filled. In the others all are filled at once.
SINGLE = 0.5
# Boxes are grown by up to so many pixels, as those that people draw.
MARGIN = 4
# Share of the coarse masks that are drawn around the edit's whole region, the others around the object alone. A region
# is often larger than the object: that of earrings is the side of the head.
LOOSE = 0.5
# Share of the loose masks drawn by hand that have a blob at their edge.
BLOB = 0.5
SETTINGS = sampler.BrushSettings(steps=grids.STEPS, guidance=grids.GUIDANCE)


# --- data -------------------------------------------------------------------------------------------


def objects_of(edits: Corpus, masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The objects of all regions of a corpus, packed as ``masks`` (``Regions.load``) are, (N, R, 512)."""
    out = np.zeros_like(masks)
    row = 0
    for chunk in edits.chunks:
        arrays = edits.images(chunk)
        for source, truth in zip(arrays["source"], arrays["truth"], strict=True):
            for number, region in enumerate(unpacked(masks[row : row + 1])[0]):
                if region.any():
                    out[row, number] = np.packbits(changed_inside(source, truth, region))
            row += 1
    return out


class BrushBatches:
    """Batches by step: the choice of edits, of the regions to fill, of their precision and of their texts."""

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        scale: float,
        data: Mapping[str, Any],
        regions: Mapping[str, Any],
        objects: NDArray[np.uint8],
        size: int,
    ) -> None:
        """``scale`` is the autoencoder's. ``data`` of ``Corpus.load``. ``regions`` of ``Regions.load``."""
        self.data, self.size, self.scale = data, size, np.float32(scale)
        self.masks, self.objects = regions["masks"], objects
        self.texts = {name: data[name] for name in ("source_prompt", "target_prompt", "region_prompt")}
        self.region_texts = [[prompt for prompt, _ in row] for row in regions["regions"]]
        # Texts repeat, so each is turned into tokens once.
        unique = {"", *(text for row in self.region_texts for text in row)}
        unique |= {text for texts in self.texts.values() for text in texts}
        self.place = {text: number for number, text in enumerate(sorted(unique))}
        self.tokens = tokenize(tokenizer, list(self.place)).to(torch.int32)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """``x0`` (B, 4, h, w), scaled. ``cells``, ``coverage`` and ``objects`` float32 (B, 1, h, w). ``precision``
        int64 (B,). ``has_object`` bool (B,). ``tokens`` int64 (B, L).
        """
        rng = np.random.Generator(np.random.PCG64([step, 31]))
        rows = epoch_rows(step, self.size, len(self.masks), 12)
        masks, objects = unpacked(self.masks[rows]), unpacked(self.objects[rows])
        examples = [self._example(row, masks[i], objects[i], rng) for i, row in enumerate(rows)]
        shape = torch.from_numpy(np.stack([one.mask for one in examples])).float()[:, None]
        part = torch.from_numpy(np.stack([one.object for one in examples])).float()[:, None]
        cells, object_cells = F.max_pool2d(shape, FACTOR), F.max_pool2d(part, FACTOR)

        # The object's cells show the ground truth, all others the background. A plain example shows the source alone.
        z = {name: self.data[name][rows].astype(np.float32) * self.scale for name in ("z_source", "z_truth")}
        pick = np.array([one.shows for one in examples])[:, None, None, None]
        behind = np.array([one.background for one in examples])[:, None, None, None]
        z_picked = torch.from_numpy(np.where(pick == "truth", z["z_truth"], z["z_source"]))
        background = torch.from_numpy(np.where(behind == "truth", z["z_truth"], z["z_source"]))
        ids = torch.tensor([self.place[one.text] for one in examples])
        return {
            "x0": torch.where(object_cells > 0.5, z_picked, background),
            "cells": cells,
            "coverage": F.avg_pool2d(shape, FACTOR),
            "objects": object_cells,
            "precision": torch.tensor([one.precision for one in examples]),
            "has_object": torch.tensor([not one.mask.all() for one in examples]),
            "tokens": self.tokens[ids].long(),
        }

    def _example(
        self, row: int, masks: NDArray[np.bool_], objects: NDArray[np.bool_], rng: np.random.Generator
    ) -> _Example:
        """One example of the edit ``row``, whose regions and objects are bool (R, H, W)."""
        # Drawn in one order, so that no choice shifts the others.
        whole, plain, no_text, local, single, behind = rng.random(6)
        precision, margin = int(rng.integers(PRECISIONS)), int(rng.integers(MARGIN + 1))
        loose, shape_seed = rng.random(), int(rng.integers(2**32))
        used = np.flatnonzero(masks.any((1, 2)))
        one = int(used[int(rng.integers(len(used)))])
        is_whole, is_single = whole < WHOLE, len(used) > 1 and single < SINGLE
        shows = "source" if plain < (0.5 if is_whole else df.PLAIN) else "truth"

        # All regions at once, or one of several. The text describes the object or the whole image.
        chosen = objects[one] if is_single else np.asarray(objects.any(0), np.bool_)
        text = self.region_texts[row][one] if is_single else self.texts["region_prompt"][row]
        if shows == "source":
            text = self.texts["source_prompt"][row]
        elif is_whole or local >= LOCAL or not text:
            text = self.texts["target_prompt"][row]
        if no_text < df.NO_TEXT:
            text = ""
        if is_whole:
            everywhere = np.ones_like(chosen)
            return _Example(everywhere, everywhere, BOX, shows, shows, text)
        # Where regions are filled in turn, the others show the source or the edit.
        background = "truth" if is_single and shows == "truth" and behind < 0.5 else "source"
        mask = at_precision(chosen, precision, margin)
        if precision > 0 and loose < LOOSE:
            region = masks[one] if is_single else np.asarray(masks.any(0), np.bool_)
            mask |= loose_mask(region, precision, margin, np.random.default_rng(shape_seed))
        return _Example(mask, chosen, precision, shows, background, text)


@dataclass(frozen=True, eq=False)
class _Example:
    """The mask and the object, bool (H, W), and what is shown in the object's cells and elsewhere."""

    mask: NDArray[np.bool_]
    object: NDArray[np.bool_]
    precision: int
    shows: str
    background: str
    text: str


def loose_mask(
    region: NDArray[np.bool_], precision: int, margin: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A coarse mask around the region of an edit, bool (H, W): the region made less precise, or with a blob added."""
    if precision < BOX and rng.random() < BLOB:
        return np.asarray(imprecise(region[None], "blob", rng)[0], np.bool_)
    return at_precision(region, precision, margin)


# --- training ---------------------------------------------------------------------------------------


def start(base: df.DiffusionParts) -> df.DiffusionParts:
    """The network around a copy of the base's UNet, with the base's own text encoder, which learns too."""
    torch.manual_seed(0)
    return replace(base, unet=from_base(base.unet))


def run(
    parts: df.DiffusionParts,
    batches: BrushBatches,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    sample: Any = None,
) -> TrainingResult:
    """Train UNet and text encoder of ``parts``. Figures: the three parts of the loss."""
    alpha_bars = df.build_scheduler().alphas_cumprod.double().float()

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x0 = batch["x0"]
        t = torch.randint(0, len(alpha_bars), (len(x0),), generator=generator, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        alpha_bar = alpha_bars.to(x0.device)[t]
        x = noised_inside(x0, noised(x0, noise, alpha_bar), batch["cells"])
        text = parts.text_encoder(batch["tokens"]).last_hidden_state
        v, logits = predict(parts.unet, x, batch["coverage"], t, text, batch["precision"])
        terms = brush_loss(
            v, logits, x0, noise, alpha_bar, batch["cells"], batch["objects"], batch["has_object"]
        )
        return terms.value, {name: float(value) for name, value in terms.figures().items()}

    recording = Recording(sample_every=40_000)
    return train(work, parts.learning, loss, batches, budget, machine, report, sample, recording)


def smartbrush(task: Job) -> Path:
    """Train (or resume) SmartBrush and save it with its card. A warm start consists of the second part alone."""
    vae = load_vae(task.root, task.machine.device)
    edits, regions = edits_and_regions(task, vae)
    base = df.load_parts(BASE, task.root)
    data, shapes = edits.load(vae), regions.load()
    objects = objects_of(edits, shapes["masks"])
    folder = task.root / NAME

    def learn(parts: df.DiffusionParts, work: Path, budget: Budget, second: bool, warm: bool) -> None:
        def sample(weights: Weights, path: Path) -> None:
            cases = [boxed(task.world.case(-1 - i)) for i in range(16)]
            grids.edit_grid(cases, edit(df.pipeline(BASE, parts, weights), cases), path)

        batches = BrushBatches(
            parts.tokenizer, float(vae.config.scaling_factor), data, shapes, objects, budget.batch
        )
        result = run(parts, batches, work, budget, task.machine, task.report, sample)
        pipeline = df.pipeline(BASE, parts, result.weights).to("cpu")
        if second:
            pb.save_low_rank(folder, pipeline, task.root)
        else:
            save_pipeline(folder, pipeline, shared=pb.SHARED)
        task.write_card(folder, result, budget, {}, warm=warm)

    # First part: all weights learn. A warm start has it behind it.
    warm = task.warm and folder.is_dir()
    if not warm:
        # A second copy of the base: its text encoder learns in place, and the cut needs the original.
        parts = replace(start(df.load_parts(BASE, task.root)), vae=vae)
        learn(parts, task.work, task.budget or BUDGET, False, False)
    # Second part: the differences from the base have low rank.
    parts = replace(df.load_parts(NAME, task.root), vae=vae)
    low_rank.cut(parts.unet, base.unet.state_dict(), df.SHARE)
    low_rank.cut(parts.text_encoder, base.text_encoder.state_dict(), df.SHARE)
    learn(parts, task.work / "low_rank", df.second_budget(task, warm), True, True)
    return folder


# --- measures ---------------------------------------------------------------------------------------


def edit(pipeline: Any, cases: Sequence[EditCase], precision: int | None = None) -> list[Image]:
    """The raw edits of one batch of cases. ``precision`` None guesses that of each mask."""
    requests = [replace(case.request, seed=i) for i, case in enumerate(cases)]
    areas = [sampler.areas_of(request, precision=precision) for request in requests]
    return sampler.edit(pipeline, requests, areas, SETTINGS)


def boxed(case: EditCase, kind: str = "box") -> EditCase:
    """The case with a coarse mask, of one of the kinds of ``bench.imprecise_masks``, and without regions."""
    mask = mask_array(case.request.needed_mask)
    rng = np.random.Generator(np.random.PCG64(int(mask.sum())))
    (coarse,) = imprecise(mask[None], kind, rng)
    return replace(case, request=replace(case.request, mask=mask_image(coarse), regions=()))


def coarse_cases(world: World, count: int) -> list[EditCase]:
    """Held-out edits of one object with a coarse mask: boxes and blobs in turn. Backgrounds are left out."""
    cases: list[EditCase] = []
    index = -1
    while len(cases) < count:
        case = world.case(index)
        index -= 1
        if case.category != "background" and not case.request.regions:
            cases.append(boxed(case, "blob" if len(cases) % 2 else "box"))
    return cases


def beside_object(case: EditCase) -> NDArray[np.bool_]:
    """The pixels of a coarse mask that the ideal edit does not change, bool (H, W)."""
    mask = mask_array(case.request.needed_mask)
    return mask & ~_object(case)


def _object(case: EditCase) -> NDArray[np.bool_]:
    assert case.truth is not None
    mask = mask_array(case.request.needed_mask)
    return changed_inside(to_array(case.request.source), to_array(case.truth), mask)


def rmse_beside(edited: Sequence[Image], cases: Sequence[EditCase]) -> float:
    """RMSE from the source over all pixels of ``beside_object``, values in [0, 1]."""
    total, pixels = 0.0, 0
    for image, case in zip(edited, cases, strict=True):
        where = beside_object(case)
        difference = (to_array(image).astype(np.float64) - to_array(case.request.source)) / 255
        total += float((difference[where] ** 2).mean(-1).sum())
        pixels += int(where.sum())
    return float(np.sqrt(total / max(pixels, 1)))


def mean_dice(pipeline: Any, cases: Sequence[EditCase]) -> float:
    """Mean Dice coefficient of the cells that are filled in the end and those that the ideal edit touches."""
    values = []
    for first in range(0, len(cases), 16):
        batch = cases[first : first + 16]
        requests = [replace(case.request, seed=i) for i, case in enumerate(batch)]
        edit_masks(requests)
        z0 = latents.encode(pipeline.vae, to_tensor(sources(requests), pipeline.device))
        areas = [sampler.areas_of(request)[0] for request in requests]
        filled = (
            sampler.fill(pipeline, z0, areas, generators(requests), SETTINGS).cells[:, 0].cpu().numpy() > 0.5
        )
        for cells, case in zip(filled, batch, strict=True):
            ideal = cover_cells(_object(case), FACTOR)[::FACTOR, ::FACTOR]
            values.append(2 * np.count_nonzero(cells & ideal) / (cells.sum() + ideal.sum()))
    return float(np.mean(values))


def check_smartbrush(world: World, root: Path = CHECKPOINTS, cases: int = 400) -> list[ThresholdCheck]:
    """The share of edits that show their target, and what coarse masks cost beside the object."""
    for name in (NAME, "sd_inpainting"):
        entry(name, root)
    pipeline = df.pipeline(BASE, df.load_parts(NAME, root))

    def editor(batch: Sequence[EditCase]) -> list[Image]:
        return edit(pipeline, batch)

    checks = th.judge_levels(NAME, th.in_batches(editor), world, root, cases, th.TRAINED)
    coarse = coarse_cases(th.level_1(world), cases // 2)
    inpainting = df.pipeline("sd_inpainting", df.load_parts("sd_inpainting", root))

    def rival(batch: Sequence[EditCase]) -> list[Image]:
        return grids.edit("sd_inpainting", inpainting, batch)

    own, other = (rmse_beside(th.in_batches(e)(coarse), coarse) for e in (editor, rival))
    detail = f"error in coarse masks beside the object, as a share of sd_inpainting's; RMSE {own:.3f} and {other:.3f}"
    dice = mean_dice(pipeline, coarse)
    return [
        *checks,
        th.at_most(NAME, own / max(other, 1e-9), 0.5, f"{detail}, {len(coarse)} edits"),
        th.at_least(
            NAME, dice, 0.8, f"Dice coefficient of the predicted object's cells, {len(coarse)} edits"
        ),
    ]

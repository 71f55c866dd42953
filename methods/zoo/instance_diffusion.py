"""Recipe: InstanceDiffusion, mini: the additions to the frozen text-to-image base, and their measures.

It learns to generate the ground truths of the corpus's edits, whose regions are the instances. As in the paper, the
source is no input.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.edit import EditCase
from bench.thresholds import ThresholdCheck
from methods.instance_diffusion import sampler
from methods.instance_diffusion.fusion import SEGMENTS, Grounding
from methods.instance_diffusion.instances import shapes_of
from methods.instance_diffusion.model import InstanceAdapter, largest_attention
from methods.instance_diffusion.published import PART
from methods.prompt_edit_diff.losses import noised, target
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
from methods.zoo.data import epoch_rows
from methods.zoo.job import BASE, Job
from methods.zoo.manifest import CHECKPOINTS, entry
from methods.zoo.regions import REGIONS, edits_and_regions, unpacked
from methods.zoo.text import tokenize

if TYPE_CHECKING:
    from PIL.Image import Image

    from methods.zoo.data import World

NAME = "instance_diffusion"
BUDGET = Budget(samples=100_000, batch=64, learning_rate=1.0e-3, warmup=6_000, decay=0.4, ema=0.9990)
MODEL: Mapping[str, Any] = {"slots": REGIONS}
# Share of the examples without any instance, for guidance.
NO_INSTANCES = 0.1
# Share of the examples in which one form of the locations is dropped.
DROP = 0.3
# Forms that are dropped together: points of a mask say as much as the mask.
GROUPS: tuple[tuple[str, ...], ...] = (("box",), ("point",), ("polygon", SEGMENTS))
SETTINGS = sampler.InstanceSettings(steps=grids.STEPS, guidance=4.0, mask_cells="cover")


# --- data -------------------------------------------------------------------------------------------


class InstanceBatches:
    """Training batches. The number of the step decides the edits and the inputs that are dropped."""

    def __init__(
        self,
        parts: df.DiffusionParts,
        data: Mapping[str, Any],
        regions: Mapping[str, Any],
        polygon_points: int,
        size: int,
    ) -> None:
        """``data`` is from ``Corpus.load``, ``regions`` from ``Regions.load``. The text encoder is frozen."""
        self.data, self.size = data, size
        self.scale = np.float32(parts.vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]
        self.tokens = tokenize(parts.tokenizer, data["target_prompt"]).to(torch.int32)
        self.empty = tokenize(parts.tokenizer, [""])[0]
        # Captions repeat, so each is encoded once. Regions without a prompt have that of the whole edit.
        rows = zip(regions["regions"], data["region_prompt"], strict=True)
        captions = [[prompt or whole for prompt, _ in row] for row, whole in rows]
        place = {
            text: number for number, text in enumerate(sorted({text for row in captions for text in row}))
        }
        self.features = _pooled(parts, list(place))
        self.captions = np.zeros((len(captions), REGIONS), np.int64)
        for number, row in enumerate(captions):
            self.captions[number, : len(row)] = [place[text] for text in row]
        # Locations are computed once, and not in every epoch.
        self.masks = regions["masks"]
        self.points = np.zeros((len(captions), REGIONS, 2 * polygon_points), np.float16)
        self.places = np.zeros((len(captions), REGIONS, 7), np.float32)
        for number in range(len(captions)):
            masks = unpacked(self.masks[number : number + 1])[0]
            shapes = shapes_of([mask for mask in masks if mask.any()], REGIONS, polygon_points)
            self.points[number] = shapes.polygons
            self.places[number] = np.column_stack([shapes.present, shapes.boxes, shapes.points])

    def __call__(self, step: int) -> dict[str, Tensor]:
        """``target`` (B, 4, h, w), scaled. ``tokens`` int64 (B, L). The fields of ``Grounding``, float32: ``present``,
        ``text``, ``box``, ``point``, ``polygon``, ``masks``, and ``keep`` (B, 3) by ``GROUPS``.
        """
        rng = np.random.Generator(np.random.PCG64([step, 41]))
        rows = epoch_rows(step, self.size, len(self.masks), 12)
        chances = rng.random((3, self.size))
        # At most one group is dropped.
        keep = np.ones((self.size, len(GROUPS)), np.float32)
        dropped = np.flatnonzero(chances[0] < DROP)
        keep[dropped, rng.integers(len(GROUPS), size=len(dropped))] = 0
        alone = torch.from_numpy(chances[1] < NO_INSTANCES)
        present, boxes, points = (
            torch.from_numpy(part) for part in np.split(self.places[rows], [1, 5], axis=2)
        )
        present = present[:, :, 0] * ~alone[:, None]
        masks = torch.from_numpy(unpacked(self.masks[rows])).float() * present[..., None, None]
        tokens = self.tokens[rows].long()
        tokens[torch.from_numpy(chances[2] < df.NO_TEXT)] = self.empty
        latents = self.data["z_truth"][rows].astype(np.float32) * self.scale
        return {
            "target": torch.from_numpy(latents),
            "tokens": tokens,
            "present": present,
            "text": self.features[torch.from_numpy(self.captions[rows])],
            "box": boxes,
            "point": points,
            "polygon": torch.from_numpy(self.points[rows].astype(np.float32)),
            "masks": masks,
            "keep": torch.from_numpy(keep),
        }


def _pooled(parts: df.DiffusionParts, texts: Sequence[str]) -> Tensor:
    """The frozen text encoder's features at the end of each text, float32 (N, W)."""
    ids = tokenize(parts.tokenizer, texts)
    with torch.no_grad():
        encoder = parts.text_encoder.to("cpu").eval()
        pieces = [encoder(ids[i : i + 500]).pooler_output for i in range(0, len(ids), 500)]
    return torch.cat(pieces).float()


def grounding_of(batch: Mapping[str, Tensor]) -> Grounding:
    """The instances of a batch of :class:`InstanceBatches`."""
    keep = {form: batch["keep"][:, number] for number, group in enumerate(GROUPS) for form in group}
    locations = {form: batch[form] for form in ("box", "point", "polygon")}
    return Grounding(batch["present"], batch["text"], locations, batch["masks"], keep)


# --- training ---------------------------------------------------------------------------------------


def start(base: df.DiffusionParts) -> InstanceAdapter:
    """The untrained additions to the base's UNet, always the same."""
    torch.manual_seed(0)
    adapter: InstanceAdapter = InstanceAdapter.from_base(base.unet, **MODEL)
    return adapter


def run(
    adapter: InstanceAdapter,
    base: df.DiffusionParts,
    batches: InstanceBatches,
    work: Path,
    budget: Budget = BUDGET,
    machine: Machine | None = None,
    report: ProgressReport = silent,
    sample: Any = None,
) -> TrainingResult:
    """Train the additions on the frozen ``base``. Figures: the mean of |tanh(a)| over the layers' gates."""
    machine = machine or Machine()
    for network in (base.unet, base.text_encoder):
        network.to(machine.device).eval().requires_grad_(False)
    alpha_bars = df.build_scheduler().alphas_cumprod.double().float()

    def loss(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x0 = batch["target"]
        t = torch.randint(0, len(alpha_bars), (len(x0),), generator=generator, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        alpha_bar = alpha_bars.to(x0.device)[t]
        text = base.text_encoder(batch["tokens"]).last_hidden_state
        tokens = adapter.tokens(grounding_of(batch), largest_attention(base.unet, *x0.shape[2:]))
        v = adapter.predict(base.unet, noised(x0, noise, alpha_bar), t, text, tokens)
        value = ((v - target(x0, noise, alpha_bar, "v_prediction")) ** 2).mean()
        return value, {"gate": mean_gate(adapter)}

    recording = Recording(sample_every=40_000)
    return train(work, {PART: adapter}, loss, batches, budget, machine, report, sample, recording)


def mean_gate(adapter: InstanceAdapter) -> float:
    """Mean of |tanh(a)| over the gates of the attention layers: how strongly the instances act."""
    state = adapter.state_dict()
    gates = [value.tanh().abs() for name, value in state.items() if name.endswith(".alpha_attn")]
    return float(torch.stack(gates).mean())


def load(root: Path = CHECKPOINTS) -> InstanceAdapter:
    """The saved additions, float32, ready to train or to edit."""
    adapter: InstanceAdapter = InstanceAdapter.from_pretrained(str(root / NAME / PART))
    adapter.float().eval()
    return adapter


def instance_diffusion(task: Job) -> Path:
    """Train (or resume) the additions and save them with their card."""
    vae = load_vae(task.root, task.machine.device)
    edits, regions = edits_and_regions(task, vae)
    base = replace(df.load_parts(BASE, task.root), vae=vae)
    folder, budget = task.root / NAME, task.budget or BUDGET
    warm = task.warm and folder.is_dir()
    adapter = load(task.root) if warm else start(base)
    points = int(adapter.config["polygon_points"])
    batches = InstanceBatches(base, edits.load(vae), regions.load(), points, budget.batch)

    def sample(weights: Weights, path: Path) -> None:
        # A copy, since the training goes on with its own weights.
        trained = copy.deepcopy(adapter)
        trained.load_state_dict(weights[PART])
        cases = [task.world.case(-1 - i) for i in range(16)]
        grids.edit_grid(cases, edit(df.pipeline(BASE, base), trained.eval(), cases), path)

    result = run(adapter, base, batches, task.work, budget, task.machine, task.report, sample)
    adapter.load_state_dict(result.weights[PART])
    save(folder, adapter)
    return task.write_card(folder, result, budget, {}, warm=warm)


def save(folder: Path, adapter: InstanceAdapter) -> None:
    """Write the additions as half-precision safetensors. Everything else is the base's."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(adapter).cpu().half().save_pretrained(str(folder / PART))
    (folder / "shared.json").write_text(
        json.dumps(pb.CONTROL_SHARED, sort_keys=True) + "\n", encoding="utf-8"
    )


# --- measures ---------------------------------------------------------------------------------------


def edit(pipeline: Any, adapter: InstanceAdapter, cases: Sequence[EditCase]) -> list[Image]:
    """The raw edits of one batch of cases."""
    requests = [replace(case.request, seed=i) for i, case in enumerate(cases)]
    return sampler.edit(pipeline, adapter, requests, SETTINGS)


def check_instance_diffusion(
    world: World, root: Path = CHECKPOINTS, cases: int = 400
) -> list[ThresholdCheck]:
    """The share of edits that show their target. The thresholds are those of generators without training on edits."""
    entry(NAME, root)
    pipeline, adapter = df.pipeline(BASE, df.load_parts(BASE, root)), load(root)

    def editor(batch: Sequence[EditCase]) -> list[Image]:
        return edit(pipeline, adapter, batch)

    return th.judge_levels(NAME, th.in_batches(editor), world, root, cases, th.STEERED)

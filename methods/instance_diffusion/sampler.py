"""The sampler (paper): a run for every instance at first, and the source outside the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.images import mask_array
from methods import batches, latents
from methods.instance_diffusion.fusion import Grounding
from methods.instance_diffusion.instances import Shapes, shapes_of
from methods.instance_diffusion.model import InstanceAdapter, InstanceTokens, largest_attention
from methods.mask_grid import MaskCells, latent_mask

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest


@dataclass(frozen=True)
class InstanceSettings:
    """Options of the sampler."""

    steps: int = 50
    guidance: float = 7.5
    negative_prompt: str = ""
    # Share of the steps in which the instances act (alpha). After them the attention layers are the base's.
    grounded: float = 0.8
    # Share of the steps in which every instance has a run of its own. 0 is plain sampling.
    multi: float = 0.36
    merge: Literal["average", "paste"] = "average"
    mask_cells: MaskCells = "rescue"


@dataclass(frozen=True, eq=False)
class CaptionedInstance:
    """One instance: its mask, bool (H, W), and its caption."""

    mask: NDArray[np.bool_]
    caption: str


@dataclass(frozen=True, eq=False)
class InstanceRun:
    """One sampling of a request: all of its instances under its prompt, or one under its own caption."""

    request: int
    prompt: str
    instances: Sequence[CaptionedInstance]


def instances_of(request: EditRequest) -> list[CaptionedInstance]:
    """The request's regions, or else its mask with the region's prompt. Empty regions are left out."""
    instances = [CaptionedInstance(mask_array(region.mask), region.prompt) for region in request.regions]
    instances = [one for one in instances if one.mask.any() and one.caption.strip()]
    return instances or [CaptionedInstance(mask_array(request.needed_mask), request.region_prompt)]


def runs_of(requests: Sequence[EditRequest], multi: bool) -> list[InstanceRun]:
    """The main run of each request, then with ``multi`` one per instance of the requests that have several."""
    main = [InstanceRun(number, one.target_prompt, instances_of(one)) for number, one in enumerate(requests)]
    if not multi:
        return main
    single = [
        InstanceRun(run.request, one.caption, [one])
        for run in main
        if len(run.instances) > 1
        for one in run.instances
    ]
    return [*main, *single]


@torch.no_grad()
def edit(
    pipeline: Any, adapter: InstanceAdapter, requests: Sequence[EditRequest], settings: InstanceSettings
) -> list[Image]:
    """The raw edits of one batch. ``pipeline`` has the components of ``StableDiffusionPipeline``."""
    schedule = latents.NoiseSchedule(pipeline.scheduler)
    z_source = latents.encode(pipeline.vae, batches.to_tensor(batches.sources(requests), pipeline.device))
    factor = requests[0].source.size[0] // z_source.shape[3]
    mask = latents.masks(requests, factor, settings.mask_cells, pipeline.device)
    # One noise per request: its runs begin alike, and their average is no blur.
    noise = batches.noise(z_source, batches.generators(requests))

    grid = schedule.grid(settings.steps)
    alone, grounded = int(settings.multi * len(grid)), round(settings.grounded * len(grid))
    runs = runs_of(requests, multi=alone > 0)
    rows = torch.tensor([run.request for run in runs], device=pipeline.device)
    network = Grounded(pipeline, adapter, runs, settings)
    z = noise[rows]
    for step, (t, lower) in enumerate(pairwise([*grid, latents.CLEAN])):
        z = schedule.step(network(z, t, step < grounded), z, t, lower)
        # Outside the mask every run has the source, at the level just reached.
        outside = schedule.noised(z_source, noise, lower)
        z = torch.where(mask[rows] > 0.5, z, outside[rows])
        if step + 1 >= alone and len(z) > len(requests):
            z, rows = merged(z, runs, factor, settings.merge), rows[: len(requests)]
    return batches.to_images(latents.decode(pipeline.vae, z))


def merged(z: Tensor, runs: Sequence[InstanceRun], factor: int, merge: Literal["average", "paste"]) -> Tensor:
    """The latents of the main runs, which come first, joined with those of the runs of single instances."""
    count = max(run.request for run in runs) + 1
    out = z[:count].clone()
    if merge == "average":
        for number in range(count):
            out[number] = z[[row for row, run in enumerate(runs) if run.request == number]].mean(0)
        return out
    for row, run in enumerate(runs[count:], start=count):
        cells = latent_mask(run.instances[0].mask, factor, "cover")
        inside = torch.from_numpy(cells).to(z.device)
        out[run.request] = torch.where(inside, z[row], out[run.request])
    return out


class Grounded:
    """The network's prediction for the first of several runs, under classifier-free guidance."""

    def __init__(
        self, pipeline: Any, adapter: InstanceAdapter, runs: Sequence[InstanceRun], settings: InstanceSettings
    ) -> None:
        self.unet, self.adapter, self.guidance = pipeline.unet, adapter, settings.guidance
        guided = self.guidance > 1
        prompts = [run.prompt for run in runs]
        self.conditional, self.unconditional = pipeline.encode_prompt(
            prompts, pipeline.device, 1, guided, [settings.negative_prompt] * len(prompts)
        )
        self.grounding = grounding_of(pipeline, adapter, runs)
        # Number of runs -> their tokens, which are the same at every step.
        self._tokens: dict[int, InstanceTokens] = {}

    def __call__(self, z: Tensor, t: int, grounded: bool) -> Tensor:
        """Noisy latents (B, 4, h, w) of the first B runs at time step ``t`` => the prediction, float32."""
        count = len(z)
        context, x = self.conditional[:count], z
        if self.guidance > 1:
            # Both halves in one batch. The unconditional half has neither text nor instances.
            context, x = torch.cat([self.unconditional[:count], context]), torch.cat([z, z])
        tokens = self._tokens_of(z) if grounded else None
        output = self.adapter.predict(self.unet, x, torch.tensor(t, device=z.device), context, tokens)
        if self.guidance <= 1:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def _tokens_of(self, z: Tensor) -> InstanceTokens:
        count = len(z)
        if count not in self._tokens:
            grounding = _first(self.grounding, count)
            grounding = _both(grounding) if self.guidance > 1 else grounding
            self._tokens[count] = self.adapter.tokens(grounding, largest_attention(self.unet, *z.shape[2:]))
        return self._tokens[count]


def grounding_of(pipeline: Any, adapter: InstanceAdapter, runs: Sequence[InstanceRun]) -> Grounding:
    """The instances of the runs as tensors, with their captions' pooled features."""
    slots, points = int(adapter.config["slots"]), int(adapter.config["polygon_points"])
    shapes = [shapes_of([one.mask for one in run.instances], slots, points) for run in runs]
    captions = [one.caption for run in runs for one in run.instances]
    features = pooled_text(pipeline, captions)
    text = features.new_zeros(len(runs), slots, features.shape[1])
    # The captions lie behind one another, those of one run after the other.
    start = 0
    for row, run in enumerate(runs):
        text[row, : len(run.instances)] = features[start : start + len(run.instances)]
        start += len(run.instances)
    return as_grounding(shapes, text)


def as_grounding(shapes: Sequence[Shapes], text: Tensor) -> Grounding:
    """The locations of a batch, on the device of its captions' features ``text`` (B, R, W)."""

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(one, name) for one in shapes])).to(text.device)

    locations = {"box": stacked("boxes"), "point": stacked("points"), "polygon": stacked("polygons")}
    return Grounding(stacked("present"), text, locations, stacked("masks"))


def pooled_text(pipeline: Any, captions: Sequence[str]) -> Tensor:
    """The text encoder's features at the end of each caption, float (N, W)."""
    tokenizer = pipeline.tokenizer
    ids = tokenizer(
        list(captions), padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    ).input_ids  # fmt: skip
    pooled: Tensor = pipeline.text_encoder(ids.to(pipeline.device)).pooler_output
    return pooled


def _first(grounding: Grounding, count: int) -> Grounding:
    locations = {form: value[:count] for form, value in grounding.locations.items()}
    return Grounding(grounding.present[:count], grounding.text[:count], locations, grounding.masks[:count])


def _both(grounding: Grounding) -> Grounding:
    """The batch without instances, then with them."""
    none = grounding.nothing()
    return Grounding(
        torch.cat([none.present, grounding.present]), torch.cat([none.text, grounding.text]),
        {form: torch.cat([none.locations[form], value]) for form, value in grounding.locations.items()},
        torch.cat([none.masks, grounding.masks]),
    )  # fmt: skip

"""The sampler (paper): noise inside the mask, and the background back outside the predicted object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.images import mask_array
from methods import batches, latents
from methods.mask_grid import cover_cells
from methods.smartbrush.network import noised_inside, predict
from methods.smartbrush.precision import guess

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.edit import EditRequest

# A cell belongs to the predicted object where its probability is above this. A cell that is left out by mistake shows
# the old picture amid the new one, which harms more than a cell too many: `methods/zoo/TRAINING.md` compares values.
LIKELY = 0.3


@dataclass(frozen=True)
class BrushSettings:
    """Options of the sampler."""

    steps: int = 50
    guidance: float = 7.5
    negative_prompt: str = ""
    # Share of the steps that trust the given mask. The mask that is predicted in the last of them takes its place.
    trust: float = 0.4


@dataclass(frozen=True, eq=False)
class BrushArea:
    """One mask of a request, bool (H, W), its text and its precision."""

    mask: NDArray[np.bool_]
    prompt: str
    precision: int


def areas_of(
    request: EditRequest,
    prompt_field: Literal["region_prompt", "target_prompt"] = "region_prompt",
    precision: int | None = None,
    each_region: bool = True,
) -> list[BrushArea]:
    """The areas to fill, in order: the request's regions, or else its mask. ``precision`` None guesses it."""
    parts = [(mask_array(region.mask), region.prompt) for region in request.regions if each_region]
    parts = [(mask, prompt) for mask, prompt in parts if mask.any() and prompt.strip()]
    parts = parts or [(mask_array(request.needed_mask), getattr(request, prompt_field))]
    return [BrushArea(mask, text, guess(mask) if precision is None else precision) for mask, text in parts]


@torch.no_grad()
def edit(
    pipeline: Any,
    requests: Sequence[EditRequest],
    areas: Sequence[Sequence[BrushArea]],
    settings: BrushSettings,
) -> list[Image]:
    """The raw edits of one batch. ``pipeline`` has the components of ``StableDiffusionPipeline``."""
    z = latents.encode(pipeline.vae, batches.to_tensor(batches.sources(requests), pipeline.device))
    generators = batches.generators(requests)
    # In each round the next area of every request that has one. The result so far is its background.
    for number in range(max(len(parts) for parts in areas)):
        rows = [row for row, parts in enumerate(areas) if len(parts) > number]
        parts = [areas[row][number] for row in rows]
        z[rows] = fill(pipeline, z[rows], parts, [generators[row] for row in rows], settings).latents
    return batches.to_images(latents.decode(pipeline.vae, z))


@dataclass(frozen=True, eq=False)
class Filled:
    """Latents (B, 4, h, w) of the results, and the cells (B, 1, h, w) that were filled in the end, 0 or 1."""

    latents: Tensor
    cells: Tensor


@torch.no_grad()
def fill(
    pipeline: Any,
    z0: Tensor,
    areas: Sequence[BrushArea],
    generators: Sequence[torch.Generator],
    settings: BrushSettings,
) -> Filled:
    """Fill one area of each image. ``z0`` (B, 4, h, w) are the scaled latents of the images."""
    schedule = latents.NoiseSchedule(pipeline.scheduler)
    cells, coverage = _on_cells(areas, z0)
    precision = torch.tensor([area.precision for area in areas], device=z0.device)
    network = _Guided(pipeline, [area.prompt for area in areas], settings)

    grid = schedule.grid(settings.steps)
    x = noised_inside(z0, batches.noise(z0, generators), cells)
    trusted = max(1, round(settings.trust * len(grid)))
    for step, (t, lower) in enumerate(pairwise([*grid, latents.CLEAN]), start=1):
        output, logits = network(x, coverage, t, precision)
        x = schedule.step(output, x, t, lower)
        if step == trusted < len(grid):
            # The rest of the steps fills the predicted object, whose mask is exact.
            objects = _objects(cells, logits, precision)
            coverage, cells = coverage * objects, objects
            precision = torch.zeros_like(precision)
        # The clean background outside, which the network sees as it is.
        x = noised_inside(z0, x, cells)
    return Filled(x, cells)


def _objects(cells: Tensor, logits: Tensor, precision: Tensor) -> Tensor:
    """The predicted object inside the mask, (B, 1, h, w). An exact mask stays, and so does one without an object."""
    inside = cells * (logits.sigmoid() > LIKELY)
    is_exact = (precision == 0) | ~inside.flatten(1).any(1)
    return torch.where(is_exact.view(-1, 1, 1, 1), cells, inside)


def _on_cells(areas: Sequence[BrushArea], z0: Tensor) -> tuple[Tensor, Tensor]:
    """(1 for each latent cell that a mask touches, the share of each cell that it covers), float32 (B, 1, h, w)."""
    masks = np.stack([area.mask for area in areas])
    factor = masks.shape[1] // z0.shape[2]
    touched = np.stack([cover_cells(mask, factor) for mask in masks])[:, None, ::factor, ::factor]
    coverage = F.avg_pool2d(torch.from_numpy(masks).float()[:, None], factor)
    return torch.from_numpy(touched.copy()).to(z0.device, torch.float32), coverage.to(z0.device)


class _Guided:
    """The network under classifier-free guidance (Ho and Salimans 2022). The object's mask is that of the text."""

    def __init__(self, pipeline: Any, prompts: Sequence[str], settings: BrushSettings) -> None:
        self.unet, self.guidance = pipeline.unet, settings.guidance
        conditional, unconditional = pipeline.encode_prompt(
            list(prompts), pipeline.device, 1, self.guidance > 1, [settings.negative_prompt] * len(prompts)
        )
        self.context = torch.cat([unconditional, conditional]) if self.guidance > 1 else conditional

    def __call__(self, x: Tensor, coverage: Tensor, t: int, precision: Tensor) -> tuple[Tensor, Tensor]:
        """(prediction, logits) of :func:`predict` for the batch."""
        time = torch.tensor(t, device=x.device)
        if self.guidance <= 1:
            return predict(self.unet, x, coverage, time, self.context, precision)
        # Both halves in one batch.
        x, coverage, precision = (torch.cat([value] * 2) for value in (x, coverage, precision))
        output, logits = predict(self.unet, x, coverage, time, self.context, precision)
        unconditional, conditional = output.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional), logits.chunk(2)[1]

"""Measurements on held-out edits that choose an option or explain a figure. They have no thresholds.

``strengths`` compares starting points of PromptEditDiff's sampler (``run_bench.py zoo strength``). ``leakage`` says how
far from the mask an editor's raw edits differ from the source (``run_bench.py zoo leakage``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.edit import CATEGORIES, EditCase
from bench.images import mask_array, to_array
from bench.metrics.masked import masked_mse
from methods.mask_grid import cover_cells
from methods.zoo.corpus import FACTOR
from methods.zoo.manifest import CHECKPOINTS, entry
from methods.zoo.thresholds import Editor, classifier_of, held_out, in_batches, recognised

if TYPE_CHECKING:
    from methods.zoo.data import World

# The editors of ``leakage``. The autoencoder's round trip is the least that any latent editor leaks.
LEAKAGE_OF = (
    "autoencoder",
    "prompt_edit_diff",
    "prompt_edit_diff_no_mask_encoder",
    "sd_inpainting",
    "instruct_pix2pix",
)


def editor_of(name: str, root: Path = CHECKPOINTS) -> Editor:
    """The raw edits of an embedded checkpoint: "autoencoder", a diffusion editor or a variant of PromptEditDiff."""
    from methods.zoo import autoencoder, diffusion, grids
    from methods.zoo import prompt_edit_diff as ped

    entry(name, root)
    if name == "autoencoder":
        vae = autoencoder.load_vae(root)
        return partial(_round_trip, vae)
    if name in ("sd_inpainting", "instruct_pix2pix", "controlnet_inpaint"):
        return partial(grids.edit, name, diffusion.pipeline(name, diffusion.load_parts(name, root)))
    return partial(ped.edit, ped.pipeline(*ped.load(name, root)))


def _round_trip(vae: Any, cases: Sequence[EditCase]) -> list[Image.Image]:
    from methods.zoo.data import to_images, to_tensor

    sources = to_tensor(np.stack([to_array(case.request.source) for case in cases]))
    with torch.no_grad():
        decoded = vae.decode(vae.encode(sources).latent_dist.mode(), return_dict=False)[0]
    return [Image.fromarray(pixels) for pixels in to_images(decoded)]


# --- strength ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StrengthRow:
    """Held-out edits of one category ("all": of every one) at one strength."""

    strength: float
    category: str
    edits: int
    # Share of the edits whose target the attribute classifier sees.
    shown: float
    # Mean over the edits of the RMSE from the ground truth inside the mask, values in [0, 1].
    rmse: float
    # Mean difference of the RMSE from that of the first strength, edit by edit, and its standard error.
    difference: float
    error: float


def strengths(
    world: World,
    values: Sequence[float],
    name: str = "prompt_edit_diff",
    count: int = 96,
) -> list[StrengthRow]:
    """Edit ``count`` held-out cases at each strength, with the same noise."""
    from methods.zoo import prompt_edit_diff as ped

    entry(name)
    cases, classifier = held_out(world, count), classifier_of(CHECKPOINTS)
    pipeline = ped.pipeline(*ped.load(name))
    rows: list[StrengthRow] = []
    first: NDArray[np.float64] | None = None
    for strength in values:
        edited = in_batches(partial(ped.edit, pipeline, strength=strength))(cases)
        hits = np.array(recognised(classifier, edited, cases))
        rmse = np.array([_rmse(image, case) for image, case in zip(edited, cases, strict=True)])
        first = rmse if first is None else first
        for category in ("all", *CATEGORIES):
            chosen = np.array([category in ("all", case.category) for case in cases])
            if not chosen.any():
                continue
            change, n = (rmse - first)[chosen], int(chosen.sum())
            spread = float(change.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
            rows.append(
                StrengthRow(
                    strength, category, n, float(hits[chosen].mean()), float(rmse[chosen].mean()),
                    float(change.mean()), spread,
                )
            )  # fmt: skip
    return rows


def _rmse(edited: Image.Image, case: EditCase) -> float:
    """RMSE from the ground truth inside the mask, as the metric ``truth_rmse`` has it."""
    assert case.truth is not None
    mse = masked_mse(to_array(case.truth), to_array(edited), mask_array(case.request.needed_mask))
    return float("nan") if mse is None else float(np.sqrt(mse))


# --- leakage ------------------------------------------------------------------------------------------


def rings(mask: NDArray[np.bool_], factor: int = FACTOR) -> dict[str, NDArray[np.bool_]]:
    """The pixels outside a mask, bool (H, W) each, by their distance from the latent cells that the mask touches.

    "cells" are the pixels within those cells. The distances are Euclidean, in pixels, to the centre of the nearest
    pixel of those cells. "outside" is the union.
    """
    from scipy.ndimage import distance_transform_edt

    touched = cover_cells(mask, factor)
    distance = distance_transform_edt(~touched)
    return {
        "cells": touched & ~mask,
        "1-4 px": (distance > 0) & (distance < 5),
        "5-8 px": (distance >= 5) & (distance < 9),
        "9+ px": distance >= 9,
        "outside": ~mask,
    }


@dataclass(frozen=True)
class LeakageRow:
    """Raw edits of one editor in one ring of ``rings``, over all cases."""

    editor: str
    ring: str
    # PSNR from the source in dB, of the squared error over all pixels of all cases.
    psnr: float
    # Share of the pixels outside, and of the squared error outside.
    pixels: float
    error: float


def leakage(world: World, names: Sequence[str] = LEAKAGE_OF, count: int = 160) -> list[LeakageRow]:
    """Measure the raw edits of ``count`` held-out cases by each of ``names``."""
    cases = held_out(world, count)
    return [row for name in names for row in _leakage(name, in_batches(editor_of(name))(cases), cases)]


def _leakage(name: str, edited: Sequence[Image.Image], cases: Sequence[EditCase]) -> list[LeakageRow]:
    # Squared error and number of pixels per ring, over all cases.
    errors: dict[str, float] = {}
    pixels: dict[str, int] = {}
    for image, case in zip(edited, cases, strict=True):
        difference = (to_array(image).astype(np.float64) - to_array(case.request.source)) / 255
        squared = (difference**2).mean(2)
        for ring, where in rings(mask_array(case.request.needed_mask)).items():
            errors[ring] = errors.get(ring, 0.0) + float(squared[where].sum())
            pixels[ring] = pixels.get(ring, 0) + int(where.sum())
    return [
        LeakageRow(
            editor=name,
            ring=ring,
            psnr=_psnr(errors[ring], pixels[ring]),
            pixels=pixels[ring] / max(pixels["outside"], 1),
            error=errors[ring] / errors["outside"] if errors["outside"] else 0.0,
        )
        for ring in errors
    ]


def _psnr(error: float, pixels: int) -> float:
    """PSNR in dB of a sum of squared errors. NaN without pixels, infinite without an error."""
    if not pixels:
        return float("nan")
    return float(-10 * np.log10(error / pixels)) if error else float("inf")

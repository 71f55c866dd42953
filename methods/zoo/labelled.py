"""Edits of real methods, labelled by eye, from which the attribute classifier learns doubtful cases.

Spoiled renders (``methods.zoo.failures``) fail clearly. Edits of methods fail partly: a ball that is half red, a hat
of noise. ``labelled_edits/edits.jpg`` holds edits of training cases by all embedded methods. ``labels.csv`` states for
each whether its region shows the requested change.

The labels are the project's own, given by a vision-language model and not by human volunteers. It saw the source, the
outline of the mask, the edit and the instruction, but neither the method nor any verdict. Most of the edits were chosen
because an earlier classifier was unsure of them, or had accepted one of a weak method. JPEG of quality 88 without
chroma subsampling costs them less than the noise that the recipe adds to other images.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.images import mask_array
from methods.zoo.data import World

FOLDER = Path(__file__).resolve().parent / "labelled_edits"
# Edits per row of the image file.
TILES = 32


@dataclass(frozen=True)
class LabelledEdit:
    """One edit with its verdict. Its case is ``case(index)`` of the world that has its level alone."""

    index: int
    method: str
    shows: bool
    # uint8 (64, 64, 3).
    pixels: NDArray[np.uint8]
    # Level of the rendered world.
    level: int = 1


@cache
def load(folder: Path = FOLDER) -> tuple[LabelledEdit, ...]:
    """All labelled edits, in the order of the file. Raises FileNotFoundError for a missing folder."""
    from PIL import Image

    with Image.open(folder / "edits.jpg") as image:
        sheet = np.asarray(image.convert("RGB"))
    # Tiles are square, so the width of the sheet gives their side.
    side = sheet.shape[1] // TILES
    edits = []
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        # The rows of the table are the tiles of the image, in row-major order.
        for number, row in enumerate(csv.DictReader(file)):
            top, left = number // TILES * side, number % TILES * side
            pixels = np.ascontiguousarray(sheet[top : top + side, left : left + side])
            edits.append(
                LabelledEdit(int(row["index"]), row["method"], row["shows"] == "1", pixels, int(row["level"]))
            )
    return tuple(edits)


@dataclass(frozen=True)
class LabelledRegion:
    """One region of an edit, and the values that the case expects there, by attribute."""

    mask: NDArray[np.bool_]
    claims: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """A labelled edit as a training example. It shows the change if every region shows all of its expected values."""

    pixels: NDArray[np.uint8]
    regions: tuple[LabelledRegion, ...]
    shows: bool


def draw(
    levels: Mapping[int, World], edits: Sequence[LabelledEdit], count: int, rng: np.random.Generator
) -> list[Verdict]:
    """``count`` of the edits at random. Half of them are mirrored, and each is moved by up to two pixels.

    ``levels``: level -> the world that has this level alone, whose cases the edits number. Each level of the edits must
    be among them.
    """
    chosen = [edits[int(i)] for i in rng.integers(len(edits), size=count)]
    return [_augmented(levels[edit.level], edit, rng) for edit in chosen]


def _augmented(world: Any, edit: LabelledEdit, rng: np.random.Generator) -> Verdict:
    # The same augmentation for the image and its regions.
    mirrored = rng.random() < 0.5
    # The upper bound is exclusive: -2 to 2.
    down, right = (int(step) for step in rng.integers(-2, 3, size=2))

    def moved(image: NDArray[Any]) -> NDArray[Any]:
        """Mirror and move (H, W, ...) by whole pixels, and repeat the edges."""
        if mirrored:
            image = image[:, ::-1]
        height, width = image.shape[:2]
        # Clipped indices repeat the edges.
        rows = np.clip(np.arange(height) - down, 0, height - 1)[:, None]
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        return image[rows, columns]

    regions = tuple(LabelledRegion(moved(r.mask), r.claims) for r in _regions(world, edit.index))
    return Verdict(moved(edit.pixels), regions, edit.shows)


@lru_cache(maxsize=4_000)
def _regions(world: Any, index: int) -> tuple[LabelledRegion, ...]:
    """The regions of a case in which a change is expected. The world must be hashable here."""
    case = world.case(index)
    claims = [{c.attribute: c.after for c in case.claims if c.region == i} for i in range(len(case.areas))]
    return tuple(
        LabelledRegion(mask_array(mask), expected)
        for mask, expected in zip(case.areas, claims, strict=True)
        if expected
    )

"""Edits of real methods, labelled by eye: the attribute reader learns doubtful cases from them.

Spoiled renders (``methods.zoo.failures``) fail clearly. Methods fail in between: a ball that is half red, a hat of
noise. ``edits.jpg`` holds edits of training cases, of all embedded methods, and ``labels.csv`` says of each whether its
region shows what was asked for. The labels are the project's own, by a vision-language model and not by human
volunteers. It saw the source, the outline of the mask, the edit and the instruction, but neither the method nor any
verdict. Most of the edits were chosen because an earlier reader was unsure of them, or had accepted one of a weak
method. JPEG of quality 88 without chroma subsampling costs them less than the noise that the recipe adds to other
pictures.
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
TILES = 32
"""Edits in a row of the picture."""


@dataclass(frozen=True)
class LabelledEdit:
    """One edit with its verdict. The case is ``world.case(index)``."""

    index: int
    method: str
    shows: bool
    pixels: NDArray[np.uint8]
    """uint8 (64, 64, 3)."""


@cache
def load(folder: Path = FOLDER) -> tuple[LabelledEdit, ...]:
    """All labelled edits, in the order of the file. Raises FileNotFoundError where the folder is not there."""
    from PIL import Image

    with Image.open(folder / "edits.jpg") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    side = sheet.shape[1] // TILES
    edits = []
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        for place, row in enumerate(csv.DictReader(file)):
            top, left = place // TILES * side, place % TILES * side
            pixels = np.ascontiguousarray(sheet[top : top + side, left : left + side])
            edits.append(LabelledEdit(int(row["index"]), row["method"], row["shows"] == "1", pixels))
    return tuple(edits)


@dataclass(frozen=True)
class LabelledRegion:
    """One region of an edit. ``claims``: attribute -> the value that the case asks for there."""

    region: NDArray[np.bool_]
    claims: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """A labelled edit as the reader learns it. It shows what was asked for where every claim of every part holds."""

    pixels: NDArray[np.uint8]
    parts: tuple[LabelledRegion, ...]
    shows: bool


def draw(world: World, edits: Sequence[LabelledEdit], count: int, rng: np.random.Generator) -> list[Verdict]:
    """``count`` of the edits at random, half of them mirrored, each moved by up to two pixels."""
    return [_vary(world, edits[int(i)], rng) for i in rng.integers(len(edits), size=count)]


def _vary(world: Any, edit: LabelledEdit, rng: np.random.Generator) -> Verdict:
    mirrored = rng.random() < 0.5
    down, right = (int(step) for step in rng.integers(-2, 3, size=2))

    def moved(image: NDArray[Any]) -> NDArray[Any]:
        """Moved by whole pixels, edges repeated."""
        if mirrored:
            image = image[:, ::-1]
        height, width = image.shape[:2]
        rows = np.clip(np.arange(height) - down, 0, height - 1)[:, None]
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        return image[rows, columns]

    parts = tuple(
        LabelledRegion(moved(part.region), part.claims) for part in _labelled_regions(world, edit.index)
    )
    return Verdict(moved(edit.pixels), parts, edit.shows)


@lru_cache(maxsize=4_000)
def _labelled_regions(world: Any, index: int) -> tuple[LabelledRegion, ...]:
    """The regions of a case of a :class:`World`, which must be hashable here, in which something is claimed."""
    case = world.case(index)
    regions = [r.mask for r in case.request.regions] or [case.request.mask]
    claims = [{c.attribute: c.after for c in case.claims if c.region == i} for i in range(len(regions))]
    return tuple(
        LabelledRegion(mask_array(region), claimed)
        for region, claimed in zip(regions, claims, strict=True)
        if claimed
    )

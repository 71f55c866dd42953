"""The contact sheet of the docs: the same held-out edits by every method, chosen at random and not by eye."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.edit import EditCase
from bench.images import mask_array, write_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from methods.zoo.data import World

Editor = Callable[[Sequence[EditCase]], Sequence[Image.Image]]

# Range of the held-out cases: -FIRST, -FIRST - 1, ... Thresholds and sample grids use those before it.
FIRST, LAST = 1_000, 1_000_000

# Pixels between cells, around the sheet, and of the column of prompts.
GAP, MARGIN, TEXT = 8, 20, 330
PAPER, INK, QUIET, ACCENT = (255, 255, 255), (28, 30, 34), (120, 124, 132), (200, 40, 90)
OUTLINE = (255, 40, 160)


def contact_sheet(
    world: World, methods: Mapping[str, Editor], path: Path, seed: int = 0, cases: int = 10, scale: int = 3
) -> list[int]:
    """Write the PNG and return the indices of the cases. ``seed`` alone chooses them.

    Each case has a row: category, target prompt (with its edit words in colour) and source prompt, then source, the
    mask's outline, ground truth, and the result of every method. A method is called once with all cases. Images are
    enlarged ``scale`` times without smoothing. Raises ValueError where a method gives too few images or images of
    another size.
    """
    # Images by column.
    indices = choose_cases(seed, cases)
    rows = [world.case(index) for index in indices]
    columns: dict[str, list[Image.Image | None]] = {
        "source": [case.request.source for case in rows],
        "mask": [case.request.source for case in rows],
        "truth": [case.truth for case in rows],
    }
    for name, editor in methods.items():
        columns[name] = list(_checked(name, editor(rows), rows))

    # Layout: the header fits the longest title.
    side = max(case.request.source.width for case in rows) * scale
    tall = max(case.request.source.height for case in rows) * scale
    titles = {name: _wrapped(name.replace("_", " "), _font(18), side) for name in columns}
    head = MARGIN + 22 * max(len(lines) for lines in titles.values()) + GAP
    width = 2 * MARGIN + TEXT + len(columns) * (side + GAP)
    sheet = Image.new("RGB", (width, head + len(rows) * (tall + GAP) + 24 + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)

    # Columns of images under their titles.
    for column, (name, images) in enumerate(columns.items()):
        left = MARGIN + TEXT + GAP + column * (side + GAP)
        for i, line in enumerate(reversed(titles[name])):
            draw.text((left + side / 2, head - GAP - 22 * i), line, INK, _font(18), anchor="md")
        for row, (case, image) in enumerate(zip(rows, images, strict=True)):
            top = head + row * (tall + GAP)
            if image is None:
                draw.text((left + side / 2, top + tall / 2), "none", QUIET, _font(14), anchor="mm")
                continue
            cell = image.convert("RGB")
            cell = cell.resize((cell.width * scale, cell.height * scale), Image.Resampling.NEAREST)
            if name == "mask":
                cell = _outlined(cell, mask_array(case.request.needed_mask), scale)
            sheet.paste(cell, (left, top))

    # Prompts, and the line below.
    for row, case in enumerate(rows):
        _prompts(draw, case, (MARGIN, head + row * (tall + GAP)), tall)
    foot = f"{len(rows)} held-out edits of the mini world (version {world.version}), drawn by seed {seed}"
    draw.text((MARGIN, sheet.height - MARGIN), foot, QUIET, _font(15), anchor="ls")
    write_png(path, sheet)
    return indices


def choose_cases(seed: int, count: int) -> list[int]:
    """``count`` different negative indices, portraits and scenes in turn."""
    # The world has portraits at even indices and scenes at odd ones.
    rng = np.random.Generator(np.random.PCG64([seed, 51]))
    half = rng.choice((LAST - FIRST) // 2, count, replace=False)
    return [-(FIRST + 2 * int(place) + i % 2) for i, place in enumerate(half)]


def _checked(name: str, images: Sequence[Image.Image], cases: Sequence[EditCase]) -> Sequence[Image.Image]:
    """The images, where they are as many as the cases and as large as their sources."""
    if len(images) != len(cases):
        raise ValueError(f"method {name!r} gave {len(images)} images for {len(cases)} cases")
    for image, case in zip(images, cases, strict=True):
        size = case.request.source.size
        if image.size != size:
            raise ValueError(
                f"method {name!r} gave {image.size} pixels for case {case.id}, whose source has {size}"
            )
    return images


def _outlined(image: Image.Image, mask: NDArray[np.bool_], scale: int) -> Image.Image:
    """The enlarged source, pale outside the mask, with the mask's border as a line inside it."""
    from scipy.ndimage import binary_erosion

    inside = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    # 5 x 5 takes two pixels off every side, so the line is two pixels wide.
    core = binary_erosion(inside, np.ones((5, 5)))
    pixels = np.asarray(image, np.float64)
    pale = 0.45 * pixels + 0.55 * 255
    out = np.where(inside[..., None], pixels, pale)
    out[inside & ~core] = OUTLINE
    return Image.fromarray(out.round().astype(np.uint8))


def _prompts(draw: ImageDraw.ImageDraw, case: EditCase, place: tuple[int, int], tall: int) -> None:
    """Write category and prompts at ``place`` (left, top), within ``tall`` pixels."""
    request = case.request
    left, top = place
    draw.text((left, top), case.category.replace("_", " ").upper(), QUIET, _font(14))
    top += 24
    # The target prompt, with the edit words in colour.
    groups = [region.words for region in request.regions] or [request.edit_words]
    highlighted, position = marked(request.target_prompt.split(), groups), 0
    for line in _wrapped(request.target_prompt, _font(21), TEXT - GAP):
        x = float(left)
        for word in line.split():
            draw.text((x, top), word, ACCENT if position in highlighted else INK, _font(21))
            x += _font(21).getlength(word + " ")
            position += 1
        top += 27
    top += 6
    # The source prompt, as far as there is room.
    before = _wrapped(f"was: {request.source_prompt}", _font(16), TEXT - GAP)
    room = max(0, (place[1] + tall - top) // 20)
    if len(before) > room:
        before = [*before[: max(room - 1, 0)], "…"][:room]
    for line in before:
        draw.text((left, top), line, QUIET, _font(16))
        top += 20


def marked(words: Sequence[str], groups: Sequence[Sequence[str]]) -> set[int]:
    """Indices of a prompt's words that belong to the groups.

    A group is searched as a whole, then word by word. Each occurrence serves once, so in "a red kite and a red cup" the
    group ("red", "cup") does not take the kite's word.
    """
    # Punctuation belongs to no word.
    plain = [word.strip(".,;").lower() for word in words]
    indices: set[int] = set()
    for group in groups:
        sought = [word.lower() for words in group for word in words.split()]
        starts = [
            i
            for i in range(len(plain) - len(sought) + 1)
            if plain[i : i + len(sought)] == sought and not indices & set(range(i, i + len(sought)))
        ]
        # The first place where the group stands as a whole.
        if starts and sought:
            indices |= set(range(starts[0], starts[0] + len(sought)))
            continue
        for word in sought:
            indices |= {next((i for i, one in enumerate(plain) if one == word and i not in indices), -1)}
    return indices - {-1}


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than ``width`` pixels. A wider word is broken."""
    lines: list[str] = []
    # Greedy: a word goes on the line if it fits.
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        elif font.getlength(word) <= width:
            lines.append(word)
        else:
            lines += textwrap.wrap(word, max(1, int(len(word) * width / font.getlength(word))))
    return lines or [""]


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError(
            "this Pillow has no FreeType, which the sheet's text needs. Install Pillow's own wheel."
        )
    return font

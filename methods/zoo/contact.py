"""The contact sheet of the docs: the same held-out edits by every method, drawn by lot and not by eye."""

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

FIRST, LAST = 1_000, 1_000_000
"""Held-out cases that may be drawn: -FIRST, -FIRST - 1, ... Those before it are behind the gates and sample grids."""

GAP, MARGIN, TEXT = 8, 20, 330
"""Pixels between cells, around the sheet, and of the column of prompts."""
PAPER, INK, QUIET, ACCENT = (255, 255, 255), (28, 30, 34), (120, 124, 132), (200, 40, 90)
OUTLINE = (255, 40, 160)


def contact_sheet(
    world: World,
    methods: Mapping[str, Editor],
    path: Path,
    seed: int = 0,
    cases: int = 10,
    scale: int = 3,
) -> list[int]:
    """Writes the PNG and gives the indices of the cases shown.

    A row for each case: category, target prompt (its edit words in colour) and source prompt; then source, the mask's
    outline, truth, and the result of every method, called once with all cases. Pictures are enlarged ``scale`` times
    without smoothing. ``seed`` alone decides which held-out cases are shown. Raises ValueError where a method gives
    too few pictures or pictures of another size.
    """
    indices = drawn(seed, cases)
    asked = [world.case(index) for index in indices]
    columns: dict[str, list[Image.Image | None]] = {
        "source": [case.request.source for case in asked],
        "mask": [case.request.source for case in asked],
        "truth": [case.truth for case in asked],
    }
    for name, editor in methods.items():
        columns[name] = list(_checked(name, editor(asked), asked))
    side = max(case.request.source.width for case in asked) * scale
    tall = max(case.request.source.height for case in asked) * scale
    titles = {name: _wrapped(name.replace("_", " "), _font(18), side) for name in columns}
    head = MARGIN + 22 * max(len(lines) for lines in titles.values()) + GAP
    width = 2 * MARGIN + TEXT + len(columns) * (side + GAP)
    sheet = Image.new("RGB", (width, head + len(asked) * (tall + GAP) + 24 + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, (name, pictures) in enumerate(columns.items()):
        left = MARGIN + TEXT + GAP + column * (side + GAP)
        for i, line in enumerate(reversed(titles[name])):
            draw.text((left + side / 2, head - GAP - 22 * i), line, INK, _font(18), anchor="md")
        for row, (case, picture) in enumerate(zip(asked, pictures, strict=True)):
            place = (left, head + row * (tall + GAP))
            if picture is None:
                draw.text((place[0] + side / 2, place[1] + tall / 2), "none", QUIET, _font(14), anchor="mm")
                continue
            shown = picture.convert("RGB")
            shown = shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.NEAREST)
            if name == "mask":
                shown = _outlined(shown, mask_array(case.request.mask), scale)
            sheet.paste(shown, place)
    for row, case in enumerate(asked):
        _prompts(draw, case, (MARGIN, head + row * (tall + GAP)), tall)
    foot = f"{len(asked)} held-out edits of the mini world (version {world.version}), drawn by seed {seed}"
    draw.text((MARGIN, sheet.height - MARGIN), foot, QUIET, _font(15), anchor="ls")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet)
    return indices


def drawn(seed: int, count: int) -> list[int]:
    """``count`` different negative indices; half of them (one less where odd) are scenes, the others portraits.

    The world has portraits at even indices and scenes at odd ones.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 51]))
    half = rng.choice((LAST - FIRST) // 2, count, replace=False)
    return [-(FIRST + 2 * int(place) + i % 2) for i, place in enumerate(half)]


def _checked(name: str, made: Sequence[Image.Image], asked: Sequence[EditCase]) -> Sequence[Image.Image]:
    if len(made) != len(asked):
        raise ValueError(f"method {name!r} gave {len(made)} pictures for {len(asked)} cases")
    for image, case in zip(made, asked, strict=True):
        size = case.request.source.size
        if image.size != size:
            raise ValueError(
                f"method {name!r} gave {image.size} pixels for case {case.id}, whose source has {size}"
            )
    return made


def _outlined(shown: Image.Image, mask: NDArray[np.bool_], scale: int) -> Image.Image:
    """The enlarged source, pale outside the mask, the mask's border as a line inside of it."""
    inside = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    padded = np.pad(inside, 2)
    height, width = inside.shape
    core = inside.copy()
    for dy in range(5):
        for dx in range(5):
            core &= padded[dy : dy + height, dx : dx + width]
    pixels = np.asarray(shown, np.float64)
    pale = 0.45 * pixels + 0.55 * 255
    out = np.where(inside[..., None], pixels, pale)
    out[inside & ~core] = OUTLINE
    return Image.fromarray(out.round().astype(np.uint8))


def _prompts(draw: ImageDraw.ImageDraw, case: EditCase, place: tuple[int, int], tall: int) -> None:
    request = case.request
    left, top = place
    draw.text((left, top), case.category.replace("_", " ").upper(), QUIET, _font(14))
    top += 24
    groups = [region.words for region in request.regions] or [request.edit_words]
    told, position = marked(request.target_prompt.split(), groups), 0
    for line in _wrapped(request.target_prompt, _font(21), TEXT - GAP):
        x = float(left)
        for word in line.split():
            draw.text((x, top), word, ACCENT if position in told else INK, _font(21))
            x += _font(21).getlength(word + " ")
            position += 1
        top += 27
    top += 6
    before = _wrapped(f"was: {request.source_prompt}", _font(16), TEXT - GAP)
    room = max(0, (place[1] + tall - top) // 20)
    if len(before) > room:
        before = [*before[: max(room - 1, 0)], "…"][:room]
    for line in before:
        draw.text((left, top), line, QUIET, _font(16))
        top += 20


def marked(words: Sequence[str], groups: Sequence[Sequence[str]]) -> set[int]:
    """Which of a prompt's words are those of the groups: a group as a whole where it stands so, else word by word.

    Each occurrence serves once, so that in "a red kite and a red cup" the group ("red", "cup") is not the kite's.
    """
    plain = [word.strip(".,;").lower() for word in words]
    found: set[int] = set()
    for group in groups:
        sought = [word.lower() for words in group for word in words.split()]
        starts = [
            i
            for i in range(len(plain) - len(sought) + 1)
            if plain[i : i + len(sought)] == sought and not found & set(range(i, i + len(sought)))
        ]
        if starts and sought:
            found |= set(range(starts[0], starts[0] + len(sought)))
            continue
        for word in sought:
            found |= {next((i for i, one in enumerate(plain) if one == word and i not in found), -1)}
    return found - {-1}


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than ``width`` pixels; a word that is wider is broken."""
    lines: list[str] = []
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
    found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise ValueError(
            "this Pillow has no FreeType, which the sheet's text needs. Install Pillow's own wheel."
        )
    return found

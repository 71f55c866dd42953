"""Sheets of the documentation: the first cases of a protocol, each as source, mask and ground truth.

python -m protocols.world.sheet world-level-2 docs/world/level-2.webp
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.edit import EditCase, EditProtocol
from bench.files import atomic_file
from bench.images import mask_array
from bench.registry import Registry, parse_options
from protocols import PROTOCOLS
from protocols.selection import ProtocolError

# Pixels: side of an image on the sheet, between cells, height and characters of a line of text.
_SIDE, _GAP, _LINE, _CHARACTERS = 192, 12, 17, 86
_LINES = 5
_PER_CATEGORY = 2
_INK, _FAINT, _ACCENT = (28, 30, 34), (110, 114, 122), (190, 30, 90)
_EXACT = (255, 40, 160)


def sheet(protocol: EditProtocol, per_category: int = _PER_CATEGORY) -> Image.Image:
    """A row for each category with its first cases: instruction, source prompt, target prompt, and three images.

    The second image is pale outside the mask that methods get, which a dark line bounds. Pink lines bound the areas
    that metrics look at, where those are others.
    """
    groups: dict[str, list[EditCase]] = {category: [] for category in protocol.categories}
    for case in protocol.cases():
        if len(groups[case.category]) < per_category:
            groups[case.category].append(case)
    width, head = 3 * _SIDE, _LINES * _LINE
    columns, rows = per_category, [cases for cases in groups.values() if cases]
    out = Image.new(
        "RGB", (columns * (width + _GAP) + _GAP, len(rows) * (head + _SIDE + _GAP) + _GAP), "white"
    )
    for row, cases in enumerate(rows):
        for column, case in enumerate(cases):
            _draw(out, case, (_GAP + column * (width + _GAP), _GAP + row * (head + _SIDE + _GAP)), head)
    return out


def _draw(out: Image.Image, case: EditCase, place: tuple[int, int], head: int) -> None:
    """One case at ``place`` (left, top): at most ``_LINES`` lines of text, then its images."""
    request = case.request
    left, top = place
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(14)
    kind = ", ".join(dict.fromkeys([case.category, *([case.tags["mask"]] if "mask" in case.tags else [])]))
    lines: list[tuple[str, tuple[int, int, int]]] = [(f"{kind}: {request.instruction}", _INK)]
    lines += [(request.source_prompt, _FAINT), (request.target_prompt, _ACCENT)]
    broken = [(part, ink) for text, ink in lines for part in textwrap.wrap(text, _CHARACTERS)]
    for number, (text, ink) in enumerate(broken[:_LINES]):
        pen.text((left, top + number * _LINE), text, ink, font)
    if case.truth is None:
        raise ProtocolError(
            f"case {case.id} has no ground truth. Sheets show protocols of the rendered world."
        )
    images = [_enlarged(request.source), _masked(case), _enlarged(case.truth)]
    for number, image in enumerate(images):
        out.paste(image, (left + number * _SIDE, top + head))


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)


def _masked(case: EditCase) -> Image.Image:
    """The source, pale outside the mask of the methods, with the outlines of that and of other scored areas."""
    pixels = np.asarray(_enlarged(case.request.source)).astype(np.float64)
    inside = _grown(mask_array(case.request.needed_mask))
    out = np.where(inside[..., None], pixels, 0.35 * pixels + 0.65 * 255)
    out[_outline(inside)] = _INK
    if case.scored is not None:
        for area in case.areas:
            out[_outline(_grown(mask_array(area)))] = _EXACT
    return Image.fromarray(out.round().astype(np.uint8))


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)) > 0


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that have a neighbour outside it."""
    core = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            core &= np.roll(mask, step, axis)
    return mask & ~core


def main(arguments: Sequence[str]) -> None:
    """``arguments``: name of a protocol, path of the WebP file. Raises ProtocolError for others."""
    if len(arguments) != 2 or arguments[0] not in PROTOCOLS:
        names = ", ".join(PROTOCOLS)
        raise ProtocolError(
            f"usage: python -m protocols.world.sheet PROTOCOL OUT.webp. PROTOCOL is one of {names}"
        )
    name, path = arguments
    cls: Any = Registry("protocol", PROTOCOLS, "").load(name)
    image = sheet(cls(parse_options(cls, {})))
    with atomic_file(Path(path)) as temporary:
        # Lossless: with a palette, red turns pink and blue turns cyan. A PNG is half as large again.
        image.save(temporary, "WEBP", lossless=True, quality=100, method=6)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ProtocolError as error:
        sys.exit(str(error))

"""The picture of a run: source, mask and every method's edit, side by side.

Which cases are shown is decided by rule (per category the first by hash of the id), never by eye.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from bench.edit import CATEGORIES, EditCase, EditRecord
from bench.errors import BenchError
from reports.data.scores import control_titles, method_titles

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    from bench.store import RunStore

PANEL = 192
"""Side length of one picture of the grid, in pixels."""
GAP = 10
MARGIN = 28
PAPER, INK, FAINT, RULE = "#ffffff", "#1b1b1f", "#75757d", "#d9d9de"
OUTLINE = "#ff2d87"
"""Of the mask: a colour that neither skin, sky nor grass has."""
CATEGORY_INK: Mapping[str, str] = {
    "attribute": "#7a3e9d",
    "replacement": "#0b6e99",
    "background": "#2f7d32",
    "multi_object": "#b3541e",
}

MARKS: Mapping[bool, tuple[str, str]] = {True: ("\u2713", "#0b7a48"), False: ("\u2717", "#b4371d")}
"""Under an edit: whether it succeeded."""


class FigureError(BenchError):
    """A picture that cannot be drawn. The message names the remedy."""


@dataclass(frozen=True, eq=False)
class GridRow:
    """One case: its edits, in the order of the columns; None where there is none."""

    case: EditCase
    edits: tuple[Image.Image | None, ...]
    succeeded: tuple[bool | None, ...] = ()
    """Whether each edit succeeded; None where it was not judged."""


def grid(
    store: RunStore,
    *,
    per_category: int = 1,
    records: Sequence[EditRecord] | None = None,
    succeeded: Mapping[tuple[str, str, str], bool] | None = None,
) -> Path:
    """Draws ``report/figures/grid.png`` of a run and returns its path: one block per protocol.

    Methods come first, controls after them. ``records``: the edits, where they were read already.
    ``succeeded``: (protocol, title, case id) -> whether that edit succeeded, which is then marked under it.
    Raises :class:`FigureError` where the run holds no case at all.
    """
    controls = control_titles(store)
    titles = method_titles(store)
    labels = dict(sorted(titles.items(), key=lambda item: item[1] in controls))
    records = store.edits() if records is None else records
    blocks = []
    for protocol in store.protocols():
        file = store.cases(protocol)
        found = last_edits(records, protocol)
        rows = []
        for case_id in chosen([(row["id"], row["category"]) for row in file.rows], per_category):
            made = [found.get((digest, case_id)) for digest in labels]
            edits = tuple(None if record is None else store.image(record) for record in made)
            marks = tuple((succeeded or {}).get((protocol, title, case_id)) for title in labels.values())
            rows.append(GridRow(file.get(case_id), edits, marks))
        if rows:
            blocks.append((protocol, rows))
    if not blocks:
        raise FigureError(
            f"{store.path}: holds no case, so there is nothing to draw. Run a suite into it first."
        )
    buffer = io.BytesIO()
    draw(blocks, list(labels.values()), controls).save(buffer, "PNG", optimize=True)
    return store.write_file("report/figures/grid.png", buffer.getvalue(), "the grid")


def chosen(cases: Sequence[tuple[str, str]], per_category: int = 1) -> list[str]:
    """Of (id, category): per category the first ids by their SHA-256, in the categories' order."""

    def rank(case_id: str) -> str:
        return hashlib.sha256(case_id.encode()).hexdigest()

    picked = []
    for category in CATEGORIES:
        ids = sorted((case_id for case_id, of in cases if of == category), key=rank)
        picked += ids[:per_category]
    return picked


def draw(
    blocks: Sequence[tuple[str, Sequence[GridRow]]], columns: Sequence[str], faint: Container[str] = ()
) -> Image.Image:
    """The whole picture, RGB. ``columns`` are the methods' labels; each block is (heading, rows).

    Labels in ``faint`` are printed in gray.
    """
    title_font, label_font = _font(22, bold=True), _font(15, bold=True)
    text_font, chip_font = _font(15), _font(13, bold=True)
    width = 2 * MARGIN + (2 + len(columns)) * PANEL + (1 + len(columns)) * GAP
    labels = ["source", "mask", *columns]
    label_lines = [_wrap(label.replace("_", " "), label_font, PANEL) for label in labels]
    head_height = max(len(lines) for lines in label_lines) * 19 + 8
    captions: list[list[list[str]]] = [
        [_caption(row.case, text_font, width - 2 * MARGIN) for row in rows] for _, rows in blocks
    ]
    # Room under the panels, where any edit is marked.
    marks = 18 * any(verdict is not None for _, rows in blocks for row in rows for verdict in row.succeeded)
    height = 2 * MARGIN
    for of_block in captions:
        height += (
            40 + head_height + sum(PANEL + 10 + marks + 20 * (1 + len(lines)) + 20 for lines in of_block)
        )
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    y = MARGIN
    for (heading, rows), of_block in zip(blocks, captions, strict=True):
        pen.text((MARGIN, y), heading, font=title_font, fill=INK)
        y += 30
        pen.line([(MARGIN, y), (width - MARGIN, y)], fill=RULE, width=2)
        y += 10
        for k, lines in enumerate(label_lines):
            x = MARGIN + k * (PANEL + GAP)
            for j, line in enumerate(lines):
                offset = head_height - 8 - 19 * (len(lines) - j)
                ink = FAINT if k >= 2 and labels[k] in faint else INK
                pen.text((x + PANEL / 2, y + offset), line, font=label_font, fill=ink, anchor="ma")
        y += head_height
        for row, caption in zip(rows, of_block, strict=True):
            pictures = [outlined(row.case), _mask_panel(row.case), *map(_edit_panel, row.edits)]
            for k, picture in enumerate(pictures):
                x = MARGIN + k * (PANEL + GAP)
                canvas.paste(picture, (x, y))
                pen.rectangle([x - 1, y - 1, x + PANEL, y + PANEL], outline=RULE)
            for k, verdict in enumerate(row.succeeded, 2):
                if verdict is not None:
                    sign, ink = MARKS[verdict]
                    middle = MARGIN + k * (PANEL + GAP) + PANEL / 2
                    pen.text((middle, y + PANEL + 3), sign, font=label_font, fill=ink, anchor="ma")
            y += PANEL + 10 + marks
            chip = row.case.category.replace("_", "-")
            pen.text((MARGIN, y + 1), chip, font=chip_font, fill=CATEGORY_INK.get(row.case.category, INK))
            indent = pen.textlength(chip, font=chip_font) + 12
            pen.text(
                (MARGIN + indent, y),
                _clip(row.case.request.source_prompt, text_font, width - 2 * MARGIN - int(indent)),
                font=text_font,
                fill=FAINT,
            )
            for line in caption:
                y += 20
                pen.text((MARGIN, y), line, font=text_font, fill=INK)
            y += 20 + 20
    return canvas


def outlined(case: EditCase, size: int = PANEL) -> Image.Image:
    """The source at ``size``, with the outline of the mask drawn on the enlarged pixels."""
    image = enlarged(case.request.source, size)
    mask = case.request.mask.convert("L").resize((size, size), Image.Resampling.NEAREST)
    # A white seam outside the coloured one keeps the outline visible on any ground.
    # The picture's rim counts as outside, so that every outline is closed.
    shrunk = ImageOps.expand(mask, 2, 0).filter(ImageFilter.MinFilter(5)).crop((2, 2, size + 2, size + 2))
    inner = ImageChops.subtract(mask, shrunk)
    outer = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(3)), mask)
    image.paste(Image.new("RGB", image.size, "#ffffff"), mask=outer)
    image.paste(Image.new("RGB", image.size, OUTLINE), mask=inner)
    return image


def _mask_panel(case: EditCase, size: int = PANEL) -> Image.Image:
    mask = case.request.mask.convert("L").resize((size, size), Image.Resampling.NEAREST)
    ground = Image.new("RGB", (size, size), "#2b2b31")
    ground.paste(Image.new("RGB", (size, size), "#ffffff"), mask=mask)
    return ground


def _edit_panel(edit: Image.Image | None, size: int = PANEL) -> Image.Image:
    if edit is not None:
        return enlarged(edit, size)
    blank = Image.new("RGB", (size, size), "#f4f4f6")
    pen = ImageDraw.Draw(blank)
    pen.line([(0, 0), (size, size)], fill=RULE)
    pen.text((size / 2, size / 2), "failed", font=_font(15), fill=FAINT, anchor="mm")
    return blank


def enlarged(image: Image.Image, size: int) -> Image.Image:
    """Nearest where pixels become larger, so that one sees what there is; Lanczos where smaller."""
    way = Image.Resampling.NEAREST if max(image.size) <= size else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((size, size), way)


def _caption(case: EditCase, font: FreeTypeFont, room: int) -> list[str]:
    return _wrap("→ " + case.request.target_prompt, font, room)


def _wrap(text: str, font: FreeTypeFont, room: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(_clip(word, font, room))
    return lines or [""]


def _clip(text: str, font: FreeTypeFont, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans, from matplotlib's own files: the same letters on every machine."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FigureError("the fonts of matplotlib are needed to draw. Run: pip install matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(spec.origin).parent / "mpl-data/fonts/ttf" / name), size)


Edits = Mapping[tuple[str, str], EditRecord]
"""(method digest, case id) -> record."""


def last_edits(records: Sequence[EditRecord], protocol: str) -> Edits:
    """(method digest, case id) -> record with a file, of one protocol; with several seeds, the first."""
    found: dict[tuple[str, str], EditRecord] = {}
    for record in records:
        if record.key.protocol == protocol and record.file is not None:
            found.setdefault((record.key.method, record.key.case), record)
    return found

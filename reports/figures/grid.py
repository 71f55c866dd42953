"""The overview image of a run: source, mask and every method's edit, side by side.

A rule chooses the cases (per category the first by the hash of the id), not a person.
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
from reports.data.scores import control_titles, method_titles, remarks
from reports.figures.style import label

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    from bench.store import RunStore

# Side of one image of the grid, in pixels.
PANEL = 192
GAP = 10
MARGIN = 28
PAPER, INK, FAINT, RULE = "#ffffff", "#1b1b1f", "#75757d", "#d9d9de"
# Colour of the mask's outline, which neither skin, sky nor grass has.
OUTLINE = "#ff2d87"
CATEGORY_INK: Mapping[str, str] = {
    "attribute": "#7a3e9d",
    "replacement": "#0b6e99",
    "background": "#2f7d32",
    "multi_object": "#b3541e",
}

# Sign and colour under an edit that succeeded, or failed.
# Shapes as well as colours, for readers who do not tell green from red, and for print.
MARKS: Mapping[bool, tuple[str, str]] = {True: ("\u2713", "#0b7a48"), False: ("\u2717", "#b4371d")}


class FigureError(BenchError):
    """A figure that cannot be drawn. The message names the remedy."""


@dataclass(frozen=True, eq=False)
class GridRow:
    """One case and its edits, in the order of the columns. None where a method has no edit."""

    case: EditCase
    edits: tuple[Image.Image | None, ...]
    # True where the edit succeeded. None where it was not judged.
    succeeded: tuple[bool | None, ...] = ()


def grid(
    store: RunStore,
    *,
    records: Sequence[EditRecord] | None = None,
    succeeded: Mapping[tuple[str, str, str], bool] | None = None,
) -> Path:
    """Draws ``report/figures/grid.png`` of a run and returns its path: one block per protocol.

    Methods come first, then controls. ``records``: the edits, where the caller has read them. ``succeeded``:
    (protocol, title, case id) -> whether that edit succeeded, which a mark under it shows. Raises
    :class:`FigureError` where the run has no case.
    """
    controls = control_titles(store)
    titles = method_titles(store)
    # The sort is stable: within methods and controls the run's order remains.
    labels = dict(sorted(titles.items(), key=lambda item: item[1] in controls))
    records = store.edits() if records is None else records
    # One block per protocol, one row per chosen case.
    blocks = []
    for protocol in store.protocols():
        # Only the chosen cases and edits are decoded.
        file = store.cases(protocol)
        edits_of = last_edits(records, protocol)
        rows = []
        for case_id in chosen([(row["id"], row["category"]) for row in file.rows]):
            of_case = [edits_of.get((digest, case_id)) for digest in labels]
            edits = tuple(None if record is None else store.image(record) for record in of_case)
            marks = tuple((succeeded or {}).get((protocol, title, case_id)) for title in labels.values())
            rows.append(GridRow(file.get(case_id), edits, marks))
        if rows:
            # A protocol without one of the paper's categories has no row, and so no block.
            blocks.append((protocol, rows))
    if not blocks:
        raise FigureError(
            f"{store.path}: holds no case, so there is nothing to draw. Run a suite into it first."
        )
    buffer = io.BytesIO()
    # optimize: the file goes into READMEs, and is written once.
    heads = {title: label(title, remarks(store)) for title in labels.values()}
    faint = {heads[title] for title in controls}
    draw(blocks, list(heads.values()), faint).save(buffer, "PNG", optimize=True)
    return store.write_file("report/figures/grid.png", buffer.getvalue(), "the grid")


def chosen(cases: Sequence[tuple[str, str]], per_category: int = 1) -> list[str]:
    """Per category the first ids by their SHA-256, in the order of the categories. ``cases``: (id, category)."""

    def rank(case_id: str) -> str:
        return hashlib.sha256(case_id.encode()).hexdigest()

    picked = []
    # The paper's categories first, then those that a protocol has of its own.
    for category in dict.fromkeys([*CATEGORIES, *(name for _, name in cases)]):
        ids = sorted((case_id for case_id, name in cases if name == category), key=rank)
        picked += ids[:per_category]
    return picked


def draw(
    blocks: Sequence[tuple[str, Sequence[GridRow]]], columns: Sequence[str], faint: Container[str] = ()
) -> Image.Image:
    """The whole image, RGB. ``columns``: labels of the methods. Each block is (heading, rows).

    Labels in ``faint`` are printed in gray.
    """
    labels = ["source", "mask", *columns]
    inks = [INK, INK, *(FAINT if label in faint else INK for label in columns)]
    width = 2 * MARGIN + len(labels) * PANEL + (len(labels) - 1) * GAP

    # Heights first: the canvas needs them.
    heads = [_wrap(label.replace("_", " "), _font(15, bold=True), PANEL) for label in labels]
    head_height = max(map(len, heads)) * HEAD_LINE + 8
    captions = [[_caption(row.case, _font(15), width - 2 * MARGIN) for row in rows] for _, rows in blocks]
    # Room for marks under the images, where any edit was judged.
    marks = 18 * any(verdict is not None for _, rows in blocks for row in rows for verdict in row.succeeded)
    heights = [
        40 + head_height + sum(_row_height(lines, marks) for lines in of_block) for of_block in captions
    ]
    canvas = Image.new("RGB", (width, 2 * MARGIN + sum(heights)), PAPER)
    pen = ImageDraw.Draw(canvas)

    # Blocks from top to bottom: heading, rule, labels, rows.
    y = MARGIN
    for (heading, rows), of_block in zip(blocks, captions, strict=True):
        pen.text((MARGIN, y), heading, font=_font(22, bold=True), fill=INK)
        pen.line([(MARGIN, y + 30), (width - MARGIN, y + 30)], fill=RULE, width=2)
        y += 40
        _draw_heads(pen, heads, inks, y + head_height - 8)
        y += head_height
        for row, caption in zip(rows, of_block, strict=True):
            _draw_panels(canvas, row, y)
            _draw_caption(pen, row.case, caption, y + PANEL + 10 + marks, width)
            y += _row_height(caption, marks)
    return canvas


# Height of a line of a label, and of a caption, in pixels.
HEAD_LINE, CAPTION_LINE = 19, 20


def _row_height(caption: Sequence[str], marks: int) -> int:
    """Height of images, marks, prompt of the source, caption, and the space below."""
    return PANEL + 10 + marks + CAPTION_LINE * (1 + len(caption)) + 20


def _left(column: int) -> int:
    return MARGIN + column * (PANEL + GAP)


def _draw_heads(
    pen: ImageDraw.ImageDraw, heads: Sequence[Sequence[str]], inks: Sequence[str], bottom: int
) -> None:
    """Labels over the columns, whose last lines end at ``bottom``."""
    for k, (lines, ink) in enumerate(zip(heads, inks, strict=True)):
        for j, line in enumerate(lines):
            # Anchor "ma": middle of the line, top of the letters ("ascender").
            place = (_left(k) + PANEL / 2, bottom - HEAD_LINE * (len(lines) - j))
            pen.text(place, line, font=_font(15, bold=True), fill=ink, anchor="ma")


def _draw_panels(canvas: Image.Image, row: GridRow, y: int) -> None:
    """The images of a case with their frames, and the marks under the edits."""
    pen = ImageDraw.Draw(canvas)
    for k, panel in enumerate([outlined(row.case), _mask_panel(row.case), *map(_edit_panel, row.edits)]):
        # A picture that is not square stands in the middle of its square.
        canvas.paste(panel, (_left(k) + (PANEL - panel.width) // 2, y + (PANEL - panel.height) // 2))
        pen.rectangle([_left(k) - 1, y - 1, _left(k) + PANEL, y + PANEL], outline=RULE)
    # Columns 0 and 1 are source and mask.
    for k, verdict in enumerate(row.succeeded, 2):
        if verdict is not None:
            sign, ink = MARKS[verdict]
            middle = _left(k) + PANEL / 2
            pen.text((middle, y + PANEL + 3), sign, font=_font(15, bold=True), fill=ink, anchor="ma")


def _draw_caption(
    pen: ImageDraw.ImageDraw, case: EditCase, caption: Sequence[str], y: int, width: int
) -> None:
    """The category and the source's prompt, if it has one, on one line, then the lines of the caption."""
    category = case.category.replace("_", "-")
    font = _font(13, bold=True)
    pen.text((MARGIN, y + 1), category, font=font, fill=CATEGORY_INK.get(case.category, INK))
    indent = pen.textlength(category, font=font) + 12
    room = width - 2 * MARGIN - int(indent)
    prompt = _clip(case.request.source_prompt, _font(15), room)
    pen.text((MARGIN + indent, y), prompt, font=_font(15), fill=FAINT)
    for k, line in enumerate(caption, 1):
        pen.text((MARGIN, y + CAPTION_LINE * k), line, font=_font(15), fill=INK)


def outlined(case: EditCase, size: int = PANEL) -> Image.Image:
    """The source as :func:`enlarged`, with the outline of the mask (if there is one) drawn on the enlarged pixels."""
    image = enlarged(case.request.source, size)
    if case.request.mask is None:
        return image
    # NEAREST keeps the mask at 0 and 255, so that its outline is sharp.
    mask = case.request.mask.convert("L").resize(image.size, Image.Resampling.NEAREST)
    # A white line outside the coloured one keeps the outline visible on any background.
    # Pixels beyond the image's border count as outside, so that every outline is closed.
    box = (2, 2, image.width + 2, image.height + 2)
    shrunk = ImageOps.expand(mask, 2, 0).filter(ImageFilter.MinFilter(5)).crop(box)
    inner = ImageChops.subtract(mask, shrunk)
    outer = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(3)), mask)
    image.paste(Image.new("RGB", image.size, "#ffffff"), mask=outer)
    image.paste(Image.new("RGB", image.size, OUTLINE), mask=inner)
    return image


def _mask_panel(case: EditCase) -> Image.Image:
    if case.request.mask is None:
        return _blank_panel("no mask", PANEL)
    mask = case.request.mask.convert("L")
    mask = mask.resize(_fitted(mask.size, PANEL), Image.Resampling.NEAREST)
    ground = Image.new("RGB", mask.size, "#2b2b31")
    ground.paste(Image.new("RGB", mask.size, "#ffffff"), mask=mask)
    return ground


def _edit_panel(edit: Image.Image | None) -> Image.Image:
    return enlarged(edit, PANEL) if edit is not None else _blank_panel("failed", PANEL)


def _blank_panel(word: str, size: int) -> Image.Image:
    """A pale panel with a diagonal, for an image that does not exist."""
    blank = Image.new("RGB", (size, size), "#f4f4f6")
    pen = ImageDraw.Draw(blank)
    pen.line([(0, 0), (size, size)], fill=RULE)
    pen.text((size / 2, size / 2), word, font=_font(15), fill=FAINT, anchor="mm")
    return blank


def enlarged(image: Image.Image, size: int) -> Image.Image:
    """The image with a longer side of ``size`` pixels.

    By nearest neighbour if it becomes larger, so that pixels stay visible, else by Lanczos.
    """
    # Interpolation would hide the block artefacts and seams that a reader looks for.
    way = Image.Resampling.NEAREST if max(image.size) <= size else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(_fitted(image.size, size), way)


def _fitted(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """(width, height) of the same aspect ratio with this longer side."""
    width, height = (max(1, round(side * longer / max(size))) for side in size)
    return width, height


def _caption(case: EditCase, font: FreeTypeFont, room: int) -> list[str]:
    return _wrap("→ " + (case.request.target_prompt or case.request.instruction), font, room)


def _wrap(text: str, font: FreeTypeFont, room: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        # A word goes onto the last line if it fits, else onto a new one.
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(_clip(word, font, room))
    return lines or [""]


def _clip(text: str, font: FreeTypeFont, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    # Widths of single letters do not add up, because of kerning, so the whole text is measured.
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans from matplotlib's own files, so that every machine draws the same letters."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FigureError("the fonts of matplotlib are needed to draw. Run: pip install matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(spec.origin).parent / "mpl-data/fonts/ttf" / name), size)


# (method digest, case id) -> record.
Edits = Mapping[tuple[str, str], EditRecord]


def last_edits(records: Sequence[EditRecord], protocol: str) -> Edits:
    """(method digest, case id) -> record with a file, of one protocol. Of several seeds, the first."""
    edits: dict[tuple[str, str], EditRecord] = {}
    for record in records:
        if record.key.protocol == protocol and record.file is not None:
            edits.setdefault((record.key.method, record.key.case), record)
    return edits

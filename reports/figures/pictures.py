"""Figures of edits for a paper: the side-by-side grid and the leak heat maps, as vector PDF and PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.edit import EditCase
from reports.data.metrics import HEADINGS, SUCCESS
from reports.data.scores import ProtocolScores, RunScores
from reports.figures.choice import Rule, choose, words
from reports.figures.grid import MARKS, Edits, enlarged, last_edits, outlined
from reports.figures.style import GRAY, PAGE_INCHES, RULE, drawing, label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from bench.store import RunStore

# Methods of one figure. More would be too small to see and go into further figures.
MOST_COLUMNS = 8
# Change, of 1, at which the colours of a heat map end.
# 64 of 255 levels: a change that is easy to see. With a ceiling of 1, the small changes, which matter here, would be
# black.
CEILING = 0.25
# Largest side of a panel: more than 200 dpi on its 0.85 inches.
_PIXELS = 192


def side_by_side(
    store: RunStore,
    scores: RunScores,
    protocol: str,
    rule: Rule = "random",
    *,
    cases: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    votes: pd.DataFrame | None = None,
    edits: Edits | None = None,
    part: str = "",
) -> Figure | None:
    """Source with the mask's outline, then the methods' edits, one row per case. None without a case.

    A mark under each edit shows whether it succeeded. The prompts stand under each row. ``cases``: ids chosen by
    hand, which the figure says. ``methods``: titles, by default the first of :func:`parts`. ``edits``:
    :func:`last_edits`, where the caller has read them. ``part``: which of several figures this is, as "1 of 2".
    """
    of_protocol = scores.protocols[protocol]
    picked = list(cases) or choose(of_protocol, rule, votes=votes)
    columns = parts(scores)[0] if methods is None else list(methods)
    if not picked or not columns:
        return None
    judge, marks = judge_of(of_protocol), verdicts(of_protocol, picked)
    foot = [protocol, words(rule, cases)]
    if judge:
        foot.append(f"\u2713 \u2717: {HEADINGS[judge]}")
    with drawing():
        sheet = _Sheet(["source, mask", *columns], len(picked), _foot(foot, part), scores)
        for row, column, title, case, edit in _panels(store, scores, protocol, picked, columns, edits):
            sheet.image(row, column, None if edit is None else enlarged(edit, _PIXELS))
            sheet.mark(row, column, marks.get((title, case.id)))
            # Source and caption, once per row.
            if column == 1:
                sheet.image(row, 0, outlined(case, _PIXELS))
                sheet.caption(row, case)
    return sheet.figure


def heat_maps(
    store: RunStore,
    scores: RunScores,
    protocol: str,
    *,
    methods: Sequence[str] | None = None,
    edits: Edits | None = None,
    part: str = "",
) -> Figure | None:
    """Change outside the mask: the largest difference of a channel per pixel, in [0, 1], cut off at ``CEILING``.

    The inside of the mask is gray, since change is requested there. The arguments are those of :func:`side_by_side`.
    """
    # Chosen at random: a choice by leakage would favour some methods. Without a mask, nothing is outside it.
    file = store.cases(protocol)
    picked = [case for case in choose(scores.protocols[protocol], "random") if file.row(case)["mask"]]
    columns = parts(scores)[0] if methods is None else list(methods)
    if not picked or not columns:
        return None
    foot = _foot([protocol, words("random")], part)
    with drawing():
        sheet = _Sheet(["source, mask", *columns], len(picked), foot, scores, bar=0.5, captions=False)
        colors = _heat_colors()
        for row, column, _, case, edit in _panels(store, scores, protocol, picked, columns, edits):
            # Coloured here: matplotlib would colour each pixel of each block, and once per format.
            heat = None if edit is None else colors(leak_map(case, edit) / CEILING, bytes=True)[..., :3]
            sheet.image(row, column, None if heat is None else _blocks(heat))
            if column == 1:
                sheet.image(row, 0, outlined(case, _PIXELS))
        sheet.color_bar("change outside the mask")
    return sheet.figure


def _panels(
    store: RunStore,
    scores: RunScores,
    protocol: str,
    case_ids: Sequence[str],
    titles: Sequence[str],
    edits: Edits | None,
) -> Iterator[tuple[int, int, str, EditCase, Image.Image | None]]:
    """Row, column (from 1), method's title, case, and edit (None where it failed) of each panel."""
    edits = last_edits(store.edits(), protocol) if edits is None else edits
    file = store.cases(protocol)
    # Titles are unique within a run (`method_titles`).
    digests = {title: digest for digest, title in scores.titles.items()}
    for row, case_id in enumerate(case_ids):
        case = file.get(case_id)
        for column, title in enumerate(titles, 1):
            record = edits.get((digests[title], case_id))
            yield row, column, title, case, None if record is None else store.image(record)


def _heat_colors() -> Any:
    import matplotlib as mpl

    # A colour map with even steps of lightness, for colour-blind readers and for print. NaN is gray.
    return mpl.colormaps["inferno"].with_extremes(bad="#8f8f98")


def leak_map(case: EditCase, edit: Image.Image) -> NDArray[np.float64]:
    """``(H, W)`` in [0, 1]: the largest difference of a channel. NaN inside the mask, and everywhere without one."""
    # (H, W, 3) in [0, 255]
    source = np.asarray(case.request.source.convert("RGB"), dtype=np.float64)
    after = np.asarray(edit.convert("RGB"), dtype=np.float64)
    change: NDArray[np.float64] = np.abs(after - source).max(axis=2) / 255
    # 255 = edit, 0 = keep.
    mask = case.request.mask
    change[... if mask is None else np.asarray(mask.convert("L")) > 127] = np.nan
    return change


def _blocks(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each value as a square of pixels, so that no viewer of a PDF smooths it."""
    # A viewer that interpolates then does so within a square of one value.
    factor = max(1, _PIXELS // max(values.shape[:2]))
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def parts(scores: RunScores) -> list[list[str]]:
    """The run's titles, methods first, in as few parts of about equal size as possible, of at most eight each."""
    # ceil(n / MOST_COLUMNS) figures, and ceil(n / count) methods in each.
    ordered = sorted(scores.titles.values(), key=lambda title: title in scores.controls)
    count = max(1, -(-len(ordered) // MOST_COLUMNS))
    size = -(-len(ordered) // count)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)] or [[]]


def verdicts(scores: ProtocolScores, cases: Collection[str] | None = None) -> dict[tuple[str, str], bool]:
    """(title, case id) -> whether the edit with the first seed succeeded, of ``cases`` (None: of all).

    Edits that were not judged are left out.
    """
    judge = judge_of(scores)
    if not judge:
        return {}
    # The grids show the edit of the first seed, so the mark is that edit's too.
    values = scores.metric(judge)
    first_units = {case: unit for unit, case in reversed(list(enumerate(scores.cases)))}
    return {
        (title, case): bool(values[unit, method] > 0.5)
        for case, unit in first_units.items()
        if cases is None or case in cases
        for method, title in enumerate(scores.titles)
        if not np.isnan(values[unit, method])
    }


def judge_of(scores: ProtocolScores) -> str:
    """The metric that decides whether an edit succeeded. Empty where there is none."""
    return next((name for name in SUCCESS if name in scores.metrics), "")


def _foot(words_of: Sequence[str], part: str) -> str:
    return "; ".join([*words_of, *([f"part {part}"] if part else [])])


class _Sheet:
    """Images in rows and columns, placed in inches on one pair of axes over the whole figure."""

    # Inches.
    # A line of 7 pt letters takes 0.125 inches.
    GAP, MARGIN, LINE = 0.05, 0.03, 0.125
    # Height of the marks under the panels and of the two prompts.
    CAPTION = 3 * LINE + 0.08

    def __init__(
        self,
        titles: Sequence[str],
        rows: int,
        foot: str,
        scores: RunScores,
        *,
        bar: float = 0.0,
        captions: bool = True,
    ) -> None:
        """``bar``: inches of free room on the right. Call inside ``drawing()``."""
        from matplotlib.figure import Figure

        # Sizes: the panels share the width, so the height follows.
        count = len(titles)
        room = PAGE_INCHES - bar - 2 * self.MARGIN
        self.panel = (room - (count - 1) * self.GAP) / count
        # 0.052 inches: mean width of a 7 pt letter. Eight letters at least, so that long words are not cut to
        # pieces.
        heads = [
            textwrap.wrap(label(title, scores.remarks), max(8, int(self.panel / 0.052))) for title in titles
        ]
        head = self.LINE * max(map(len, heads)) + 0.06
        self.step = self.panel + (self.CAPTION if captions else self.GAP)
        self.height = head + rows * self.step + self.LINE + 0.08
        self.figure = Figure(figsize=(PAGE_INCHES, self.height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.top = self.height - head
        self.rows = rows
        # Titles over the columns, the foot under all rows.
        for column, (title, lines) in enumerate(zip(titles, heads, strict=True)):
            ink = GRAY if title in scores.controls else "black"
            x = self._left(column) + self.panel / 2
            self._text(x, self.top + 0.04, "\n".join(lines), ha="center", va="bottom", color=ink)
        self._text(self.MARGIN + room / 2, 0.03, foot, ha="center", va="bottom", color=GRAY)

    def _left(self, column: int) -> float:
        return self.MARGIN + column * (self.panel + self.GAP)

    def _text(self, x: float, y: float, text: str, **options: Any) -> None:
        # A dollar sign would begin mathematics. The second font family has the signs that the first lacks.
        self.axes.text(
            x, y, text.replace("$", r"\$"), fontsize=7, linespacing=1.05,
            family=["STIXGeneral", "DejaVu Sans"], **options,
        )  # fmt: skip

    def image(self, row: int, column: int, image: Any) -> None:
        """An RGB image. None: the panel says that the edit failed."""
        left, top = self._left(column), self.top - row * self.step
        extent = (left, left + self.panel, top - self.panel, top)
        if image is None:
            self._text(
                left + self.panel / 2, top - self.panel / 2, "failed", ha="center", va="center", color=GRAY
            )
        else:
            pixels = np.asarray(image)
            # "none": the PDF holds the image's own pixels. aspect: the place has that of the image already.
            self.axes.imshow(
                pixels,
                extent=self._place(left, top, pixels.shape),
                interpolation="none",
                aspect="auto",
            )
        # Frame.
        x = [extent[0], extent[1], extent[1], extent[0], extent[0]]
        y = [extent[2], extent[2], extent[3], extent[3], extent[2]]
        self.axes.plot(x, y, color=RULE, linewidth=0.5)
        # imshow sets the limits to its own image, so they are set again after each.
        self.axes.set_xlim(0, PAGE_INCHES)
        self.axes.set_ylim(0, self.height)

    def _place(self, left: float, top: float, shape: Sequence[int]) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of an image of ``shape`` (height, width, ...) in the middle of a panel."""
        height, width = (self.panel * side / max(shape[:2]) for side in shape[:2])
        x, y = left + (self.panel - width) / 2, top - (self.panel - height) / 2
        return x, x + width, y - height, y

    def mark(self, row: int, column: int, succeeded: bool | None) -> None:
        """A tick or a cross under a panel, nothing where the edit was not judged."""
        if succeeded is not None:
            sign, ink = MARKS[succeeded]
            x, y = self._left(column) + self.panel / 2, self.top - row * self.step - self.panel - 0.02
            self._text(x, y, sign, ha="center", va="top", color=ink)

    def caption(self, row: int, case: EditCase) -> None:
        """The prompt of the source, if it has one, then the category with the target prompt or instruction."""
        kind = case.category.replace("_", "-")
        request = case.request
        lines = [(f"{kind}:  {request.target_prompt or request.instruction}", "black")]
        # Benchmarks of instructions do not describe their sources.
        if request.source_prompt:
            lines.insert(0, (f"source:  {request.source_prompt}", GRAY))
        y = self.top - row * self.step - self.panel - 0.03
        for k, (line, ink) in enumerate(lines, 1):
            # 132 letters of 7 pt fill the width of a page. `shorten` also folds spaces, which the replacement
            # restores.
            text = textwrap.shorten(line, 132, placeholder=" …").replace(": ", ":  ", 1)
            self._text(self.MARGIN, y - k * self.LINE, text, ha="left", va="top", color=ink)

    def color_bar(self, text: str) -> None:
        """The colours of a heat map and their values, in the free room on the right."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        # Place in shares of the figure: left, bottom, width, height.
        tall = self.rows * self.step
        place = (
            (PAGE_INCHES - 0.44) / PAGE_INCHES,
            (self.top - 0.85 * tall) / self.height,
            0.08 / PAGE_INCHES,
            0.7 * tall / self.height,
        )
        axes = self.figure.add_axes(place)
        bar = self.figure.colorbar(
            ScalarMappable(Normalize(0, CEILING), _heat_colors()), cax=axes, extend="max"
        )
        bar.set_label(text, fontsize=7, labelpad=1)
        bar.ax.tick_params(labelsize=6, pad=1)

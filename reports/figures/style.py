"""Look of every chart: width, fonts and sizes of a paper's column, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.store import RunStore

# Widths of CVPR's two-column format: 3 1/4 and 6 7/8 inches.
COLUMN_INCHES, PAGE_INCHES = 3.25, 6.875

# The first six are those of Okabe and Ito (2008), without yellow (it vanishes on white) and black (error bars are
# dark). Each other one is the farthest from those before it, to normal, protanopic and deuteranopic eyes.
COLORS: tuple[str, ...] = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#993366", "#775500",
    "#8877EE", "#22CC77", "#886688", "#557755", "#88BBAA", "#CC3344", "#6644BB", "#AA9944",
)  # fmt: skip
# Each is used filled, then hollow.
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<", "h", ">")
# Thin shapes are drawn larger, so that all look alike in size.
_LARGER = {"P": 1.3, "X": 1.3, "*": 1.6}
HATCHES: tuple[str, ...] = ("", "////", "....", "xxxx")
LINES: tuple[str, ...] = ("-", "--", ":", "-.")
GRAY, INK, RULE = "#6b6b73", "#1b1b1f", "#d9d9de"

_RC: dict[Any, Any] = {
    # A Times of matplotlib's own, so that a chart has the same letters on every machine.
    "font.family": ["STIXGeneral"],
    "mathtext.fontset": "stix",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.1,
    "legend.handletextpad": 0.4,
    "axes.linewidth": 0.5,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "hatch.linewidth": 0.4,
    # Each picture is embedded as it is, not resampled into one.
    "image.composite_image": False,
    # TrueType. Checks of submissions, such as IEEE's, refuse Type 3, which is the default.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": 300,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Look:
    """Drawing style of one method, the same in every chart of a report and on its page."""

    color: str
    marker: str
    hatch: str
    line: str
    hollow: bool = False

    @property
    def scale(self) -> float:
        """Factor on the size of its marker."""
        return _LARGER.get(self.marker, 1.0)

    def mark(self, size: float = 3.6) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot`` for the marker. A thin light rim sets markers apart that overlap."""
        # Hollow markers have a thicker rim in the method's colour, filled ones a thin white one.
        face, rim, width = ("white", self.color, 0.9) if self.hollow else (self.color, "white", 0.3)
        return {
            "marker": self.marker,
            "markersize": size * self.scale,
            "markerfacecolor": face,
            "markeredgecolor": rim,
            "markeredgewidth": width,
        }


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Title -> look, by position. Colours never repeat. A marker repeats after 24 methods, in another colour."""
    return {
        # Hatch and line change after eight methods, whose colours alone are easy to tell apart.
        method: Look(
            _color(i),
            MARKERS[i % len(MARKERS)],
            HATCHES[i // 8 % len(HATCHES)],
            LINES[i // 8 % len(LINES)],
            i // len(MARKERS) % 2 == 1,
        )
        for i, method in enumerate(methods)
    }


def _color(index: int) -> str:
    """The colours chosen by hand, then hues that turn by the golden ratio, so that no two are equal."""
    if index < len(COLORS):
        return COLORS[index]
    # 0.618...: steps of the golden ratio spread the hues evenly, however many there are.
    turn = index - len(COLORS)
    # Three levels of lightness alternate, so that neighbours differ in more than hue.
    parts = colorsys.hls_to_rgb(turn * 0.6180339887 % 1, (0.4, 0.5, 0.6)[turn % 3], 0.6)
    return "#" + "".join(f"{round(255 * part):02X}" for part in parts)


@contextmanager
def drawing() -> Iterator[None]:
    """Inside it, matplotlib draws in this style, without a screen."""
    import matplotlib as mpl

    with mpl.rc_context(_RC):
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, laid out by constrained layout and tied to no window."""
    from matplotlib.figure import Figure

    # Not pyplot, which would keep every figure alive and look for a screen.
    return Figure(figsize=(width, height), layout="constrained")


def save(store: RunStore, name: str, chart: Figure) -> list[Path]:
    """Writes ``report/figures/NAME.pdf`` and ``.png``. The same chart gives the same bytes."""
    written = []
    # Neither dates nor names of programs: the bytes depend on the chart alone.
    options: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"CreationDate": None, "ModDate": None}},
        "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},
    }
    for kind, arguments in options.items():
        buffer = io.BytesIO()
        # The style also decides how text is written while saving, such as the kind of embedded fonts.
        with drawing():
            chart.savefig(buffer, format=kind, **arguments)
            # Laid out once: the second format has the places of the first.
            chart.set_layout_engine("none")
        written.append(store.write_file(f"report/figures/{name}.{kind}", buffer.getvalue(), f"figure {name}"))
    return written


def label(method: str, remarks: Mapping[str, str]) -> str:
    """A method as legends and headings name it. ``remarks``: title -> remark, such as "under-trained"."""
    name = method.replace("_", " ")
    return f"{name}, {remarks[method]}" if method in remarks else name

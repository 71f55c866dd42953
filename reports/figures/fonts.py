"""Letters of PDFs, cut out of their fonts once for all figures of a report.

matplotlib cuts the letters of each PDF out of its fonts anew, which took half of the time of writing a PDF. Most
figures need the same letters, those of ``COMMON``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

# ASCII, and the signs of a report's own labels.
COMMON = frozenset(
    {*map(chr, range(32, 127)), *"\u2713\u2717\u2191\u2193\u2264\u2265\u2026\u2212\u2013\u00b1"}
)

# A font of which a figure has fewer letters is cut to these: two signs need no alphabet in their file.
_MANY = 12


class _Cut(NamedTuple):
    """The letters of a font, in the two fields that matplotlib's ``SubsetResults`` has."""

    # The bytes of the smaller font. matplotlib has an open font here, which it turns into bytes.
    font: bytes
    # Number of a letter in the whole font -> number in the smaller one.
    glyph_index_map: Mapping[int, int]


# (font file, letters) -> the letters cut out.
_CUTS: dict[tuple[Any, frozenset[int]], _Cut] = {}


@contextmanager
def cut_once() -> Iterator[None]:
    """Inside it, matplotlib's PDFs share the letters that were cut out."""
    from matplotlib.backends import _backend_pdf_ps as backend

    # Both functions are matplotlib's own affair. A version that lacks them works as it does without this.
    cut, to_file = (getattr(backend, name, None) for name in ("get_glyphs_subset", "font_as_file"))
    if cut is None or to_file is None:
        yield
        return

    def known(file: Any, glyphs: Iterable[int]) -> Any:
        key = file, _shared(file, glyphs)
        if key not in _CUTS:
            with cut(*key) as subset:
                _CUTS[key] = _Cut(to_file(subset.font).getvalue(), dict(subset.glyph_index_map))
        return nullcontext(_CUTS[key])

    backend.get_glyphs_subset, backend.font_as_file = known, BytesIO  # type: ignore[assignment]
    try:
        yield
    finally:
        backend.get_glyphs_subset, backend.font_as_file = cut, to_file


def _shared(file: Any, glyphs: Iterable[int]) -> frozenset[int]:
    """The letters to cut: all common ones where these are many and common, else these."""
    letters, common = frozenset(glyphs), _common(file)
    return common if len(letters) >= _MANY and letters <= common else letters


@cache
def _common(file: Any) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    font = get_font(file)
    return frozenset(index for char in COMMON if (index := font.get_char_index(ord(char))))

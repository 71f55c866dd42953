"""Letters that are shared by the PDFs of a report."""

from __future__ import annotations

import io
import re
import zlib

import pytest
from matplotlib.backends import _backend_pdf_ps as backend

from reports.figures import fonts, style


def pdf(title: str, *, shared: bool) -> bytes:
    buffer = io.BytesIO()
    with style.drawing():
        chart = style.figure(3, 1)
        chart.add_subplot().set_title(title)
        if shared:
            with fonts.cut_once():
                chart.savefig(buffer, format="pdf", metadata={"CreationDate": None})
        else:
            chart.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def page_and_letters(data: bytes) -> tuple[bytes, list[str]]:
    """The drawing operations, and the texts that the letters stand for."""
    streams = [
        zlib.decompress(s) for s in re.findall(rb"FlateDecode.*?stream\n(.*?)\nendstream", data, re.DOTALL)
    ]
    page = next(s for s in streams if b" Tf" in s)
    return page, sorted(s.decode() for s in streams if b"beginbfrange" in s)


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_CUTS", {})


@pytest.mark.parametrize("title", ["office, 12.5 % \u2193", "\u017b\u00f3\u0142\u0107"])
def test_the_page_and_its_text_are_those_of_a_single_pdf(title: str) -> None:
    assert page_and_letters(pdf(title, shared=True)) == page_and_letters(pdf(title, shared=False))


def test_common_letters_are_cut_once_and_others_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = []
    cut = backend.get_glyphs_subset
    monkeypatch.setattr(backend, "get_glyphs_subset", lambda *key: (cuts.append(key), cut(*key))[1])
    for title in ("one title", "another title", "XYZ 0123 \u2264"):
        pdf(title, shared=True)
    assert len(cuts) == 1
    pdf("\u017b and others", shared=True)
    assert len(cuts) == 2
    # Outside, matplotlib is as it was.
    pdf("one title", shared=False)
    assert len(cuts) == 3

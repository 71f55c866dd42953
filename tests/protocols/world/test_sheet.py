"""Sheets show the cases themselves: their pixels, enlarged without smoothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protocols.selection import ProtocolError
from protocols.world import sheet as sheets
from protocols.world.levels import WorldLevel3


def test_every_kind_has_a_row_with_source_and_truth() -> None:
    protocol = WorldLevel3(WorldLevel3.Options(cases_per_category=1))
    pixels = np.asarray(sheets.sheet(protocol, per_category=1))
    side, gap, head = sheets._SIDE, sheets._GAP, sheets._LINES * sheets._LINE
    assert pixels.shape == (6 * (head + side + gap) + gap, 3 * side + 2 * gap, 3)
    for row, case in enumerate(protocol.cases()):
        top = gap + row * (head + side + gap) + head
        for place, image in ((0, case.request.source), (2, case.truth)):
            # Every third pixel of a cell is a pixel of the image.
            cell = pixels[top : top + side, gap + place * side : gap + (place + 1) * side]
            assert np.array_equal(cell[1::3, 1::3], np.asarray(image))
        # Text above it.
        assert (pixels[top - head : top] < 128).any()


def test_the_command_writes_an_image_and_names_the_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def small(protocol: object) -> Image.Image:
        drawn.append(protocol.name)  # type: ignore[attr-defined]
        return Image.new("RGB", (3, 2))

    monkeypatch.setattr(sheets, "sheet", small)
    sheets.main(["world-level-2", str(tmp_path / "sheet.webp")])
    assert drawn == ["world-level-2"]
    assert Image.open(tmp_path / "sheet.webp").size == (3, 2)
    for wrong in ([], ["world-level-9", "sheet.webp"]):
        with pytest.raises(ProtocolError, match=r"PROTOCOL OUT.webp.* world-level-2, world-level-3"):
            sheets.main(wrong)

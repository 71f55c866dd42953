"""The sheets of docs/world.md: they show what the renderer draws today, and the files are small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protocols.selection import ProtocolError
from protocols.world import gallery

FOLDER = Path(__file__).parents[3] / "docs/world"


@pytest.mark.parametrize("name", ["objects", "faces", "sizes"])
def test_the_page_shows_what_is_drawn_today(name: str) -> None:
    drawn = np.asarray(getattr(gallery, name)()).astype(float)
    stored = np.asarray(Image.open(FOLDER / f"{name}.webp").convert("RGB"))
    assert drawn.shape == stored.shape
    # WebP of quality 80 is lossy, by 2 to 4 levels on average.
    assert np.abs(drawn - stored).mean() < 6
    # A sheet is not compared with itself: its mirror image is far from it.
    assert np.abs(drawn[:, ::-1] - stored).mean() > 20


def test_the_files_are_small() -> None:
    # The sheets of the levels lie in the same folder, and are drawn by another command.
    names = ("objects", "faces", "sizes")
    assert sum((FOLDER / f"{name}.webp").stat().st_size for name in names) < 300_000


def test_the_command_wants_a_folder() -> None:
    with pytest.raises(ProtocolError, match="usage: python -m"):
        gallery.main([])


def test_the_command_writes_the_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("objects", "faces", "sizes"):
        monkeypatch.setattr(gallery, name, lambda: Image.new("RGB", (8, 8), (200, 30, 30)))
    gallery.main([str(tmp_path / "new")])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "objects.webp",
        "faces.webp",
        "sizes.webp",
    }
    assert Image.open(tmp_path / "new/faces.webp").size == (8, 8)

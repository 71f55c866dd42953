"""The images of docs/world.md: objects, faces, and one scene at several sizes, each with its name.

python -m protocols.world.gallery docs/world
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.files import atomic_file
from protocols.selection import ProtocolError
from protocols.world.backdrops import BACKDROPS
from protocols.world.canvas import Size
from protocols.world.faces import Face, render_face, sample_face
from protocols.world.scenes import CATEGORIES, COLORS, Object, Scene, render_scene, sample_scene

# Pixels: side of a tile on a sheet, gap between tiles, height of the line below a tile.
_TILE, _GAP, _LINE = 240, 6, 20
_INK = (28, 30, 34)
# Seed of the scene at several sizes: a meadow with three objects.
_SCENE = 12


def _face(seed: int, male: bool, style: str, hair: str, **attributes: Any) -> Face:
    """The geometry, skin and background of a seed, with these attributes and no others."""
    geometry = sample_face(seed)
    return Face(seed, male, style, hair, geometry.skin, backdrop=geometry.backdrop, **attributes)


# Faces that differ in geometry and skin, and in everything that an edit can change.
_FACES: tuple[tuple[str, Face], ...] = (
    ("short black hair, beard", _face(4, True, "short", "black", beard=True)),
    ("blond ponytail, lipstick", _face(0, False, "ponytail", "blond", lipstick=True)),
    ("curly brown hair, earrings, smile", _face(2, False, "curly", "brown", earrings=True, mouth="smile")),
    ("bald, eyeglasses, open mouth", _face(1, True, "bald", "gray", eyeglasses=True, mouth="open")),
    ("long gray hair", _face(6, False, "long", "gray")),
    ("brown quiff", _face(11, True, "quiff", "brown")),
    ("top hat, beard", _face(4, True, "short", "black", hat=True, beard=True)),
    ("beanie, eyeglasses", _face(1, True, "short", "brown", hat=True, eyeglasses=True)),
)


def objects() -> Image.Image:
    """The ten objects, each as large as its tile allows, over all backgrounds and colours."""
    tiles = []
    for number, category in enumerate(CATEGORIES.values()):
        color, backdrop = list(COLORS)[number % len(COLORS)], BACKDROPS[number % len(BACKDROPS)]
        scale = min(25 / category.half_width, 50 / category.height)
        scene = Scene(number, backdrop, (Object(category.name, color, 32.0, 60.0, scale, number + 3),))
        tiles.append(
            (f"{color} {category.name}, {backdrop}", _tile(render_scene(scene, 512, detail=True)[0]))
        )
    return _sheet(tiles, columns=5)


def faces() -> Image.Image:
    """Faces that differ in one thing after the other."""
    return _sheet([(name, _tile(render_face(face, 512, detail=True)[0])) for name, face in _FACES], columns=4)


def sizes() -> Image.Image:
    """A face and a scene at 64, 512 and 1024 px (a part of it), and wide."""
    draws: dict[str, Callable[[Size], NDArray[np.uint8]]] = {
        "face": lambda size: render_face(_FACES[2][1], size, detail=True)[0],
        "scene": lambda size: render_scene(sample_scene(_SCENE, size), size, detail=True)[0],
    }
    tiles = []
    for name, draw in draws.items():
        tiles += [
            (f"{name}, 64 px", Image.fromarray(draw(64)).resize((_TILE, _TILE), Image.Resampling.NEAREST)),
            (f"{name}, 512 px", _tile(draw(512))),
            (f"{name}, 1024 px, part", _tile(draw(1024)[400:880, 300:780])),
            (f"{name}, 768 x 512 px", _tile(draw((768, 512)))),
        ]
    return _sheet(tiles, columns=4)


def _tile(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((image.width * _TILE // image.height, _TILE), Image.Resampling.LANCZOS)


def _sheet(tiles: Sequence[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Tiles in rows, each with its name below it. The tiles of a column have one width."""
    widths = [tile.width + _GAP for _, tile in tiles[:columns]]
    rows = -(-len(tiles) // columns)
    out = Image.new("RGB", (sum(widths) + _GAP, rows * (_TILE + _LINE) + _GAP), "white")
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(13)
    for number, (name, tile) in enumerate(tiles):
        left = _GAP + sum(widths[: number % columns])
        top = _GAP + number // columns * (_TILE + _LINE)
        out.paste(tile, (left, top))
        pen.text((left, top + _TILE), name, _INK, font)
    return out


def main(arguments: Sequence[str]) -> None:
    """``arguments``: the folder to write to. Raises ProtocolError for others."""
    if len(arguments) != 1:
        raise ProtocolError("usage: python -m protocols.world.gallery FOLDER")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in (("objects", objects()), ("faces", faces()), ("sizes", sizes())):
        with atomic_file(folder / f"{name}.webp") as part:
            image.save(part, "WEBP", quality=80, method=6)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ProtocolError as error:
        sys.exit(str(error))

"""How often drift is refused where part of an image was replaced, and where it was only damaged. Nothing is asserted.

    pip install scikit-image
    python tests/perf/drift.py                 # about 15 minutes on one core
    python tests/perf/drift.py --pictures 8

Images are 640 x 480: drawn ones of the rendered world, and parts of the photographs of ``skimage.data``. Two tables
are printed for each kind:

1. of images that were damaged, shifted or zoomed: how many are refused, and how many have the known drift. Drawn
   images of 64 px have this table, too;
2. how many images are refused where part of their area was replaced, without a mask. The new part is the same part of
   another image, the one that differs visibly in most pixels: a background of nearly the same colour is no change.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.metrics.registration import IDENTITY, Similarity, register  # noqa: E402
from bench.metrics.types import NoValue  # noqa: E402
from protocols.world.faces import render_face, sample_face  # noqa: E402
from protocols.world.scenes import render_scene, sample_scene  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolHW = NDArray[np.bool_]
    Uint8HWC = NDArray[np.uint8]

WIDTH, HEIGHT = 640, 480
SHARES = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
# Seed of the first drawn image, far from those of any training or evaluation.
SEED = 900_000
# Those of skimage.data in colour that need no download, and are no diagrams.
PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "rocket",
    "retina",
)
GRAY_PHOTOGRAPHS = ("brick", "camera", "coins", "grass", "gravel", "moon")


# --- images ----------------------------------------------------------------------------------------------


def drawn(count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[Uint8HWC]:
    """Rendered portraits and scenes in turn, of ``size`` (width, height)."""
    return [
        render_face(sample_face(SEED + i), size)[0]
        if i % 2
        else render_scene(sample_scene(SEED + i), size)[0]
        for i in range(count)
    ]


def photographs(count: int) -> list[Uint8HWC]:
    """Parts of photographs, ``(480, 640, 3)`` each: first their largest parts, then the same, zoomed in."""
    from skimage import data

    sources = [
        Image.fromarray(getattr(data, name)()).convert("RGB") for name in (*PHOTOGRAPHS, *GRAY_PHOTOGRAPHS)
    ]
    parts = []
    for i in range(count):
        source, zoom = sources[i % len(sources)], 1 + 0.5 * (i // len(sources))
        factor = zoom * max(WIDTH / source.width, HEIGHT / source.height)
        size = round(source.width * factor), round(source.height * factor)
        left, top = (size[0] - WIDTH) // 2, (size[1] - HEIGHT) // 2
        # A zoomed part is from the left half, so that it differs from the first by more than its scale.
        left = left if zoom == 1 else left // 2
        parts.append(
            np.asarray(
                source.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + WIDTH, top + HEIGHT))
            )
        )
    return parts


# --- replaced areas --------------------------------------------------------------------------------------


def columns(share: float, generator: np.random.Generator) -> BoolHW:
    """A vertical strip over the whole height, at a random place."""
    area = np.zeros((HEIGHT, WIDTH), bool)
    width = round(share * WIDTH)
    left = int(generator.integers(0, WIDTH - width + 1))
    area[:, left : left + width] = True
    return area


def rows(share: float, generator: np.random.Generator) -> BoolHW:
    """A horizontal strip over the whole width, at a random place."""
    area = np.zeros((HEIGHT, WIDTH), bool)
    height = round(share * HEIGHT)
    top = int(generator.integers(0, HEIGHT - height + 1))
    area[top : top + height] = True
    return area


def block(share: float, generator: np.random.Generator) -> BoolHW:
    """A rectangle of the image's shape, at a random place."""
    area = np.zeros((HEIGHT, WIDTH), bool)
    height, width = (round(side * np.sqrt(share)) for side in (HEIGHT, WIDTH))
    top, left = int(generator.integers(0, HEIGHT - height + 1)), int(generator.integers(0, WIDTH - width + 1))
    area[top : top + height, left : left + width] = True
    return area


def around(share: float, generator: np.random.Generator) -> BoolHW:
    """All but a rectangle, as where the background is replaced."""
    return ~block(1 - share, generator)


def _scattered(share: float, generator: np.random.Generator, side: int) -> BoolHW:
    cells = np.zeros((HEIGHT // side) * (WIDTH // side), bool)
    cells[generator.permutation(cells.size)[: round(share * cells.size)]] = True
    return cells.reshape(HEIGHT // side, -1).repeat(side, axis=0).repeat(side, axis=1)


def large_squares(share: float, generator: np.random.Generator) -> BoolHW:
    """Squares of 80 px in random cells of a grid."""
    return _scattered(share, generator, 80)


def small_squares(share: float, generator: np.random.Generator) -> BoolHW:
    """Squares of 40 px in random cells of a grid."""
    return _scattered(share, generator, 40)


AREAS: dict[str, Callable[[float, np.random.Generator], BoolHW]] = {
    "columns": columns,
    "rows": rows,
    "block": block,
    "all but a block": around,
    "squares of 80 px": large_squares,
    "squares of 40 px": small_squares,
}


# --- damage and drift ------------------------------------------------------------------------------------


def jpeg(image: Uint8HWC, quality: int) -> Uint8HWC:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def clipped(image: NDArray[np.float64]) -> Uint8HWC:
    return image.round().clip(0, 255).astype(np.uint8)


DAMAGE: dict[str, Callable[[Uint8HWC], Uint8HWC]] = {
    "JPEG, 60": lambda image: jpeg(image, 60),
    "JPEG, 20": lambda image: jpeg(image, 20),
    "blur, 1 px": lambda image: gaussian_filter(image, (1, 1, 0)),
    "blur, 2 px": lambda image: gaussian_filter(image, (2, 2, 0)),
    "colour cast": lambda image: clipped(image * np.array([1.2, 0.9, 0.7]) + [10, 0, -10]),
    "noise, 15/255": lambda image: clipped(image + np.random.default_rng(1).normal(0, 15, image.shape)),
    "uneven light": lambda image: clipped(image * np.linspace(0.4, 1.2, image.shape[1])[:, None]),
}
DRIFTS = {
    "shift (3, -2) px": Similarity(1, 3, -2),
    "zoom 1.01": Similarity(1.01),
}


def moved(image: Uint8HWC, drift: Similarity) -> Uint8HWC:
    """The content of every pixel p at T(p), by splines of order 5."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(float)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    at = [
        (y - middle_y - drift.dy) / drift.scale + middle_y,
        (x - middle_x - drift.dx) / drift.scale + middle_x,
    ]
    planes = [map_coordinates(image[..., c].astype(float), at, order=5, mode="nearest") for c in range(3)]
    return clipped(np.stack(planes, axis=-1))


def close(drift: Similarity, expected: Similarity, size: tuple[int, int]) -> bool:
    """Within 0.1 px and 0.05 %, or at small sizes within 0.1 px at the border."""
    shift = np.hypot(drift.dx - expected.dx, drift.dy - expected.dy)
    return bool(shift < 0.1 and abs(drift.scale - expected.scale) < max(5e-4, 0.2 / max(size)))


# --- tables ----------------------------------------------------------------------------------------------


def most_different(images: list[Uint8HWC]) -> list[Uint8HWC]:
    """For each image, the one that differs from it by more than 20/255 in most pixels."""
    small = [image[::8, ::8].astype(int) for image in images]
    return [
        images[int(np.argmax([(np.abs(other - image).max(axis=-1) > 20).mean() for other in small]))]
        for image in small
    ]


def print_replaced(images: list[Uint8HWC], name: str) -> None:
    """For each shape and share: refused, and answered another drift than 0."""
    others = most_different(images)
    print(f"\n{name}, n = {len(images)}: refused, and in brackets another drift than 0")
    print(f"{'replaced':18}" + "".join(f"{share:>10.0%}" for share in SHARES))
    for shape, area_of in AREAS.items():
        cells = []
        for share in SHARES:
            refused = wrong = 0
            for i, image in enumerate(images):
                area = area_of(share, np.random.default_rng(i))
                edited = np.where(area[..., None], others[i], image)
                drift = register(image, edited, None)
                refused += isinstance(drift, NoValue)
                wrong += not isinstance(drift, NoValue) and drift != IDENTITY
            cells.append(f"{refused}" + (f" ({wrong})" if wrong else ""))
        print(f"{shape:18}" + "".join(f"{cell:>10}" for cell in cells), flush=True)


def print_known(images: list[Uint8HWC], name: str) -> None:
    """For each damage and drift: refused, and with the known answer."""
    print(f"\n{name}, n = {len(images)}: refused / with the known drift")
    edits: dict[str, tuple[Similarity, Callable[[Uint8HWC], Uint8HWC]]] = {
        **{label: (IDENTITY, damage) for label, damage in DAMAGE.items()},
        **{label: (drift, lambda image, drift=drift: moved(image, drift)) for label, drift in DRIFTS.items()},  # type: ignore[misc]
    }
    for label, (expected, edit) in edits.items():
        answers = [register(image, edit(image), None) for image in images]
        refused = sum(isinstance(answer, NoValue) for answer in answers)
        right = sum(
            not isinstance(answer, NoValue)
            and (answer == IDENTITY if expected == IDENTITY else close(answer, expected, images[0].shape[:2]))
            for answer in answers
        )
        print(f"{label:18}{refused:>6} / {right}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20, help="images of each kind")
    parser.add_argument("--only", choices=("drawn", "photographs"), help="images of this kind alone")
    arguments = parser.parse_args()
    for name, images_of in (("drawn", drawn), ("photographs", photographs)):
        if arguments.only in (None, name):
            images = images_of(arguments.pictures)
            print_known(images, name)
            print_replaced(images, name)
    if arguments.only in (None, "drawn"):
        print_known(drawn(10 * arguments.pictures, (64, 64)), "drawn, 64 px")


if __name__ == "__main__":
    main()

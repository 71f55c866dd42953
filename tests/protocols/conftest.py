"""Small data sets in the published layouts, drawn with numpy, and records of the same in memory."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.edit import CATEGORIES, EditCase
from protocols.faces import EditableFace, FaceRecord, kind_names
from protocols.scenes import EditableScene, Instance, SceneOptions, SceneRecord, scene_kinds

CELEBA_ATTRIBUTES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips
Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face
Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair
Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"""

RGB = {
    "red": (212, 44, 40),
    "orange": (240, 140, 32),
    "yellow": (242, 214, 48),
    "green": (52, 160, 70),
    "blue": (48, 92, 212),
    "purple": (134, 66, 178),
    "pink": (244, 134, 178),
}
GROUPS = {
    "person": "person",
    "car": "vehicle",
    "bus": "vehicle",
    "boat": "vehicle",
    "dog": "animal",
    "cat": "animal",
    "umbrella": "accessory",
    "suitcase": "accessory",
    "cup": "kitchen",
    "bottle": "kitchen",
    "sports ball": "sports",
    "kite": "sports",
}


def _face_parts(size: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    """A plain face on a square of ``size``: bool (H, W) for each part."""
    unit = size / 64
    y, x = np.mgrid[:size, :size] + 0.5

    def disc(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((x - (cx + shift) * unit) / (rx * unit)) ** 2 + ((y - cy * unit) / (ry * unit)) ** 2 <= 1

    skin = disc(32, 38, 15, 19)
    parts = {
        "hair": disc(32, 30, 20, 24) & ~skin & (y < 40 * unit),
        "skin": skin,
        "nose": disc(32, 40, 2, 3),
        "mouth": disc(32, 47, 5, 1.5),
        "neck": disc(32, 58, 6, 8),
        "cloth": disc(32, 68, 26, 10),
    }
    for side, name in ((-1, "l"), (1, "r")):
        parts[f"{name}_eye"] = disc(32 + side * 6, 34, 2.5, 1.6)
        parts[f"{name}_brow"] = disc(32 + side * 6, 30, 3, 0.8)
        parts[f"{name}_ear"] = disc(32 + side * 16, 38, 2.5, 4)
    return parts


@pytest.fixture(scope="session")
def face() -> Callable[..., FaceRecord]:
    """Makes a record: black hair and a smile, unless the attributes say otherwise."""

    def make(
        size: int = 64,
        id: str = "00012",
        without: Sequence[str] = (),
        extra: dict[str, np.ndarray] | None = None,
        **attributes: bool,
    ) -> FaceRecord:
        parts = {name: mask for name, mask in _face_parts(size).items() if name not in without}
        facts = {"Black_Hair": True, "Smiling": True, "No_Beard": True, "Young": True, **attributes}
        return FaceRecord(
            id, Image.new("RGB", (size, size), (90, 120, 150)), {**parts, **(extra or {})}, facts
        )

    return make


@pytest.fixture(scope="session")
def scene() -> Callable[..., SceneRecord]:
    """Makes a record: one box (x0, y0, x1, y1) for each object, on gray."""

    def make(
        objects: Sequence[tuple[str, str, tuple[int, int, int, int]]],
        captions: Sequence[str],
        size: tuple[int, int] = (64, 64),
        crowd: Sequence[int] = (),
        id: str = "000000000007",
    ) -> SceneRecord:
        pixels = np.full((size[1], size[0], 3), 128, np.uint8)
        instances = []
        for number, (color, category, (x0, y0, x1, y1)) in enumerate(objects):
            mask = np.zeros((size[1], size[0]), bool)
            mask[y0:y1, x0:x1] = True
            pixels[mask] = RGB[color]
            instances.append(
                Instance(str(number + 1), category, GROUPS[category], mask, crowd=number in crowd)
            )
        return SceneRecord(id, Image.fromarray(pixels), instances, list(captions))

    return make


def face_cases(record: FaceRecord) -> list[EditCase]:
    """All cases of a record, category by category."""
    editable = EditableFace(record)
    return [
        case
        for category in CATEGORIES
        for kind in kind_names(category)
        for case in editable.cases(category, kind)
    ]


def scene_cases(record: SceneRecord, options: SceneOptions) -> list[EditCase]:
    """All cases of a record, category by category."""
    editable = EditableScene(record, options)
    return [
        case
        for category in CATEGORIES
        for kind in scene_kinds(category, options)
        for case in editable.cases(category, kind)
    ]


def _save(path: Path, pixels: np.ndarray, lossless: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    if lossless:
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    path.write_bytes(buffer.getvalue())


def _bit(i: int, name: str, chance: float) -> bool:
    return hashlib.sha256(f"{i} {name}".encode()).digest()[0] < 256 * chance


def celeba_attributes(i: int) -> dict[str, bool]:
    names = CELEBA_ATTRIBUTES.split()
    facts = dict.fromkeys(names, False)
    facts |= {"Male": i % 2 == 0, "No_Beard": True, "Young": True}
    facts[("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")[i // 2 % 4]] = True
    for name in ("Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Wearing_Earrings"):
        facts[name] = _bit(i, name, 0.3)
    facts["Wearing_Lipstick"] = i % 2 == 1 and _bit(i, "lips", 0.3)
    return facts


def write_celeba(
    root: Path,
    test: Sequence[int],
    train: Sequence[int] = (),
    image: int = 128,
    mask: int = 64,
    lossless: bool = False,
) -> Path:
    """Writes CelebAMask-HQ's layout with these ids in the test and the train partition. Sides are in pixels."""
    ids = sorted([*test, *train])
    names = CELEBA_ATTRIBUTES.split()
    rows = []
    for i in ids:
        rng = np.random.default_rng(i)
        parts = _face_parts(mask, shift=float(rng.uniform(-2, 2)))
        pixels = np.full((mask, mask, 3), rng.integers(60, 200, 3), np.uint8)
        for part in parts.values():
            pixels[part] = rng.integers(0, 255, 3)
        grown = np.kron(pixels, np.ones((image // mask, image // mask, 1), np.uint8))
        _save(root / "CelebA-HQ-img" / f"{i}.jpg", grown, lossless)
        for name, part in parts.items():
            path = root / "CelebAMask-HQ-mask-anno" / str(i // 2000) / f"{i:05d}_{name}.png"
            _save(path, part.astype(np.uint8) * 255, lossless=True)
        facts = celeba_attributes(i)
        rows.append(f"{i}.jpg " + " ".join("1" if facts[name] else "-1" for name in names))
    header = f"{len(ids)}\n{' '.join(names)} \n"
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text(header + "\n".join(rows) + "\n")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx      orig_idx    orig_file\n" + "".join(f"{i}  {i + 1000}  {i + 1001:06d}.jpg\n" for i in ids)
    )
    (root / "list_eval_partition.txt").write_text(
        "".join(f"{i + 1001:06d}.jpg {2 if i in set(test) else 0}\n" for i in ids)
    )
    return root


@pytest.fixture(scope="session")
def make_celeba() -> Callable[..., Path]:
    return write_celeba


def _rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE: column-major run lengths, beginning with zeros."""
    counts, last, run = [], 0, 0
    for value in mask.flatten(order="F").astype(int):
        if value != last:
            counts.append(run)
            last, run = int(value), 0
        run += 1
    return {"size": list(mask.shape), "counts": [*counts, run]}


def write_coco(
    root: Path,
    ids: Sequence[int],
    split: str = "val2017",
    lossless: bool = False,
    size: tuple[int, int] = (96, 80),
) -> Path:
    """Writes COCO's layout: two boxes an image, one as a polygon and one as RLE, and two captions.

    ``size`` is (width, height). The boxes grow with the width.
    """
    categories = [
        {"id": number * 3 + 1, "name": name, "supercategory": group}
        for number, (name, group) in enumerate(GROUPS.items())
    ]
    numbers = {str(c["name"]): c["id"] for c in categories}
    pairs = [("car", "cup"), ("boat", "umbrella"), ("kite", "bus"), ("suitcase", "bottle")]
    width, height = size
    scale = max(1, width // 96)
    images, annotations, captions = [], [], []
    for i in ids:
        rng = np.random.default_rng(i)
        pixels = np.full((height, width, 3), rng.integers(90, 170), np.uint8)
        names = pairs[i % 4]
        colors = rng.choice(list(RGB), 2, replace=False)
        for k, (name, color) in enumerate(zip(names, colors, strict=True)):
            x0, y0 = 14 + 36 * k + int(rng.integers(0, 5)), 20 + int(rng.integers(0, 20))
            x0, y0, x1, y1 = (scale * value for value in (x0, y0, x0 + 22, y0 + 24))
            mask = np.zeros((height, width), bool)
            mask[y0:y1, x0:x1] = True
            pixels[mask] = RGB[str(color)]
            polygon: Any = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            annotations.append(
                {
                    "id": 10 * i + k,
                    "image_id": i,
                    "category_id": numbers[name],
                    "segmentation": polygon if k == 0 else _rle(mask),
                    "area": float(mask.sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
            )
        images.append({"id": i, "file_name": f"{i:012d}.jpg", "width": width, "height": height})
        first, second = names
        texts = [
            f"A {first} next to a {second}.",
            f"There is a {colors[0]} {first} beside a {colors[1]} {second} ",
        ]
        captions += [{"id": 100 * i + k, "image_id": i, "caption": text} for k, text in enumerate(texts)]
        _save(root / split / f"{i:012d}.jpg", pixels, lossless)
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"instances_{split}.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    (folder / f"captions_{split}.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return root


@pytest.fixture(scope="session")
def make_coco() -> Callable[..., Path]:
    return write_coco

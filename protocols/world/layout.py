"""The mini world in the layouts of the published data sets: a CelebAMask-HQ folder and a COCO folder, 64 px.

The protocols read them as they read the real data sets. Evaluation images have all annotations. Reference images, which
only realism needs, have attributes or captions but no masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.edit import stable_digest
from bench.files import atomic_folder, cache_folder
from protocols.selection import ProtocolError
from protocols.world.faces import render_face, sample_face
from protocols.world.scenes import CATEGORIES, render_scene, sample_scene
from protocols.world.world import EVALUATION, REFERENCE, SIZE, WORLD_VERSION, caption

EVALUATION_COUNT = 400
REFERENCE_COUNT = 2_048

Write = Callable[[Path], None]


def ensure(kind: str, root: str = "") -> Path:
    """The folder of ``celeba_hq`` or ``coco``. Renders it where it is missing, which takes about ten seconds.

    ``root``: where it is or shall be. Empty: a folder in the cache. Raises ProtocolError where it cannot be written.
    """
    write = {"celeba_hq": write_faces, "coco": write_scenes}[kind]
    # Another version of the world has another folder, so no run mixes their images.
    stamp = stable_digest([WORLD_VERSION, kind, SIZE, EVALUATION_COUNT, REFERENCE_COUNT])
    folder = Path(root) if root else cache_folder() / "mini" / f"{kind}-{stamp}"
    try:
        if not (folder / "world.json").exists():
            _whole(folder, write)
    except OSError as error:
        remedy = "another root" if root else "a folder in the environment variable PROMPTEDITBENCH_CACHE"
        raise ProtocolError(
            f"{folder}: the rendered world cannot be written there ({error.strerror}). "
            f"Name {remedy} that can be written and has room."
        ) from error
    return folder


def _whole(folder: Path, write: Write) -> None:
    """Renders the folder whole or not at all."""
    try:
        with atomic_folder(folder) as part:
            write(part)
            (part / "world.json").write_text(json.dumps({"version": WORLD_VERSION, "size": SIZE}) + "\n")
    except OSError:
        # Another process may have been faster. Any other folder in the way is an error.
        if not (folder / "world.json").exists():
            raise


def face_seeds() -> Iterator[tuple[int, int, int]]:
    """(image number, seed, CelebA's partition) of every face in the folder."""
    for i in range(EVALUATION_COUNT):
        yield i, EVALUATION + i, 2
    for i in range(REFERENCE_COUNT):
        yield EVALUATION_COUNT + i, REFERENCE + i, 0


def write_faces(root: Path) -> None:
    """CelebAMask-HQ: images, part masks, attributes, the mapping to CelebA and its partitions."""
    (root / "CelebA-HQ-img").mkdir(parents=True)
    rows, mapping, partition = [], ["idx orig_idx orig_file"], []
    names: list[str] = []
    for number, seed, part in face_seeds():
        # Numbers of evaluation images are their seeds, from which the protocol draws the ground truth.
        face = sample_face(seed)
        pixels, masks = render_face(face, SIZE)
        _jpeg(root / "CelebA-HQ-img" / f"{number}.jpg", pixels)
        attributes = face.attributes()
        names = list(attributes)
        rows.append(" ".join([f"{number}.jpg", *("1" if on else "-1" for on in attributes.values())]))
        mapping.append(f"{number} {number} {number:06d}.jpg")
        partition.append(f"{number:06d}.jpg {part}")
        if part == 2:
            folder = root / "CelebAMask-HQ-mask-anno" / str(number // 2000)
            folder.mkdir(parents=True, exist_ok=True)
            for name, mask in masks.items():
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number:05d}_{name}.png")
    _lines(root / "CelebAMask-HQ-attribute-anno.txt", [str(len(rows)), " ".join(names), *rows])
    _lines(root / "CelebA-HQ-to-CelebA-mapping.txt", mapping)
    _lines(root / "list_eval_partition.txt", partition)


def write_scenes(root: Path) -> None:
    """COCO 2017: val2017, instances, captions. Images with ids below ``EVALUATION_COUNT`` are for evaluation."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    categories = [
        {"id": k, "name": c.name, "supercategory": c.supercategory}
        for k, c in enumerate(CATEGORIES.values(), 1)
    ]
    images: list[dict[str, object]] = []
    instances: list[dict[str, object]] = []
    captions: list[dict[str, object]] = []

    # Images. Those of the reference have no instances, so that no case is made of them.
    seeds = [EVALUATION + i for i in range(EVALUATION_COUNT)]
    seeds += [REFERENCE + i for i in range(REFERENCE_COUNT)]
    for number, seed in enumerate(seeds):
        scene = sample_scene(seed)
        pixels, masks = render_scene(scene, SIZE)
        name = f"{number:012d}.jpg"
        _jpeg(root / "val2017" / name, pixels)
        images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        captions.append({"id": number, "image_id": number, "caption": caption(scene)})
        if number < EVALUATION_COUNT:
            for thing, mask in zip(scene.objects, masks, strict=True):
                instances.append(_instance(len(instances) + 1, number, thing.category, mask))

    # Annotation files.
    info = {"description": "PromptEditBench mini world", "version": WORLD_VERSION}
    _json(
        root / "annotations" / "instances_val2017.json",
        {"info": info, "images": images, "annotations": instances, "categories": categories},
    )
    _json(
        root / "annotations" / "captions_val2017.json",
        {"info": info, "images": images, "annotations": captions},
    )


def _instance(number: int, image: int, category: str, mask: NDArray[np.bool_]) -> dict[str, object]:
    """COCO's annotation of one object, its outline as compressed RLE. ``mask``: bool (H, W), not empty."""
    from pycocotools import mask as coder

    # pycocotools reads columns (Fortran order), as COCO's RLE counts them.
    code = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "id": number,
        "image_id": image,
        "category_id": list(CATEGORIES).index(category) + 1,
        "segmentation": {"size": [SIZE, SIZE], "counts": code["counts"].decode("ascii")},
        "area": int(mask.sum()),
        # x, y, width, height.
        "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
        "iscrowd": 0,
    }


def _jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    # Chroma is not subsampled: at 64 px it would bleed over the edges of the objects.
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")

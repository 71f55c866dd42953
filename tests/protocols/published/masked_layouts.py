"""Writes small benchmarks in the published layouts of those with masks. All pictures are drawn here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet


def picture(seed: int, size: tuple[int, int] = (512, 512)) -> Image.Image:
    """A smooth coloured picture, another one for each seed. ``size``: (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """Bool (H, W), True in the box (left, top, right, bottom)."""
    mask = np.zeros((size[1], size[0]), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def runs(mask: np.ndarray, first: int) -> list[int]:
    """Start and length of each run of True, row by row, ``first`` being the number of the first pixel."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel().astype(int), [0]])))
    return [n for start, end in edges.reshape(-1, 2).tolist() for n in (start + first, end - start)]


def save(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write_pie_bench(root: Path, kind: str = "JPEG") -> Path:
    """Three cases: an object, a background whose run leaves the image, and a style whose mask is full.

    ``kind``: format of the images. PNG gives the same pixels with every decoder.
    """
    items: dict[str, dict[str, Any]] = {}

    def add(
        folder: str, original: str, editing: str, instruction: str, blended: str, mask: list[int]
    ) -> None:
        key = f"{folder[0]}{len(items):011d}"
        items[key] = {
            "image_path": f"{folder}/{key}.jpg",
            "original_prompt": original,
            "editing_prompt": editing,
            "editing_instruction": instruction,
            "editing_type_id": folder[0],
            "blended_word": blended,
            "mask": mask,
        }
        save(root / "annotation_images" / folder / f"{key}.jpg", picture(len(items)), format=kind)

    box = box_mask((512, 512), (100, 150, 300, 400))
    add(
        "1_change_object_80",
        "a [cat] on a sofa",
        "a [small dog] on a sofa",
        "make it a dog",
        "cat dog",
        runs(box, 0),
    )
    # The lower half, and further than the image goes.
    half = 256 * 512
    add("8_change_background_80", "a tree", "a tree [at night]", "make it night", "", [half, 2 * half])
    add(
        "9_change_style_80",
        "a photo of a house",
        "a [sketch] of a house",
        "make it a sketch",
        "",
        [0, 512 * 512],
    )
    (root / "mapping_file.json").write_text(json.dumps(items))
    return root


def write_brushbench(root: Path, kind: str = "JPEG") -> Path:
    """Two images, each with a mask of its object and of all around it. ``kind``: format of the images."""
    items = {}
    for number, box in enumerate([(0, 0, 100, 50), (200, 100, 512, 512)]):
        mask = box_mask((512, 512), box)
        items[f"{number:08d}"] = {
            "image": f"images/{number:08d}.jpg",
            "caption": f"a thing, number {number}",
            "inpainting_mask": runs(mask, 1),
            "outpainting_mask": runs(~mask, 1),
        }
        save(root / "images" / f"{number:08d}.jpg", picture(number), format=kind)
    (root / "mapping_file.json").write_text(json.dumps(items))
    return root


def hole_picture(seed: int, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A picture that is transparent in the box. Its edge is half transparent by one pixel."""
    alpha = np.full((size[1], size[0]), 255, np.uint8)
    left, top, right, bottom = box
    alpha[top:bottom, left:right] = 128
    alpha[top + 1 : bottom - 1, left + 1 : right - 1] = 0
    image = picture(seed, size).convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    return image


# (session, size of its source, instructions of its turns).
SESSIONS: Sequence[tuple[str, tuple[int, int], tuple[str, ...]]] = (
    ("30", (128, 96), ("add a hat",)),
    ("139", (96, 96), ("make the car red", "remove the dog")),
)
# Masks are twice as large as sources, and targets of the first session are larger too.
MASK_BOX = (40, 60, 120, 140)


def _turn_images(
    session: str, size: tuple[int, int], turn: int
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """(source, mask, target) of a turn."""
    seed, double = 10 * int(session), (2 * size[0], 2 * size[1])
    mask = hole_picture(seed, double, MASK_BOX)
    target_size = double if session == "30" else size
    return picture(seed + turn - 1, size), mask, picture(seed + turn, target_size)


def write_magicbrush_test(root: Path) -> Path:
    """The test set's archive: two sessions, of one and of two turns."""
    sessions: dict[str, list[dict[str, str]]] = {}
    whole: dict[str, dict[str, str]] = {}
    change: dict[str, dict[str, str]] = {}
    for session, size, instructions in SESSIONS:
        sessions[session], change[session] = [], {}
        whole[session] = {f"{session}-input.png": f"the input of {session}"}
        for turn, instruction in enumerate(instructions, 1):
            before = f"{session}-input.png" if turn == 1 else f"{session}-output{turn - 1}.png"
            names = before, f"{session}-mask{turn}.png", f"{session}-output{turn}.png"
            for name, image in zip(names, _turn_images(session, size, turn), strict=True):
                save(root / "images" / session / name, image)
            keys = ("input", "mask", "output")
            sessions[session].append({**dict(zip(keys, names, strict=True)), "instruction": instruction})
            whole[session][names[2]] = f"all of {session} after turn {turn}"
            change[session][names[2]] = f"what turn {turn} of {session} changed"
    (root / "edit_sessions.json").write_text(json.dumps(sessions))
    (root / "global_descriptions.json").write_text(json.dumps(whole))
    (root / "local_descriptions.json").write_text(json.dumps(change))
    return root


def _cell(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_magicbrush_table(root: Path, split: str, captions: bool) -> Path:
    """The same turns as parquet files of one turn each, with ImagenHub's captions or without."""
    rows = []
    for session, size, instructions in SESSIONS:
        for turn, instruction in enumerate(instructions, 1):
            source, mask, target = _turn_images(session, size, turn)
            row = {
                "img_id": session,
                "turn_index": turn,
                "source_img": _cell(source),
                "mask_img": _cell(mask),
                "instruction": instruction,
            }
            if captions:
                row |= {
                    "source_global_caption": f"before turn {turn}",
                    "target_global_caption": f"after turn {turn}",
                    "target_local_caption": f"change of turn {turn}",
                }
            rows.append({**row, "target_img": _cell(target)})
    (root / "data").mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        name = f"{split}-{number:05d}-of-{len(rows):05d}-0123456789abcdef.parquet"
        parquet.write_table(pa.Table.from_pylist([row]), root / "data" / name)
    return root


def write_editbench(root: Path) -> Path:
    """Two natural images and a generated one, white where a box of another size is."""
    for name, ids in (("natural", ("7", "12")), ("generated", ("3",))):
        (root / f"references_{name}").mkdir(parents=True, exist_ok=True)
        with (root / f"annotations_{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["aos", "prompt_full", "prompt_mask-simple", "prompt_mask-rich"])
            for aos in ids:
                writer.writerow([aos, f"image {aos}, in full", "a cat", "a small, red cat"])
                save(root / f"references_{name}" / f"{aos}.png", picture(int(aos), (160, 120)))
                mask = box_mask((320, 240), (0, 0, 160, 120)).astype(np.uint8) * 255
                save(root / f"masks_{name}" / f"{aos}.png", Image.fromarray(mask))
    return root

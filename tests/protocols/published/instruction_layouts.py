"""Benchmarks of a few cases without masks, in exactly the published layouts. Pictures are random and not square."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A random picture of (width, height) ``size``, smooth, so that JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BILINEAR)


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A mask of ``size`` that is 255 in ``box`` (left, top, right, bottom)."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def cell(image: Image.Image) -> dict[str, Any]:
    """An image as the ``datasets`` library stores it in a table."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def arrow_folder(root: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes a split as ``save_to_disk`` of the ``datasets`` library does, and returns ``root``."""
    (root / split).mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(row) for row in rows])
    with pa.ipc.new_stream(str(root / split / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return root


def parquet_folder(root: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes a split as published data sets have it, in two files, and returns ``root``."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(row) for row in rows])
    half = len(rows) // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        parquet.write_table(part, root / "data" / f"{split}-{number:05d}-of-00002.parquet")
    return root


GEDIT: list[dict[str, Any]] = [
    # The first three rows share a source.
    {
        "task_type": "color_alter",
        "key": "a1",
        "instruction": "make the sky red",
        "instruction_language": "en",
    },
    {"task_type": "color_alter", "key": "a1", "instruction": "把天空变成红色", "instruction_language": "cn"},
    {"task_type": "subject-remove", "key": "b2", "instruction": "remove it", "instruction_language": "en"},
    {
        "task_type": "tone_transfer",
        "key": "c3",
        "instruction": "in the evening",
        "instruction_language": "en",
    },
    {"task_type": "tone_transfer", "key": "c3", "instruction": "改成傍晚", "instruction_language": "cn"},
]
GEDIT_SOURCES = (0, 0, 0, 3, 3)


def gedit(root: Path) -> Path:
    rows = [
        row
        | {
            "input_image": cell(picture(source, (48, 32))),
            "input_image_raw": cell(picture(source, (72, 48))),
            "Intersection_exist": row["key"] != "c3",
        }
        for row, source in zip(GEDIT, GEDIT_SOURCES, strict=True)
    ]
    return arrow_folder(root, "train", rows)


EMU_EDIT: list[dict[str, Any]] = [
    {"task": "color", "idx": 11, "input_caption": "a red car", "output_caption": "a blue car"},
    {"task": "local", "idx": 12, "input_caption": "a man in a hat", "output_caption": "a man in a hat "},
    {"task": "background", "idx": 15, "input_caption": "a dog indoors", "output_caption": "a dog outdoors"},
    {"task": "text", "idx": 40, "input_caption": "a sign", "output_caption": "a sign that says hi"},
]


def emu_edit(root: Path) -> Path:
    rows = [
        row
        | {
            "instruction": f"instruction {row['idx']}",
            "image": cell(picture(row["idx"], (40, 56))),
            "split": "test",
            "hash": f"{row['idx']:032x}",
        }
        for row in EMU_EDIT
    ]
    return parquet_folder(root, "test", rows)


COMPBENCH: list[dict[str, Any]] = [
    {
        "task": "add",
        "image_path": "001ca3cb/0/00003.png",
        "instruction": "add a fish",
        "caption": "a gray fish",
    },
    {
        "task": "implicit_reasoning",
        "image_path": "02b72b8d_2_00016.png",
        "instruction": "remove what barks",
        "caption": "a dog",
    },
    {
        "task": "multi_object_add",
        "image_path": "02b72b8d_00002.png",
        "instruction": "add a cat and a dog",
        "caption": "a cat|a dog",
    },
    {"task": "view", "image_path": "00000.png", "instruction": "see it from above", "caption": None},
]
COMPBENCH_BOX = (4, 6, 20, 18)


def compbench(root: Path) -> Path:
    rows = []
    for number, row in enumerate(COMPBENCH):
        source = picture(number, (48, 48))
        truth = source.copy()
        truth.paste((255, 0, 0), COMPBENCH_BOX)
        mask = None if row["task"] == "view" else cell(box_mask(source.size, COMPBENCH_BOX))
        rows.append(row | {"input_image": cell(source), "edited_image": cell(truth), "mask": mask})
    parquet_folder(root, "train", rows)
    turns = [
        rows[0] | {"task": "multi_turn_add", "image_path": f"turn{turn}_add/02b72b8d_00005.png"}
        for turn in (1, 2)
    ]
    return parquet_folder(root, "multi_turn", turns)


KONTEXT: list[dict[str, Any]] = [
    {
        "file_name": "images/0000.jpg",
        "instruction": "give the cat a tophat",
        "category": "Instruction Editing - Local",
        "key": 0,
        "image_idx": 0,
        "prompt_idx": 0,
    },
    {
        "file_name": "images/0001.jpg",
        "instruction": "make it a neon sign",
        "category": "Instruction Editing - Global",
        "key": 1,
        "image_idx": 0,
        "prompt_idx": 1,
    },
    {
        "file_name": "images/0002.jpg",
        "instruction": "the same girl at the beach",
        "category": "Character Reference",
        "key": 2,
        "image_idx": 1,
        "prompt_idx": 0,
    },
]


def kontext_bench(root: Path) -> Path:
    images = root / "test" / "images"
    images.mkdir(parents=True)
    for row in KONTEXT:
        picture(row["image_idx"], (64, 40)).save(root / "test" / row["file_name"], quality=95)
    lines = [json.dumps(row) + "\n" for row in KONTEXT]
    (root / "test" / "metadata.jsonl").write_text("".join(lines))
    return root


IMGEDIT_BASIC = {
    "1082": {"id": "animal/000342021.jpg", "prompt": "make the shell smooth", "edit_type": "adjust"},
    "1068": {"id": "animal/000342021.jpg", "prompt": "remove the tortoise", "edit_type": "remove"},
    "673": {"id": "style/000278574.jpg", "prompt": "draw it in ink", "edit_type": "style"},
}
IMGEDIT_UGE = {
    "1": {"id": "000029784.jpg", "prompt": "remove the lemon slice and turn the other into an orange"}
}


def imgedit(root: Path) -> Path:
    for folder, name, items in (
        ("singleturn", "singleturn.json", IMGEDIT_BASIC),
        ("hard", "UGE_edit.json", IMGEDIT_UGE),
    ):
        for item in items.values():
            path = root / folder / item["id"]
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(int(path.stem), (56, 40)).save(path, quality=95)
        (root / folder / name).write_text(json.dumps(items))
    return root

"""PIE-Bench: 700 prompt-driven edits of ten types with masks (Ju et al., PnP Inversion, ICLR 2024).

Layout of ``root``: ``mapping_file.json`` and ``annotation_images/``, as the repository cure-lab/PnPInversion
describes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.edit import EditCase, EditRequest
from bench.images import mask_image
from protocols.masks import Mask
from protocols.prompts import words_of
from protocols.published.common import FolderOptions, Publication, PublishedProtocol

# Pixels of a side of every image and mask.
SIDE = 512

# ``editing_type_id`` -> (category, the paper's category or "").
_TYPES: Mapping[str, tuple[str, str]] = {
    "0": ("random", ""),
    "1": ("change_object", "replacement"),
    "2": ("add_object", ""),
    "3": ("delete_object", ""),
    "4": ("change_content", "attribute"),
    "5": ("change_pose", "attribute"),
    "6": ("change_color", "attribute"),
    "7": ("change_material", "attribute"),
    "8": ("change_background", "background"),
    "9": ("change_style", ""),
}

_TEXTS = (
    "image_path",
    "original_prompt",
    "editing_prompt",
    "editing_instruction",
    "editing_type_id",
    "blended_word",
)


@dataclass(frozen=True)
class _PieBenchEntry:
    key: str
    item: Mapping[str, Any]


class PieBench(PublishedProtocol["PieBench.Options", _PieBenchEntry]):
    """The published cases. A case whose published mask is full has no mask: nothing outside it is to be kept."""

    name = "pie_bench"
    version = "1"
    categories = tuple(category for category, _ in _TYPES.values())
    summary = "PIE-Bench: ten types of edits with prompts, instructions and masks"
    canvas = SIDE

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/PIE-Bench"

    @classmethod
    def publication(cls, options: Options) -> Publication:
        del options
        return Publication(
            "PIE-Bench",
            "the form that the README of cure-lab/PnPInversion links",
            "the README states none, ask its authors",
            700,
        )

    @classmethod
    def files(cls, options: Options) -> list[tuple[Path, str]]:
        root = Path(options.root)
        return [
            (root / "mapping_file.json", "the prompts, the types and the masks of the edits"),
            (root / "annotation_images", "the folder of images, 0_random_140/000000000000.jpg and so on"),
        ]

    def read_entries(self) -> list[_PieBenchEntry]:
        path = Path(self.options.root) / "mapping_file.json"
        data = self.json(path)
        if not isinstance(data, dict):
            raise self.error(f"{path}: is no object of cases.")
        entries = []
        for key, item in data.items():
            where = f"{path}: case {key}"
            self.item(item, {**dict.fromkeys(_TEXTS, str), "mask": list}, where)
            if item["editing_type_id"] not in _TYPES:
                raise self.error(f"{where}: editing_type_id is {item['editing_type_id']!r}, expected 0 to 9.")
            self.path_below(Path(), item["image_path"], where)
            entries.append(_PieBenchEntry(self.case_id(key, "case id"), item))
        return entries

    def build(self, entry: _PieBenchEntry) -> EditCase:
        root, item = Path(self.options.root), entry.item
        path = self.path_below(root / "annotation_images", item["image_path"], entry.key)
        image = self.rgb(path)
        if image.size != (SIDE, SIDE):
            raise self.error(f"{path}: is {image.width}x{image.height}, expected {SIDE}x{SIDE}.")
        try:
            mask = decode_mask(item["mask"])
        except ValueError as error:
            raise self.error(
                f"{root / 'mapping_file.json'}: the mask of case {entry.key}: {error}."
            ) from None
        category, of_paper = _TYPES[item["editing_type_id"]]
        tags = {"image_path": item["image_path"], "blended_word": item["blended_word"]}
        if of_paper:
            tags["paper_category"] = of_paper
        request = EditRequest(
            source=image,
            mask=None if mask.all() else mask_image(mask),
            source_prompt=plain(item["original_prompt"]),
            target_prompt=plain(item["editing_prompt"]),
            region_prompt="",
            instruction=item["editing_instruction"].strip(),
            edit_words=bracketed_words(item["editing_prompt"]),
        )
        return EditCase(entry.key, category, request, source_id=entry.key, tags=tags)

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> dict[str, str]:
        return {f"annotation_images/{row['tags']['image_path']}": "edit"}


def decode_mask(runs: Sequence[int]) -> Mask:
    """Bool (512, 512) of a run list ``[start, length, start, length, ...]``, row by row, starts from 0.

    As the published decoder does, it clips a run at the end of the image, and adds the image's outermost rows and
    columns to the mask ("to avoid annotation errors in boundary"). Raises ValueError for anything but such a list.
    """
    flat = np.zeros(SIDE * SIDE, bool)
    if len(runs) % 2 or not all(type(n) is int and n >= 0 for n in runs):
        raise ValueError("expected start, length, start, length, ... of 0 and more")
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start > flat.size:
            raise ValueError(f"a run starts at {start}, behind the {flat.size} pixels")
        flat[start : start + length] = True
    mask = flat.reshape(SIDE, SIDE)
    mask[[0, -1], :] = True
    mask[:, [0, -1]] = True
    return mask


def plain(prompt: str) -> str:
    """A prompt without the brackets around what changes. With them, CLIP scores are wrong."""
    return prompt.replace("[", "").replace("]", "").strip()


def bracketed_words(prompt: str) -> tuple[str, ...]:
    """The words in brackets, each once, in order."""
    words = (word for part in re.findall(r"\[([^\]]*)\]", prompt) for word in words_of(part))
    return tuple(dict.fromkeys(words))

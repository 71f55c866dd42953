"""BrushBench: 600 images to inpaint, each inside and outside of its object (Ju et al., BrushNet, ECCV 2024).

Layout of ``root``: ``mapping_file.json`` and the images that it names, as the repository TencentARC/BrushNet reads
them. The caption describes the image before and after: the object, or all around it, is painted anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.edit import EditCase, EditRequest
from bench.images import mask_image
from protocols.masks import Mask
from protocols.published.common import FolderOptions, Publication, PublishedProtocol

# Pixels of a side of every image and mask.
SIDE = 512

# Setting -> key of its mask in the mapping file.
_MASKS: Mapping[str, str] = {"inside": "inpainting_mask", "outside": "outpainting_mask"}


@dataclass(frozen=True)
class _BrushBenchEntry:
    key: str
    setting: str
    item: Mapping[str, Any]


class BrushBench(PublishedProtocol["BrushBench.Options", _BrushBenchEntry]):
    """The published cases. A category is a setting: the object's mask, or the mask of all around it."""

    name = "brushbench"
    version = "1"
    categories = tuple(_MASKS)
    summary = "BrushBench: inpainting inside and outside of an object's mask, from a caption"
    canvas = SIDE

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/BrushBench"
        settings: tuple[str, ...] = tuple(_MASKS)

        def __post_init__(self) -> None:
            if not self.settings or not set(self.settings) <= set(_MASKS):
                raise ValueError(f"settings are {list(self.settings)}; choose from {', '.join(_MASKS)}")

    @classmethod
    def publication(cls, options: Options) -> Publication:
        return Publication(
            "BrushBench",
            "the form that the README of TencentARC/BrushNet links",
            "the terms that the form states",
            600 * len(set(options.settings)),
        )

    @classmethod
    def files(cls, options: Options) -> list[tuple[Path, str]]:
        return [(Path(options.root) / "mapping_file.json", "the captions and two masks of each image")]

    def read_entries(self) -> list[_BrushBenchEntry]:
        path = Path(self.options.root) / "mapping_file.json"
        data = self.json(path)
        if not isinstance(data, dict):
            raise self.error(f"{path}: is no object of images.")
        settings = [setting for setting in _MASKS if setting in self.options.settings]
        types = {"image": str, "caption": str, **{_MASKS[setting]: list for setting in settings}}
        for key, item in data.items():
            where = f"{path}: image {key}"
            self.item(item, types, where)
            self.path_below(Path(), item["image"], where)
            self.case_id(key, "image id")
        return [_BrushBenchEntry(key, setting, item) for setting in settings for key, item in data.items()]

    def build(self, entry: _BrushBenchEntry) -> EditCase:
        root, item = Path(self.options.root), entry.item
        path = self.path_below(root, item["image"], entry.key)
        image = self.rgb(path)
        if image.size != (SIDE, SIDE):
            raise self.error(f"{path}: is {image.width}x{image.height}, expected {SIDE}x{SIDE}.")
        try:
            mask = decode_mask(item[_MASKS[entry.setting]])
        except ValueError as error:
            raise self.error(
                f"{root / 'mapping_file.json'}: {_MASKS[entry.setting]} of {entry.key}: {error}."
            ) from None
        caption = item["caption"].strip()
        request = EditRequest(
            source=image,
            mask=mask_image(mask),
            source_prompt=caption,
            target_prompt=caption,
            region_prompt="",
            instruction="",
        )
        tags = {"image": item["image"]}
        # Outside of the object is the background. Inside, the object stays what it was: none of the paper's edits.
        if entry.setting == "outside":
            tags["paper_category"] = "background"
        return EditCase(
            f"{entry.key}-{entry.setting}", entry.setting, request, source_id=entry.key, tags=tags
        )

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> dict[str, str]:
        # The official script gets one folder (``--image_save_path``) for each setting.
        return {f"{row['category']}/{row['tags']['image']}": "edit"}


def decode_mask(runs: Sequence[int]) -> Mask:
    """Bool (512, 512) of a run list ``[start, length, start, length, ...]``, row by row, starts from 1.

    Raises ValueError for anything but such a list.
    """
    flat = np.zeros(SIDE * SIDE, bool)
    if len(runs) % 2 or not all(type(n) is int and n >= 0 for n in runs):
        raise ValueError("expected start, length, start, length, ... of 0 and more")
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        # A start of 0 would count from 0: the mask of another tool, which would be shifted by a pixel.
        if not 1 <= start <= flat.size:
            raise ValueError(f"a run starts at {start}, expected 1 to {flat.size}")
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(SIDE, SIDE)

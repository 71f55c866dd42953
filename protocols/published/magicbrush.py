"""MagicBrush: edits of photographs by instructions, with masks and ground truth (Zhang et al., NeurIPS 2023).

Layouts of ``root``, by the option ``split``:

* ``test``: the unpacked test archive: ``images/<id>/<id>-input.png`` and so on, ``edit_sessions.json``, captions.
* ``dev``: the data set osunlp/MagicBrush, ``data/dev-*.parquet``.
* ``imagenhub``: the data set ImagenHub/Mask_Guided_Image_Editing, ``data/filtered-*.parquet``: 179 cases at 512 px.

Each turn is a case of its own that begins with the true image before it: the published "single-turn" setting, whose
table is called "all turns".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.edit import EditCase, EditRequest
from bench.images import ImageError, mask_image, resize, resize_mask
from protocols.masks import Mask
from protocols.published.common import FolderOptions, Publication, PublishedProtocol, PublishedTable, shards

# ImagenHub resizes everything to a square of this side.
IMAGENHUB_SIDE = 512

_ARCHIVE = "the link in the README of OSU-NLP-Group/MagicBrush, and unpack it with the password stated there"
_PUBLICATIONS: Mapping[str, Publication] = {
    "test": Publication(
        "MagicBrush, test set", _ARCHIVE, "CC-BY-4.0, the unpacked test set must not be redistributed", 1053
    ),
    "dev": Publication("MagicBrush, dev set", "the data set osunlp/MagicBrush", "CC-BY-4.0", 528),
    "imagenhub": Publication(
        "ImagenHub's mask-guided edits, split filtered",
        "the data set ImagenHub/Mask_Guided_Image_Editing",
        "its card states none, MagicBrush is CC-BY-4.0",
        179,
    ),
}
# Split -> its parquet files.
_SHARDS: Mapping[str, str] = {"dev": "data/dev-*.parquet", "imagenhub": "data/filtered-*.parquet"}
_COLUMNS = ("img_id", "turn_index", "instruction", "source_img", "mask_img", "target_img")
# Field of an entry -> the column with it, which ImagenHub's files alone have.
_CAPTIONS: Mapping[str, str] = {
    "source_prompt": "source_global_caption",
    "target_prompt": "target_global_caption",
    "region_prompt": "target_local_caption",
}


@dataclass(frozen=True)
class _MagicBrushEntry:
    """One turn. ``source``, ``mask`` and ``target`` are names of files, or empty where ``row`` points into a table."""

    img_id: str
    turn: int
    instruction: str
    source_prompt: str = ""
    target_prompt: str = ""
    region_prompt: str = ""
    source: str = ""
    mask: str = ""
    target: str = ""
    row: int = -1


class MagicBrush(PublishedProtocol["MagicBrush.Options", _MagicBrushEntry]):
    """The published cases, by turn. The ground truth is the target image, resized to the source where they differ."""

    name = "magicbrush"
    version = "1"
    categories = ("turn_1", "turn_2", "turn_3")
    summary = "MagicBrush: instructions with masks and ground truth (test, dev or ImagenHub's 179)"

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/MagicBrush"
        # "test", "dev" or "imagenhub".
        split: str = "test"
        # Files of the test set with captions of whole images and of what changes, {id: {file name: caption}}. Their
        # names differ between releases. Empty: no captions.
        global_captions: str = "global_descriptions.json"
        local_captions: str = "local_descriptions.json"
        # Masks without transparency: "refuse", or "white" for white where to edit, as the data's card says.
        opaque_masks: str = "refuse"

        def __post_init__(self) -> None:
            if self.split not in _PUBLICATIONS:
                raise ValueError(f"split is {self.split!r}; choose from {', '.join(_PUBLICATIONS)}")
            if self.opaque_masks not in ("refuse", "white"):
                raise ValueError(f"opaque_masks is {self.opaque_masks!r}; choose refuse or white")
            for name in (self.global_captions, self.local_captions):
                # A suite may come from a stranger: a name must not lead out of root.
                if name and Path(name).name != name:
                    raise ValueError(f"{name!r} must be the name of a file in root")

    @classmethod
    def publication(cls, options: Options) -> Publication:
        return _PUBLICATIONS[options.split]

    @classmethod
    def files(cls, options: Options) -> list[tuple[Path, str]]:
        root = Path(options.root)
        if options.split in _SHARDS:
            pattern = _SHARDS[options.split]
            return [(next(iter(shards(root, pattern)), root / pattern), "the parquet files of the split")]
        expected = [
            (root / "images", "a folder of images for each session"),
            (root / "edit_sessions.json", "the turns of each session"),
        ]
        for option, what in (("global_captions", "whole images"), ("local_captions", "what changes")):
            if name := getattr(options, option):
                content = f"captions of {what} (another name: option {option}; without captions: {option}='')"
                expected.append((root / name, content))
        return expected

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.canvas = IMAGENHUB_SIDE if options.split == "imagenhub" else None

    # ------------------------------------------------------------ annotations

    def read_entries(self) -> list[_MagicBrushEntry]:
        entries = self._entries_of_archive() if self.options.split == "test" else self._entries_of_table()
        for entry in entries:
            self.case_id(entry.img_id, "session id")
            if not 1 <= entry.turn <= len(self.categories):
                raise self.error(f"session {entry.img_id}: has turn {entry.turn}, expected 1 to 3.")
        return entries

    def _entries_of_archive(self) -> list[_MagicBrushEntry]:
        root = Path(self.options.root)
        path = root / "edit_sessions.json"
        sessions = self.json(path)
        if not isinstance(sessions, dict) or not all(isinstance(turns, list) for turns in sessions.values()):
            raise self.error(f"{path}: is no object of lists of turns.")
        of_whole, of_change = map(self._captions, (self.options.global_captions, self.options.local_captions))
        entries = []
        for img_id, turns in sessions.items():
            for number, turn in enumerate(turns, 1):
                where = f"{path}: {img_id}, turn {number}"
                self.item(turn, dict.fromkeys(("input", "mask", "output", "instruction"), str), where)
                entries.append(
                    _MagicBrushEntry(
                        img_id,
                        number,
                        turn["instruction"].strip(),
                        source_prompt=of_whole.get((img_id, turn["input"]), ""),
                        target_prompt=of_whole.get((img_id, turn["output"]), ""),
                        region_prompt=of_change.get((img_id, turn["output"]), ""),
                        source=self._below_images(img_id, turn["input"], where),
                        mask=self._below_images(img_id, turn["mask"], where),
                        target=self._below_images(img_id, turn["output"], where),
                    )
                )
        return entries

    def _below_images(self, img_id: str, name: str, where: str) -> str:
        return self.path_below(Path("images"), f"{img_id}/{name}", where).as_posix()

    def _captions(self, name: str) -> dict[tuple[str, str], str]:
        """(session, file name) -> caption. Empty where the option names no file."""
        if not name:
            return {}
        path = Path(self.options.root) / name
        sessions = self.json(path)
        if not isinstance(sessions, dict) or not all(isinstance(s, dict) for s in sessions.values()):
            raise self.error(f"{path}: is no object of sessions with captions by file name.")
        for img_id, captions in sessions.items():
            self.item(captions, dict.fromkeys(captions, str), f"{path}: {img_id}")
        return {
            (img_id, file): caption.strip()
            for img_id, captions in sessions.items()
            for file, caption in captions.items()
        }

    def _entries_of_table(self) -> list[_MagicBrushEntry]:
        captions = [name for name in _CAPTIONS.values() if name in self._table.names]
        entries = []
        for number, row in enumerate(self._table.texts(["img_id", "turn_index", "instruction", *captions])):
            where = f"{self.options.root}: row {number}"
            types = {"img_id": str, "turn_index": int, "instruction": str, **dict.fromkeys(captions, str)}
            self.item(row, types, where)
            entries.append(
                _MagicBrushEntry(
                    row["img_id"],
                    row["turn_index"],
                    row["instruction"].strip(),
                    **{field: row.get(name, "").strip() for field, name in _CAPTIONS.items()},
                    row=number,
                )
            )
        return entries

    @cached_property
    def _table(self) -> PublishedTable:
        files = shards(Path(self.options.root), _SHARDS[self.options.split])
        return PublishedTable(files, _COLUMNS, self.publication(self.options))

    # ------------------------------------------------------------ cases

    def build(self, entry: _MagicBrushEntry) -> EditCase:
        source, mask_file, target = self._images(entry)
        place = f"session {entry.img_id}, mask of turn {entry.turn}"
        # Before ImagenHub's own step, which makes every picture square.
        name = str(Path(self.options.root) / entry.mask) if entry.mask else place
        self.mask_at(mask_file, source.size, name)
        imagenhub = self.options.split == "imagenhub"
        size = (IMAGENHUB_SIDE, IMAGENHUB_SIDE) if imagenhub else source.size
        try:
            # ImagenHub smooths the alpha channel before it asks for values below 255, which widens the mask.
            mask_file = mask_file.convert("RGBA")
            mask = self._mask(resize(mask_file, size) if imagenhub else mask_file)
        except ImageError as error:
            raise self.error(f"{place}: {error}") from error
        request = EditRequest(
            source=resize(source, size),
            mask=None if mask.all() else resize_mask(mask_image(mask), size),
            source_prompt=entry.source_prompt,
            target_prompt=entry.target_prompt,
            region_prompt=entry.region_prompt,
            instruction=entry.instruction,
        )
        return EditCase(
            f"{entry.img_id}-{entry.turn}",
            f"turn_{entry.turn}",
            request,
            source_id=entry.img_id,
            truth=resize(target, size),
            tags={"split": self.options.split, "session": entry.img_id, "turn": str(entry.turn)},
        )

    def _images(self, entry: _MagicBrushEntry) -> tuple[Image.Image, Image.Image, Image.Image]:
        """Source, mask and target. The mask is in its own mode, source and target are RGB."""
        if entry.row < 0:
            root = Path(self.options.root)
            mask = self.image(root / entry.mask)
            return self.rgb(root / entry.source), mask, self.rgb(root / entry.target)
        row, name = self._table.row(entry.row), f"session {entry.img_id}, turn {entry.turn}: "
        return (
            self.rgb_of(row["source_img"], name + "source_img"),
            self.image_of(row["mask_img"], name + "mask_img"),
            self.rgb_of(row["target_img"], name + "target_img"),
        )

    def _mask(self, image: Image.Image) -> Mask:
        """Bool (H, W), True where an RGBA image is not opaque. Raises ImageError where it is opaque everywhere."""
        alpha = np.asarray(image.getchannel("A"))
        if (alpha != 255).any():
            return np.asarray(alpha != 255)
        if self.options.opaque_masks == "white":
            return np.asarray((np.asarray(image.convert("RGB")) == 255).all(axis=2))
        raise ImageError(
            "it has no transparent pixel. If white marks what to edit in your files, set opaque_masks to white."
        )

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> dict[str, str]:
        session, turn = row["tags"]["session"], row["tags"]["turn"]
        if row["tags"]["split"] == "imagenhub":
            return {f"sample_{session}_{turn}.jpg": "edit"}
        return {f"{session}/{session}_{'' if turn == '1' else 'inde_'}{turn}.png": "edit"}

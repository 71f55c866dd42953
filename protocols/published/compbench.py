"""CompBench: complex instructions with ground truth and, for most tasks, masks (Jia et al., CVPR 2026).

``root`` is the folder of the data set ``BohanJia/CompBench``: Arrow or parquet files of the splits ``train`` and
``multi_turn``. A mask is white where to edit. The tasks ``action``, ``location`` and ``view`` have none. Captions
describe the edited region. The captions of two objects are joined by ``|``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from PIL import Image

from bench.edit import EditCase, EditRequest
from bench.images import ImageError, check_mask, resize, to_mask
from protocols.published.common import FolderOptions, Publication
from protocols.published.splits import ColumnTypes, SplitProtocol, SplitRow, image_id

# Split -> rows.
SPLITS = {"train": 2905, "multi_turn": 576}
_LOCAL = ("add", "remove", "replace")
_MULTI_OBJECT = ("multi_object_add", "multi_object_remove")
_MULTI_TURN = ("multi_turn_add", "multi_turn_remove")

_PAPER = {"replace": "replacement"} | dict.fromkeys(_MULTI_OBJECT, "multi_object")


class CompBench(SplitProtocol["CompBench.Options"]):
    """CompBench. Each turn of the multi-turn tasks is a case of its own, from the published source of that turn."""

    name = "compbench"
    version = "1"
    categories = (*_LOCAL, *_MULTI_OBJECT, "implicit_reasoning", "action", "location", "view", *_MULTI_TURN)
    summary = "CompBench: 2,905 complex instructions with ground truth, most with masks"
    canvas = None
    columns: ClassVar[ColumnTypes] = {
        "task": str,
        "image_path": str,
        "instruction": str,
        "caption": (str, type(None)),
    }
    image_columns = ("input_image", "edited_image", "mask")

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/CompBench"
        # train (nine tasks) or multi_turn (two).
        split: str = "train"

        def __post_init__(self) -> None:
            if self.split not in SPLITS:
                raise ValueError(f"split is {self.split!r}; choose from {', '.join(SPLITS)}")

    @classmethod
    def publication(cls, options: CompBench.Options) -> Publication:
        return Publication(
            title=f"CompBench, {options.split}",
            source="the data set BohanJia/CompBench on Hugging Face",
            licence="CC BY 4.0",
            cases=SPLITS[options.split],
        )

    @classmethod
    def split(cls, options: CompBench.Options) -> str:
        return options.split

    def name_of(self, row: SplitRow) -> str:
        # Paths are unique within a task only.
        path = PurePosixPath(row.values["image_path"]).with_suffix("").as_posix().replace("/", "-")
        return self.case_id(f"{row.values['task']}-{path}", f"{row.where}: 'image_path'")

    def build(self, entry: SplitRow) -> EditCase:
        values = self.table.row(entry.index)
        task = self.checked_category(values["task"], entry.where)
        source = self.rgb_of(values["input_image"], f"{entry.where}: input_image")
        truth = self.rgb_of(values["edited_image"], f"{entry.where}: edited_image")
        return EditCase(
            id=self.name_of(entry),
            category=task,
            request=EditRequest(
                source=source,
                mask=self._mask(values["mask"], f"{entry.where}: mask", source.size),
                source_prompt="",
                target_prompt="",
                region_prompt=" and ".join(
                    filter(None, map(str.strip, (values["caption"] or "").split("|")))
                ),
                instruction=values["instruction"],
            ),
            source_id=image_id(source),
            truth=resize(truth, source.size),
            tags={"image_path": values["image_path"]}
            | ({"paper_category": _PAPER[task]} if task in _PAPER else {}),
        )

    def _mask(self, cell: Any, name: str, size: tuple[int, int]) -> Image.Image | None:
        """The mask at the source's size. None for no mask, and for one that is empty or full: it marks nothing."""
        if cell is None:
            return None
        try:
            mask = self.mask_at(to_mask(self.image_of(cell, name), name), size, name)
        except ImageError as error:
            raise self.error(str(error)) from error
        try:
            check_mask(mask)
        except ImageError:
            return None
        return mask

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> dict[str, str]:
        """As ``eval_all.py`` reads them, below ``editing_results/MODEL``.

        It reads no edits of the tasks ``action``, ``location`` and ``view``. They go where the README wants them.
        """
        task, path = row["category"], row["tags"]["image_path"]
        if task in _LOCAL:
            path = f"{{method}}_local/{task}/{path}"
        elif task == "implicit_reasoning":
            path = f"{{method}}_implicit/{path}"
        elif task in _MULTI_OBJECT:
            path = f"{{method}}_multi/{task}/{path}"
        elif task in _MULTI_TURN:
            # The path begins with the turn: ``turn1_add/...``.
            path = f"{{method}}_multi/{path}"
        else:
            path = f"{task}/{path}"
        return {path: "edit"}

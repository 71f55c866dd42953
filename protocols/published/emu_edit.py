"""Emu Edit's test set: instructions with captions before and after, without masks (Sheynin et al., CVPR 2024).

``root`` is the folder of the data set ``facebook/emu_edit_test_set``: Arrow or parquet files of the splits ``test`` and
``validation``.

Two facts are left to the user as options without a default:

* In ``facebook/emu_edit_test_set_generations``, the same rows with Emu Edit's own results, the names of the splits are
  swapped: ``test`` has 2,022 rows there and 3,589 here.
* Some rows have the same caption before and after. Published tables differ in whether these rows count: without them,
  the similarity of edits to their captions is higher.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.edit import EditCase, EditRequest
from bench.errors import BenchWarning
from protocols.published.common import FolderOptions, Publication
from protocols.published.splits import ColumnTypes, SplitProtocol, SplitRow, image_id

# Split -> rows in ``emu_edit_test_set``.
SPLITS = {"test": 3589, "validation": 2022}
EQUAL_CAPTIONS = ("keep", "drop")

_PAPER = {"background": "background", "color": "attribute"}


class EmuEdit(SplitProtocol["EmuEdit.Options"]):
    """Emu Edit's test set. The captions are the prompts."""

    name = "emu_edit"
    version = "1"
    categories = ("add", "background", "color", "global", "local", "remove", "style", "text")
    summary = "Emu Edit's test set: 3,589 instructions with captions before and after, no masks"
    canvas = None
    columns: ClassVar[ColumnTypes] = {
        "instruction": str,
        "task": str,
        "idx": (int, str),
        "input_caption": str,
        "output_caption": str,
    }
    image_columns = ("image",)

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/emu_edit_test_set"
        # test or validation. It must be chosen.
        split: str = ""
        # Rows whose two captions are equal: keep or drop. It must be chosen.
        equal_captions: str = ""

        def __post_init__(self) -> None:
            for option, value, choices in (
                ("split", self.split, tuple(SPLITS)),
                ("equal_captions", self.equal_captions, EQUAL_CAPTIONS),
            ):
                if value not in ("", *choices):
                    raise ValueError(f"{option} is {value!r}; choose from {', '.join(choices)}")

    @classmethod
    def problems(cls, options: EmuEdit.Options) -> list[str]:
        if not options.split:
            return [
                "option split is missing. Choose test (3589 cases) or validation (2022 cases). In "
                "emu_edit_test_set_generations the two names are swapped."
            ]
        if not options.equal_captions:
            return [
                "option equal_captions is missing. Choose keep or drop for the cases whose captions "
                "before and after are equal: published tables differ in this."
            ]
        return super().problems(options)

    @classmethod
    def publication(cls, options: EmuEdit.Options) -> Publication:
        return Publication(
            title=f"Emu Edit, {options.split or 'test'}",
            source="the data set facebook/emu_edit_test_set on Hugging Face",
            licence="CC BY-NC 4.0",
            cases=SPLITS[options.split or "test"],
        )

    @classmethod
    def split(cls, options: EmuEdit.Options) -> str:
        return options.split

    def rows(self) -> list[SplitRow]:
        """The rows, without those of equal captions where the options say so. Warns with their number."""
        rows = super().rows()
        different = [row for row in rows if not _equal_captions(row.values)]
        if len(different) < len(rows):
            done = "left out" if self.options.equal_captions == "drop" else "kept"
            warnings.warn(
                f"{self.name}: {len(rows) - len(different)} of {len(rows)} cases have equal captions before and "
                f"after. They are {done}.",
                BenchWarning,
                stacklevel=2,
            )
        return different if self.options.equal_captions == "drop" else rows

    def name_of(self, row: SplitRow) -> str:
        return self.case_id(str(row.values["idx"]), f"{row.where}: 'idx'")

    def build(self, entry: SplitRow) -> EditCase:
        values = self.table.row(entry.index)
        source = self.rgb_of(values["image"], f"{entry.where}: image")
        task = self.checked_category(values["task"], entry.where)
        tags = {"equal_captions": "yes" if _equal_captions(values) else "no"}
        return EditCase(
            id=self.name_of(entry),
            category=task,
            request=EditRequest(
                source=source,
                mask=None,
                source_prompt=values["input_caption"],
                target_prompt=values["output_caption"],
                region_prompt="",
                instruction=values["instruction"],
            ),
            source_id=image_id(source),
            tags=tags | ({"paper_category": _PAPER[task]} if task in _PAPER else {}),
        )

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> dict[str, str]:
        """One file for each ``idx``. The authors publish no scorer: those of others read these names."""
        return {f"{row['id']}.png": "edit"}


def _equal_captions(values: Mapping[str, Any]) -> bool:
    return bool(values["input_caption"].strip() == values["output_caption"].strip())

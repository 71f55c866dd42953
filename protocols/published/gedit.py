"""GEdit-Bench: requests of real users in English and Chinese, without masks (Liu et al., Step1X-Edit, 2025).

``root`` is the folder of the data set ``stepfun-ai/GEdit-Bench``: Arrow or parquet files of its only split, ``train``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.edit import EditCase, EditRequest
from protocols.published.common import FolderOptions, Publication
from protocols.published.splits import ColumnTypes, SplitProtocol, SplitRow, image_id

LANGUAGES = ("en", "cn")
# The two sizes in which the data set has each source.
IMAGES = ("input_image", "input_image_raw")

_PAPER = {
    "background_change": "background",
    "color_alter": "attribute",
    "material_alter": "attribute",
    "subject-replace": "replacement",
}


class GEdit(SplitProtocol["GEdit.Options"]):
    """GEdit-Bench in one language. Its published score is the unweighted mean over the 11 categories."""

    name = "gedit"
    version = "1"
    categories = (
        "background_change",
        "color_alter",
        "material_alter",
        "motion_change",
        "ps_human",
        "style_change",
        "subject-add",
        "subject-remove",
        "subject-replace",
        "text_change",
        "tone_transfer",
    )
    summary = "GEdit-Bench: 606 instructions in English or Chinese, no masks"
    canvas = None
    columns: ClassVar[ColumnTypes] = {
        "task_type": str,
        "key": str,
        "instruction": str,
        "instruction_language": str,
    }
    untyped_columns = ("Intersection_exist",)
    image_columns = IMAGES

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/GEdit-Bench"
        # en or cn.
        language: str = "en"
        # The column of the source. The official scorer compares edits with input_image. input_image_raw is the
        # picture before it was resized.
        image: str = "input_image"

        def __post_init__(self) -> None:
            if self.language not in LANGUAGES:
                raise ValueError(f"language is {self.language!r}; choose from {', '.join(LANGUAGES)}")
            if self.image not in IMAGES:
                raise ValueError(f"image is {self.image!r}; choose from {', '.join(IMAGES)}")

    @classmethod
    def publication(cls, options: GEdit.Options) -> Publication:
        return Publication(
            title=f"GEdit-Bench, {options.language}",
            source="the data set stepfun-ai/GEdit-Bench on Hugging Face",
            licence="MIT",
            cases=606,
        )

    @classmethod
    def split(cls, options: GEdit.Options) -> str:
        return "train"

    def rows(self) -> list[SplitRow]:
        return [row for row in super().rows() if row.values["instruction_language"] == self.options.language]

    def name_of(self, row: SplitRow) -> str:
        # Both languages share the keys.
        return self.case_id(f"{row.values['key']}-{self.options.language}", f"{row.where}: 'key'")

    def build(self, entry: SplitRow) -> EditCase:
        values = self.table.row(entry.index)
        source = self.rgb_of(values[self.options.image], f"{entry.where}: {self.options.image}")
        task = self.checked_category(values["task_type"], entry.where)
        tags = {
            "key": values["key"],
            "language": self.options.language,
            # The published tables are of all cases, and of those that every model answered.
            "intersection": str(bool(values["Intersection_exist"])).lower(),
        }
        return EditCase(
            id=self.name_of(entry),
            category=task,
            request=EditRequest(
                source=source,
                mask=None,
                source_prompt="",
                target_prompt="",
                region_prompt="",
                instruction=values["instruction"],
            ),
            source_id=image_id(source),
            tags=tags | ({"paper_category": _PAPER[task]} if task in _PAPER else {}),
        )

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> dict[str, str]:
        """As ``generate_image_example.py`` writes them: the scorer reads each edit beside its source."""
        # Cases of the same shape, such as those of ``mini-gedit``, have neither tag.
        tags = row["tags"]
        path = f"fullset/{row['category']}/{tags.get('language', 'en')}/{tags.get('key', row['id'])}"
        return {f"{path}.png": "edit", f"{path}_SRCIMG.png": "source"}

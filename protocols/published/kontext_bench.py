"""KontextBench: crowd-sourced instructions of five kinds, without masks (Black Forest Labs, FLUX.1 Kontext, 2025).

``root`` is the folder of the data set ``black-forest-labs/kontext-bench``: ``test/metadata.jsonl`` and
``test/images/0000.jpg`` and so on. Two of the kinds use the source as a reference for a new picture (a character, a
style), so little of it has to stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.edit import EditCase, EditRequest
from protocols.published.common import FolderOptions, Publication, PublishedProtocol
from protocols.published.splits import ColumnTypes

# Names of the categories in the data -> names in tables.
CATEGORIES = {
    "Instruction Editing - Local": "local",
    "Instruction Editing - Global": "global",
    "Text Editing": "text",
    "Character Reference": "character_reference",
    "Style Reference": "style_reference",
}


@dataclass(frozen=True)
class KontextEntry:
    """One line of ``metadata.jsonl``."""

    key: str
    image: str
    """Path below ``test``."""
    image_number: str
    category: str
    instruction: str
    where: str
    """Its name in errors."""


class KontextBench(PublishedProtocol["KontextBench.Options", KontextEntry]):
    """KontextBench. Its authors compare models by votes and publish no scorer."""

    name = "kontext_bench"
    version = "1"
    categories = tuple(CATEGORIES.values())
    summary = "KontextBench: 1,026 crowd-sourced instructions, no masks"
    canvas = None

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/kontext-bench"

    @classmethod
    def publication(cls, options: KontextBench.Options) -> Publication:
        return Publication(
            title="KontextBench",
            source="the data set black-forest-labs/kontext-bench on Hugging Face",
            licence="MIT",
            cases=1026,
        )

    @classmethod
    def files(cls, options: KontextBench.Options) -> Sequence[tuple[Path, str]]:
        folder = Path(options.root) / "test"
        return [
            (folder / "metadata.jsonl", "one line for each case"),
            (folder / "images", "the folder of sources, 0000.jpg and so on"),
        ]

    def read_entries(self) -> list[KontextEntry]:
        path = Path(self.options.root) / "test" / "metadata.jsonl"
        return [self._entry(line, f"{path}:{number}") for number, line in self.json_lines(path)]

    def _entry(self, line: object, where: str) -> KontextEntry:
        number = (int, str)
        types: ColumnTypes = {
            "file_name": str,
            "instruction": str,
            "category": str,
            "key": number,
            "image_idx": number,
        }
        row = self.item(line, types, where)
        if row["category"] not in CATEGORIES:
            raise self.error(f"{where}: the category {row['category']!r} is none of {', '.join(CATEGORIES)}.")
        return KontextEntry(
            key=self.case_id(str(row["key"]), f"{where}: 'key'"),
            image=row["file_name"],
            image_number=self.case_id(str(row["image_idx"]), f"{where}: 'image_idx'"),
            category=CATEGORIES[row["category"]],
            instruction=row["instruction"],
            where=where,
        )

    def build(self, entry: KontextEntry) -> EditCase:
        path = self.path_below(Path(self.options.root) / "test", entry.image, entry.where)
        return EditCase(
            id=entry.key,
            category=entry.category,
            request=EditRequest(
                source=self.rgb(path),
                mask=None,
                source_prompt="",
                target_prompt="",
                region_prompt="",
                instruction=entry.instruction,
            ),
            source_id=f"image-{entry.image_number}",
        )

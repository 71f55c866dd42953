"""ImgEdit-Bench: its basic suite and its hard suite (UGE), without masks (Ye et al., ImgEdit, 2025).

``root`` is the folder ``Benchmark`` that ``Benchmark.tar`` of the data set ``sysuyy/ImgEdit`` unpacks to:

* ``singleturn/``: the sources of the basic suite (``animal/000342021.jpg``), and ``singleturn.json``, which the code
  repository has as ``basic_edit.json``.
* ``hard/``: the sources of the hard suite (``000029784.jpg``). Put ``UGE_edit.json`` of the code repository into it.

The third suite has chains of two or three instructions, judged by hand. It is not read: a case here is one edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bench.edit import EditCase, EditRequest
from protocols.published.common import FolderOptions, Publication, PublishedProtocol

# Suite -> (folder, annotation file, cases).
SUITES = {"basic": ("singleturn", "singleturn.json", 737), "uge": ("hard", "UGE_edit.json", 47)}

_PAPER = {
    "adjust": "attribute",
    "replace": "replacement",
    "background": "background",
    "compose": "multi_object",
}


@dataclass(frozen=True)
class ImgEditEntry:
    """One item of an annotation file."""

    key: str
    image: str
    """Path below the suite's folder."""
    prompt: str
    category: str
    where: str
    """Its name in errors."""


class ImgEdit(PublishedProtocol["ImgEdit.Options", ImgEditEntry]):
    """One suite of ImgEdit-Bench."""

    name = "imgedit"
    version = "1"
    categories: Sequence[str] = (
        "add",
        "adjust",
        "extract",
        "replace",
        "remove",
        "background",
        "style",
        "compose",
        "action",
    )
    summary = "ImgEdit-Bench: 737 instructions of nine types, or 47 hard ones, no masks"
    canvas = None

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/ImgEdit/Benchmark"
        # basic or uge (Understanding, Grounding, Editing: the hard suite, which has no types).
        suite: str = "basic"

        def __post_init__(self) -> None:
            if self.suite not in SUITES:
                raise ValueError(f"suite is {self.suite!r}; choose from {', '.join(SUITES)}")

    def __init__(self, options: ImgEdit.Options) -> None:
        super().__init__(options)
        if options.suite == "uge":
            self.categories = ("uge",)

    @classmethod
    def publication(cls, options: ImgEdit.Options) -> Publication:
        return Publication(
            title=f"ImgEdit-Bench, {options.suite}",
            source=(
                "Benchmark.tar of the data set sysuyy/ImgEdit on Hugging Face, and UGE_edit.json from the code "
                "repository PKU-YuanGroup/ImgEdit"
            ),
            licence="see its data card",
            cases=SUITES[options.suite][2],
        )

    @classmethod
    def files(cls, options: ImgEdit.Options) -> Sequence[tuple[Path, str]]:
        folder, annotations, _ = SUITES[options.suite]
        return [
            (Path(options.root) / folder, "the folder of sources"),
            (Path(options.root) / folder / annotations, "the instructions"),
        ]

    @property
    def _annotations(self) -> Path:
        folder, annotations, _ = SUITES[self.options.suite]
        return Path(self.options.root) / folder / annotations

    def read_entries(self) -> list[ImgEditEntry]:
        path = self._annotations
        items = self.json(path)
        if not isinstance(items, dict):
            raise self.error(f"{path}: is not a JSON object of cases.")
        return [self._entry(key, item, f"{path}: {key!r}") for key, item in items.items()]

    def _entry(self, key: str, item: Any, where: str) -> ImgEditEntry:
        typed = self.options.suite == "basic"
        row = self.item(item, {"id": str, "prompt": str} | ({"edit_type": str} if typed else {}), where)
        category = self.checked_category(row["edit_type"], where) if typed else "uge"
        return ImgEditEntry(self.case_id(key, where), row["id"], row["prompt"], category, where)

    def build(self, entry: ImgEditEntry) -> EditCase:
        path = self.path_below(self._annotations.parent, entry.image, entry.where)
        name = PurePosixPath(entry.image).with_suffix("").as_posix().replace("/", "-")
        return EditCase(
            id=entry.key,
            category=entry.category,
            request=EditRequest(
                source=self.rgb(path),
                mask=None,
                source_prompt="",
                target_prompt="",
                region_prompt="",
                instruction=entry.prompt,
            ),
            source_id=self.case_id(name, entry.where),
            tags={"paper_category": _PAPER[entry.category]} if entry.category in _PAPER else {},
        )

    @classmethod
    def output_files(cls, row: Mapping[str, Any]) -> dict[str, str]:
        """As ``basic_bench.py`` and ``UGE_bench.py`` read them."""
        return {f"{row['id']}.png": "edit"}

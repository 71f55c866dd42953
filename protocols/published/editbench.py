"""EditBench: 240 natural and generated images with free-form masks (Wang et al., Imagen Editor, CVPR 2023).

Layout of ``root``: ``annotations_natural.csv``, ``references_natural/<aos>.png``, ``masks_natural/<aos>.png`` and the
same with ``generated``. Each image has three prompts: of the whole image, and of the region in few and in many words.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageOps

from bench.edit import EditCase, EditRequest
from bench.images import ImageError, check_mask, mask_array, read_mask
from protocols.published.common import FolderOptions, Publication, PublishedProtocol

_SETS = ("natural", "generated")
_REGION_PROMPTS: Mapping[str, str] = {"simple": "prompt_mask-simple", "rich": "prompt_mask-rich"}
_COLUMNS = ("aos", "prompt_full", *_REGION_PROMPTS.values())
# Masks that the message about the hole is computed from.
_MEASURED = 16


@dataclass(frozen=True)
class _EditBenchEntry:
    set_name: str
    aos: str
    row: Mapping[str, str]


class EditBench(PublishedProtocol["EditBench.Options", _EditBenchEntry]):
    """The published cases. The source is the reference image, and the edit fills its mask with what the prompt says."""

    name = "editbench"
    version = "1"
    categories = _SETS
    summary = "EditBench: inpainting of free-form masks, from prompts of the region and of the whole image"
    canvas = None

    @dataclass(frozen=True)
    class Options(FolderOptions):
        root: str = "data/EditBench"
        # Colour of the part of a mask that is to be painted: "black" or "white". Published programs disagree.
        hole: str = ""
        # The prompt of the region: "simple" or "rich".
        region_prompt: str = "rich"

        def __post_init__(self) -> None:
            if self.hole not in ("", "black", "white"):
                raise ValueError(f"hole is {self.hole!r}; choose black or white")
            if self.region_prompt not in _REGION_PROMPTS:
                raise ValueError(f"region_prompt is {self.region_prompt!r}; choose simple or rich")

    @classmethod
    def publication(cls, options: Options) -> Publication:
        del options
        return Publication(
            "EditBench",
            "the project page of Imagen Editor and EditBench (Google Research)",
            "the one that comes with the archive",
            240,
        )

    @classmethod
    def files(cls, options: Options) -> list[tuple[Path, str]]:
        root = Path(options.root)
        return [
            expected
            for name in _SETS
            for expected in (
                (root / f"annotations_{name}.csv", "the prompts, one row for each image"),
                (root / f"references_{name}", "the folder of images, <aos>.png"),
                (root / f"masks_{name}", "the folder of masks, <aos>.png"),
            )
        ]

    @classmethod
    def problems(cls, options: Options) -> list[str]:
        problems = super().problems(options)
        if not problems and not options.hole:
            problems.append(_which_hole(Path(options.root)))
        return problems

    def read_entries(self) -> list[_EditBenchEntry]:
        entries = []
        for name in _SETS:
            path = Path(self.options.root) / f"annotations_{name}.csv"
            for row in self._rows(path):
                where = f"{path}: aos {row['aos']}"
                self.item(row, dict.fromkeys(_COLUMNS, str), where)
                entries.append(_EditBenchEntry(name, self.case_id(row["aos"], where), row))
        return entries

    def _rows(self, path: Path) -> list[dict[str, str]]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                columns, rows = reader.fieldnames or [], list(reader)
        except (OSError, ValueError, csv.Error) as error:
            raise self.error(f"{path}: cannot be read ({error}).") from error
        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise self.error(f"{path}: has no column {', '.join(missing)}.")
        # Half of the benchmark must not pass for all of it.
        if not rows:
            raise self.error(f"{path}: has no row.")
        return rows

    def build(self, entry: _EditBenchEntry) -> EditCase:
        root = Path(self.options.root)
        image = self.rgb(root / f"references_{entry.set_name}" / f"{entry.aos}.png")
        path = root / f"masks_{entry.set_name}" / f"{entry.aos}.png"
        try:
            mask = self.mask_at(read_mask(path), image.size, str(path))
            if self.options.hole == "black":
                mask = ImageOps.invert(mask)
            check_mask(mask, f"{path}: the mask (hole: {self.options.hole})")
        except ImageError as error:
            raise self.error(str(error)) from error
        request = EditRequest(
            source=image,
            mask=mask,
            source_prompt="",
            target_prompt=entry.row["prompt_full"].strip(),
            region_prompt=entry.row[_REGION_PROMPTS[self.options.region_prompt]].strip(),
            instruction="",
        )
        case_id = f"{entry.set_name}-{entry.aos}"
        return EditCase(case_id, entry.set_name, request, source_id=case_id)


def _which_hole(root: Path) -> str:
    """The message that asks for the option ``hole``, with the shares of both colours."""
    question = (
        "option hole is missing. Published programs disagree on which part of a mask is to be painted: "
        "set hole to black or to white after a look at a mask"
    )
    try:
        masks = [read_mask(path) for path in sorted((root / "masks_natural").glob("*.png"))[:_MEASURED]]
    except ImageError as error:
        return f"{question}. {error}"
    if not masks:
        return f"{question}."
    white = sum(float(mask_array(mask).mean()) for mask in masks) / len(masks)
    return (
        f"{question}. In the first {len(masks)} of them, black is {1 - white:.0%} of the image and white "
        f"{white:.0%}."
    )

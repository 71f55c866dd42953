"""Training tuples (I, M, T, I1) for the full-size training (paper, section 2.F).

A protocol over a real data set has sources, masks and prompts, but no ideal results I1. ``make_training_tuples`` asks
an inpainting method for them once and stores one folder per case. Each folder is complete or absent, so the same
call continues an interrupted run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

from PIL.Image import Image

from bench.edit import EditCase, EditMethod, EditRequest, Region, stable_digest
from bench.editor import at_native_size
from bench.errors import BenchError
from bench.files import atomic_folder, parse_json, write_atomic
from bench.images import composite, read_mask, read_rgb, unfit, write_png

# Called with the number of cases that have their training tuple.
Progress = Callable[[int], None]

_MAKER = "maker.json"
_CASE = "case.json"


class TrainingTuplesError(BenchError):
    """The folder of training tuples cannot be used. The message states the reason and the remedy."""


class TrainingTuples(Sequence[EditCase]):
    """The cases of a folder, read on access. I1 is their ground truth. Ordered by the hash of their ids."""

    def __init__(self, folder: Path) -> None:
        """Raises TrainingTuplesError where the folder has no case."""
        self.folder = folder
        # Hashed names give an order that does not depend on the file system.
        self.names = sorted(
            path.parent.name for path in folder.glob(f"*/{_CASE}") if not path.parent.name.startswith(".")
        )
        for name in self.names:
            self._record(name)
        if not self.names:
            raise TrainingTuplesError(
                f"{folder} holds no training tuples: make them first with make_training_tuples"
            )

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> EditCase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EditCase]: ...
    def __getitem__(self, index: int | slice) -> EditCase | Sequence[EditCase]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name = self.names[index]
        folder, record = self.folder / name, self._record(name)
        # Masks are stored at the size of the source.
        source = read_rgb(folder / "source.png")
        regions = tuple(
            Region(
                read_mask(folder / f"region-{i}.png", source.size), region["prompt"], tuple(region["words"])
            )
            for i, region in enumerate(record["regions"])
        )
        request = EditRequest(
            source=source,
            mask=read_mask(folder / "mask.png", source.size),
            source_prompt=record["source_prompt"],
            target_prompt=record["target_prompt"],
            region_prompt=record["region_prompt"],
            instruction=record["instruction"],
            edit_words=tuple(record["edit_words"]),
            regions=regions,
            seed=record["seed"],
        )
        ground_truth = read_rgb(folder / "truth.png")
        return EditCase(record["id"], record["category"], request, record["source_id"], truth=ground_truth)

    def _record(self, name: str) -> dict[str, Any]:
        path = self.folder / name / _CASE
        try:
            record = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingTuplesError(
                f"{path}: not valid JSON ({error}). Delete its folder, and it is made again"
            ) from error
        if not isinstance(record, dict):
            raise TrainingTuplesError(f"{path}: expected an object. Delete its folder, and it is made again")
        return record


def make_training_tuples(
    cases: Iterable[EditCase],
    method: EditMethod,
    maker: Mapping[str, Any],
    folder: Path,
    *,
    batch: int = 8,
    progress: Progress | None = None,
) -> TrainingTuples:
    """Make I1 for every case that is not on disk yet. ``maker`` is JSON that identifies the method and its options.

    The method's result is composited into the source along the mask, so I and I1 are equal outside M to the pixel.
    Raises TrainingTuplesError where the folder's tuples come from another maker.
    """
    # Refuse a foreign folder and clean up after an interrupted call.
    folder.mkdir(parents=True, exist_ok=True)
    _check_maker(folder, maker)
    # The names that atomic_folder gives its temporary folders: that of the case, with a dot before and after.
    for leftover in folder.glob(f".{'[0-9a-f]' * 24}.*"):
        shutil.rmtree(leftover, ignore_errors=True)

    processed = 0
    stream = iter(cases)
    while block := list(islice(stream, batch)):
        # Cases that are not on disk are edited in one batch and stored one by one.
        todo = [case for case in block if not (folder / _folder_name(case) / _CASE).exists()]
        for case, result in zip(todo, _edited(todo, method), strict=True):
            _write(folder, case, result)
        processed += len(block)
        if progress is not None:
            progress(processed)
    return TrainingTuples(folder)


def _edited(cases: Sequence[EditCase], method: EditMethod) -> list[Image]:
    """The method's results at the cases' own size, composited into their sources."""
    if not cases:
        return []
    requests = [case.request for case in cases]
    native = [at_native_size(request, method.native_size, method.needs) for request in requests]
    composites = []
    for request, result in zip(requests, method.edit(native), strict=True):
        # Back to the case's own size, then composited along its own mask.
        result = unfit(result, request.source.size)
        composites.append(composite(request.source.convert("RGB"), result, request.needed_mask))
    return composites


def _folder_name(case: EditCase) -> str:
    """Hash of the case's id. Ids come from data, so they never become paths."""
    return hashlib.sha256(case.id.encode()).hexdigest()[:24]


def _check_maker(folder: Path, maker: Mapping[str, Any]) -> None:
    """Store the maker in a new folder, or raise TrainingTuplesError where the folder has another one."""
    path = folder / _MAKER
    if not path.exists():
        write_atomic(path, _json(dict(maker)))
        return
    # A digest ignores the order of keys.
    before = parse_json(path.read_text(encoding="utf-8"))
    if stable_digest(before) != stable_digest(dict(maker)):
        raise TrainingTuplesError(
            f"the training tuples in {folder} were made by {before}, not by {dict(maker)}: choose another folder, or "
            "delete this one"
        )


def _write(folder: Path, case: EditCase, ground_truth: Image) -> None:
    """Store one training tuple."""
    request = case.request
    record = {
        "id": case.id,
        "category": case.category,
        "source_id": case.source_id,
        "source_prompt": request.source_prompt,
        "target_prompt": request.target_prompt,
        "region_prompt": request.region_prompt,
        "instruction": request.instruction,
        "edit_words": list(request.edit_words),
        "regions": [{"prompt": r.prompt, "words": list(r.words)} for r in request.regions],
        "seed": request.seed,
    }
    with atomic_folder(folder / _folder_name(case)) as part:
        write_png(part / "source.png", request.source.convert("RGB"))
        write_png(part / "mask.png", request.needed_mask)
        write_png(part / "truth.png", ground_truth)
        for i, region in enumerate(request.regions):
            write_png(part / f"region-{i}.png", region.mask)
        (part / _CASE).write_bytes(_json(record))


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

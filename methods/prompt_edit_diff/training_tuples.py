"""The quads that full-size training learns from: (I, M, T, I1), with I1 made by an inpainting method.

Cases come in without their ideal result (a protocol over a real data set has none); ``make_training_tuples`` asks a
method for it, once, and keeps everything on disk, one folder per case, each whole or absent. The same call goes on where an
earlier one was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

from PIL.Image import Image

from bench.edit import EditCase, EditMethod, EditRequest, Region, stable_digest
from bench.errors import BenchError
from bench.files import parse_json
from bench.images import paste_back, read_mask, read_rgb, resize, resize_mask, write_png

Accept = Callable[[EditCase, Image], bool]
"""Whether an I1 is good enough to learn from, for instance by CLIP; it sees the case and the pasted result."""
Progress = Callable[[int, int, int], None]
"""Called with the cases looked at, those kept and those rejected so far."""

_MAKER = "maker.json"
_CASE = "case.json"


class TrainingTuplesError(BenchError):
    """The folder of quads cannot be used; the message says why, and what to do."""


class TrainingTuples(Sequence[EditCase]):
    """The cases of a folder, with I1 as their truth, read when asked for. In the order of their ids' hashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(
            path.parent.name for path in folder.glob(f"*/{_CASE}") if not path.parent.name.startswith(".")
        )
        self.names = [name for name in self.names if not self._line(name).get("rejected")]
        if not self.names:
            raise TrainingTuplesError(f"{folder} holds no quads: make them first with make_training_tuples")

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
        here, line = self.folder / name, self._line(name)
        source = read_rgb(here / "source.png")
        request = EditRequest(
            source=source,
            mask=read_mask(here / "mask.png", source.size),
            source_prompt=line["source_prompt"],
            target_prompt=line["target_prompt"],
            region_prompt=line["region_prompt"],
            instruction=line["instruction"],
            edit_words=tuple(line["edit_words"]),
            regions=tuple(
                Region(
                    read_mask(here / f"region-{i}.png", source.size), region["prompt"], tuple(region["words"])
                )
                for i, region in enumerate(line["regions"])
            ),
            seed=line["seed"],
        )
        return EditCase(
            line["id"], line["category"], request, line["source_id"], truth=read_rgb(here / "truth.png")
        )

    def _line(self, name: str) -> dict[str, Any]:
        path = self.folder / name / _CASE
        try:
            line = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingTuplesError(
                f"{path}: not valid JSON ({error}); delete its folder, and it is made anew"
            ) from error
        if not isinstance(line, dict):
            raise TrainingTuplesError(f"{path}: expected an object; delete its folder, and it is made anew")
        return line


def make_training_tuples(
    cases: Iterable[EditCase],
    method: EditMethod,
    maker: Mapping[str, Any],
    folder: Path,
    *,
    batch: int = 8,
    accept: Accept | None = None,
    progress: Progress | None = None,
) -> TrainingTuples:
    """Makes I1 of every case that has none on disk yet. ``maker``: JSON that identifies the method and its options.

    What the method returns is pasted into the source along the mask: I and I1 are the same outside M, to the pixel.
    Raises TrainingTuplesError where the folder's quads were made by another maker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_maker(folder, maker)
    for leftover in folder.glob(".part-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    looked = kept = rejected = 0
    stream = iter(cases)
    while block := list(islice(stream, batch)):
        todo = []
        for case in block:
            path = folder / _name(case) / _CASE
            if not path.exists():
                todo.append(case)
            elif parse_json(path.read_text(encoding="utf-8")).get("rejected"):
                rejected += 1
            else:
                kept += 1
        for case, made in zip(todo, _edited(todo, method), strict=True):
            good = accept is None or accept(case, made)
            _write(folder, case, made, good)
            kept, rejected = kept + good, rejected + (not good)
        looked += len(block)
        if progress is not None:
            progress(looked, kept, rejected)
    return TrainingTuples(folder)


def _edited(cases: Sequence[EditCase], method: EditMethod) -> list[Image]:
    """The method's results at the cases' own size, pasted into their sources."""
    if not cases:
        return []
    side = method.native_size
    requests = [case.request for case in cases]
    asked = requests
    if side is not None:
        asked = [
            r
            if r.source.size == (side, side)
            else replace(
                r,
                source=resize(r.source, side),
                mask=resize_mask(r.mask, side),
                regions=tuple(replace(region, mask=resize_mask(region.mask, side)) for region in r.regions),
            )
            for r in requests
        ]
    results = method.edit(asked)
    out = []
    for request, result in zip(requests, results, strict=True):
        width, height = request.source.size
        if result.size != (width, height):
            result = resize(result, (width, height))
        out.append(paste_back(request.source.convert("RGB"), result, request.mask))
    return out


def _name(case: EditCase) -> str:
    """Ids come from data, so they are not used as paths."""
    return hashlib.sha256(case.id.encode()).hexdigest()[:24]


def _check_maker(folder: Path, maker: Mapping[str, Any]) -> None:
    path = folder / _MAKER
    if path.exists():
        before = parse_json(path.read_text(encoding="utf-8"))
        if stable_digest(before) != stable_digest(dict(maker)):
            raise TrainingTuplesError(
                f"the quads in {folder} were made by {before}, not by {dict(maker)}: choose another folder, or "
                "delete this one"
            )
        return
    part = path.with_suffix(".part")
    part.write_text(json.dumps(dict(maker), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def _write(folder: Path, case: EditCase, truth: Image, good: bool) -> None:
    """One quad; of a rejected one only that it was."""
    part = folder / f".part-{_name(case)}-{os.getpid()}"
    part.mkdir()
    request = case.request
    line: dict[str, Any] = {"id": case.id, "rejected": not good}
    if good:
        write_png(part / "source.png", request.source.convert("RGB"))
        write_png(part / "mask.png", request.mask)
        write_png(part / "truth.png", truth)
        for i, region in enumerate(request.regions):
            write_png(part / f"region-{i}.png", region.mask)
        line |= {
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
    (part / _CASE).write_text(json.dumps(line, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(folder / _name(case))

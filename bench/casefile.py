"""A protocol's cases on disk, so that others can use them without this code.

A folder holds

* ``protocol.json``: name, version, digest, canvas and categories of the protocol;
* ``cases.jsonl``: one case a line, in order; files are named relative to the folder;
* ``sources/<source id>.png``, once per source image (a second crop of one source gets a suffix),
  ``masks/<case id>.png``, ``regions/<case id>/<index>.png``, ``truths/<case id>.png``.

``cases.jsonl`` is written last and atomically: what it names is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from bench.edit import REQUEST_FIELDS, Claim, EditCase, EditProtocol, EditRequest, Region
from bench.errors import BenchError
from bench.files import (
    BrokenText,
    UnsafeName,
    parse_json,
    safe_part,
    safe_relative,
    sha256_bytes,
    whole_text,
    write_atomic,
)
from bench.images import ImageError, check_mask, png_bytes, read_mask, read_rgb, to_array

if TYPE_CHECKING:
    from PIL.Image import Image

CASES = "cases.jsonl"
PROTOCOL = "protocol.json"

_WRITERS = 4


class CaseError(BenchError):
    """A case, or a folder of cases, that cannot be used. The message names it and the remedy."""


def protocol_info(protocol: EditProtocol) -> dict[str, Any]:
    """What ``protocol.json`` says of a protocol."""
    return {
        "name": protocol.name,
        "version": protocol.version,
        "digest": protocol.digest,
        "canvas": protocol.canvas,
        "categories": list(protocol.categories),
    }


def check_case(case: EditCase) -> None:
    """Raises :class:`CaseError`, naming the case, for anything that a method or a metric would stumble over.

    An id that is no safe file name; images of another mode or size than the interface says; a mask with
    values other than 0 and 255, an empty or a full one; no target prompt; a claim about no region.
    """
    if not isinstance(case, EditCase):
        raise CaseError(f"a case is a {type(case).__name__}, not an EditCase. Mend the protocol.")
    try:
        safe_part(case.id, "case id")
        safe_part(case.source_id, f"case {case.id}: source id")
    except UnsafeName as error:
        raise CaseError(str(error)) from None
    request, where = case.request, f"case {case.id}"
    if wrong := _wrong_types(case):
        raise CaseError(f"{where}: {', '.join(wrong)}: None or of a wrong type. Mend the protocol.")
    size = request.source.size
    if request.source.mode != "RGB":
        raise CaseError(f"{where}: the source is of mode {request.source.mode}, not RGB. Convert it.")
    if case.truth is not None and (case.truth.mode != "RGB" or case.truth.size != size):
        raise CaseError(
            f"{where}: the truth is {case.truth.mode} {case.truth.size}, not RGB {size}. "
            "Render it at the source's size."
        )
    masks = [("the mask", request.mask)]
    masks += [(f"the mask of region {index}", region.mask) for index, region in enumerate(request.regions)]
    for name, mask in masks:
        if mask.size != size:
            raise CaseError(f"{where}: {name} is {mask.size}, the source {size}. Make them one size.")
        try:
            check_mask(mask, name)
        except ImageError as error:
            raise CaseError(f"{where}: {error}") from None
        if (to_array(mask) % 255).any():
            raise CaseError(f"{where}: {name} has values other than 0 and 255. Threshold it at 128.")
    if not request.target_prompt.strip():
        raise CaseError(f"{where}: the target prompt is empty. Say what the edited image shall show.")
    if not case.category:
        raise CaseError(f"{where}: it has no category. Give it one.")
    try:
        _check_texts(case_row(case))
    except BrokenText as error:
        raise CaseError(f"{where}: {error}") from None
    for claim in case.claims:
        if not 0 <= claim.region < max(1, len(request.regions)):
            raise CaseError(
                f"{where}: a claim is about region {claim.region} of {len(request.regions)}. Mend its index."
            )


def _check_texts(value: Any, name: str = "the case") -> None:
    """Raises ``BrokenText``, naming the key, for half a character in any text of a row."""
    if isinstance(value, str):
        whole_text(value, name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_texts(key, name)
            _check_texts(item, key)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, name)


def _wrong_types(case: EditCase) -> list[str]:
    """The fields of a case whose values are not of the type that the interface says."""
    from PIL.Image import Image as Picture

    request = case.request
    if not isinstance(request, EditRequest):
        return ["request"]
    good = {
        **{name: isinstance(getattr(request, name), Picture) for name in ("source", "mask")},
        **{
            name: isinstance(getattr(request, name), str)
            for name in ("source_prompt", "target_prompt", "region_prompt", "instruction")
        },
        "edit_words": _all(request.edit_words, str),
        "regions": _all(request.regions, Region)
        and all(
            isinstance(region.mask, Picture) and isinstance(region.prompt, str) and _all(region.words, str)
            for region in request.regions
        ),
        "category": isinstance(case.category, str),
        "claims": _all(case.claims, Claim)
        and all(
            isinstance(claim.region, int) and _all((claim.attribute, claim.before, claim.after), str)
            for claim in case.claims
        ),
        "truth": case.truth is None or isinstance(case.truth, Picture),
        "tags": isinstance(case.tags, Mapping) and _all((*case.tags.keys(), *case.tags.values()), str),
    }
    return [name for name, fits in good.items() if not fits]


def _all(values: object, kind: type) -> bool:
    return isinstance(values, (tuple, list)) and all(isinstance(value, kind) for value in values)


def provided_fields(rows: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Which of ``REQUEST_FIELDS`` every one of these rows of ``cases.jsonl`` fills.

    ``regions`` counts where any row has some: a case of a single object needs none.
    """
    rows = list(rows)
    return frozenset(
        name
        for name in REQUEST_FIELDS
        if rows and (any if name == "regions" else all)(bool(row[name]) for row in rows)
    )


def case_row(case: EditCase) -> dict[str, Any]:
    """The line of ``cases.jsonl`` of a case, but for ``source``, which :func:`write_cases` names."""
    request = case.request
    return {
        "id": case.id,
        "category": case.category,
        "source_id": case.source_id,
        "source": f"sources/{case.source_id}.png",
        "mask": f"masks/{case.id}.png",
        "source_prompt": request.source_prompt,
        "target_prompt": request.target_prompt,
        "region_prompt": request.region_prompt,
        "instruction": request.instruction,
        "edit_words": list(request.edit_words),
        "regions": [
            {"mask": f"regions/{case.id}/{index}.png", "prompt": region.prompt, "words": list(region.words)}
            for index, region in enumerate(request.regions)
        ],
        "seed": request.seed,
        "truth": None if case.truth is None else f"truths/{case.id}.png",
        "claims": [
            {
                "attribute": claim.attribute,
                "before": claim.before,
                "after": claim.after,
                "region": claim.region,
            }
            for claim in case.claims
        ],
        "tags": dict(case.tags),
    }


def write_cases(
    directory: str | os.PathLike[str],
    cases: Iterable[EditCase],
    info: Mapping[str, Any],
    *,
    temp_dir: Path | None = None,
    writing: Callable[[str, bytes], None] | None = None,
) -> CaseFile:
    """Writes cases and what :func:`protocol_info` says, and returns the folder as a sequence.

    A folder that holds cases of the same protocol digest keeps them and gets those it lacks; one of another
    digest is refused. Every case is checked first. ``writing`` is told the name and the bytes of every file before
    it is written, from several threads. Raises :class:`CaseError`, and OSError from writing.
    """
    directory = Path(directory)
    kept: dict[str, dict[str, Any]] = {}
    if (directory / CASES).exists():
        there = CaseFile(directory)
        if there.info.get("digest") != info.get("digest"):
            raise CaseError(
                f"{directory}: holds the cases of {there.info.get('name')} {there.info.get('version')} "
                f"(digest {there.info.get('digest')}), not of {info.get('name')} {info.get('version')} "
                f"(digest {info.get('digest')}). Choose another folder."
            )
        kept = {row["id"]: row for row in there.rows}

    categories = info.get("categories")
    rows: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    contents: dict[str, str] = {}
    pending: list[Future[None]] = []

    def write(name: str, data: bytes) -> None:
        if writing is not None:
            writing(name, data)
        write_atomic(directory / name, data, temp_dir=temp_dir)

    def write_png(name: str, image: Image) -> None:
        write(name, png_bytes(image))

    with ThreadPoolExecutor(_WRITERS) as pool:
        for case in cases:
            # Two ids that differ in case alone are one file on some systems.
            if case.id.casefold() in seen:
                raise CaseError(
                    f"case {case.id}: its id is that of case {seen[case.id.casefold()]}. Ids must be unique."
                )
            seen[case.id.casefold()] = case.id
            if case.id in kept:
                rows.append(kept[case.id])
                continue
            check_case(case)
            if categories is not None and case.category not in categories:
                raise CaseError(
                    f"case {case.id}: category {case.category!r} is none of the protocol's: "
                    f"{', '.join(categories)}."
                )
            row = case_row(case)
            row["source"], new = _place_source(directory, case, contents)
            rows.append(row)
            files = [(row["mask"], case.request.mask)]
            if new:
                files.append((row["source"], case.request.source))
            files += [
                (region["mask"], given.mask)
                for region, given in zip(row["regions"], case.request.regions, strict=True)
            ]
            if case.truth is not None:
                files.append((row["truth"], case.truth))
            pending += [pool.submit(write_png, name, image) for name, image in files]
            # Bounded, so that a million lazily made cases need not fit in memory.
            while len(pending) > 64:
                pending.pop(0).result()
        for future in pending:
            future.result()

    rows += [row for name, row in kept.items() if name.casefold() not in seen]
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    write(PROTOCOL, _json(dict(info)))
    write(CASES, text.encode())
    return CaseFile(directory)


def _place_source(directory: Path, case: EditCase, contents: dict[str, str]) -> tuple[str, bool]:
    """The file of a case's source, and whether it is still to be written.

    ``contents`` holds a digest of the pixels of every source file so far, by name; it is brought up to date.
    Pixels are compared, not PNGs: encoding one costs twenty times as much.
    """
    digest = _pixel_digest(case.request.source)
    for name in (f"sources/{case.source_id}.png", f"sources/{case.source_id}~{digest[:12]}.png"):
        if name not in contents and (directory / name).exists():
            contents[name] = _pixel_digest(read_rgb(directory / name))
        if name not in contents:
            contents[name] = digest
            return name, True
        if contents[name] == digest:
            return name, False
    raise CaseError(f"{directory / name}: its content is not what its name says. Delete it and run again.")


def _pixel_digest(image: Image) -> str:
    return sha256_bytes(f"{image.size}".encode() + image.tobytes())


def read_cases(directory: str | os.PathLike[str]) -> list[EditCase]:
    """All cases of a folder with their images. Raises :class:`CaseError` and ``bench.images.ImageError``."""
    return list(CaseFile(directory))


class CaseFile(Sequence[EditCase]):
    """A folder of cases as a sequence that decodes each case's images when it is asked for.

    ``rows`` (the parsed lines: prompts, categories, sources) and ``info`` cost no decoding.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.info: dict[str, Any] = _read_info(self.directory / PROTOCOL)
        self.rows: tuple[dict[str, Any], ...] = tuple(_read_rows(self.directory / CASES))
        self._index: dict[str, int] = {}
        for index, row in enumerate(self.rows):
            if self._index.setdefault(row["id"], index) != index:
                raise CaseError(
                    f"{self.directory / CASES}: the case {row['id']} occurs twice. {_remedy(self.directory)}"
                )

    @property
    def ids(self) -> list[str]:
        return list(self._index)

    def row(self, case_id: str) -> dict[str, Any]:
        """The parsed line of one case. Raises :class:`CaseError` for an id that is not there."""
        return self.rows[self._find(case_id)]

    def get(self, case_id: str) -> EditCase:
        """One case by its id. Raises :class:`CaseError` for an id that is not there."""
        return self[self._find(case_id)]

    def _find(self, case_id: str) -> int:
        try:
            return self._index[case_id]
        except KeyError:
            raise CaseError(
                f"{self.directory}: there is no case {case_id!r}. {_remedy(self.directory)}"
            ) from None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> EditCase: ...
    @overload
    def __getitem__(self, index: slice) -> list[EditCase]: ...
    def __getitem__(self, index: int | slice) -> EditCase | list[EditCase]:
        if isinstance(index, slice):
            return [self._case(row) for row in self.rows[index]]
        return self._case(self.rows[index])

    def __iter__(self) -> Iterator[EditCase]:
        return (self._case(row) for row in self.rows)

    def _case(self, row: Mapping[str, Any]) -> EditCase:
        source = read_rgb(self._path(row["source"]))

        def mask(name: str) -> Image:
            return read_mask(self._path(name), source.size)

        request = EditRequest(
            source=source,
            mask=mask(row["mask"]),
            source_prompt=row["source_prompt"],
            target_prompt=row["target_prompt"],
            region_prompt=row["region_prompt"],
            instruction=row["instruction"],
            edit_words=tuple(row["edit_words"]),
            regions=tuple(
                Region(mask(region["mask"]), region["prompt"], tuple(region["words"]))
                for region in row["regions"]
            ),
            seed=row["seed"],
        )
        return EditCase(
            id=row["id"],
            category=row["category"],
            request=request,
            source_id=row["source_id"],
            claims=tuple(Claim(**claim) for claim in row["claims"]),
            truth=None if row["truth"] is None else read_rgb(self._path(row["truth"])),
            tags=dict(row["tags"]),
        )

    def _path(self, name: str) -> Path:
        try:
            return self.directory.joinpath(*safe_relative(name))
        except UnsafeName as error:
            raise CaseError(f"{self.directory / CASES}: {error}") from None


def _remedy(directory: Path) -> str:
    """How to get the cases of a folder back: of an exported one, or of a run's own."""
    if (directory.parent.parent / "run.json").exists():
        return "Restore the file from a copy, or run the suite into another folder."
    return f"Export the cases again: run_bench.py cases PROTOCOL --out {directory}"


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file. {_remedy(path.parent)}") from None
    except (OSError, ValueError) as error:
        raise CaseError(f"{path}: cannot be read ({error}). {_remedy(path.parent)}") from error
    if not isinstance(info, dict):
        raise CaseError(f"{path}: not a JSON object. {_remedy(path.parent)}")
    limit = info.get("limit")
    if isinstance(limit, bool) or not isinstance(limit, (int, type(None))):
        raise CaseError(f"{path}: limit is {limit!r}, a number or null is expected. {_remedy(path.parent)}")
    return info


_REQUIRED = frozenset({"id", "source_id", "category", "source", "mask", "target_prompt"})
_OPTIONAL: Mapping[str, Any] = {
    "source_prompt": "",
    "region_prompt": "",
    "instruction": "",
    "edit_words": [],
    "regions": [],
    "seed": 0,
    "truth": None,
    "claims": [],
    "tags": {},
}


_CLAIM = frozenset(field.name for field in fields(Claim))


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        # Not splitlines: a prompt may hold one of the other characters that it takes for the end of a line.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file. {_remedy(path.parent)}") from None
    except (OSError, ValueError) as error:
        raise CaseError(f"{path}: cannot be read ({error}). {_remedy(path.parent)}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _checked_row(parse_json(line))
            _check_texts(row)
        except ValueError as error:
            raise CaseError(f"{path}:{number}: not a case: {error}. {_remedy(path.parent)}") from error
        yield row


def _checked_row(row: Any) -> dict[str, Any]:
    """The row with every key of the right type. Raises ValueError that names the key."""
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    missing = sorted(_REQUIRED - row.keys())
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    checked: dict[str, Any] = {**_OPTIONAL, **row}
    for name, value in checked.items():
        if name in _REQUIRED or (name in _OPTIONAL and isinstance(_OPTIONAL[name], str)):
            good = isinstance(value, str)
        elif name == "edit_words":
            good = _texts(value)
        elif name == "regions":
            good = isinstance(value, list) and all(
                isinstance(part, dict)
                and isinstance(part.get("mask"), str)
                and isinstance(part.get("prompt"), str)
                and _texts(part.get("words"))
                for part in value
            )
        elif name == "claims":
            good = isinstance(value, list) and all(
                isinstance(claim, dict)
                and claim.keys() == _CLAIM
                and isinstance(claim["region"], int)
                and _texts([claim[key] for key in sorted(_CLAIM - {"region"})])
                for claim in value
            )
        elif name == "tags":
            good = isinstance(value, dict) and _texts(list(value.values()))
        elif name == "seed":
            good = isinstance(value, int) and not isinstance(value, bool)
        else:
            good = name != "truth" or value is None or isinstance(value, str)
        if not good:
            raise ValueError(f"{name} is of a wrong type")
    safe_part(checked["id"], "case id")
    safe_part(checked["source_id"], "source id")
    return checked


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

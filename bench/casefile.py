"""A protocol's cases on disk, in a format that other programs can read.

A folder holds

* ``protocol.json``: name, version, digest, canvas and categories of the protocol,
* ``cases.jsonl``: one case a line, in order, with file names relative to the folder,
* ``sources/<source id>.png``, once per source image (a second crop of one source gets a suffix),
  ``masks/<case id>.png`` where the case has a mask, ``regions/<case id>/<index>.png``, ``truths/<case id>.png``,
  ``references/<case id>/<index>.png`` for further input images,
  ``scored/<case id>/mask.png`` and ``<index>.png`` where metrics use other masks than methods.

``cases.jsonl`` is written last and atomically, so every file that it names exists.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from bench.case_rows import CaseError, case_row, check_case, checked_row
from bench.edit import REQUEST_FIELDS, Claim, EditCase, EditProtocol, EditRequest, Region, ScoredAreas
from bench.files import UnsafeName, parse_json, safe_relative, sha256_bytes, write_atomic
from bench.images import png_bytes, read_mask, read_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

CASES = "cases.jsonl"
PROTOCOL = "protocol.json"

# Threads that encode PNGs.
_WRITERS = 4
# Images that wait for a thread.
_PENDING = 64


def protocol_info(protocol: EditProtocol) -> dict[str, Any]:
    """The content of ``protocol.json``."""
    info = {
        "name": protocol.name,
        "version": protocol.version,
        "digest": protocol.digest,
        # A list, because JSON has no tuples.
        "canvas": list(protocol.canvas) if isinstance(protocol.canvas, tuple) else protocol.canvas,
        "categories": list(protocol.categories),
    }
    # Absent where there are none, so that the files of earlier runs stay as they are.
    return {**info, "ceilings": dict(protocol.ceilings)} if protocol.ceilings else info


def provided_fields(rows: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The fields of ``EditRequest`` that all of these rows of ``cases.jsonl`` fill."""
    rows = list(rows)
    # all() of no rows is True.
    if not rows:
        return frozenset()
    # A row that was not read from a file lacks the fields that are empty by default.
    provided = {name for name in REQUEST_FIELDS if all(row.get(name) for row in rows)}
    # A case of a single object needs no regions, so one row with some is enough.
    if any(row["regions"] for row in rows):
        provided.add("regions")
    return frozenset(provided)


def write_cases(
    directory: str | os.PathLike[str],
    cases: Iterable[EditCase],
    info: Mapping[str, Any],
    *,
    temp_dir: Path | None = None,
    writing: Callable[[str, bytes], None] | None = None,
) -> CaseFile:
    """Writes cases and ``info`` (:func:`protocol_info`), and returns the folder as a sequence.

    A folder with cases of the same protocol digest keeps them, and only missing cases are added. A folder with cases
    of another digest is refused. Every case is checked before it is written. ``writing`` is called, from several
    threads, with the name and the bytes of every file before it is written. Raises :class:`CaseError`, and OSError
    from writing.
    """
    directory = Path(directory)
    stored = _stored_rows(directory, info)
    rows: list[dict[str, Any]] = []
    ids: dict[str, str] = {}  # id in lower case -> id
    source_digests: dict[str, str] = {}
    pending: deque[Future[None]] = deque()

    def write(name: str, data: bytes) -> None:
        if writing is not None:
            writing(name, data)
        write_atomic(directory / name, data, temp_dir=temp_dir)

    def write_png(name: str, image: Image) -> None:
        write(name, png_bytes(image))

    # The images, in threads: encoding a PNG takes longer than making most cases.
    with ThreadPoolExecutor(_WRITERS) as pool:
        for case in cases:
            # Some file systems ignore case: two ids that differ only in case would be one file there.
            twin = ids.get(case.id.casefold())
            if twin is not None:
                raise CaseError(
                    f"case {case.id}: its id is that of case {twin}. Ids must be unique, also in lower case."
                )
            ids[case.id.casefold()] = case.id
            if case.id in stored:
                rows.append(stored[case.id])
                continue
            _check_new_case(case, info)
            row, files = _row_and_files(directory, case, source_digests)
            rows.append(row)
            pending += [pool.submit(write_png, name, image) for name, image in files]
            # Bounded, so that a million lazily made cases need not fit in memory.
            while len(pending) > _PENDING:
                pending.popleft().result()
        for future in pending:
            future.result()

    # The lists are written last, so that every file that they name exists.
    rows += [row for name, row in stored.items() if name.casefold() not in ids]
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    write(PROTOCOL, (json.dumps(dict(info), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
    write(CASES, text.encode())
    return CaseFile(directory)


def _stored_rows(directory: Path, info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Case id -> row, of the cases that the folder has already. Raises :class:`CaseError` for another digest."""
    if not (directory / CASES).exists():
        return {}
    stored = CaseFile(directory)
    if stored.info.get("digest") != info.get("digest"):
        raise CaseError(
            f"{directory}: holds the cases of {stored.info.get('name')} {stored.info.get('version')} "
            f"(digest {stored.info.get('digest')}), not of {info.get('name')} {info.get('version')} "
            f"(digest {info.get('digest')}). Choose another folder."
        )
    return {row["id"]: row for row in stored.rows}


def _check_new_case(case: EditCase, info: Mapping[str, Any]) -> None:
    check_case(case)
    categories = info.get("categories")
    if categories is not None and case.category not in categories:
        raise CaseError(
            f"case {case.id}: category {case.category!r} is none of the protocol's: {', '.join(categories)}. "
            "Add it to the protocol's categories, or correct the case."
        )


def _row_and_files(
    directory: Path, case: EditCase, source_digests: dict[str, str]
) -> tuple[dict[str, Any], list[tuple[str, Image]]]:
    """The line of a case, and the images to write for it, by name."""
    row = case_row(case)
    request = case.request
    row["source"], is_new = _place_source(directory, case, source_digests)
    files = [] if request.mask is None else [(row["mask"], request.mask)]
    if is_new:
        files.append((row["source"], request.source))
    files += _region_files(row["regions"], request.regions)
    files += zip(row.get("references", ()), request.references, strict=True)
    if case.scored is not None:
        files.append((row["scored"]["mask"], case.scored.mask))
        files += _region_files(row["scored"]["regions"], case.scored.regions)
    if case.truth is not None:
        files.append((row["truth"], case.truth))
    return row, files


def _region_files(rows: Sequence[Mapping[str, Any]], regions: Sequence[Region]) -> list[tuple[str, Image]]:
    return [(row["mask"], region.mask) for row, region in zip(rows, regions, strict=True)]


def _place_source(directory: Path, case: EditCase, digests: dict[str, str]) -> tuple[str, bool]:
    """The file name of a case's source, and True where the file has to be written.

    ``digests`` maps each file name so far to the digest of its pixels. It is updated.
    """
    # Pixels are compared, not PNGs: encoding one takes twenty times as long.
    digest = _pixel_digest(case.request.source)
    # A second crop of one source image gets a suffix.
    for name in (f"sources/{case.source_id}.png", f"sources/{case.source_id}~{digest[:12]}.png"):
        if name not in digests and (directory / name).exists():
            digests[name] = _pixel_digest(read_rgb(directory / name))
        if name not in digests:
            digests[name] = digest
            return name, True
        if digests[name] == digest:
            return name, False
    raise CaseError(
        f"{directory / name}: its pixels do not match the digest in its name. Delete it and run again."
    )


def _pixel_digest(image: Image) -> str:
    # The size is part of it: a 2x3 and a 3x2 image may have equal bytes.
    return sha256_bytes(f"{image.size}".encode() + image.tobytes())


class CaseFile(Sequence[EditCase]):
    """A folder of cases as a sequence. A case's images are decoded on access.

    ``rows`` (the parsed lines: prompts, categories, file names) and ``info`` (``protocol.json``) need no decoding.
    Raises :class:`CaseError` for a broken folder, and ``bench.images.ImageError`` on access to a broken image.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.info: dict[str, Any] = _read_info(self.directory / PROTOCOL)
        self.rows: tuple[dict[str, Any], ...] = tuple(_read_rows(self.directory / CASES))
        # Position by id. Ids are checked to be unique.
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
        """The parsed line of one case. Raises :class:`CaseError` for an unknown id."""
        return self.rows[self._find(case_id)]

    def get(self, case_id: str) -> EditCase:
        """One case by its id. Raises :class:`CaseError` for an unknown id."""
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
        # Decoded images are not cached: a benchmark's images need not fit in memory.
        source = read_rgb(self.file(row["source"]))

        def mask(name: str) -> Image:
            # A mask of another size than its source is an error.
            return read_mask(self.file(name), source.size)

        def regions(rows: Sequence[Mapping[str, Any]]) -> tuple[Region, ...]:
            return tuple(
                Region(mask(region["mask"]), region["prompt"], tuple(region["words"])) for region in rows
            )

        scored = row["scored"]
        request = EditRequest(
            source=source,
            mask=None if row["mask"] is None else mask(row["mask"]),
            source_prompt=row["source_prompt"],
            target_prompt=row["target_prompt"],
            region_prompt=row["region_prompt"],
            instruction=row["instruction"],
            edit_words=tuple(row["edit_words"]),
            regions=regions(row["regions"]),
            references=tuple(read_rgb(self.file(name)) for name in row["references"]),
            seed=row["seed"],
        )
        return EditCase(
            id=row["id"],
            category=row["category"],
            request=request,
            source_id=row["source_id"],
            claims=tuple(Claim(**claim) for claim in row["claims"]),
            truth=None if row["truth"] is None else read_rgb(self.file(row["truth"])),
            tags=dict(row["tags"]),
            scored=None if scored is None else ScoredAreas(mask(scored["mask"]), regions(scored["regions"])),
        )

    def file(self, name: str) -> Path:
        """Path of a file that a line names. Raises :class:`CaseError` for a name that leads out of the folder."""
        # Somebody else may have written the folder: a file name must not lead out of it.
        try:
            return self.directory.joinpath(*safe_relative(name))
        except UnsafeName as error:
            raise CaseError(f"{self.directory / CASES}: {error}") from None


def _remedy(directory: Path) -> str:
    """The remedy for a broken folder, which was exported or is part of a run."""
    # A run has its cases at RUN/cases/PROTOCOL.
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
    # ``limit`` is the only key of this file that the program reads back. A bool is refused by name, because
    # Python counts it as int.
    limit = info.get("limit")
    if isinstance(limit, bool) or not isinstance(limit, (int, type(None))):
        raise CaseError(f"{path}: limit is {limit!r}, a number or null is expected. {_remedy(path.parent)}")
    ceilings = info.get("ceilings", {})
    if not isinstance(ceilings, dict) or not all(isinstance(share, float) for share in ceilings.values()):
        raise CaseError(
            f"{path}: ceilings is {ceilings!r}, shares by category are expected. {_remedy(path.parent)}"
        )
    return info


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        # Not splitlines, which also splits at characters that a prompt may hold, such as U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file. {_remedy(path.parent)}") from None
    except (OSError, ValueError) as error:
        raise CaseError(f"{path}: cannot be read ({error}). {_remedy(path.parent)}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = checked_row(parse_json(line))
        except ValueError as error:
            raise CaseError(f"{path}:{number}: not a case: {error}. {_remedy(path.parent)}") from error
        yield row

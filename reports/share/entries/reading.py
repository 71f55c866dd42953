"""Reading of an entry that somebody else may have written.

Nothing of the entry is run and nothing is unpacked to disk. Images of a zip are read by names that this code computes,
never by names that the zip gives.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.edit import MethodSpec
from bench.files import is_relative
from reports.share.entries.format import (
    FORMAT,
    MEMBER,
    VERSION,
    EntryEdits,
    EntryError,
    EntryScores,
    LeaderboardEntry,
    content_digest,
    image_name,
)

# Largest unpacked entry: ten times the size that a million scores need.
MAX_JSON_BYTES = 1 << 30
# 64 MiB: an uncompressed image of 4,700 by 4,700 pixels.
MAX_IMAGE_BYTES = 64 << 20
# Exceptions of reading a damaged file or zip. A zip with a password raises RuntimeError, one with an unknown
# compression NotImplementedError.
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, eq=False)
class LoadedEntry:
    """An entry that was read, and the file that may hold its images."""

    entry: LeaderboardEntry
    path: Path
    # True where the file is a zip with images.
    images: bool

    def image(self, sha256: str) -> bytes | None:
        """Bytes of the PNG with this digest, None where the file has no such image. Raises :class:`EntryError`."""
        if not self.images:
            return None
        try:
            with zipfile.ZipFile(self.path) as file:
                return _read_member(file, image_name(sha256), MAX_IMAGE_BYTES, self.path)
        except KeyError:
            return None
        except UNREADABLE as error:
            raise EntryError(f"{self.path}: cannot be read ({error}). Fetch it again.") from error


def load_entry(path: Path) -> LoadedEntry:
    """Reads an entry, a JSON file or a zip, and checks its form and that its parts fit together.

    ``check.verify_entry`` checks its numbers. Raises :class:`EntryError`.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as file:
                _check_members(file, path)
                data = _read_member(file, MEMBER, MAX_JSON_BYTES, path)
                images = any(name.startswith("images/") for name in file.namelist())
        else:
            # Before reading: the file may be larger than memory.
            if path.stat().st_size > MAX_JSON_BYTES:
                raise EntryError(
                    f"{path}: {path.stat().st_size:,} bytes, and an entry has at most {MAX_JSON_BYTES:,}. Give a file "
                    "that `export` wrote."
                )
            data, images = path.read_bytes(), False
    except KeyError:
        raise EntryError(f"{path}: a zip without {MEMBER}. Give a file that `export` wrote.") from None
    except UNREADABLE as error:
        raise EntryError(f"{path}: cannot be read ({error}). Check the path, or fetch it again.") from error
    return LoadedEntry(parse_entry(data, str(path)), path, images)


def parse_entry(data: bytes, origin: str) -> LeaderboardEntry:
    """An entry from its JSON. Raises :class:`EntryError` that names the wrong place in ``origin``."""
    # JSON.
    try:
        content = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    # Thousands of nested brackets exhaust the recursion limit.
    except (ValueError, RecursionError) as error:
        raise EntryError(f"{origin}: not valid JSON ({error}). Give a file that `export` wrote.") from error
    # Format.
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EntryError(f"{origin}: not a leaderboard entry. Give a file that `export` wrote.")
    if content.get("format_version") != VERSION:
        raise EntryError(
            f"{origin}: format version {content.get('format_version')!r}; this version reads {VERSION}. "
            "Export the run again with this version."
        )
    # Check each field, then that the fields fit together.
    try:
        entry = LeaderboardEntry.model_validate(content)
    except ValidationError as error:
        raise EntryError("\n".join(_messages(error, origin))) from None
    # The first one is enough for a message.
    for problem in _inconsistencies(entry, content):
        raise EntryError(f"{origin}: {problem}. Export it again.")
    return entry


def _refuse_constant(name: str) -> float:
    # Python's parser accepts NaN and Infinity, other programs do not.
    raise ValueError(f"{name} is no number of JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    # Of two equal keys, two programs may take different ones, and so read two different entries.
    if len(content) != len(pairs):
        raise ValueError("a key is given twice")
    return content


def _messages(error: ValidationError, origin: str) -> list[str]:
    """One line for each of the first five wrong places."""
    problems = error.errors(include_url=False, include_context=False)
    lines = []
    for problem in problems[:5]:
        where = ".".join(map(str, problem["loc"]))
        value = repr(problem["input"])
        # A wrong place may be a column of a million values.
        value = value if len(value) <= 60 else value[:59] + "…"
        lines.append(f"{origin}: {where}: {problem['msg']}, got {value}. Export it again.")
    if len(problems) > 5:
        lines.append(f"{origin}: ... and {len(problems) - 5} more such places.")
    return lines


def _inconsistencies(entry: LeaderboardEntry, content: Mapping[str, Any]) -> Iterator[str]:
    """Problems that the models cannot express: digests, lengths of columns, and names that do not exist."""
    # Digests.
    digest = content_digest(content)
    if digest != entry.digest:
        yield f"its digest is {entry.digest[:12]}…, its content makes {digest[:12]}…"
    for method_digest, method in entry.methods.items():
        expected = MethodSpec(method.name, method.options).digest
        if expected != method_digest:
            yield f"methods.{method_digest}: its name and options make the digest {expected}"
    # Columns of the protocols.
    for name, protocol in entry.protocols.items():
        lengths = {len(protocol.cases), len(protocol.category), len(protocol.source)}
        if lengths != {len(protocol.target_prompt)}:
            yield f"protocols.{name}: its columns differ in length"
        if len(set(protocol.cases)) != len(protocol.cases):
            yield f"protocols.{name}: a case occurs twice"
    # Columns of edits and scores, and rows of sets.
    yield from _column_problems(entry)
    for i, row in enumerate(entry.sets):
        if row.protocol not in entry.protocols or row.method not in entry.methods:
            yield f"sets.{i}: of a protocol or a method that the entry does not have"


def _column_problems(entry: LeaderboardEntry) -> Iterator[str]:
    """Problems of the columns of edits and of scores."""
    places: set[tuple[str, ...]] = set()
    columns: list[tuple[str, EntryEdits | EntryScores, list[Any], str]] = [
        *((f"edits.{i}", part, part.sha256, "") for i, part in enumerate(entry.edits)),
        *((f"scores.{i}", part, part.values, part.metric) for i, part in enumerate(entry.scores)),
    ]
    # Edits have the empty metric, so that both kinds are checked alike.
    for where, part, values, metric in columns:
        protocol = entry.protocols.get(part.protocol)
        if protocol is None or part.method not in entry.methods:
            yield f"{where}: of a protocol or a method that the entry does not have"
        elif len(values) != len(protocol.cases):
            yield f"{where}: {len(values)} values for {len(protocol.cases)} cases"
        elif isinstance(part, EntryEdits) and {len(part.seconds), len(part.memory)} != {len(values)}:
            yield f"{where}: its columns differ in length"
        if metric and metric not in entry.metrics:
            yield f"{where}: of a metric that the entry does not describe"
        place = (part.protocol, part.method, metric)
        if place in places:
            yield f"{where}: there twice"
        places.add(place)


def _check_members(file: zipfile.ZipFile, path: Path) -> None:
    """Refuses a zip with other files than an entry has. Nothing is unpacked, so this is a second safeguard."""
    for info in file.infolist():
        usual = info.filename == MEMBER or re.fullmatch(r"images/[0-9a-f]{64}\.png", info.filename)
        if not usual or not is_relative(info.filename):
            raise EntryError(
                f"{path}: holds {info.filename!r}, which no entry holds. Give a file that `export` wrote."
            )
    if len(set(file.namelist())) != len(file.namelist()):
        raise EntryError(f"{path}: holds a file twice. Give a file that `export` wrote.")


def _read_member(file: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    """One file of a zip, of at most ``limit`` bytes whatever size the zip states. Raises KeyError, EntryError."""
    with file.open(name) as stream:
        # One byte more than allowed tells a file that is too large, without unpacking all of it.
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise EntryError(f"{path}: {name} is larger than {limit:,} bytes. Give a file that `export` wrote.")
    return data

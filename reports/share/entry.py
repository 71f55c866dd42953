"""A leaderboard entry: what a run says of itself, in one JSON file that others can check and merge.

The models below are the format; ``schema/entry.schema.json`` is the same as JSON Schema, for programs that do
not use this code. Values are held in columns: of every protocol the cases once, and of every method one
row of values per metric, in the order of the cases. Reading an entry runs nothing of it and unpacks nothing:
pictures of a zip are read by names that are computed, never by names that it gives.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bench.edit import MethodSpec
from bench.errors import BenchError
from bench.files import is_relative
from bench.suite import printable

FORMAT = "prompteditbench-entry"
VERSION = 2
"""2: intervals are those of ``bench.stats.share_ends`` and ``mean_ends``, which entries of version 1 do not have."""
MEMBER = "entry.json"
"""The entry in a zip; pictures are ``images/<sha256>.png`` beside it."""
SCHEMA = Path(__file__).parents[1] / "schema" / "entry.schema.json"

MAX_JSON = 1 << 30
"""Bytes of an entry at most, unpacked: ten times what a million scores need."""
MAX_IMAGE = 64 << 20
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Exceptions of reading a file or a damaged zip: RuntimeError for a zip with a password, NotImplementedError for a way
of packing that Python does not know."""


Number = Annotated[float, Field(allow_inf_nan=False)]
Hex12 = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=20_000)]
Line = Annotated[Text, AfterValidator(printable)]
"""Text of somebody else for tables and terminals: neither escapes nor further lines."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+=@-]*$", max_length=120)]


class EntryError(BenchError):
    """An entry that cannot be read or written. The message names the file, the place and the remedy."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ProtocolEntry(_Strict):
    """One protocol and its cases, in order; the columns are of one length."""

    version: Line
    digest: Line
    canvas: int
    options: dict[str, Any] = {}
    limit: int | None = None
    """Cases per category, where the suite took some only."""
    cases: list[Name]
    category: list[Name]
    source: list[Name]
    """The source image of each case: what intervals resample."""
    target_prompt: list[Text]


class MethodEntry(_Strict):
    """One method; its digest is the key that it stands under."""

    name: Name
    label: Line = ""
    options: dict[str, Any] = {}
    dtype: Line | None = None
    devices: list[Line] = []
    is_control: bool | None = None
    """Whether it is a control; None where its name tells (``bench.store.was_control``)."""


class MetricEntry(_Strict):
    """What the tables need to know of a metric."""

    version: Line
    unit: Line = ""
    higher_is_better: bool | None = None
    summary: Line = ""


class Edits(_Strict):
    """The edits of one method for one protocol, in the order of its cases; null where there is none."""

    protocol: Name
    method: Hex12
    sha256: list[Sha256 | None]
    """Of the PNG's bytes."""
    seconds: list[Number | None]
    memory: list[int | None]
    """Peak bytes on the accelerator, where it could tell."""
    errors: dict[Name, Text] = {}
    """Case id -> what failed."""


class Scores(_Strict):
    """One metric of one method for one protocol, in the order of its cases."""

    protocol: Name
    method: Hex12
    metric: Name
    values: list[Number | None]
    reasons: dict[Name, Text] = {}
    """Case id -> why it has no value. A case with neither was never scored."""


class SetEntry(_Strict):
    """One value of a whole set of edits (FID and its kin)."""

    protocol: Name
    method: Hex12
    category: Name
    metric: Name
    metric_version: Line
    value: Number | None
    low: Number | None
    high: Number | None
    n: Annotated[int, Field(ge=0)]
    reason: Text | None = None


class SummaryRow(_Strict):
    """One row of the tidy summary: what the tables are made of."""

    protocol: Name
    category: Name
    method: Line
    metric: Name
    value: Number | None
    low: Number | None
    high: Number | None
    n: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]


class Entry(_Strict):
    """A whole entry."""

    format: Literal["prompteditbench-entry"]
    format_version: Literal[2]
    name: Annotated[str, Field(min_length=1, max_length=120), AfterValidator(printable)]
    """Of the run; what a merged table calls it."""
    seed: int
    versions: dict[str, Line]
    suite: dict[str, Any] | None = None
    protocols: dict[Name, ProtocolEntry]
    methods: dict[Hex12, MethodEntry]
    metrics: dict[Name, MetricEntry]
    edits: list[Edits]
    scores: list[Scores]
    sets: list[SetEntry]
    resamples: Annotated[int, Field(ge=1, le=1_000_000)]
    """Of the summary's intervals."""
    summary: list[SummaryRow]
    digest: Sha256
    """SHA-256 of the canonical JSON of everything else."""


@dataclass(frozen=True, eq=False)
class LoadedEntry:
    """An entry that was read, with where its pictures are, if it has any."""

    entry: Entry
    path: Path
    images: bool
    """The file is a zip with pictures."""

    @property
    def name(self) -> str:
        return self.entry.name

    def image(self, sha256: str) -> bytes | None:
        """The bytes of the PNG with that digest as the zip has it, or None. Raises :class:`EntryError`."""
        if not self.images:
            return None
        try:
            with zipfile.ZipFile(self.path) as file:
                return _member(file, image_name(sha256), MAX_IMAGE, self.path)
        except KeyError:
            return None
        except UNREADABLE as error:
            raise EntryError(f"{self.path}: cannot be read ({error}). Fetch it again.") from error


def image_name(sha256: str) -> str:
    """Where a zip holds a picture. Raises ValueError for what is no digest."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256!r} is no SHA-256.")
    return f"images/{sha256}.png"


def content_digest(content: Mapping[str, Any]) -> str:
    """The digest of an entry, from its JSON value: everything but ``digest`` itself."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an entry."""
    schema = Entry.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "PromptEditBench leaderboard entry",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def load_entry(path: Path) -> LoadedEntry:
    """Reads an entry, a JSON file or a zip, and checks its shape and that its parts fit together.

    Whether its numbers are right is for ``leaderboard.verify_entry``. Raises :class:`EntryError`.
    """
    path = Path(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as file:
                _check_members(file, path)
                data = _member(file, MEMBER, MAX_JSON, path)
                images = any(name.startswith("images/") for name in file.namelist())
        else:
            if path.stat().st_size > MAX_JSON:
                raise EntryError(f"{path}: {path.stat().st_size:,} bytes are more than any entry has.")
            data, images = path.read_bytes(), False
    except KeyError:
        raise EntryError(f"{path}: a zip without {MEMBER}. Give a file that `export` wrote.") from None
    except UNREADABLE as error:
        raise EntryError(f"{path}: cannot be read ({error}). Check the path, or fetch it again.") from error
    return LoadedEntry(parse_entry(data, str(path)), path, images)


def parse_entry(data: bytes, origin: str) -> Entry:
    """An entry from its JSON. Raises :class:`EntryError` that says where in ``origin`` it is wrong."""
    try:
        content = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise EntryError(f"{origin}: not valid JSON ({error}). Give a file that `export` wrote.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EntryError(f"{origin}: not a leaderboard entry. Give a file that `export` wrote.")
    if content.get("format_version") != VERSION:
        raise EntryError(
            f"{origin}: format version {content.get('format_version')!r}; this version reads {VERSION}. "
            "Export the run again with this version."
        )
    try:
        entry = Entry.model_validate(content)
    except ValidationError as error:
        raise EntryError("\n".join(_messages(error, origin))) from None
    for problem in _misfits(entry, content):
        raise EntryError(f"{origin}: {problem}. Export it again.")
    return entry


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _messages(error: ValidationError, origin: str) -> list[str]:
    found = error.errors(include_url=False, include_context=False)
    lines = []
    for problem in found[:5]:
        where = ".".join(map(str, problem["loc"]))
        given = repr(problem["input"])
        shown = given if len(given) <= 60 else given[:59] + "…"
        lines.append(f"{origin}: {where}: {problem['msg']}, got {shown}. Export it again.")
    if len(found) > 5:
        lines.append(f"{origin}: ... and {len(found) - 5} more such places.")
    return lines


def _misfits(entry: Entry, content: Mapping[str, Any]) -> list[str]:
    """What the models cannot say: columns of one length, keys that exist, digests that are right."""
    found = []
    if content_digest(content) != entry.digest:
        found.append(f"its digest is {entry.digest[:12]}…, its content makes {content_digest(content)[:12]}…")
    for name, protocol in entry.protocols.items():
        lengths = {len(protocol.cases), len(protocol.category), len(protocol.source)}
        if lengths != {len(protocol.target_prompt)}:
            found.append(f"protocols.{name}: its columns differ in length")
        if len(set(protocol.cases)) != len(protocol.cases):
            found.append(f"protocols.{name}: a case occurs twice")
    for digest, method in entry.methods.items():
        right = MethodSpec(method.name, method.options).digest
        if right != digest:
            found.append(f"methods.{digest}: its name and options make the digest {right}")
    seen: set[tuple[str, ...]] = set()
    columns: list[tuple[str, Edits | Scores, list[Any], tuple[str, ...]]] = [
        *((f"edits.{i}", part, part.sha256, ("",)) for i, part in enumerate(entry.edits)),
        *((f"scores.{i}", part, part.values, (part.metric,)) for i, part in enumerate(entry.scores)),
    ]
    for where, part, values, more in columns:
        protocol_entry = entry.protocols.get(part.protocol)
        place = (part.protocol, part.method, *more)
        if protocol_entry is None or part.method not in entry.methods:
            found.append(f"{where}: of a protocol or a method that the entry does not have")
        elif len(values) != len(protocol_entry.cases):
            found.append(f"{where}: {len(values)} values for {len(protocol_entry.cases)} cases")
        elif isinstance(part, Edits) and {len(part.seconds), len(part.memory)} != {len(values)}:
            found.append(f"{where}: its columns differ in length")
        if isinstance(part, Scores) and part.metric not in entry.metrics:
            found.append(f"{where}: of a metric that the entry does not describe")
        if place in seen:
            found.append(f"{where}: there twice")
        seen.add(place)
    for i, row in enumerate(entry.sets):
        if row.protocol not in entry.protocols or row.method not in entry.methods:
            found.append(f"sets.{i}: of a protocol or a method that the entry does not have")
    return found


def _check_members(file: zipfile.ZipFile, path: Path) -> None:
    """Refuses a zip whose names could lead anywhere, though nothing here is ever unpacked."""
    for info in file.infolist():
        good = info.filename == MEMBER or re.fullmatch(r"images/[0-9a-f]{64}\.png", info.filename)
        if not good or not is_relative(info.filename):
            raise EntryError(
                f"{path}: holds {info.filename!r}, which no entry holds. Give a file that `export` wrote."
            )
    if len(set(file.namelist())) != len(file.namelist()):
        raise EntryError(f"{path}: holds a file twice. Give a file that `export` wrote.")


def _member(file: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    """One file of a zip, of at most ``limit`` bytes whatever the zip claims. Raises KeyError, EntryError."""
    with file.open(name) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise EntryError(f"{path}: {name} is larger than {limit:,} bytes. Give a file that `export` wrote.")
    return data

"""The format of a leaderboard entry: one JSON file that others can check and merge.

The models below are the format. ``schema/entry.schema.json`` is the same as JSON Schema, for programs that do not use
this code. Values are stored in columns: each protocol lists its cases once, and each method has one column per
metric, in the order of the cases.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bench.errors import BenchError
from bench.suite import printable

FORMAT = "prompteditbench-entry"
# Version 3 has no interval of a mean of fewer than ``bench.stats.LEAST_CLUSTERS`` source images. Version 2 had one from
# two on, and version 1 had other intervals.
VERSION = 3
# Name of the entry in a zip. Images are ``images/<sha256>.png`` beside it.
MEMBER = "entry.json"
SCHEMA = Path(__file__).parents[2] / "schema" / "entry.schema.json"

# JSON has no NaN and no infinity.
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Hex12 = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=20_000)]
# A stranger's text for tables and terminals has neither escape sequences nor line breaks.
Line = Annotated[Text, AfterValidator(printable)]
# No name becomes part of a path. The pattern makes it safe for one all the same.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+=@-]*$", max_length=120)]


class EntryError(BenchError):
    """An entry that cannot be read or written. The message names the file, the place and the remedy."""


class _EntryModel(BaseModel):
    # strict: the text "0.5" is no number. forbid: a field that nobody reads could hide what the digest covers.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EntryProtocol(_EntryModel):
    """One protocol and its cases. The columns have the same length and order."""

    version: Line
    digest: Line
    # Pixels: the side of a square, or [width, height]. None where each source has its own size.
    canvas: int | list[int] | None
    options: dict[str, Any] = {}
    # Cases per category, where the suite took only some.
    limit: int | None = None
    cases: list[Name]
    category: list[Name]
    # The source image of each case. Intervals resample source images.
    source: list[Name]
    target_prompt: list[Text]


class EntryMethod(_EntryModel):
    """One method. Its digest is its key in ``methods``."""

    name: Name
    label: Line = ""
    options: dict[str, Any] = {}
    dtype: Line | None = None
    devices: list[Line] = []


class EntryMetric(_EntryModel):
    """One metric, as far as the tables describe it."""

    version: Line
    unit: Line = ""
    higher_is_better: bool | None = None
    summary: Line = ""


class EntryEdits(_EntryModel):
    """The edits of one method in one protocol, in the order of its cases. null where there is none."""

    protocol: Name
    method: Hex12
    # SHA-256 of the PNG file.
    sha256: list[Sha256 | None]
    seconds: list[Number | None]
    # Peak bytes on the accelerator, null where they are unknown.
    memory: list[int | None]
    # Case id -> error message.
    errors: dict[Name, Text] = {}


class EntryScores(_EntryModel):
    """One metric of one method in one protocol, in the order of its cases."""

    protocol: Name
    method: Hex12
    metric: Name
    values: list[Number | None]
    # Case id -> reason of a missing value. A case with neither value nor reason was not scored.
    reasons: dict[Name, Text] = {}


class EntrySetScore(_EntryModel):
    """One value of a whole set of edits (Fréchet distance and similar metrics)."""

    protocol: Name
    method: Hex12
    category: Name
    metric: Name
    metric_version: Line
    value: Number | None
    low: Number | None
    high: Number | None
    n: Count
    reason: Text | None = None


class SummaryRow(_EntryModel):
    """One row of the summary, from which the tables are made."""

    protocol: Name
    category: Name
    method: Line
    metric: Name
    value: Number | None
    low: Number | None
    high: Number | None
    n: Count
    failed: Count


class LeaderboardEntry(_EntryModel):
    """A whole entry."""

    format: Literal["prompteditbench-entry"]
    format_version: Literal[3]
    # Name of the run, which merged tables show.
    name: Annotated[str, Field(min_length=1, max_length=120), AfterValidator(printable)]
    seed: int
    versions: dict[str, Line]
    suite: dict[str, Any] | None = None
    protocols: dict[Name, EntryProtocol]
    methods: dict[Hex12, EntryMethod]
    metrics: dict[Name, EntryMetric]
    edits: list[EntryEdits]
    scores: list[EntryScores]
    sets: list[EntrySetScore]
    # Number of bootstrap resamples of the summary's intervals.
    resamples: Annotated[int, Field(ge=1, le=1_000_000)]
    summary: list[SummaryRow]
    # SHA-256 of the canonical JSON of everything else.
    digest: Sha256


def image_name(sha256: str) -> str:
    """Name of an image in a zip. Raises ValueError if the argument is no SHA-256."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256!r} is no SHA-256.")
    return f"images/{sha256}.png"


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of an entry's canonical JSON without ``digest`` itself."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    # Canonical: sorted keys, no spaces, ASCII. A program in another language can compute the same bytes.
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an entry."""
    schema = LeaderboardEntry.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "PromptEditBench leaderboard entry",
        **{key: value for key, value in schema.items() if key != "title"},
    }

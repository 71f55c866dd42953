"""Votes to files and back, loss-free, and without what could tell who the raters are.

A file holds the columns of :mod:`bench.study.votes.frame` and ``schema_version``; its ending says which kind it is.
Version 2 added ``exclusion``, the rule that the study stated; files of version 1 are read without a rule.

- ``.parquet``: ``candidates`` is a list of strings, ``server_time`` a UTC timestamp in microseconds.
- ``.csv``: UTF-8, RFC 4180 quoting; ``candidates`` is a JSON array, ``server_time`` ISO 8601, absent values
  are empty.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import parse_json, write_atomic
from bench.study.votes.frame import COLUMNS, OPTIONAL, VotesError, check_votes

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
"""Version of the files that are written."""
READABLE = (1, 2)
"""Versions that are read; another one is refused rather than guessed at."""

VERSION = "schema_version"
FIELDS = (*COLUMNS, *OPTIONAL)

_KEY_BYTES = 16
_TIME_STEP = "D"
_REACTION_STEP_MS = 100


class ExchangeError(VotesError):
    """A file of votes that cannot be written or read. The message names it, the place and the remedy."""


def export_votes(votes: pd.DataFrame, path: Path) -> None:
    """Writes all votes to ``path``, whole or not at all; ``.csv`` or ``.parquet``.

    Reaction times are written as whole milliseconds. Raises :class:`ExchangeError` for another ending or for
    columns that the file has no place for, VotesError for votes that are not as they should be, OSError.
    """
    path = Path(path)
    kind = _kind(path)
    unknown = [str(column) for column in votes.columns if column not in FIELDS]
    if unknown:
        raise ExchangeError(
            f"{path.name}: the votes have columns that the file has no place for: {', '.join(unknown)}. "
            "Drop them first, so that nothing is lost in silence."
        )
    checked = check_votes(votes)
    if (checked["reaction_ms"] % 1 != 0).any():
        raise ExchangeError(f"{path.name}: reaction_ms holds fractions; whole milliseconds are exported.")
    checked["reaction_ms"] = checked["reaction_ms"].astype("int64")
    checked = checked[list(FIELDS)]
    write_atomic(path, _csv_bytes(checked) if kind == ".csv" else _parquet_bytes(checked))


def import_votes(path: Path) -> pd.DataFrame:
    """The votes of a file that :func:`export_votes` wrote, in the same order.

    Raises :class:`ExchangeError` for what is no such file or is of another schema version, VotesError for
    votes that are not as they should be, OSError.
    """
    path = Path(path)
    read = _read_csv if _kind(path) == ".csv" else _read_parquet
    votes = read(path)
    try:
        checked = check_votes(votes)
    except VotesError as error:
        raise ExchangeError(f"{path}: {error}") from error
    if (checked["reaction_ms"] % 1 != 0).any():
        raise ExchangeError(f"{path}: reaction_ms holds fractions; whole milliseconds were exported.")
    checked["reaction_ms"] = checked["reaction_ms"].astype("int64")
    return checked[list(FIELDS)]


def anonymise(votes: pd.DataFrame, key: bytes | str | None = None) -> pd.DataFrame:
    """The votes with what could single a rater out removed or made coarse.

    - Raters and trials become keyed pseudonyms (HMAC-SHA256, 80 bits): without the key no list of ids can be
      matched against them. The same key gives the same pseudonyms, so that two exports can be joined; keep it
      apart from the file, or pass None for a key that nobody keeps.
    - Times are those of the day (UTC), reaction times are rounded to 100 ms: an exclusion bound on those then
      differs by as much.
    - Only the columns of :mod:`bench.study.votes.frame` stay; there is no free text among them.
    - Rows are sorted by pseudonym, so that their order does not tell who came when.

    Raises :class:`ExchangeError` for a key of fewer than 16 bytes.
    """
    import pandas as pd

    secret = secrets.token_bytes(32) if key is None else key.encode() if isinstance(key, str) else bytes(key)
    if len(secret) < _KEY_BYTES:
        raise ExchangeError(
            f"the key has {len(secret)} bytes; at least {_KEY_BYTES} are needed, so that it cannot be guessed."
        )

    seen: dict[tuple[str, str], str] = {}

    def pseudonym(what: str, *parts: str) -> str:
        whole = json.dumps([what, *parts])
        if (what, whole) not in seen:
            digest = hmac.new(secret, whole.encode(), hashlib.sha256).hexdigest()
            seen[what, whole] = f"{what[0]}-{digest[:20]}"
        return seen[what, whole]

    found = check_votes(votes)
    rows = list(zip(found["study"], found["rater"], found["trial"], found["repeat_of"], strict=True))
    found["rater"] = [pseudonym("rater", study, rater) for study, rater, _, _ in rows]
    found["trial"] = [pseudonym("trial", study, trial) for study, _, trial, _ in rows]
    again = [None if first is None else pseudonym("trial", study, first) for study, _, _, first in rows]
    found["repeat_of"] = pd.Series(again, dtype=object)
    found["server_time"] = found["server_time"].dt.floor(_TIME_STEP)
    step = _REACTION_STEP_MS
    found["reaction_ms"] = ((found["reaction_ms"] / step).round() * step).astype("int64")
    found = found.sort_values(["study", "rater", "trial"], kind="stable").reset_index(drop=True)
    return found[list(FIELDS)]


def _kind(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise ExchangeError(f"{path.name}: the name must end in .csv or .parquet.")
    return ending


# --- CSV ---------------------------------------------------------------------------------------------


def _csv_bytes(votes: pd.DataFrame) -> bytes:
    out = io.StringIO(newline="")
    # Two characters, as RFC 4180 has it: with one alone, the other would go unquoted in a text.
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([VERSION, *FIELDS])
    columns = []
    for name in FIELDS:
        values = votes[name].tolist()
        if name == "candidates":
            values = [json.dumps(titles, ensure_ascii=False) for titles in values]
        elif name == "server_time":
            values = [time.isoformat() for time in votes[name].dt.to_pydatetime()]
        columns.append(["" if value is None else value for value in values])
    writer.writerows(zip([SCHEMA_VERSION] * len(votes), *columns, strict=True))
    return out.getvalue().encode("utf-8")


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExchangeError(f"{path}: no CSV file in UTF-8 ({error}). Export the votes again.") from error
    if not lines:
        raise ExchangeError(f"{path}: the file is empty. Export the votes again.")
    head, rows = lines[0], [line for line in lines[1:] if line]
    _check_columns(path, head)
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise ExchangeError(f"{path}: record {number} has {len(row)} cells instead of {len(head)}.")
    table = {name: [row[i] for row in rows] for i, name in enumerate(head)}
    for version in set(table.pop(VERSION)):
        _check_version(path, version)
    columns: dict[str, Any] = {}
    for name, cells in table.items():
        values: list[Any] = list(cells)
        try:
            if name == "candidates":
                values = [tuple(parse_json(cell)) for cell in cells]
            elif name == "reaction_ms":
                values = [float(cell) for cell in cells]
            elif name == "server_time":
                values = [_time(cell) for cell in cells]
            elif name in ("repeat_of", "expected", "exclusion"):
                values = [cell or None for cell in cells]
        except (ValueError, TypeError) as error:
            raise ExchangeError(f"{path}: column {name} cannot be read ({error}).") from error
        columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return time.astimezone(UTC)


# --- Parquet -----------------------------------------------------------------------------------------

_METADATA = b"prompteditbench.votes"


def _parquet_bytes(votes: pd.DataFrame) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {VERSION: pa.array([SCHEMA_VERSION] * len(votes), pa.int16())}
    for name in FIELDS:
        values = votes[name].tolist()
        if name == "candidates":
            columns[name] = pa.array([list(titles) for titles in values], pa.list_(pa.string()))
        elif name == "reaction_ms":
            columns[name] = pa.array(values, pa.int64())
        elif name == "server_time":
            columns[name] = pa.array(list(votes[name].dt.to_pydatetime()), pa.timestamp("us", "UTC"))
        else:
            columns[name] = pa.array(values, pa.string())
    table = pa.table(columns).replace_schema_metadata({_METADATA: str(SCHEMA_VERSION).encode()})
    out = io.BytesIO()
    parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            table = parquet.read_table(file)
    except pa.ArrowException as error:
        raise ExchangeError(f"{path}: no Parquet file ({error}). Export the votes again.") from error
    _check_columns(path, table.column_names)
    version = (table.schema.metadata or {}).get(_METADATA, b"none").decode("utf-8", "replace")
    _check_version(path, version)
    columns = {}
    for name in table.column_names:
        if name != VERSION:
            values = table.column(name).to_pylist()
            if name == "candidates":
                values = [None if titles is None else tuple(titles) for titles in values]
            columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns)


def _check_columns(path: Path, found: list[str]) -> None:
    if VERSION not in found:
        raise ExchangeError(f"{path}: there is no column {VERSION}: this is no file of exported votes.")
    missing = [name for name in COLUMNS if name not in found]
    unknown = [name for name in found if name not in (VERSION, *FIELDS)]
    if missing or unknown or len(set(found)) != len(found):
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [
            f"has unknown {', '.join(unknown)}"
        ] * bool(unknown)
        raise ExchangeError(f"{path}: the file {' and '.join(parts) or 'has a column twice'}.")


def _check_version(path: Path, version: str) -> None:
    if version not in map(str, READABLE):
        raise ExchangeError(
            f"{path}: schema version {version!r}, but this program reads {' and '.join(map(str, READABLE))}. "
            "Export the votes again with the program that is to read them."
        )

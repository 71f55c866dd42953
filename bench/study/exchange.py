"""Writes votes to files and reads them back without loss, and removes what could identify a rater.

A file holds the columns of :mod:`bench.study.votes.frame` and ``schema_version``. Version 2 added ``exclusion``, the
exclusion rule that the study stated, version 3 ``first_answer``, ``scale`` and ``probability``, version 4
``over_time``, version 5 ``both_orders``. Files of older versions are read without them.

- ``.parquet``: ``candidates`` is a list of strings, ``server_time`` a UTC timestamp in microseconds.
- ``.csv``: UTF-8, quoted as in RFC 4180. ``candidates`` is a JSON array, ``server_time`` is ISO 8601, an absent value
  is empty.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import parse_json, write_atomic
from bench.study.votes.frame import COLUMNS, OPTIONAL, VotesError, check_votes

if TYPE_CHECKING:
    import pandas as pd

# Version of the files that are written.
SCHEMA_VERSION = 5
# Versions that are read. Any other is refused.
READABLE = (1, 2, 3, 4, 5)

VERSION = "schema_version"
FIELDS = (*COLUMNS, *OPTIONAL)

# Least length in bytes of the key of an anonymous export, and the steps to which the export rounds times.
_KEY_BYTES = 16
_TIME_STEP = "D"
_REACTION_STEP_MS = 100


class ExchangeError(VotesError):
    """A file of votes that cannot be written or read. The message names the file, the place and the remedy."""


def export_votes(votes: pd.DataFrame, path: Path) -> None:
    """Writes all votes to a ``.csv`` or ``.parquet`` file, whole or not at all.

    Reaction times are whole milliseconds. Raises :class:`ExchangeError` for another ending or further columns,
    VotesError for votes that break the rules of ``votes.frame``, and OSError.
    """
    path = Path(path)
    to_bytes = _csv_bytes if check_ending(path) == ".csv" else _parquet_bytes
    # Refuse to drop anything silently.
    unknown = [str(column) for column in votes.columns if column not in FIELDS]
    if unknown:
        raise ExchangeError(
            f"{path.name}: the votes have columns that the file has no place for: {', '.join(unknown)}. "
            "Drop them first, so that nothing is lost silently."
        )
    write_atomic(path, to_bytes(_whole_milliseconds(check_votes(votes), path)))


def import_votes(path: Path) -> pd.DataFrame:
    """The votes of a file of :func:`export_votes`, in the same order.

    Raises :class:`ExchangeError` for another file, another schema version or votes that break the rules of
    ``votes.frame``, and OSError.
    """
    path = Path(path)
    read = _read_csv if check_ending(path) == ".csv" else _read_parquet
    votes = read(path)
    # A file may have been edited by hand.
    try:
        checked = check_votes(votes)
    except VotesError as error:
        raise ExchangeError(f"{path}: {error}") from error
    return _whole_milliseconds(checked, path)


def anonymise(votes: pd.DataFrame, key: bytes | str | None = None) -> pd.DataFrame:
    """The votes without anything that could identify a rater.

    - Raters and trials become keyed pseudonyms (HMAC-SHA256, 80 bits). Without the key, no list of ids can be matched
      against them. The same key gives the same pseudonyms, so that two exports can be joined. Keep the key apart from
      the file, or pass None for a random key that is kept nowhere.
    - Times are rounded to the day (UTC) and reaction times to 100 ms. An exclusion rule on these may then decide
      differently by as much.
    - Only the columns of :mod:`bench.study.votes.frame` stay. None of them is free text.
    - Rows are sorted by pseudonym, so that their order does not tell who came first.

    Raises :class:`ExchangeError` for a key of fewer than 16 bytes.
    """
    import pandas as pd

    secret = secrets.token_bytes(32) if key is None else key.encode() if isinstance(key, str) else bytes(key)
    if len(secret) < _KEY_BYTES:
        raise ExchangeError(
            f"the key has {len(secret)} bytes; at least {_KEY_BYTES} are needed, so that it cannot be guessed."
        )

    # Identities. The study is part of the text: one rater has another pseudonym in each study.
    def pseudonym(role: str, study: str, name: str) -> str:
        text = json.dumps([role, study, name])
        return f"{role[0]}-{hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()[:20]}"

    anonymous = check_votes(votes)
    studies = anonymous["study"]
    for column, role in (("rater", "rater"), ("trial", "trial"), ("repeat_of", "trial")):
        names = [
            None if name is None else pseudonym(role, study, name)
            for study, name in zip(studies, anonymous[column], strict=True)
        ]
        anonymous[column] = pd.Series(names, dtype=object)
    # Times.
    anonymous["server_time"] = anonymous["server_time"].dt.floor(_TIME_STEP)
    step = _REACTION_STEP_MS
    anonymous["reaction_ms"] = ((anonymous["reaction_ms"] / step).round() * step).astype("int64")
    # The order of the rows must not be that of arrival.
    anonymous = anonymous.sort_values(["study", "rater", "trial"], kind="stable").reset_index(drop=True)
    return anonymous[list(FIELDS)]


def check_ending(path: Path) -> str:
    """The ending of a file of votes, ``.csv`` or ``.parquet``. Raises :class:`ExchangeError` for another."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise ExchangeError(f"{path.name}: the name must end in .csv or .parquet.")
    return ending


def _whole_milliseconds(votes: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns of a file, with integer reaction times. Raises :class:`ExchangeError` for a fraction."""
    if (votes["reaction_ms"] % 1 != 0).any():
        raise ExchangeError(f"{path}: reaction_ms has fractions of milliseconds. Round them.")
    votes["reaction_ms"] = votes["reaction_ms"].astype("int64")
    return votes[list(FIELDS)]


# --- CSV --------------------------------------------------------------------------------------------------


def _csv_bytes(votes: pd.DataFrame) -> bytes:
    out = io.StringIO(newline="")
    # Both characters of RFC 4180's line end. With one of them, csv would leave the other unquoted in a text.
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([VERSION, *FIELDS])
    # Each column as texts.
    columns = []
    for name in FIELDS:
        values = votes[name].tolist()
        if name == "candidates":
            values = [json.dumps(titles, ensure_ascii=False) for titles in values]
        elif name == "server_time":
            values = [time.isoformat() for time in votes[name].dt.to_pydatetime()]
        elif name == "over_time":
            values = [None if value is None else str(value).lower() for value in values]
        columns.append(["" if value is None else value for value in values])
    writer.writerows(zip([SCHEMA_VERSION] * len(votes), *columns, strict=True))
    return out.getvalue().encode("utf-8")


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = list(csv.reader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExchangeError(f"{path}: no CSV file in UTF-8 ({error}). Export the votes again.") from error
    if not records:
        raise ExchangeError(f"{path}: the file is empty. Export the votes again.")

    # The shape of the table and its version.
    head, rows = records[0], [record for record in records[1:] if record]
    _check_columns(path, head)
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise ExchangeError(
                f"{path}: record {number} has {len(row)} cells instead of {len(head)}. Export the votes again."
            )
    table = {name: [row[index] for row in rows] for index, name in enumerate(head)}
    for version in set(table.pop(VERSION)):
        _check_version(path, version)

    # The cells. Those of other columns are texts.
    columns: dict[str, Any] = {}
    for name, cells in table.items():
        try:
            values = [_CELLS.get(name, str)(cell) for cell in cells]
        except (ValueError, TypeError) as error:
            raise ExchangeError(
                f"{path}: column {name} cannot be read ({error}). Export the votes again."
            ) from error
        columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return time.astimezone(UTC)


def _text_or_none(cell: str) -> str | None:
    return cell or None


def _truth(cell: str) -> bool | None:
    if cell not in ("", "true", "false"):
        raise ValueError(f"{cell!r} is not true, false or empty")
    return None if not cell else cell == "true"


# Column -> value of a cell. Each raises ValueError or TypeError.
_CELLS: Mapping[str, Callable[[str], object]] = {
    "candidates": lambda cell: tuple(parse_json(cell)),
    "reaction_ms": float,
    "server_time": _time,
    "repeat_of": _text_or_none,
    "expected": _text_or_none,
    "exclusion": _text_or_none,
    "first_answer": _text_or_none,
    "scale": _text_or_none,
    "probability": _text_or_none,
    "over_time": _truth,
    "both_orders": _text_or_none,
}

# --- Parquet ----------------------------------------------------------------------------------------------

# Key of the schema version in the file's metadata.
_METADATA = b"prompteditbench.votes"


def _parquet_bytes(votes: pd.DataFrame) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    # Explicit types: pyarrow cannot infer those of an empty column.
    columns = {VERSION: pa.array([SCHEMA_VERSION] * len(votes), pa.int16())}
    for name in FIELDS:
        values = votes[name].tolist()
        if name == "candidates":
            columns[name] = pa.array([list(titles) for titles in values], pa.list_(pa.string()))
        elif name == "reaction_ms":
            columns[name] = pa.array(values, pa.int64())
        elif name == "probability":
            columns[name] = pa.array(values, pa.float64())
        elif name == "over_time":
            columns[name] = pa.array(values, pa.bool_())
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
    # Python objects, which check_votes expects.
    columns = {}
    for name in table.column_names:
        if name != VERSION:
            values = table.column(name).to_pylist()
            if name == "candidates":
                values = [None if titles is None else tuple(titles) for titles in values]
            columns[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if VERSION not in columns:
        raise ExchangeError(f"{path}: there is no column {VERSION}: this is no file of exported votes.")
    # A missing or unknown column is a file of another kind or version.
    problems = []
    if missing := [name for name in COLUMNS if name not in columns]:
        problems.append(f"lacks {', '.join(missing)}")
    if unknown := [name for name in columns if name not in (VERSION, *FIELDS)]:
        problems.append(f"has unknown {', '.join(unknown)}")
    if not problems and len(set(columns)) != len(columns):
        problems.append("has a column twice")
    if problems:
        raise ExchangeError(f"{path}: the file {' and '.join(problems)}. Export the votes again.")


def _check_version(path: Path, version: str) -> None:
    if version not in map(str, READABLE):
        raise ExchangeError(
            f"{path}: schema version {version!r}, but this program reads {READABLE[0]} to {READABLE[-1]}. "
            "Export the votes again with this version of the program."
        )

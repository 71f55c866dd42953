"""The look of a report's tables, as the options of ``report`` give it and as ``report.json`` stores it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.tables.style import Style, StyleError

MOST_DECIMALS = 8


def parse_columns(text: str) -> tuple[str, ...]:
    """Reads ``A,B,C``. Raises :class:`StyleError` for a metric that is named twice."""
    columns = tuple(column.strip() for column in text.split(",") if column.strip())
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise StyleError(
            f"--columns: {', '.join(repeated)} is named twice. Name each metric once, with commas between."
        )
    return columns


def style_of_record(stored: str | Mapping[str, Any]) -> Style:
    """Reads the style that ``report.json`` stores.

    Earlier reports store the text ``key=value;key=value`` in place of a mapping.
    """
    if isinstance(stored, str):
        pairs = [part.partition("=") for part in stored.split(";") if part.strip()]
        values: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
        if "decimals" in values:
            values["decimals"] = int(values["decimals"])
        values["columns"] = parse_columns(values.get("columns", ""))
    else:
        values = {**stored, "columns": tuple(stored.get("columns", ()))}
    return Style(**values)

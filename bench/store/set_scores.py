"""Scores of whole sets of edits, such as FID, in ``scores/set.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.edit import stable_digest
from bench.files import parse_json
from bench.store.errors import NUMBER_OR_NONE, TEXT, TEXT_OR_NONE, StoreError, wrong_types

_ROW_TYPES: Mapping[str, tuple[type, ...]] = {
    "protocol": TEXT,
    "protocol_version": TEXT,
    "method": TEXT,
    "category": TEXT,
    "metric": TEXT,
    "metric_version": TEXT,
    "value": NUMBER_OR_NONE,
    "low": NUMBER_OR_NONE,
    "high": NUMBER_OR_NONE,
    "n": (int,),
    "reason": TEXT_OR_NONE,
}

SET_COLUMNS: tuple[str, ...] = tuple(_ROW_TYPES)
"""Columns of ``RunStore.set_scores``."""


# Subclasses may add fields, which are stored too.
@dataclass(frozen=True)
class SetScore:
    """One value of one set metric for all edits of a method in one category (``"all"``: in all of them)."""

    protocol: str
    protocol_version: str
    method: str
    """Digest of the method."""
    category: str
    metric: str
    metric_version: str
    value: float | None
    n: int
    """Edits in the set."""
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The stored set scores, as JSON has them. Raises :class:`StoreError` for a file of another shape."""
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError("it is no list of set scores")
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or wrong_types(row, _ROW_TYPES):
                raise ValueError(f"row {number} is no set score")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). Delete it, and score again.") from error
    return rows


def merge_rows(rows: Iterable[dict[str, Any]], scores: Sequence[SetScore]) -> bytes:
    """The file's content after adding scores. The last one per protocol, method, category and metric stays."""
    # A dict keeps the position of a row that is replaced.
    merged = {_key(row): row for row in rows}
    for score in scores:
        row = asdict(score)
        if row["value"] is not None and not math.isfinite(row["value"]):
            # JSON has no NaN, and a value that could not be computed is None with a reason.
            row.update(value=None, reason=row["reason"] or f"the metric gave {score.value}")
        merged[_key(row)] = row
    text = json.dumps(list(merged.values()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode()


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("protocol", "protocol_version", "method", "category", "metric"))


def set_inputs(protocol_digest: str, images: Iterable[str | None]) -> str:
    """Digest of the compared edits (SHA-256, None for a failed one) and of the protocol that has the real images."""
    # Sorted, because a set has no order.
    return stable_digest([protocol_digest, sorted(image or "" for image in images)])

"""Export of a run as a leaderboard entry.

An entry contains every score of every case, so that ``check.verify_entry`` can compute its tables again. An entry does
not prove that its images have these scores. To check that, score an entry with images again, or repeat the run from
its digests and seed.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.edit import EditRecord, one_line
from bench.files import sha256_bytes, write_atomic
from bench.metrics.types import MetricInfo
from bench.store import RunStore
from reports.data.metrics import metric_info
from reports.data.scores import load
from reports.data.summary import summary
from reports.share.comparison.configuration import metric_versions
from reports.share.entries.format import FORMAT, MEMBER, VERSION, EntryError, content_digest, image_name
from reports.share.entries.reading import parse_entry

if TYPE_CHECKING:
    import pandas as pd

# Written into the entry, so that `verify_entry` computes intervals with as many.
RESAMPLES = 2_000
# Longest error message or reason, in characters.
MAX_TEXT = 20_000

# Protocol -> case id -> position in its columns.
CaseOrder = Mapping[str, Mapping[str, int]]


def export_entry(
    store: RunStore, path: Path, *, images: bool = False, facts: Mapping[str, MetricInfo] | None = None
) -> Path:
    """Writes a run as an entry and returns its path: a JSON file, or a zip where ``path`` ends in ``.zip``.

    ``images`` adds the edits, which needs a zip. ``facts`` describe the metrics to readers who do not have them.
    Raises :class:`EntryError` for a run without scores or with an edit that is not the recorded one, ``StoreError``
    for a run that cannot be read, and OSError.
    """
    zipped = path.suffix == ".zip"
    if images and not zipped:
        raise EntryError(f"{path}: images need a zip. Give a name that ends in .zip.")
    # The digest last, since it is of everything else.
    content = _content(store, facts or {})
    content["digest"] = content_digest(content)
    data = (json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n").encode()
    # An entry that cannot be read must not be written.
    parse_entry(data, str(path))
    if zipped:
        data = _zip(store, data, images=images)
    write_atomic(path, data)
    return path


def _zip(store: RunStore, entry: bytes, *, images: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        _add(file, MEMBER, entry)
        # Equal images have one name and are stored once.
        records: dict[str, EditRecord] = {}
        for record in store.edits() if images else ():
            if record.sha256 is not None:
                records.setdefault(record.sha256, record)
        for sha256, record in records.items():
            _add(file, image_name(sha256), _image_bytes(store, record))
    return buffer.getvalue()


def _add(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed time, so that the same run gives the same bytes.
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    # A PNG is compressed already.
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    # The high 16 bits are the file's mode on Unix: without it, some programs unpack files that nobody may read.
    info.external_attr = 0o644 << 16
    file.writestr(info, data)


def _image_bytes(store: RunStore, record: EditRecord) -> bytes:
    path = store.image_path(record)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EntryError(f"{path}: cannot be read ({error.strerror}). Run the suite again.") from error
    if sha256_bytes(data) != record.sha256:
        raise EntryError(f"{path}: not the file that was recorded. Delete it and run the suite again.")
    return data


def _content(store: RunStore, facts: Mapping[str, MetricInfo]) -> dict[str, Any]:
    """The entry without its digest."""
    manifest = store.manifest
    # Its columns have one value for each case.
    if len(store.seeds) > 1:
        raise EntryError(
            f"{store.path}: its edits have {len(store.seeds)} seeds, and an entry has one. Run the suite with one seed "
            "into another folder."
        )
    frame = summary(load(store), facts, resamples=RESAMPLES)
    if frame.empty:
        raise EntryError(
            f"{store.path}: has no scores yet. Score it first: python run_bench.py score {store.path}"
        )
    # Cases of each protocol, once and in order. The columns below follow this order.
    rows = {name: store.cases(name).rows for name in store.protocols()}
    order = {name: {row["id"]: i for i, row in enumerate(of_protocol)} for name, of_protocol in rows.items()}
    # Images are not in the entry: prompts and ids name the cases.
    protocols = {
        name: {
            **{key: manifest["protocols"][name].get(key) for key in ("version", "digest", "canvas", "limit")},
            "options": manifest["protocols"][name].get("options", {}),
            "cases": [row["id"] for row in of_protocol],
            "category": [row["category"] for row in of_protocol],
            "source": [row["source_id"] for row in of_protocol],
            "target_prompt": [row["target_prompt"] for row in of_protocol],
        }
        for name, of_protocol in rows.items()
    }
    # Methods by digest, with what a reader may want to know of their conditions.
    methods = {
        digest: {
            "name": method["name"],
            # Labels and summaries come from users. An entry is printed on a stranger's terminal.
            "label": one_line(method["label"]),
            "options": method["options"],
            "dtype": method.get("dtype"),
            "devices": list(method.get("devices", [])),
        }
        for digest, method in manifest["methods"].items()
    }
    content = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": str(manifest.get("name", store.path.name)),
        "seed": manifest["seed"],
        "versions": {name: str(version) for name, version in manifest.get("versions", {}).items()},
        "suite": manifest.get("suite"),
        "protocols": protocols,
        "methods": methods,
        "metrics": {name: _metric(name, version, facts) for name, version in metric_versions(store).items()},
        "edits": _edit_columns(store, order),
        "scores": _score_columns(store, order),
        "sets": _set_rows(store, order),
        "resamples": RESAMPLES,
        # Redundant: `verify_entry` computes it from the scores, and finds an entry whose tables were edited.
        "summary": summary_rows(frame),
    }
    # The digest is of the values that JSON gives back: tuples, for example, become lists.
    return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def _metric(name: str, version: str, facts: Mapping[str, MetricInfo]) -> dict[str, Any]:
    info = metric_info(name, facts)
    return {
        "version": version,
        "unit": one_line(info.unit) if info else "",
        "higher_is_better": info.higher_is_better if info else None,
        "summary": one_line(info.summary) if info else "",
    }


def _edit_columns(store: RunStore, order: CaseOrder) -> list[dict[str, Any]]:
    """The columns of edits, one set of columns for each protocol and method."""
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    for record in store.edits():
        key = record.key
        position = order.get(key.protocol, {}).get(key.case)
        # Records of cases or methods that the run no longer lists.
        if position is None or key.method not in store.methods:
            continue
        part = parts.get((key.protocol, key.method))
        if part is None:
            part = {"protocol": key.protocol, "method": key.method}
            part |= {name: [None] * len(order[key.protocol]) for name in ("sha256", "seconds", "memory")}
            part["errors"] = {}
            parts[key.protocol, key.method] = part
        part["sha256"][position] = record.sha256
        part["seconds"][position] = _number(record.seconds)
        part["memory"][position] = record.peak_memory
        if record.error is not None:
            part["errors"][key.case] = record.error[:MAX_TEXT]
    return list(parts.values())


def _score_columns(store: RunStore, order: CaseOrder) -> list[dict[str, Any]]:
    """The columns of scores, one for each protocol, method and metric."""
    scores = store.scores()
    parts: dict[tuple[str, str, str], dict[str, Any]] = {}
    # Lists: iterating over pandas' own arrays boxes every value slowly.
    columns = [scores[name].tolist() for name in ("protocol", "method", "metric", "case", "value", "reason")]
    has_reason = scores["reason"].notna().tolist()
    for protocol, method, metric, case, value, reason, explained in zip(*columns, has_reason, strict=True):
        position = order.get(protocol, {}).get(case)
        if position is None or method not in store.methods:
            continue
        part = parts.get((protocol, method, metric))
        if part is None:
            part = {"protocol": protocol, "method": method, "metric": metric}
            part |= {"values": [None] * len(order[protocol]), "reasons": {}}
            parts[protocol, method, metric] = part
        part["values"][position] = _number(value)
        if explained:
            part["reasons"][case] = reason[:MAX_TEXT]
    return list(parts.values())


def _set_rows(store: RunStore, order: CaseOrder) -> list[dict[str, Any]]:
    return [
        {
            **{key: str(row[key]) for key in ("protocol", "method", "category", "metric", "metric_version")},
            **{key: _number(row[key]) for key in ("value", "low", "high")},
            "n": int(row["n"]),
            "reason": row["reason"] if isinstance(row["reason"], str) else None,
        }
        for row in store.set_scores().to_dict(orient="records")
        if row["protocol"] in order and row["method"] in store.methods
    ]


def summary_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a summary as JSON values."""
    return [
        {
            **{key: str(row[key]) for key in ("protocol", "category", "method", "metric")},
            **{key: _number(row[key]) for key in ("value", "low", "high")},
            **{key: int(row[key]) for key in ("n", "failed")},
        }
        for row in frame.to_dict(orient="records")
    ]


def _number(value: float | None) -> float | None:
    """JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)
